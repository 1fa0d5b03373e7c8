"""The examples run, and what they draw in their steps is the generator's."""

import dataclasses
import functools
import importlib
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
from gan_aug_jax.models.external import build_external
from gan_aug_jax.training import checkpoint
from tests import tiny

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


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('resnet:ResNet', marks=pytest.mark.slow),
    pytest.param('vit:ViT', marks=pytest.mark.slow),
    'haiku_net:make',
    'equinox_net:make',
    'nnx_net:make',
  ],
)
def test_example_network_is_trained_and_saved_as_a_classifier(name, toy, tmp_path):
  module, _, attribute = name.partition(':')
  if module == 'haiku_net':
    pytest.importorskip('haiku')
  where = tiny.layout('jit', 1)
  model = build_external(
    getattr(importlib.import_module(f'examples.networks.{module}'), attribute),
    name,
    num_classes=tiny.CLASSES,
    image_shape=tiny.SHAPE,
  )
  step, before, *_, frozen = tiny.fused(where, arch=model, ratio=0.0)
  after, metrics = tiny.run(
    where, step, before, toy, count=12, num_steps=2, extra=(frozen,)
  )
  assert metrics['loss'][1] != metrics['loss'][0]
  assert tiny.difference(before.params, after.params) > 0
  # Some have batch statistics, and all keep the types of their numbers.
  shapes = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert shapes(before.replace(opt_state=())) == shapes(after.replace(opt_state=()))
  placed = where.replicate(after)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    checkpoints.save(2, state=placed, progress={})
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    restored, _ = checkpoints.restore_step(2, placed)
  assert tiny.difference(after, restored) == 0
