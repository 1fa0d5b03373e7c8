"""The examples run, and what they draw in their steps is the generator's."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import deformations
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.generators import export
from gan_aug_jax.generators.description import Description
from gan_aug_jax.models import generators

EXAMPLES = pathlib.Path(__file__).parent.parent / 'examples'
load_dataset = functools.cache(datasets.load_dataset)  # a second each time
BLACK, WHITE, FOREIGN = 'black', 'white', 'foreign'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Untrained generators: of black images, of white ones, and one of other images."""
  dataset = load_dataset('mnist5k', image_size=32, seed=0, val_fraction=1 / 7)
  about = Description(
    name='untrained',
    arch='mlp',
    image_shape=dataset.image_shape,
    width=8,
    upsampling='transposed',
    precision='float32',
    latent_dim=4,
    class_names=dataset.class_names,
    trained_on=dataset.fingerprint,
  )
  module = generators.build_generator(
    'mlp', image_shape=about.image_shape, num_classes=10, width=8
  )
  inputs = jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32)
  variables = jax.jit(lambda: module.init(jax.random.key(0), *inputs, train=False))()
  directory = tmp_path_factory.mktemp('generators')
  paths = {}
  for name, level in ((BLACK, -9.0), (WHITE, 9.0), (FOREIGN, 9.0)):
    last = variables['params']['Dense_3'] | {'bias': jnp.full(32 * 32, level)}
    these = {**variables, 'params': {**variables['params'], 'Dense_3': last}}
    seen = 'f' * 16 if name == FOREIGN else about.trained_on
    paths[name] = directory / f'{name}.safetensors'
    described = dataclasses.replace(about, trained_on=seen)
    export.save_generator(paths[name], described, these)
  return paths


@pytest.mark.parametrize('name', ['flax', 'equinox', 'plain_jax'])
def test_example_trains_on_what_the_generator_draws(files, capsys, monkeypatch, name):
  monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
  main = runpy.run_path(EXAMPLES / f'{name}_classifier.py')['main']
  said = {}
  for kind in (BLACK, WHITE):
    main(files[kind], num_steps=2)
    said[kind] = capsys.readouterr().out
  assert said[BLACK].startswith('2 steps: loss ') and 'nan' not in said[BLACK]
  assert said[BLACK] != said[WHITE]
  with pytest.raises(CheckpointError, match='trained on images ffffffff'):
    main(files[FOREIGN], num_steps=2)


SIZE = 16


def _digit(down, right):
  image = np.full((SIZE, SIZE, 1), -1, np.float32)
  image[5 + down : 11 + down, 6 + right : 9 + right] = 1
  return image


def test_a_warp_moves_pixels_as_its_knots_say():
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (SIZE, SIZE - 3, 2)).astype(np.float32)
  knots = np.zeros((deformations.KNOTS, deformations.KNOTS, 2), np.float32)
  np.testing.assert_allclose(deformations.warp(image, knots), image, atol=1e-6)
  knots[...] = 2, -1  # each pixel shows what is two below it and one to its left
  moved = np.asarray(deformations.warp(image, knots))
  np.testing.assert_allclose(moved[:-2, 1:], image[2:, :-1], atol=1e-6)
  # Linear along the knots is linear along the pixels: here a mirror, which is affine.
  at = np.linspace(0, SIZE - 1, deformations.KNOTS)
  knots[...] = 0
  knots[..., 0] = (SIZE - 1 - 2 * at)[:, None]
  mirrored = deformations.warp(image, knots)
  np.testing.assert_allclose(mirrored, image[::-1], atol=1e-4)


def test_registration_lays_one_image_over_another():
  moving, fixed = _digit(0, 0)[None], _digit(2, -2)[None]
  (knots,) = deformations.register(moving, fixed)
  before = np.mean(np.square(moving - fixed))
  after = np.mean(np.square(deformations.warp(moving[0], knots) - fixed[0]))
  assert after < 0.2 * before


@pytest.fixture(scope='module')
def two_classes():
  """The first varies downwards only, the second is one grey; not as many of each."""
  images = [_digit(shift, 0) for shift in range(-3, 4)] + [np.zeros((SIZE, SIZE, 1))] * 3
  images = np.uint8(np.round((np.float32(images) + 1) * 127.5))
  order = np.random.default_rng(0).permutation(10)
  split = datasets.Split(images[order], np.int32([0] * 7 + [1] * 3)[order])
  return datasets.Dataset('toy', ('digit', 'grey'), split, split, split)


@pytest.mark.parametrize(
  'make', [deformations.train, deformations.train_colors, deformations.untrained]
)
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
  warps = np.asarray(deformations.train(two_classes).variables['changes']['warps'])
  down, right = np.moveaxis(warps[0, : deformations.WARPS // 2], -1, 0)
  assert down.std() > 1 and down.std() > 4 * right.std()


def test_untrained_warps_are_as_wide_as_they_say():
  # Brighter by 1/8 a pixel downwards, so that brightness says from where a pixel came; 17
  # pixels have the middle knot on the middle one.
  ramp = np.broadcast_to(np.linspace(-1, 1, 17)[:, None, None], (17, 17, 1))
  images = np.uint8(np.round((np.stack([ramp, -ramp]) + 1) * 127.5))
  split = datasets.Split(images, np.int32([0, 1]))
  dataset = datasets.Dataset('ramps', ('down', 'up'), split, split, split)
  generator = deformations.untrained(dataset)
  keys = jax.random.split(jax.random.key(0), 1000)
  drawn = generator.sample(generator.variables, keys, np.zeros(1000, np.int32))
  pixels = 8 * np.asarray(drawn)[:, 8, 8, 0]
  np.testing.assert_allclose(pixels.mean(), 0, atol=0.2)
  np.testing.assert_allclose(pixels.std(), deformations.UNTRAINED_STD, rtol=0.1)


def test_colors_change_by_channel():
  image = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
  change = np.float32([[0.2, 0, -0.1], [0, np.log(2), -1]])
  changed = np.asarray(deformations.recolor(image, change))
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
  generator = deformations.train_colors(dataset)
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
