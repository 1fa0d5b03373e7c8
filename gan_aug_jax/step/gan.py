"""The class-conditional GAN and its training step."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.step import device_data, losses, rng, sampling
from gan_aug_jax.step.sharding import flatten


@flax.struct.dataclass
class GanState:
  """Everything that a step changes, or that its random numbers hang on.

  Attributes:
    step: int32 scalar, steps taken.
    seed: int32 scalar, root of every random stream.
    generator: parameters.
    generator_stats: the generator's running batch statistics.
    ema: exponential moving average of the generator's parameters.
    discriminator: parameters.
    discriminator_stats: vectors of its spectral normalisation, if it has any.
    logit_means: moving averages of the discriminator's logits, real and synthetic [2].
    generator_opt: the generator's optimizer state.
    discriminator_opt: the discriminator's.
  """

  step: jax.Array
  seed: jax.Array
  generator: dict
  generator_stats: dict
  ema: dict
  discriminator: dict
  discriminator_stats: dict
  logit_means: jax.Array
  generator_opt: optax.OptState
  discriminator_opt: optax.OptState


def init_gan(
  seed, *, generator, discriminator, generator_tx, discriminator_tx, latent_dim
):
  """Initialises a GAN's state.

  Args:
    seed: integer in [0, 2^31), or an int32 scalar array.
    generator: linen module from `build_generator`.
    discriminator: linen module from `build_discriminator`.
    generator_tx: the generator's optax transformation.
    discriminator_tx: the discriminator's.
    latent_dim: size of the latent.
  """
  latent, labels = jnp.zeros((2, latent_dim)), jnp.zeros(2, jnp.int32)
  generator_key = rng.stream_key(seed, 'gan_init', substep=0)
  discriminator_key = rng.stream_key(seed, 'gan_init', substep=1)
  variables = generator.init(generator_key, latent, labels, train=False)
  images = jnp.zeros((2, *generator.image_shape))
  critic = discriminator.init(discriminator_key, images, labels)
  return GanState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    generator=variables['params'],
    generator_stats=variables.get('batch_stats', {}),
    # A copy: two donated trees must not share a buffer.
    ema=jax.tree.map(jnp.copy, variables['params']),
    discriminator=critic['params'],
    discriminator_stats=critic.get('spectral', {}),
    logit_means=jnp.zeros(2),
    generator_opt=generator_tx.init(variables['params']),
    discriminator_opt=discriminator_tx.init(critic['params']),
  )


@dataclasses.dataclass(frozen=True)
class Regularisation:
  """Weights of what is added to the discriminator's loss; 0 for none.

  Attributes:
    r1: of the squared gradient at real images, halved (Mescheder et al. 2018, arXiv
      1801.04406, equation 9), as the discriminator sees them, augmented.
    r2: of the same at synthetic images.
    lecam: of `losses.lecam`.
  """

  r1: float = 0.0
  r2: float = 0.0
  lecam: float = 0.0


def make_critic(*, discriminator, loss, batch_size, diffaug=None, regularisation=None):
  """Returns the losses of both networks, as the discriminator gives them.

  Args:
    discriminator: linen module.
    loss: a `losses.GanLoss`.
    batch_size: global batch size.
    diffaug: from `augment.make_diffaug`, or None.
    regularisation: a `Regularisation`, or None.

  Returns:
    `(discriminator_loss, generator_loss)`, both sums over one's own examples divided by
    the global batch size. `discriminator_loss(params, state, pair, labels, keys) ->
    (loss, (stats, sums))` with real and synthetic images [groups, share, H, W, C] as the
    pair, the statistics of spectral normalisation and {name: sum} to add up over the
    devices; `generator_loss(fake, state, images, labels, keys) -> loss`. `keys(number)`
    gives per-example keys, [groups, share].
  """
  extra = regularisation or Regularisation()

  def seen(images, keys, number):
    """What the discriminator sees of a batch [groups, share, ...]."""
    if diffaug is None:
      return images
    return diffaug(flatten(keys(number)), flatten(images)).reshape(images.shape)

  def penalty(params, stats, images, labels):
    variables = {'params': params, 'spectral': stats}
    total = lambda x: jnp.sum(discriminator.apply(variables, x, labels))
    return jnp.sum(jnp.square(jax.grad(total)(flatten(images))))

  def discriminator_loss(params, state, pair, labels, keys):
    images, fake = (seen(side, keys, number) for number, side in enumerate(pair))
    # Joined within each device's share: joined along the batch, they would be gathered.
    both = flatten(jnp.concatenate([images, fake], axis=1))
    twice = flatten(jnp.concatenate([labels, labels], axis=1))
    variables = {'params': params, 'spectral': state.discriminator_stats}
    logits, updated = discriminator.apply(
      variables, both, twice, train=True, mutable=['spectral']
    )
    stats = updated.get('spectral', state.discriminator_stats)
    real_logits, fake_logits = jnp.split(logits.reshape(len(images), -1), 2, axis=1)
    value = jnp.sum(loss.discriminator(real_logits, fake_logits)) / batch_size
    # A paired loss leaves the logits' zero open: each is held against its partner.
    zeros = (fake_logits, real_logits) if loss.paired else (0, 0)
    sums = {
      'real_accuracy': jnp.sum(real_logits > zeros[0]) / batch_size,
      'fake_accuracy': jnp.sum(fake_logits < zeros[1]) / batch_size,
      'real_logit': jnp.sum(real_logits) / batch_size,
      'fake_logit': jnp.sum(fake_logits) / batch_size,
    }
    for weight, side in ((extra.r1, images), (extra.r2, fake)):
      if weight:
        value += 0.5 * weight * penalty(params, stats, side, flatten(labels)) / batch_size
    if extra.lecam:
      distance = losses.lecam(real_logits, fake_logits, state.logit_means)
      value += extra.lecam * jnp.sum(distance) / batch_size
    return value, (stats, {'discriminator_loss': value, **sums})

  def generator_loss(fake, state, images, labels, keys):
    variables = {'params': state.discriminator, 'spectral': state.discriminator_stats}
    logits = lambda x: discriminator.apply(variables, flatten(x), flatten(labels))
    fake_logits = logits(seen(fake, keys, 2))
    real_logits = logits(seen(images, keys, 3)) if loss.paired else None
    return jnp.sum(loss.generator(fake_logits, real_logits)) / batch_size

  return discriminator_loss, generator_loss


def make_gan_step(
  *,
  generator,
  critic,
  generator_tx,
  discriminator_tx,
  layout,
  batch_size,
  latent_dim,
  ema_decay,
  d_steps=1,
  dtype=jnp.float32,
):
  """Returns some updates of the discriminator and then one of the generator.

  The generator's update uses the synthetic batch of the last of them, as in the
  alternating scheme of Radford et al. 2015: the generator runs forward once, and its
  gradient comes back through the updated discriminator. Synthetic images carry the labels
  of the real batch, so that the discriminator sees one class distribution.

  Args:
    generator: linen module.
    critic: `(discriminator_loss, generator_loss)` from `make_critic`.
    generator_tx, discriminator_tx: optax transformations.
    layout: where the step runs.
    batch_size: global batch size, a multiple of the devices.
    latent_dim: size of the latent.
    ema_decay: of the generator's moving average, in [0, 1); it is ramped up to.
    d_steps: updates of the discriminator, each on a real batch of its own.
    dtype: of the images and latents, float32 or wider.

  Returns:
    `step(state, data) -> (state, metrics)` with `data` of `device_data`; metrics are
    scalars: discriminator_loss (with its regularisation), generator_loss, the
    discriminator's mean logits (real_logit, fake_logit) and the share of real and of
    synthetic images that it gets right (real_accuracy, fake_accuracy).
  """
  discriminator_loss, generator_loss = critic

  def generate(params, stats, keys, labels):
    latents = sampling.draw_latents(flatten(keys), latent_dim, dtype)
    variables = {'params': params, 'batch_stats': stats}
    fake, updated = generator.apply(
      variables, latents, flatten(labels), train=True, mutable=['batch_stats']
    )
    fake = fake.reshape(*labels.shape, *fake.shape[1:]).astype(dtype)
    return fake, updated.get('batch_stats', stats)

  def update_discriminator(state, pair, labels, keys):
    grad_fn = jax.grad(discriminator_loss, has_aux=True)
    grads, (stats, sums) = grad_fn(state.discriminator, state, pair, labels, keys)
    grads, metrics = layout.sum((grads, sums))
    params, opt_state = _apply(
      discriminator_tx, grads, state.discriminator_opt, state.discriminator
    )
    means = jnp.stack([metrics['real_logit'], metrics['fake_logit']])
    state = state.replace(
      discriminator=params,
      discriminator_opt=opt_state,
      discriminator_stats=stats,
      logit_means=optax.incremental_update(means, state.logit_means, 0.01),
    )
    return state, metrics

  def gan_step(state, data):
    position = layout.positions(batch_size)
    step_keys = rng.step_keys(state.seed, state.step)

    def keys_of(substep, stream, number=0):
      """Keys [groups, share] of one of up to four draws from a stream in a substep."""
      return step_keys(stream, position, 4 * substep + number)

    def discriminator_step(state, substep):
      keys = functools.partial(keys_of, substep)
      first = (state.step * d_steps + substep) * batch_size
      images, labels = device_data.take(
        data, first + position, dtype, step=state.step, substep=substep
      )
      draw = functools.partial(
        generate, stats=state.generator_stats, keys=keys('gan_latent'), labels=labels
      )
      fake, pull_back, stats = jax.vjp(draw, state.generator, has_aux=True)
      state, metrics = update_discriminator(
        state, (images, fake), labels, functools.partial(keys, 'diffaug')
      )
      state = state.replace(generator_stats=stats)
      return state, (images, labels, fake, pull_back, metrics)

    state, each = layout.loop(discriminator_step, state, np.arange(d_steps))
    images, labels, fake, pull_back, metrics = each[-1]
    loss, image_grads = jax.value_and_grad(generator_loss)(
      fake, state, images, labels, functools.partial(keys_of, d_steps - 1, 'diffaug')
    )
    grads, loss = layout.sum((pull_back(image_grads)[0], loss))
    params, opt_state = _apply(generator_tx, grads, state.generator_opt, state.generator)
    # Ramped up, or the average of a short training would be mostly its initialisation.
    ramp = (1 + state.step) / (10 + state.step)
    decay = jnp.minimum(ema_decay, ramp).astype(dtype)
    state = state.replace(
      step=state.step + 1,
      generator=params,
      ema=optax.incremental_update(params, state.ema, 1 - decay),
      generator_opt=opt_state,
    )
    return state, {'generator_loss': loss, **metrics}

  return gan_step


def _apply(tx, grads, opt_state, params):
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def make_measure(generator, *, latent_dim, num_classes, batch_size=64):
  """Returns one step of measuring the statistics of a frozen generator.

  The running statistics of training belong to the raw weights. The averaged weights get
  their own, measured on fresh latents with the labels in turn: the "standing statistics"
  of Brock et al. 2018 (arXiv 1809.11096), section 3.1.

  Args:
    generator: linen module without a mapped axis.
    latent_dim: size of the latent.
    num_classes: number of classes.
    batch_size: images to measure on in each step.

  Returns:
    `measure((stats, batch), params, seed) -> ((stats, batch + 1), {})`, where `batch` is
    an int32 scalar; see `programs.repeat_step`.
  """

  def measure(state, params, seed):
    stats, batch = state
    number = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    keys = rng.example_keys(rng.stream_key(seed, 'gan_statistics'), number)
    latents = sampling.draw_latents(keys, latent_dim)
    variables = {'params': params, 'batch_stats': stats}
    _, updated = generator.apply(
      variables, latents, number % num_classes, train=True, mutable=['batch_stats']
    )
    return (updated.get('batch_stats', stats), batch + 1), {}

  return measure
