"""The class-conditional GAN and its training step."""

from collections.abc import Callable
import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.step import class_labels, device_data, losses, rng, sampling
from gan_aug_jax.step.averages import update_average
from gan_aug_jax.step.device_data import RealExamples
from gan_aug_jax.step.rng import StepKeys
from gan_aug_jax.step.sharding import flatten, Layout

# Draws of the stream 'diffaug' in a substep: the discriminator sees real and synthetic
# images in its own update, and again in the generator's.
_DRAWS_PER_SUBSTEP = 4


@flax.struct.dataclass
class GanState:
  """Everything that a step changes, or that its random numbers depend on.

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
  seed: rng.Integer,
  *,
  generator: nn.Module,
  discriminator: nn.Module,
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  latent_dim: int,
) -> GanState:
  """Initialises a GAN's state.

  Args:
    seed: integer in [0, 2^31), or an int32 scalar array.
    generator: linen module from `build_generator`.
    discriminator: linen module from `build_discriminator`.
  """
  latent, labels = jnp.zeros((2, latent_dim)), jnp.zeros(2, jnp.int32)
  generator_key = rng.stream_key(seed, 'gan_init', substep=0)
  discriminator_key = rng.stream_key(seed, 'gan_init', substep=1)
  variables = generator.init(generator_key, latent, labels, train=False)
  images = jnp.zeros((2, *generator.image_shape))
  opponent = discriminator.init(discriminator_key, images, labels)
  return GanState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    generator=variables['params'],
    generator_stats=variables.get('batch_stats', {}),
    # A copy: two donated trees must not share a buffer.
    ema=jax.tree.map(jnp.copy, variables['params']),
    discriminator=opponent['params'],
    discriminator_stats=opponent.get('spectral', {}),
    logit_means=jnp.zeros(2),
    generator_opt=generator_tx.init(variables['params']),
    discriminator_opt=discriminator_tx.init(opponent['params']),
  )


@flax.struct.dataclass
class GanBatch:
  """What one update of the discriminator sees, and the generator's after it.

  Attributes:
    positions: global positions of the examples, int32 [groups, share].
    images: real ones, float [groups, share, H, W, C] in [-1, 1].
    labels: int32 [groups, share], of the real and of the synthetic images.
    fake: synthetic images, like the real ones.
  """

  positions: jax.Array
  images: jax.Array
  labels: jax.Array
  fake: jax.Array


@dataclasses.dataclass(frozen=True)
class GanLosses:
  """The losses of both networks.

  Each is a sum over a device's own examples, divided by the global batch size.

  Attributes:
    discriminator: linen module.
    loss: the adversarial loss.
    batch_size: global batch size.
    diffaug: from `augment.make_diffaug`, or None.
    r1: weight in the discriminator's loss of half the squared gradient at real images
      (Mescheder et al. 2018, arXiv 1801.04406, equation 9), augmented as it sees them; 0
      for none.
    r2: of the same at synthetic images.
    lecam: of `losses.lecam`.
  """

  discriminator: nn.Module
  loss: losses.GanLoss
  batch_size: int
  diffaug: Callable | None = None
  r1: float = 0.0
  r2: float = 0.0
  lecam: float = 0.0

  def discriminator_loss(
    self,
    params: dict,
    state: GanState,
    batch: GanBatch,
    keys: StepKeys,
    substep: rng.Integer,
  ) -> tuple[jax.Array, tuple[dict, dict]]:
    """Returns the discriminator's loss, to be differentiated by its parameters.

    Args:
      substep: number of the update within the step.

    Returns:
      `(loss, (stats, sums))`: the new statistics of spectral normalisation, and
      {name: scalar} to be summed over the devices.
    """
    images = self._augment(
      batch.images, batch.positions, keys, _DRAWS_PER_SUBSTEP * substep
    )
    fake = self._augment(
      batch.fake, batch.positions, keys, _DRAWS_PER_SUBSTEP * substep + 1
    )
    logits_and_penalty = functools.partial(self._logits_and_penalty, params, state)
    if bool(self.r1) == bool(self.r2):
      # Joined within each device's share: joined along the batch, they would be gathered.
      both, labels = (
        jnp.concatenate(pair, axis=1)
        for pair in ((images, fake), (batch.labels, batch.labels))
      )
      logits, penalty, stats = logits_and_penalty(both, labels, (self.r1, self.r2))
      real_logits, fake_logits = jnp.split(logits, 2, axis=1)
    else:  # apart, so that only one side's gradient is taken
      real_logits, r1, stats = logits_and_penalty(images, batch.labels, (self.r1,))
      fake_logits, r2, _ = logits_and_penalty(fake, batch.labels, (self.r2,))
      penalty = r1 + r2
    value = jnp.sum(self.loss.discriminator(real_logits, fake_logits)) / self.batch_size
    value += penalty / self.batch_size
    sums = self._measure(real_logits, fake_logits)
    if self.lecam:
      distance = losses.lecam(real_logits, fake_logits, state.logit_means)
      value += self.lecam * jnp.sum(distance) / self.batch_size
    return value, (stats, {'discriminator_loss': value, **sums})

  def generator_loss(
    self,
    fake: jax.Array,
    state: GanState,
    batch: GanBatch,
    keys: StepKeys,
    substep: rng.Integer,
  ) -> jax.Array:
    """Returns the generator's loss, to be differentiated by its images.

    Args:
      fake: synthetic images [groups, share, H, W, C], those of the batch.
      state: with the updated discriminator.
      batch: the last one that the discriminator saw.
      substep: number of the discriminator's last update.
    """
    fake = self._augment(fake, batch.positions, keys, _DRAWS_PER_SUBSTEP * substep + 2)
    fake_logits, real_logits = self._logits(state, fake, batch.labels), None
    if self.loss.paired:
      images = self._augment(
        batch.images, batch.positions, keys, _DRAWS_PER_SUBSTEP * substep + 3
      )
      real_logits = self._logits(state, images, batch.labels)
    return jnp.sum(self.loss.generator(fake_logits, real_logits)) / self.batch_size

  def _logits_and_penalty(self, params, state, images, labels, weights):
    """Logits [groups, n] in training, the gradient penalty, and the new statistics.

    Args:
      images: [groups, n, H, W, C].
      labels: [groups, n].
      weights: of the penalty, one for each equal part of the images.
    """
    variables = {'params': params, 'spectral': state.discriminator_stats}

    def logits_of(images):
      logits, updated = self.discriminator.apply(
        variables, flatten(images), flatten(labels), train=True, mutable=['spectral']
      )
      stats = updated.get('spectral', state.discriminator_stats)
      return logits.reshape(labels.shape), stats

    if not any(weights):
      logits, stats = logits_of(images)
      return logits, 0.0, stats
    logits, pull_back, stats = jax.vjp(logits_of, images, has_aux=True)
    parts = jnp.split(pull_back(jnp.ones_like(logits))[0], len(weights), axis=1)
    squares = [jnp.sum(jnp.square(part)) for part in parts]
    penalty = 0.5 * sum(w * x for w, x in zip(weights, squares, strict=True))
    return logits, penalty, stats

  def _augment(self, images, positions, keys: StepKeys, draw):
    """Images as the discriminator sees them."""
    if self.diffaug is None:
      return images
    draw_keys = flatten(keys.at('diffaug', positions, draw))
    return self.diffaug(draw_keys, flatten(images)).reshape(images.shape)

  def _logits(self, state, images, labels):
    variables = {'params': state.discriminator, 'spectral': state.discriminator_stats}
    return self.discriminator.apply(variables, flatten(images), flatten(labels))

  def _measure(self, real_logits, fake_logits):
    # A paired loss leaves the logits' zero open: each is compared with its partner.
    zeros = (fake_logits, real_logits) if self.loss.paired else (0, 0)
    return {
      'real_accuracy': jnp.sum(real_logits > zeros[0]) / self.batch_size,
      'fake_accuracy': jnp.sum(fake_logits < zeros[1]) / self.batch_size,
      'real_logit': jnp.sum(real_logits) / self.batch_size,
      'fake_logit': jnp.sum(fake_logits) / self.batch_size,
    }


GanStep = Callable[[GanState, RealExamples], tuple[GanState, dict[str, jax.Array]]]


def make_gan_step(
  *,
  generator: nn.Module,
  gan_losses: GanLosses,
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  layout: Layout,
  latent_dim: int,
  ema_decay: float,
  d_steps: int = 1,
  dtype: jnp.dtype = jnp.float32,
) -> GanStep:
  """Returns some updates of the discriminator, followed by one of the generator.

  The generator's update uses the synthetic batch of the last of them, as in the
  alternating scheme of Radford et al. 2015: the generator runs forward once, and its
  gradient comes back through the updated discriminator. Synthetic images carry the labels
  of the real batch, so that the discriminator sees one class distribution.

  Args:
    gan_losses: of both networks; their batch size is a multiple of the devices.
    ema_decay: of the generator's moving average, in [0, 1); reached gradually.
    d_steps: updates of the discriminator, each on its own real batch.
    dtype: of the images and latents, float32 or wider.

  Returns:
    `step(state, data) -> (state, metrics)`. Metrics are scalars: discriminator_loss (with
    its regularisation), generator_loss, the discriminator's mean logits (real_logit,
    fake_logit), the fraction of real and of synthetic images that it gets right
    (real_accuracy, fake_accuracy), and the global norms of the gradients
    (discriminator_grad_norm, generator_grad_norm).
  """
  batch_size = gan_losses.batch_size

  def gan_step(state, data):
    positions = layout.positions(batch_size)
    keys = rng.step_keys(state.seed, state.step)

    def discriminator_step(state, substep):
      first = (state.step * d_steps + substep) * batch_size
      images, labels = device_data.gather_stream(
        data, first + positions, dtype, step=state.step, substep=substep
      )
      latent_keys = keys.at('gan_latent', positions, _DRAWS_PER_SUBSTEP * substep)
      latents = sampling.draw_latents(flatten(latent_keys), (latent_dim,), dtype)
      draw = lambda params: _generate(
        generator, params, state.generator_stats, latents, labels
      )
      fake, pull_back, stats = jax.vjp(draw, state.generator, has_aux=True)
      batch = GanBatch(positions, images, labels, fake)
      state, metrics = _update_discriminator(
        gan_losses, discriminator_tx, layout, state, batch, keys, substep
      )
      return state.replace(generator_stats=stats), (batch, pull_back, metrics)

    # Apart from the last, or a loop would stack what each of them returns.
    update = lambda state, substep: (discriminator_step(state, substep)[0], None)
    state, _ = layout.scan(update, state, np.arange(d_steps - 1))
    state, (batch, pull_back, metrics) = discriminator_step(state, d_steps - 1)
    loss, image_grads = jax.value_and_grad(gan_losses.generator_loss)(
      batch.fake, state, batch, keys, d_steps - 1
    )
    grads, loss = layout.sum((pull_back(image_grads)[0], loss))
    state = _update_generator(state, grads, generator_tx, ema_decay)
    metrics |= {'generator_loss': loss, 'generator_grad_norm': optax.tree.norm(grads)}
    return state, metrics

  return gan_step


def _generate(generator, params, stats, latents, labels):
  """Images [groups, share, H, W, C] of labels [groups, share], and the new statistics."""
  variables = {'params': params, 'batch_stats': stats}
  fake, updated = generator.apply(
    variables, latents, flatten(labels), train=True, mutable=['batch_stats']
  )
  fake = fake.reshape(*labels.shape, *fake.shape[1:]).astype(latents.dtype)
  return fake, updated.get('batch_stats', stats)


def _update_discriminator(gan_losses, tx, layout, state, batch, keys: StepKeys, substep):
  """Returns the state after an update of the discriminator, and its metrics."""
  grad_fn = jax.grad(gan_losses.discriminator_loss, has_aux=True)
  grads, (stats, sums) = grad_fn(state.discriminator, state, batch, keys, substep)
  grads, metrics = layout.sum((grads, sums))
  metrics['discriminator_grad_norm'] = optax.tree.norm(grads)
  params, opt_state = _apply(tx, grads, state.discriminator_opt, state.discriminator)
  means = jnp.stack([metrics['real_logit'], metrics['fake_logit']])
  state = state.replace(
    discriminator=params,
    discriminator_opt=opt_state,
    discriminator_stats=stats,
    logit_means=optax.incremental_update(means, state.logit_means, 0.01),
  )
  return state, metrics


def _update_generator(state, grads, tx, ema_decay):
  """Returns the state after an update of the generator and its average."""
  params, opt_state = _apply(tx, grads, state.generator_opt, state.generator)
  return state.replace(
    step=state.step + 1,
    generator=params,
    ema=update_average(state.ema, params, ema_decay, state.step),
    generator_opt=opt_state,
  )


def _apply(tx, grads, opt_state, params):
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def make_measure(
  generator: nn.Module,
  *,
  latent_dim: int,
  num_classes: int,
  class_probs: np.ndarray | None = None,
  batch_size: int = 64,
) -> Callable:
  """Returns what measures the batch statistics of a frozen generator on one batch.

  The running statistics of training belong to the raw weights. The averaged weights get
  their own, measured on fresh latents, and on labels as frequent as in training: the
  "standing statistics" of Brock et al. 2018 (arXiv 1809.11096), section 3.1.

  Args:
    generator: linen module without a mapped axis.
    class_probs: share of each class in training [num_classes]; None for equal ones.
    batch_size: images per step to measure on.

  Returns:
    `measure(variables, batch, seed) -> variables` with updated 'batch_stats', where
    `batch` is the number of the batch, an int32 scalar.
  """

  def measure(variables, batch, seed):
    number = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    keys = rng.example_keys(rng.stream_key(seed, 'gan_statistics'), number)
    latents = sampling.draw_latents(keys, (latent_dim,))
    labels = number % num_classes
    if class_probs is not None:
      label_keys = rng.fold_keys(keys, 1)
      labels = class_labels.draw_labels(label_keys, num_classes, class_probs)
    _, updated = generator.apply(
      variables, latents, labels, train=True, mutable=['batch_stats']
    )
    return {'batch_stats': {}, **variables, **updated}

  return measure
