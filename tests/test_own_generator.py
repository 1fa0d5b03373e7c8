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
from gan_aug_jax.generators import warps
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
    flags = [f'--config={file}', f'--config.generator.family=makers:{name}']
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


SIZE = 16


def _digit(down, right):
  image = np.full((SIZE, SIZE, 1), -1, np.float32)
  image[5 + down : 11 + down, 6 + right : 9 + right] = 1
  return image


def test_a_warp_moves_pixels_as_its_knots_say():
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (SIZE, SIZE - 3, 2)).astype(np.float32)
  knots = np.zeros((warps.KNOTS, warps.KNOTS, 2), np.float32)
  np.testing.assert_allclose(warps.warp(image, knots), image, atol=1e-6)
  knots[...] = 2, -1  # each pixel shows what is two below it and one to its left
  moved = np.asarray(warps.warp(image, knots))
  np.testing.assert_allclose(moved[:-2, 1:], image[2:, :-1], atol=1e-6)
  # Linear along the knots is linear along the pixels: here a mirror, which is affine.
  at = np.linspace(0, SIZE - 1, warps.KNOTS)
  knots[...] = 0
  knots[..., 0] = (SIZE - 1 - 2 * at)[:, None]
  mirrored = warps.warp(image, knots)
  np.testing.assert_allclose(mirrored, image[::-1], atol=1e-4)


def test_registration_lays_one_image_over_another():
  moving, fixed = _digit(0, 0)[None], _digit(2, -2)[None]
  (knots,) = warps.register(moving, fixed)
  before = np.mean(np.square(moving - fixed))
  after = np.mean(np.square(warps.warp(moving[0], knots) - fixed[0]))
  assert after < 0.2 * before


@pytest.fixture(scope='module')
def two_classes():
  """The first varies downwards only, the second is one grey; not as many of each."""
  images = [_digit(shift, 0) for shift in range(-3, 4)] + [np.zeros((SIZE, SIZE, 1))] * 3
  images = np.uint8(np.round((np.float32(images) + 1) * 127.5))
  order = np.random.default_rng(0).permutation(10)
  split = datasets.Split(images[order], np.int32([0] * 7 + [1] * 3)[order])
  return datasets.Dataset('toy', ('digit', 'grey'), split, split, split)


@pytest.mark.parametrize('make', [warps.train, warps.train_colors, warps.untrained])
def test_warped_images_are_of_their_class(two_classes, make):
  generator = make(two_classes)
  keys = jax.random.split(jax.random.key(0), 128)
  asked = np.repeat([0, 1], 64)
  drawn = np.asarray(generator.sample(generator.variables, keys, asked))
  np.testing.assert_allclose(drawn[asked == 1], 0, atol=0.01)
  digits = two_classes.train.images[two_classes.train.labels == 0] / 127.5 - 1
  far = np.abs(drawn[asked == 0][:, None] - digits).mean((2, 3, 4)).min(1)
  assert np.median(far) > 0.02  # not one of them as it is


def test_warps_are_learned_along_what_varies(two_classes):
  learned = np.asarray(warps.train(two_classes).variables['changes']['warps'])
  down, right = np.moveaxis(learned[0, : warps.WARPS // 2], -1, 0)
  assert down.std() > 1 and down.std() > 4 * right.std()


def test_untrained_warps_are_as_wide_as_they_say():
  # Brighter by 1/8 a pixel downwards, so that brightness says from where a pixel came; 17
  # pixels have the middle knot on the middle one.
  ramp = np.broadcast_to(np.linspace(-1, 1, 17)[:, None, None], (17, 17, 1))
  images = np.uint8(np.round((np.stack([ramp, -ramp]) + 1) * 127.5))
  split = datasets.Split(images, np.int32([0, 1]))
  dataset = datasets.Dataset('ramps', ('down', 'up'), split, split, split)
  generator = warps.untrained(dataset)
  keys = jax.random.split(jax.random.key(0), 1000)
  drawn = generator.sample(generator.variables, keys, np.zeros(1000, np.int32))
  pixels = 8 * np.asarray(drawn)[:, 8, 8, 0]
  np.testing.assert_allclose(pixels.mean(), 0, atol=0.2)
  np.testing.assert_allclose(pixels.std(), warps.UNTRAINED_STD, rtol=0.1)


def test_colors_change_by_channel():
  image = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
  change = np.float32([[0.2, 0, -0.1], [0, np.log(2), -1]])
  changed = np.asarray(warps.recolor(image, change))
  means = image.mean((0, 1)) + change[0]
  np.testing.assert_allclose(changed.mean((0, 1)), means, atol=1e-5)
  spreads = image.std((0, 1)) * [1, 2, np.exp(-1)]
  np.testing.assert_allclose(changed.std((0, 1)), spreads, rtol=1e-5)


def test_colors_differ_as_they_do_within_a_class():
  # The first channel varies in brightness, in one class more; the second differs between
  # classes alone; the third varies in contrast.
  rng, labels = np.random.default_rng(0), np.arange(400) % 2
  brightness = np.float64([0.1, 0.3])[labels] * rng.standard_normal(400)
  contrast = 0.4 * np.exp(0.3 * rng.standard_normal(400))
  images = np.zeros((400, 8, 8, 3))
  images += np.stack([brightness, labels - 0.5, 0 * labels], 1)[:, None, None]
  images[:, :, :4, 2] -= contrast[:, None, None]
  images[:, :, 4:, 2] += contrast[:, None, None]
  images = np.uint8(np.round((np.clip(images, -1, 1) + 1) * 127.5))
  split = datasets.Split(images, np.int32(labels))
  dataset = datasets.Dataset('toy', ('even', 'odd'), split, split, split)
  generator = warps.train_colors(dataset)
  _, learned = np.moveaxis(generator.variables['changes']['colors'], 2, 0)
  np.testing.assert_allclose(learned[..., 2].std(), 0.3 * np.sqrt(2), rtol=0.2)
  # An image of the class, and on top changes half of which are learned on any class.
  drawn, asked = _draw_means(generator, generator.variables)
  assert np.abs(drawn).max() <= 1
  spreads = [drawn[asked == c, 0].std() for c in (0, 1)]
  np.testing.assert_allclose(np.square(spreads), [0.04, 0.16], rtol=0.3)
  np.testing.assert_allclose(drawn[:, 1], asked - 0.5, atol=0.01)
  # Without those of one class, its images stay as they are, and the other's do not.
  first_still = lambda of_all: of_all.at[0].set(0)
  changes = jax.tree.map(first_still, generator.variables['changes'])
  drawn, asked = _draw_means(generator, generator.variables | {'changes': changes})
  spreads = [drawn[asked == c, 0].std() for c in (0, 1)]
  np.testing.assert_allclose(np.square(spreads), [0.01, 0.16], rtol=0.3)


def _draw_means(generator, variables):
  """Means by channel of 1,000 images, [1000, C], and their classes, 0 and 1 in turn."""
  keys, asked = jax.random.split(jax.random.key(0), 1000), np.arange(1000) % 2
  return np.asarray(generator.sample(variables, keys, asked)).mean((1, 2)), asked
