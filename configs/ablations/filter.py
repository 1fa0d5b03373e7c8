"""Which of the generator's images are worth showing?

python -m gan_aug_jax ablate --config=configs/ablations/filter.py --workdir=...
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_SCARCE = runpy.run_path(str(pathlib.Path(__file__).parent.parent / 'scarce.py'))


def get_config():
  config = _SCARCE['get_config']()
  best_of = lambda score: {'sampler.candidates': 4, 'sampler.score': score}
  arms = {
    'any': {},
    'teacher': best_of('teacher'),
    'discriminator': best_of('discriminator'),
    'hard': best_of('hard'),
    'confident': {'sampler.min_confidence': 0.5},
    'pool': {'sampler.refresh_every': 8},
    'offline': {'sampler.offline': 500},
  }
  controls = _SCARCE['controls'](len(arms) - 2)
  placebos = ('noise', 'mislabelled')
  return base.add_ablation(config, arms=arms, controls=controls, placebos=placebos)
