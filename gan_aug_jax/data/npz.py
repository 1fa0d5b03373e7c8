"""Arrays in an .npz file, as `np.savez` writes it. Python objects are not unpickled."""

import math
import os
import re
import zipfile

import numpy as np

from gan_aug_jax.data import image_files, notes, split_names
from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError, UserError

_PARTS = ('images', 'labels')
_ARRAY = re.compile(r'(?:(\w+)_)?(images|labels)')


def load(request: Request) -> Collection:
  """Loads `train_images` and `train_labels`, and those of `val` and `test` if there.

  The first two may also be called `images` and `labels`; of other names of a split, see
  `split_names`. Images are uint8 [N, H, W] or [N, H, W, 1 or 3], labels whole numbers [N]
  or [N, 1] from 0 on, and the optional `class_names` are strings [num_classes].

  Raises:
    DataError: if the file or an array is missing or damaged, holds Python objects, or is
      larger than the machine's memory.
  """
  path = request.data_dir
  if not os.path.isfile(path):
    problem = 'is not a file' if os.path.exists(path) else 'does not exist'
    raise DataError(
      f'data.data_dir={path!r} {problem}; data.name={request.name!r} needs an .npz file '
      '(if it was moved, start the run again with the new --config.data.data_dir).'
    )
  names, prefixes, arrays = _read(path)
  splits = {split: _split(path, names, arrays, p) for split, p in prefixes.items()}
  # Without names, a class is called by its number.
  numbers = np.arange(len(np.unique(splits['train'].labels)))
  class_names = arrays.get('class_names', numbers.astype(str))
  if class_names.ndim != 1 or class_names.dtype.kind != 'U':
    raise DataError(
      f'class_names in {path!r} must be strings, one per class, not {class_names.dtype} '
      f'of shape {class_names.shape}.'
    )
  unused = notes.unused('arrays', request.title, [x for x in names if x not in arrays])
  return Collection(tuple(class_names.tolist()), **splits, notes=tuple(unused))


def _read(path):
  """All names in the file, {split: prefix}, and {name: array} of those that are used."""
  try:
    with zipfile.ZipFile(path) as file:
      sizes = {x.filename.removesuffix('.npy'): x.file_size for x in file.infolist()}
    prefixes = _find_splits(path, sizes)
    used = {f'{prefix}{part}' for prefix in prefixes.values() for part in _PARTS}
    used = (used | {'class_names'}) & set(sizes)
    _check_size(path, sum(sizes[name] for name in used))
    with np.load(path, allow_pickle=False) as file:
      # NumPy returns bytes for what is not an array; as an array they fail every check.
      return list(sizes), prefixes, {name: np.asarray(file[name]) for name in used}
  except UserError:
    raise
  except Exception as error:  # zipfile, zlib and numpy raise many kinds
    raise DataError(
      f'{path!r} cannot be read as an .npz file ({image_files.reason_of(error)}); write '
      'it with np.savez, from arrays of numbers or strings (Python objects are refused, '
      'as loading them can run code).'
    ) from None


def _find_splits(path, names):
  """{split: prefix of its arrays}, such as 'test_', with 'train' first."""
  matches = [match for name in names if (match := _ARRAY.fullmatch(name))]
  named = dict.fromkeys(match[1] for match in matches if match[1])
  prefixes = {s: f'{name}_' for s, name in split_names.match(named, path).items()}
  bare = '' if 'images' in names else 'train_'
  return {'train': bare} | prefixes


def _check_size(path, size):
  """Checks that the arrays fit in memory, before any of them is unpacked."""
  memory = _memory_bytes()
  if size > memory:
    raise DataError(
      f'The arrays in {path!r} take {size / 2**30:,.1f} GiB, but this machine has '
      f'{memory / 2**30:,.1f} GiB of memory; store fewer or smaller images.'
    )


def _memory_bytes():
  """Memory of this machine; infinite if the system does not say."""
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return math.inf


def _split(path, names, arrays, prefix):
  """The `Split` of the arrays with a prefix, which `datasets` checks further."""
  for part in _PARTS:
    if prefix + part not in arrays:
      have = ', '.join(sorted(names)) or 'none'
      raise DataError(
        f'{path!r} has no array {prefix + part!r} (it has {have}); name the arrays '
        'train_images, train_labels, test_images and test_labels, or images and labels.'
      )
  images, labels = arrays[f'{prefix}images'], arrays[f'{prefix}labels']
  if images.ndim == 3:
    images = images[..., None]
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.dtype.kind == 'u':
    labels = labels.astype(np.int64)  # np.bincount refuses uint64
  return Split(images, labels)
