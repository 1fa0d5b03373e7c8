"""The plan of a training's batches: which positions are synthetic at which step.

Position p of a global batch is synthetic if and only if p < S. Positions are assigned to
devices in turn (`sharding.Layout.positions`), so the synthetic images are spread evenly
over any number of devices and nothing moves between them. S may change from step to step,
below a bound that is fixed when the program is compiled.
"""

import dataclasses
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

Step = int | np.ndarray | jax.Array

_SHAPES = {
  'constant': lambda progress, xp: xp.ones_like(progress),
  'linear': lambda progress, xp: progress,
  'cosine': lambda progress, xp: (1 - xp.cos(np.pi * progress)) / 2,
}


@dataclasses.dataclass(frozen=True)
class Ramp:
  """How a quantity rises during training: 0 before `start`, up to 1, 0 from `stop` on.

  Attributes:
    shape: 'constant', 'linear' or 'cosine' (half a wave).
    start: the first step that may be above 0.
    stop: the first step that is 0 again; the step before it has 1.
  """

  shape: str
  start: int
  stop: int

  def __call__(self, step: Step, xp: ModuleType = jnp) -> Step:
    """Returns the height in [0, 1] at a step.

    Args:
      step: a step, or an array of steps.
      xp: array library to compute in, `jax.numpy` or `numpy`.
    """
    length = self.stop - self.start - 1
    progress = xp.clip((step - self.start + (length < 1)) / max(length, 1), 0, 1)
    inside = (step >= self.start) & (step < self.stop)
    return xp.where(inside, _SHAPES[self.shape](progress, xp), 0.0)


def make_ramp(
  shape: str, num_steps: int, *, start: float = 0.0, stop: float = 1.0
) -> Ramp:
  """Returns the `Ramp` of a training.

  Args:
    shape: 'constant', 'linear' or 'cosine'.
    start: fraction of the steps at which the ramp starts, in [0, 1).
    stop: fraction of the steps at which it stops, in (0, 1].

  Raises:
    ValueError: if the shape is unknown.
  """
  if shape not in _SHAPES:
    raise ValueError(f'Schedule {shape!r} is unknown; known: {", ".join(_SHAPES)}.')
  return Ramp(shape, round(start * num_steps), round(stop * num_steps))


@dataclasses.dataclass(frozen=True)
class BatchPlan:
  """How the global batches of a training are composed.

  Attributes:
    batch_size: the configured batch size B.
    num_synthetic: S, the largest number of synthetic positions; they come first.
    adds: whether synthetic positions are added to B real ones or replace some of them.
    rises: the steps at which the count reaches 1, 2, ..., S, if it changes during the
      training; None if it does not.
    stop: the first step at which it is 0 again, if it changes.
  """

  batch_size: int
  num_synthetic: int
  adds: bool
  rises: tuple[int, ...] | None = None
  stop: int = 0

  @property
  def total(self) -> int:
    """Positions of a batch, including those that a schedule leaves empty."""
    return self.batch_size + (self.num_synthetic if self.adds else 0)

  @property
  def num_real(self) -> int:
    """The largest number of real examples that a step takes."""
    constant = self.rises is None and not self.adds
    return self.batch_size - (self.num_synthetic if constant else 0)

  def synthetic_at(self, step: Step) -> Step:
    """The number of synthetic positions at a step."""
    if self.rises is None:
      return self.num_synthetic
    return (step >= np.asarray(self.rises, np.int32)).sum() * (step < self.stop)

  def first_real_at(self, step: Step) -> Step:
    """The first real position at a step."""
    return self.num_synthetic if self.adds else self.synthetic_at(step)

  def real_before(self, step: Step) -> Step:
    """The number of real examples taken before a step: its place in the stream."""
    if self.adds:
      return step * self.batch_size
    if self.rises is None:
      return step * self.num_real
    ended = step >= self.stop
    since = step * (1 - ended) + self.stop * ended - np.asarray(self.rises, np.int32)
    return step * self.batch_size - (since * (since > 0)).sum()


def plan_batch(
  batch_size: int, *, ratio: float, mode: str, ramp: Ramp | None = None
) -> BatchPlan:
  """Plans batches with S = round(ratio * B) synthetic images.

  Args:
    batch_size: B.
    ratio: synthetic ratio S / B in [0, 1].
    mode: 'replace', S of the B positions are synthetic; 'add', S come on top of B real.
    ramp: scales the ratio over the training; None keeps it constant.

  Raises:
    ValueError: if the ratio or the mode is invalid.
  """
  if not 0 <= ratio <= 1:
    raise ValueError(f'The synthetic ratio must be in [0, 1], not {ratio}.')
  if mode not in ('replace', 'add'):
    raise ValueError(f"The mix mode must be 'replace' or 'add', not {mode!r}.")
  most = int(ratio * batch_size + 0.5)
  if not (ramp and most):
    return BatchPlan(batch_size, most, mode == 'add')
  # A table of steps, so that counts are integers and the same on every machine.
  counts = np.floor(most * ramp(np.arange(ramp.stop), np) + 0.5)
  rises = np.searchsorted(counts, np.arange(1, most + 1))
  return BatchPlan(batch_size, most, mode == 'add', tuple(rises.tolist()), ramp.stop)
