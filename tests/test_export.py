"""Generators in files: what goes out comes in again, and nothing else does."""

import dataclasses
import hashlib
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import gan_aug_jax
from gan_aug_jax import cli, config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.generators import export, frozen, portable
from gan_aug_jax.generators.description import Description
from gan_aug_jax.models import generators
from gan_aug_jax.step import rng, sharding
from gan_aug_jax.training import workdir
from tests import tiny
from tests.test_run import _toy_source, CONFIG

TINY = Description(
  name='tiny',
  family='gan',
  arguments={'arch': 'dcgan', 'width': 8, 'latent_dim': tiny.LATENT},
  image_shape=tiny.SHAPE,
  class_names=('a', 'b', 'c'),
  trained_on='0123456789abcdef',
)
LABELS = np.array([0, 1, 2, 0, 1, 2, 2], np.int32)


@pytest.fixture(scope='module')
def tiny_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('tiny') / 'tiny.safetensors'
  export.save_generator(path, TINY, tiny.frozen_generator()[1])
  return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A trained GAN of which two checkpoints are kept."""
  directory = tmp_path_factory.mktemp('export')
  (directory / 'toy.py').write_text(CONFIG)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets._SOURCES, 'toy', _toy_source)
    assert not cli.main(
      [
        'gan_aug_jax',
        'train-generator',
        f'--config={directory / "toy.py"}',
        f'--workdir={directory / "run"}',
        "--config.generator.checkpoints=('step:10','step:20')",
        '--config.latents.truncation=1.5',
        '--config.generator.save_every_steps=10',
        '--config.generator.select=last',
      ]
    )
  return directory / 'run'


def _export(directory, *flags):
  return cli.main(['gan_aug_jax', 'export', f'--workdir={directory}', *flags])


def _draw(sample, variables, seed=7):
  keys = rng.example_keys(rng.stream_key(seed, 'show'), jnp.arange(len(LABELS)))
  return np.asarray(jax.jit(sample)(variables, keys, LABELS))


def test_exported_generators_draw_what_the_run_draws(trained, tmp_path):
  assert _export(trained, f'--output={tmp_path}') == 0
  names = sorted(path.name for path in tmp_path.iterdir())
  kinds = ('json', 'safetensors', 'stablehlo')
  assert names == [f'generator-{i}.{kind}' for i in (0, 1) for kind in kinds]
  run = json.loads((trained / 'config.json').read_text())
  config, info = config_lib.from_dict(run['config']), DataFacts.from_json(run['data'])
  session = workdir.Session(config, trained, sharding.make_layout('jit', jax.devices()))
  generator = frozen.load_generator(session, info)
  members, sample = generator.members, generator.family.make_sampler(truncation=1.5)
  assert [member.name for member in members] == ['seed 0, step 10', 'seed 0, step 20']
  drawn = []
  for i, member in enumerate(members):
    own = _draw(sample, jax.device_get(member.variables))
    path = tmp_path / f'generator-{i}.safetensors'
    loaded = gan_aug_jax.load_generator(path, trained_on=info.fingerprint)
    assert loaded.name == member.name and loaded.class_names == ('a', 'b', 'c')
    np.testing.assert_array_equal(_draw(loaded.sample, loaded.variables), own)
    program = gan_aug_jax.load_program(path.with_suffix('.stablehlo'))
    np.testing.assert_allclose(program(7, LABELS), own, atol=1e-5)
    drawn.append(own)
  assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


def test_one_generator_goes_into_the_workdir(trained, tmp_path, capsys):
  shutil.copytree(trained, tmp_path / 'run')
  run = json.loads((trained / 'config.json').read_text())
  run['config']['generator']['checkpoints'] = ['step:20']
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(run))
  assert _export(tmp_path / 'run') == 0
  path = tmp_path / 'run' / 'export' / 'generator.safetensors'
  assert str(path) in capsys.readouterr().out
  about = json.loads(path.with_suffix('.json').read_text())
  assert (about['description']['seed'], about['description']['step']) == (0, 20)
  for name, digest in about['sha256'].items():
    assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == digest
  assert about['format_version'] == '2' and about['program']['platforms'][0] == 'cpu'


def test_export_says_what_is_missing(trained, tmp_path, capsys):
  assert _export(tmp_path / 'none') == 3
  (tmp_path / 'file').write_text('in the way')
  assert _export(trained, f'--output={tmp_path / "file" / "export"}') == 3
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 2 and "file/export' cannot be written" in said[1]
  assert (tmp_path / 'file').read_text() == 'in the way'


def test_files_can_be_used_without_this_package(tiny_file):
  weights = safetensors.numpy.load_file(tiny_file)
  expected = jax.tree.leaves(tiny.frozen_generator()[1])
  assert sorted(x.shape for x in weights.values()) == sorted(x.shape for x in expected)
  program = jax.export.deserialize(tiny_file.with_suffix('.stablehlo').read_bytes())
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  images = program.call(jnp.int32(7), LABELS)
  own = _draw(TINY.make_sampler(), tiny.frozen_generator()[1])
  np.testing.assert_allclose(images, own, atol=1e-5)
  assert program.call(jnp.int32(7), LABELS[:2]).shape == (2, *tiny.SHAPE)


@pytest.mark.parametrize(
  ('seed', 'labels', 'said'),
  [
    (0, [3], r'tiny.stablehlo got the label 3; they must be integers \[B\] from 0 to 2'),
    (0, [-1], 'label -1'),
    (0, [1.7], r'labels float64\[1\]'),
    (1.5, [0], r'seed=1.5 must be an integer from 0 to 2\^31 - 1'),
    (-1, [0], 'seed=-1'),
    (2**31, [0], 'seed=2147483648'),
    ([1], [0], r'seed=\[1\]'),
  ],
)
def test_a_program_refuses_seeds_and_labels_that_it_has_not(
  tiny_file, seed, labels, said
):
  draw = gan_aug_jax.load_program(tiny_file.with_suffix('.stablehlo'))
  with pytest.raises(ConfigError, match=said):
    draw(seed, labels)
  traced = jax.eval_shape(draw, jnp.int32(0), jnp.int32([0, 3]))
  assert traced.shape == (2, *tiny.SHAPE)
  generator = gan_aug_jax.load_generator(tiny_file)
  if seed == 0:
    with pytest.raises(ConfigError, match="Generator 'tiny' got"):
      generator.sample(
        generator.variables, jax.random.split(jax.random.key(0), 1), labels
      )


@pytest.mark.parametrize('load', ['load_generator', 'load_program'])
def test_a_generator_of_other_images_is_refused(tiny_file, load):
  suffix = '.stablehlo' if load == 'load_program' else '.safetensors'
  load, path = getattr(gan_aug_jax, load), tiny_file.with_suffix(suffix)
  assert load(path, trained_on=TINY.trained_on)
  with pytest.raises(CheckpointError, match='trained on images 0123456789abcdef, not on'):
    load(path, trained_on='fedcba9876543210')


def _split(content):
  """A safetensors file's header and its data."""
  length = int.from_bytes(content[:8], 'little')
  return json.loads(content[8 : 8 + length]), content[8 + length :]


def _join(header, body):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + body


def _with_about(**changes):
  """Changes the file's metadata."""

  def damage(content):
    header, body = _split(content)
    header['__metadata__'] |= changes
    return _join(header, body)

  return damage


def _with_description(**changes):
  """Changes what the file says of itself, and makes its hash agree."""

  def damage(content):
    header, body = _split(content)
    text = json.dumps(json.loads(header['__metadata__']['description']) | changes)
    digest = portable.content_hash(text, safetensors.numpy.load(content))
    header['__metadata__'] |= {'description': text, 'sha256': digest}
    return _join(header, body)

  return damage


def _with_arguments(**changes):
  """Changes what the file says of its network."""
  return _with_description(arguments=TINY.arguments | changes)


def _with_array(**changes):
  """Changes what the header says of one array."""

  def damage(content):
    header, body = _split(content)
    name = next(name for name in header if name.startswith('params'))
    header[name] |= changes
    return _join(header, body)

  return damage


class _Harm:
  """What a pickle does that is loaded."""

  def __reduce__(self):
    return exec, ("raise SystemExit('the file ran code')",)


NESTED = b'[' * 100_000
ABSURD = 'is not allowed'
UNREADABLE = 'Error while deserializing header'  # which is the library's to check
DAMAGES = {
  'empty': (lambda x: b'', UNREADABLE),
  'half': (lambda x: x[: len(x) // 2], UNREADABLE),
  'header cut': (lambda x: x[:100], UNREADABLE),
  'longer': (lambda x: x + b'\0', UNREADABLE),
  'pickle': (lambda x: pickle.dumps(_Harm()) + x, 'not a safetensors file'),
  'endless header': (lambda x: b'\xff' * 8 + x[8:], 'not a safetensors file'),
  'huge header': (lambda x: _join(b' ' * (10**7 + 1), b''), 'not a safetensors file'),
  'no JSON': (lambda x: _join(b'{"params":', b''), UNREADABLE),
  'no text': (lambda x: _join(b'\xff\xfe{}', b''), UNREADABLE),
  'nested': (lambda x: _join(NESTED, b''), UNREADABLE),
  'no object': (lambda x: _join([1], b''), UNREADABLE),
  'other file': (lambda x: safetensors.numpy.save({'a': np.ones(2)}), 'not describe a'),
  'version': (_with_about(format_version='1'), 'version 1, but this package reads'),
  'no description': (_with_about(description=''), 'is not JSON'),
  'description': (_with_about(description='{'), 'is not JSON'),
  'description type': (_with_about(description=None), UNREADABLE),
  'nested description': (_with_about(description=NESTED.decode()), 'is not JSON'),
  'field missing': (_with_about(description='{}'), 'other fields'),
  'further field': (_with_description(code='import os'), 'other fields'),
  'arch': (_with_arguments(arch='os.system'), 'its gan.arch is not allowed'),
  'arch type': (_with_arguments(arch=['dcgan']), 'its gan.arch is not allowed'),
  'width': (_with_arguments(width=10**8), ABSURD),
  'huge width': (_with_arguments(width=2**31), ABSURD),
  'no width': (_with_arguments(width=0), ABSURD),
  'width type': (_with_arguments(width=True), ABSURD),
  'latent': (_with_arguments(latent_dim=10**30), ABSURD),
  'std': (_with_description(latents={'std': float('nan')}), ABSURD),
  'argument': (_with_arguments(code='import os'), ABSURD),
  'family': (_with_description(family='os.system'), 'its family is not allowed'),
  'external': (_with_description(family='os:system'), 'code from outside the package'),
  'image': (_with_description(image_shape=[2**30, 2**30, 1]), 'network'),
  'image rank': (_with_description(image_shape=[8, 8]), ABSURD),
  'classes': (_with_description(class_names=[]), 'not that of the network'),
  'class type': (_with_description(class_names=[1, 2, 3]), ABSURD),
  'precision': (_with_description(precision='object'), ABSURD),
  'no such size': (_with_description(image_shape=[9, 9, 1]), 'describes'),
  'other width': (_with_arguments(width=16), 'not that of the network'),
  'other arch': (_with_arguments(arch='mlp'), 'not those of the network'),
  'shape': (_with_array(shape=[1]), UNREADABLE),
  'type': (_with_array(dtype='F16'), UNREADABLE),
  'integers': (_with_array(dtype='I32'), 'not that of the network'),
  'array type': (_with_array(dtype=['F32']), UNREADABLE),
  'offsets': (_with_array(data_offsets=[0, 4]), UNREADABLE),
  'weight': (lambda x: x[:-3] + bytes([x[-3] ^ 1]) + x[-2:], 'damaged'),
  'fingerprint': (lambda x: x.replace(b'0123456789abcdef', b'f' * 16), 'damaged'),
  'double precision': (_with_description(precision='float64'), 'jax_enable_x64'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_files_that_are_not_what_they_should_be_are_refused(
  tiny_file, tmp_path, monkeypatch, name
):
  damage, said = DAMAGES[name]
  path = tmp_path / 'bad.safetensors'
  path.write_bytes(damage(tiny_file.read_bytes()))
  if said == ABSURD:
    refuse = lambda *_, **__: pytest.fail('the network was built')
    monkeypatch.setattr(generators, 'build_generator', refuse)
  with pytest.raises(CheckpointError, match=said) as caught:
    gan_aug_jax.load_generator(path)
  assert '\n' not in str(caught.value)


def test_files_that_are_not_there_are_refused(tmp_path):
  for load in (gan_aug_jax.load_generator, gan_aug_jax.load_program):
    for path in (tmp_path / 'none.safetensors', tmp_path):
      with pytest.raises(CheckpointError, match='export --workdir=DIR writes'):
        load(path)


@pytest.fixture
def program(tiny_file, tmp_path):
  """A copy of a program that a test may damage."""
  for suffix in ('.stablehlo', '.json'):
    shutil.copy(tiny_file.with_suffix(suffix), tmp_path)
  return tmp_path / 'tiny.stablehlo'


def test_a_program_may_be_renamed_with_its_description(program):
  for suffix in ('.stablehlo', '.json'):
    program.with_suffix(suffix).rename(program.with_name(f'digits{suffix}'))
  assert gan_aug_jax.load_program(program.with_name('digits.stablehlo'))(0, [1]).size


def _rewrite(program, content=None, **description):
  """Replaces a program's bytes and changes its description, the hash made to agree."""
  beside = program.with_suffix('.json')
  about = json.loads(beside.read_text())
  if content is not None:
    program.write_bytes(content)
    about['sha256'][program.name] = hashlib.sha256(content).hexdigest()
  about['description'] |= description
  beside.write_text(json.dumps(about))


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (lambda p: p.write_bytes(p.read_bytes()[:-1] + b'\1'), 'it is damaged'),
    (lambda p: p.with_suffix('.json').unlink(), 'tiny.json next to it: No such file'),
    (lambda p: p.with_suffix('.json').write_text('{'), 'tiny.json next to it is damaged'),
    (lambda p: p.with_suffix('.json').write_text('[1]'), 'next to it is damaged'),
    (lambda p: _rewrite(p, b'no program'), 'JAX cannot read it'),
    (lambda p: _rewrite(p, pickle.dumps(_Harm())), 'JAX cannot read it'),
    (lambda p: _rewrite(p, image_shape=[16, 16, 1]), 'not the program that tiny.json'),
    (lambda p: _rewrite(p, seed=-1), 'its seed is not allowed'),
  ],
)
def test_programs_that_are_not_what_they_should_be_are_refused(program, damage, said):
  damage(program)
  with pytest.raises(CheckpointError, match=said):
    gan_aug_jax.load_program(program)


@pytest.mark.parametrize(
  'ask',
  [
    lambda keys: len(keys),
    lambda keys: int(keys.shape[0]),
    lambda keys: 1 if keys.shape[0] > 64 else 2,
  ],
)
def test_a_sampler_may_ask_for_the_size_of_its_batch(tmp_path, ask):
  sample = lambda x, keys, labels: x['x'][labels] + 0 * ask(keys)
  images = np.random.default_rng(0).uniform(-1, 1, (3, *tiny.SHAPE)).astype(np.float32)
  export.save_generator(tmp_path / 'own', TINY, {'x': images}, sample)
  draw = gan_aug_jax.load_program(tmp_path / 'own.stablehlo')
  np.testing.assert_array_equal(draw(0, LABELS), images[LABELS])


def test_what_could_not_be_loaded_is_not_written(tmp_path):
  wide = dataclasses.replace(TINY, arguments={'width': 2**31})
  with pytest.raises(CheckpointError, match=r'cannot be exported: its gan\.width'):
    export.save_generator(tmp_path / 'a', wide, {})
  assert not list(tmp_path.iterdir())
