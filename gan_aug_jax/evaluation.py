"""Evaluates a classifier on a split, chunk by chunk through one compiled program."""

import time

import jax
import numpy as np

from gan_aug_jax import classifier, metrics, sharding

BATCH = 500  # images a chunk


def chunks(session, split):
  """Yields (images [BATCH, H, W, C], labels [BATCH], count), placed, the last padded."""
  for start in range(0, len(split), BATCH):
    rows = split.rows(slice(start, start + BATCH))
    pad = BATCH - len(rows)
    images = np.pad(rows.images, [(0, pad), (0, 0), (0, 0), (0, 0)])
    labels = np.pad(rows.labels, (0, pad))
    yield session.layout.place((images, labels, np.int32(len(rows))))


def make_evaluate(session, model, num_classes):
  """Returns `evaluate(variables, split) -> dict`.

  It gives the metrics of `metrics.summarize`, 'loss' (mean, nats), 'confusion',
  'predictions' int32 [N] and 'seconds'. It is compiled once, at the first call.
  """
  step = classifier.make_eval_step(
    model=model,
    layout=session.layout,
    batch_size=BATCH,
    num_classes=num_classes,
    dtype=session.image_dtype('classifier'),
  )
  program = None

  def evaluate(variables, split):
    nonlocal program
    if program is None:
      arguments = (variables, *next(chunks(session, split)))
      program = sharding.compile_step(step, session.layout, *arguments, donate=())
    began = time.perf_counter()
    parts = [
      jax.device_get(program(variables, *chunk)) for chunk in chunks(session, split)
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

  return evaluate
