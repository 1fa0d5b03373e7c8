"""Arrays in an .npz file, as `np.savez` writes it. Python objects are not unpickled."""

import math
import os
import zipfile

import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError, UserError

_PREFIXES = ('', 'train_', 'val_', 'test_')
_ARRAYS = {f'{prefix}{part}' for prefix in _PREFIXES for part in ('images', 'labels')}
_ARRAYS |= {'class_names'}


def load(request: Request) -> Collection:
  """Loads `train_images` and `train_labels`, and those of `val` and `test` if there.

  The first two may also be called `images` and `labels`. Images are uint8 [N, H, W] or
  [N, H, W, 1 or 3], labels whole numbers [N] or [N, 1] from 0 on, and the optional
  `class_names` are strings [num_classes]. Other arrays are ignored.

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
  arrays = _read(path)
  prefix = '' if 'images' in arrays and 'train_images' not in arrays else 'train_'
  splits = {'train': _split(path, arrays, prefix)}
  for split in ('val', 'test'):
    if any(name.startswith(f'{split}_') for name in arrays):
      splits[split] = _split(path, arrays, f'{split}_')
  # Without names, a class is called by its number.
  numbers = np.arange(len(np.unique(splits['train'].labels)))
  names = arrays.get('class_names', numbers.astype(str))
  if names.ndim != 1 or names.dtype.kind != 'U':
    raise DataError(
      f'class_names in {path!r} must be strings, one per class, not {names.dtype} of '
      f'shape {names.shape}.'
    )
  return Collection(tuple(names.tolist()), **splits)


def _read(path):
  """{name: array} of those named in `_ARRAYS`."""
  try:
    _check_size(path)
    with np.load(path, allow_pickle=False) as file:
      # NumPy returns bytes for what is not an array; as an array they fail every check.
      return {name: np.asarray(file[name]) for name in _ARRAYS if name in file}
  except UserError:
    raise
  except Exception as error:  # zipfile, zlib and numpy raise many kinds
    raise DataError(
      f'{path!r} cannot be read as an .npz file ({image_files.reason_of(error)}); write '
      'it with np.savez, from arrays of numbers or strings (Python objects are refused, '
      'as loading them can run code).'
    ) from None


def _check_size(path):
  """Checks that the arrays fit in memory, before any of them is unpacked."""
  with zipfile.ZipFile(path) as file:
    members = [x for x in file.infolist() if x.filename.removesuffix('.npy') in _ARRAYS]
  size, memory = sum(x.file_size for x in members), _memory_bytes()
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


def _split(path, arrays, prefix):
  """The `Split` of the arrays with a prefix, which `datasets` checks further."""
  for part in ('images', 'labels'):
    if prefix + part not in arrays:
      have = ', '.join(sorted(arrays)) or 'none of the known ones'
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
