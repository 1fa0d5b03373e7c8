"""How many labels does it take until the gain is gone?

python -m gan_aug_jax ablate --config=configs/ablations/low_data.py --workdir=...
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_SCARCE = runpy.run_path(str(pathlib.Path(__file__).parent.parent / 'scarce.py'))


def get_config():
  config = _SCARCE['get_config']()
  arms = {f'ratio={ratio:g}': {'mix.ratio': ratio} for ratio in (0.2, 0.5)}
  grid = {'data.per_class': (14, 28, 56, 112)}
  return base.add_ablation(config, arms=arms, grid=grid)
