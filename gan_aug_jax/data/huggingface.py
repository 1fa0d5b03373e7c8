"""Datasets of the Hugging Face hub, read with the package `datasets`.

TFDS's `huggingface:` builders need that package as well, and a second preparation.
"""

import dataclasses
import io
import logging
import re
from typing import Any

import numpy as np

from gan_aug_jax.data import image_files, notes, split_names
from gan_aug_jax.data.splits import Collection, composed, Request
from gan_aug_jax.errors import DataError


def load(request: Request) -> Collection:
  """Loads 'huggingface:NAME' or 'huggingface:NAME:CONFIG'.

  If `data_dir` is set, it is read instead, as a directory that `save_to_disk` wrote; NAME
  is then only a name. Columns are found by their type, `Image` and `ClassLabel`; splits
  by their names, see `split_names`. A dataset's own code is never run.

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
  given = split_names.match(found, request.name)
  if 'train' not in given:
    raise DataError(
      f"{request.name!r} has no split 'train' (it has {', '.join(found)}); choose a "
      'dataset with one.'
    )
  features = found[given['train']].features
  image = _column(request.name, features, datasets.Image, 'image')
  label = _column(request.name, features, datasets.ClassLabel, 'label')
  kinds = (datasets.Image, datasets.ClassLabel)
  columns = {name for name, kind in features.items() if isinstance(kind, kinds)}
  remarks = notes.unused('columns', request.title, columns - {image, label})
  remarks += notes.unused('splits', request.title, set(found) - set(given.values()))
  class_names, files = tuple(map(composed, features[label].names)), {}
  for split, name in given.items():
    names = map(composed, getattr(found[name].features.get(label), 'names', ()))
    if image not in found[name].features or tuple(names) != class_names:
      raise DataError(
        f'Split {name!r} of {request.name!r} does not have the columns and classes of '
        f"'train' ({image}, {label}: {', '.join(class_names)}); choose another dataset."
      )
    labels = np.array([-1 if x is None else x for x in found[name][label]], int)
    rows = [f'{split}[{i}]' for i in range(len(labels))]
    encoded = _Encoded(found[name], image)
    files[split] = image_files.ImageFiles(rows, encoded, labels)
  return image_files.read_collection(request, class_names, files, remarks)


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
  except Exception as error:  # the name, the network, the disk, the files
    raise DataError(
      f'{request.data_dir or request.name!r} cannot be loaded as a Hugging Face dataset '
      f'({image_files.reason_of(error)}); check its name, or load it on a machine with a '
      'network, write it with save_to_disk, and set data.data_dir to that directory.'
    ) from None


def _column(name, features, kind, usual):
  """The column of a type, the one with the usual name or else the first."""
  columns = [column for column, feature in features.items() if isinstance(feature, kind)]
  if not columns:
    raise DataError(
      f'{name!r} is not an image-classification dataset: none of its columns '
      f'({", ".join(features)}) has type {kind.__name__}; choose another.'
    )
  return usual if usual in columns else columns[0]


@dataclasses.dataclass(frozen=True)
class _Encoded:
  """The files in a column of images, however often; an empty one for a missing image."""

  rows: Any
  image: str

  def __iter__(self):
    import datasets

    # Not decoded by `datasets`, which does not have our limits.
    rows = self.rows.cast_column(self.image, datasets.Image(decode=False))
    for content in rows[self.image]:
      content = content or {'bytes': b'', 'path': None}
      data = content['bytes']
      yield content['path'] if data is None else io.BytesIO(data)
