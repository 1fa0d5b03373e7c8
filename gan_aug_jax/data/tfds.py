"""TensorFlow Datasets. Reading them needs no TensorFlow if prepared as ArrayRecord."""

import logging
import os
import re

import numpy as np

from gan_aug_jax import logs
from gan_aug_jax.data import image_files, notes, split_names
from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError

_CHUNK = 1024  # examples


def load(request: Request) -> Collection:
  """Loads an image-classification dataset by its TFDS name, and prepares it if necessary.

  It is looked for in `data_dir`, or else in TFDS_DATA_DIR or TFDS's default directory.

  Raises:
    DataError: if there is no such dataset, or it can be neither read nor prepared.
  """
  name, data_dir = request.name, request.data_dir
  if data_dir and not os.path.isdir(data_dir):
    raise DataError(
      f'data.data_dir={data_dir!r} does not exist; set it to the TFDS directory that '
      f'holds {name!r}, or leave it empty to use TFDS_DATA_DIR.'
    )
  builder = _make_builder(name, data_dir)
  if not builder.info.splits:
    _prepare(builder)
  keys, features = builder.info.supervised_keys, builder.info.features
  class_names = getattr(features[keys[1]], 'names', None) if keys else None
  if class_names is None or not _is_image(features[keys[0]]):
    raise DataError(
      f'{name!r} is not an image-classification dataset: it has no uint8 image of 1 or 3 '
      'channels with a single class label; choose another.'
    )
  names = list(builder.info.splits)
  given = split_names.match(names, name)
  if 'train' not in given:
    raise DataError(
      f"{name!r} has no split 'train' (it has {', '.join(names)}); choose a dataset with "
      'one.'
    )
  splits = {
    split: _read(builder, given[split], *keys, request.image_size) for split in given
  }
  unused = notes.unused('splits', request.title, set(names) - set(given.values()))
  return Collection(tuple(class_names), **splits, notes=tuple(unused))


def _is_image(feature):
  shape = feature.shape
  return len(shape) == 3 and shape[-1] in (1, 3) and feature.np_dtype == np.uint8


def _make_builder(name, data_dir):
  if not re.fullmatch(r'\w+(/[\w.-]+)?(:[\d.*]+)?', name):
    raise DataError(
      f'data.name={name!r} is not the name of a dataset; use mnist5k, folder, npz, '
      'huggingface:NAME, or for TFDS NAME, NAME/CONFIG or NAME:VERSION.'
    )
  logs.hide(logging.ERROR)  # TFDS warns about every directory it looks into
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=data_dir or None)
  except tfds.core.DatasetNotFoundError:
    import difflib

    known = ['mnist5k', *tfds.list_builders(with_community_datasets=False)]
    close = ' or '.join(difflib.get_close_matches(name, known))
    hint = f'did you mean {close}?' if close else 'see tensorflow.org/datasets.'
    raise DataError(f'There is no dataset data.name={name!r}; {hint}') from None
  except (AssertionError, ValueError, ImportError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise DataError(
      f'TFDS cannot load {name!r} ({reason.removesuffix(".")}); check data.name and '
      'data.data_dir, or prepare the dataset again.'
    ) from None


def _prepare(builder):
  where = os.path.dirname(os.path.dirname(builder.data_dir))
  try:
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')  # or it takes the accelerator's memory
    logging.getLogger('urllib3').setLevel(logging.ERROR)  # it warns at every retry
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:  # the network, the disk, the dataset's own code
    raise DataError(
      f'{builder.name!r} is not prepared in {where!r}, and could not be prepared now '
      f'({image_files.reason_of(error)}); set data.data_dir or TFDS_DATA_DIR to the '
      'directory that holds it, or prepare it on a machine with a network and this '
      "package's extra 'tensorflow'."
    ) from error


def _read(builder, split, image_key, label_key, size):
  """Reads and resizes a split in chunks, twice as fast as one by one: a `Split`."""
  where = f'{builder.name!r} in {str(builder.data_dir)!r}'
  try:
    source = builder.as_data_source(split)
  except NotImplementedError:
    raise DataError(
      f'{where} was prepared in a format without random access; prepare it again with '
      "file_format='array_record'."
    ) from None
  channels = builder.info.features[image_key].shape[-1]
  images, labels = [np.empty((0, size, size, channels), np.uint8)], []
  for start in range(0, len(source), _CHUNK):
    try:
      stop = min(start + _CHUNK, len(source))
      rows = source.__getitems__(list(range(start, stop)))
    except Exception as error:
      raise DataError(
        f'{where} cannot be read near example {start} of {split!r} '
        f'({type(error).__name__}); prepare it again.'
      ) from error
    images.append(image_files.resize([row[image_key] for row in rows], size))
    labels += [row[label_key] for row in rows]
  return Split(np.concatenate(images), np.asarray(labels))
