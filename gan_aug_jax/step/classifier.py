"""The classifier and its fused training step."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.step import device_data, losses, mixing, rng
from gan_aug_jax.step.sharding import flatten

# What is left of a class's average loss after as many of its examples as a batch would
# have of it if classes were equal.
_CLASS_LOSS_DECAY = 0.99


@flax.struct.dataclass
class ClassifierState:
  """Everything that a step changes, or that its random numbers hang on.

  Attributes:
    step: int32 scalar, steps taken.
    seed: int32 scalar, root of every random stream.
    params: parameters.
    batch_stats: running statistics, empty for models without.
    opt_state: the optimizer's.
    policy: what mixing policies have gathered by class, [num_classes] each: 'class_loss',
      float, the moving average of the loss on real examples; 'asked' and 'accepted',
      int32, synthetic images shown so far, a pooled one each time. Those that are asked
      for only.
    pool: synthetic images that last for several steps, see `synthesis.make_pooled`.
  """

  step: jax.Array
  seed: jax.Array
  params: dict
  batch_stats: dict
  opt_state: optax.OptState
  policy: dict
  pool: Any = ()

  @property
  def variables(self):
    return {'params': self.params, 'batch_stats': self.batch_stats}


def init_classifier(seed, *, model, optimizer, image_shape, policy=()):
  """Initialises a classifier's state.

  Args:
    seed: integer in [0, 2^31), or an int32 scalar array.
    model: linen module from `build_classifier`.
    optimizer: optax transformation.
    image_shape: (height, width, channels).
    policy: what to gather by class, names of `ClassifierState.policy`.
  """
  images = jnp.zeros((1, *image_shape))
  variables = model.init(rng.stream_key(seed, 'init'), images, train=False)
  # At first the loss of a classifier that knows nothing.
  begin = {
    'class_loss': jnp.full(model.num_classes, np.log(model.num_classes)),
    'asked': jnp.zeros(model.num_classes, jnp.int32),
    'accepted': jnp.zeros(model.num_classes, jnp.int32),
  }
  return ClassifierState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=optimizer.init(variables['params']),
    policy={name: begin[name] for name in policy},
  )


def make_optimizer(
  name,
  *,
  learning_rate,
  num_steps,
  schedule='constant',
  momentum=0.9,
  weight_decay=0.0,
):
  """Builds a classifier's optimizer.

  Args:
    name: 'sgd' (with momentum; weight decay joins the gradient) or 'adam' (weight decay
      decoupled, as in AdamW).
    learning_rate: peak learning rate.
    num_steps: length of training, which a schedule needs.
    schedule: 'constant', or 'cosine' from the peak to 0.
    momentum: of SGD.
    weight_decay: 0 for none.

  Raises:
    ValueError: if the optimizer or schedule is unknown.
  """
  if schedule == 'cosine':
    learning_rate = optax.cosine_decay_schedule(learning_rate, num_steps)
  elif schedule != 'constant':
    raise ValueError(f'Schedule {schedule!r} is unknown; known: constant, cosine.')
  if name == 'sgd':
    sgd = optax.sgd(learning_rate, momentum or None)
    return optax.chain(optax.add_decayed_weights(weight_decay), sgd)
  if name == 'adam':
    return optax.adamw(learning_rate, weight_decay=weight_decay)
  raise ValueError(f'Optimizer {name!r} is unknown; known: sgd, adam.')


@dataclasses.dataclass(frozen=True)
class Batch:
  """A composed batch, each array [groups, share, ...].

  Attributes:
    images: float [groups, share, H, W, C].
    targets: float [groups, share, num_classes], adding up to 1.
    weights: float [groups, share], of the example in the loss; 0 where there is none.
    synthetic: bool [groups, share].
    real: bool [groups, share].
    asked: synthetic images that were asked for by class [num_classes], on these devices.
    accepted: those of them that passed the filter.
  """

  images: jax.Array
  targets: jax.Array
  weights: jax.Array
  synthetic: jax.Array
  real: jax.Array
  asked: jax.Array
  accepted: jax.Array

  @property
  def shown(self):
    """Which positions hold an example: bool [groups, share]."""
    return self.synthetic | self.real


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What happens to the images of a composed batch, and to which.

  Attributes:
    transform: `(keys, images) -> images`, see `augment.make_augment`.
    mix: from `augment.make_mix`, or None. Partners are real training images, drawn and
      transformed apart from the batch: those of other positions may be on other devices.
    partner: 'any' of them, or of the 'same' class.
    on: 'both', 'real' images only, or 'synthetic' ones only.
  """

  transform: Callable = lambda keys, images: images
  mix: Callable | None = None
  partner: str = 'any'
  on: str = 'both'


def make_compose(
  *,
  layout,
  plan: mixing.BatchPlan,
  synthesize: Callable | None,
  augmentation: Augmentation,
  num_classes: int,
  weight: Callable = lambda step: 1.0,
  on_reject: str = 'drop',
  dtype=jnp.float32,
):
  """Returns the part of the step that composes a batch.

  Args:
    layout: where the step runs.
    plan: how many positions are synthetic. With none, `synthesize` is never called.
    synthesize: `(keys, slot, state, frozen) -> Synthetic`, see `synthesis`.
    augmentation: an `Augmentation`.
    num_classes: number of classes.
    weight: `step -> weight` of a synthetic example in the loss, beside 1 of a real one.
    on_reject: what a position gets whose image the filter has not accepted: a 'real'
      image of the same class, drawn apart from the stream; or 'drop', weight 0.
    dtype: of the images, float32 or wider.

  Returns:
    `compose(keys, state, data, frozen) -> (Batch, pool)`, where `keys(stream, positions,
    substep=0)` gives per-example keys and `pool` is for the next state.
  """

  def one_hot(labels):
    return jax.nn.one_hot(labels, num_classes, dtype=dtype)

  def compose(keys, state, data, frozen):
    position = layout.positions(plan.total)
    asked = position < plan.synthetic_at(state.step)
    first = plan.first_real_at(state.step)
    place = plan.real_before(state.step) + position - first
    images, labels = device_data.take(data, place, dtype, step=state.step)
    targets, pool = one_hot(labels), ()
    synthetic = jnp.zeros(position.shape, bool)
    real = (position >= first) & (position < plan.total)
    counts = [jnp.zeros(num_classes, dtype)] * 2
    if plan.num_synthetic:
      slot = position[:, : layout.share(plan.num_synthetic)]
      asked = asked[:, : slot.shape[1]]
      made = synthesize(keys, slot, state, frozen)
      pool = made if jax.tree.leaves(state.pool) else ()
      good = asked & made.accepted
      by_class = one_hot(made.labels)
      counts = [jnp.sum(by_class * m[..., None], (0, 1)) for m in (asked, good)]
      images = mixing.select_synthetic(images, made.images, good)
      targets = mixing.select_synthetic(targets, made.targets, good)
      synthetic = mixing.select_synthetic(synthetic, good, asked)
      if on_reject == 'real':
        failed = asked & ~made.accepted
        rows = device_data.draw_rows(data, keys('substitute', slot), made.labels)
        instead, _ = device_data.read(data, rows, dtype)
        images = mixing.select_synthetic(images, instead, failed)
        targets = mixing.select_synthetic(targets, by_class, failed)
        real = mixing.select_synthetic(real, failed, asked)
    images, targets = _augment(
      augmentation, keys, data, position, images, targets, synthetic
    )
    weights = jnp.where(synthetic, weight(state.step), 1.0).astype(dtype)
    weights = weights * (synthetic | real)
    return Batch(images, targets, weights, synthetic, real, *counts), pool

  return compose


def _augment(augmentation, keys, data, position, images, targets, synthetic):
  """Augments a batch, images [groups, share, ...], and mixes it with real images."""
  changed = {'both': None, 'real': ~synthetic, 'synthetic': synthetic}[augmentation.on]

  def transform(stream, images):
    flat = augmentation.transform(flatten(keys(stream, position)), flatten(images))
    return flat.reshape(images.shape)

  after = transform('augment', images), targets
  if augmentation.mix:
    num_classes = targets.shape[-1]
    of = jnp.argmax(targets, -1) if augmentation.partner == 'same' else None
    rows = device_data.draw_rows(data, keys('partner', position), of)
    partners, labels = device_data.read(data, rows, images.dtype)
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=targets.dtype)
    other = transform('mix', partners), one_hot
    pairs = [tuple(map(flatten, pair)) for pair in (after, other)]
    mixed = augmentation.mix(flatten(keys('mix', position, 1)), *pairs)
    after = tuple(x.reshape(y.shape) for x, y in zip(mixed, after, strict=True))
  if changed is None:
    return after
  before = (images, targets)
  return tuple(
    jnp.where(mixing.expand(changed, x), x, y) for x, y in zip(after, before, strict=True)
  )


def make_fused_step(*, model, optimizer, layout, plan, compose):
  """Returns the fused training step: gather, sample, mix, augment, update, measure.

  Args:
    model: linen module from `build_classifier`.
    optimizer: optax transformation.
    layout: where the step runs.
    plan: how many positions are synthetic.
    compose: from `make_compose`.

  Returns:
    `step(state, data, frozen) -> (state, metrics)`. `data` is of `device_data`, `frozen`
    holds frozen variables by name, 'generator' and what the filter asks (nothing need be
    there if nothing is synthetic), and metrics are scalars over the mixed, augmented
    batch: loss, accuracy, the synthetic ratio that was asked for and the one that the
    classifier was given.
  """

  def fused_step(state, data, frozen):
    keys = rng.step_keys(state.seed, state.step)
    batch, pool = compose(keys, state, data, frozen)
    dropout_keys = flatten(keys('dropout', layout.positions(plan.total)))
    images, targets, weights = map(flatten, (batch.images, batch.targets, batch.weights))
    synthetic, shown = flatten(batch.synthetic), flatten(batch.shown)

    def loss_fn(params):
      variables = {'params': params, 'batch_stats': state.batch_stats}
      logits, updated = model.apply(
        variables,
        images,
        train=True,
        keys=dropout_keys,
        shown=shown,
        synthetic=synthetic,
        mutable=['batch_stats'],
      )
      nll = losses.cross_entropy(logits, targets)
      # Sums, and not a local mean, see `Layout.sum`; divided by the weights' below.
      return jnp.sum(weights * nll), (logits, nll, updated)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, nll, updated)), grads = grad_fn(state.params)
    labels = jnp.argmax(targets, -1)
    sums = {
      'loss': loss,
      'accuracy': jnp.sum((jnp.argmax(logits, -1) == labels) * weights),
      'weights': jnp.sum(weights),
      'synthetic': jnp.sum(synthetic),
    }
    if 'asked' in state.policy:
      sums |= {'asked': batch.asked, 'accepted': batch.accepted}
    if 'class_loss' in state.policy:
      real = flatten(batch.real)[:, None] * jax.nn.one_hot(labels, targets.shape[-1])
      sums['real_loss'] = jnp.sum(real * nll[:, None], 0)
      sums['real_count'] = jnp.sum(real, 0)
    grads, sums = layout.sum((grads, sums))
    total = jnp.where(sums['weights'] > 0, sums['weights'], 1)
    grads = jax.tree.map(lambda g: g / total.astype(g.dtype), grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
      'loss': sums['loss'] / total,
      'accuracy': sums['accuracy'] / total,
      'synthetic_ratio': sums['synthetic'] / plan.batch_size,
      'asked_ratio': jnp.float32(plan.synthetic_at(state.step) / plan.batch_size),
    }
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=updated.get('batch_stats', state.batch_stats),
      opt_state=opt_state,
      policy=_gather(state.policy, sums, plan.batch_size),
      pool=pool,
    )
    return state, metrics

  return fused_step


def _gather(policy, sums, batch_size):
  """The policy's memory after a step, see `ClassifierState.policy`."""
  after = {
    name: policy[name] + sums[name].astype(jnp.int32)
    for name in ('asked', 'accepted')
    if name in policy
  }
  if 'class_loss' in policy:
    old, count = policy['class_loss'], sums['real_count']
    mean = sums['real_loss'] / jnp.maximum(count, 1)
    kept = _CLASS_LOSS_DECAY ** (count * len(old) / batch_size)
    after['class_loss'] = kept * old + (1 - kept) * mean
  return after


def make_eval_step(*, model, layout, batch_size, num_classes, dtype=jnp.float32):
  """Returns the evaluation of one chunk, in evaluation mode on un-augmented images.

  Args:
    model: linen module from `build_classifier`.
    layout: where the step runs.
    batch_size: images a chunk.
    num_classes: number of classes.
    dtype: of the images, float32 or wider.

  Returns:
    `eval_step(variables, images uint8 [batch_size, H, W, C], labels int32 [batch_size],
    count) -> dict`, over the first `count` images: confusion int32 [true, predicted],
    loss (a sum, in nats), predictions int32 [batch_size rounded up to the devices].
  """

  def eval_step(variables, images, labels, count):
    position = layout.positions(batch_size)
    x = device_data.normalize(images.at[position].get(mode='clip'), dtype)
    y = flatten(labels.at[position].get(mode='clip'))
    logits = model.apply(variables, flatten(x), train=False)
    predicted = jnp.argmax(logits, -1).astype(jnp.int32)
    inside = flatten(position < count)
    cell = y * num_classes + predicted
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(inside.astype(jnp.int32))
    sums = {
      'confusion': counts.reshape(num_classes, num_classes),
      'loss': jnp.sum(inside * losses.cross_entropy(logits, y)),
    }
    predictions = layout.gather(predicted.reshape(position.shape))
    return {**layout.sum(sums), 'predictions': predictions}

  return eval_step
