"""The state of a classifier's training, and the statistics that it gathers by class."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.step import rng

# What is left of a class's average loss after batch_size / num_classes of its examples.
_CLASS_LOSS_DECAY = 0.99


@flax.struct.dataclass
class ClassifierState:
  """Everything that a step changes, or that its random numbers depend on.

  Attributes:
    step: int32 scalar, steps taken.
    seed: int32 scalar, root of every random stream.
    params: parameters.
    batch_stats: running statistics, and whatever else an external network keeps.
    opt_state: the optimizer's state.
    class_stats: statistics by class, [num_classes] each; only those that a policy needs.
      'class_loss', float: moving average of the loss on real examples. 'asked' and
      'accepted', int32: how many synthetic images were drawn so far, and how many passed
      the filter; a cached image counts at each step that uses it.
    pool: synthetic images that are used for several steps, see `synthesis.make_pooled`.
  """

  step: jax.Array
  seed: jax.Array
  params: dict
  batch_stats: dict
  opt_state: optax.OptState
  class_stats: dict
  pool: Any = ()

  @property
  def variables(self) -> dict:
    return {'params': self.params, 'batch_stats': self.batch_stats}

  @property
  def evaluated(self) -> dict:
    """The variables to evaluate."""
    return self.variables


@flax.struct.dataclass
class AveragedState(ClassifierState):
  """A state with a moving average, which is evaluated.

  A separate class, as checkpoints of states without one have no such field.

  Attributes:
    ema: moving average of `variables`.
  """

  ema: dict = flax.struct.field(default_factory=dict)

  @property
  def evaluated(self) -> dict:
    return self.ema


def init_classifier(
  seed: rng.Integer,
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  image_shape: tuple[int, int, int],
  class_stats: tuple[str, ...] = (),
  averages: bool = False,
) -> ClassifierState:
  """Initialises a classifier's state.

  Args:
    seed: integer in [0, 2^31), or an int32 scalar array.
    model: linen module from `build_classifier`, or an `ExternalClassifier`.
    image_shape: (height, width, channels).
    class_stats: names of the statistics to gather, see `ClassifierState.class_stats`.
    averages: whether it has a moving average.
  """
  images = jnp.zeros((1, *image_shape))
  variables = model.init(rng.stream_key(seed, 'init'), images, train=False)
  initial = {
    # The loss of a classifier that knows nothing.
    'class_loss': jnp.full(model.num_classes, np.log(model.num_classes)),
    'asked': jnp.zeros(model.num_classes, jnp.int32),
    'accepted': jnp.zeros(model.num_classes, jnp.int32),
  }
  state = ClassifierState(
    step=jnp.int32(0),
    seed=jnp.int32(seed),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=optimizer.init(variables['params']),
    class_stats={name: initial[name] for name in class_stats},
  )
  if not averages:
    return state
  ema = jax.tree.map(jnp.copy, state.variables)  # or it would be donated twice
  return AveragedState(**vars(state), ema=ema)


def update_class_stats(class_stats: dict, sums: dict, batch_size: int) -> dict:
  """Returns the class statistics after a step.

  Args:
    class_stats: those before it, see `ClassifierState.class_stats`.
    sums: of the step's batch over all devices, [num_classes] each: 'asked', 'accepted';
      'real_loss' and 'real_count', losses and numbers of real examples.
    batch_size: B of the plan.
  """
  after = {
    name: class_stats[name] + sums[name].astype(jnp.int32)
    for name in ('asked', 'accepted')
    if name in class_stats
  }
  if 'class_loss' in class_stats:
    old, count = class_stats['class_loss'], sums['real_count']
    mean = sums['real_loss'] / jnp.maximum(count, 1)
    kept = _CLASS_LOSS_DECAY ** (count * len(old) / batch_size)
    after['class_loss'] = kept * old + (1 - kept) * mean
  return after
