"""A folder of image files, in one directory per class."""

import os
import pathlib

import numpy as np

from gan_aug_jax.data import image_files, notes, split_names
from gan_aug_jax.data.splits import Collection, composed, Request
from gan_aug_jax.errors import ConfigError, DataError


def load(request: Request) -> Collection:
  """Loads `train/CLASS/` and, where they exist, `val/CLASS/` and `test/CLASS/`.

  If the classes are at the top (`CLASS/`), all images are training images. Classes are
  named after their directories, see `composed`, and sorted; images may lie deeper inside.
  Files of other kinds are ignored, see `image_files.is_image`.

  Raises:
    DataError: if the folder looks different, or if an image cannot be read and
      `on_corrupt` is 'refuse'.
  """
  root, splits = request.data_dir, {}
  places = _find_splits(root)
  found = {split: _find_classes(place, root) for split, place in places.items()}
  _check_classes(root, found)
  for split, by_class in found.items():
    names = [name for of_class in by_class.values() for name in of_class]
    labels = np.repeat(np.arange(len(by_class)), [*map(len, by_class.values())])
    paths = [os.path.join(root, name) for name in names]
    splits[split] = image_files.ImageFiles(names, paths, labels)
  depth = _depth(places['train'], root)
  inner = [_inner_directories(files, depth) for files in found['train'].values()]
  remarks = _unused(request.title, root, places) + notes.nested(request.title, inner)
  return image_files.read_collection(request, list(found['train']), splits, remarks)


def refuse_inside(root: str, path: str) -> None:
  """Refuses to write where `load` would read the output as classes or images.

  Raises:
    ConfigError: if it is read with the folder. Hidden directories are not, nor, next to
      two splits, those that are none.
  """
  root, path = os.path.realpath(root), os.path.realpath(path)
  if not (os.path.isdir(root) and pathlib.PurePath(path).is_relative_to(root)):
    return
  parts = os.path.relpath(path, root).split(os.sep)
  is_hidden = any(part.startswith('.') for part in parts if part != '.')
  splits = {split_names.split_of(name) for name in os.listdir(root)} - {None}
  is_unused = len(splits) > 1 and split_names.split_of(parts[0]) is None
  if not (is_hidden or is_unused):
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
  found = split_names.match(names, root)
  places = {split: os.path.join(root, name) for split, name in found.items()}
  if not found:
    return {'train': root}
  if 'train' not in found:
    name = next(iter(found.values()))
    raise DataError(
      f'The directory {name!r} in data.data_dir={root!r} looks like a split, but there '
      f"is no 'train' next to it; add that, or rename {name!r} if it is a class."
    )
  if len(found) > 1:
    return places
  others = [
    repr(name)
    for name in names
    if name != found['train'] and image_files.find(os.path.join(root, name), root)
  ]
  if not others:
    return places
  if not _subdirectories(places['train']):
    return {'train': root}  # images lie in it as in the classes next to it
  raise DataError(
    f'The directory {found["train"]!r} in data.data_dir={root!r} looks like a split, but '
    f'there are images in {notes.list_some(others, len(others))} next to it, too; rename '
    'it if it is a class, or move the others away.'
  )


def _subdirectories(place):
  """Names of the directories in a directory, sorted; see `image_files.is_ignored`."""
  _, names, _ = next(os.walk(place, onerror=image_files.refuse_directory))
  names = sorted(name for name in names if not image_files.is_ignored(name))
  for name in names:
    image_files.refuse_link(os.path.join(place, name))
  return names


def _find_classes(place, root):
  """{class: names of its image files, relative to the root} in a split's directory."""
  found, spelt = {}, {}
  for name in _subdirectories(place):
    class_name = composed(name)
    if class_name in found:
      raise DataError(
        f'The directories {spelt[class_name]!a} and {name!a} in {place!r} are two '
        f'Unicode spellings of {class_name!r}; put their images into one.'
      )
    spelt[class_name] = name
    found[class_name] = image_files.find(os.path.join(place, name), root)
    _refuse_inner_splits(name, _inner_directories(found[class_name], _depth(place, root)))
  return {name: found[name] for name in sorted(found)}


def _depth(place, root):
  """Of the directories in a class, whose images have names relative to the root."""
  return 1 if place == root else 2


def _inner_directories(files, depth):
  """Names of the directories with images in the directory of a class."""
  return {name.split('/')[depth] for name in files if name.count('/') > depth}


def _refuse_inner_splits(class_name, inner):
  """Refuses CLASS/train/ and CLASS/test/, whose images would be thrown together."""
  if len({split_names.split_of(name) for name in inner} - {None}) > 1:
    raise DataError(
      f'Class {class_name!r} contains splits ({", ".join(sorted(inner))}); put the '
      f'classes into the splits instead, as in train/{class_name}.'
    )


def _unused(title, root, places):
  """Sentences about directories that are no split, and images that are in no class."""
  found = []
  if places != {'train': root}:
    used = {os.path.basename(place) for place in places.values()}
    others = [name for name in _subdirectories(root) if name not in used]
    found += notes.unused('directories', title, others)
  for place in dict.fromkeys([root, *places.values()]):
    _, _, files = next(os.walk(place, onerror=image_files.refuse_directory))
    if count := sum(map(image_files.is_image, files)):
      where = os.path.join(title, os.path.relpath(place, root)).removesuffix('/.')
      images = 'image is' if count == 1 else 'images are'
      found.append(
        f'In {where!r}, {count:,} {images} outside the class directories and not used.'
      )
  return found


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
      name = min(differing, key=lambda name: (name.isascii(), name))
      where, other = (split, 'train') if name in by_class else ('train', split)
      # Letters of two alphabets may look the same.
      spelt = '' if name.isascii() else f' ({name!a})'
      raise DataError(
        f'Class {name!r}{spelt} is a directory in {where!r} but not in {other!r}; all '
        'splits must have the same classes, spelt the same.'
      )
  for split, by_class in found.items():
    empty = [name for name, files in by_class.items() if not files]
    if empty:
      raise DataError(
        f'Class {empty[0]!r} in {split!r} holds no images (such as .png or .jpg); add '
        'some or remove the directory.'
      )
