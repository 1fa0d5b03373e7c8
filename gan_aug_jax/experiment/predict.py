"""Labels images with a classifier of a run, from nothing but its workdir."""

import csv
import functools
import io
import logging
import os
import pathlib

import numpy as np
import scipy.special

from gan_aug_jax.data import image_files, notes
from gan_aug_jax.errors import ConfigError, DataError
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import evaluate, recipe
from gan_aug_jax.training import files
from gan_aug_jax.training.progress import format_percent


def choose_arm(session, name='') -> tuple[str, str]:
  """Chooses the arm to predict with.

  Args:
    name: of the arm; empty for the best one on the validation images.

  Returns:
    `(name, what to say after it)`: how it was chosen, and its validation accuracy.

  Raises:
    ConfigError: if the run has no such arm, or trained on its validation images, which
      then cannot choose one of several.
    CheckpointError: if that arm, or every arm, is not finished.
  """
  names = session.config.arms
  if name and name not in names:
    raise ConfigError(f'--arm={name} must be an arm of the run: {", ".join(names)}.')
  results = evaluate.finished_arms(session, name)
  if session.config.data.train_on_val:
    if not name and len(results) > 1:
      raise ConfigError(
        'The run trained on its validation images, so they cannot say which arm is best; '
        f'choose one with --arm: {", ".join(results)}.'
      )
    return name or next(iter(results)), ''
  accuracy = {arm: result.get('val_accuracy', 0.0) for arm, result in results.items()}
  best = '' if name else f', the best of {len(results)}'
  name = name or max(accuracy, key=accuracy.get)
  shown = format_percent(accuracy[name], 2)
  return name, f'{best} ({shown} accuracy on validation images)'


def label_images(session, facts, images, *, arm, output) -> tuple[int, dict[str, str]]:
  """Writes a table with the label of each image.

  The columns are `file` (relative to `images`, if that is a folder), `label`, its
  `probability`, and `p:CLASS`, the probability of each class.

  Args:
    facts: its `DataFacts`.
    images: path of an image, or of a folder with images at any depth.
    arm: name of a finished arm.
    output: path of the .csv file.

  Returns:
    `(number of labelled images, {name: why} of those that cannot be read)`.

  Raises:
    ConfigError: if `output` is not a .csv file, or `images` holds the workdir.
    DataError: if there are no readable images.
    CheckpointError: if the classifier cannot be read.
    WriteError: if `output` cannot be written.
  """
  # A typo must not replace an image with a table.
  if pathlib.Path(output).suffix.lower() != '.csv' or os.path.isdir(output):
    raise ConfigError(f'--output={output} must be a .csv file.')
  _refuse_own_pictures(session.workdir, images)
  root, names = _find_images(images)
  class_names, (size, _, channels) = facts.class_names, facts.image_shape
  depth = facts.bit_depth or _find_bit_depth(images, root, names)
  state = evaluate.restore_arm(session, arm, facts)
  batch_size = min(evaluators.BATCH, len(names))
  classify = _make_classify(session, facts, batch_size)
  text, unreadable = io.StringIO(), {}
  table = csv.writer(text, lineterminator='\n')
  table.writerow(['file', 'label', 'probability', *(f'p:{name}' for name in class_names)])
  for start in range(0, len(names), batch_size):
    chunk = names[start : start + batch_size]
    paths = [os.path.join(root, name) for name in chunk]
    pixels, kept, unread = image_files.read_all(chunk, paths, size, depth)
    unreadable |= unread
    if not len(kept):
      continue
    logits = classify(state.evaluated, image_files.with_channels(pixels, channels))
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    for i, shares in zip(kept, probabilities, strict=True):
      best = int(shares.argmax())
      numbers = [f'{share:.8f}' for share in (shares[best], *shares)]
      table.writerow([chunk[i], class_names[best], *numbers])
  if len(unreadable) == len(names):
    described = image_files.describe_bad(unreadable, len(names))
    raise DataError(f'{described}; choose a different file or folder for --images.')
  # File names may hold any bytes.
  files.write_atomically(output, text.getvalue().encode('utf-8', 'surrogateescape'))
  return len(names) - len(unreadable), unreadable


def _make_classify(session, facts, batch_size):
  """Returns `classify(variables, images uint8 [N, H, W, C]) -> logits`."""
  apply = functools.partial(recipe.build_model(session, facts).apply, train=False)
  dtype = session.image_dtype('classifier')
  return evaluators.make_batched(session.layout, apply, dtype=dtype, size=batch_size)


def _refuse_own_pictures(workdir, images):
  """Refuses a folder that holds the workdir, whose grids of samples are no input."""
  workdir = pathlib.Path(workdir).resolve()
  if pathlib.Path(images).resolve() in (workdir, *workdir.parents):
    raise ConfigError(
      f'--images={images} contains the workdir, whose own pictures would be classified, '
      'too; name a folder without it.'
    )


def _find_images(images):
  """The directory that names are relative to, and the names."""
  if os.path.isfile(images):
    return '', [images]
  if not os.path.isdir(images):
    exists = os.path.exists(images)
    problem = 'is neither an image nor a folder' if exists else 'does not exist'
    raise DataError(f'--images={images} {problem}; name an image file or a folder.')
  names = image_files.find(images, images)
  if not names:
    raise DataError(
      f'--images={images} holds no images (.png, .jpg and so on); name another folder.'
    )
  return images, names


def _find_bit_depth(images, root, names):
  """How many bits the images use if they are the first of 16 bits that the run sees."""
  depth = image_files.find_bit_depth(os.path.join(root, name) for name in names)
  for note in notes.bit_depth(images, depth):
    logging.getLogger('gan_aug_jax').warning('%s', note)
  return depth or 16
