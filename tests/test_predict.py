"""A trained classifier labels image files, from nothing but its workdir."""

import contextlib
import csv
import html
import io
import json
import os
import shutil

import numpy as np
from PIL import Image
import pytest

from gan_aug_jax import cli
from tests.conftest import make_dataset

CONFIG = """
from gan_aug_jax import config as base

def get_config():
  config = base.default()
  config.data.name, config.data.on_corrupt = 'folder', 'skip'
  config.data.image_size, config.data.val_fraction = 10, 0.25
  config.arms = ('real_only', 'real_classical')
  config.classifier.num_steps, config.classifier.batch_size = 20, 8
  config.classifier.features, config.classifier.hidden = (4, 4), (8,)
  config.classifier.learning_rate, config.augment.crop_padding = 0.05, 1
  config.log.every_steps = 5
  return config
"""


def run(command, *flags):
  return cli.main(['gan_aug_jax', command, *flags])


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of two arms on a folder that was moved: `(workdir, folder, what it said)`."""
  root = tmp_path_factory.mktemp('predict')
  toy = make_dataset(per_class=16)
  for name, split in (('train', toy.train), ('test', toy.test)):
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
      path = root / 'before' / name / toy.class_names[label] / f'{i:03}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image[..., 0]).save(path)
  (root / 'before' / 'train' / 'a' / 'bad.png').write_bytes(b'')
  (root / 'before' / 'spare').mkdir()
  (root / 'config.py').write_text(CONFIG)
  flags = [f'--config={root / "config.py"}', f'--workdir={root / "run"}']
  with contextlib.redirect_stdout(io.StringIO()) as said:
    assert run('run', *flags, f'--config.data.data_dir={root / "before"}') == 0
  (root / 'before').rename(root / 'after')
  return root / 'run', root / 'after', said.getvalue()


def _predict(workdir, images, *flags):
  """Predicts; returns the table's rows."""
  assert run('predict', f'--workdir={workdir}', f'--images={images}', *flags) == 0
  with open(workdir / 'predictions.csv', newline='', errors='surrogateescape') as file:
    return list(csv.DictReader(file))


def _refused(capsys, code, *argv):
  assert run(*argv) == code
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith('gan_aug_jax: ')
  return line


def test_skipped_files_are_counted_where_a_run_is_described(finished):
  workdir, _, said = finished
  assert 'Files skipped: 1.' in said
  for name, of in (('results.json', lambda x: x), ('config.json', lambda x: x['data'])):
    assert of(json.loads((workdir / name).read_text()))['num_skipped'] == 1


def test_notes_on_the_data_are_in_the_results_the_report_and_the_terminal(finished):
  workdir, _, said = finished
  note = "Of 'before', these directories are not used: 'spare'."
  assert json.loads((workdir / 'results.json').read_text())['data_notes'] == [note]
  assert note in ' '.join(said.split())
  assert note in html.unescape((workdir / 'report.html').read_text())


@pytest.mark.parametrize('arm', ['real_only', 'real_classical'])
def test_labels_are_those_of_the_test_split(finished, arm):
  workdir, folder, _ = finished
  rows = _predict(workdir, folder / 'test', f'--arm={arm}')
  with np.load(workdir / 'arms' / arm / 'predictions.npz') as saved:
    expected = saved['test_predictions']
  # The names of a split's files, sorted, are its order.
  assert [row['file'] for row in rows] == sorted(
    str(path.relative_to(folder / 'test')) for path in (folder / 'test').rglob('*.png')
  )
  assert [row['label'] for row in rows] == ['abc'[label] for label in expected]
  assert len(set(expected)) > 1
  for row in rows:
    shares = {name: float(row[f'p:{name}']) for name in 'abc'}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-7)
    assert row['label'] == max(shares, key=shares.get)
    assert float(row['probability']) == max(shares.values())


def test_colour_and_backend_change_nothing(finished, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  grey = _predict(workdir, finished[1] / 'test' / 'a')
  run_info = json.loads((workdir / 'config.json').read_text())
  run_info['config']['backend'] = 'pmap'
  (workdir / 'config.json').write_text(json.dumps(run_info))
  for path in (finished[1] / 'test' / 'a').iterdir():
    (tmp_path / 'deep' / 'er').mkdir(parents=True, exist_ok=True)
    Image.open(path).convert('RGB').save(tmp_path / 'deep' / 'er' / path.name)
  coloured = _predict(workdir, tmp_path / 'deep')
  assert [row['file'] for row in coloured] == [f'er/{row["file"]}' for row in grey]
  for one, other in zip(grey, coloured, strict=True):
    assert one['label'] == other['label']
    assert float(one['p:b']) == pytest.approx(float(other['p:b']), abs=1e-5)


def _set_bit_depth(workdir, depth):
  """Changes what a run says of its 16-bit files; `...`: nothing, as older ones."""
  run_info = json.loads((workdir / 'config.json').read_text())
  run_info['data'].pop('bit_depth', None)
  run_info['data'] |= {} if depth is ... else {'bit_depth': depth}
  (workdir / 'config.json').write_text(json.dumps(run_info))


def test_files_of_16_bits_are_scaled_as_in_the_run(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  (tmp_path / 'x').mkdir()
  for path in (finished[1] / 'test').rglob('*.png'):
    pixels = np.rint(np.asarray(Image.open(path)) * (4095 / 255)).astype(np.uint16)
    name = f'{path.parent.name}{path.stem}.tif'
    Image.fromarray(pixels).save(tmp_path / 'x' / name)

  def predict(depth):
    _set_bit_depth(workdir, depth)
    rows = _predict(workdir, tmp_path / 'x')
    said = capsys.readouterr()
    return [float(row['p:a']) for row in rows], said.out + said.err

  eight = [float(row['p:a']) for row in _predict(workdir, finished[1] / 'test')]
  found, said = predict(None)  # the first of 16 bits that this run sees
  assert found == eight and '4095 is taken for white' in said
  assert predict(12)[0] == eight
  assert predict(...)[0] != eight  # a run of an older version: 16 bits
  _set_bit_depth(workdir, 8)
  flags = [f'--workdir={workdir}', f'--images={tmp_path / "x"}']
  assert 'not 8 bits' in _refused(capsys, 3, 'predict', *flags)


def test_the_best_arm_on_validation_images_is_taken(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  image = next((finished[1] / 'test' / 'b').iterdir())
  for best, other in (('real_only', 'real_classical'), ('real_classical', 'real_only')):
    for name, accuracy in ((best, 0.875), (other, 0.5)):
      path = workdir / 'arms' / name / 'result.json'
      result = json.loads(path.read_text())
      # On test images it is the other way round: those must not choose.
      result |= {'val_accuracy': accuracy, 'eval_accuracy': 1 - accuracy}
      path.write_text(json.dumps(result))
    (row,) = _predict(workdir, image)
    assert row['file'] == str(image)
    said = capsys.readouterr().out
    assert f'{best!r}, the best of 2 (87.50 %' in said and 'predictions.csv' in said
  path.unlink()
  _predict(workdir, image)
  assert "'real_classical', the best of 1" in capsys.readouterr().out
  flags = [f'--workdir={workdir}', f'--images={image}']
  assert 'no finished classifier' in _refused(
    capsys, 3, 'predict', *flags, '--arm=real_only'
  )


def test_validation_images_that_were_trained_on_choose_no_arm(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  run_info = json.loads((workdir / 'config.json').read_text())
  run_info['config']['data']['train_on_val'] = True
  (workdir / 'config.json').write_text(json.dumps(run_info))
  image = next((finished[1] / 'test' / 'b').iterdir())
  flags = [f'--workdir={workdir}', f'--images={image}']
  said = _refused(capsys, 2, 'predict', *flags)
  assert said.endswith('choose one with --arm: real_only, real_classical.')
  _predict(workdir, image, '--arm=real_only')
  assert capsys.readouterr().out.startswith("Classified 1 image with 'real_only': ")


def test_unreadable_files_are_named_and_odd_names_kept(finished, tmp_path, capsys):
  image = next((finished[1] / 'test' / 'c').iterdir())
  names = ['a,"b".png', 'line\nbreak.png', os.fsdecode(b'\xff.png')]
  for name in names:
    shutil.copy(image, tmp_path / name)
  (tmp_path / 'bad.jpg').write_bytes(b'no image')
  rows = _predict(finished[0], tmp_path)
  assert sorted(row['file'] for row in rows) == sorted(names)
  said = capsys.readouterr().out
  assert "Skipped: 1 of 4 images cannot be read: 'bad.jpg' (not an image)." in said
  before = (finished[0] / 'predictions.csv').read_bytes()
  for name in names:
    (tmp_path / name).write_bytes(b'')
  flags = [f'--workdir={finished[0]}', f'--images={tmp_path}']
  assert '4 of 4 images cannot be read' in _refused(capsys, 3, 'predict', *flags)
  assert (finished[0] / 'predictions.csv').read_bytes() == before


def test_what_cannot_be_predicted_is_one_sentence(finished, tmp_path, capsys):
  workdir, folder, _ = finished
  here, images = f'--workdir={workdir}', f'--images={folder}'
  (tmp_path / 'file').write_text('precious')
  picture = shutil.copy(next((folder / 'test' / 'a').iterdir()), tmp_path / 'x.png')
  before = picture.read_bytes()
  cases = [
    (2, [here], '--images is missing'),
    (2, [here, images, '--arm=augmented'], 'real_only, real_classical'),
    (2, [here, images, f'--output={picture}'], 'must be a .csv file'),
    (3, [here, images, f'--output={tmp_path / "file" / "x.csv"}'], 'cannot be written'),
    (3, [here, f'--images={tmp_path / "none"}'], 'does not exist'),
    (3, [here, '--images=/dev/null'], 'is neither an image nor a folder'),
    (3, [here, f'--images={workdir / "arms/real_only/checkpoints"}'], 'holds no images'),
    (3, [f'--workdir={tmp_path / "none"}', images], 'must name an existing run'),
  ]
  for code, flags, named in cases:
    assert named in _refused(capsys, code, 'predict', *flags), flags
  assert picture.read_bytes() == before
  assert (tmp_path / 'file').read_text() == 'precious'


def test_a_dataset_that_moved_is_named(finished, capsys):
  """And not looked for in TFDS; a run that is started again takes its new place."""
  workdir, folder, _ = finished
  line = _refused(capsys, 3, 'evaluate', f'--workdir={workdir}')
  assert 'before' in line and 'start the run again' in line
  flags = [f'--config={workdir.parent / "config.py"}', f'--workdir={workdir}']
  assert run('run', *flags, f'--config.data.data_dir={folder}') == 0
  assert run('evaluate', f'--workdir={workdir}') == 0
