"""Which of the generator's images are worth showing?

python -m gan_aug_jax ablate --config=configs/ablations/filter.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  best_of = lambda score: {'filter.candidates': 4, 'filter.score_by': score}
  arms = {
    'any': {},
    'teacher': best_of('teacher'),
    'discriminator': best_of('discriminator'),
    'hard': best_of('hard'),
    'confident': {'filter.min_confidence': 0.5},
    'pool': {'cache.refresh_steps': 8},
    'offline': {'cache.images_per_class': 500},
  }
  controls = _SCARCE.controls(len(arms) - 2)
  return base.add_ablation(
    config,
    arms=arms,
    controls=controls,
    negative_controls=('noise', 'mislabelled'),
  )
