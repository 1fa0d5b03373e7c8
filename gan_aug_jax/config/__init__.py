"""Every field of a run, what it may be, and what goes together.

Imports nothing of this package but `errors` and `external`: what a field means is decided
here. Every other folder takes plain arguments, except those that turn fields into
arguments (training, evaluation, generators, experiment, cli). Start reading in `fields`.
"""

from gan_aug_jax.config.configs import (
  ablation,
  add_ablation,
  base_of,
  default,
  flatten,
  from_dict,
  renew_ablation,
)
from gan_aug_jax.config.derived import (
  asks_discriminator,
  asks_teacher,
  code_of,
  draw_ahead_bytes,
  draws_synthetic,
  is_augmented,
  members_of,
  needs_generator,
  num_steps_of,
  own_code_of,
  parse_arguments,
  precision_of,
  seed_of,
  uses_float64,
)
from gan_aug_jax.config.fields import ARMS, NEGATIVE_CONTROLS, ORACLES
from gan_aug_jax.config.files import load_file
from gan_aug_jax.errors import ConfigError

__all__ = [
  'ARMS',
  'ConfigError',
  'NEGATIVE_CONTROLS',
  'ORACLES',
  'ablation',
  'add_ablation',
  'asks_discriminator',
  'asks_teacher',
  'base_of',
  'code_of',
  'default',
  'draw_ahead_bytes',
  'draws_synthetic',
  'flatten',
  'from_dict',
  'is_augmented',
  'load_file',
  'members_of',
  'needs_generator',
  'num_steps_of',
  'own_code_of',
  'parse_arguments',
  'precision_of',
  'renew_ablation',
  'seed_of',
  'uses_float64',
]
