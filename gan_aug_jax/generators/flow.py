"""Flow matching as a family of generators: the config's `flow` fields to networks."""

import jax.numpy as jnp

from gan_aug_jax.generators import family
from gan_aug_jax.generators.family import Family, Setting
from gan_aug_jax.models import unet
from gan_aug_jax.step import augment, classifier, flow


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
) -> Family:
  """Builds a flow; its optimizer is Adam with a warm-up, a cosine decay and clipping.

  Args:
    setting: what it is for.
    width: see `unet.UNet`.
    class_dropout: see `flow.make_loss`.
    crop_padding, flip: augmentation of what it learns, see `augment.make_augment`.
    evaluations, solver, guidance: see `flow.make_render`.
  """
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
  optimizer = classifier.make_optimizer(
    'adam',
    learning_rate=setting.learning_rate,
    num_steps=setting.num_steps,
    schedule='cosine',
    warmup_steps=setting.num_steps // 20,
    clip_norm=1.0,
  )
  inputs = jnp.zeros((2, *shape)), jnp.zeros(2), jnp.zeros(2, jnp.int32)
  return family.from_loss(
    setting,
    title='flow',
    init=lambda key: trained.init(key, *inputs)['params'],
    loss=loss,
    render=flow.make_render(
      frozen, evaluations=evaluations, solver=solver, guidance=guidance
    ),
    latent_shape=shape,
    optimizer=optimizer,
  )
