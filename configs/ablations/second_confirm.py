"""Does the recipe of the second search help? On the test split, once, with five seeds.

python -m gan_aug_jax ablate --workdir=W \\
    --config=configs/ablations/second_confirm.py:mnist,25

The argument is that of configs/recipes/low_data.py. Arm and controls have its
augmentation and its length of training. Controls and bounds are those of confirm.py.
"""

import pathlib
import runpy

_ABLATIONS = pathlib.Path(__file__).parent
_RECIPE = _ABLATIONS.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k,50'):
  config = runpy.run_path(str(_RECIPE))['get_config'](data)
  confirm = runpy.run_path(str(_ABLATIONS / 'confirm.py'))['confirm']
  return confirm(config, seeds=(20, 21, 22, 23, 24))  # which nothing has seen
