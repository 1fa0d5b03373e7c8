"""Images with labels: what a source is asked for, what it returns, drawing by class."""

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Examples: images uint8 [N, H, W, C] and labels int32 [N]; equal to itself alone."""

  images: np.ndarray
  labels: np.ndarray

  def __len__(self):
    return len(self.labels)

  @functools.cached_property
  def fingerprint(self):
    """Hash of images and labels: hex, 16 digits."""
    return fingerprint_of(self.images, self.labels)

  def rows(self, index):
    return Split(self.images[index], self.labels[index])

  def some(self, count, seed):
    """Up to `count` examples drawn at random, in their order here."""
    order = np.random.default_rng(seed).permutation(len(self))
    return self.rows(np.sort(order[:count]))


@dataclasses.dataclass(frozen=True)
class Request:
  """What a source is asked for: the fields of `config.data` of the same names."""

  name: str
  data_dir: str
  image_size: int
  on_corrupt: str


@dataclasses.dataclass(frozen=True)
class Collection:
  """What a source holds, before anything is drawn from it.

  A split's images are uint8 [N, H, W, C], or an object array [N] of [h, w, C], with 1 or
  3 channels; its labels are whole numbers below the number of classes.

  Attributes:
    class_names: one a class.
    train: what is trained on, and validation with it where there is no `val`.
    test: None where it is to be held out of `train`.
    val: None where it is to be held out of `train`.
    skipped: names of the image files that could not be read.
  """

  class_names: tuple[str, ...]
  train: Split
  test: Split | None = None
  val: Split | None = None
  skipped: tuple[str, ...] = ()


def fingerprint_of(images, labels):
  """Hash of images uint8 [N, H, W, C] and labels [N]: hex, 16 digits."""
  digest = hashlib.sha256(str(images.shape).encode())
  digest.update(np.ascontiguousarray(images))
  digest.update(np.ascontiguousarray(labels.astype('<i4')))
  return digest.hexdigest()[:16]


def draw_per_class(labels, counts, rng):
  """Draws counts[c] indices of each class c, sorted: int [sum(counts)]."""
  drawn = [
    rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)
  ]
  return np.sort(np.concatenate(drawn))


def stack(images):
  """An array [N, H, W, C], or where sizes differ an object array [N] of images."""
  if len({image.shape for image in images}) == 1:
    return np.stack(images)
  stacked = np.empty(len(images), object)
  for i, image in enumerate(images):
    stacked[i] = image
  return stacked
