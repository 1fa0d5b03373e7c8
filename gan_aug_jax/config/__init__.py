"""Every field of a run, what it may be, and what goes together.

Imports nothing of this package but its errors: what a field means is decided here, and
every other folder takes plain arguments, but for those that turn fields into arguments
(training, generators, experiment, cli). Start reading in `fields`.
"""

from gan_aug_jax.config.fields import (  # noqa: F401  what config files call
  ablation,
  add_ablation,
  ARMS,
  base_of,
  BOUNDS,
  count_of,
  default,
  draws_synthetic,
  flatten,
  from_dict,
  is_augmented,
  members_of,
  needs_generator,
  num_steps_of,
  precision_of,
  seed_of,
)
