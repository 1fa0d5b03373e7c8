"""Instead of real images or on top of them, and what is held equal?

python -m gan_aug_jax ablate --config=configs/ablations/mode.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  exposure = {'classifier.budget': 'exposure'}
  arms = {
    'replace': {},
    'replace+exposure': exposure,
    'add': {'mix.mode': 'add'},
    'ramp': {'mix.ratio_schedule': 'linear'},
    'off_at_the_end': {'mix.stop_fraction': 0.7},
    'weight=0.3': {'mix.weight': 0.3},
  }
  controls = _SCARCE.controls(len(arms) - 2)
  return base.add_ablation(config, arms=arms, controls=controls)
