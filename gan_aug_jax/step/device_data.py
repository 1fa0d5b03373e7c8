"""The real images on the device, and the order in which steps take them.

Real examples form one endless stream, a new permutation of the training set for every
epoch, of which step t takes R elements from t * R on. No example is dropped at the end of
an epoch, a set may be smaller than a batch, and what a step takes is a function of (seed,
step), so a resumed run continues exactly. Permutations are made on the host, an epoch or
two at a time: a sort in every step would not be free.
"""

from collections.abc import Callable
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.step.rng import Integer


@flax.struct.dataclass
class DeviceDataset:
  """A training set on every device, and a window of its stream.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N].
    by_class: int32 [N], indices into the above, sorted by label.
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
class StreamedBatches:
  """The real examples of some steps, sent from the host to the devices that use them.

  Attributes:
    images: uint8 [groups, num_steps, substeps, share, H, W, C].
    labels: int32 [groups, num_steps, substeps, share].
    start: int32 scalar, the first of those steps.
  """

  images: jax.Array
  labels: jax.Array
  start: jax.Array


RealExamples = DeviceDataset | StreamedBatches


def normalize(images: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """Maps uint8 [..., H, W, C] in 0..255 to floats in [-1, 1]."""
  return images.astype(dtype) / 127.5 - 1


def to_pixels(images: jax.Array) -> jax.Array:
  """Maps floats [..., H, W, C] in [-1, 1] to the nearest uint8 in 0..255."""
  return jnp.rint((images.astype(jnp.float32) + 1) * 127.5).astype(jnp.uint8)


def read(
  data: DeviceDataset, rows: jax.Array, dtype: jnp.dtype = jnp.float32
) -> tuple[jax.Array, jax.Array]:
  """Reads rows of the set.

  Args:
    rows: int32 [...].

  Returns:
    Images [..., H, W, C] in [-1, 1] and labels int32 [...].
  """
  return normalize(data.images[rows], dtype), data.labels[rows]


def draw_rows(
  data: DeviceDataset, keys: jax.Array, labels: jax.Array | None = None
) -> jax.Array:
  """Draws a row of the set for each key, uniformly and independently of the stream.

  Args:
    keys: key array [...].
    labels: int32 [...], to draw rows of these classes only; None for any.

  Returns:
    int32 of the shape of `keys`.
  """
  if labels is None:
    first, last = jnp.zeros(keys.shape, jnp.int32), len(data.labels)
  else:
    first, last = data.class_starts[labels], data.class_starts[labels + 1]
  count = jnp.broadcast_to(last - first, keys.shape)
  draw = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count, jnp.int32))
  drawn = first + draw(keys.reshape(-1), count.reshape(-1)).reshape(keys.shape)
  return drawn if labels is None else data.by_class[drawn]


def gather_stream(
  data: RealExamples,
  index: jax.Array,
  dtype: jnp.dtype = jnp.float32,
  *,
  step: Integer = 0,
  substep: Integer = 0,
) -> tuple[jax.Array, jax.Array]:
  """Gathers elements of the stream.

  Args:
    data: a `DeviceDataset` whose window holds every index that matters; or the
      `StreamedBatches` of a step, which are in order already.
    index: int32 [groups, share], places in the stream. One outside the window gives some
      example of it: a masked slot may point anywhere.
    step, substep: which of the `StreamedBatches`.

  Returns:
    Images [groups, share, H, W, C] in [-1, 1] and labels int32 [groups, share].
  """
  if isinstance(data, StreamedBatches):
    at = lambda x: jax.lax.dynamic_index_in_dim(x, step - data.start, 1, keepdims=False)
    images, labels = (at(x)[:, substep] for x in (data.images, data.labels))
    return normalize(images, dtype), labels
  return read(data, data.order.at[index - data.start].get(mode='clip'), dtype)


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Returns the permutation of one epoch.

  Args:
    epoch: its number, from 0.

  Returns:
    int32 [num_examples].
  """
  return np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)


def arrange(images: np.ndarray, labels: np.ndarray) -> DeviceDataset:
  """Prepares a `DeviceDataset` on the host, to be placed on the devices.

  Args:
    images: uint8 [N, H, W, C].
    labels: [N].
  """
  by_class = np.argsort(labels, kind='stable').astype(np.int32)
  class_starts = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int32)
  return DeviceDataset(images, labels.astype(np.int32), by_class, class_starts)


def make_feed(
  examples: DeviceDataset, *, seed: int, place: Callable
) -> Callable[[int, int], DeviceDataset]:
  """Returns the feed of a set that is on the devices.

  Args:
    examples: the set, placed, with at least one example.
    place: puts host arrays on the devices.

  Returns:
    `feed(first, count) -> DeviceDataset` whose window holds elements first to
    first + count - 1 of the stream. The window has the length `window_length` and is
    renewed about once an epoch.
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


def window_length(num_examples: int, count: int) -> int:
  """Returns the length of a window, in whole epochs, that holds any `count` elements.

  Args:
    count: successive elements that are taken at once.
  """
  return (max(0, count - 1) // num_examples + 2) * num_examples
