"""Flow matching as a family of generators: the config's `flow` fields to networks."""

import jax.numpy as jnp
import optax

from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import family
from gan_aug_jax.generators.family import Family, Setting
from gan_aug_jax.models import unet
from gan_aug_jax.step import augment, classifier, flow

# For each image that the flow learns from as its own teacher.
_TEACHER_EVALUATIONS = 8


def build(
  setting: Setting,
  *,
  width: int,
  class_dropout: float,
  crop_padding: int,
  flip: bool,
  evaluations: int,
  solver: str,
  guidance: float,
  reflow_steps: int = 0,
) -> Family:
  """Builds a flow; its optimizer is Adam with a warm-up, a cosine decay and clipping.

  In the last `reflow_steps`, if there are any, it is its own teacher, and the learning
  rate rises and falls once more.

  Args:
    width: see `unet.UNet`.
    class_dropout: see `flow.make_loss`.
    crop_padding, flip: augmentation of what it learns, see `augment.make_augment`.
    evaluations, solver, guidance: see `flow.make_render`.
    reflow_steps: the last steps, with the loss of `flow.make_reflow_loss`.

  Raises:
    ConfigError: if reflow would take all steps.
  """
  num_flow_steps = setting.num_steps - reflow_steps
  if num_flow_steps < 1:
    raise ConfigError(
      f'flow.reflow_steps={reflow_steps} must be less than the {setting.num_steps} steps '
      'of the training, as the flow is its own teacher; lower it, or train longer.'
    )
  shape, num_classes = setting.info.image_shape, setting.info.num_classes
  trained, frozen = (
    unet.UNet(shape, num_classes, width, dtype)
    for dtype in (setting.dtype, setting.frozen_dtype)
  )
  loss = flow.make_loss(
    trained,
    class_dropout=class_dropout,
    augment=augment.make_augment(crop=crop_padding, flip=flip),
  )
  reflow, schedule, warmup_steps = None, 'cosine', setting.num_steps // 20
  if reflow_steps:
    schedule, warmup_steps = _make_two_rises(num_flow_steps), 0
    teacher = flow.make_render(trained, evaluations=_TEACHER_EVALUATIONS)
    reflow = num_flow_steps, flow.make_reflow_loss(trained, teacher)
  optimizer = classifier.make_optimizer(
    'adam',
    learning_rate=setting.learning_rate,
    num_steps=setting.num_steps,
    schedule=schedule,
    warmup_steps=warmup_steps,
    clip_norm=1.0,
  )

  def init(key):
    inputs = jnp.zeros((2, *shape)), jnp.zeros(2), jnp.zeros(2, jnp.int32)
    return trained.init(key, *inputs)['params']

  return family.from_loss(
    setting,
    title='flow',
    init=init,
    loss=loss,
    render=flow.make_render(
      frozen, evaluations=evaluations, solver=solver, guidance=guidance
    ),
    latent_shape=shape,
    optimizer=optimizer,
    reflow=reflow,
  )


def _make_two_rises(first_steps):
  """Returns `schedule(peak, num_steps)`: a warm-up and a cosine decay, twice."""

  def schedule(peak, num_steps):
    rises = [
      optax.warmup_cosine_decay_schedule(0.0, peak, steps // 20, steps)
      for steps in (first_steps, num_steps - first_steps)
    ]
    return optax.join_schedules(rises, [first_steps])

  return schedule
