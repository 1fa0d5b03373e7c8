"""The examples run, and what they draw in their steps is the generator's."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import pytest

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
    family='gan',
    arguments={'arch': 'mlp', 'width': 8, 'latent_dim': 4},
    image_shape=dataset.image_shape,
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
