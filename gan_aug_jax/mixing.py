"""Which positions of a global batch are synthetic.

Position p of a batch is synthetic if and only if p < num_synthetic. With positions dealt
to devices in turn (`sharding.Layout.positions`), that spreads the synthetic images evenly
over any number of devices and moves nothing between them.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class BatchPlan:
  """How a global batch is composed.

  Attributes:
    batch_size: the asked batch size B.
    num_synthetic: S, the first S positions.
    num_real: R, the positions after them; also the real examples used up by a step.
  """

  batch_size: int
  num_synthetic: int
  num_real: int

  @property
  def total(self):
    return self.num_synthetic + self.num_real


def plan_batch(batch_size, *, ratio, mode):
  """Plans a batch with S = round(ratio * B) synthetic images.

  Args:
    batch_size: B.
    ratio: synthetic ratio S / B in [0, 1].
    mode: 'replace', S of the B positions are synthetic; 'add', S come on top of B real.

  Returns:
    A `BatchPlan`.

  Raises:
    ValueError: if the ratio or mode is not allowed.
  """
  if not 0 <= ratio <= 1:
    raise ValueError(f'The synthetic ratio must be in [0, 1], not {ratio}.')
  if mode not in ('replace', 'add'):
    raise ValueError(f"The mix mode must be 'replace' or 'add', not {mode!r}.")
  num_synthetic = int(ratio * batch_size + 0.5)
  num_real = batch_size if mode == 'add' else batch_size - num_synthetic
  return BatchPlan(batch_size, num_synthetic, num_real)


def draw_labels(keys, num_classes):
  """Draws uniform labels, one a key: int32 of the shape of `keys`."""
  draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))
  return draw(keys.reshape(-1)).reshape(keys.shape)


def select_synthetic(real, synthetic, is_synthetic):
  """Puts synthetic rows where the mask asks for them, in the first slots of each group.

  Args:
    real: [groups, share, ...], a row for every slot.
    synthetic: [groups, c, ...] with c <= share, same type.
    is_synthetic: bool [groups, c]; where False the real row stays (a spare slot).

  Returns:
    Array of the shape of `real`.
  """
  count = synthetic.shape[1]
  mask = is_synthetic.reshape(is_synthetic.shape + (1,) * (real.ndim - 2))
  first = jnp.where(mask, synthetic.astype(real.dtype), real[:, :count])
  return jnp.concatenate([first, real[:, count:]], axis=1)
