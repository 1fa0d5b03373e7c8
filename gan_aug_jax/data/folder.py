"""A folder of image files, in one directory per class."""

import os

import numpy as np

from gan_aug_jax.data import image_files
from gan_aug_jax.data.splits import Collection, Request
from gan_aug_jax.errors import DataError

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
  class_names = _subdirectories(places['train'])
  _check_classes(places, class_names)
  for split, place in places.items():
    by_class = [_find_images(os.path.join(place, name), root) for name in class_names]
    names = [name for of_class in by_class for name in of_class]
    labels = np.repeat(np.arange(len(by_class)), [len(names) for names in by_class])
    files[split] = [(name, os.path.join(root, name)) for name in names], labels
  return image_files.read_collection(request, class_names, files)


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


def _check_classes(places, class_names):
  """Checks that there are at least two classes, the same in each split."""
  if len(class_names) < 2:
    raise DataError(
      f'{places["train"]!r} must contain at least 2 class directories with images; found '
      f'{len(class_names)} ({", ".join(map(repr, class_names)) or "none"}).'
    )
  for split, place in places.items():
    differing = set(_subdirectories(place)) ^ set(class_names)
    if differing:
      name = min(differing)
      where, other = ('train', split) if name in class_names else (split, 'train')
      raise DataError(
        f'Class {name!r} is a directory in {where!r} but not in {other!r}; all splits '
        'must have the same classes.'
      )


def _find_images(directory, root):
  """Names of a class's images, relative to the root; at least one."""
  names = image_files.find(directory, root)
  if not names:
    raise DataError(
      f'The class directory {directory!r} holds no images; add some (such as .png or '
      '.jpg), or remove it.'
    )
  return names
