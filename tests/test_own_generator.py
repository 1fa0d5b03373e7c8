"""A generator of the user's own takes the GAN's place, and says what it saw."""

import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan_aug_jax
from gan_aug_jax import cli
from gan_aug_jax.data import datasets
from tests.test_run import _toy_source, CONFIG

NOISE = 0.2
makers = types.ModuleType('makers')


def _make(dataset, *, trained_on=None, scale=1.0, noise=NOISE, num_classes=None):
  """Draws the mean image of a class with noise: what a generator would learn."""
  train, count = dataset.train, dataset.num_classes
  means = [train.images[train.labels == c].mean(0) / 127.5 - 1 for c in range(count)]

  def sample(variables, key, labels):
    images = variables['means'][labels]
    grain = noise * jax.random.normal(key, images.shape)
    return jnp.clip(images + grain, -1, 1) * variables['scale']

  return gan_aug_jax.from_function(
    sample,
    {'means': np.float32(means), 'scale': np.float32(scale)},
    image_shape=dataset.image_shape,
    num_classes=num_classes or dataset.num_classes,
    trained_on=dataset.fingerprint if trained_on is None else trained_on,
    name='class means',
  )


makers.own = _make
makers.unknown = lambda dataset: _make(dataset, trained_on='')
makers.other = lambda dataset: _make(dataset, trained_on='f' * 16)
makers.loud = lambda dataset: _make(dataset, scale=3.0)
makers.lost = lambda dataset: _make(dataset, scale=float('nan'))
makers.classes = lambda dataset: _make(dataset, num_classes=2)
makers.nothing = lambda dataset: None
makers.broken = lambda dataset: 1 / 0


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Returns `run(name, *fields, command='run') -> exit code` in one workdir."""
  monkeypatch.setitem(datasets._SOURCES, 'toy', _toy_source)
  monkeypatch.setitem(sys.modules, 'makers', makers)
  file = tmp_path / 'toy.py'
  file.write_text(CONFIG)

  def start(name, *fields, command='run', workdir=tmp_path / 'w'):
    flags = [f'--config={file}', f'--config.generator.external=makers:{name}']
    flags += [f'--config.{field}' for field in fields]
    return cli.main(['gan_aug_jax', command, f'--workdir={workdir}', *flags])

  start.workdir = tmp_path / 'w'
  return start


ONE_ARM = "arms=('augmented_classical',)"


@pytest.mark.parametrize(
  'fields',
  [
    (
      *('filter.score_by=hard', 'filter.candidates=2', 'filter.min_confidence=0.1'),
      *('targets.kind=teacher', 'mix.classes=feedback'),
    ),
    pytest.param(
      ('cache.refresh_steps=5', 'mix.source=mislabelled', 'mix.mode=add'),
      marks=pytest.mark.slow,  # what the first one guards, of other policies
    ),
    pytest.param(
      ('cache.images_per_class=6', 'filter.score_by=random', 'filter.candidates=2'),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_it_trains_an_arm_under_every_policy(run, fields):
  teacher = 'filter.teacher_steps=20'
  assert run('own', ONE_ARM, teacher, *fields, 'num_cpu_devices=2') == 0
  results = json.loads((run.workdir / 'results.json').read_text())
  assert results['gan']['own'] == 'makers:own' and not results['gan']['foreign']
  assert results['arms']['augmented_classical']['asked_ratio'] == 0.25
  assert not (run.workdir / 'gan' / 'checkpoints').exists()
  report = (run.workdir / 'report.html').read_text()
  assert 'class means' in report and 'is foreign' not in report


def test_what_is_drawn_is_its_images(run):
  """Ratio 1 of the means of the classes: what a classifier learns is what they are."""
  long = 'classifier.num_steps=150'
  assert run('own', "arms=('augmented',)", 'mix.ratio=1.0', long) == 0
  results = json.loads((run.workdir / 'results.json').read_text())
  assert results['arms']['augmented']['eval_accuracy'] > 0.9


@pytest.mark.parametrize('name', ['unknown', 'other'])
def test_a_foreign_one_needs_leave_and_is_reported(run, name, capsys):
  assert run(name, ONE_ARM) == 2
  error = capsys.readouterr().err
  assert 'allow_foreign' in error and error.count('\n') == 1
  assert run(name, ONE_ARM, 'generator.allow_foreign=True') == 0
  assert 'is foreign' in (run.workdir / 'report.html').read_text()


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('missing', (), 'cannot be imported'),
    ('loud', (), 'as large as 3'),
    ('lost', (), 'as large as nan'),
    ('classes', (), 'of the classes 0, 1;'),
    ('nothing', (), 'returned NoneType'),
    ('broken', (), 'ZeroDivisionError'),
    ('own', ('latents.std=1.5',), 'latents.std=1.5 needs a GAN'),
    ('own', ("generator.checkpoints=('seed:1',)",), 'generator.checkpoints'),
    ('own', ('filter.score_by=discriminator',), "filter.score_by='discriminator'"),
  ],
)
def test_what_cannot_be_is_one_sentence(run, name, fields, message, capsys):
  assert run(name, *fields) == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1
  assert run('own', command='train-gan') == 2


def test_a_run_goes_on_with_the_same_one_only(run, capsys, monkeypatch):
  assert run('own', ONE_ARM) == 0
  results = lambda: json.loads((run.workdir / 'results.json').read_text())
  arm = lambda: results()['arms']['augmented_classical']
  before = arm()
  shutil.rmtree(run.workdir / 'arms')
  # Trained a second time, it is another; the variables of the first are kept.
  monkeypatch.setattr(makers, 'own', lambda dataset: _make(dataset, scale=0.5))
  assert run('own', ONE_ARM) == 0
  assert arm()['eval_loss'] == before['eval_loss']
  kept = run.workdir / 'gan' / 'own.npz'
  kept.unlink()
  assert run('own', ONE_ARM) == 0 and kept.exists()
  monkeypatch.setattr(makers, 'own', lambda dataset: _make(dataset, noise=0.6))
  assert run('own', ONE_ARM) == 3
  assert 'another external generator' in capsys.readouterr().err


def test_later_commands_do_not_run_its_code(run, capsys, monkeypatch):
  assert run('own', ONE_ARM) == 0
  monkeypatch.setattr(makers, 'own', pytest.fail)
  for command in ('sample', 'export'):
    assert cli.main(['gan_aug_jax', command, f'--workdir={run.workdir}']) == 3
    assert 'external generator' in capsys.readouterr().err
  assert cli.main(['gan_aug_jax', 'report', f'--workdir={run.workdir}']) == 0
