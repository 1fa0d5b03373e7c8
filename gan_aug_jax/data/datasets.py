"""Datasets: uint8 images and labels in three disjoint splits, and a fingerprint.

Where they come from is the business of `sources` (one's own images, and the embedded
`mnist5k`) and of `hubs` (what others publish). A new source is a function
`(Request) -> Collection`, see `splits`, and an entry in `_SOURCES`.
"""

import dataclasses
import functools
import pathlib
import unicodedata

import numpy as np

from gan_aug_jax.data import hubs, image_files, sources
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.data.splits import draw_per_class, Request, Split
from gan_aug_jax.errors import DataError

# The test split is one and the same for every seed.
_TEST_SEED, _TEST_FRACTION = 2026, 0.2


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Three disjoint splits of one dataset.

  Attributes:
    name: the dataset's name.
    class_names: one a class.
    train: what the GAN and the classifier train on, the same images for both.
    val: held out of the training split (and of the label budget), or the source's own.
    test: never touched in training.
    skipped: names of the image files that could not be read.
    unseen: what the budget left of the source's training split, for a bound that shows
      real images in the generator's place; None where it was not asked for.
  """

  name: str
  class_names: tuple[str, ...]
  train: Split
  val: Split
  test: Split
  skipped: tuple[str, ...] = ()
  unseen: Split | None = None

  @functools.cached_property
  def facts(self) -> DataFacts:
    """What a run keeps of the dataset; hashes all splits."""
    return DataFacts(
      fingerprint=self.fingerprint,
      class_names=self.class_names,
      image_shape=self.image_shape,
      num_train=len(self.train),
      num_val=len(self.val),
      num_test=len(self.test),
      num_skipped=len(self.skipped),
      val_fingerprint=self.val.fingerprint,
      test_fingerprint=self.test.fingerprint,
    )

  @property
  def num_classes(self):
    return len(self.class_names)

  @property
  def image_shape(self):
    return self.train.images.shape[1:]

  @property
  def fingerprint(self):
    """Hash of the training images and labels: hex, 16 digits."""
    return self.train.fingerprint


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
  on_corrupt='refuse',
  train_on_val=False,
  test_on='test',
  with_unseen=False,
):
  """Loads, subsets, splits and sizes a dataset.

  A source without a test split has a fifth of its images held out for it, by class, the
  same ones for every seed. One with a validation split keeps that whole: `val_fraction`
  is not used then, `imbalance` makes the training split alone unequal, and a budget
  `per_class`, which is for the two together, is refused.

  Args:
    name: 'mnist5k', 'folder', 'npz', 'huggingface:NAME' or a TFDS name.
    image_size: side of the images in pixels. Images up to 8 pixels smaller are padded
      with black, others resized.
    seed: of the subset and of the validation split.
    val_fraction: part of the training split (or of the subset) held out, in (0, 1).
    per_class: label budget, images a class, validation included; 0 for all.
    imbalance: how many times fewer images the rarest class keeps, see `imbalanced`.
    imbalance_shape: 'exponential' or 'step'.
    data_dir: where it is: the directory of 'folder', the file of 'npz', what
      `save_to_disk` wrote of 'huggingface:NAME'; of TFDS its directory, or empty for
      TFDS_DATA_DIR or TFDS's own default.
    on_corrupt: image files that cannot be read: 'refuse', or 'skip' and name them.
    train_on_val: whether `train` is to have the images of `val`, too.
    test_on: 'test'; or 'val', whose images then take the place of the test split.
    with_unseen: whether to keep what the budget leaves, see `Dataset.unseen`.

  Returns:
    A `Dataset`.

  Raises:
    DataError: one sentence on what is missing or wrong, and what to do.
  """
  key = 'huggingface' if name.startswith('huggingface:') else name
  load = _SOURCES.get(key, hubs.load_tfds)
  found = load(Request(name, data_dir, image_size, on_corrupt))
  _check(name, found)
  pool, val, test = found.train, found.val, found.test
  if test is None:
    pool, test = _hold_out_test(name, found)
  _check_counts(name, pool, found, least=2 if val is None else 1)
  rng = np.random.default_rng((seed, 0))
  whole, kept = pool, np.arange(len(pool))
  if per_class:
    kept = _within_budget(name, pool, found, per_class, rng)
  if imbalance > 1:
    labels = whole.labels[kept]
    counts = imbalanced(np.bincount(labels), imbalance, imbalance_shape)
    kept = kept[draw_per_class(labels, counts, rng)]
  if len(kept) < len(whole):
    pool = whole.rows(kept)
  chosen = [_unseen(name, whole, kept, found)] if with_unseen else []
  if val is None:
    pool, val = _hold_out(pool, val_fraction, rng)
  chosen = [pool, val, val if test_on == 'val' else test, *chosen]
  sized = [
    Split(resize(split.images, image_size), split.labels.astype(np.int32))
    for split in chosen
  ]
  train, val, test, *unseen = _with_same_channels(sized)
  if train_on_val:
    train = Split(
      np.concatenate([train.images, val.images]),
      np.concatenate([train.labels, val.labels]),
    )
  # What a report calls it.
  title = pathlib.Path(data_dir).resolve().name if key in ('folder', 'npz') else name
  title = ''.join(c if c.isprintable() else '?' for c in title) or name
  names, skipped = tuple(found.class_names), tuple(found.skipped)
  return Dataset(title, names, train, val, test, skipped, *unseen)


def _unseen(name, whole, kept, found):
  """What a budget leaves of a training split.

  Raises:
    DataError: if it leaves nothing of a class.
  """
  rest = whole.rows(np.setdiff1d(np.arange(len(whole)), kept))
  left = np.bincount(rest.labels, minlength=len(found.class_names))
  if left.min() == 0:
    raise DataError(
      f"sampler.source='unseen' shows images of {name!r} beyond the budget, which leaves "
      f'none of class {found.class_names[int(left.argmin())]!r}; set data.per_class to '
      'less than there are, or leave that source out.'
    )
  return rest


def _within_budget(name, pool, found, per_class, rng):
  """Draws `per_class` indices of each class.

  Raises:
    DataError: if there are fewer, or a validation split that is no part of them.
  """
  if found.val:
    raise DataError(
      f'data.per_class={per_class} is a budget of labels for training and validation '
      f'together, and {name!r} has a validation split of its own; leave data.per_class '
      'at 0, or take that split away.'
    )
  present = np.bincount(pool.labels)
  if present.min() < per_class:
    short = found.class_names[int(present.argmin())]
    raise DataError(
      f'data.per_class={per_class} asks for more than class {short!r} of {name!r} has '
      f'({present.min()} training images); ask for fewer.'
    )
  return draw_per_class(pool.labels, [per_class] * len(present), rng)


def _hold_out(split, fraction, rng):
  """Divides a split by class: `(rest, held out)`, at least one of each class in both."""
  counts = np.bincount(split.labels)
  held_out = np.clip(np.rint(fraction * counts).astype(int), 1, counts - 1)
  index = draw_per_class(split.labels, held_out, rng)
  rest = np.setdiff1d(np.arange(len(split)), index)
  return split.rows(rest), split.rows(index)


def _hold_out_test(name, found):
  _check_counts(name, found.train, found, least=2 if found.val else 3)
  return _hold_out(found.train, _TEST_FRACTION, np.random.default_rng(_TEST_SEED))


def _with_same_channels(splits):
  """Makes the grey splits colour if any is."""
  channels = max(split.images.shape[-1] for split in splits)
  return [
    Split(image_files.with_channels(split.images, channels), split.labels)
    for split in splits
  ]


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


def resize(images, size):
  """Brings images to size x size pixels.

  Args:
    images: uint8 [N, H, W, C], or an object array [N] of [h, w, C].
    size: side in pixels.

  Returns:
    uint8 [N, size, size, C].
  """
  if images.dtype != object:
    around = image_files.border(*images.shape[1:3], size)
    if around == ((0, 0), (0, 0)):
      return images
    if around:
      return np.pad(images, ((0, 0), *around, (0, 0)))
  return np.stack([image_files.fit(image, size) for image in images])


def _check(name, found):
  """Checks that a source gave images with a label each, of at least two classes.

  Raises:
    DataError: if not.
  """
  class_names = found.class_names
  if len(class_names) < 2:
    raise DataError(f'{name!r} has {len(class_names)} classes; at least 2 are needed.')
  for class_name in class_names:
    # They stand in terminals, CSV files and pictures.
    odd = {unicodedata.category(character) for character in class_name}
    if not class_name or odd & {'Cc', 'Cs', 'Zl', 'Zp'}:
      raise DataError(
        f'The class name {class_name!r} of {name!r} is empty or has characters that '
        'cannot be shown; rename the class.'
      )
  if len(set(class_names)) < len(class_names):
    twice = next(x for x in class_names if class_names.count(x) > 1)
    raise DataError(f'Two classes of {name!r} are called {twice!r}; rename one.')
  splits = {'training': found.train, 'validation': found.val, 'test': found.test}
  for where, split in splits.items():
    if split is not None:
      _check_split(name, split, where, len(class_names))


def _check_split(name, split, where, num_classes):
  if not len(split):
    raise DataError(f'The {where} split of {name!r} is empty; choose another dataset.')
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


def _check_counts(name, split, found, *, least):
  """Checks that each class has as many images as splits are to be made of it."""
  present = np.bincount(split.labels, minlength=len(found.class_names))
  if present.min() < least:
    rare = found.class_names[int(present.argmin())]
    needed = {
      1: '1 is needed',
      2: '2 are needed, one to train on and one to validate or test on',
      3: '3 are needed, one each to train, validate and test on',
    }
    raise DataError(
      f'Class {rare!r} of {name!r} has {present.min()} training images; at least '
      f'{needed[least]}.'
    )


_SOURCES = {
  'mnist5k': sources.load_mnist5k,
  'folder': sources.load_folder,
  'npz': sources.load_npz,
  'huggingface': hubs.load_huggingface,
}
