"""Does the recipe for scarce labels help? On the test split, once, with five seeds.

python -m gan_aug_jax ablate --config=configs/ablations/confirm.py:mnist,25 --workdir=...

The argument is that of configs/recipes/low_data.py. Its augmentation is the best one for
real images alone, so that real_classical is the best control; it is there at equal steps,
exposure and operations, and trained on the validation images, too.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_RECIPE = pathlib.Path(__file__).parent.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k,50'):
  config = runpy.run_path(str(_RECIPE))['get_config'](data)
  return base.add_ablation(
    config,
    arms={'low_data': {}},
    controls={'all_labels': {'data.train_on_val': True}},
    bounds=('replayed', 'unseen'),
    equal_compute=True,
  )
