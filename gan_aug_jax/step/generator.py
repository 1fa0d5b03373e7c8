"""The training step of any generator that minimises one loss: a VAE, a flow.

What is drawn from is a moving average of the parameters.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gan_aug_jax.step import device_data, rng
from gan_aug_jax.step.averages import update_average
from gan_aug_jax.step.device_data import RealExamples
from gan_aug_jax.step.sharding import flatten, Layout

# `(params, keys [B], images [B, H, W, C], labels [B]) -> losses [B]`
Loss = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class GeneratorState:
  """Everything that a step changes, or that its random numbers depend on.

  Attributes:
    step: int32 scalar, steps taken.
    seed: int32 scalar, root of every random stream.
    params: pytree of arrays.
    ema: exponential moving average of the parameters.
    opt_state: the optimizer's state.
  """

  step: jax.Array
  seed: jax.Array
  params: Any
  ema: Any
  opt_state: optax.OptState


@flax.struct.dataclass
class TaughtState(GeneratorState):
  """The state of a training that ends with steps in which there is a teacher.

  Attributes:
    teacher: parameters; unused before these steps.
  """

  teacher: Any


def init_generator(
  seed: rng.Integer,
  *,
  init_params: Callable,
  tx: optax.GradientTransformation,
  taught: bool = False,
) -> GeneratorState:
  """Initialises a generator's state.

  Args:
    seed: integer in [0, 2^31), or an int32 scalar array.
    init_params: `key -> params`.
    taught: whether there will be a teacher, see `make_generator_step`.
  """
  params = init_params(rng.stream_key(seed, 'gan_init'))
  copy = lambda: jax.tree.map(jnp.copy, params)  # donated trees must not share a buffer
  fields = {'step': jnp.int32(0), 'seed': jnp.int32(seed), 'params': params}
  fields |= {'ema': copy(), 'opt_state': tx.init(params)}
  return TaughtState(**fields, teacher=copy()) if taught else GeneratorState(**fields)


def make_generator_step(
  *,
  loss: Loss,
  tx: optax.GradientTransformation,
  layout: Layout,
  batch_size: int,
  ema_decay: float,
  dtype: jnp.dtype = jnp.float32,
  taught_from: int = 0,
) -> Callable:
  """Returns one update of a generator.

  Args:
    loss: a loss per example, whose value depends on that example alone; images are in
      [-1, 1], and each example has a key of its own.
    batch_size: images of a step.
    ema_decay: of the moving average, in [0, 1); reached gradually.
    dtype: of images and losses, float32 or wider.
    taught_from: for the last steps of a training, the first of them, above 0. The moving
      average at that step is the teacher, whose parameters are a last argument of the
      loss, and begins anew. 0 for none.

  Returns:
    `step(state, data) -> (state, metrics)`. Metrics are scalars: loss, and grad_norm, of
    the gradient before `tx`. Tracing it raises a ValueError unless there is a loss per
    example.
  """

  def generator_step(state: GeneratorState, data: RealExamples):
    positions = layout.positions(batch_size)
    keys = rng.step_keys(state.seed, state.step).at('generator', positions)
    first = state.step * batch_size
    taken = device_data.gather_stream(data, first + positions, dtype, step=state.step)
    images, labels = map(flatten, taken)
    is_example = flatten(positions) < batch_size
    teacher = ()
    if taught_from:
      begins = state.step == taught_from
      choose = lambda new, old: jnp.where(begins, new, old)
      state = state.replace(teacher=jax.tree.map(choose, state.ema, state.teacher))
      teacher = (state.teacher,)

    def mean_loss(params):
      losses = loss(params, flatten(keys), images, labels, *teacher).astype(dtype)
      if losses.shape != labels.shape:
        raise ValueError(f'the loss is {list(losses.shape)}, not one an example, [B]')
      return jnp.sum(jnp.where(is_example, losses, 0)) / batch_size

    value, grads = layout.sum(jax.value_and_grad(mean_loss)(state.params))
    metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads)}
    return _update(state, grads, tx, ema_decay, taught_from), metrics

  return generator_step


def _update(state, grads, tx, ema_decay, first):
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return state.replace(
    step=state.step + 1,
    params=params,
    ema=update_average(state.ema, params, ema_decay, state.step - first),
    opt_state=opt_state,
  )
