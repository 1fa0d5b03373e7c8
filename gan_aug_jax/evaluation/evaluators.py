"""Evaluates a classifier on any split, chunk by chunk through one compiled program."""

from collections.abc import Callable, Iterable, Iterator
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.data.splits import Split
from gan_aug_jax.evaluation import metrics
from gan_aug_jax.step import device_data, eval_step, programs, sharding

BATCH = 500  # images a chunk
# Pixels of a chunk on an accelerator, which 500 small images do not keep busy: those of
# 5,120 images of 32x32, so that the validation images of CIFAR-10 are one call and its
# test images two, with little to fill up.
_PIXELS = 5 * 2**20
_MEMORY_SHARE = 1 / 8  # of a device, for the largest array of a call
_MOST_KEPT_BYTES = 2**26  # of the pixels of a split whose chunks stay on the devices


def chunks(layout, split: Split, size: int = BATCH) -> Iterator[tuple]:
  """Cuts a split into chunks of one shape.

  Yields:
    (images uint8 [size, H, W, C], labels int32 [size], count), placed: the first
    `count` are of the split, and in the last chunk zeros follow them.
  """
  for start in range(0, len(split), size):
    yield _pad(layout, split.rows(slice(start, start + size)), size)


@functools.lru_cache(maxsize=8)  # the validation images of seeds that train together
def _on_devices(layout, split, size):
  return list(chunks(layout, split, size))


def _memory_per_device(layout):
  """Bytes of memory of a device, or None where it does not tell."""
  return (layout.mesh.local_devices[0].memory_stats() or {}).get('bytes_limit')


def _pad(layout, split, size):
  """One chunk, of at most `size` images."""
  pad = size - len(split)
  images = np.pad(split.images, [(0, pad), (0, 0), (0, 0), (0, 0)])
  return layout.replicate((images, np.pad(split.labels, (0, pad)), np.int32(len(split))))


def join(parts: Iterable[np.ndarray], count: int, size: int = BATCH) -> np.ndarray:
  """Joins the results of chunks to [count, ...].

  Args:
    parts: arrays [size or more, ...]: rows past `size` fill up the devices.
  """
  return np.concatenate([part[:size] for part in parts])[:count]


def make_batched(
  layout, function: Callable, *, dtype: jnp.dtype, size: int = BATCH
) -> Callable:
  """Returns `apply(variables, images uint8 [N, H, W, C]) -> tree of arrays [N, ...]`.

  Args:
    function: `(variables, images [B, H, W, C] in [-1, 1]) -> tree of arrays [B, ...]`.
    dtype: of the images that it gets.
    size: images a chunk; all chunks take the same program. N is at least 1.
  """

  def step(variables, images, labels, count):
    del labels, count
    position = layout.positions(size)
    x = device_data.normalize(images.at[position].get(mode='clip'), dtype)
    return jax.tree.map(layout.all_gather, function(variables, sharding.flatten(x)))

  program = programs.Program(step, layout, donate=())

  def apply(variables, images):
    split = Split(images, np.zeros(len(images), np.int32))
    parts = [
      jax.device_get(program(variables, *chunk)) for chunk in chunks(layout, split, size)
    ]
    return jax.tree.map(lambda *parts: join(parts, len(split), size), *parts)

  return apply


class Evaluator:
  """Evaluates a classifier; `evaluator(variables, split) -> dict`."""

  def __init__(self, session, model, *, largest: int):
    """Prepares the program, which is compiled at the first call, or by `start`.

    Args:
      model: linen module from `build_classifier`.
      largest: images of the largest split that it will evaluate; a larger one takes more
        calls.
    """
    self._session, self._model, self._sizes = session, model, {}
    self._largest = largest
    step = eval_step.make_eval_step(
      model=model, layout=session.layout, dtype=session.image_dtype('classifier')
    )
    self._program = programs.Program(step, session.layout, donate=())

  def chunk_size(self, variables, image_shape: tuple) -> int:
    """Images per call: `BATCH`, and on accelerators as many more as are useful and fit.

    Args:
      variables: placed arrays, or their shapes.
      image_shape: (H, W, C).
    """
    if image_shape not in self._sizes:
      self._sizes[image_shape] = self._find_size(variables, image_shape)
    return self._sizes[image_shape]

  def _find_size(self, variables, image_shape):
    layout = self._session.layout
    if layout.on_cpu:
      return BATCH
    most = _PIXELS // (image_shape[0] * image_shape[1])
    memory = _memory_per_device(layout)
    if memory and jax.process_count() == 1:  # all processes must take the same program
      dtype = self._session.image_dtype('classifier')
      images = jax.ShapeDtypeStruct((1, BATCH, *image_shape), dtype)
      apply = functools.partial(self._model.apply, train=False)
      # The user's network may use the device axis.
      apply = jax.vmap(apply, (None, 0), axis_name=layout.axis_name)
      each = max(programs.largest_array(apply, variables, images) / BATCH, 1)
      most = min(most, int(layout.num_devices * _MEMORY_SHARE * memory / each))
    # Small splits would mostly be evaluated on padding.
    return max(BATCH, min(most, BATCH * math.ceil(self._largest / BATCH)))

  def start(self, variables, image_shape: tuple) -> None:
    """Compiles in a thread.

    Args:
      variables: placed arrays, or their shapes.
    """
    self._program.start(variables, *self._blank(variables, image_shape))

  def compile(self, variables, image_shape: tuple) -> float:
    """Waits until the program is compiled; returns the seconds that this took.

    Args:
      variables: placed arrays, or their shapes.
    """
    if self._program.is_compiled:
      return 0.0
    place = lambda x: self._session.layout.replicate(np.zeros(x.shape, x.dtype))
    variables = jax.tree.map(place, variables)
    return self._program.compile(variables, *self._blank(variables, image_shape))

  def _blank(self, variables, image_shape):
    """A chunk without any image."""
    images, labels = np.zeros((0, *image_shape), np.uint8), np.zeros(0, np.int32)
    size = self.chunk_size(variables, image_shape)
    return _pad(self._session.layout, Split(images, labels), size)

  def __call__(self, variables, split: Split) -> dict:
    """Evaluates a classifier on a split.

    Args:
      variables: of the classifier, placed.

    Returns:
      The metrics of `metrics.summarize`, 'loss' (mean, nats), 'confusion', 'predictions'
      int32 [N], 'calls' of the program and their 'seconds', compilation left out.
    """
    image_shape = split.images.shape[1:]
    self.compile(variables, image_shape)
    size = self.chunk_size(variables, image_shape)
    began, parts = time.perf_counter(), []
    keep = split.images.nbytes <= _MOST_KEPT_BYTES
    placed = (_on_devices if keep else chunks)(self._session.layout, split, size)
    for chunk in placed:
      parts.append(self._program(variables, *chunk))
      if not keep:  # or all chunks of a large split would be on the devices
        jax.block_until_ready(parts[-2:][0])
    parts = jax.device_get(parts)
    confusion = sum(part['confusion'] for part in parts)
    return {
      **metrics.summarize(confusion),
      'loss': float(sum(part['loss'] for part in parts)) / len(split),
      'confusion': confusion,
      'predictions': join([part['predictions'] for part in parts], len(split), size),
      'calls': len(parts),
      'seconds': time.perf_counter() - began,
    }
