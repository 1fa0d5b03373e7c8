"""The class-conditional GAN and its training step."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gan_aug_jax import realdata, rng, sampler
from gan_aug_jax.sharding import flatten


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
    generator_opt: the generator's optimizer state.
    discriminator_opt: the discriminator's.
  """

  step: jax.Array
  seed: jax.Array
  generator: dict
  generator_stats: dict
  ema: dict
  discriminator: dict
  generator_opt: optax.OptState
  discriminator_opt: optax.OptState


def init_gan(
  generator, discriminator, *, generator_tx, discriminator_tx, seed, latent_dim
):
  """Initialises a GAN's state.

  Args:
    generator: linen module from `build_generator`.
    discriminator: linen module from `build_discriminator`.
    generator_tx: the generator's optax transformation.
    discriminator_tx: the discriminator's.
    seed: integer in [0, 2^31).
    latent_dim: size of the latent.
  """
  latent, labels = jnp.zeros((2, latent_dim)), jnp.zeros(2, jnp.int32)
  generator_key = rng.stream_key(seed, 'gan_init', substep=0)
  discriminator_key = rng.stream_key(seed, 'gan_init', substep=1)
  variables = generator.init(generator_key, latent, labels, train=False)
  images = jnp.zeros((2, *generator.image_shape))
  critic = discriminator.init(discriminator_key, images, labels)['params']
  return GanState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    generator=variables['params'],
    generator_stats=variables.get('batch_stats', {}),
    # A copy: two donated trees must not share a buffer.
    ema=jax.tree.map(jnp.copy, variables['params']),
    discriminator=critic,
    generator_opt=generator_tx.init(variables['params']),
    discriminator_opt=discriminator_tx.init(critic),
  )


def make_gan_step(
  *,
  generator,
  discriminator,
  generator_tx,
  discriminator_tx,
  discriminator_loss,
  generator_loss,
  layout,
  batch_size,
  latent_dim,
  ema_decay,
  dtype=jnp.float32,
):
  """Returns one update of the discriminator and then of the generator.

  Both updates use the same synthetic batch, as in the alternating scheme of Radford et
  al. 2015: the generator runs forward once, and its gradient comes back through the
  updated discriminator. Synthetic images carry the labels of the real batch, so that the
  discriminator sees one class distribution.

  Args:
    generator, discriminator: linen modules.
    generator_tx, discriminator_tx: optax transformations.
    discriminator_loss, generator_loss: per example, see `losses.make_gan_losses`.
    layout: where the step runs.
    batch_size: global batch size, a multiple of the devices.
    latent_dim: size of the latent.
    ema_decay: of the generator's moving average, in [0, 1); it is ramped up to.
    dtype: of the images and latents, float32 or wider.

  Returns:
    `step(state, data) -> (state, metrics)` with `data` a `RealData`; metrics are scalars:
    discriminator_loss, generator_loss, and the share of real and of synthetic images
    that the discriminator gets right (real_accuracy, fake_accuracy).
  """

  def generate(params, stats, latents, labels):
    variables = {'params': params, 'batch_stats': stats}
    fake, updated = generator.apply(
      variables, latents, labels, train=True, mutable=['batch_stats']
    )
    return fake, updated.get('batch_stats', stats)

  def critic_loss(params, images, fake, labels):
    # Joined within each device's share: joined along the batch, they would be gathered.
    both = flatten(jnp.concatenate([images, fake], axis=1))
    twice = flatten(jnp.concatenate([labels, labels], axis=1))
    logits = discriminator.apply({'params': params}, both, twice)
    real_logits, fake_logits = jnp.split(logits.reshape(len(images), -1), 2, axis=1)
    loss = jnp.sum(discriminator_loss(real_logits, fake_logits)) / batch_size
    return loss, {
      'discriminator_loss': loss,
      'real_accuracy': jnp.sum(real_logits > 0) / batch_size,
      'fake_accuracy': jnp.sum(fake_logits < 0) / batch_size,
    }

  def image_loss(fake, critic, labels):
    logits = discriminator.apply({'params': critic}, fake, labels)
    return jnp.sum(generator_loss(logits)) / batch_size

  def gan_step(state, data):
    position = layout.positions(batch_size)
    images, labels = realdata.take(data, state.step * batch_size + position, dtype)
    key = rng.stream_key(state.seed, 'gan_latent', state.step)
    latent_keys = flatten(rng.example_keys(key, position))
    latents = sampler.draw_latents(latent_keys, latent_dim, dtype)
    fake, pull_back, stats = jax.vjp(
      lambda params: generate(params, state.generator_stats, latents, flatten(labels)),
      state.generator,
      has_aux=True,
    )
    grouped = fake.reshape(images.shape).astype(dtype)
    grads, sums = jax.grad(critic_loss, has_aux=True)(
      state.discriminator, images, grouped, labels
    )
    grads, critic_metrics = layout.sum((grads, sums))
    critic, discriminator_opt = _apply(
      discriminator_tx, grads, state.discriminator_opt, state.discriminator
    )
    loss, image_grads = jax.value_and_grad(image_loss)(fake, critic, flatten(labels))
    (grads,) = pull_back(image_grads)
    grads, loss = layout.sum((grads, loss))
    # Ramped up, or the average of a short training would be mostly its initialisation.
    ramp = (1 + state.step) / (10 + state.step)
    decay = jnp.minimum(ema_decay, ramp).astype(dtype)
    params, generator_opt = _apply(
      generator_tx, grads, state.generator_opt, state.generator
    )
    state = state.replace(
      step=state.step + 1,
      generator=params,
      generator_stats=stats,
      ema=optax.incremental_update(params, state.ema, 1 - decay),
      discriminator=critic,
      generator_opt=generator_opt,
      discriminator_opt=discriminator_opt,
    )
    return state, {'generator_loss': loss, **critic_metrics}

  return gan_step


def _apply(tx, grads, opt_state, params):
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def make_freeze(generator, *, latent_dim, num_classes, num_batches=64, batch_size=64):
  """Returns the function that turns a state into a frozen generator.

  The running statistics of training belong to the raw weights. The averaged weights get
  their own, measured on fresh latents with the labels in turn: the "standing statistics"
  of Brock et al. 2018 (arXiv 1809.11096), section 3.1. Of what was there before, 64
  updates at momentum 0.9 leave 0.1 %.

  Args:
    generator: linen module without a mapped axis.
    latent_dim: size of the latent.
    num_classes: number of classes.
    num_batches, batch_size: how much to measure on.

  Returns:
    `freeze(ema, stats, seed) -> variables` {'params', 'batch_stats'}.
  """

  @jax.jit
  def measure(params, stats, seed, batch):
    number = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    keys = rng.example_keys(rng.stream_key(seed, 'gan_statistics'), number)
    latents = sampler.draw_latents(keys, latent_dim)
    variables = {'params': params, 'batch_stats': stats}
    _, updated = generator.apply(
      variables, latents, number % num_classes, train=True, mutable=['batch_stats']
    )
    return updated['batch_stats']

  def freeze(ema, stats, seed):
    if stats:
      for batch in range(num_batches):
        stats = measure(ema, stats, seed, batch)
    return {'params': ema, 'batch_stats': stats}

  return freeze
