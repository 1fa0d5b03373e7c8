"""The words of this folder, in the order in which data pass through it.

A *source* is a module with a function `load(Request) -> Collection`: `mnist5k`, `folder`,
`npz`, `huggingface` or `tfds`. It returns every image it has, in the splits they came in.
`datasets` checks them, draws the label budget, holds out the splits that are missing and
resizes the images. The result is a `Dataset` of three disjoint `Split`s.
"""

import dataclasses
import functools
import hashlib
import pathlib
import unicodedata

import numpy as np

from gan_aug_jax.data.facts import DataFacts


@dataclasses.dataclass(frozen=True)
class Request:
  """What a source needs to know; the fields of `config.data` with the same names."""

  name: str
  data_dir: str
  image_size: int
  on_corrupt: str

  @property
  def title(self) -> str:
    """What reports call the dataset."""
    by_place = self.name in ('folder', 'npz')
    title = pathlib.Path(self.data_dir).resolve().name if by_place else self.name
    return ''.join(c if c.isprintable() else '?' for c in title) or self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Images uint8 [N, H, W, C] with C = 1 or 3, and labels [N], whole numbers from 0 on.

  The names [N] say where in its source each image is from; None if that is not known. A
  split is equal only to itself.
  """

  images: np.ndarray
  labels: np.ndarray
  names: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.labels)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of images and labels: 16 hex digits."""
    digest = hashlib.sha256(str(self.images.shape).encode())
    digest.update(np.ascontiguousarray(self.images))
    digest.update(np.ascontiguousarray(self.labels.astype('<i4')))
    return digest.hexdigest()[:16]

  def rows(self, index) -> 'Split':
    """The examples at a NumPy index (a slice, a mask or integers)."""
    names = None if self.names is None else self.names[index]
    return Split(self.images[index], self.labels[index], names)

  def some(self, count: int, seed: int) -> 'Split':
    """Up to `count` examples, drawn at random with `seed` and kept in order.

    Args:
      count: at least 1.
    """
    order = np.random.default_rng(seed).permutation(len(self))
    return self.rows(np.sort(order[:count]))

  def class_counts(self, num_classes: int) -> np.ndarray:
    """Number of images of each class: int [num_classes]."""
    return np.bincount(self.labels, minlength=num_classes)

  def hold_out(
    self, fraction: float, rng: np.random.Generator
  ) -> tuple['Split', 'Split']:
    """Divides the split, stratified by class.

    Args:
      fraction: of each class, to hold out; at least one image stays on either side.

    Returns:
      `(rest, held out)`.
    """
    counts = np.bincount(self.labels)
    counts = np.clip(np.rint(fraction * counts).astype(int), 1, counts - 1)
    index = draw_per_class(self.labels, counts, rng)
    return self.rows(np.delete(np.arange(len(self)), index)), self.rows(index)


@dataclasses.dataclass(frozen=True)
class Collection:
  """Everything a source has.

  Attributes:
    class_names: one per class.
    train: the training images, including those for validation if `val` is None.
    test: None if it is to be held out of `train`.
    val: None if it is to be held out of `train`.
    skipped: names of the image files that could not be read.
    notes: what a user should know, such as what was not used: a sentence each.
    bit_depth: see `DataFacts`.
  """

  class_names: tuple[str, ...]
  train: Split
  test: Split | None = None
  val: Split | None = None
  skipped: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  bit_depth: int | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Three disjoint splits, with images of one shape and labels int32.

  Attributes:
    name: what reports call the dataset.
    class_names: one per class.
    train: what the generator and the classifier train on.
    val: held out of the label budget, or the source's own validation split.
    test: never used in training.
    skipped: names of the image files that could not be read.
    held_out_real: the training images beyond the label budget, which the oracle
      `held_out` shows in place of synthetic ones; None unless requested.
    notes: what reports should say of the data, a sentence each.
    bit_depth: see `DataFacts`.
  """

  name: str
  class_names: tuple[str, ...]
  train: Split
  val: Split
  test: Split
  skipped: tuple[str, ...] = ()
  held_out_real: Split | None = None
  notes: tuple[str, ...] = ()
  bit_depth: int | None = None

  @functools.cached_property
  def facts(self) -> DataFacts:
    """What a run keeps of the dataset; hashes all splits, once."""
    return DataFacts(
      fingerprint=self.fingerprint,
      class_names=self.class_names,
      image_shape=self.image_shape,
      num_train=len(self.train),
      num_val=len(self.val),
      num_test=len(self.test),
      num_skipped=len(self.skipped),
      class_counts=tuple(self.train.class_counts(self.num_classes).tolist()),
      val_fingerprint=self.val.fingerprint,
      test_fingerprint=self.test.fingerprint,
      bit_depth=self.bit_depth,
    )

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C)."""
    return self.train.images.shape[1:]

  @property
  def fingerprint(self) -> str:
    """Hash of the training images and labels: 16 hex digits."""
    return self.train.fingerprint


def composed(name: str) -> str:
  """A class name in Unicode's composed form (NFC): macOS spells é with two characters."""
  return unicodedata.normalize('NFC', name)


def draw_per_class(labels: np.ndarray, counts, rng: np.random.Generator) -> np.ndarray:
  """Draws examples of each class without replacement.

  Args:
    labels: whole numbers [N].
    counts: how many to draw of each class, [num_classes].

  Returns:
    Indices into `labels`, sorted: int [sum(counts)].
  """
  drawn = [
    rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)
  ]
  return np.sort(np.concatenate(drawn))
