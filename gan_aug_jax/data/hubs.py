"""Datasets that others publish: TensorFlow Datasets and the Hugging Face hub.

TFDS is read as prepared ArrayRecord files, for which TensorFlow is not needed. The hub's
datasets are read by the package `datasets`, and not by TFDS's `huggingface:` builders,
which need that package too, and to be prepared a second time.
"""

import importlib.util
import io
import logging
import os
import re

import numpy as np

from gan_aug_jax import logs
from gan_aug_jax.data import image_files, sources
from gan_aug_jax.data.splits import Collection, Split, stack
from gan_aug_jax.errors import DataError, UserError


def load_tfds(request):
  """An image-classification dataset of TFDS, by its name.

  `request.data_dir` is that of TFDS; where it is empty, TFDS_DATA_DIR or TFDS's default.

  Raises:
    DataError: if there is none, or if it is not prepared and cannot be.
  """
  name, data_dir = request.name, request.data_dir
  if data_dir and not os.path.isdir(data_dir):
    raise DataError(
      f'The dataset directory data.data_dir={data_dir!r} does not exist; give the TFDS '
      f'directory that holds {name!r}, or leave it empty for TFDS_DATA_DIR.'
    )
  builder = _tfds_builder(name, data_dir)
  if not builder.info.splits:
    _prepare(builder)
  keys = builder.info.supervised_keys
  features = builder.info.features
  class_names = getattr(features[keys[1]], 'names', None) if keys else None
  if class_names is None or len(features[keys[0]].shape) != 3:
    raise DataError(
      f'{name!r} is not an image-classification dataset: it has no image with one class '
      'label; choose another.'
    )
  missing = {'train', 'test'} - set(builder.info.splits)
  if missing:
    have = ', '.join(builder.info.splits)
    raise DataError(
      f'{name!r} has no split {missing.pop()!r} (it has: {have}); choose a dataset with '
      "'train' and 'test'."
    )
  train, test = (_read_split(builder, name, keys) for name in ('train', 'test'))
  return Collection(tuple(class_names), train, test)


def _tfds_builder(name, data_dir):
  if not re.fullmatch(r'\w+(/[\w.-]+)?(:[\d.*]+)?', name):
    raise DataError(
      f'data.name={name!r} is no name of a dataset; write mnist5k, folder, npz, '
      'huggingface:NAME, or NAME, NAME/CONFIG or NAME:VERSION of TFDS.'
    )
  # TFDS warns of every directory it looks into.
  logs.hide(logging.ERROR)
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=data_dir or None)
  except tfds.core.DatasetNotFoundError:
    import difflib

    close = difflib.get_close_matches(
      name, ['mnist5k', *tfds.list_builders(with_community_datasets=False)]
    )
    hint = (
      f'did you mean {" or ".join(close)}?' if close else 'see tensorflow.org/datasets'
    )
    raise DataError(f'There is no dataset data.name={name!r}; {hint}') from None
  except (AssertionError, ValueError, ImportError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0].removesuffix('.')
    raise DataError(f'TFDS cannot load {name!r}: {reason}.') from None


def _prepare(builder):
  where = os.path.dirname(os.path.dirname(builder.data_dir))
  advice = (
    'set data.data_dir or TFDS_DATA_DIR to the directory where it is, or prepare it on a '
    "machine with a network and this package's extra 'tensorflow'"
  )
  if importlib.util.find_spec('tensorflow') is None:
    raise DataError(f'{builder.name!r} is not prepared in {where!r}; {advice}.')
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # or it takes the accelerator's memory
  try:
    logging.getLogger('urllib3').setLevel(logging.ERROR)  # it warns at every retry
    builder.download_and_prepare(file_format='array_record')
  except UserError:
    raise
  except Exception as error:  # of the network, the disk, the dataset's own code
    reason = image_files.reason_of(error)[:160]
    raise DataError(
      f'{builder.name!r} could not be downloaded and prepared in {where!r} ({reason}); '
      f'{advice}.'
    ) from error


def _read_split(builder, split, keys):
  try:
    source = builder.as_data_source(split)
  except NotImplementedError:
    raise DataError(
      f'{builder.name!r} in {str(builder.data_dir)!r} was prepared in a format without '
      "random access; prepare it again with file_format='array_record'."
    ) from None
  images, labels, chunk = [], [], 1024
  for start in range(0, len(source), chunk):
    try:
      stop = min(start + chunk, len(source))
      examples = source.__getitems__(list(range(start, stop)))
    except Exception as error:
      raise DataError(
        f'{builder.name!r} in {str(builder.data_dir)!r} cannot be read near example '
        f'{start} of {split!r} ({type(error).__name__}); prepare it again.'
      ) from error
    images += [example[keys[0]] for example in examples]
    labels += [example[keys[1]] for example in examples]
  return Split(stack(images), np.asarray(labels))


def load_huggingface(request):
  """A dataset of the Hugging Face hub, 'huggingface:NAME' or 'huggingface:NAME:CONFIG'.

  Where `request.data_dir` is given, it is a directory that `save_to_disk` wrote, and the
  name is only a name. Columns are found by their kind, `Image` and `ClassLabel`, splits
  by their names: 'train', and where they are there 'validation' and 'test'. A split that
  is not there is held out of 'train'. Code of a dataset is never run.

  Raises:
    DataError: if it cannot be loaded, or has no such columns.
  """
  if importlib.util.find_spec('datasets') is None:
    raise DataError(
      f'data.name={request.name!r} needs the package datasets; install the extra: pip '
      "install -e '.[huggingface]'."
    )
  import datasets

  datasets.disable_progress_bars()
  datasets.logging.set_verbosity_error()
  parts = _load_saved(request) if request.data_dir else _load_from_hub(request)
  if not isinstance(parts, dict):
    parts = {'train': parts}
  names = {'train': 'train', 'val': 'validation', 'test': 'test'}
  found = {split: parts[name] for split, name in names.items() if name in parts}
  if 'train' not in found:
    raise DataError(
      f"{request.name!r} has no split 'train' (it has: {', '.join(parts)}); choose a "
      'dataset with one.'
    )
  image, label = _columns(request.name, found['train'].features)
  class_names = tuple(found['train'].features[label].names)
  splits, bad = {}, {}
  for split, rows in found.items():
    names = getattr(rows.features.get(label), 'names', None)
    if image not in rows.features or tuple(names or ()) != class_names:
      raise DataError(
        f"Split {split!r} of {request.name!r} has not the columns and classes of 'train' "
        f'({image}, {label}: {", ".join(class_names)}); choose another dataset.'
      )
    splits[split], unread = _read_rows(split, rows, image, label, request.image_size)
    bad |= unread
  sources.report_bad(request, bad, sum(map(len, found.values())))
  return Collection(class_names, **splits, skipped=tuple(bad))


def _load_saved(request):
  import datasets

  try:
    return datasets.load_from_disk(request.data_dir)
  except UserError:
    raise
  except Exception as error:  # of whatever is there
    raise DataError(
      f'data.data_dir={request.data_dir!r} cannot be read as a directory that '
      f'save_to_disk of the package datasets wrote ({image_files.reason_of(error)}); '
      'leave it empty to load from the Hugging Face hub.'
    ) from None


def _load_from_hub(request):
  import datasets

  match = re.fullmatch(
    r'huggingface:(\w[\w.-]*(?:/\w[\w.-]*)?)(?::([\w.-]+))?', request.name
  )
  if not match:
    raise DataError(
      f'data.name={request.name!r} must be huggingface:NAME or huggingface:NAME:CONFIG, '
      'with NAME as on the hub, such as huggingface:ylecun/mnist.'
    )
  logging.getLogger('huggingface_hub').setLevel(logging.ERROR)  # it warns at every retry
  try:
    return datasets.load_dataset(match[1], match[2])
  except UserError:
    raise
  except datasets.exceptions.DatasetNotFoundError:
    raise DataError(
      f'The Hugging Face hub has no dataset {match[1]!r} that can be read without '
      'logging in; see huggingface.co/datasets.'
    ) from None
  except Exception as error:  # of the network, the disk, the dataset's files
    raise DataError(
      f'{request.name!r} could not be loaded from the Hugging Face hub '
      f'({image_files.reason_of(error)}); load it once on a machine with a network, '
      'write it by save_to_disk, and set data.data_dir to that directory.'
    ) from None


def _columns(name, features):
  """Names of the columns of images and of labels: those called so, or the first."""
  import datasets

  found = []
  for kind, usual in ((datasets.Image, 'image'), (datasets.ClassLabel, 'label')):
    columns = [
      column for column, feature in features.items() if isinstance(feature, kind)
    ]
    if not columns:
      raise DataError(
        f'{name!r} is not an image-classification dataset: none of its columns '
        f'({", ".join(features)}) is {kind.__name__}; choose another.'
      )
    found.append(usual if usual in columns else columns[0])
    if len(columns) > 1:
      logging.getLogger('gan_aug_jax').warning(
        'Of the columns %s of %r, %r is read.', ', '.join(columns), name, found[-1]
      )
  return found


def _read_rows(split, rows, image, label, size):
  """Decodes a split: `(Split, {name: why} of what cannot be read)`."""
  import datasets

  # Undecoded: Pillow is called here, for one image at a time and with our limits.
  rows = rows.select_columns([image, label]).cast_column(
    image, datasets.Image(decode=False)
  )
  labels = []

  def files():
    for i, row in enumerate(rows):
      labels.append(-1 if row[label] is None else row[label])
      content = row[image] or {'bytes': b''}
      file = content['path'] if content['bytes'] is None else io.BytesIO(content['bytes'])
      yield f'{split}[{i}]', file

  images, kept, bad = image_files.read_all(files(), len(rows), size)
  return Split(images, np.array(labels, int)[kept]), bad
