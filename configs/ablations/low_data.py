"""How many labels does it take until the gain is gone?

python -m gan_aug_jax ablate --config=configs/ablations/low_data.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  arms = {f'ratio={ratio:g}': {'mix.ratio': ratio} for ratio in (0.2, 0.5)}
  grid = {'data.label_budget': (14, 28, 56, 112)}
  return base.add_ablation(config, arms=arms, grid=grid)
