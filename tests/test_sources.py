"""Folders, .npz files and saved Hugging Face datasets: read whole, or refused by name."""

import io
import logging
import ntpath
import os
import re
import struct
import sys
import zipfile
import zlib

from matplotlib.axes import Axes
import numpy as np
from PIL import Image, PngImagePlugin
import pytest

from gan_aug_jax.data import datasets, folder, image_files, npz
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import DataError
from gan_aug_jax.evaluation import figures

OPTIONS = {'image_size': 16, 'seed': 0, 'val_fraction': 0.25}


def _load(name, where, **options):
  return datasets.load_dataset(name, data_dir=str(where), **{**OPTIONS, **options})


def _picture(number, channels=1, shape=(16, 16)):
  """An image whose pixels tell its number, as Pillow has it."""
  pixels = np.random.default_rng(number).integers(0, 256, (*shape, channels), np.uint8)
  return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def _make_folder(root, splits=('train', 'test'), classes=('a', 'b'), count=8, channels=1):
  """PNG files, no two the same: {split: {pixels as bytes}}."""
  made = {}
  for split in splits:
    for name in classes:
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        number = 1000 * splits.index(split) + 100 * classes.index(name) + i
        picture = _picture(number, channels)
        picture.save(root / split / name / f'{i}.png')
        made.setdefault(split, set()).add(np.asarray(picture).tobytes())
  return made


def _pixels(*splits):
  return {image.tobytes() for split in splits for image in split.images}


def test_folder_with_splits_keeps_them(tmp_path):
  made = _make_folder(tmp_path, ('train', 'val', 'test'))
  loaded = _load('folder', tmp_path)
  assert loaded.class_names == ('a', 'b') and loaded.image_shape == (16, 16, 1)
  for split in ('train', 'val', 'test'):
    rows = getattr(loaded, split)
    assert _pixels(rows) == made[split]
    np.testing.assert_array_equal(np.bincount(rows.labels), [8, 8])
  label = loaded.train.labels[list(map(bytes, loaded.train.images)).index(
    np.asarray(_picture(103)).tobytes())]  # fmt: skip
  assert label == 1
  assert _load('folder', tmp_path, seed=1).fingerprint == loaded.fingerprint


def test_given_validation_split_has_no_budget_and_stays_whole(tmp_path):
  made = _make_folder(tmp_path, ('train', 'val', 'test'))
  with pytest.raises(DataError, match='its own validation split'):
    _load('folder', tmp_path, per_class=4)
  rare = _load('folder', tmp_path, imbalance=4.0)
  np.testing.assert_array_equal(np.bincount(rare.train.labels), [8, 2])
  assert _pixels(rare.val) == made['val']


def test_given_validation_split_is_kept_where_the_test_split_is_held_out(tmp_path):
  made = _make_folder(tmp_path, ('train', 'val'), count=10)
  loaded = _load('folder', tmp_path)
  assert _pixels(loaded.val) == made['val']
  np.testing.assert_array_equal(np.bincount(loaded.test.labels), [2, 2])
  assert _pixels(loaded.train, loaded.test) == made['train']


@pytest.mark.parametrize('splits', [('.',), ('train',)])
def test_folder_without_test_holds_out_the_same_fifth_for_every_seed(tmp_path, splits):
  made = _make_folder(tmp_path, splits, count=10)
  first, second = (_load('folder', tmp_path, seed=seed) for seed in (0, 1))
  np.testing.assert_array_equal(np.bincount(first.test.labels), [2, 2])
  np.testing.assert_array_equal(np.bincount(first.val.labels), [2, 2])
  np.testing.assert_array_equal(first.test.images, second.test.images)
  assert _pixels(first.val) != _pixels(second.val)
  assert _pixels(first.train, first.val, first.test) == made[splits[0]]
  assert sum(map(len, (first.train, first.val, first.test))) == 20


def test_order_is_of_names_and_not_of_the_file_system(tmp_path, monkeypatch):
  _make_folder(tmp_path)
  loaded = _load('folder', tmp_path)
  scan = os.scandir

  class Backwards:
    def __init__(self, place):
      with scan(place) as entries:
        by_name = sorted(entries, key=lambda entry: entry.name, reverse=True)
      self._entries = iter(by_name)

    def __iter__(self):
      return self

    def __next__(self):
      return next(self._entries)

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

  monkeypatch.setattr(os, 'scandir', Backwards)  # which os.walk calls, too
  assert _load('folder', tmp_path).fingerprint == loaded.fingerprint


def test_any_colour_makes_all_colour_and_other_files_are_passed_over(tmp_path):
  _make_folder(tmp_path)
  grey = _load('folder', tmp_path)
  for name in ('.DS_Store', 'Thumbs.db', 'notes.txt', '._0.png'):
    (tmp_path / 'train' / 'a' / name).write_bytes(b'no image')
  (tmp_path / '.git' / 'x').mkdir(parents=True)
  (tmp_path / 'notes').mkdir()
  assert _load('folder', tmp_path).fingerprint == grey.fingerprint
  _picture(7, channels=3).save(tmp_path / 'test' / 'b' / 'colour.PNG')
  colour = _load('folder', tmp_path)
  assert colour.image_shape == (16, 16, 3) and len(colour.test) == 17
  np.testing.assert_array_equal(
    colour.train.images, np.repeat(grey.train.images, 3, axis=-1)
  )


def _stray(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    _picture(zlib.crc32(name.encode())).save(root / name)


@pytest.mark.parametrize(
  'names', [('training', 'Valid', 'testing'), ('Train', 'dev', 'TEST'), ('train', 'eval')]
)
def test_directories_are_splits_by_any_usual_name(tmp_path, names):
  made = _make_folder(tmp_path, names)
  loaded = _load('folder', tmp_path)
  for split, name in zip(('train', 'val', 'test'), names, strict=False):
    if len(names) == 3 or split == 'val':
      assert _pixels(getattr(loaded, split)) == made[name]
  assert not loaded.notes


def test_a_directory_called_train_next_to_classes_is_one_or_is_refused(tmp_path):
  for name in ('bus/1.png', 'bus/2.png', 'car/1.png', 'car/2.png', 'train/1.png'):
    for i in range(5):
      _stray(tmp_path, f'flat/{name}{i}.png', f'deep/{name.replace("/", "/x/")}{i}.png')
  loaded = _load('folder', tmp_path / 'flat')
  assert loaded.class_names == ('bus', 'car', 'train') and not loaded.notes
  with pytest.raises(DataError, match=r"'train' .* images in 'bus', 'car' next to it"):
    _load('folder', tmp_path / 'deep')


def test_what_of_a_folder_is_not_used_is_noted(tmp_path, caplog):
  _make_folder(tmp_path / 'x')
  _stray(tmp_path / 'x', 'unlabelled/1.png', 'train/1.png', 'train/2.png', '3.png')
  loaded = _load('folder', tmp_path / 'x')
  assert loaded.notes == (
    "Of 'x', these directories are not used: 'unlabelled'.",
    "In 'x', 1 image is outside the class directories and not used.",
    "In 'x/train', 2 images are outside the class directories and not used.",
  )
  assert len(caplog.records) == 3
  assert _pixels(loaded.train, loaded.val) == _make_folder(tmp_path / 'y')['train']


@pytest.mark.parametrize('split', ['', 'train/'])
def test_classes_that_contain_the_same_directories_are_noted(tmp_path, split):
  names = [f'{split}fold{k}/{name}/{i}.png' for k in '12' for name in 'ab' for i in '123']
  _stray(tmp_path / 'years', *names)
  assert _load('folder', tmp_path / 'years').notes == (
    "Every class of 'years' contains the same directories ('a', 'b'); if those are the "
    'classes, set data.data_dir to the directory above them.',
  )
  _stray(tmp_path / 'years', f'{split}fold2/c/1.png')
  assert not _load('folder', tmp_path / 'years').notes


def test_splits_inside_classes_are_refused(tmp_path):
  _make_folder(tmp_path, splits=('a', 'b'), classes=('train', 'test'))
  with pytest.raises(DataError, match=r"'a' contains splits \(test, train\)"):
    _load('folder', tmp_path)


def test_what_systems_add_to_a_folder_is_passed_over(tmp_path):
  _make_folder(tmp_path, ('.',), count=10)
  whole = _load('folder', tmp_path)
  places = ('a/@eaDir/0.png', 'b/.AppleDouble', '__MACOSX/a', '#recycle/a', '.@__thumb')
  _stray(tmp_path, *(f'{place}/0.png' for place in places))
  loaded = _load('folder', tmp_path)
  assert loaded.fingerprint == whole.fingerprint and not loaded.notes
  names = image_files.find(str(tmp_path), str(tmp_path))
  assert len(names) == 20


@pytest.mark.parametrize('kind', ['png', 'bmp', 'colour'])
def test_copies_of_training_images_are_found_in_any_format(tmp_path, kind):
  _make_folder(tmp_path)
  for i in (2, 5):
    picture = Image.open(tmp_path / 'train' / 'a' / f'{i}.png')
    picture = picture.convert('RGB') if kind == 'colour' else picture
    picture.save(tmp_path / 'test' / 'b' / f'x{i}.{"bmp" if kind == "bmp" else "png"}')
  notes = ' '.join(_load('folder', tmp_path).notes)
  for i in (2, 5):
    assert re.search(rf"'test/b/x{i}\.\w+' = 'train/a/{i}\.png'", notes)


COMPOSED, DECOMPOSED = 'caf\xe9', 'cafe\u0301'


def test_one_class_in_two_unicode_forms_is_one(tmp_path):
  _make_folder(tmp_path / 'linux', ('train',), ('a', COMPOSED))
  made = _make_folder(tmp_path / 'mac', ('train', 'test'), ('a', DECOMPOSED))
  (tmp_path / 'mac' / 'test').rename(tmp_path / 'linux' / 'test')
  loaded = _load('folder', tmp_path / 'linux')
  assert loaded.class_names == ('a', COMPOSED) and _pixels(loaded.test) == made['test']
  _make_folder(tmp_path / 'both', ('.',), ('a', COMPOSED, DECOMPOSED))
  with pytest.raises(DataError, match='Unicode spellings') as caught:
    _load('folder', tmp_path / 'both')
  for name in (COMPOSED, DECOMPOSED):
    assert ascii(name) in str(caught.value)


def test_classes_that_look_the_same_are_told_apart(tmp_path):
  _make_folder(tmp_path, ('train',), ('a', 'b'))
  _make_folder(tmp_path, ('test',), ('\u0430', 'b'))  # Cyrillic
  with pytest.raises(DataError, match=r"\('\\u0430'\) is a directory in 'test' but not"):
    _load('folder', tmp_path)


def _deep_png(pixels):
  """A PNG of 16 bits per channel, which Pillow cannot write: bytes."""
  height, width, channels = pixels.shape

  def chunk(kind, content):
    check = struct.pack('>I', zlib.crc32(kind + content))
    return struct.pack('>I', len(content)) + kind + content + check

  kind = {3: 2, 4: 6}[channels]
  header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0))
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  body = chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + header + body


def _make_deep(root, top, write, count=8):
  """A folder whose values go up to `top`: all of them in the last file."""
  rng = np.random.default_rng(0)
  for k, name in enumerate('ab'):
    (root / name).mkdir(parents=True)
    for i in range(count):
      pixels = rng.integers(0, top // 3, (16, 16)) + k * (top // 3)
      pixels[0, 0] = top if (k, i) == (1, count - 1) else 0
      write(root / name / f'{i}.tif', pixels)


def test_a_workdir_on_another_drive_is_not_inside_the_folder(monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(folder.os, 'path', ntpath)  # as on Windows
    folder.refuse_inside('C:\\images', 'D:\\runs')


def _as(dtype, kind='TIFF'):
  return lambda path, pixels: Image.fromarray(pixels.astype(dtype)).save(path, kind)


@pytest.mark.parametrize('write', [_as(np.uint16), _as(np.int32), _as(np.uint16, 'PNG')])
@pytest.mark.parametrize(
  ('top', 'bits'), [(255, 8), (1000, 10), (4095, 12), (10_000, 14), (65535, 16)]
)
def test_files_of_16_bits_are_scaled_by_what_all_of_them_use(tmp_path, top, bits, write):
  _make_deep(tmp_path / 'x', top, write)
  loaded = _load('folder', tmp_path / 'x')
  assert loaded.bit_depth == loaded.facts.bit_depth == bits
  assert max(s.images.max() for s in (loaded.train, loaded.val, loaded.test)) == round(
    255 * top / (2**bits - 1)
  )
  assert len(np.unique(loaded.train.images)) > 100
  assert [f'{2**bits - 1} is taken for white' in note for note in loaded.notes] == (
    [True] if bits < 16 else []
  )


def test_files_of_8_bits_have_no_other_depth(tmp_path):
  _make_folder(tmp_path)
  assert _load('folder', tmp_path).facts.bit_depth is None
  facts = _load('folder', tmp_path).facts.to_json()
  facts.pop('bit_depth')
  assert DataFacts.from_json(facts).bit_depth == 16  # of a run before it was kept


@pytest.mark.parametrize('channels', [3, 4])
def test_colour_of_16_bits_is_read_where_it_uses_them_all_or_refused(tmp_path, channels):
  """Pillow keeps the upper 8 bits only."""

  def write(path, pixels):
    colour = np.repeat(pixels[..., None], channels, -1)
    colour[..., 3:] = 65535
    path.with_suffix('.png').write_bytes(_deep_png(colour))

  _make_deep(tmp_path / 'full', 65535, write)
  assert len(np.unique(_load('folder', tmp_path / 'full').train.images)) > 100
  _make_deep(tmp_path / 'some', 4095, write)
  with pytest.raises(DataError, match=r'16 of 16 .*\(16-bit colour that uses only 12'):
    _load('folder', tmp_path / 'some')


def test_a_value_above_the_depth_of_a_run_is_no_image():
  picture = Image.fromarray(np.full((16, 16), 4096, np.uint16))
  with pytest.raises(image_files.BadImage, match='to 4096, not 12 bits from 0'):
    image_files.read(_encoded(picture, 'PNG'), 16, 12)


def _encoded(picture, kind, **options):
  content = io.BytesIO()
  picture.save(content, kind, **options)
  return io.BytesIO(content.getvalue())


def test_every_kind_of_pixels_becomes_what_a_viewer_shows():
  red = Image.new('RGB', (16, 16), (255, 0, 0))
  clear = Image.new('RGBA', (16, 16), (255, 0, 0, 0))
  palette = red.quantize(4)
  half = Image.fromarray(np.full((16, 16), 32896, np.uint16))
  wide = Image.fromarray(np.full((16, 16), 70000, np.int32))
  expected = [
    (red, 'PNG', {}, (255, 0, 0)),
    (palette, 'PNG', {}, (255, 0, 0)),
    (palette, 'PNG', {'transparency': 0}, (255, 255, 255)),
    (clear, 'PNG', {}, (255, 255, 255)),
    (clear, 'WEBP', {'lossless': True}, (255, 255, 255)),
    (Image.new('LA', (16, 16), (0, 0)), 'PNG', {}, (255,)),
    (half, 'PNG', {}, (128,)),
    (half, 'TIFF', {}, (128,)),
    (Image.new('1', (16, 16), 1), 'PNG', {}, (255,)),
    (red.convert('CMYK'), 'TIFF', {}, (255, 0, 0)),
    (red, 'GIF', {}, (255, 0, 0)),
  ]
  for picture, kind, options, pixel in expected:
    found = image_files.read(_encoded(picture, kind, **options), 16)
    assert found.shape == (16, 16, len(pixel)), (picture.mode, kind)
    assert (found == np.array(pixel, np.uint8)).all(), (picture.mode, kind, found[0, 0])
  photo = image_files.read(_encoded(red.convert('CMYK'), 'JPEG'), 16)
  assert np.abs(photo.astype(int) - (255, 0, 0)).max() < 8
  for picture in (wide, Image.fromarray(np.zeros((16, 16), np.float32))):
    with pytest.raises(image_files.BadImage, match=r'32-bit|from 70000 to 70000'):
      image_files.read(_encoded(picture, 'TIFF'), 16)


def test_exif_orientation_turns_and_damaged_exif_does_not():
  pixels = np.zeros((16, 16), np.uint8)
  pixels[:8] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # the top is at the right
  turned = image_files.read(_encoded(Image.fromarray(pixels), 'PNG', exif=exif), 16)
  np.testing.assert_array_equal(turned[..., 0], np.rot90(pixels, -1))
  broken = _encoded(Image.fromarray(pixels), 'PNG', exif=b'Exif\0\0MM\0\x2a\xff\xff')
  np.testing.assert_array_equal(image_files.read(broken, 16)[..., 0], pixels)


@pytest.mark.parametrize('shape', [(16, 16), (12, 16), (8, 8), (7, 16), (40, 20), (2, 3)])
def test_images_are_brought_to_size_alone_and_together(shape):
  pixels = np.asarray(_picture(3, 3, shape))
  (single,) = image_files.resize(pixels[None], 16)
  both = image_files.resize([pixels, pixels[:1]], 16)
  np.testing.assert_array_equal(single, both[0])
  inner = single[(16 - shape[0]) // 2 :, (16 - shape[1]) // 2 :]
  padded = min(shape) >= 8 and max(shape) <= 16
  assert padded == np.array_equal(inner[: shape[0], : shape[1]], pixels)


def _corrupt(root):
  """Four files that are no images, each in its own way; their names as data has them."""
  folder = root / 'train' / 'a'
  (folder / 'x0.png').write_bytes(b'')
  (folder / 'x1.png').write_bytes((folder / '0.png').read_bytes()[:150])
  (folder / 'x2.jpg').write_text('<html>404</html>')
  os.mkfifo(folder / 'x3.png')  # which would be waited for
  return tuple(f'train/a/{name}' for name in ('x0.png', 'x1.png', 'x2.jpg', 'x3.png'))


def test_unreadable_images_are_refused_with_their_names_and_number(tmp_path):
  _make_folder(tmp_path)
  names = _corrupt(tmp_path)
  with pytest.raises(DataError, match=r'4 of 36 images .* and 1 more;') as caught:
    _load('folder', tmp_path)
  for name in names[:3]:
    assert repr(name) in str(caught.value)
  assert '\n' not in str(caught.value) and 'object at' not in str(caught.value)


def test_unreadable_images_are_skipped_where_asked(tmp_path, caplog):
  _make_folder(tmp_path)
  whole = _load('folder', tmp_path)
  names = _corrupt(tmp_path)
  with caplog.at_level(logging.WARNING, 'gan_aug_jax'):
    loaded = _load('folder', tmp_path, on_corrupt='skip')
  assert loaded.skipped == names and not whole.skipped
  assert loaded.fingerprint == whole.fingerprint
  (record,) = caplog.records
  assert '4 of 36' in record.getMessage() and '\n' not in record.getMessage()


def test_no_readable_image_of_a_class_is_an_error_also_when_skipping(tmp_path):
  _make_folder(tmp_path, count=1)
  (tmp_path / 'test' / 'b' / '0.png').write_bytes(b'')
  with pytest.raises(DataError, match="No image of class 'b' in 'test'"):
    _load('folder', tmp_path, on_corrupt='skip')


def test_a_bomb_is_not_decoded(monkeypatch):
  bomb = _encoded(Image.new('1', (3000, 3000)), 'PNG')
  monkeypatch.setattr(image_files, 'MAX_PIXELS', 3000 * 3000 - 1)
  monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', None)
  with pytest.raises(image_files.BadImage, match='3000 x 3000 pixels are too many'):
    image_files.read(bomb, 16)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # twice which Pillow refuses
  with pytest.raises(image_files.BadImage, match='too many pixels'):
    image_files.read(bomb, 16)


def test_only_named_decoders_are_used():
  """PostScript would start a program."""
  with pytest.raises(image_files.BadImage, match='not an image'):
    image_files.read(_encoded(Image.new('RGB', (16, 16)), 'EPS'), 16)


def test_links_must_stay_inside(tmp_path):
  root, outside = tmp_path / 'set', tmp_path / 'outside'
  _make_folder(root)
  outside.mkdir()
  _picture(9).save(outside / 'secret.png')
  inside = root / 'train' / 'a' / 'again.png'
  inside.symlink_to(root / 'train' / 'a' / '0.png')
  assert len(_load('folder', root, val_fraction=0.1).train) == 15
  out = root / 'train' / 'a' / 'out.png'
  out.symlink_to(outside / 'secret.png')
  with pytest.raises(DataError, match='leads out of'):
    _load('folder', root)
  out.unlink()
  for place in ('train/a/deeper', 'train/c', 'val'):
    (root / place).symlink_to(outside, target_is_directory=True)
    with pytest.raises(DataError, match='is a link to a directory'):
      _load('folder', root)
    (root / place).unlink()
  link = tmp_path / 'link'
  link.symlink_to(root)
  assert len(_load('folder', link).test) == 16


def _remove(root, *names):
  for name in names:
    for path in (root / name).rglob('*'):
      if path.is_file():
        path.unlink()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda root: _remove(root, 'train/b'), "Class 'b' in 'train' holds no images"),
    (lambda root: (root / 'test' / 'c').mkdir(), "'c' is a directory in 'test' but not"),
    (
      lambda root: (root / 'train' / 'c').mkdir(),
      "'c' is a directory in 'train' but not",
    ),
    (lambda root: (root / 'valid').mkdir(), "in 'train' but not in 'val'"),
    (lambda root: (root / 'Testing').mkdir(), "'Testing' and 'test' .* both look like"),
    (lambda root: (root / 'train').rename(root / 'c'), "'test' .* looks like a split"),
  ],
)
def test_folders_that_cannot_be_meant_are_refused(tmp_path, change, message):
  _make_folder(tmp_path)
  change(tmp_path)
  with pytest.raises(DataError, match=message):
    _load('folder', tmp_path)


def test_too_few_classes_or_images_are_refused(tmp_path):
  one = tmp_path / 'one'
  _make_folder(one, ('.',), classes=('a',))
  with pytest.raises(DataError, match=r"at least 2 class directories .* found 1 \('a'\)"):
    _load('folder', one)
  (tmp_path / 'none').mkdir()
  with pytest.raises(DataError, match=r'found 0 \(none\)'):
    _load('folder', tmp_path / 'none')
  _make_folder(tmp_path / 'two', ('.',), count=2)
  with pytest.raises(DataError, match=r'too few .* \(2\); it needs at least 3'):
    _load('folder', tmp_path / 'two')
  _make_folder(tmp_path / 'three', ('train', 'val', 'test'), count=1)
  assert len(_load('folder', tmp_path / 'three').train) == 2
  (tmp_path / 'file').write_text('')
  for where, message in (('file', 'is not a directory'), ('gone', 'does not exist')):
    with pytest.raises(DataError, match=message):
      _load('folder', tmp_path / where)


def test_a_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  _make_folder(tmp_path)
  scan = os.scandir

  def refused(place):
    if str(place).endswith('b'):
      raise PermissionError(13, 'Permission denied', str(place))
    return scan(place)

  monkeypatch.setattr(os, 'scandir', refused)
  with pytest.raises(DataError, match=r"b' cannot be read \(Permission denied\)"):
    _load('folder', tmp_path)


@pytest.mark.parametrize(
  'name', ['a\nb', 'a\x1b[31m', b'\xff'.decode(errors='surrogateescape')]
)
def test_class_names_that_cannot_be_shown_are_refused(tmp_path, name):
  _make_folder(tmp_path, classes=('a', name), count=2)
  with pytest.raises(DataError, match='cannot be shown') as caught:
    _load('folder', tmp_path)
  assert str(caught.value).isprintable()


def test_class_names_are_drawn_as_they_are():
  """A formula that cannot be parsed would end the run in its report."""
  names = [r'$\frac$', '../../etc', '<b>']
  assert figures.confusion_matrix('arm', names, np.eye(3)).startswith(b'\x89PNG')
  panels = {'generated': np.zeros((3, 2, 8, 8, 1), np.uint8)}
  assert figures.grid(names, panels).startswith(b'\x89PNG')
  assert figures.changes('change', names, names, np.eye(3)).startswith(b'\x89PNG')


def _size(png):
  return Image.open(io.BytesIO(png)).size


def test_figures_of_many_classes_have_a_size_that_memory_has_room_for(monkeypatch):
  texts, named = [], []
  monkeypatch.setattr(Axes, 'text', lambda *args, **_: texts.append(args))
  name = figures._some_of
  monkeypatch.setattr(
    figures, '_some_of', lambda names: named.append(name(names)) or name(names)
  )
  names = [f'class {i}' for i in range(130)]
  matrix = figures.confusion_matrix('arm', names, np.eye(130))
  many = figures.changes('change', names, names, np.eye(130))
  wide = figures.changes('change', ['one', 'two'], names, np.ones((2, 130)))
  assert max(*_size(matrix), *_size(many), *_size(wide)) <= 150 * 15
  assert not texts
  for places, shown in named:
    assert len(places) == len(shown) <= 40
    assert [names[i] for i in places] == shown or shown == ['one', 'two']


def test_no_change_is_shown_where_there_is_none_but_of_rounding(monkeypatch):
  texts = []
  monkeypatch.setattr(Axes, 'text', lambda _, x, y, text, **__: texts.append(text))
  differences = [[1e-17, -1e-17], [-0.0004, -0.002]]
  figures.changes('F1', ['x', 'y'], ['a', 'b'], differences)
  assert texts == ['-0.2']


def _arrays(count=6, shape=(16, 16), seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (2 * count, *shape), np.uint8)
  return images, np.repeat([0, 1], count)


def _save(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_npz_keeps_its_splits_and_names(tmp_path):
  parts = {split: _arrays(seed=i) for i, split in enumerate(('train', 'val', 'test'))}
  arrays = {f'{split}_images': images for split, (images, _) in parts.items()}
  arrays |= {f'{split}_labels': labels for split, (_, labels) in parts.items()}
  arrays['train_labels'] = arrays['train_labels'][:, None].astype(np.uint64)
  arrays['other'] = np.array([{}], object)  # which is not opened
  path = _save(tmp_path / 'x.npz', class_names=['cat', 'dog'], **arrays)
  loaded = _load('npz', path)
  assert loaded.class_names == ('cat', 'dog') and loaded.image_shape == (16, 16, 1)
  assert loaded.notes == ("Of 'x.npz', these arrays are not used: 'other'.",)
  for split, (images, labels) in parts.items():
    rows = getattr(loaded, split)
    np.testing.assert_array_equal(rows.images[..., 0], images)
    np.testing.assert_array_equal(rows.labels, labels)


def test_arrays_are_of_a_split_by_any_usual_name(tmp_path):
  names = {'Training': 'train', 'valid': 'val', 'testing': 'test', 'extra': None}
  parts = {name: _arrays(seed=i) for i, name in enumerate(names)}
  arrays = {f'{name}_images': images for name, (images, _) in parts.items()}
  arrays |= {f'{name}_labels': labels for name, (_, labels) in parts.items()}
  loaded = _load('npz', _save(tmp_path / 'x.npz', **arrays))
  for name, split in names.items():
    if split:
      found = getattr(loaded, split).images[..., 0]
      np.testing.assert_array_equal(found, parts[name][0])
  (note,) = loaded.notes
  assert "'extra_images', 'extra_labels'" in note


def test_npz_of_one_split_is_divided(tmp_path):
  images, labels = _arrays(10, (16, 16, 3))
  loaded = _load('npz', _save(tmp_path / 'x.npz', images=images, labels=labels))
  assert loaded.class_names == ('0', '1')
  assert [len(x) for x in (loaded.train, loaded.val, loaded.test)] == [12, 4, 4]
  assert len(_pixels(loaded.train, loaded.val, loaded.test)) == 20


IMAGES, LABELS = _arrays()


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'images': IMAGES / 255, 'labels': LABELS}, r'are float64 .*np\.rint\(255'),
    ({'images': IMAGES.astype(np.int64), 'labels': LABELS}, 'are int64'),
    ({'images': np.moveaxis(_arrays(6, (16, 16, 3))[0], -1, 1), 'labels': LABELS},
     r'shape \(12, 3, 16, 16\)'),
    ({'images': IMAGES[:0], 'labels': LABELS[:0]}, r'shape \(0, 16, 16, 1\)'),
    ({'images': IMAGES, 'labels': LABELS[1:]}, r'12 whole numbers.* shape \(11,\)'),
    ({'images': IMAGES, 'labels': LABELS / 1}, 'labels .* float64'),
    ({'images': IMAGES, 'labels': LABELS - 1}, 'from -1 to 0'),
    ({'images': IMAGES, 'labels': LABELS * 10**9}, 'to 1000000000'),
    ({'images': IMAGES, 'labels': 2 * LABELS}, 'without a gap, but are from 0 to 2'),
    ({'images': IMAGES, 'labels': 0 * LABELS}, 'at least 2 classes, but has 1'),
    ({'images': IMAGES, 'labels': LABELS, 'class_names': [1, 2]}, 'must be strings'),
    ({'images': IMAGES, 'labels': LABELS, 'class_names': ['a', 'a']}, "are called 'a'"),
    ({'images': IMAGES, 'labels': 2 * LABELS, 'class_names': ['a', 'b']},
     'from 0 to 2'),
    ({'images': IMAGES, 'labels': LABELS.astype(object)}, 'Python objects'),
    ({'images': IMAGES}, "no array 'labels'"),
    ({'x_train': IMAGES}, r"no array 'train_images' \(it has x_train\)"),
    ({'images': IMAGES, 'labels': LABELS + 1}, r'start from 1 here \(1 to 2\)'),
    ({'train_images': IMAGES, 'training_images': IMAGES}, 'both look like'),
    ({'images': IMAGES, 'labels': LABELS, 'test_images': IMAGES},
     "no array 'test_labels'"),
  ],
)  # fmt: skip
def test_npz_of_anything_else_is_refused(tmp_path, arrays, message):
  with pytest.raises(DataError, match=message) as caught:
    _load('npz', _save(tmp_path / 'x.npz', **arrays))
  assert '\n' not in str(caught.value)


def test_npz_that_is_none_is_refused(tmp_path):
  whole = _save(tmp_path / 'x.npz', images=IMAGES, labels=LABELS).read_bytes()
  cases = [
    (whole[:1000], 'as an .npz file'),
    (whole.replace(IMAGES[3].tobytes(), IMAGES[4].tobytes()), 'as an .npz file'),
    (b'\x80\x04}.', 'as an .npz file'),
  ]
  for content, message in cases:
    (tmp_path / 'y.npz').write_bytes(content)
    with pytest.raises(DataError, match=message):
      _load('npz', tmp_path / 'y.npz')
  for where, message in ((tmp_path, 'is not a file'), (tmp_path / 'z', 'does not exist')):
    with pytest.raises(DataError, match=message):
      _load('npz', where)


def test_npz_that_claims_too_much_takes_no_memory(tmp_path, monkeypatch):
  header = io.BytesIO()
  form = {'descr': '|u1', 'fortran_order': False, 'shape': (10**6, 1000, 1000)}
  np.lib.format.write_array_header_1_0(header, form)
  path = tmp_path / 'x.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('images.npy', header.getvalue())
  with pytest.raises(DataError, match=r'cannot be read as an \.npz file'):
    _load('npz', path)
  monkeypatch.setattr(npz, '_memory_bytes', lambda: 2**10)
  monkeypatch.setattr(np, 'load', None)
  with pytest.raises(DataError, match=r'this machine has 0\.0 GiB'):
    _load('npz', _save(path, images=IMAGES, labels=LABELS))


def _save_huggingface(root, *, splits, bad=()):
  """A saved dataset with odd names of its columns."""
  datasets = pytest.importorskip('datasets')
  columns = {
    'pixels': datasets.Image(),
    'kind': datasets.ClassLabel(names=['cat', 'dog']),
  }
  features = datasets.Features({'note': datasets.Value('string'), **columns})

  def rows(seed):
    images, labels = _arrays(seed=seed)
    encoded = [_encoded(Image.fromarray(image), 'PNG').getvalue() for image in images]
    encoded = [b'' if i in bad else content for i, content in enumerate(encoded)]
    pixels = [{'bytes': content, 'path': None} for content in encoded]
    made = {'note': ['x'] * len(labels), 'pixels': pixels, 'kind': labels.tolist()}
    return datasets.Dataset.from_dict(made, features=features)

  made = {split: rows(seed) for seed, split in enumerate(splits)}
  datasets.DatasetDict(made).save_to_disk(root)


def test_saved_huggingface_dataset_is_read(tmp_path):
  _save_huggingface(tmp_path, splits=('train', 'validation', 'test'))
  loaded = _load('huggingface:local', tmp_path)
  assert loaded.class_names == ('cat', 'dog')
  for seed, split in enumerate(('train', 'val', 'test')):
    images, labels = _arrays(seed=seed)
    np.testing.assert_array_equal(getattr(loaded, split).images[..., 0], images)
    np.testing.assert_array_equal(getattr(loaded, split).labels, labels)


@pytest.mark.parametrize(('val', 'test'), [('valid', 'testing'), ('dev', 'test')])
def test_splits_of_huggingface_are_found_by_their_usual_names(tmp_path, val, test):
  _save_huggingface(tmp_path, splits=('train', val, 'extra', test))
  loaded = _load('huggingface:local', tmp_path)
  for seed, split in enumerate(('train', 'val', None, 'test')):
    if split:
      found = getattr(loaded, split).images[..., 0]
      np.testing.assert_array_equal(found, _arrays(seed=seed)[0])
  assert loaded.notes == ("Of 'huggingface:local', these splits are not used: 'extra'.",)


def test_unreadable_images_of_huggingface_are_named(tmp_path):
  _save_huggingface(tmp_path, splits=('train',), bad=(3, 7))
  with pytest.raises(DataError, match=r"2 of 12 .*'train\[3\]'"):
    _load('huggingface:local', tmp_path)
  loaded = _load('huggingface:local', tmp_path, on_corrupt='skip')
  assert loaded.skipped == ('train[3]', 'train[7]')
  assert [len(x) for x in (loaded.train, loaded.val, loaded.test)] == [6, 2, 2]
  kept = np.delete(_arrays()[0], [3, 7], axis=0)
  assert _pixels(loaded.train, loaded.val, loaded.test) == {x.tobytes() for x in kept}


def test_what_the_hub_does_not_give_is_one_sentence(tmp_path, monkeypatch):
  datasets = pytest.importorskip('datasets')

  def offline(*_):
    raise ConnectionError("Couldn't reach the Hub\nRetry")

  def unknown(*_):
    raise datasets.exceptions.DatasetNotFoundError('no')

  for load, message in (
    (offline, r"\(Couldn't reach the Hub\)"),
    (unknown, r'\(no\); check its name'),
  ):
    monkeypatch.setattr(datasets, 'load_dataset', load)
    with pytest.raises(DataError, match=message):
      _load('huggingface:org/name', '')
  with pytest.raises(DataError, match='must be huggingface:NAME'):
    _load('huggingface:../name', '')
  with pytest.raises(DataError, match='cannot be loaded as a Hugging Face'):
    _load('huggingface:local', tmp_path)
  datasets.Dataset.from_dict({'label': [0, 1]}).save_to_disk(tmp_path / 'x')
  with pytest.raises(DataError, match=r'columns \(label\) has type Image'):
    _load('huggingface:local', tmp_path / 'x')


def test_huggingface_without_its_package_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(DataError, match=r'\.\[huggingface\]'):
    _load('huggingface:org/name', '')
