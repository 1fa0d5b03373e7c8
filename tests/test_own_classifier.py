"""A network, optimizer, schedule and transform of the user's own, in every command."""

import functools
import json
import shutil
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
import pytest

from gan_aug_jax import cli
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import vmap_seeds
from gan_aug_jax.models import classifiers
from gan_aug_jax.models.external import build_external
from gan_aug_jax.step import classifier_state, programs
from gan_aug_jax.training import files
from tests import tiny
from tests.test_run import _toy_source, CONFIG

# Noise in place of images of a GAN, so that none has to be trained.
FIELDS = ("arms=('augmented_classical',)", 'mix.source=noise', 'classifier.seed=1')
SOURCE = '''
import dataclasses
import flax.linen as nn, jax, jax.numpy as jnp, optax

class Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(4, (3, 3), strides=2)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x).reshape(len(x), -1)
    calls = self.variable('counts', 'calls', lambda: jnp.int32(0))
    if train:
      calls.value += 1
    self.sow('intermediates', 'features', x)
    x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.num_classes)(x), {'features': x}

def optimizer(schedule, num_steps):
  return optax.chain(optax.clip_by_global_norm(1.0), optax.lion(schedule))

def schedule(peak, num_steps):
  return optax.exponential_decay(peak, num_steps, 0.1)

@dataclasses.dataclass
class Invert:  # has no hash
  def __call__(self, key, image):
    return jnp.where(jax.random.bernoulli(key), image, -image)

invert = Invert()
'''  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Returns `run(*fields, workdir) -> exit code`, where its_code.py can be found."""
  monkeypatch.setitem(datasets._SOURCES, 'toy', _toy_source)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'its_code.py').write_text(SOURCE)
  (tmp_path / 'toy.py').write_text(CONFIG)

  def start(*fields, workdir='w', own=True):
    plain = ('classifier.features=()', 'classifier.hidden=()') if own else ()
    flags = [f'--config.{field}' for field in (*FIELDS, *plain, *fields)]
    flags += [f'--config={tmp_path / "toy.py"}', f'--workdir={tmp_path / workdir}']
    return cli.main(['gan_aug_jax', 'run', *flags])

  start.directory = tmp_path
  yield start
  sys.modules.pop('its_code', None)


def _arm(directory):
  results = json.loads((directory / 'results.json').read_text())
  return results['arms']['augmented_classical']


def test_the_cnn_passed_as_an_external_one_is_the_built_in_bit_for_bit(toy):
  where, results = tiny.layout('jit', 4), []
  cnn = classifiers.CNN(tiny.CLASSES, 0.3, (4, 4), (8,))
  own = build_external(cnn, 'arch', num_classes=tiny.CLASSES, image_shape=tiny.SHAPE)
  for arch in ('cnn', own):
    step, state, plan, frozen = tiny.fused(where, arch=arch, frozen='mlp')
    usual = {'count': plan.num_real, 'num_steps': 4, 'extra': (frozen,)}
    results.append(tiny.run(where, step, state, toy, **usual))
  assert tiny.difference(*results) == 0


EVERYTHING = (
  'classifier.arch=its_code:Net',
  'classifier.optimizer=its_code:optimizer',
  'classifier.schedule=its_code:schedule',
  'classifier.ema_decay=0.9',
  'augment.transform=its_code:invert',
  'num_cpu_devices=4',
)


@pytest.mark.usefixtures('no_pictures')
@pytest.mark.slow  # a whole run and five commands
def test_every_command_works_with_it_and_none_imports_it_without_leave(run, capsys):
  assert run(*EVERYTHING) == 0
  workdir, before = run.directory / 'w', _arm(run.directory / 'w')
  report = (workdir / 'report.html').read_text()
  fingerprint = before['versions']['its_code:Net']
  assert len(fingerprint) == 16 and f'its_code:Net {fingerprint}' in report
  # As if it had been killed at step 15: it goes on to the same result, bit for bit.
  arm = workdir / 'arms' / 'augmented_classical'
  shutil.rmtree(arm / 'checkpoints' / '20')
  for name in ('result.json', 'predictions.npz'):
    (arm / name).unlink()
  assert run(*EVERYTHING) == 0
  assert _arm(workdir)['eval_loss'] == before['eval_loss']
  capsys.readouterr()
  later = lambda command, *flags: cli.main(
    ['gan_aug_jax', command, f'--workdir={workdir}', *flags]
  )
  del sys.modules['its_code']
  for command in ('evaluate', 'predict'):
    assert later(command, *[f'--images={workdir / "arms"}'] * (command == 'predict')) == 2
    assert '--trust-code' in (error := capsys.readouterr().err) and error.count('\n') == 1
  assert later('report') == 0
  assert 'its_code' not in sys.modules
  assert later('evaluate', '--trust-code') == 0
  assert f'{before["eval_loss"]:.4f}' in capsys.readouterr().out
  test, images = _toy_source(None).test, run.directory / 'images'
  images.mkdir()
  for i, image in enumerate(test.images):
    Image.fromarray(image[..., 0]).save(images / f'{i:03}.png')
  assert later('predict', '--trust-code', f'--images={images}') == 0
  rows = (workdir / 'predictions.csv').read_text().splitlines()[1:]
  known = files.read_arrays(arm / 'predictions.npz')['test_predictions']
  assert [row.split(',')[1] for row in rows] == ['abc'[label] for label in known]
  capsys.readouterr()
  (run.directory / 'its_code.py').write_text(SOURCE + '# changed')
  for again in (lambda: later('evaluate', '--trust-code'), lambda: run(*EVERYTHING)):
    code, error = again(), capsys.readouterr().err
    assert code == 3 and 'has changed since' in error and error.count('\n') == 1
  (run.directory / 'its_code.py').unlink()
  sys.modules.pop('its_code', None)
  assert later('evaluate', '--trust-code') == 3
  assert 'is not found from here' in capsys.readouterr().err


def _pair(**changes):
  """A pair of functions that works, but for what is changed."""
  functions = {
    'init': lambda key, images: ({'w': jnp.ones(images[0].size)}, ()),
    'apply': lambda params, state, images: (
      (images.reshape(len(images), -1) @ params['w'])[:, None] * jnp.ones(3),
      state,
    ),
  } | changes
  return functions['init'], functions['apply']


class _Sown(nn.Module):
  @nn.compact
  def __call__(self, x):
    self.sow('losses', 'one', jnp.sum(x))
    return nn.Dense(3)(x.reshape(len(x), -1))


def _key_in_state(key, images):
  return {'w': jnp.ones(images[0].size)}, {'key': key}


@pytest.mark.parametrize(
  ('named', 'message'),
  [
    (3, 'must be a linen module.*gave int'),
    (lambda: None, 'must be a linen module.*gave NoneType'),
    (lambda width: None, "failed: TypeError: .*'width'"),
    (classifiers.CNN(5, 0.0, (4, 4)), 'has outputs for 5 classes, and the data have 3'),
    (_pair(apply=lambda p, s, x: (x, s)), r'returned float32\[2, 8, 8, 1\]'),
    (_pair(apply=lambda p, s, x: (jnp.ones((2, 3), int), s)), r'returned int32\[2, 3\]'),
    (_pair(apply=lambda p, s, x: 1 / 0), 'failed: ZeroDivisionError'),
    (_pair(init=lambda key, x: ({'w': object()}, ())), 'not numbers.*object'),
    (_pair(init=_key_in_state), 'not numbers.*key<fry>'),
    (_pair(init=lambda key, x: 'params'), 'failed: ValueError'),
    (_Sown(), 'changes the structure'),
  ],
)
def test_what_cannot_be_trained_is_one_sentence(named, message):
  with pytest.raises(ConfigError, match=message) as caught:
    build_external(named, "arch='x:y'", num_classes=3, image_shape=tiny.SHAPE)
  assert str(caught.value).startswith("arch='x:y' ") and '\n' not in str(caught.value)


broken = types.ModuleType('broken')
broken.no_state = lambda schedule, num_steps: optax.GradientTransformation(
  lambda params: ('not an array',), lambda grads, state, params=None: (grads, state)
)
broken.grows = lambda schedule, num_steps: optax.GradientTransformation(
  lambda params: (), lambda grads, state, params=None: (grads, (jnp.zeros(3),))
)
broken.nothing = lambda *_: None
broken.needs_loss = lambda schedule, num_steps: optax.contrib.reduce_on_plateau()
broken.crop = lambda key, image: image[1:]
broken.not_a_number = lambda key, image: image * jnp.nan


@pytest.mark.parametrize(
  ('field', 'code', 'message'),
  [
    ('classifier.schedule=no_such:x', 2, "No module named 'no_such'"),
    ('classifier.optimizer=broken:no_state', 2, 'not numbers (str'),
    ('classifier.optimizer=broken:grows', 2, 'changes the structure'),
    ('classifier.optimizer=broken:nothing', 2, 'returned NoneType'),
    ('classifier.optimizer=broken:needs_loss', 2, "'value'"),
    ('augment.transform=broken:crop', 2, 'returned (7, 8, 1)'),
    pytest.param(
      'augment.transform=broken:not_a_number',
      3,
      'is nan in the first step',
      marks=pytest.mark.slow,
    ),
    ('classifier.arch=resnett', 2, "or 'module:name'"),
  ],
)
def test_code_that_does_not_work_is_one_sentence(
  run, field, code, message, capsys, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'broken', broken)
  assert run(field, own=False) == code
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_it_takes_the_arguments_of_the_config():
  named = lambda num_classes, width: classifiers.CNN(num_classes, 0.0, (width, 4))
  options = {'num_classes': 3, 'image_shape': tiny.SHAPE}
  init = build_external(named, 'it', arguments={'width': 5}, **options).init
  images = jax.ShapeDtypeStruct((1, *tiny.SHAPE), jnp.float32)
  start = functools.partial(init, jax.random.key(0), train=False)
  kernels = {x.shape for x in jax.tree.leaves(jax.eval_shape(start, images))}
  assert (3, 3, tiny.SHAPE[-1], 5) in kernels
  for arguments, message in (({'depth': 5}, "'depth'"), ({}, "'width'")):
    with pytest.raises(ConfigError, match=message):
      build_external(named, 'it', arguments=arguments, **options)
  with pytest.raises(ConfigError, match=r'classifier\.args needs a function'):
    build_external(classifiers.CNN(3), 'it', arguments={'width': 5}, **options)


def test_what_has_no_effect_on_own_code_is_refused(run, capsys):
  assert run("classifier.args=('width=3',)", own=False) == 2
  assert "classifier.arch='cnn' has fields" in capsys.readouterr().err
  assert run('classifier.arch=its_code:Net', 'classifier.dropout=0.3') == 2
  assert 'classifier.dropout=0.3 has no effect' in capsys.readouterr().err


class _Plain(nn.Module):
  """Batch statistics of any network, and perhaps dropout; does not know of examples."""

  rate: float = 0.0

  @nn.compact
  def __call__(self, x, deterministic):
    types = {'dtype': x.dtype, 'param_dtype': x.dtype}
    x = x.reshape(len(x), -1)
    x = nn.BatchNorm(deterministic, momentum=0.5, **types)(x)
    x = nn.Dropout(self.rate, deterministic=deterministic)(x)
    return nn.Dense(tiny.CLASSES, **types)(x)


def _by_example(params, state, images, keys):
  """Adds noise with one key per example."""
  images = images.reshape(len(images), -1)
  if keys is not None:
    images += jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
  return images @ params, state


BY_EXAMPLE = (lambda key, images: (jnp.ones((64, tiny.CLASSES)), ()), _by_example)


def _synchronised(axis_name):
  """Subtracts the mean of the batch on all devices; knows the axis in `init`, too."""
  mean = lambda x: jax.lax.pmean(x.mean(), axis_name) if axis_name else x.mean()

  def apply(params, state, images):
    images = images.reshape(len(images), -1)
    return (images - mean(images)) @ params, state

  return lambda key, x: (jnp.ones((64, tiny.CLASSES)), mean(x)), apply


PLACES = (('jit', 1), ('jit', 4), ('pmap', 4))


def _train(named, toy, place, batch_size):
  where = tiny.layout(*place)
  with jax.enable_x64(True):
    model = build_external(
      named,
      'arch',
      num_classes=tiny.CLASSES,
      image_shape=tiny.SHAPE,
      axis_name=where.axis_name,
    )
    options = {'dtype': jnp.float64, 'crop': 0, 'ratio': 0, 'batch_size': batch_size}
    step, state, *_, frozen = tiny.fused(where, arch=model, **options)
    inputs = {'count': batch_size, 'num_steps': 4, 'extra': (frozen,)}
    return tiny.run(where, step, state, toy, **inputs)


@pytest.mark.parametrize(
  ('named', 'batch_size', 'agree'),
  [
    # One key per example, also where a batch leaves spare slots on four devices.
    (BY_EXAMPLE, 10, (True, True)),
    # Batch statistics of the whole batch.
    (_synchronised, 12, (True, True)),
    # Batch statistics of the whole batch under jit, of a device's share under pmap.
    (_Plain(), 12, (True, False)),
    # Spare slots count in them; and a mask of dropout belongs to a device.
    pytest.param(_Plain(), 10, (False, False), marks=pytest.mark.slow),
    pytest.param(_Plain(0.5), 12, (False, False), marks=pytest.mark.slow),
  ],
)
def test_which_guarantees_hold(toy, named, batch_size, agree):
  """As gan_aug_jax/models/external.py says: the same on any devices, or not."""
  first, *others = (_train(named, toy, place, batch_size) for place in PLACES)
  for other, same in zip(others, agree, strict=True):
    assert (tiny.difference(first, other) < 1e-9) == same
    assert np.all(np.isfinite(other[1]['loss']))


def test_its_seeds_train_in_one_program_as_they_do_alone(toy):
  """With batch statistics, dropout and an average, two steps in one call."""
  where, num_seeds = tiny.layout('jit', 1), 2
  with jax.enable_x64(True):
    model = build_external(
      _Plain(0.5), 'arch', num_classes=tiny.CLASSES, image_shape=tiny.SHAPE
    )
    options = {'dtype': jnp.float64, 'crop': 0, 'ratio': 0}
    step, state, _, frozen = tiny.fused(where, arch=model, **options)
    ema = jax.tree.map(np.copy, state.variables)
    state = classifier_state.AveragedState(**vars(state), ema=ema)
    states = [state.replace(seed=np.int32(seed)) for seed in (3, 4)]
    usual = {'count': 12, 'num_steps': 2, 'extra': (frozen,), 'per_call': 2}
    alone = [tiny.run(where, step, one, toy, **usual)[0] for one in states]
    stack = lambda *trees: where.replicate(jax.tree.map(lambda *x: np.stack(x), *trees))
    data = jax.device_get(tiny.feed(where.replicate, toy)(0, 24))
    call = programs.repeat_step(vmap_seeds.vmap_step(step, num_seeds), 2)
    args = (
      stack(*states),
      where.replicated_int(2),
      stack(data, data),
      stack(frozen, frozen),
    )
    joint, _ = tiny.compile_step(call, where, *args)(*args)
  for i, one in enumerate(alone):
    mine = jax.tree.map(lambda x, i=i: x[i], jax.device_get(joint))
    assert tiny.difference(one, mine) < 1e-9
  assert tiny.difference(*alone) > 1e-3
