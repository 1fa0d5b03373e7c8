"""The family of GANs: the config's group `gan` to networks, losses and a step."""

from collections.abc import Callable
import functools

import numpy as np
import optax

from gan_aug_jax.generators.family import Family, Setting
from gan_aug_jax.models import discriminators, generators
from gan_aug_jax.step import augment, gan, losses, sampling


def build(
  setting: Setting,
  *,
  arch: str = 'dcgan',
  upsampling: str = 'transposed',
  width: int = 64,
  latent_dim: int = 100,
  loss: str = 'non_saturating',
  label_smoothing: float = 0.0,
  diffaug: tuple[str, ...] = (),
  r1: float = 0.0,
  r2: float = 0.0,
  lecam: float = 0.0,
  d_steps: int = 1,
  discriminator_learning_rate: float = 0.0,
  beta1: float = 0.5,
  beta2: float = 0.999,
  make_optimizer: Callable = optax.adam,
) -> Family:
  """Returns the `Family` of a GAN; see `config/fields.py` for what the arguments mean.

  Args:
    make_optimizer: `(learning_rate, beta1, beta2) -> transformation`.
  """
  build_generator = functools.partial(
    generators.build_generator,
    arch,
    image_shape=setting.image_shape,
    num_classes=setting.num_classes,
    width=width,
    upsampling=upsampling,
  )
  build_discriminator = functools.partial(
    discriminators.build_discriminator, arch, num_classes=setting.num_classes, width=width
  )
  rates = (setting.learning_rate, discriminator_learning_rate or setting.learning_rate)
  generator_tx, discriminator_tx = (make_optimizer(rate, beta1, beta2) for rate in rates)
  discriminator = build_discriminator(dtype=setting.dtype)
  shared = {
    'generator': build_generator(axis_name=setting.layout.axis_name, dtype=setting.dtype),
    'generator_tx': generator_tx,
    'discriminator_tx': discriminator_tx,
    'latent_dim': latent_dim,
  }
  gan_losses = gan.GanLosses(
    discriminator=discriminator,
    loss=losses.make_gan_loss(loss, real_label=1 - label_smoothing),
    batch_size=setting.batch_size,
    diffaug=augment.make_diffaug(diffaug) if diffaug else None,
    r1=r1,
    r2=r2,
    lecam=lecam,
  )
  return Family(
    title=f'{arch} GAN',
    render=sampling.make_render(build_generator(dtype=setting.frozen_dtype)),
    latent_shape=(latent_dim,),
    init=functools.partial(gan.init_gan, **shared, discriminator=discriminator),
    step=gan.make_gan_step(
      **shared,
      gan_losses=gan_losses,
      layout=setting.layout,
      ema_decay=setting.ema_decay,
      d_steps=d_steps,
      dtype=setting.image_dtype,
    ),
    freeze=freeze,
    substeps=d_steps,
    measure=gan.make_measure(
      build_generator(dtype=setting.dtype),
      latent_dim=latent_dim,
      num_classes=setting.num_classes,
      class_probs=_class_probs(setting.info.class_counts),
    ),
    discriminator_logits=sampling.make_discriminator_logits(
      build_discriminator(dtype=setting.frozen_dtype)
    ),
  )


def _class_probs(counts):
  """The share of each class, or None for equal ones."""
  return None if len(set(counts)) < 2 else np.asarray(counts) / sum(counts)


def freeze(state: gan.GanState) -> dict:
  """The variables that are kept of a state: {'generator', 'discriminator'}.

  The generator's weights are the averaged ones, but its batch statistics are those of the
  raw weights, see `freezing`.
  """
  generator = {'params': state.ema, 'batch_stats': state.generator_stats}
  discriminator = {'params': state.discriminator, 'spectral': state.discriminator_stats}
  return {'generator': generator, 'discriminator': discriminator}
