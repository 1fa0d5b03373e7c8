"""Updates of one array, in which all parameters are joined: options to time.

As `--config.classifier.optimizer=benchmarks.flat_updates:make_sgd` and
`--config.generator.family=benchmarks.flat_updates:build_gan`. One update instead of one
per array, but gradients are joined and the update is cut up again in every step.
"""

import optax

from gan_aug_jax.generators import family, gan


def make_sgd(schedule: optax.Schedule, num_steps: int) -> optax.GradientTransformation:
  """Returns what `make_optimizer` returns for 'sgd' without weight decay, flattened.

  Args:
    schedule: `step -> learning rate`.
    num_steps: of the training.
  """
  del num_steps
  return optax.flatten(optax.sgd(schedule, 0.9))


@family.generator
def build_gan(setting: family.Setting, **options) -> family.Family:
  """Returns a GAN whose two updates are flattened.

  Args:
    setting: what it is made for.
    **options: those of `gan.build`.
  """
  make_adam = lambda *rates: optax.flatten(optax.adam(*rates))
  return gan.build(setting, make_optimizer=make_adam, **options)
