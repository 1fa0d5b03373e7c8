"""Evaluates a classifier on any split, chunk by chunk through one compiled program."""

from collections.abc import Iterator
import time

import jax
import numpy as np

from gan_aug_jax.data.splits import Split
from gan_aug_jax.evaluation import metrics
from gan_aug_jax.step import eval_step
from gan_aug_jax.step.programs import Program

BATCH = 500  # images a chunk


def chunks(session, split: Split) -> Iterator[tuple]:
  """Cuts a split into chunks of one shape.

  Args:
    session: the run's.
    split: images and labels.

  Yields:
    (images uint8 [BATCH, H, W, C], labels int32 [BATCH], count), placed: the first
    `count` are of the split, and in the last chunk zeros follow them.
  """
  for start in range(0, len(split), BATCH):
    yield _pad(session, split.rows(slice(start, start + BATCH)))


def _pad(session, split):
  """One chunk, of at most BATCH images."""
  pad = BATCH - len(split)
  images = np.pad(split.images, [(0, pad), (0, 0), (0, 0), (0, 0)])
  return session.layout.replicate(
    (images, np.pad(split.labels, (0, pad)), np.int32(len(split)))
  )


def join(parts: list, count: int) -> np.ndarray:
  """Joins the results of chunks to [count, ...].

  Args:
    parts: arrays [BATCH or more, ...]: rows past BATCH fill up the devices.
    count: images of the split.
  """
  return np.concatenate([part[:BATCH] for part in parts])[:count]


class Evaluator:
  """Evaluates a classifier; `evaluator(variables, split) -> dict`."""

  def __init__(self, session, model, num_classes: int):
    """Prepares the program, which is compiled at the first call, or by `start`.

    Args:
      session: the run's.
      model: linen module from `build_classifier`.
      num_classes: number of classes.
    """
    self._session = session
    step = eval_step.make_eval_step(
      model=model,
      layout=session.layout,
      batch_size=BATCH,
      num_classes=num_classes,
      dtype=session.image_dtype('classifier'),
    )
    self._program = Program(step, session.layout, donate=())

  def start(self, variables, image_shape: tuple) -> None:
    """Compiles in a thread.

    Args:
      variables: placed arrays, or their shapes.
      image_shape: (H, W, C).
    """
    self._program.start(variables, *self._blank(image_shape))

  def compile(self, variables, image_shape: tuple) -> float:
    """Waits until the program is compiled; returns the seconds that this took.

    Args:
      variables: placed arrays, or their shapes.
      image_shape: (H, W, C).
    """
    if self._program.is_compiled:
      return 0.0
    place = lambda x: self._session.layout.replicate(np.zeros(x.shape, x.dtype))
    variables = jax.tree.map(place, variables)
    return self._program.compile(variables, *self._blank(image_shape))

  def _blank(self, image_shape):
    """A chunk without any image."""
    images, labels = np.zeros((0, *image_shape), np.uint8), np.zeros(0, np.int32)
    return _pad(self._session, Split(images, labels))

  def __call__(self, variables, split: Split) -> dict:
    """Evaluates a classifier on a split.

    Args:
      variables: of the classifier, placed.
      split: images and labels.

    Returns:
      The metrics of `metrics.summarize`, 'loss' (mean, nats), 'confusion', 'predictions'
      int32 [N] and 'seconds', compilation left out.
    """
    self.compile(variables, split.images.shape[1:])
    began = time.perf_counter()
    parts = [
      jax.device_get(self._program(variables, *chunk))
      for chunk in chunks(self._session, split)
    ]
    confusion = sum(part['confusion'] for part in parts)
    return {
      **metrics.summarize(confusion),
      'loss': float(sum(part['loss'] for part in parts)) / len(split),
      'confusion': confusion,
      'predictions': join([part['predictions'] for part in parts], len(split)),
      'seconds': time.perf_counter() - began,
    }
