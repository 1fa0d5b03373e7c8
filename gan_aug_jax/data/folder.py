"""A folder of image files, in one directory per class."""

import os

import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.data.splits import Collection, Request
from gan_aug_jax.errors import ConfigError, DataError

_SPLITS = ('train', 'val', 'test')
# Directories with these names are taken for splits, never for classes.
_OTHER_SPLITS = ('training', 'valid', 'validation', 'dev', 'eval', 'testing')


def load(request: Request) -> Collection:
  """Loads `train/CLASS/` and, where they exist, `val/CLASS/` and `test/CLASS/`.

  If the classes are at the top (`CLASS/`), all images are training images. Classes are
  named after their directories, in sorted order; images may lie deeper inside. Hidden
  files and files that are not images are ignored.

  Raises:
    DataError: if the folder looks different, or if an image cannot be read and
      `on_corrupt` is 'refuse'.
  """
  root, files = request.data_dir, {}
  places = _find_splits(root)
  found = {split: _find_classes(place, root) for split, place in places.items()}
  _check_classes(root, found)
  for split, by_class in found.items():
    names = [name for of_class in by_class.values() for name in of_class]
    labels = np.repeat(np.arange(len(by_class)), [*map(len, by_class.values())])
    files[split] = [(name, os.path.join(root, name)) for name in names], labels
  return image_files.read_collection(request, list(found['train']), files)


def refuse_inside(root: str, path: str) -> None:
  """Refuses to write where `load` would read the output as classes or images.

  Args:
    root: the folder of images.
    path: of the directory to write to.

  Raises:
    ConfigError: if it is read with the folder; hidden directories and, next to train/,
      those of no split are not.
  """
  root, path = os.path.realpath(root), os.path.realpath(path)
  if os.path.commonpath([root, path]) != root:
    return
  parts = os.path.relpath(path, root).split(os.sep)
  has_splits = os.path.isdir(os.path.join(root, 'train'))
  is_hidden = any(part.startswith('.') for part in parts if part != '.')
  if not is_hidden and not (has_splits and parts[0] not in _SPLITS):
    raise ConfigError(
      f'{path!r} is inside data.data_dir={root!r}, so what is written there would be '
      'read as images; write to a directory outside of it.'
    )


def _find_splits(root):
  """{split: directory}; only 'train', the root itself, if the classes are at the top."""
  if not os.path.isdir(root):
    problem = 'is not a directory' if os.path.exists(root) else 'does not exist'
    raise DataError(
      f'data.data_dir={root!r} {problem}; it must contain train/CLASS/ or CLASS/ with '
      'images (if it was moved, start the run again with the new --config.data.data_dir).'
    )
  names = _subdirectories(root)
  for name in names:
    is_split = name.lower() in (*_SPLITS, *_OTHER_SPLITS)
    if is_split and (name not in _SPLITS or 'train' not in names):
      raise DataError(
        f'The directory {name!r} in data.data_dir={root!r} looks like a split; name the '
        "splits 'train' and, optionally, 'val' and 'test'."
      )
  if 'train' not in names:
    return {'train': root}
  return {name: os.path.join(root, name) for name in _SPLITS if name in names}


def _subdirectories(place):
  """Names of the directories in a directory, sorted; hidden ones are left out."""
  _, names, _ = next(os.walk(place, onerror=image_files.refuse_directory))
  names = sorted(name for name in names if not name.startswith('.'))
  for name in names:
    image_files.refuse_link(os.path.join(place, name))
  return names


def _find_classes(place, root):
  """{class: names of its image files, relative to the root} in a split's directory."""
  classes = _subdirectories(place)
  return {name: image_files.find(os.path.join(place, name), root) for name in classes}


def _check_classes(root, found):
  """Checks that there are two classes or more, with images of each in every split."""
  class_names = list(found['train'])
  if len(class_names) < 2:
    raise DataError(
      f'data.data_dir={root!r} must contain at least 2 class directories with images; '
      f'found {len(class_names)} ({", ".join(map(repr, class_names)) or "none"}).'
    )
  for split, by_class in found.items():
    differing = by_class.keys() ^ found['train'].keys()
    if differing:
      name = min(differing)
      where, other = (split, 'train') if name in by_class else ('train', split)
      raise DataError(
        f'Class {name!r} is a directory in {where!r} but not in {other!r}; all splits '
        'must have the same classes.'
      )
  for split, by_class in found.items():
    empty = [name for name, files in by_class.items() if not files]
    if empty:
      raise DataError(
        f'Class {empty[0]!r} in {split!r} holds no images (such as .png or .jpg); add '
        'some or remove the directory.'
      )
