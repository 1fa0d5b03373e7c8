"""Image files to small uint8 arrays, whoever made them.

A file is decoded by Pillow, by the decoders named here only, and brought to its size at
once: large photographs are never in memory together. What training reads from a folder
and what `predict` reads are so prepared alike.
"""

import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_aug_jax.errors import DataError, UserError

# The last four are not read: they are named as unreadable, not passed over in silence.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.jfif', '.pbm', '.pgm', '.png', '.pnm')
SUFFIXES += ('.ppm', '.tif', '.tiff', '.webp', '.avif', '.heic', '.heif', '.jp2')
# Others start programs (EPS) or have decoders that few have looked at.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it only warns
_SHOWN = 3  # names in a message


class BadImage(Exception):
  """An image that cannot be read; the message says why in a few words."""


def find(directory, root):
  """Finds the image files below a directory.

  Hidden files and directories, and files that are no images by their names, are left out.

  Args:
    directory: where to look.
    root: the directory that links must not leave, `directory` or one around it.

  Returns:
    Paths relative to `root`, sorted, with '/'.

  Raises:
    DataError: if a directory cannot be read, or is a link, or if a link leaves `root`.
  """
  root, top, found = os.path.realpath(root), os.path.realpath(directory), []
  for place, directories, files in os.walk(top, onerror=_refuse_directory):
    directories[:] = [name for name in directories if not name.startswith('.')]
    for name in directories:
      refuse_link(os.path.join(place, name))
    for name in files:
      path = os.path.join(place, name)
      if name.startswith('.') or not name.lower().endswith(SUFFIXES):
        continue
      if os.path.islink(path) and not _is_inside(os.path.realpath(path), root):
        raise DataError(
          f'{path!r} is a link that leads out of {root!r}; put the file itself there.'
        )
      found.append(os.path.relpath(path, root).replace(os.sep, '/'))
  return sorted(found, key=lambda name: name.split('/'))


def refuse_link(path):
  """Refuses a directory that is a link: it may lead anywhere, and in circles.

  Raises:
    DataError: if it is one.
  """
  if os.path.islink(path):
    raise DataError(
      f'{str(path)!r} is a link to a directory; put the directory itself there.'
    )


def _is_inside(path, root):
  return os.path.commonpath([path, root]) == root


def _refuse_directory(error):
  raise DataError(f'{error.filename!r} cannot be read ({error.strerror}).') from None


def read(file, size):
  """Decodes one image.

  Of several frames it takes the first. It is turned as EXIF says, what is transparent is
  white, and 16 bits become 8. Grey is what the file stores as grey.

  Args:
    file: a path, or a binary file.
    size: side in pixels, see `fit`.

  Returns:
    uint8 [size, size, C], C being 1 for grey and 3 for colour.

  Raises:
    BadImage: if it cannot be read, or has more than `MAX_PIXELS`.
  """
  if isinstance(file, str) and not os.path.isfile(file):
    raise BadImage('no file')  # but a pipe, say, that would be waited for
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of EXIF and the like
      with Image.open(file, formats=_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
          raise BadImage(f'{picture.width} x {picture.height} pixels are too many')
        picture.load()
        return fit(_to_array(_upright(picture)), size)
  except (UserError, BadImage):  # a signal may come here, too
    raise
  except Exception as error:  # a damaged file makes decoders raise anything
    raise BadImage(reason_of(error)) from error


def reason_of(error):
  """What went wrong with a file, in a few words."""
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
  except Exception:  # damaged EXIF says nothing, and the pixels are there
    return picture


def _to_array(picture):
  """Pixels of a loaded picture of any mode: uint8 [H, W, 1 or 3]."""
  if picture.mode == 'F':
    raise BadImage('pixels of 32 bits')
  if picture.mode.startswith('I'):
    pixels = np.asarray(picture)
    if pixels.min() < 0 or pixels.max() > 65535:
      raise BadImage('pixels of 32 bits')
    return np.rint(pixels / 257).astype(np.uint8)[..., None]
  mode = 'L' if picture.mode in ('1', 'L', 'LA') else 'RGB'
  if picture.has_transparency_data:
    white = Image.new('RGBA', picture.size, 'white')
    picture = Image.alpha_composite(white, picture.convert('RGBA'))
  pixels = np.asarray(picture.convert(mode))
  return pixels.reshape(*pixels.shape[:2], -1)


def border(height, width, size):
  """The black border that brings an image to its size.

  Returns:
    ((top, bottom), (left, right)) in pixels, or None where the image is larger, or more
    than 8 pixels smaller, and so is resized.
  """
  gaps = size - height, size - width
  if not all(0 <= gap <= 8 for gap in gaps):
    return None
  return tuple((gap // 2, gap - gap // 2) for gap in gaps)


def fit(image, size):
  """Brings an image to size x size pixels: padded, see `border`, or resized.

  Args:
    image: uint8 [H, W, C], C being 1 or 3.
    size: side in pixels.

  Returns:
    uint8 [size, size, C].
  """
  height, width, channels = image.shape
  around = border(height, width, size)
  if around:
    return np.pad(image, (*around, (0, 0)))
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  picture = picture.resize((size, size), Image.Resampling.LANCZOS)
  return np.asarray(picture).reshape(size, size, channels)


def with_channels(images, channels):
  """Makes grey images colour, or colour ones grey: uint8 [..., channels]."""
  if images.shape[-1] == channels:
    return images
  if channels == 3:
    return np.repeat(images, 3, axis=-1)
  weights = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 over 2^16, as Pillow
  return (((images * weights).sum(-1, keepdims=True) + 2**15) >> 16).astype(np.uint8)


def read_all(files, count, size):
  """Decodes images one by one.

  Args:
    files: pairs (name, file), see `read`.
    count: how many there are.
    size: side in pixels.

  Returns:
    `(images, kept, bad)`: those that can be read, uint8 [n, size, size, C], with 3
    channels if any is coloured; their numbers int [n]; and {name: why} of the others.
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
    images[len(kept)] = image  # a grey one into all three channels
    kept.append(i)
  return images[: len(kept)], np.array(kept, int), bad


def describe_bad(bad, count):
  """'3 of 120 images cannot be read: ...', with the first few names; `bad` as above."""
  shown = [f'{name!r} ({why})' for name, why in list(bad.items())[:_SHOWN]]
  more = f' and {len(bad) - _SHOWN} more' if len(bad) > _SHOWN else ''
  return f'{len(bad)} of {count} images cannot be read: {", ".join(shown)}{more}'
