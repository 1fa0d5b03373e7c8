"""Does synthesis help rare classes more than logit adjustment does?

python -m gan_aug_jax ablate --config=configs/ablations/imbalance.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  config.data.label_budget = 100  # of the most common class
  config.mix.ratio = 0.35
  arms = {
    classes: {'mix.classes': classes}
    for classes in ('uniform', 'train', 'inverse', 'balance', 'feedback')
  }
  controls = _SCARCE.controls(len(arms) - 3)
  controls['adjusted'] = {'classifier.logit_adjustment': 1.0}
  grid = {'data.imbalance': (10.0, 50.0)}
  return base.add_ablation(config, arms=arms, controls=controls, grid=grid)
