"""Image files to small uint8 arrays, for folders, Hugging Face datasets and `predict`.

Files may come from anyone: Pillow decodes them, with the decoders listed here only. Each
image is resized at once, so that large photographs are never in memory together.
"""

import logging
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError, UserError

# The last four cannot be decoded; they are listed so that they are reported, not ignored.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.jfif', '.pbm', '.pgm', '.png', '.pnm')
SUFFIXES += ('.ppm', '.tif', '.tiff', '.webp', '.avif', '.heic', '.heif', '.jp2')
# Other decoders start programs (EPS) or have had little scrutiny.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
MAX_PIXELS = 89_478_485  # at this limit Pillow only warns
_NUM_SHOWN = 3  # names in a message


class BadImage(Exception):
  """An image that cannot be read; the message says why in a few words."""


def find(directory: str, root: str) -> list[str]:
  """Finds the image files below a directory, by suffix; hidden ones are ignored.

  Args:
    directory: where to look.
    root: `directory` or one that contains it; links must not lead out of it.

  Returns:
    Paths relative to `root`, sorted, with '/' as the separator.

  Raises:
    DataError: if a directory is a link or cannot be read, or if a link leaves `root`.
  """
  root, found = os.path.realpath(root), []
  walk = os.walk(os.path.realpath(directory), onerror=refuse_directory)
  for place, directories, files in walk:
    directories[:] = [name for name in directories if not name.startswith('.')]
    for name in directories:
      refuse_link(os.path.join(place, name))
    for name in files:
      path = pathlib.Path(place, name)
      if name.startswith('.') or not name.lower().endswith(SUFFIXES):
        continue
      if path.is_symlink() and not _is_inside(path, root):
        raise DataError(
          f'{str(path)!r} is a link that leads out of {root!r}; replace it with the file.'
        )
      found.append(path.relative_to(root))
  return [path.as_posix() for path in sorted(found, key=lambda path: path.parts)]


def refuse_link(path: str) -> None:
  """Refuses a directory that is a link, since it could lead anywhere or in circles.

  Raises:
    DataError: if it is one.
  """
  if os.path.islink(path):
    raise DataError(f'{path!r} is a link to a directory; replace it with the directory.')


def _is_inside(path, root):
  # `Path.resolve` raises on links in circles.
  return pathlib.Path(os.path.realpath(path)).is_relative_to(root)


def refuse_directory(error: OSError) -> None:
  """Raises a `DataError` for a directory that cannot be listed."""
  raise DataError(
    f'{error.filename!r} cannot be read ({error.strerror}); check its permissions.'
  ) from None


def read(file, size: int) -> np.ndarray:
  """Decodes and resizes one image.

  Only the first frame is read. The EXIF orientation is applied, transparent pixels become
  white and 16 bits become 8. An image is grey if the file stores it as grey.

  Args:
    file: a path or a binary file object.
    size: side in pixels, see `resize`.

  Returns:
    uint8 [size, size, C], with C = 1 for grey and C = 3 for colour.

  Raises:
    BadImage: if the image cannot be read or has more than `MAX_PIXELS`.
  """
  if isinstance(file, str) and not os.path.isfile(file):
    raise BadImage('no file')  # opening a pipe would wait for a writer
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # about EXIF and the like
      with Image.open(file, formats=_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
          raise BadImage(f'{picture.width} x {picture.height} pixels are too many')
        picture.load()
        return resize(_to_array(_upright(picture))[None], size)[0]
  except (UserError, BadImage):  # a signal handler may raise a UserError here
    raise
  except Exception as error:  # decoders raise anything for a damaged file
    raise BadImage(reason_of(error)) from error


def reason_of(error: Exception) -> str:
  """Why a file could not be read, in a few words."""
  if isinstance(error, UnidentifiedImageError):
    return 'not an image'
  if isinstance(error, Image.DecompressionBombError):
    return 'too many pixels'
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0][:80].removesuffix('.')


def _upright(picture):
  try:
    return ImageOps.exif_transpose(picture)
  except UserError:
    raise
  except Exception:  # damaged EXIF data, while the pixels are fine
    return picture


def _to_array(picture):
  """Pixels of a loaded image of any mode: uint8 [H, W, 1 or 3]."""
  if picture.mode[0] in 'FI':
    pixels = np.asarray(picture)
    if picture.mode == 'F' or pixels.min() < 0 or pixels.max() > 65535:
      raise BadImage('32-bit pixels')
    return np.rint(pixels / 257).astype(np.uint8)[..., None]
  mode = 'L' if picture.mode in ('1', 'L', 'LA') else 'RGB'
  if picture.has_transparency_data:
    white = Image.new('RGBA', picture.size, 'white')
    picture = Image.alpha_composite(white, picture.convert('RGBA'))
  return np.atleast_3d(np.asarray(picture.convert(mode)))


def resize(images: np.ndarray | list, size: int) -> np.ndarray:
  """Brings images to size x size pixels.

  Images up to 8 pixels smaller get a black border; others are resized (Lanczos).

  Args:
    images: uint8 [N, H, W, C], or a list of [h, w, C] of any sizes; C is 1 or 3.
    size: side in pixels.

  Returns:
    uint8 [N, size, size, C].
  """
  if len({image.shape for image in images}) > 1:
    return np.concatenate([resize(image[None], size) for image in images])
  images = np.asarray(images)
  gaps = [size - side for side in images.shape[1:3]]
  if gaps == [0, 0]:
    return images
  if all(0 <= gap <= 8 for gap in gaps):
    border = [(gap // 2, gap - gap // 2) for gap in gaps]
    return np.pad(images, ((0, 0), *border, (0, 0)))
  resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
  for image, out in zip(images, resized, strict=True):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    out[:] = np.atleast_3d(np.asarray(picture))
  return resized


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
  """Converts grey images to colour or colour images to grey.

  Args:
    images: uint8 [..., 1 or 3].
    channels: 1 or 3.

  Returns:
    uint8 [..., channels].
  """
  if images.shape[-1] == channels:
    return images
  if channels == 3:
    return np.repeat(images, 3, axis=-1)
  weights = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 over 2^16, as Pillow
  return (((images * weights).sum(-1, keepdims=True) + 2**15) >> 16).astype(np.uint8)


def read_all(files, count: int, size: int) -> tuple[np.ndarray, np.ndarray, dict]:
  """Decodes images one by one.

  Args:
    files: pairs (name, file), see `read`.
    count: how many pairs there are.
    size: side in pixels.

  Returns:
    images: those that can be read, uint8 [n, size, size, C]; C is 3 if any has colour.
    kept: their positions in `files`, int [n].
    bad: {name: why} of those that cannot be read.
  """
  images, kept, bad = np.zeros((count, size, size, 1), np.uint8), [], {}
  for i, (name, file) in enumerate(files):
    try:
      image = read(file, size)
    except BadImage as error:
      bad[name] = str(error)
      continue
    if image.shape[-1] > images.shape[-1]:
      images = with_channels(images, 3)
    images[len(kept)] = image  # a grey image fills all three channels
    kept.append(i)
  return images[: len(kept)], np.array(kept, int), bad


def describe_bad(bad: dict, count: int) -> str:
  """Says which images cannot be read: '3 of 120 images cannot be read: ...'.

  Args:
    bad: {name: why}; the message names the first few.
    count: number of images, including the bad ones.
  """
  shown = [f'{name!r} ({why})' for name, why in list(bad.items())[:_NUM_SHOWN]]
  more = f' and {len(bad) - _NUM_SHOWN} more' if len(bad) > _NUM_SHOWN else ''
  return f'{len(bad)} of {count} images cannot be read: {", ".join(shown)}{more}'


def read_collection(request: Request, class_names, files: dict) -> Collection:
  """Reads the image files of a source.

  Args:
    request: what the source was asked for.
    class_names: strings [num_classes].
    files: {split: (pairs as in `read_all`, labels int [N])}.

  Returns:
    The `Collection`.

  Raises:
    DataError: if an image cannot be read and `request.on_corrupt` is 'refuse', or if none
      of a class can.
  """
  splits, bad = {}, {}
  for split, (pairs, labels) in files.items():
    images, kept, unreadable = read_all(pairs, len(labels), request.image_size)
    splits[split], bad = Split(images, labels[kept]), bad | unreadable
  if bad:
    found = describe_bad(bad, sum(len(labels) for _, labels in files.values()))
    if request.on_corrupt != 'skip':
      raise DataError(
        f'In {request.data_dir or request.name!r}, {found}; fix or remove them, or skip '
        "them with data.on_corrupt='skip'."
      )
    logging.getLogger('gan_aug_jax').warning('Skipped: %s.', found)
  for split, (_, labels) in files.items():
    lost = np.setdiff1d(labels, splits[split].labels)
    if len(lost):
      raise DataError(
        f'No image of class {class_names[lost[0]]!r} in {split!r} can be read; add some, '
        'or remove the class.'
      )
  return Collection(tuple(class_names), **splits, skipped=tuple(bad))
