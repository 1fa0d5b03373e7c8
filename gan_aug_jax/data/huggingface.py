"""Datasets of the Hugging Face hub, read with the package `datasets`.

TFDS's `huggingface:` builders need that package as well, and a second preparation.
"""

import io
import logging
import re

import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.data.splits import Collection, Request
from gan_aug_jax.errors import DataError, UserError

# What they are called here, and on the hub.
_SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}


def load(request: Request) -> Collection:
  """Loads 'huggingface:NAME' or 'huggingface:NAME:CONFIG'.

  If `data_dir` is set, it is read instead, as a directory that `save_to_disk` wrote; NAME
  is then only a name. Columns are found by their type, `Image` and `ClassLabel`; splits
  by their names, 'train' and optionally 'validation' and 'test'. A dataset's own code is
  never run.

  Raises:
    DataError: if the dataset cannot be loaded or has no such columns or splits, or if an
      image cannot be read and `on_corrupt` is 'refuse'.
  """
  _check_package(request.name)
  import datasets

  datasets.disable_progress_bars()
  datasets.logging.set_verbosity_error()
  found = _load(request)
  if not isinstance(found, dict):
    found = {'train': found}
  if 'train' not in found:
    raise DataError(
      f"{request.name!r} has no split 'train' (it has {', '.join(found)}); choose a "
      'dataset with one.'
    )
  features = found['train'].features
  image = _column(request.name, features, datasets.Image, 'image')
  label = _column(request.name, features, datasets.ClassLabel, 'label')
  class_names, files = features[label].names, {}
  for split, name in _SPLITS.items():
    if name not in found:
      continue
    names = getattr(found[name].features.get(label), 'names', None)
    if image not in found[name].features or names != class_names:
      raise DataError(
        f'Split {name!r} of {request.name!r} does not have the columns and classes of '
        f"'train' ({image}, {label}: {', '.join(class_names)}); choose another dataset."
      )
    labels = [-1 if x is None else x for x in found[name][label]]
    files[split] = _encoded(split, found[name], image), np.array(labels, int)
  return image_files.read_collection(request, class_names, files)


def _check_package(name):
  """Refuses to go on without the package, or with a folder of its name in its place."""
  try:
    import datasets
  except ImportError:
    found = ''
  else:
    if hasattr(datasets, 'load_from_disk'):
      return
    place = datasets.__file__ or next(iter(datasets.__path__))
    found = f', which {place!r} is not'
  raise DataError(
    f"data.name={name!r} needs the package 'datasets'{found}; install the extra: pip "
    "install -e '.[huggingface]'."
  )


def _load(request):
  """A `datasets.DatasetDict`, or a `datasets.Dataset` if it was saved as one."""
  import datasets

  logging.getLogger('huggingface_hub').setLevel(logging.ERROR)  # it warns at every retry
  name = r'\w[\w.-]*'
  match = re.fullmatch(rf'huggingface:({name}(?:/{name})?)(?::([\w.-]+))?', request.name)
  if not match and not request.data_dir:
    raise DataError(
      f'data.name={request.name!r} must be huggingface:NAME or huggingface:NAME:CONFIG, '
      'with NAME as on the hub, such as huggingface:ylecun/mnist.'
    )
  try:
    if request.data_dir:
      return datasets.load_from_disk(request.data_dir)
    return datasets.load_dataset(match[1], match[2])
  except UserError:
    raise
  except Exception as error:  # the name, the network, the disk, the files
    raise DataError(
      f'{request.data_dir or request.name!r} cannot be loaded as a Hugging Face dataset '
      f'({image_files.reason_of(error)}); check its name, or load it on a machine with a '
      'network, write it with save_to_disk, and set data.data_dir to that directory.'
    ) from None


def _column(name, features, kind, usual):
  """The column of a type: the one with the usual name, or else the first."""
  columns = [column for column, feature in features.items() if isinstance(feature, kind)]
  if not columns:
    raise DataError(
      f'{name!r} is not an image-classification dataset: none of its columns '
      f'({", ".join(features)}) has type {kind.__name__}; choose another.'
    )
  chosen = usual if usual in columns else columns[0]
  if len(columns) > 1:
    logging.getLogger('gan_aug_jax').warning(
      'Of the columns %s of %r, %r is used.', ', '.join(columns), name, chosen
    )
  return chosen


def _encoded(split, rows, image):
  """Yields pairs (name, file) for `image_files`; an empty file for a missing image."""
  import datasets

  # Not decoded by `datasets`, which does not have our limits.
  rows = rows.cast_column(image, datasets.Image(decode=False))
  for i, content in enumerate(rows[image]):
    content = content or {'bytes': b'', 'path': None}
    path, data = content['path'], content['bytes']
    yield f'{split}[{i}]', path if data is None else io.BytesIO(data)
