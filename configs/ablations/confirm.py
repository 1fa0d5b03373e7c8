"""Does a recipe for scarce labels help? On the test split, once, with five seeds.

python -m gan_aug_jax ablate --config=configs/ablations/confirm.py:mnist,25 --workdir=...

The argument is that of configs/recipes/low_data.py, whose augmentation both sides have.
real_classical is there at equal steps, at equal exposure, at no fewer operations than the
arm and its GAN take, and trained on the validation images, too.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_RECIPE = pathlib.Path(__file__).parent.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k,50'):
  config = runpy.run_path(str(_RECIPE))['get_config'](data)
  # Without a budget there is no image beyond it.
  bounds = ('replayed', 'unseen') if config.data.per_class else ('replayed',)
  return base.add_ablation(
    config,
    seeds=(10, 11, 12, 13, 14),  # not those of the search
    arms={'low_data': {}},
    controls={'all_labels': {'data.train_on_val': True}},
    bounds=bounds,
    equal_compute=True,
  )
