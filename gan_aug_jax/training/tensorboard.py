"""What a training writes for TensorBoard, through clu's writers, if `log.tensorboard`.

These are copies; metrics.jsonl and the pictures are written in any case.
"""

from collections.abc import Iterable
import contextlib
import io
import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from gan_aug_jax import config as config_lib


def make_writer(directory: pathlib.Path):
  """Returns clu's writer of event files in a directory.

  TensorFlow is imported only here: it takes seconds, and would take the accelerator's
  memory if it could see it.
  """
  with _quiet():
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
    from clu import metric_writers
  return metric_writers.SummaryWriter(str(directory))


@contextlib.contextmanager
def _quiet():
  """Drops what TensorFlow's libraries write to stderr before they read any setting."""
  kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(sink, 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(sink)


def write_samples(directory: pathlib.Path, samples: Iterable[pathlib.Path]) -> None:
  """Adds a generator's grids of samples.

  Args:
    samples: PNG files whose names are steps.
  """
  writer = make_writer(directory)
  for path in samples:
    writer.write_images(int(path.stem), {'samples': _read(path.read_bytes())})
  writer.flush()


def write_result(
  directory: pathlib.Path, config, result: dict[str, Any], confusion: bytes
) -> None:
  """Adds the result of an arm, with the config's fields as hyperparameters.

  Args:
    result: the arm's dict of results.json.
    confusion: its confusion matrix as a PNG file.
  """
  writer, step = make_writer(directory), result['num_steps']
  numbers = {k: v for k, v in result.items() if isinstance(v, int | float)}
  writer.write_scalars(step, {f'final/{name}': value for name, value in numbers.items()})
  writer.write_images(step, {'confusion': _read(confusion)})
  as_plain = lambda value: value if isinstance(value, int | float | str) else str(value)
  fields = config_lib.flatten(config)
  writer.write_hparams({name: as_plain(value) for name, value in fields.items()})
  writer.flush()


def _read(png):
  """uint8 [1, H, W, 3] of a picture."""
  return np.asarray(PIL.Image.open(io.BytesIO(png)).convert('RGB'))[None]
