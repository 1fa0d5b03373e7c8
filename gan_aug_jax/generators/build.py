"""Turns the config's `gan` and `latents` fields into networks, a training step, samplers.

Everywhere here, `session` is the run's, and `info` describes the images that a GAN is
for: 'image_shape' (H, W, C) and 'class_names', of the data's `DataFacts`.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import numpy as np
import optax

from gan_aug_jax.models import discriminators, generators
from gan_aug_jax.step import augment, gan, losses, sampling


def build_generator(session, info, *, part='generator', axis_name=None) -> nn.Module:
  """Builds the generator.

  Args:
    session, info: see above.
    part: 'generator', which is trained, or 'frozen', in whose precision it computes.
    axis_name: the mapped axis that its batch statistics are averaged over, or None.
  """
  config = session.config.gan
  return generators.build_generator(
    config.arch,
    image_shape=info.image_shape,
    num_classes=info.num_classes,
    width=config.width,
    axis_name=axis_name,
    dtype=session.dtype(part),
    upsampling=config.upsampling,
  )


def _build_discriminator(session, info, part):
  config = session.config.gan
  return discriminators.build_discriminator(
    config.arch,
    num_classes=info.num_classes,
    width=config.width,
    dtype=session.dtype(part),
  )


def make_step(session, info) -> tuple[Callable, Callable]:
  """Returns the step of `gan.make_gan_step`, and its `init`, `seed -> GanState`."""
  config, of_all = session.config.gan, session.config.generator
  rates = (of_all.learning_rate, config.discriminator_learning_rate)
  generator_tx, discriminator_tx = (
    optax.adam(rate or of_all.learning_rate, config.beta1, config.beta2) for rate in rates
  )
  discriminator = _build_discriminator(session, info, 'generator')
  shared = {
    'generator': build_generator(session, info, axis_name=session.layout.axis_name),
    'generator_tx': generator_tx,
    'discriminator_tx': discriminator_tx,
    'latent_dim': config.latent_dim,
  }
  gan_losses = gan.GanLosses(
    discriminator=discriminator,
    loss=losses.make_gan_loss(config.loss, real_label=1 - config.label_smoothing),
    batch_size=of_all.batch_size,
    diffaug=augment.make_diffaug(config.diffaug) if config.diffaug else None,
    regularisation=gan.Regularisation(config.r1, config.r2, config.lecam),
  )
  step = gan.make_gan_step(
    **shared,
    gan_losses=gan_losses,
    layout=session.layout,
    ema_decay=of_all.ema_decay,
    d_steps=config.d_steps,
    dtype=session.image_dtype('generator'),
  )
  return step, functools.partial(gan.init_gan, **shared, discriminator=discriminator)


def networks_of(state: gan.GanState) -> dict:
  """The variables that are kept of a state: {'generator', 'discriminator'}.

  The generator's weights are the averaged ones, but its batch statistics are those of the
  raw weights, see `freezing`.
  """
  generator = {'params': state.ema, 'batch_stats': state.generator_stats}
  discriminator = {'params': state.discriminator, 'spectral': state.discriminator_stats}
  return {'generator': generator, 'discriminator': discriminator}


def network_shapes(session, info, num_members=1) -> dict:
  """The shapes of `networks_of`, stacked if there are several members."""
  _, init = make_step(session, info)
  shapes = networks_of(jax.eval_shape(init, np.int32(0)))
  if num_members == 1:
    return shapes
  stacked = lambda x: jax.ShapeDtypeStruct((num_members, *x.shape), x.dtype)
  return jax.tree.map(stacked, shapes)


def latent_options(config) -> dict:
  """The options of `sampling.draw_latents` that the arms draw with."""
  return config.latents.to_dict()


def make_sampler(session, info, num_members=1, **latents) -> Callable:
  """Returns `sample(variables, keys, labels) -> images`, see `sampling.make_sampler`.

  Args:
    session, info: see above.
    num_members: number of generators; above 1, `variables` are theirs, stacked.
    **latents: see `sampling.draw_latents`; by default they are drawn as in training.
  """
  generator = build_generator(session, info, part='frozen')
  sample = sampling.make_sampler(generator, session.config.gan.latent_dim, **latents)
  return _of_members(session, sample, num_members)


def make_discriminator_logits(session, info, num_members=1) -> Callable:
  """Returns the discriminators' logits, as `sampling.make_discriminator_logits` does.

  Args:
    session, info: see above.
    num_members: number of discriminators; above 1, `variables` are theirs, stacked.
  """
  discriminator = _build_discriminator(session, info, 'frozen')
  return _of_members(
    session, sampling.make_discriminator_logits(discriminator), num_members
  )


def _of_members(session, function, num_members):
  if num_members == 1:
    return function
  return sampling.make_ensemble(function, num_members, session.layout)
