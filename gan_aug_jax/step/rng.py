"""Named random streams and per-example keys.

Every random number of a training step belongs to an example, not to a device. It is drawn
from a key folded with (stream, step, substep) and then with the example's position in the
global batch, so more devices change where an example is, but not its numbers. threefry is
named explicitly: under `vmap`, rbg draws numbers that depend on how the batch is split.
"""

import flax.struct
import jax
import jax.numpy as jnp

# A stream's place is part of every result: append, never reorder.
_NAMES = ('init', 'latent', 'label', 'augment', 'dropout', 'gan_init', 'gan_latent')
_NAMES += ('gan_statistics', 'show', 'diffaug', 'score', 'choice', 'substitute')
_NAMES += ('partner', 'mix', 'generator')
_STREAMS = {name: number for number, name in enumerate(_NAMES)}

Integer = int | jax.Array


def stream_key(
  seed: Integer, stream: str, step: Integer = 0, substep: Integer = 0
) -> jax.Array:
  """Returns the key of one stream at one step.

  Args:
    seed: non-negative integer below 2^31, or an int32 scalar array.
    stream: name of the stream, one of those above.
    step: training step, an integer or an int32 scalar array.
    substep: a further counter within a step, such as the number of a draw.

  Returns:
    A scalar key array.

  Raises:
    KeyError: if the stream is unknown.
  """
  key = jax.random.key(seed, impl='threefry2x32')
  for number in (_STREAMS[stream], step, substep):
    key = jax.random.fold_in(key, number)
  return key


def example_keys(key: jax.Array, positions: jax.Array) -> jax.Array:
  """Folds each example's global position into a key.

  Args:
    key: scalar key array.
    positions: int32 array of any shape.

  Returns:
    Key array of the shape of `positions`.
  """
  flat = jax.vmap(jax.random.fold_in, (None, 0))(key, positions.reshape(-1))
  return flat.reshape(positions.shape)


def fold_keys(keys: jax.Array, number: Integer) -> jax.Array:
  """The keys [B] of one of several draws for each example."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


@flax.struct.dataclass
class StepKeys:
  """The keys of every stream at one step; `at` gives those of some examples.

  They equal those of `stream_key`, but are derived for all streams at once: each
  derivation is a separate kernel, which takes as long for one stream as for all of them.

  Attributes:
    streams: key array [number of streams], before a substep is folded in.
    firsts: the same with substep 0 folded in.
  """

  streams: jax.Array
  firsts: jax.Array

  def at(self, stream: str, positions: jax.Array, substep: Integer = 0) -> jax.Array:
    """Returns the keys of one stream for some examples.

    Args:
      positions: global positions of the examples, int32 of any shape.
      substep: see `stream_key`.

    Returns:
      Key array of the shape of `positions`.

    Raises:
      KeyError: if the stream is unknown.
    """
    number = _STREAMS[stream]
    if isinstance(substep, int) and substep == 0:
      return example_keys(self.firsts[number], positions)
    return example_keys(jax.random.fold_in(self.streams[number], substep), positions)


def step_keys(seed: Integer, step: Integer) -> StepKeys:
  """Derives the keys of a step.

  Args:
    seed: see `stream_key`.
  """
  root = jax.random.key(seed, impl='threefry2x32')
  numbers = jnp.arange(len(_STREAMS), dtype=jnp.int32)
  streams = fold_keys(jax.vmap(jax.random.fold_in, (None, 0))(root, numbers), step)
  return StepKeys(streams, fold_keys(streams, 0))
