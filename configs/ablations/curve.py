"""Where does the recipe for scarce labels stop to help, as labels become more?

python -m gan_aug_jax ablate --config=configs/ablations/curve.py:mnist --workdir=...

The argument is the name of the data. Beside the recipe, configs/recipes/low_data.py, are
the training images once more in its place, and real ones that nobody has seen.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_RECIPE = pathlib.Path(__file__).parent.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k'):
  config = runpy.run_path(str(_RECIPE))['get_config'](f'{data},10')
  return base.add_ablation(
    config,
    arms={'low_data': {}},
    grid={'data.per_class': (10, 25, 100)},
    bounds=('replayed', 'unseen'),
  )
