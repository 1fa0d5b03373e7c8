"""Which positions of a global batch are synthetic, and of which classes.

Position p of a batch is synthetic if and only if p < S. With positions dealt to devices
in turn (`sharding.Layout.positions`), that spreads the synthetic images evenly over any
number of devices and moves nothing between them. S may change from step to step under a
bound that is fixed when the program is compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_SHAPES = {
  'constant': lambda progress, xp: xp.ones_like(progress),
  'linear': lambda progress, xp: progress,
  'cosine': lambda progress, xp: (1 - xp.cos(np.pi * progress)) / 2,
}


@dataclasses.dataclass(frozen=True)
class Ramp:
  """How something rises over a training: 0 before, up to 1, and 0 after.

  Attributes:
    shape: 'constant', 'linear' or 'cosine' (half a wave).
    start: the first step that may be above 0.
    stop: the step from which on it is 0 again; the one before has 1.
  """

  shape: str
  start: int
  stop: int

  def __call__(self, step, xp=jnp):
    """The height in [0, 1] at a step; `xp` is the array library to compute in."""
    length = self.stop - self.start - 1
    progress = xp.clip((step - self.start + (length < 1)) / max(length, 1), 0, 1)
    inside = (step >= self.start) & (step < self.stop)
    return xp.where(inside, _SHAPES[self.shape](progress, xp), 0.0)


def make_ramp(shape, num_steps, *, warmup=0.0, off=0.0):
  """Returns the `Ramp` of a training.

  Args:
    shape: 'constant', 'linear' or 'cosine'.
    num_steps: length of the training.
    warmup: share of the steps before it, in [0, 1).
    off: share of the steps after it, in [0, 1).

  Raises:
    ValueError: if there is no such shape.
  """
  if shape not in _SHAPES:
    raise ValueError(f'Schedule {shape!r} is unknown; known: {", ".join(_SHAPES)}.')
  return Ramp(shape, round(warmup * num_steps), num_steps - round(off * num_steps))


@dataclasses.dataclass(frozen=True)
class BatchPlan:
  """How the global batches of a training are composed.

  Attributes:
    batch_size: the asked batch size B.
    num_synthetic: the most synthetic positions of a batch, S; the first ones.
    adds: whether synthetic positions come on top of B real ones, or replace some.
    rises: where S changes over the training, the steps at which the count reaches 1, 2
      and so on up to S; None where it does not.
    stop: the step from which on the count is 0, where it changes.
  """

  batch_size: int
  num_synthetic: int
  adds: bool
  rises: tuple[int, ...] | None = None
  stop: int = 0

  @property
  def total(self):
    """Positions of a batch, those included that a schedule leaves empty."""
    return self.batch_size + (self.num_synthetic if self.adds else 0)

  @property
  def num_real(self):
    """The most real examples that a step takes."""
    constant = self.rises is None and not self.adds
    return self.batch_size - (self.num_synthetic if constant else 0)

  def synthetic_at(self, step):
    """Synthetic positions of the batch of a step, an integer or an int32 scalar array."""
    if self.rises is None:
      return self.num_synthetic
    return (step >= np.asarray(self.rises, np.int32)).sum() * (step < self.stop)

  def first_real_at(self, step):
    """The first real position of the batch of a step."""
    return self.num_synthetic if self.adds else self.synthetic_at(step)

  def real_before(self, step):
    """Real examples that the steps before `step` have taken: its place in the stream."""
    if self.adds:
      return step * self.batch_size
    if self.rises is None:
      return step * self.num_real
    ended = step >= self.stop
    since = step * (1 - ended) + self.stop * ended - np.asarray(self.rises, np.int32)
    return step * self.batch_size - (since * (since > 0)).sum()


def plan_batch(batch_size, *, ratio, mode, ramp=None):
  """Plans batches with S = round(ratio * B) synthetic images.

  Args:
    batch_size: B.
    ratio: synthetic ratio S / B in [0, 1].
    mode: 'replace', S of the B positions are synthetic; 'add', S come on top of B real.
    ramp: the `Ramp` of the ratio, which then is the most; None for the same in every
      step.

  Returns:
    A `BatchPlan`.

  Raises:
    ValueError: if the ratio or mode is not allowed.
  """
  if not 0 <= ratio <= 1:
    raise ValueError(f'The synthetic ratio must be in [0, 1], not {ratio}.')
  if mode not in ('replace', 'add'):
    raise ValueError(f"The mix mode must be 'replace' or 'add', not {mode!r}.")
  most = int(ratio * batch_size + 0.5)
  if not (ramp and most):
    return BatchPlan(batch_size, most, mode == 'add')
  # A table of steps, so that counts are whole numbers and the same on every machine.
  counts = np.floor(most * ramp(np.arange(ramp.stop), np) + 0.5)
  rises = np.searchsorted(counts, np.arange(1, most + 1))
  return BatchPlan(batch_size, most, mode == 'add', tuple(rises.tolist()), ramp.stop)


def class_distribution(kind, counts, plan):
  """Shares of the classes among synthetic images.

  Args:
    kind: 'uniform'; 'train', as in the training set; 'inverse', in inverse proportion to
      it; or 'balance', what fills a batch's real examples up to equal classes as far as
      the synthetic ones reach, the rarest first (all of them, at their weight of 1, where
      a schedule gives the most).
    counts: training examples of each class [num_classes], all above 0.
    plan: a `BatchPlan`.

  Returns:
    float64 [num_classes], adding up to 1.

  Raises:
    ValueError: if there is no such kind.
  """
  counts = np.asarray(counts, np.float64)
  if kind == 'balance':
    real = (plan.total - plan.num_synthetic) * counts / counts.sum()
    weights = np.maximum(_water_level(real, plan.num_synthetic) - real, 0)
  elif kind in ('uniform', 'train', 'inverse'):
    weights = counts ** {'uniform': 0, 'train': 1, 'inverse': -1}[kind]
  else:
    raise ValueError(f'There is no class distribution {kind!r}.')
  return weights / weights.sum()


def _water_level(heights, volume):
  """The level to which a volume fills columns of some heights up."""
  heights = np.sort(heights)
  levels = (volume + np.cumsum(heights)) / np.arange(1, len(heights) + 1)
  # Columns above the level take nothing.
  return levels[np.flatnonzero(levels > heights)[-1]]


def feedback_distribution(class_loss, floor=0.1):
  """Shares in proportion to what each class costs the classifier.

  Args:
    class_loss: mean loss on real examples by class, [num_classes], none negative.
    floor: part that is spread evenly, so that no class is given up.

  Returns:
    float [num_classes], adding up to 1.
  """
  total = jnp.sum(class_loss)
  uniform = jnp.full_like(class_loss, 1 / len(class_loss))
  shares = jnp.where(total > 0, class_loss / jnp.where(total > 0, total, 1), uniform)
  return (1 - floor) * shares + floor * uniform


def draw_labels(keys, num_classes, distribution=None):
  """Draws labels, one a key: int32 of the shape of `keys`.

  Args:
    keys: key array.
    num_classes: number of classes.
    distribution: their shares, [num_classes]; None for equal ones.
  """
  if distribution is None:
    draw = lambda key: jax.random.randint(key, (), 0, num_classes, jnp.int32)
  else:
    logits = jnp.log(distribution)
    draw = lambda key: jax.random.categorical(key, logits).astype(jnp.int32)
  return jax.vmap(draw)(keys.reshape(-1)).reshape(keys.shape)


def expand(mask, x):
  """A mask [groups, share] with as many axes as x [groups, share, ...]."""
  return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def select_synthetic(real, synthetic, is_synthetic):
  """Puts synthetic rows where the mask asks for them, in the first slots of each group.

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
