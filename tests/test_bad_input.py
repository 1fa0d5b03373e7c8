"""Bad input, tried systematically through the command line.

Each row ends with exit code 2 or 3 and one sentence that names the thing, and what
existed before is there unchanged. `test_config.py` has every rule of validation.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.machinery
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from gan_aug_jax import cli, config as config_lib
from gan_aug_jax.cli import parsing
from gan_aug_jax.config import validation
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import ConfigError, DataError
from gan_aug_jax.training import devices, locks, signals, tracing
from tests.conftest import make_dataset

# Of the classes of the dataset; what becomes of them is in `test_trust.py`.
EVIL = ('<script>alert(1)</script>', '../../x', '"><img src=x onerror=alert(1)>')
ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from gan_aug_jax import config as base

def get_config():
  config = base.default()
  config.arms = ('real_only', 'augmented')
  config.data.name, config.data.data_dir = 'npz', {npz!r}
  config.data.image_size, config.data.val_fraction = 8, 0.25
  config.gan.arch, config.generator.num_steps, config.generator.batch_size = 'mlp', 4, 8
  config.gan.latent_dim, config.gan.width, config.generator.select = 4, 8, 'last'
  config.classifier.arch, config.classifier.hidden = 'mlp', (8,)
  config.classifier.num_steps, config.classifier.batch_size = 4, 8
  config.steps_per_call = 1  # compiles in less time
  config.mix.ratio, config.augment.crop_padding, config.log.every_steps = 0.25, 1, 2
  config.expected_duration = '<i>for ever</i>'
  return config
"""


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a row is tried.

  Attributes:
    root: holds all of it.
    config: a config file whose dataset is `npz`.
    npz: the dataset.
    done: a finished run of it.
  """

  root: pathlib.Path

  config = property(lambda self: self.root / 'toy.py')
  npz = property(lambda self: self.root / 'toy.npz')
  done = property(lambda self: self.root / 'done')
  new = property(lambda self: self.root / 'new')


def _arrays():
  toy = make_dataset(per_class=16)
  return {
    'train_images': toy.train.images,
    'train_labels': toy.train.labels,
    'test_images': toy.test.images,
    'test_labels': toy.test.labels,
  }


@pytest.fixture(scope='session')
def original(tmp_path_factory):
  """A `Place`, one for all modules that use it; only looked at and copied."""
  return _make_place(tmp_path_factory.getbasetemp())


@functools.cache
def _make_place(base):
  place = Place(base / 'bad' / 'place')
  place.root.mkdir(parents=True)
  np.savez(place.npz, **_arrays(), class_names=np.array(EVIL))
  # Every copy names this one, or it would be a run of another config.
  place.config.write_text(CONFIG.format(npz=str(place.npz)))
  code = cli.main(
    ['gan_aug_jax', 'run', f'--config={place.config}', f'--workdir={place.done}']
  )
  assert code == 0
  return place


@pytest.fixture
def place(original, tmp_path):
  return Place(shutil.copytree(original.root, tmp_path / 'place'))


def _snapshot(root):
  """{path: what it is and holds}"""
  content = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
  return {
    path: content(path) if path.is_file() else path.stat().st_mode
    for path in sorted(root.rglob('*'))
  }


# What a row does: it may change the place, and returns arguments.


def _run(*flags, command='run'):
  """A command on a new workdir with more flags."""
  return lambda place: [
    command,
    f'--config={place.config}',
    f'--workdir={place.new}',
    *(flag.format(place=place) for flag in flags),
  ]


def _field(setting):
  return _run(f'--config.{setting}')


def _given(*arguments):
  """Arguments as they are, with {place}."""
  return lambda place: [argument.format(place=place) for argument in arguments]


def _config_file(text):
  def row(place):
    file = place.root / 'bad.py'
    file.write_text(text)
    return ['run', f'--config={file}', f'--workdir={place.new}']

  return row


_DONE = '--workdir={place.done}'
_CONFIG = '--config={place.config}'
_NEW = '--workdir={place.new}'

# name: (exit code, what the sentence says, row)
USAGE = {
  'no command of that name': (2, "'trian'", _given('trian', _NEW)),
  'empty command': (2, "no command ''", _given('')),
  'no config': (2, '--config is missing', _given('run', _NEW)),
  'no workdir': (2, '--workdir is missing', _given('run', _CONFIG)),
  'empty workdir': (2, '--workdir is missing', _given('run', _CONFIG, '--workdir=')),
  'workdir without value': (2, '--workdir', _given('run', _CONFIG, '--workdir')),
  'unknown flag': (2, 'did you mean --workdir?', _run('--wordkir=x')),
  'flag like nothing': (2, 'no flag --x', _run('-x')),
  'flag of another command': (2, 'no flag --shard', _run('--shard=0/2')),
  'flag twice': (2, '--workdir is given twice', _run(_NEW)),
  'config twice': (2, '--config is given twice', _run(_CONFIG)),
  'field twice': (
    2,
    '--config.mix.ratio is given twice',
    _run('--config.mix.ratio=0.5', '--config.mix.ratio=0.1'),
  ),
  'no flag': (2, "'extra'", _run('extra')),
  'flags from a file': (2, 'no flag --flagfile', _run('--flagfile=/etc/passwd')),
  'flags to ignore': (2, 'no flag --undefok', _run('--undefok=x')),
  'debug maybe': (2, "--debug='maybe' must be True or False", _run('--debug=maybe')),
  'field as a flag': (2, 'write --config.mix.ratio', _run('--mix.ratio=0.5')),
  'misspelled field': (
    2,
    'did you mean mix.ratio?',
    _field('mix.rattio=0.5'),
  ),
  'field by another name': (
    2,
    'did you mean classifier.learning_rate?',
    _field('classifier.lr=0.1'),
  ),
  'field by another name as a flag': (
    2,
    'did you mean --config.generator.num_epochs or --config.classifier.num_epochs?',
    _run('--epochs=3'),
  ),
  'field by another name in a file': (
    2,
    "line 2: There is no config field 'gan.bs'; did you mean generator.batch_size or "
    'classifier.batch_size?',
    _config_file(
      'from gan_aug_jax import config as c; config = c.default()\nconfig.gan.bs = 3'
    ),
  ),
  'group as a field': (2, 'mix is a group of fields', _field('mix=0.5')),
  'field without value': (2, '--config.mix.ratio', _field('mix.ratio')),
  'float for int': (2, "seed='1.5' must be an integer", _field('seed=1.5')),
  'exponent for int': (2, "generator.num_steps='1e3'", _field('generator.num_steps=1e3')),
  'text for int': (2, "gan.width='wide'", _field('gan.width=wide')),
  'nothing for int': (2, "seed='' must be", _field('seed=')),
  'text for float': (2, "mix.ratio='lots' must be a number", _field('mix.ratio=lots')),
  'comma for point': (2, "mix.ratio='0,5'", _field('mix.ratio=0,5')),
  'bool for float': (2, "mix.ratio='True'", _field('mix.ratio=True')),
  'number for bool': (2, "augment.flip='2' must be True", _field('augment.flip=2')),
  'text for bool': (2, "distributed.auto='maybe'", _field('distributed.auto=maybe')),
  'number for text': (2, "backend='3' must be one of", _field('backend=3')),
  'number for tuple': (2, 'arms=(3,)', _field('arms=3')),
  'half a tuple': (2, "classifier.hidden='(8,'", _field('classifier.hidden=(8,')),
  'tuple of floats': (2, 'classifier.hidden=(8.5,)', _field('classifier.hidden=(8.5,)')),
  'tuple of text': (2, "hidden=('a',)", _field("classifier.hidden=('a',)")),
  'tuple of numbers': (2, 'gan.diffaug=(1,)', _field('gan.diffaug=(1,)')),
  'code for a tuple': (2, 'arms=', _field('arms=__import__("os").getcwd()')),
  'not a number': (2, 'mix.ratio=nan', _field('mix.ratio=nan')),
  'infinite': (2, 'generator.learning_rate=inf', _field('generator.learning_rate=1e400')),
  'huge int': (2, 'generator.num_steps=99999', _field(f'generator.num_steps={"9" * 30}')),
  'huge images': (2, 'data.image_size=100000', _field('data.image_size=100000')),
  'huge latent': (2, 'gan.latent_dim', _field('gan.latent_dim=2000000000')),
  'huge layer': (2, 'classifier.hidden', _field('classifier.hidden=(10000000000,)')),
  'huge batch': (2, 'generator.batch_size', _field('generator.batch_size=1000000000')),
  'negative steps': (2, 'classifier.num_steps=-1', _field('classifier.num_steps=-1')),
  'zero epochs': (
    2,
    'classifier.num_epochs=0',
    _run('--config.classifier.num_epochs=0', '--config.classifier.num_steps=0'),
  ),
  'more generators than synthetic images': (
    2,
    'names 3 generators for 2 synthetic images',
    _field("generator.checkpoints=('seed:1','seed:2','seed:3')"),
  ),
  'epochs next to steps': (
    2,
    'classifier.num_epochs has no effect, because classifier.num_steps=4',
    _run('--config.classifier.num_epochs=3', '--config.classifier.num_steps=4'),
  ),
  'warm-up of more than the training': (
    2,
    'classifier.warmup_steps=9999 must be below',
    _field('classifier.warmup_steps=9999'),
  ),
  'batch of too many devices': (
    2,
    'generator.batch_size=9 must be a multiple of the 2 devices',
    _run('--config.generator.batch_size=9', '--config.num_cpu_devices=2'),
  ),
  'batch of a generator that no arm needs': (
    2,
    'generator.batch_size=9 must be a multiple of the 2 devices',
    _run('--config.generator.batch_size=9', '--config.num_cpu_devices=2',
         '--config.mix.ratio=0', command='train-generator'),
  ),
  'devices that are not': (3, 'num_cpu_devices=64', _field('num_cpu_devices=64')),
  'impossible devices': (2, 'num_cpu_devices=1000', _field('num_cpu_devices=1000')),
  'platform that is not': (3, "platform='tpu'", _field('platform=tpu')),
  'coordinator without port': (
    2,
    "distributed.coordinator='nohost'",
    _field('distributed.coordinator=nohost'),
  ),
  'checkpoint that is not saved': (
    2,
    'generator.checkpoints names step 3',
    _run(
      "--config.generator.checkpoints=('step:3',)",
      '--config.generator.save_every_steps=2',
    ),
  ),
  'seed of another command': (2, 'write --config.seed', _run('--seed=3')),
  'seed of text': (2, "--seed='x'", _given('sample', _DONE, '--seed=x')),
  'seed below 0': (2, "--seed='-1'", _given('sample', _DONE, '--seed=-1')),
  'huge seed': (2, 'in the range [0,', _given('sample', _DONE, f'--seed={2**31}')),
  'config of a later command': (
    2,
    'leave --config out',
    _given('sample', _DONE, '--config.gan.width=3'),
  ),
  'number of seeds': (
    2,
    'seeds="(2,)" for seed 2, or "(0,1)" for 2 seeds',
    lambda place: _ablate(place, '--config.ablation.seeds=2'),
  ),
  'number of seeds, apart': (
    2,
    'seeds="(1,)" for seed 1, or "(0,)" for one seed',
    lambda place: _ablate(place, '--config.ablation.seeds', '1'),
  ),
  'seed of an ablation': (
    2,
    '--config.seed has no effect on an ablation; set ablation.seeds',
    _run('--config.seed=3', command='ablate'),
  ),
  'workdir in a bucket': (
    2,
    '--workdir=gs://bucket/run is an address',
    _given('run', _CONFIG, '--workdir=gs://bucket/run'),
  ),
  'images in a bucket': (
    2,
    '--images=s3://bucket/photos is an address',
    _given('predict', _DONE, '--images=s3://bucket/photos'),
  ),
  'export to a bucket': (
    2,
    '--output=gs://bucket/x is an address',
    _given('export', _DONE, '--output=gs://bucket/x'),
  ),
  'home of nobody': (
    2,
    '--workdir=~nobody-here/x: there is no such home directory',
    _given('run', _CONFIG, '--workdir=~nobody-here/x'),
  ),
  'data at home of nobody': (
    2,
    'data.data_dir=~nobody-here/x',
    _field('data.data_dir=~nobody-here/x'),
  ),
  'images that hold the workdir': (
    2,
    'contains the workdir',
    _given('predict', _DONE, '--images={place.root}'),
  ),
  'images that are the workdir': (
    2,
    'contains the workdir',
    _given('predict', _DONE, '--images={place.done}'),
  ),
  'shard of nonsense': (2, '--shard=x must be i/n', _run('--shard=x', command='ablate')),
  'shard that is not': (2, '--shard=2/2', _run('--shard=2/2', command='ablate')),
  'config that is not': (2, "'none.py'", _given('run', '--config=none.py', _NEW)),
  'config without name': (2, 'flag --config', _given('run', _NEW, '--config')),
  'config that is a directory': (
    2,
    'no config file',
    _given('run', '--config={place.done}', _NEW),
  ),
  'config of another kind': (
    2,
    "toy.npz' is not a Python file",
    _given('run', '--config={place.npz}', _NEW),
  ),
  'variant that is not': (2, 'has no variants', _given('run', f'{_CONFIG}:x', _NEW)),
  'config without such a variant': (
    2,
    'newest',
    _given('run', '--config=configs/mlp.py:newest', _NEW),
  ),
  'config that returns a dict': (
    2,
    'returned dict',
    _config_file('def get_config():\n  return {}'),
  ),
  'config that is no Python': (2, 'line 1', _config_file('def get_config(:')),
  'config that is data': (2, 'bad.py', _config_file('\0PNG')),
  'config without get_config': (2, 'no get_config()', _config_file('x = 1')),
  'config of None': (2, 'NoneType', _config_file('get_config = lambda: None')),
  'config that raises': (2, 'line 1: division', _config_file('x = 1 / 0')),
  'config that exits': (2, 'bad.py', _config_file('raise SystemExit(0)')),
  'config without data': (
    2,
    'lacks',
    _config_file(
      'import ml_collections\nget_config = lambda: ml_collections.ConfigDict()'
    ),
  ),
  'ablation without data': (
    2,
    'lacks',
    lambda place: ['ablate', *_config_file(
      'import ml_collections\nget_config = lambda: ml_collections.ConfigDict()'
    )(place)[1:]],
  ),
  'config that needs more': (2, 'nopkg', _config_file('import nopkg')),
}  # fmt: skip


def _data(make, *flags):
  """A run on data that `make(place)` gives: (data.name, data.data_dir)."""

  def row(place):
    name, where = make(place)
    given = [f'--config.data.name={name}', f'--config.data.data_dir={where}']
    return _run(*given, *flags)(place)

  return row


def _npz(**changes):
  """Arrays of an .npz file that differ from good ones; None is left out."""

  def make(place):
    arrays = _arrays() | changes
    path = place.root / 'bad.npz'
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
    return 'npz', path

  return make


def _npz_bytes(change):
  def make(place):
    path = place.root / 'bad.npz'
    path.write_bytes(change(place.npz.read_bytes()))
    return 'npz', path

  return make


def _folder(harm=lambda root: None, classes=('cat', 'dog'), count=4):
  """A directory of PNG files in one directory a class, which `harm` changes."""

  def make(place):
    root, rng = place.root / 'folder', np.random.default_rng(0)
    root.mkdir()
    for name in classes:
      (root / name).mkdir()
      for i in range(count):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(root / name / f'{i}.png')
    harm(root)
    return 'folder', root

  return make


_IMAGES, _LABELS = _arrays()['train_images'], _arrays()['train_labels']
_TRUNCATED = lambda content: content[: len(content) // 3]
DATA = {
  'dataset that is not': (3, 'cifar11', _field('data.name=cifar11')),
  'dataset of no name': (
    3,
    "data.name=''",
    _run('--config.data.name=', '--config.data.data_dir='),
  ),
  'dataset of capitals': (
    3,
    'not the name of a dataset',
    _run('--config.data.name=My-Data', '--config.data.data_dir='),
  ),
  'dataset of a path': (3, "'../x'", _field('data.name=../x')),
  'npz that is not': (3, '/none.npz', _field('data.data_dir=/none.npz')),
  'npz that is a directory': (3, 'not a file', _field('data.data_dir={place.done}')),
  'npz that is text': (3, 'bad.npz', _data(_npz_bytes(lambda _: b'not a zip'))),
  'npz that is empty': (3, 'bad.npz', _data(_npz_bytes(lambda _: b''))),
  'images of several sizes': (
    3,
    'Python objects',
    _data(_npz(train_images=np.array([_IMAGES[0], _IMAGES[1, :4]] * 24, object))),
  ),
  'images of two dimensions': (3, 'shape', _data(_npz(train_images=_IMAGES[:, 0, :, 0]))),
  'empty class': (
    3,
    "Class 'd'",
    _data(_npz(class_names=np.array(['a', 'b', 'c', 'd']))),
  ),
  'no test images': (
    3,
    'test images',
    _data(_npz(test_images=_IMAGES[:0], test_labels=_LABELS[:0])),
  ),
  'more than there are': (3, 'data.label_budget=1000', _field('data.label_budget=1000')),
  'workdir inside the folder': (
    2,
    "folder/runs/x' is inside data.data_dir=",
    lambda place: _inside(place, 'runs/x'),
  ),
  'workdir that is the folder': (
    2,
    "folder' is inside data.data_dir=",
    lambda place: _inside(place, ''),
  ),
  'ablation inside the folder': (
    2,
    "folder/cat/x' is inside data.data_dir=",
    lambda place: _inside(place, 'cat/x', 'ablate'),
  ),
  'ablation inside a folder of its grid': (
    2,
    "folder/runs' is inside data.data_dir=",
    lambda place: _inside_grid(place),
  ),
  'workdir inside a folder that is not there': (
    3,
    "new' does not exist; it must contain",
    _run('--config.data.name=folder', '--config.data.data_dir={place.new}'),
  ),
  'file that is no image': (
    3,
    "'cat/0.png' (not an image)",
    _data(_folder(lambda root: (root / 'cat' / '0.png').write_text('text'))),
  ),
}  # fmt: skip


def _inside(place, workdir, command='run'):
  """A command whose workdir is inside its folder of images."""
  name, root = _folder()(place)
  config = _ablation(place) if command == 'ablate' else place.config
  fields = [f'--config.data.name={name}', f'--config.data.data_dir={root}']
  return [command, f'--config={config}', f'--workdir={root / workdir}', *fields]


def _inside_grid(place):
  """An ablation whose workdir is inside one of the folders of its grid."""
  _, root = _folder()(place)
  other = shutil.copytree(root, place.root / 'other')
  grid = {'data.data_dir': (str(other), str(root))}
  flags = ['--config.data.name=folder', f'--workdir={root}/runs']
  return ['ablate', f'--config={_ablation(place, grid=grid)}', *flags]


def _edit(file, **changes):
  """Changes a JSON file of the finished run; dots go down."""

  def harm(place):
    content = json.loads((place.done / file).read_text())
    for name, value in changes.items():
      *groups, last = name.split('__')
      inside = content
      for group in groups:
        inside = inside[group]
      inside[last] = value
    (place.done / file).write_text(json.dumps(content))

  return harm


def _write(pattern, change):
  """Changes the bytes of all files of the finished run that fit a pattern."""

  def harm(place):
    paths = [path for path in place.done.glob(pattern) if path.is_file()]
    assert paths
    for path in paths:
      path.write_bytes(change(path.read_bytes()))

  return harm


def _harmed(command, harm, *flags):
  """A command on the finished run after `harm`."""

  def row(place):
    harm(place)
    needs = [_CONFIG] if command in ('run', 'train-generator', 'train-classifier') else []
    return _given(command, *needs, _DONE, *flags)(place)

  return row


def _cut_predictions(place):
  for path in place.done.glob('arms/*/predictions.npz'):
    np.savez(path, **{name: rows[:5] for name, rows in np.load(path).items()})


def _nothing(_):
  pass


def _remove(name):
  return lambda place: shutil.rmtree(place.done / name)


def _unlink(name):
  return lambda place: (place.done / name).unlink()


def _of_folder(place):
  """Turns the finished run into one of a folder, which holds it."""
  data = {'name': 'folder', 'data_dir': str(place.root)}
  _edit('config.json', **{f'config__data__{name}': x for name, x in data.items()})(place)


def _without_arms(place):
  """Leaves the GAN only, so that the arms are trained next."""
  shutil.rmtree(place.done / 'arms')
  (place.done / 'results.json').unlink()
  (place.done / 'report.html').unlink()


_CHECKPOINTS = 'arms/augmented/checkpoints/**/*'
WORKDIR = {
  'workdir that is not': (3, '/new', _given('report', _NEW)),
  'workdir that is a file': (3, 'toy.py', _given('report', '--workdir={place.config}')),
  'workdir in the place of a file': (
    3,
    'cannot be written',
    _given('run', _CONFIG, '--workdir={place.npz}'),
  ),
  'workdir in a file': (
    3,
    'cannot be written',
    _given('run', _CONFIG, '--workdir={place.npz}/x'),
  ),
  'workdir of too long a name': (
    3,
    'name too long',
    _given('run', _CONFIG, f'--workdir={{place.root}}/{"x" * 300}'),
  ),
  'run where an ablation is': (
    3,
    'holds an ablation',
    _harmed('run', lambda place: (place.done / 'ablation.json').write_text('{}')),
  ),
  'later command where an ablation is': (
    3,
    'holds an ablation',
    _harmed('sample', lambda place: (place.done / 'ablation.json').write_text('{}')),
  ),
  'run of an ablation': (
    2,
    'use ablate',
    lambda place: ['run', f'--config={_ablation(place)}', f'--workdir={place.new}'],
  ),
  'ablation where a run is': (
    3,
    'holds a run',
    lambda place: ['ablate', f'--config={_ablation(place)}', f'--workdir={place.done}'],
  ),
  'arms before the GAN': (
    3,
    'no trained generator',
    _run(command='train-classifier'),
  ),
  'run of another model': (
    3,
    'gan.width (8 there, 16 now)',
    _harmed('run', _nothing, '--config.gan.width=16'),
  ),
  'dry run of another model': (
    3,
    'gan.width (8 there, 16 now)',
    _harmed('run', _nothing, '--config.gan.width=16', '--dry-run'),
  ),
  'run of another dataset': (
    3,
    "was run with different training images than 'toy",
    _harmed('run', _edit('config.json', data__fingerprint='0')),
  ),
  'evaluation of other validation images': (
    3,
    'other validation images',
    _harmed('evaluate', _edit('arms/augmented/result.json', val_fingerprint='0')),
  ),
  'arm of other test images': (
    3,
    'other test images',
    _harmed('run', _edit('arms/augmented/result.json', test_fingerprint='0')),
  ),
  'prediction by a classifier of other images': (
    3,
    'other training images',
    _harmed(
      'predict',
      _edit('config.json', data__fingerprint='0'),
      '--images={place.root}/toy.npz',
    ),
  ),
  'export into the images': (
    2,
    "/new' is inside data.data_dir=",
    _harmed('export', lambda place: _of_folder(place), '--output={place.new}'),
  ),
  'checkpoint of another model': (
    3,
    'generators of checkpoint 4',
    _harmed('sample', _edit('config.json', config__gan__width=16)),
  ),
  'checkpoint of another classifier': (
    3,
    'Checkpoint 4',
    _harmed('evaluate', _edit('config.json', config__classifier__hidden=[16])),
  ),
  'checkpoint of other images': (
    3,
    'trained on other images',
    _harmed('sample', _edit('config.json', data__fingerprint='0')),
  ),
  'checkpoint that is cut': (
    3,
    'Checkpoint 4',
    _harmed('evaluate', _write(_CHECKPOINTS, _TRUNCATED)),
  ),
  'checkpoint whose arrays are cut': (
    3,
    'generators of checkpoint 4',
    _harmed('sample', _write('generator/checkpoints/4/generators/d/*', _TRUNCATED)),
  ),
  'checkpoint of empty files': (
    3,
    'Checkpoint 4',
    _harmed('evaluate', _write(_CHECKPOINTS, lambda _: b'')),
  ),
  'checkpoint without metadata': (
    3,
    'generators of checkpoint 4',
    _harmed('sample', _write('generator/checkpoints/**/*_METADATA', lambda _: b'{}')),
  ),
  'checkpoint that is not': (
    3,
    'generators of checkpoint 4',
    _harmed('sample', _remove('generator/checkpoints/4')),
  ),
  'GAN that is not': (3, 'train one first', _harmed('sample', _remove('generator'))),
  'GAN that is not finished': (
    3,
    'finish it with run or train-generator',
    _harmed('sample', _unlink('generator/result.json')),
  ),
  'results that are not': (
    3,
    'the run is not finished',
    _harmed('report', _unlink('results.json')),
  ),
  'arms that are not': (
    3,
    'no finished classifier',
    _harmed('evaluate', _remove('arms')),
  ),
  'config.json that is cut': (
    3,
    'config.json',
    _harmed('report', _write('config.json', _TRUNCATED)),
  ),
  'config.json of another kind': (
    3,
    'config.json',
    _harmed('report', _write('config.json', lambda _: b'[]')),
  ),
  'config.json without data': (
    3,
    'config.json',
    _harmed('run', _edit('config.json', data='x')),
  ),
  'config.json of another version': (
    3,
    'it has a field gan.depth',
    _harmed('sample', _edit('config.json', config__gan__depth=3)),
  ),
  'config.json of another type': (
    3,
    'does not fit this version',
    _harmed('run', _edit('config.json', config__gan__width='x')),
  ),
  'config.json without a group': (
    3,
    "has no group 'data'",
    _harmed('report', _edit('config.json', config={})),
  ),
  'config.json of huge images': (
    3,
    'config.json',
    _harmed('sample', _edit('config.json', data__image_shape=[10**9, 10**9, 3])),
  ),
  'config.json of classes of numbers': (
    3,
    'config.json',
    _harmed('report', _edit('config.json', data__class_names=[1, 2, 3])),
  ),
  'config.json without classes': (
    3,
    'config.json',
    _harmed('run', _edit('config.json', data__class_names=[])),
  ),
  'config.json of classes in a text': (
    3,
    'config.json',
    _harmed('sample', _edit('config.json', data__class_names='abc')),
  ),
  'results of another kind': (
    3,
    'results.json',
    _harmed('report', _edit('results.json', arms=[])),
  ),
  'results of no arm': (
    3,
    'results.json',
    _harmed('report', _edit('results.json', arms={})),
  ),
  'results of a number': (
    3,
    'results.json',
    _harmed('report', _edit('results.json', generator=3)),
  ),
  'results without a device': (
    3,
    'results.json',
    _harmed('report', _write('results.json', lambda x: x.replace(b'"device"', b'"x"'))),
  ),
  'predictions that are cut': (
    3,
    "predictions.npz' is missing or damaged",
    _harmed('report', _cut_predictions),
  ),
  'predictions that are a pickle': (
    3,
    'predictions.npz',
    _harmed('report', _write('arms/*/predictions.npz', lambda _: pickle.dumps([1]))),
  ),
  'report of an ablation that is not': (
    3,
    'ablation.json',
    _given('ablate', '--collect', _DONE),
  ),
  'ablation.json of another kind': (
    3,
    'ablation.json',
    _harmed('ablate', _ablation_json := lambda place: (
      place.done / 'ablation.json').write_text(
        json.dumps(dict.fromkeys(('config', 'ablation', 'arms', 'cells'), 3))),
      '--collect'),
  ),
}  # fmt: skip


def _ablate(place, *flags):
  return ['ablate', f'--config={_ablation(place)}', f'--workdir={place.new}', *flags]


def _ablation(place, **fields):
  text = CONFIG.format(npz=str(place.npz))
  path = place.root / 'ablation.py'
  added = f'  return base.add_ablation(config, **{fields})'
  path.write_text(text.replace('  return config', added))
  return path


@contextlib.contextmanager
def _small_disk(most_bytes):
  """Files that would be larger cannot be written, as on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _on_small_disk(most_bytes, row):
  return lambda place: (row(place), most_bytes)


# The size of what fits: a line or two, no checkpoint, no report.
FULL = {
  'full disk: config.json': (3, 'cannot be written (File too large)', _on_small_disk(
    2000, _run())),
  'full disk: metrics': (3, 'metrics.jsonl', _on_small_disk(
    4096, _harmed('run', lambda place: _long_metrics(place)))),
  'full disk: checkpoint': (3, 'A checkpoint cannot be written', _on_small_disk(
    1500, _harmed('run', lambda place: _without_arms(place)))),
  'full disk: report': (3, 'report.html', _on_small_disk(
    10_000, _harmed('report', _nothing))),
  'full disk: picture': (3, 'samples-0.png', _on_small_disk(
    500, _harmed('sample', _nothing))),
}  # fmt: skip
# Of these something was begun, which is there in part.
BEGUN = {*FULL, 'checkpoint that is not saved'}
BEGUN |= {'warm-up of more than the training'}  # its steps depend on the data
BEGUN |= {'more generators than synthetic images'}  # a plan of its batches says so


def _long_metrics(place):
  """An arm that was stopped, with so many lines that no more fit."""
  _without_arms(place)
  rows = ''.join(json.dumps({'step': 0, 'note': 'x' * 100}) + '\n' for _ in range(36))
  path = place.done / 'arms' / 'real_only' / 'metrics.jsonl'
  path.parent.mkdir(parents=True)
  path.write_text(rows)


TABLE = USAGE | DATA | WORKDIR | FULL


@pytest.mark.parametrize('name', TABLE)
def test_bad_input_is_refused_in_a_sentence(name, place, capfd):
  code, named, row = TABLE[name]
  arguments = row(place)
  disk = contextlib.nullcontext()
  if isinstance(arguments, tuple):
    arguments, most_bytes = arguments
    disk = _small_disk(most_bytes)
  before = _snapshot(place.root)
  with disk:
    found = cli.main(['gan_aug_jax', *arguments])
  captured = capfd.readouterr()
  assert (found, captured.err.count('\n')) == (code, 1), captured.err
  assert captured.err.startswith('gan_aug_jax: ') and named in captured.err, captured.err
  assert captured.err.endswith(('.\n', '?\n')) and 'Traceback' not in captured.err
  after = _snapshot(place.root)
  if name in BEGUN:
    after = {path: content for path, content in after.items() if path in before}
  assert after == before
  assert not list(place.root.rglob('*.tmp'))


def test_arms_before_the_gan_are_refused_before_they_are_announced(place, capfd):
  arguments = _run(command='train-classifier')(place)
  assert cli.main(['gan_aug_jax', *arguments]) == 3
  assert capfd.readouterr().out == ''


@pytest.mark.usefixtures('no_pictures')
def test_names_that_the_output_cannot_encode_are_escaped(place, monkeypatch):
  (place.root / 'кот').symlink_to(place.done)
  output = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(output, 'latin-1'))
  assert cli.main(['gan_aug_jax', 'report', f'--workdir={place.root}/кот']) == 0
  sys.stdout.flush()
  assert b'\\u043a\\u043e\\u0442/report.html' in output.getvalue()


def test_steps_of_which_none_is_traced_are_said(tmp_path, capsys):
  with tracing.Tracer('100:110', tmp_path) as tracer:
    for step in range(4):
      tracer.annotate(step, step + 1, None)
  said = 'steps 0 to 3 were taken, and profile.steps asks for 100 to 110.\n'
  assert capsys.readouterr().out == f'No trace in {tmp_path}: {said}'


def test_debug_shows_the_traceback(place):
  with pytest.raises(ValueError, match=r'mix\.ratio=7'):
    cli.main(['gan_aug_jax', *_field('mix.ratio=7')(place), '--debug'])


@pytest.mark.usefixtures('no_pictures')
def test_a_run_goes_on_after_the_disk_was_full(place, capfd):
  _without_arms(place)
  arguments = ['gan_aug_jax', *_given('run', _CONFIG, _DONE)(place)]
  with _small_disk(10_000):
    assert cli.main(arguments) == 3
  assert cli.main(arguments) == 0
  results = json.loads((place.done / 'results.json').read_text())
  assert results['arms']['augmented']['num_steps'] == 4


@contextlib.contextmanager
def _mounted(directory, options):
  """A small or read-only file system; skips where it cannot be had."""
  directory.mkdir(exist_ok=True)
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(directory)]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f'a file system cannot be mounted here: {error}')
  try:
    yield
  finally:
    subprocess.run(['umount', str(directory)], check=True)


@pytest.mark.parametrize(
  ('options', 'said'), [('size=64k', 'No space left'), ('ro', 'Read-only')]
)
def test_a_disk_that_is_full_or_read_only_is_named(place, capfd, options, said):
  with _mounted(place.root / 'disk', options):
    flags = [f'--config={place.config}', f'--workdir={place.root}/disk/run']
    assert cli.main(['gan_aug_jax', 'run', *flags]) == 3
    assert not list((place.root / 'disk').rglob('*.tmp'))
  captured = capfd.readouterr().err
  assert said in captured and captured.count('\n') == 1 and 'Traceback' not in captured


def test_a_workdir_without_permission_is_named(place, capfd):
  if os.geteuid() == 0:
    pytest.skip('root may write everywhere')
  place.new.mkdir(mode=0o500)
  assert cli.main(['gan_aug_jax', *_run()(place)]) == 3
  assert 'Permission denied' in capfd.readouterr().err


@pytest.mark.parametrize('command', ['run', 'train-generator', 'sample', 'report'])
def test_a_workdir_in_use_is_refused_and_its_owner_named(place, capfd, command):
  arguments = _harmed(command, _nothing)(place)
  with locks.owned(place.done):
    assert cli.main(['gan_aug_jax', *arguments]) == 3
  said = capfd.readouterr().err
  assert f'is in use by process {os.getpid()} on {socket.gethostname()}' in said
  assert said.count('\n') == 1
  assert not list(place.done.glob('run.*'))


def test_a_workdir_on_a_file_system_without_locks_can_be_used(
  tmp_path, monkeypatch, caplog
):
  def refuse(*_, **__):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(locks.filelock.FileLock, 'acquire', refuse)
  with locks.owned(tmp_path):
    assert 'without locks' in caplog.text
  with pytest.raises(locks.NoLocksError), locks.try_lock(tmp_path):
    pass


# Read by a run before it does anything, as when they are set in the environment.
SWITCHES = {
  'jax_enable_x64': True,
  'jax_default_prng_impl': 'rbg',
  'jax_threefry_partitionable': False,
  'jax_disable_jit': True,
  'jax_numpy_dtype_promotion': 'strict',
  'jax_numpy_rank_promotion': 'raise',
  'jax_transfer_guard': 'disallow',
  'jax_default_matmul_precision': 'bfloat16',
  'jax_random_seed_offset': 7,
  'jax_debug_nans': True,
}


@pytest.mark.parametrize('name', SWITCHES)
def test_switches_of_jax_do_not_reach_a_run(name):
  before = jax.config.values[name]
  jax.config.update(name, SWITCHES[name])
  try:
    devices.start(config_lib.default())
    assert jax.config.values[name] in (before, 'allow')
  finally:
    jax.config.update(name, before)


def test_full_precision_reaches_every_product():
  config, before = config_lib.default(), jax.config.jax_default_matmul_precision
  config.matmul_precision = 'highest'
  try:
    devices.start(config)
    text = jax.jit(lambda x: x @ x).lower(np.ones((2, 2), np.float32)).as_text()
    assert 'precision = [HIGHEST, HIGHEST]' in text
  finally:
    jax.config.update('jax_default_matmul_precision', before)


@pytest.mark.slow  # a process each: JAX reads them once
@pytest.mark.parametrize(
  ('name', 'value', 'code'),
  [
    ('JAX_ENABLE_X64', 'maybe', 2),
    ('JAX_NUMPY_RANK_PROMOTION', 'never', 2),
    ('JAX_PLATFORMS', 'cuda', 3),
    ('JAX_PLATFORMS', 'none', 3),
  ],
)
def test_switches_that_cannot_work_are_named(place, name, value, code):
  command = [sys.executable, '-m', 'gan_aug_jax', *_run()(place)]
  environment = os.environ | {name: value}
  process = subprocess.run(
    command, capture_output=True, text=True, cwd=ROOT, env=environment
  )
  assert process.returncode == code, process.stderr
  assert name.lower() in process.stderr.lower() and process.stderr.count('\n') == 1
  assert not place.new.exists()


def test_the_figures_of_a_notebook_are_not_those_of_a_command(place):
  """In a separate process, as Matplotlib reads its environment once."""
  command = [sys.executable, '-m', 'gan_aug_jax', 'report', f'--workdir={place.new}']
  environment = os.environ | {'MPLBACKEND': 'nowhere'}
  process = subprocess.run(
    command, capture_output=True, text=True, cwd=ROOT, env=environment
  )
  assert process.stderr.startswith(f"gan_aug_jax: There is no '{place.new}'")


def test_without_a_home_there_is_no_cache(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
  for name in ('XDG_CACHE_HOME', 'HF_HOME', 'TFDS_DATA_DIR'):
    monkeypatch.delenv(name, raising=False)
  assert devices.cache_directory() is None
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # to be ignored, as its rules say
  assert devices.cache_directory() is None
  options = {'image_size': 8, 'seed': 0, 'val_fraction': 0.1}
  for name, variable in (('huggingface:x/y', 'HF_HOME'), ('cifar10', 'TFDS_DATA_DIR')):
    with pytest.raises(DataError, match=f'data.data_dir, {variable} or HOME'):
      datasets.load_dataset(name, **options)
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('no_pictures')
def test_paths_are_expanded_and_the_data_are_found_from_anywhere(
  place, tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv('HOME', str(place.root))
  monkeypatch.setenv('XDG_CACHE_HOME', '~/cache')
  monkeypatch.chdir(place.root)
  fields = ['--config.data.data_dir=toy.npz']
  arguments = ['run', '--config=~/toy.py', '--workdir=~/runs/x', *fields]
  assert cli.main(['gan_aug_jax', *arguments]) == 0
  saved = json.loads((place.root / 'runs' / 'x' / 'config.json').read_text())
  assert saved['config']['data']['data_dir'] == str(place.npz)
  monkeypatch.chdir(tmp_path)
  assert cli.main(['gan_aug_jax', 'evaluate', '--workdir=~/runs/x']) == 0
  # An older version kept the path as it was written.
  _edit('config.json', config__data__data_dir='toy.npz')(place)
  monkeypatch.chdir(place.root)
  assert cli.main(['gan_aug_jax', 'evaluate', f'--workdir={place.done}']) == 0
  assert not list(place.root.rglob('~'))
  assert os.environ['XDG_CACHE_HOME'] == f'{place.root}/cache'  # for dependencies


def test_paths_in_a_grid_are_made_absolute(place, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  monkeypatch.chdir(place.root)
  config = _ablation(place, grid={'data.data_dir': ('one', '~/two', 'gs://three')})
  parsed = parsing.parse('ablate', ['', f'--config={config}', '--workdir=w'])
  places = parsed.config.ablation.grid['data.data_dir']
  assert places == (f'{place.root}/one', '/home/me/two', 'gs://three')


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
  for name in ('tensorboard', 'datasets'):
    (tmp_path / name).mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  for name in ('tensorboard', 'tensorflow', 'datasets'):
    # Set first, so that what is imported here is taken away at the end.
    monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
    monkeypatch.delitem(sys.modules, name)
  find = importlib.machinery.PathFinder.find_spec

  def find_here(name, path=None, target=None):
    hidden = name in ('tensorboard', 'tensorflow', 'datasets')
    return find(name, [str(tmp_path)] if hidden else path, target)

  monkeypatch.setattr(importlib.machinery.PathFinder, 'find_spec', find_here)
  fields = config_lib.default()
  fields.log.tensorboard = True
  with pytest.raises(ConfigError, match='install the extra'):
    validation.validate(fields)
  with pytest.raises(DataError, match=r"datasets' is not; .*\[huggingface\]"):
    datasets.load_dataset('huggingface:x/y', image_size=8, seed=0, val_fraction=0.1)


def test_signals_are_watched_where_pipes_have_no_modes(monkeypatch):
  """As on Windows before Python 3.12."""
  monkeypatch.delattr(os, 'set_blocking')
  watched = []
  monkeypatch.setattr(signal, 'set_wakeup_fd', lambda fd, **_: watched.append(fd) or -1)
  with signals.watched():
    assert len(watched) == 1
  assert watched[1:] == [-1]


def test_a_port_that_is_taken_is_named(place):
  """In a process of its own, as JAX would end it with a crash."""
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    shared = {'coordinator': f'127.0.0.1:{port}', 'num_processes': 1, 'process_id': 0}
    flags = [f'--config.distributed.{name}={value}' for name, value in shared.items()]
    command = [sys.executable, '-m', 'gan_aug_jax', *_run(*flags)(place)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert process.returncode == 3, process.stderr
  assert process.stderr.startswith(f'gan_aug_jax: Port {port} of distributed.coordinator')
  assert process.stderr.count('\n') == 1
