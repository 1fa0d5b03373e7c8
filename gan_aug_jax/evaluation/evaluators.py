"""Evaluates a classifier on a split, chunk by chunk through one compiled program."""

import time

import jax
import numpy as np

from gan_aug_jax.evaluation import metrics
from gan_aug_jax.step import eval_step
from gan_aug_jax.step.programs import Program

BATCH = 500  # images a chunk


def chunks(session, split):
  """Yields (images [BATCH, H, W, C], labels [BATCH], count), placed, the last padded."""
  for start in range(0, len(split), BATCH):
    rows = split.rows(slice(start, start + BATCH))
    pad = BATCH - len(rows)
    images = np.pad(rows.images, [(0, pad), (0, 0), (0, 0), (0, 0)])
    labels = np.pad(rows.labels, (0, pad))
    yield session.layout.place((images, labels, np.int32(len(rows))))


def _blank(session, image_shape):
  """A chunk, as `chunks` yields them, of no image."""
  images, labels = np.zeros((BATCH, *image_shape), np.uint8), np.zeros(BATCH, np.int32)
  return session.layout.place((images, labels, np.int32(0)))


class Evaluator:
  """Evaluates a classifier; `evaluator(variables, split) -> dict`."""

  def __init__(self, session, model, num_classes):
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

  def start(self, variables, image_shape):
    """Compiles in a thread, for variables or shapes like these."""
    self._program.start(variables, *_blank(self._session, image_shape))

  def compile(self, variables, image_shape):
    """Waits until it is compiled; returns the seconds that this took.

    Args:
      variables: placed arrays, or their shapes.
      image_shape: (H, W, C).
    """
    if self._program.is_compiled:
      return 0.0
    place = lambda x: self._session.layout.place(np.zeros(x.shape, x.dtype))
    blank = _blank(self._session, image_shape)
    return self._program.compile(jax.tree.map(place, variables), *blank)

  def __call__(self, variables, split):
    """Evaluates placed variables on a `Split`.

    Returns:
      The metrics of `metrics.summarize`, 'loss' (mean, nats), 'confusion', 'predictions'
      int32 [N] and 'seconds', without those of compilation.
    """
    self.compile(variables, split.images.shape[1:])
    began = time.perf_counter()
    parts = [
      jax.device_get(self._program(variables, *chunk))
      for chunk in chunks(self._session, split)
    ]
    confusion = sum(part['confusion'] for part in parts)
    predictions = [part['predictions'][:BATCH] for part in parts]
    return {
      **metrics.summarize(confusion),
      'loss': float(sum(part['loss'] for part in parts)) / len(split),
      'confusion': confusion,
      'predictions': np.concatenate(predictions)[: len(split)],
      'seconds': time.perf_counter() - began,
    }
