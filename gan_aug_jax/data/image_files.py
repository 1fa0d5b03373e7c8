"""Image files to small uint8 arrays, for folders, Hugging Face datasets and `predict`.

Files may come from anyone: Pillow decodes them, with the decoders listed here only. Each
image is resized at once, so that large photographs are never in memory together.
"""

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import logging
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_aug_jax.data import notes
from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError

# The last four cannot be decoded; they are listed so that they are reported, not ignored.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.jfif', '.pbm', '.pgm', '.png', '.pnm')
SUFFIXES += ('.ppm', '.tif', '.tiff', '.webp', '.avif', '.heic', '.heif', '.jp2')
# Other decoders start programs (EPS) or have had little scrutiny.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
MAX_PIXELS = 89_478_485  # at this limit Pillow only warns
# Written by macOS, Windows, Synology and QNAP; some hold a thumbnail of every image.
_NOT_OURS = ('@eadir', '@tmp', '@recycle', '@recently-snapshot', '#recycle', '#snapshot')
_NOT_OURS += ('__macosx', '$recycle.bin', 'system volume information', 'lost+found')
_BIT_DEPTHS = (8, 10, 12, 14, 16)


class BadImage(Exception):
  """An image that cannot be read; the message says why in a few words."""


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """The image files of a split.

  Attributes:
    names: what messages call them, [N].
    files: [N], see `read`; iterated more than once.
    labels: int [N].
  """

  names: list[str]
  files: Iterable
  labels: np.ndarray


def is_ignored(name: str) -> bool:
  """Whether a file or directory is hidden, or belongs to the system that it was on."""
  return name.startswith('.') or name.lower() in _NOT_OURS


def is_image(name: str) -> bool:
  """Whether a file is taken for an image, by its name."""
  return not is_ignored(name) and name.lower().endswith(SUFFIXES)


def find(directory: str, root: str) -> list[str]:
  """Finds the image files below a directory, by suffix; see `is_ignored`.

  Args:
    root: `directory` or one that contains it; links must not lead out of it.

  Returns:
    Paths relative to `root`, sorted, with '/' as the separator.

  Raises:
    DataError: if a directory is a link or cannot be read, or if a link leaves `root`.
  """
  root, found = os.path.realpath(root), []
  walk = os.walk(os.path.realpath(directory), onerror=refuse_directory)
  for place, directories, files in walk:
    directories[:] = [name for name in directories if not is_ignored(name)]
    for name in directories:
      refuse_link(os.path.join(place, name))
    for name in files:
      path = pathlib.Path(place, name)
      if not is_image(name):
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


@contextlib.contextmanager
def _opened(file):
  """Opens an image without decoding it; what fails while it is open is a `BadImage`."""
  if isinstance(file, str) and not os.path.isfile(file):
    raise BadImage('no file')  # opening a pipe would wait for a writer
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # about EXIF and the like
      with Image.open(file, formats=_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
          raise BadImage(f'{picture.width} x {picture.height} pixels are too many')
        yield picture
  except BadImage:
    raise
  except Exception as error:  # decoders raise anything for a damaged file
    raise BadImage(reason_of(error)) from error


def read(file, size: int, bit_depth: int = 16) -> np.ndarray:
  """Decodes and resizes one image.

  Only the first frame is read. The EXIF orientation is applied, transparent pixels become
  white, and 16-bit files become 8 bits. An image is grey if the file stores it as grey.

  Args:
    file: a path or a binary file object.
    size: side in pixels, see `resize`.
    bit_depth: how many bits 16-bit files use, see `find_bit_depth`.

  Returns:
    uint8 [size, size, C], with C = 1 for grey and C = 3 for colour.

  Raises:
    BadImage: if the image cannot be read, has more than `MAX_PIXELS`, or has values that
      do not fit `bit_depth`.
  """
  with _opened(file) as picture:
    if _is_deep_colour(picture) and bit_depth < 16:
      raise BadImage(f'16-bit colour that uses only {bit_depth} bits')
    picture.load()
    return resize(_to_array(_upright(picture), bit_depth)[None], size)[0]


def find_bit_depth(files: Iterable) -> int | None:
  """Finds how many bits are used by the files that store more than 8 a channel.

  Cameras and microscopes write 10, 12 or 14 bits into 16-bit files. Files of 8 bits are
  not decoded.

  Returns:
    8, 10, 12, 14 or 16: the smallest that holds every value; None without such files.
  """
  top = -1
  for file in files:
    with contextlib.suppress(BadImage), _opened(file) as picture:
      if _is_deep_colour(picture):
        # Pillow keeps the upper 8 bits; an alpha channel is always full.
        top = max(top, 256 * int(np.asarray(picture)[..., :3].max()) + 255)
      elif picture.mode[0] == 'I':
        largest = int(np.asarray(picture).max())
        top = max(top, largest if largest < 2**16 else -1)  # `read` refuses more
  fitting = (depth for depth in _BIT_DEPTHS if top < 2**depth)
  return None if top < 0 else next(fitting, 16)


def _is_deep_colour(picture):
  """Whether an image that is not decoded yet has 16 bits per channel, and several."""
  if picture.mode[0] in 'FI' or picture.format not in ('PNG', 'PPM', 'TIFF'):
    return False
  if picture.format == 'PPM':
    return picture.tile[0][3] == ('RGB', 65535)  # Pillow scales by any other maximum
  return any(';16' in str(tile[3]) for tile in picture.tile)


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
  except Exception:  # damaged EXIF data, while the pixels are fine
    return picture


def _to_array(picture, bit_depth):
  """Pixels of a loaded image of any mode: uint8 [H, W, 1 or 3]."""
  if picture.mode == 'F':
    raise BadImage('32-bit pixels')
  if picture.mode[0] == 'I':
    pixels, white = np.asarray(picture), 2**bit_depth - 1
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > white:
      raise BadImage(f'values from {low} to {high}, not {bit_depth} bits from 0')
    return np.rint(pixels / (white / 255)).astype(np.uint8)[..., None]
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


def read_all(
  names: list[str], files: Iterable, size: int, bit_depth: int = 16
) -> tuple[np.ndarray, np.ndarray, dict]:
  """Decodes images one by one.

  Args:
    files, size, bit_depth: see `read`.

  Returns:
    images: those that can be read, uint8 [n, size, size, C]; C is 3 if any has colour.
    kept: their positions in `files`, int [n].
    bad: {name: why} of those that cannot be read.
  """
  images, kept, bad = np.zeros((len(names), size, size, 1), np.uint8), [], {}
  for i, (name, file) in enumerate(zip(names, files, strict=True)):
    try:
      image = read(file, size, bit_depth)
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
  shown = (f'{name!r} ({why})' for name, why in bad.items())
  return (
    f'{len(bad)} of {count} images cannot be read: {notes.list_some(shown, len(bad))}'
  )


def read_collection(
  request: Request,
  class_names: Iterable[str],
  splits: Mapping[str, ImageFiles],
  remarks: Iterable[str] = (),
) -> Collection:
  """Reads the image files of a source.

  Args:
    class_names: strings [num_classes].
    remarks: the first of the `Collection.notes`.

  Raises:
    DataError: if an image cannot be read and `request.on_corrupt` is 'refuse', or if none
      of a class can.
  """
  depth = find_bit_depth(file for split in splits.values() for file in split.files)
  read_splits, bad = {}, {}
  for split, given in splits.items():
    images, kept, unreadable = read_all(
      given.names, given.files, request.image_size, depth or 16
    )
    names = np.array(given.names, object)[kept]
    read_splits[split], bad = Split(images, given.labels[kept], names), bad | unreadable
  if bad:
    found = describe_bad(bad, sum(len(split.labels) for split in splits.values()))
    if request.on_corrupt != 'skip':
      raise DataError(
        f'In {request.data_dir or request.name!r}, {found}; fix or remove them, or skip '
        "them with data.on_corrupt='skip'."
      )
    logging.getLogger('gan_aug_jax').warning('Skipped: %s.', found)
  for split, given in splits.items():
    lost = np.setdiff1d(given.labels, read_splits[split].labels)
    if len(lost):
      raise DataError(
        f'No image of class {class_names[lost[0]]!r} in {split!r} can be read; add some, '
        'or remove the class.'
      )
  return Collection(
    tuple(class_names),
    **read_splits,
    skipped=tuple(bad),
    notes=(*remarks, *notes.bit_depth(request.title, depth)),
    bit_depth=depth,
  )
