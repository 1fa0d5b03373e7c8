"""Splits are disjoint, stratified and within the budget; what is missing is named."""

import os
import types

import numpy as np
import pytest

from gan_aug_jax.data import datasets, image_files, splits, tfds
from gan_aug_jax.errors import DataError

OPTIONS = {'image_size': 32, 'seed': 0, 'val_fraction': 1 / 7}
prepared = pytest.mark.skipif(
  not os.environ.get('TFDS_DATA_DIR'), reason='TFDS_DATA_DIR is not set'
)


def _rows(split):
  return {image.tobytes() for image in split.images}


@pytest.fixture(scope='module')
def mnist5k():
  return datasets.load_dataset('mnist5k', **OPTIONS)


def test_mnist5k_is_split_3000_500_1500_by_class(mnist5k):
  sizes = [(mnist5k.train, 300), (mnist5k.val, 50), (mnist5k.test, 150)]
  for split, per_class in sizes:
    np.testing.assert_array_equal(np.bincount(split.labels), [per_class] * 10)
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
  assert mnist5k.image_shape == (32, 32, 1)
  splits = [_rows(split) for split, _ in sizes]
  assert sum(map(len, splits)) == len(set().union(*splits)) == 5000


def test_padding_keeps_the_pixels(mnist5k):
  border = mnist5k.train.images.copy()
  border[:, 2:-2, 2:-2] = 0
  assert not border.any()
  small = datasets.load_dataset('mnist5k', **{**OPTIONS, 'image_size': 28})
  np.testing.assert_array_equal(small.train.images, mnist5k.train.images[:, 2:-2, 2:-2])


def test_seed_moves_validation_and_never_the_test_split(mnist5k):
  other = datasets.load_dataset('mnist5k', **{**OPTIONS, 'seed': 1})
  assert _rows(other.val) != _rows(mnist5k.val)
  np.testing.assert_array_equal(other.test.images, mnist5k.test.images)
  assert other.fingerprint != mnist5k.fingerprint
  again = datasets.load_dataset('mnist5k', **OPTIONS)
  assert again.fingerprint == mnist5k.fingerprint


def test_imbalance_keeps_what_its_shape_says():
  counts = np.full(10, 500)
  tail = datasets.imbalanced(counts, 100, 'exponential')
  np.testing.assert_array_equal(tail, np.rint(500 * 0.01 ** (np.arange(10) / 9)))
  assert (tail[0], tail[-1]) == (500, 5)
  step = datasets.imbalanced(counts, 10, 'step')
  np.testing.assert_array_equal(step, [500] * 5 + [50] * 5)
  assert datasets.imbalanced([20, 20, 20], 1000, 'exponential').min() == 2


def test_imbalanced_budget_is_split_by_class_and_the_test_split_is_whole():
  options = {'image_size': 28, 'seed': 1, 'val_fraction': 0.2, 'per_class': 100}
  rare = datasets.load_dataset('mnist5k', imbalance=10, imbalance_shape='step', **options)
  even = datasets.load_dataset('mnist5k', **options)
  np.testing.assert_array_equal(np.bincount(rare.train.labels), [80] * 5 + [8] * 5)
  np.testing.assert_array_equal(np.bincount(rare.val.labels), [20] * 5 + [2] * 5)
  np.testing.assert_array_equal(rare.test.images, even.test.images)


def test_per_class_is_the_whole_label_budget(mnist5k):
  small = datasets.load_dataset('mnist5k', **OPTIONS, per_class=14)
  np.testing.assert_array_equal(np.bincount(small.train.labels), [12] * 10)
  np.testing.assert_array_equal(np.bincount(small.val.labels), [2] * 10)
  np.testing.assert_array_equal(small.test.images, mnist5k.test.images)
  with pytest.raises(DataError, match=r'351 is more than .*\(training images: 350\)'):
    datasets.load_dataset('mnist5k', **OPTIONS, per_class=351)


@pytest.mark.parametrize('rare', [{}, {'imbalance': 4.0}])
def test_held_out_real_images_are_all_that_the_budget_leaves(mnist5k, rare):
  small = datasets.load_dataset(
    'mnist5k', **OPTIONS, per_class=14, with_held_out_real=True, **rare
  )
  parts = [_rows(split) for split in (small.train, small.val, small.held_out_real)]
  assert sum(map(len, parts)) == 3500 and len(set().union(*parts)) == 3500
  assert set().union(*parts) == _rows(mnist5k.train) | _rows(mnist5k.val)
  assert not parts[2] & _rows(small.test)
  with pytest.raises(DataError, match="leaves none of class '0'"):
    datasets.load_dataset('mnist5k', **OPTIONS, with_held_out_real=True)


def test_validation_images_are_trained_on_or_tested_on_where_asked(mnist5k):
  more = datasets.load_dataset('mnist5k', **OPTIONS, train_on_val=True)
  assert _rows(more.train) == _rows(mnist5k.train) | _rows(mnist5k.val)
  np.testing.assert_array_equal(np.bincount(more.train.labels), [350] * 10)
  assert more.fingerprint != mnist5k.fingerprint
  search = datasets.load_dataset('mnist5k', **OPTIONS, test_on='val')
  np.testing.assert_array_equal(search.test.images, mnist5k.val.images)
  assert search.fingerprint == mnist5k.fingerprint


def test_fingerprint_sees_one_pixel_and_one_label(mnist5k):
  images, labels = mnist5k.train.images.copy(), mnist5k.train.labels.copy()
  images[7, 5, 5] ^= 1
  labels[7] = (labels[7] + 1) % 10
  prints = {mnist5k.fingerprint}
  for train in (
    datasets.Split(images, mnist5k.train.labels),
    datasets.Split(mnist5k.train.images, labels),
  ):
    changed = datasets.Dataset('', mnist5k.class_names, train, mnist5k.val, mnist5k.test)
    prints.add(changed.fingerprint)
  assert len(prints) == 3


def test_resize_handles_any_size_and_mixed_sizes():
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((60, 50), (20, 90))]
  resized = image_files.resize(images, 32)
  assert resized.shape == (2, 32, 32, 3) and resized.dtype == np.uint8
  flat = np.full((1, 64, 64, 1), 77, np.uint8)
  np.testing.assert_array_equal(image_files.resize(flat, 16), np.full((1, 16, 16, 1), 77))


def _source(images, labels, class_names=('a', 'b')):
  split = datasets.Split(images, np.asarray(labels))
  return lambda _: splits.Collection(class_names, split, split)


def _rows_of(number, labels):
  """Images that no other number has, and labels: a `Split`."""
  pixels = np.random.default_rng(number).integers(
    0, 256, (len(labels), 8, 8, 1), np.uint8
  )
  return datasets.Split(pixels, np.asarray(labels))


def _load_collection(monkeypatch, *parts, **options):
  """Loads a `Collection` of these parts."""
  monkeypatch.setitem(datasets._SOURCES, 'odd', lambda _: splits.Collection(*parts))
  return datasets.load_dataset('odd', **{**OPTIONS, 'image_size': 8, **options})


@pytest.mark.parametrize(
  ('images', 'labels', 'message'),
  [
    *(
      (np.full((4, 8, 8, 3), value), [0, 1, 0, 1], message)
      for value, message in (
        (0.5, r'float64 .* in \[0, 1\], use np\.rint\(255 \* images\)\.astype'),
        (-0.5, r'in \[-1, 1\], use np\.rint\(127\.5 \* \(images \+ 1\)\)'),
        (200.0, r'in \[0, 255\], use np\.rint\(images\)\.astype'),
        (1e3, r'in \[1000, 1000\], so decide which values are black and white'),
        (np.nan, 'NaN or infinite'),
        ('x', 'numbers from 0'),
        (1j, 'numbers from 0'),
      )
    ),
    (
      np.zeros((4, 8, 8, 4), np.uint8),
      [0, 1, 0, 1],
      r'shape \(4, 8, 8, 4\); drop the alpha channel with images\[\.\.\., :3\]\.$',
    ),
    (
      np.zeros((4, 3, 8, 8), np.uint8),
      [0, 1, 0, 1],
      r'\(4, 3, 8, 8\); .* with images\.transpose\(0, 2, 3, 1\)\.$',
    ),
    (
      np.zeros((4, 64), np.uint8),
      [0, 1, 0, 1],
      r'shape \(4, 64\); give them that shape\.$',
    ),
    (
      np.full((4, 8, 8, 1), 255),
      [0, 1, 0, 1],
      r'int64 .*; as they are in \[0, 255\], use images\.astype\(np\.uint8\)\.$',
    ),
    (
      np.full((4, 8, 8, 1), -1),
      [0, 1, 0, 1],
      r'int64 .*; they are in \[-1, -1\], so decide',
    ),
    (
      np.zeros((0, 8, 8, 1), np.uint8),
      [],
      r'training images .* are empty \(shape \(0, 8, 8, 1\)\); .* remove the split\.$',
    ),
    (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, -1], 'from -1 to 1; leave out'),
    (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 2], 'from 0 to 2; renumber'),
    (
      np.zeros((4, 8, 8, 3), np.uint8),
      [1, 2, 1, 2],
      r'from 0, but .* 1 here \(1 to 2',
    ),
    (
      np.full((4, 8, 8, 3), 4095, np.uint16),
      [0, 1, 0, 1],
      r'uint16 .*in \[0, 4095\], use .* / 4095',
    ),
    (
      np.zeros((4, 8, 8, 3), np.uint8),
      [0, 0, 0, 1],
      r"'b' .* too few .*images \(1\)",
    ),
  ],
)
def test_what_is_no_labelled_image_is_refused(images, labels, message, monkeypatch):
  monkeypatch.setitem(datasets._SOURCES, 'odd', _source(images, labels))
  with pytest.raises(DataError, match=message):
    datasets.load_dataset('odd', **OPTIONS)


def test_labels_from_one_are_refused_in_any_split(monkeypatch):
  train, test = _rows_of(0, [0, 1, 2] * 4), _rows_of(1, [1, 2, 3])
  with pytest.raises(DataError, match=r'The test labels .* start from 1 here'):
    _load_collection(monkeypatch, tuple('abc'), train, test)


@pytest.mark.parametrize('names', [('\xe9', 'e\u0301'), ('\u212b', 'x', 'A\u030a')])
def test_class_names_in_two_unicode_spellings_are_told_apart(monkeypatch, names):
  with pytest.raises(DataError, match='two Unicode spellings') as caught:
    _load_collection(monkeypatch, names, _rows_of(0, [0, 1, 2] * 4))
  assert ascii(names[0]) in str(caught.value) and ascii(names[-1]) in str(caught.value)


def test_class_names_are_composed(monkeypatch):
  loaded = _load_collection(monkeypatch, ('a', 'e\u0301'), _rows_of(0, [0, 1] * 6))
  assert loaded.class_names == ('a', '\xe9') and not loaded.notes


def test_what_a_split_lacks_is_noted_once(monkeypatch, caplog):
  parts = tuple('abcdefgh'), _rows_of(0, [*range(8)] * 4), _rows_of(1, [0, 1, 3])
  loaded = _load_collection(monkeypatch, *parts, _rows_of(2, [*range(7)]))
  assert loaded.notes == (
    "There are no validation images of class 'h' in 'odd', so validation scores say "
    'nothing about it.',
    "There are no test images of classes 'c', 'e', 'f' and 2 more in 'odd', so test "
    'scores say nothing about them.',
  )
  _load_collection(monkeypatch, *parts, _rows_of(2, [*range(7)]))
  assert [record.getMessage() for record in caplog.records] == [*loaded.notes]
  loaded = _load_collection(monkeypatch, *parts, test_on='val')
  assert not loaded.notes  # nobody looks at the test split


def test_copies_across_splits_are_counted_and_named(monkeypatch):
  train, test = _rows_of(0, [0, 1] * 10), _rows_of(1, [0, 1, 0, 1])
  val = datasets.Split(train.images[[3, 4]], train.labels[[4, 3]])  # labels do not matter
  test.images[1], test.images[2] = train.images[7], val.images[0]
  loaded = _load_collection(monkeypatch, ('a', 'b'), train, test, val)
  first, second, third = loaded.notes
  assert first.startswith(
    "2 of 2 validation images of 'odd' are also training images ('va"
  )
  assert '2 of 4 test images' in second and "'test[1]' = 'train[7]'" in second
  assert "1 of 4 test images of 'odd' are also validation images" in third
  # Of a set that is divided here; names are those in the source.
  train.images[::2] = train.images[0]
  loaded = _load_collection(monkeypatch, ('a', 'b'), train)
  first, second, third = loaded.notes
  assert '1 of 2 validation' in first and '2 of 4 test' in second and '2 of 4' in third
  assert set(loaded.test.names) < {f'train[{i}]' for i in range(20)}
  # Training on the validation images is the user's choice.
  train, options = _rows_of(0, [0, 1] * 10), {'train_on_val': True, 'test_on': 'val'}
  assert not _load_collection(monkeypatch, ('a', 'b'), train, **options).notes


def test_images_of_far_fewer_than_8_bits_are_noted(monkeypatch):
  split = _rows_of(0, [0, 1] * 10)
  dark = datasets.Split(split.images // 16, split.labels)
  (note,) = _load_collection(monkeypatch, ('a', 'b'), dark).notes
  assert "No pixel of 'odd' is above 15" in note


class _Builder:
  """What `tfds` asks of a prepared TFDS dataset, with splits of any names."""

  data_dir, name = '', 'made'

  def __init__(self, **parts):
    self.parts, self.info = parts, self
    self.splits, self.supervised_keys = list(parts), ('image', 'label')
    image = types.SimpleNamespace(shape=(None, None, 1), np_dtype=np.uint8)
    self.features = {'image': image, 'label': types.SimpleNamespace(names=['a', 'b'])}

  def as_data_source(self, split):
    return _Rows(self.parts[split])


class _Rows:
  def __init__(self, split):
    self.split = split

  def __len__(self):
    return len(self.split)

  def __getitems__(self, index):
    images, labels = self.split.images, self.split.labels
    return [{'image': images[i], 'label': labels[i]} for i in index]


def test_splits_of_tfds_are_found_by_their_usual_names(monkeypatch):
  labels = [0, 1] * 10

  def load(**parts):
    monkeypatch.setattr(tfds, '_make_builder', lambda *_: _Builder(**parts))
    return datasets.load_dataset('made', **{**OPTIONS, 'image_size': 8})

  train, val, test = (_rows_of(i, labels) for i in range(3))
  loaded = load(train=train, validation=val, test=test, test_hard=test)
  for split, rows in (('train', train), ('val', val), ('test', test)):
    np.testing.assert_array_equal(getattr(loaded, split).images, rows.images)
  assert loaded.notes == ("Of 'made', these splits are not used: 'test_hard'.",)
  alone = load(train=train)
  assert [len(alone.train), len(alone.val), len(alone.test)] == [14, 2, 4]
  with pytest.raises(DataError, match=r"no split 'train' \(it has test\)"):
    load(test=test)


@pytest.mark.parametrize(
  ('name', 'data_dir', 'message'),
  [
    ('cifar11', '', 'did you mean cifar10'),
    ('cifar10', '/nowhere', "data_dir='/nowhere' does not exist"),
    ('cifar10', 'empty', 'is not prepared in'),
    ('mnist5k', 'empty', "data.name='mnist5k' is embedded and ignores"),
    ('cifar10:9.9.9', 'empty', 'cannot be loaded at version 9.9.9'),
  ],
)
def test_missing_data_is_named(name, data_dir, message, tmp_path, monkeypatch):
  prepare = 'tensorflow_datasets.core.DatasetBuilder.download_and_prepare'
  monkeypatch.setattr(prepare, None)  # where TensorFlow is installed
  data_dir = str(tmp_path) if data_dir == 'empty' else data_dir
  with pytest.raises(DataError, match=message) as caught:
    datasets.load_dataset(name, **OPTIONS, data_dir=data_dir)
  assert '\n' not in str(caught.value)


@prepared
@pytest.mark.slow  # decodes 60,000 images; what follows from them is tested with few
def test_prepared_tfds_data_are_read():
  options = {**OPTIONS, 'val_fraction': 0.2}
  loaded = datasets.load_dataset('cifar10', **options, per_class=50)
  assert loaded.image_shape == (32, 32, 3) and len(loaded.test) == 10000
  np.testing.assert_array_equal(np.bincount(loaded.train.labels), [40] * 10)
  assert not _rows(loaded.train) & _rows(loaded.val)
  assert loaded.class_names[3] == 'cat'
