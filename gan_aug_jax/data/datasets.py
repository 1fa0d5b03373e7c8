"""From the name of a dataset to three disjoint splits of uint8 images.

The sources (`mnist5k`, `folder`, `npz`, `huggingface`, `tfds`) load the images; the steps
here are common to all. A new source needs a function `load(Request) -> Collection`, see
`splits`, and an entry in `_SOURCES`.
"""

import dataclasses
import functools
import logging
import os
import unicodedata

import numpy as np

from gan_aug_jax.data import folder, huggingface, image_files, mnist5k, notes, npz, tfds
from gan_aug_jax.data.splits import composed, Dataset, draw_per_class, Request, Split
from gan_aug_jax.errors import DataError

_SOURCES = {
  'mnist5k': mnist5k.load,
  'folder': folder.load,
  'npz': npz.load,
  'huggingface': huggingface.load,
}
# A fixed seed: every run has the same test split.
_TEST_SEED, _TEST_FRACTION = 2026, 0.2
# (black, white, how to scale them to 255), the narrowest range first.
_OF_FLOATS = (
  (0, 1, 'np.rint(255 * images)'),
  (-1, 1, 'np.rint(127.5 * (images + 1))'),
  (0, 255, 'np.rint(images)'),
)


def load_dataset(
  name: str,
  *,
  image_size: int,
  seed: int,
  val_fraction: float,
  per_class: int = 0,
  imbalance: float = 1.0,
  imbalance_shape: str = 'exponential',
  data_dir: str = '',
  on_corrupt: str = 'refuse',
  train_on_val: bool = False,
  test_on: str = 'test',
  with_held_out_real: bool = False,
) -> Dataset:
  """Loads a dataset, subsamples it, splits it by class and resizes its images.

  If the source has no test split, a fifth of each class is held out for it, the same
  images for every seed. If it has a validation split, that is kept whole: `val_fraction`
  is ignored, `imbalance` applies to the training split only, and `per_class` is refused,
  since it covers training and validation together. `Dataset.notes` are logged as
  warnings.

  Args:
    name: 'mnist5k', 'folder', 'npz', 'huggingface:NAME' or the name of a TFDS dataset.
    image_size: side in pixels, see `image_files.resize`.
    seed: for drawing the label budget and the validation split.
    val_fraction: fraction of the training split (or label budget) held out, in (0, 1).
    per_class: label budget: images per class, validation included; 0 for all.
    imbalance: how many times fewer images the rarest class keeps, see `imbalanced`.
    imbalance_shape: 'exponential' or 'step'.
    data_dir: directory of 'folder', file of 'npz', directory that `save_to_disk` wrote
      for 'huggingface:NAME'. For TFDS its directory, or '' for TFDS_DATA_DIR or TFDS's
      default.
    on_corrupt: for image files that cannot be read: 'refuse', or 'skip' and list them.
    train_on_val: add the validation images to the training split.
    test_on: 'test', or 'val' to have the validation images in the test split's place.
    with_held_out_real: keep the images beyond the budget, see `Dataset.held_out_real`.

  Raises:
    DataError: if something is missing or wrong; one sentence that says what to do.
  """
  key, data_dir = name.partition(':')[0], os.path.expanduser(data_dir)
  if key not in ('mnist5k', 'folder', 'npz') and not data_dir:
    _check_home(name, 'HF_HOME' if key == 'huggingface' else 'TFDS_DATA_DIR')
  key = key if key == 'huggingface' else name
  request = Request(name, data_dir, image_size, on_corrupt)
  title, found = request.title, _SOURCES.get(key, tfds.load)(request)
  _check(title, found)
  found = _with_names(found)
  pool, val, test = found.train, found.val, found.test
  if test is None:
    pool, test = pool.hold_out(_TEST_FRACTION, np.random.default_rng(_TEST_SEED))
  rng = np.random.default_rng((seed, 0))
  kept = np.arange(len(pool))
  if per_class:
    _check_budget(title, found, pool, per_class)
    kept = draw_per_class(pool.labels, [per_class] * len(found.class_names), rng)
  if imbalance > 1:
    counts = imbalanced(np.bincount(pool.labels[kept]), imbalance, imbalance_shape)
    kept = kept[draw_per_class(pool.labels[kept], counts, rng)]
  held_out = (
    _beyond_budget(title, found, pool, kept, per_class) if with_held_out_real else None
  )
  train = pool.rows(kept)
  if val is None:
    train, val = train.hold_out(val_fraction, rng)
  splits = (train, val, val if test_on == 'val' else test, held_out)
  train, val, test, held_out = _with_one_shape(splits, image_size)
  remarks = _describe(title, found, train, val, None if test_on == 'val' else test)
  if train_on_val:
    images = np.concatenate([train.images, val.images])
    train = Split(images, np.concatenate([train.labels, val.labels]))
  return Dataset(
    title,
    found.class_names,
    train,
    val,
    test,
    skipped=found.skipped,
    held_out_real=held_out,
    notes=remarks,
    bit_depth=found.bit_depth,
  )


def _check_home(name, variable):
  """Refuses to keep a dataset in a user's cache where there is no home directory."""
  if not os.environ.get(variable) and not os.path.isabs(os.path.expanduser('~')):
    raise DataError(
      f'{name!r} would be kept in the home directory, and this user has none; set '
      f'data.data_dir, {variable} or HOME to a directory.'
    )


def imbalanced(counts: np.ndarray, imbalance: float, shape: str) -> np.ndarray:
  """How many images each class keeps in an imbalanced training set.

  Args:
    counts: images of each class, [num_classes].
    imbalance: how many times fewer the rarest class keeps, above 1.
    shape: 'exponential': each class is rarer than the one before it by the same factor
      (Cui et al. 2019, arXiv 1901.05555, section 5.1). 'step': the second half of the
      classes is rare (Buda et al. 2017, arXiv 1710.05381, section 3.3).

  Returns:
    int [num_classes], at least 2 each.
  """
  rarity = np.linspace(0, 1, len(counts))
  if shape == 'step':
    rarity = (rarity > 0.5).astype(float)
  return np.maximum(np.rint(counts / imbalance**rarity), 2).astype(int)


def _with_names(found):
  """The same with names of all images, and those of the classes composed (NFC)."""
  class_names = tuple(map(composed, found.class_names))
  given = {split: getattr(found, split) for split in ('train', 'val', 'test')}
  named = {
    split: dataclasses.replace(
      rows, names=np.array([f'{split}[{i}]' for i in range(len(rows))], object)
    )
    for split, rows in given.items()
    if rows is not None and rows.names is None
  }
  return dataclasses.replace(found, class_names=class_names, **named)


def _describe(title, found, train, val, test):
  """The notes on a source and its final splits, which are logged."""
  splits = {'training': train, 'validation': val, 'test': test}
  splits = {where: split for where, split in splits.items() if split is not None}
  remarks = (*found.notes, *notes.of_splits(title, found.class_names, splits))
  for remark in remarks:
    _warn(remark)
  return remarks


@functools.cache  # an ablation loads its data many times
def _warn(remark):
  logging.getLogger('gan_aug_jax').warning('%s', remark)


def _with_one_shape(splits, size):
  """Gives all splits the same size and channels, and int32 labels; None stays None."""
  channels = max(split.images.shape[-1] for split in splits if split)

  def convert(split):
    images = image_files.with_channels(image_files.resize(split.images, size), channels)
    return Split(images, split.labels.astype(np.int32), split.names)

  return [split and convert(split) for split in splits]


def _beyond_budget(title, found, pool, kept, per_class):
  """The images that the label budget leaves, at least one of each class: a `Split`."""
  rest = pool.rows(np.delete(np.arange(len(pool)), kept))
  counts = rest.class_counts(len(found.class_names))
  if counts.min() == 0:
    raise DataError(
      "mix.source='held_out' shows real images beyond the label budget, but "
      f'data.label_budget={per_class} leaves none of class '
      f'{found.class_names[counts.argmin()]!r} of {title!r}; '
      f'{"lower" if per_class else "set"} data.label_budget, or choose another source.'
    )
  return rest


def _check_budget(title, found, pool, per_class):
  if found.val:
    raise DataError(
      f'data.label_budget={per_class} covers training and validation images together, '
      f'but {title!r} has its own validation split; set it to 0, or remove that split.'
    )
  counts = pool.class_counts(len(found.class_names))
  if counts.min() < per_class:
    raise DataError(
      f'data.label_budget={per_class} is more than there is of class '
      f'{found.class_names[counts.argmin()]!r} of {title!r} (training images: '
      f'{counts.min()}); lower it.'
    )


def _check(title, found):
  """Checks what a source returned, so that no later step has to."""
  splits = {'training': found.train, 'validation': found.val, 'test': found.test}
  given = {where: split for where, split in splits.items() if split is not None}
  for where, split in given.items():
    _check_images(f'The {where} images of {title!r}', split.images)
  _check_class_names(title, found.class_names)
  for where, split in given.items():
    _check_labels(f'The {where} labels of {title!r}', split, len(found.class_names))
  # A split that is held out takes at least one training image of each class.
  needed = ['training', *(where for where in splits if where not in given)]
  counts = found.train.class_counts(len(found.class_names))
  if counts.min() < len(needed):
    raise DataError(
      f'Class {found.class_names[counts.argmin()]!r} of {title!r} has too few training '
      f'images ({counts.min()}); it needs at least {len(needed)}, for '
      f'{", ".join(needed)}.'
    )


def _check_images(which, images):
  shape, dtype = images.shape, images.dtype
  if 0 in shape:
    raise DataError(f'{which} are empty (shape {shape}); add some, or remove the split.')
  if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
    raise DataError(
      f'{which} must be uint8 [N, H, W, C] with C = 1 or 3, but are {dtype} of shape '
      f'{shape}; {_conversion(images)}.'
    )


def _conversion(images):
  """How to make uint8 [N, H, W, C] of images that are of another type or shape."""
  shape, dtype = images.shape, images.dtype
  if dtype == np.uint8:
    if len(shape) == 4 and shape[1] in (1, 3):
      return 'put the channels last with images.transpose(0, 2, 3, 1)'
    if len(shape) == 4 and shape[-1] == 4:
      return 'drop the alpha channel with images[..., :3]'
    return 'give them that shape'
  if dtype.kind not in 'biuf':
    return 'give them as numbers from 0 (black) to 255 (white)'
  low, high = images.min(), images.max()
  if not np.isfinite([low, high]).all():
    return 'correct those values first that are NaN or infinite'
  scales = _OF_FLOATS
  if dtype.kind in 'iu':
    white = 2 ** max(12, int(high).bit_length()) - 1
    scales = ((0, 255, 'images'), (0, white, f'np.rint(255 * (images / {white}))'))
  for black, white, convert in scales:
    if black <= low and high <= white:
      return f'as they are in [{black}, {white}], use {convert}.astype(np.uint8)'
  return (
    f'they are in [{low:g}, {high:g}], so decide which values are black and white, and '
    'rescale'
  )


def _check_labels(which, split, num_classes):
  labels = split.labels
  if labels.shape != split.images.shape[:1] or labels.dtype.kind not in 'iu':
    raise DataError(
      f'{which} must be {len(split.images)} whole numbers, one per image, but are '
      f'{labels.dtype} of shape {labels.shape}.'
    )
  low, high = labels.min(), labels.max()
  if low == 1 and high >= num_classes:
    raise DataError(
      f'{which} must start from 0, but start from 1 here (1 to {high}); subtract 1 from '
      'each label.'
    )
  if low < 0 or high >= num_classes:
    advice = 'renumber them, alike in all splits'
    if low < 0:
      advice = 'leave out images without a label, which often have -1'
    raise DataError(
      f'{which} must be class numbers from 0 to {num_classes - 1} without a gap, but are '
      f'from {low} to {high}; {advice}.'
    )


def _check_class_names(title, class_names):
  if len(class_names) < 2:
    raise DataError(
      f'{title!r} must have at least 2 classes, but has {len(class_names)}; add one.'
    )
  for name in class_names:
    # They are shown in terminals, CSV files and pictures.
    odd = {unicodedata.category(character) for character in name}
    if not name or odd & {'Cc', 'Cs', 'Zl', 'Zp'}:
      raise DataError(
        f'The class name {name!r} of {title!r} is empty or cannot be shown; rename the '
        'class.'
      )
    same = [other for other in class_names if composed(other) == composed(name)]
    if len(same) > 1:
      spelt = ''
      if same[0] != same[1]:
        spelt = f' in two Unicode spellings, {same[0]!a} and {same[1]!a}'
      raise DataError(f'Two classes of {title!r} are called {name!r}{spelt}; rename one.')
