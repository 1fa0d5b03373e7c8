"""The classifier and its fused training step."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gan_aug_jax import losses, mixing, realdata, rng
from gan_aug_jax.sharding import flatten


@flax.struct.dataclass
class ClassifierState:
  """Everything that a step changes, or that its random numbers hang on.

  Attributes:
    step: int32 scalar, steps taken.
    seed: int32 scalar, root of every random stream.
    params: parameters.
    batch_stats: running statistics, empty for models without.
    opt_state: the optimizer's.
  """

  step: jax.Array
  seed: jax.Array
  params: dict
  batch_stats: dict
  opt_state: optax.OptState

  @property
  def variables(self):
    return {'params': self.params, 'batch_stats': self.batch_stats}


def init_classifier(model, optimizer, *, seed, image_shape):
  """Initialises a classifier's state.

  Args:
    model: linen module from `build_classifier`.
    optimizer: optax transformation.
    seed: integer in [0, 2^31).
    image_shape: (height, width, channels).
  """
  images = jnp.zeros((1, *image_shape))
  variables = model.init(rng.stream_key(seed, 'init'), images, train=False)
  return ClassifierState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=optimizer.init(variables['params']),
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


def make_compose(
  *,
  layout,
  plan: mixing.BatchPlan,
  sample: Callable,
  augment: Callable,
  num_classes: int,
  dtype=jnp.float32,
):
  """Returns the part of the step that composes a batch.

  Args:
    layout: where the step runs.
    plan: how many positions are synthetic. With none, `sample` is never called.
    sample: `(variables, keys, labels) -> images`, see `sampler`.
    augment: `(keys, images) -> images`, see `augment`.
    num_classes: number of classes.
    dtype: of the images, float32 or wider.

  Returns:
    `compose(keys, first, data, generator) -> images, labels, weights, positions`, each
    [groups, share, ...], where `keys(stream, positions)` gives per-example keys and
    `first` is the stream place of the batch's first real example.
  """

  def compose(keys, first, data, generator):
    position = layout.positions(plan.total)
    place = first + position - plan.num_synthetic
    images, labels = realdata.take(data, place, dtype)
    if plan.num_synthetic:
      slot = position[:, : layout.share(plan.num_synthetic)]
      drawn = mixing.draw_labels(keys('label', slot), num_classes)
      latent_keys = flatten(keys('latent', slot))
      synthetic = sample(generator, latent_keys, flatten(drawn))
      synthetic = synthetic.reshape(*slot.shape, *synthetic.shape[1:])
      is_synthetic = slot < plan.num_synthetic
      images = mixing.select_synthetic(images, synthetic, is_synthetic)
      labels = mixing.select_synthetic(labels, drawn, is_synthetic)
    augment_keys = flatten(keys('augment', position))
    images = augment(augment_keys, flatten(images)).reshape(images.shape)
    weights = (position < plan.total).astype(dtype)
    return images, labels, weights, position

  return compose


def make_fused_step(*, model, optimizer, layout, plan, compose):
  """Returns the fused training step: gather, sample, mix, augment, update, measure.

  Args:
    model: linen module from `build_classifier`.
    optimizer: optax transformation.
    layout: where the step runs.
    plan: how many positions are synthetic.
    compose: from `make_compose`.

  Returns:
    `step(state, data, generator) -> (state, metrics)`. `data` is a `RealData`,
    `generator` the frozen generator's variables (anything, if nothing is synthetic), and
    metrics are scalars over the mixed, augmented batch: loss, accuracy, and the
    synthetic ratio that the weights really gave.
  """

  def fused_step(state, data, generator):
    def keys(stream, positions):
      key = rng.stream_key(state.seed, stream, state.step)
      return rng.example_keys(key, positions)

    first = state.step * plan.num_real
    images, labels, weights, position = compose(keys, first, data, generator)
    dropout_keys = flatten(keys('dropout', position))
    images, labels, weights = map(flatten, (images, labels, weights))

    def loss_fn(params):
      variables = {'params': params, 'batch_stats': state.batch_stats}
      logits, updated = model.apply(
        variables,
        images,
        train=True,
        keys=dropout_keys,
        weights=weights,
        mutable=['batch_stats'],
      )
      nll = losses.cross_entropy(logits, labels)
      # The sum over the global batch's size, not a local mean: see `Layout.sum`.
      return jnp.sum(weights * nll) / plan.total, (logits, updated)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, updated)), grads = grad_fn(state.params)
    correct = (jnp.argmax(logits, -1) == labels) * weights
    synthetic = (flatten(position) < plan.num_synthetic) * weights
    sums = {
      'loss': loss,
      'accuracy': jnp.sum(correct) / plan.total,
      'synthetic_ratio': jnp.sum(synthetic) / plan.batch_size,
    }
    grads, metrics = layout.sum((grads, sums))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=updated.get('batch_stats', state.batch_stats),
      opt_state=opt_state,
    )
    return state, metrics

  return fused_step


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
    x = realdata.normalize(images.at[position].get(mode='clip'), dtype)
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
