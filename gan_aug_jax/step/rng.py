"""Named random streams and per-example keys.

Every random number of a training step belongs to an example, not to a device: it is
drawn from a key folded with (stream, step, substep) and then with the example's position
in the global batch. Splitting the batch over more devices moves the examples and leaves
their numbers alone. threefry is named outright because rbg, under `vmap`, draws numbers
that depend on the share they are drawn in.
"""

import flax.struct
import jax
import jax.numpy as jnp

# A stream's number is part of every result: append, never renumber.
_STREAMS = {
  'init': 0,
  'latent': 1,
  'label': 2,
  'augment': 3,
  'dropout': 4,
  'gan_init': 5,
  'gan_latent': 6,
  'gan_statistics': 7,
  'show': 8,
  'diffaug': 9,
  'score': 10,
  'choice': 11,
  'substitute': 12,
  'partner': 13,
  'mix': 14,
}


def stream_key(seed, stream, step=0, substep=0):
  """Returns the key of one stream at one step.

  Args:
    seed: non-negative integer below 2^31, or an int32 scalar array.
    stream: name of the stream, one of those above.
    step: training step, an integer or an int32 scalar array.
    substep: further counter inside a step (a layer, a discriminator step).

  Returns:
    A scalar key array.

  Raises:
    KeyError: if there is no such stream.
  """
  key = jax.random.key(seed, impl='threefry2x32')
  for number in (_STREAMS[stream], step, substep):
    key = jax.random.fold_in(key, number)
  return key


def example_keys(key, positions):
  """Folds each example's global position into a key.

  Args:
    key: scalar key array.
    positions: int32 array of any shape.

  Returns:
    Key array of the shape of `positions`.
  """
  flat = jax.vmap(jax.random.fold_in, (None, 0))(key, positions.reshape(-1))
  return flat.reshape(positions.shape)


@flax.struct.dataclass
class StepKeys:
  """The keys of every stream at one step, `keys(stream, positions, substep=0)`.

  They are those of `stream_key`, derived for all streams at once: each derivation is a
  kernel of its own, and takes as long for one stream as for all.

  Attributes:
    streams: key array [number of streams], before a substep is folded in.
    firsts: those of substep 0.
  """

  streams: jax.Array
  firsts: jax.Array

  def __call__(self, stream, positions, substep=0):
    """Per-example keys, of the shape of `positions`."""
    number = _STREAMS[stream]
    if isinstance(substep, int) and substep == 0:
      return example_keys(self.firsts[number], positions)
    return example_keys(jax.random.fold_in(self.streams[number], substep), positions)


def step_keys(seed, step):
  """The `StepKeys` of a step; `seed` and `step` as `stream_key`."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  root = jax.random.key(seed, impl='threefry2x32')
  numbers = jnp.arange(len(_STREAMS), dtype=jnp.int32)
  streams = fold(jax.vmap(jax.random.fold_in, (None, 0))(root, numbers), step)
  return StepKeys(streams, fold(streams, 0))
