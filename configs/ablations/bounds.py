"""What could any generator give, and where does that end? Real images in its place.

python -m gan_aug_jax ablate --config=configs/ablations/bounds.py:mnist --workdir=...

The argument is the name of the data. This starts from what configs/recipes/low_data.py
was before the search. A small VAE, which trains in seconds, is compared with the floor
and the ceiling.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_RECIPE = pathlib.Path(__file__).parent.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k'):
  config = runpy.run_path(str(_RECIPE))['before_search'](f'{data},10')
  return base.add_ablation(
    config,
    arms={'vae': {'sampler.generator': 'examples.vae:train'}},
    grid={'data.per_class': (10, 25, 100)},
    bounds=('replayed', 'unseen'),
  )
