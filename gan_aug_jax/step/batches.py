"""A training batch: here a synthetic image enters it.

`make_compose` gives the first half of the fused step: gather real examples, synthesize,
mix, augment, weight. Except for a few policies, none of it depends on the classifier. So
a call of several steps does it once, for all of them: `make_compose_ahead`.
"""

from collections.abc import Callable
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gan_aug_jax.step import device_data, rng
from gan_aug_jax.step.classifier_state import ClassifierState
from gan_aug_jax.step.device_data import RealExamples, StreamedBatches
from gan_aug_jax.step.plans import BatchPlan
from gan_aug_jax.step.programs import DrawAhead
from gan_aug_jax.step.rng import StepKeys
from gan_aug_jax.step.sharding import flatten, Layout
from gan_aug_jax.step.synthesis import (
  DrawSynthetic,
  FrozenModels,
  Synthesize,
  Synthetic,
)


@flax.struct.dataclass
class Batch:
  """A composed batch, each array [groups, share, ...].

  Attributes:
    images: float [groups, share, H, W, C].
    targets: float [groups, share, num_classes], summing to 1.
    synthetic: bool [groups, share], which positions hold a synthetic image.
    real: bool [groups, share], which hold a real one.
    asked: synthetic images that were asked for by class, float [groups, num_classes].
    accepted: those of them that passed the filter.
    dropout_keys: keys [groups, share].
    weights: float [groups, share], of the example in the loss; 0 where there is none.
  """

  images: jax.Array
  targets: jax.Array
  synthetic: jax.Array
  real: jax.Array
  asked: jax.Array
  accepted: jax.Array
  dropout_keys: jax.Array
  weights: jax.Array | None = None

  @property
  def valid_mask(self) -> jax.Array:
    """Which positions hold an example: bool [groups, share]."""
    return self.synthetic | self.real


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What happens to the images of a composed batch, and to which of them.

  Attributes:
    transform: `(keys, images) -> images`, see `augment.make_augment`.
    mix: from `augment.make_mix`, or None. Partners are real training images, drawn and
      transformed separately: other positions of the batch may be on other devices.
    partner: 'any' real image, or one of the 'same' class.
    on: 'both', only 'real' images, or only 'synthetic' ones.
  """

  transform: Callable = lambda keys, images: images
  mix: Callable | None = None
  partner: str = 'any'
  on: str = 'both'


Compose = Callable[..., tuple[Batch, Synthetic | tuple]]


def make_compose(
  *,
  layout: Layout,
  plan: BatchPlan,
  synthesize: Synthesize | None,
  augmentation: Augmentation,
  num_classes: int,
  weight: Callable = lambda step: 1.0,
  on_reject: str = 'drop',
  label_smoothing: float = 0.0,
  dtype: jnp.dtype = jnp.float32,
) -> Compose:
  """Returns the part of the step that composes a batch.

  Args:
    plan: how many positions are synthetic. If none are, `synthesize` is never called.
    synthesize: a `Synthesis`, or from `make_pooled`.
    weight: `step -> weight` of a synthetic example in the loss; a real one weighs 1.
    on_reject: what replaces an image that the filter rejected: a 'real' image of the same
      class, drawn independently of the stream; or nothing ('drop', weight 0).
    label_smoothing: part of a real image's target that is spread over all classes, in
      [0, 1) (Szegedy et al. 2015, arXiv 1512.00567, section 7).
    dtype: of the images, float32 or wider.

  Returns:
    `compose(positions, state, data, frozen, drawn=None) -> (Batch, pool)` for the global
    positions [groups, share] of the batch. `drawn` is the `Synthetic` of this step if it
    was drawn ahead, in place of `synthesize`; the pool is for the next state.
  """
  encoding = _Encoding(num_classes, label_smoothing, dtype)

  def compose(
    positions: jax.Array,
    state: ClassifierState,
    data: RealExamples,
    frozen: FrozenModels,
    drawn: Synthetic | None = None,
  ):
    keys, pool = rng.step_keys(state.seed, state.step), ()
    asked = positions < plan.synthetic_at(state.step)
    batch = _real_batch(plan, positions, state.step, data, encoding, keys)
    if plan.num_synthetic:
      slots = positions[:, : layout.slots_per_device(plan.num_synthetic)]
      asked = asked[:, : slots.shape[1]]
      synthetic = drawn
      if drawn is None:
        synthetic = synthesize(keys, slots, state, frozen)
      pool = synthetic if jax.tree.leaves(state.pool) else ()
      batch = _add_synthetic(
        batch, synthetic, asked, encoding, on_reject, keys=keys, slots=slots, data=data
      )
    batch = _augment(augmentation, keys, data, positions, batch, encoding)
    weights = jnp.where(batch.synthetic, weight(state.step), 1.0).astype(dtype)
    return batch.replace(weights=weights * batch.valid_mask), pool

  return compose


@flax.struct.dataclass
class ComposedAhead:
  """The batches of several steps, composed before the first of them.

  Attributes:
    batches: a `Batch`, each array [groups, num_steps, ...].
    first: int32 scalar, the first of those steps.
  """

  batches: Batch
  first: jax.Array

  def at(self, step: jax.Array) -> Batch:
    """The batch of one of the steps."""
    take = lambda x: jax.lax.dynamic_index_in_dim(x, step - self.first, 1, keepdims=False)
    return jax.tree.map(take, self.batches)


def make_compose_ahead(
  compose: Compose,
  *,
  layout: Layout,
  plan: BatchPlan,
  max_bytes: int,
  draw_synthetic: DrawSynthetic | None = None,
) -> DrawAhead | None:
  """Returns what composes the batches of all steps of a call together.

  An accelerator then starts each of the many small kernels of this half of the step once
  per call, and the loop over the steps is left with the classifier's own.

  Args:
    compose: from `make_compose`.
    max_bytes: see `DrawAhead`; 0 for none.
    draw_synthetic: from `synthesis.make_draw_synthetic`.

  Returns:
    A `DrawAhead` of `ComposedAhead`; or None if `max_bytes` is 0 or there are synthetic
    images that cannot be drawn ahead.
  """
  if not max_bytes or (plan.num_synthetic and not draw_synthetic):
    return None

  def compose_share(replicated, positions, streamed, drawn):
    seed, steps, data, first = replicated
    if streamed:
      data = StreamedBatches(*streamed, data)

    def compose_step(step):
      # All that it reads of a state where nothing depends on the classifier.
      state = ClassifierState(step, seed, {}, {}, (), {})
      synthetic = drawn and dataclasses.replace(drawn, first=first).at(step)
      return compose(positions, state, data, FrozenModels(), synthetic)[0]

    return jax.vmap(compose_step, out_axes=1)(steps)

  def draw(state, num_steps, data, frozen):
    steps = state.step + jnp.arange(num_steps, dtype=jnp.int32)
    streamed, drawn, first = (), None, None
    if draw_synthetic:
      drawn = draw_synthetic(state, num_steps, frozen)
      drawn, first = dataclasses.replace(drawn, first=None), drawn.first
    if isinstance(data, StreamedBatches):
      streamed, data = (data.images, data.labels), data.start
    # On each device separately, as `make_draw_synthetic` draws.
    batches = layout.map_devices(compose_share)(
      (state.seed, steps, data, first), layout.positions(plan.total), streamed, drawn
    )
    return ComposedAhead(batches, state.step)

  return DrawAhead(draw, max_bytes)


@dataclasses.dataclass(frozen=True)
class _Encoding:
  """How the labels of real images become targets; see `make_compose`."""

  num_classes: int
  label_smoothing: float
  dtype: jnp.dtype

  def one_hot(self, labels: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)

  def smooth(self, one_hot: jax.Array) -> jax.Array:
    if not self.label_smoothing:
      return one_hot
    return optax.smooth_labels(one_hot, self.label_smoothing)


def _real_batch(plan, positions, step, data, encoding, keys):
  """The batch of a step without its synthetic images."""
  first = plan.first_real_at(step)
  index = plan.real_before(step) + positions - first
  images, labels = device_data.gather_stream(data, index, encoding.dtype, step=step)
  none = jnp.zeros((len(positions), encoding.num_classes), encoding.dtype)
  return Batch(
    images=images,
    targets=encoding.smooth(encoding.one_hot(labels)),
    synthetic=jnp.zeros(positions.shape, bool),
    real=(positions >= first) & (positions < plan.total),
    asked=none,
    accepted=none,
    dropout_keys=keys.at('dropout', positions),
  )


def _add_synthetic(
  batch, synthetic, asked, encoding, on_reject, *, keys: StepKeys, slots, data
):
  """Puts synthetic images into the first slots, where `asked` [groups, c] says so."""
  accepted = asked & synthetic.accepted
  by_class = encoding.one_hot(synthetic.labels)
  count = lambda mask: jnp.sum(by_class * mask[..., None], 1)
  batch = batch.replace(
    asked=count(asked),
    accepted=count(accepted),
    images=select_synthetic(batch.images, synthetic.images, accepted),
    targets=select_synthetic(batch.targets, synthetic.targets, accepted),
    synthetic=select_synthetic(batch.synthetic, accepted, asked),
  )
  if on_reject != 'real':
    return batch
  rejected = asked & ~synthetic.accepted
  rows = device_data.draw_rows(data, keys.at('substitute', slots), synthetic.labels)
  images, _ = device_data.read(data, rows, batch.images.dtype)
  return batch.replace(
    images=select_synthetic(batch.images, images, rejected),
    targets=select_synthetic(batch.targets, encoding.smooth(by_class), rejected),
    real=select_synthetic(batch.real, rejected, asked),
  )


def _augment(augmentation, keys: StepKeys, data, positions, batch, encoding):
  """Augments the images of a batch and mixes them with real ones."""

  def transform(stream, images):
    flat_keys = flatten(keys.at(stream, positions))
    return augmentation.transform(flat_keys, flatten(images)).reshape(images.shape)

  before = batch.images, batch.targets
  after = transform('augment', batch.images), batch.targets
  if augmentation.mix:
    labels = jnp.argmax(batch.targets, -1) if augmentation.partner == 'same' else None
    rows = device_data.draw_rows(data, keys.at('partner', positions), labels)
    images, labels = device_data.read(data, rows, batch.images.dtype)
    targets = encoding.smooth(encoding.one_hot(labels))
    pairs = after, (transform('mix', images), targets)
    pairs = [tuple(map(flatten, pair)) for pair in pairs]
    mixed = augmentation.mix(flatten(keys.at('mix', positions, 1)), *pairs)
    after = tuple(x.reshape(y.shape) for x, y in zip(mixed, before, strict=True))
  if augmentation.on != 'both':
    changed = ~batch.synthetic if augmentation.on == 'real' else batch.synthetic
    pairs = zip(after, before, strict=True)
    after = tuple(jnp.where(expand(changed, x), x, y) for x, y in pairs)
  images, targets = after
  return batch.replace(images=images, targets=targets)


def expand(mask: jax.Array, like: jax.Array) -> jax.Array:
  """Gives a mask [groups, share] as many axes as `like` [groups, share, ...] has.

  Args:
    mask: [groups, share].
    like: [groups, share, ...].
  """
  return mask.reshape(mask.shape + (1,) * (like.ndim - 2))


def select_synthetic(
  real: jax.Array, synthetic: jax.Array, is_synthetic: jax.Array
) -> jax.Array:
  """Puts synthetic rows into the first slots of each group, where the mask says so.

  Args:
    real: [groups, share, ...], a row for every slot.
    synthetic: [groups, c, ...] with c <= share.
    is_synthetic: bool [groups, c]; where False the real row stays (a spare slot).

  Returns:
    Array of the shape and type of `real`.
  """
  count = synthetic.shape[1]
  mask = expand(is_synthetic, real)
  first = jnp.where(mask, synthetic.astype(real.dtype), real[:, :count])
  return jnp.concatenate([first, real[:, count:]], axis=1)
