"""Labels images with a classifier of a run; of the run it needs the workdir only."""

import csv
import io
import os
import pathlib

import jax
import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.errors import CheckpointError, ConfigError, DataError
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import arms
from gan_aug_jax.step import device_data
from gan_aug_jax.training import files
from gan_aug_jax.training.files import read_result


def choose_arm(session, asked=''):
  """Chooses the arm to predict with.

  Args:
    session: the run's.
    asked: the arm's name; empty for the one that is best on the validation images.

  Returns:
    `(name, validation accuracy, number of finished arms)`.

  Raises:
    ConfigError: if the run has no such arm.
    CheckpointError: if that, or every arm, is not finished.
  """
  names = session.config.arms
  if asked and asked not in names:
    raise ConfigError(f'--arm={asked} must be an arm of the run: {", ".join(names)}.')
  results = {
    name: read_result(session.path('arms', name, 'result.json')) for name in names
  }
  accuracy = {
    name: result['val_accuracy']
    for name, result in results.items()
    if result and 'val_accuracy' in result
  }
  if not accuracy or (asked and asked not in accuracy):
    which = f'trained classifier {asked!r}' if asked else 'trained classifier'
    raise CheckpointError(
      f'There is no {which} in {str(session.workdir)!r}; run or train-classifier first.'
    )
  name = asked or max(accuracy, key=accuracy.get)
  return name, accuracy[name], len(accuracy)


def label_images(session, info, images, *, arm, output):
  """Writes a table with the label of each image.

  The columns are `file` (relative to `images`, where that is a folder), `label`, its
  `probability`, and `p:CLASS`, the probability of each class.

  Args:
    session: the run's.
    info: its `DataFacts`.
    images: path of an image, or of a folder, of which all images are taken.
    arm: name of a finished arm.
    output: path of the .csv file.

  Returns:
    `(number of labelled images, {name: why} of those that cannot be read)`.

  Raises:
    ConfigError: if `output` is no .csv file.
    DataError: if there are no images, or none that can be read, or if `output` cannot be
      written.
    CheckpointError: if the classifier cannot be read.
  """
  _check_output(output)
  root, names = _find_images(images)
  size, _, channels = info.image_shape
  model = arms.build_model(session, info.num_classes)
  state = arms.restore_arm(
    session,
    arm,
    num_classes=info.num_classes,
    num_train=info.num_train,
    image_shape=info.image_shape,
  )
  classify = make_classify(session, model, min(evaluators.BATCH, len(names)))
  text, bad, labelled = io.StringIO(), {}, 0
  table = csv.writer(text, lineterminator='\n')
  table.writerow(_header(info.class_names))
  for start in range(0, len(names), evaluators.BATCH):
    chunk = names[start : start + evaluators.BATCH]
    pairs = ((name, os.path.join(root, name)) for name in chunk)
    pixels, kept, unread = image_files.read_all(pairs, len(chunk), size)
    bad |= unread
    labelled += len(kept)
    probabilities = classify(state.variables, image_files.with_channels(pixels, channels))
    for i, shares in zip(kept, probabilities, strict=True):
      table.writerow(_row(chunk[i], shares, info.class_names))
  if not labelled:
    raise DataError(f'{image_files.describe_bad(bad, len(names))}; give other --images.')
  _write(output, text.getvalue())
  return labelled, bad


def make_classify(session, model, batch_size):
  """Returns `classify(variables, images uint8 [N, H, W, C]) -> float64 [N, classes]`.

  They are probabilities: each row adds up to 1.

  Args:
    session: the run's.
    model: linen module from `build_classifier`.
    batch_size: images at a time, so that there is one compilation.
  """
  dtype = session.image_dtype('classifier')

  @jax.jit
  def apply(variables, images):
    return model.apply(variables, device_data.normalize(images, dtype), train=False)

  def classify(variables, images):
    rows = [np.zeros((0, model.num_classes))]
    for start in range(0, len(images), batch_size):
      batch = images[start : start + batch_size]
      pad = batch_size - len(batch)
      logits = apply(variables, np.pad(batch, ((0, pad), *((0, 0),) * 3)))
      rows.append(np.asarray(logits, np.float64)[: len(batch)])
    logits = np.concatenate(rows)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)

  return classify


def _find_images(images):
  """The directory that names are relative to, and the names."""
  if os.path.isfile(images):
    return '', [images]
  if not os.path.isdir(images):
    raise DataError(f'--images={images} does not exist; name an image or a folder.')
  names = image_files.find(images, images)
  if not names:
    raise DataError(f'--images={images} holds no images, such as .png or .jpg.')
  return images, names


def _header(class_names):
  return ['file', 'label', 'probability', *(f'p:{name}' for name in class_names)]


def _row(name, shares, class_names):
  best = int(shares.argmax())
  numbers = [f'{share:.8f}' for share in (shares[best], *shares)]
  return [name, class_names[best], *numbers]


def _check_output(output):
  # Or a slip of the pen would put a table in the place of an image.
  if pathlib.Path(output).suffix.lower() != '.csv' or os.path.isdir(output):
    raise ConfigError(f'--output={output} must be a .csv file.')


def _write(output, text):
  try:
    # Names of files may hold any bytes.
    files.write_atomically(output, text.encode('utf-8', 'surrogateescape'))
  except OSError as error:
    raise DataError(
      f'{str(output)!r} cannot be written ({error.strerror}); give another --output.'
    ) from None
