"""How many steps an arm takes, and how many synthetic images are in each."""

import bisect
from collections.abc import Callable

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.step import plans


def plan_batches(config, num_steps: int, *, synthetic: bool) -> plans.BatchPlan:
  """Plans the batches of an arm.

  Args:
    synthetic: whether the arm draws synthetic images.

  Raises:
    ConfigError: if the schedule leaves no step with synthetic images.
  """
  mix = config.mix
  whole = mix.start_fraction == 0 and mix.stop_fraction == 1
  scheduled = mix.ratio_schedule != 'constant' or not whole
  plan = plans.plan_batch(
    config.classifier.batch_size,
    ratio=mix.ratio if synthetic else 0.0,
    mode=mix.mode,
    ramp=_make_ramp(config, mix.ratio_schedule, num_steps) if scheduled else None,
  )
  if plan.rises and plan.rises[0] >= plan.stop:
    raise ConfigError(
      f'mix.start_fraction={mix.start_fraction} and mix.stop_fraction='
      f'{mix.stop_fraction} of {num_steps} steps leave no step with synthetic images; '
      'move them apart.'
    )
  return plan


def make_weight(config, num_steps: int) -> Callable:
  """Returns `weight(step) -> float`, the weight of a synthetic example in the loss.

  Args:
    num_steps: of the training, over which the weight may rise.
  """
  mix = config.mix
  if mix.weight_schedule == 'constant':
    return lambda step: mix.weight
  ramp = _make_ramp(config, mix.weight_schedule, num_steps)
  return lambda step: mix.weight * ramp(step)


def _make_ramp(config, shape, num_steps):
  mix = config.mix
  return plans.make_ramp(
    shape, num_steps, start=mix.start_fraction, stop=mix.stop_fraction
  )


def num_steps_of_arm(config, num_examples: int, *, synthetic: bool) -> int:
  """The steps of an arm: the config's, or enough to show as many real examples.

  Args:
    num_examples: of the training set.
    synthetic: whether the arm draws synthetic images.

  Raises:
    ConfigError: if the warm-up of the learning rate leaves no step, or the schedule of
      the ratio none with synthetic images.
  """
  base = config_lib.num_steps_of(config, 'classifier', num_examples)
  if config.classifier.warmup_steps >= base:
    raise ConfigError(
      f'classifier.warmup_steps={config.classifier.warmup_steps} must be below the '
      f'{base} steps of the training; lower it, or train longer.'
    )
  if not (synthetic and config.classifier.budget == 'exposure'):
    plan_batches(config, base, synthetic=synthetic)
    return base
  batch_size = config.classifier.batch_size

  def shows_enough(num_steps):
    plan = plan_batches(config, num_steps, synthetic=True)
    return int(plan.real_before(num_steps)) >= base * batch_size

  # Each step shows at least one.
  return base + bisect.bisect_left(range(base, base * batch_size), True, key=shows_enough)
