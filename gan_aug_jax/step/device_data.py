"""The real images on the device, and the order in which steps take them.

Real examples form one endless stream: a permutation of the training set for every epoch,
one after the other. Step t takes the R elements from t * R on. No example is dropped at
an epoch's end, a set may be smaller than a batch, and what a step takes is a function of
(seed, step), so that a resumed run goes on exactly. Permutations are made on the host, an
epoch or two at a time: a sort in every step would not be free.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class RealData:
  """Real examples and a window of their stream.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N].
    by_class: int32 [N], indices into the above sorted by label.
    class_starts: int32 [num_classes + 1], where each class begins in `by_class`.
    order: int32 [window], indices into the images; None before there is a window.
    start: int32 scalar, the place of `order[0]` in the stream.
  """

  images: jax.Array
  labels: jax.Array
  by_class: jax.Array
  class_starts: jax.Array
  order: jax.Array | None = None
  start: jax.Array | None = None


@flax.struct.dataclass
class StreamedData:
  """The real examples that some steps take, each on the device of its position.

  Attributes:
    images: uint8 [groups, num_steps, substeps, share, H, W, C].
    labels: int32 [groups, num_steps, substeps, share].
    start: int32 scalar, the first of those steps.
  """

  images: jax.Array
  labels: jax.Array
  start: jax.Array


def normalize(images, dtype=jnp.float32):
  """Maps uint8 [..., H, W, C] in 0..255 to [-1, 1]."""
  return images.astype(dtype) / 127.5 - 1


def to_pixels(images):
  """Maps floats [..., H, W, C] in [-1, 1] to uint8 in 0..255, the nearest."""
  return jnp.rint((images.astype(jnp.float32) + 1) * 127.5).astype(jnp.uint8)


def read(data, rows, dtype=jnp.float32):
  """Images [..., H, W, C] in [-1, 1] and labels [...] of rows int32 [...] of the set."""
  return normalize(data.images[rows], dtype), data.labels[rows]


def draw_rows(data, keys, labels=None):
  """Draws a row of the set for each key, uniformly.

  Args:
    data: a `RealData`.
    keys: key array [...].
    labels: int32 [...], to draw rows of these classes only; or None for any.

  Returns:
    int32 of the shape of `keys`. The draw is apart from the stream's order.
  """
  if labels is None:
    first, last = jnp.zeros(keys.shape, jnp.int32), len(data.labels)
  else:
    first, last = data.class_starts[labels], data.class_starts[labels + 1]
  count = jnp.broadcast_to(last - first, keys.shape)
  draw = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count, jnp.int32))
  drawn = first + draw(keys.reshape(-1), count.reshape(-1)).reshape(keys.shape)
  return drawn if labels is None else data.by_class[drawn]


def take(data, index, dtype=jnp.float32, *, step=0, substep=0):
  """Gathers elements of the stream.

  Args:
    data: a `RealData` whose window holds every index that matters; or the
      `StreamedData` of a step, where they lie ready.
    index: int32 [groups, share], places in the stream. One outside the window gives some
      example of it: a slot that is masked may point anywhere.
    dtype: of the images.
    step, substep: which batch of `StreamedData`.

  Returns:
    Images [groups, share, H, W, C] in [-1, 1] and labels int32 [groups, share].
  """
  if isinstance(data, StreamedData):
    at = lambda x: jax.lax.dynamic_index_in_dim(x, step - data.start, 1, keepdims=False)
    images, labels = (at(x)[:, substep] for x in (data.images, data.labels))
    return normalize(images, dtype), labels
  return read(data, data.order.at[index - data.start].get(mode='clip'), dtype)


def epoch_order(seed, epoch, num_examples):
  """The permutation of one epoch: int32 [num_examples]."""
  return np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)


def arrange(images, labels):
  """The `RealData` of images uint8 [N, H, W, C] and labels [N], on the host."""
  by_class = np.argsort(labels, kind='stable').astype(np.int32)
  class_starts = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int32)
  return RealData(images, labels.astype(np.int32), by_class, class_starts)


def make_feed(examples, *, seed, place):
  """Returns the feed of a set that is on the devices.

  Args:
    examples: a `RealData`, placed; it has one example or more.
    seed: of the order.
    place: puts host arrays on the devices.

  Returns:
    `feed(first, count) -> RealData` whose window holds elements first to
    first + count - 1 of the stream. The window's length is `window_length`; it is renewed
    about once an epoch.
  """
  num_examples = len(examples.labels)
  held, data = range(0), None

  def feed(first, count):
    nonlocal held, data
    length = window_length(num_examples, count)
    if len(held) != length or first not in held or first + count > held.stop:
      epoch, num_epochs = first // num_examples, length // num_examples
      start = epoch * num_examples
      orders = [epoch_order(seed, epoch + i, num_examples) for i in range(num_epochs)]
      order, at = place((np.concatenate(orders), np.int32(start)))
      held = range(start, start + length)
      data = dataclasses.replace(examples, order=order, start=at)
    return data

  return feed


def window_length(num_examples, count):
  """Elements of a window that holds any `count` in turn: whole epochs."""
  return (max(0, count - 1) // num_examples + 2) * num_examples
