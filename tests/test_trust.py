"""Files and names are not trusted: no code comes out of them, nothing gets out."""

import ast
import html.parser
import io
import json
import os
import pathlib
import pickle
import zipfile

import flax.serialization
import jax
import numpy as np
import pytest

from gan_aug_jax import cli, config as config_lib
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.evaluation import probe
from gan_aug_jax.experiment import ablation, cells
from gan_aug_jax.generators import offline
from gan_aug_jax.report import ablation_report, tables
from gan_aug_jax.training import checkpoint, files
from gan_aug_jax.training.workdir import read_predictions
from tests import test_ablation
from tests.test_bad_input import EVIL, original  # noqa: F401  a fixture

PACKAGE = pathlib.Path(__file__).parent.parent / 'gan_aug_jax'


class _Payload:
  """Makes a file when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self.marker,)


@pytest.fixture
def payload(tmp_path):
  """The bytes of a pickle that leaves a mark, which must not be there afterwards."""
  marker = tmp_path / 'marker'
  content = pickle.dumps(_Payload(marker))
  pickle.loads(content)
  assert marker.exists()  # it would work
  marker.unlink()
  yield content
  assert not marker.exists()


def _nodes(kind):
  for path in PACKAGE.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, kind):
        yield path.name, node


def test_no_module_can_run_what_a_file_says():
  names = {'pickle', 'dill', 'cloudpickle', 'marshal', 'shelve', 'joblib', 'yaml'}
  for path, node in _nodes(ast.Import | ast.ImportFrom):
    modules = [alias.name for alias in node.names] + [getattr(node, 'module', None) or '']
    assert not names & {module.partition('.')[0] for module in modules}, path
  for path, node in _nodes(ast.Call):
    called = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
    assert called not in {'eval', 'exec', 'compile_command', 'system', 'popen'}, path
    for keyword in node.keywords:
      unsafe = keyword.arg in ('allow_pickle', 'shell')
      assert not unsafe or ast.literal_eval(keyword.value) is False, path


def _is_mode(node):
  return isinstance(node, ast.Constant) and set(str(node.value)) <= set('rwax+bt')


def _values(call):
  return [keyword.value for keyword in call.keywords]


def test_files_are_written_by_renaming():
  """All but the lines of metrics.jsonl, of which a half-written one is dropped."""
  writing = {'write_text', 'write_bytes', 'savez', 'savez_compressed', 'imsave', 'dump'}
  writing |= {'save_file'}
  found = []
  for path, node in _nodes(ast.Call):
    name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
    if name in writing:
      target = getattr(node.args[0], 'id', '') if node.args else ''
      if not (name.startswith('savez') and target == 'content'):  # io.BytesIO
        found.append((path, name))
    elif name == 'open' and (
      modes := [x.value for x in (*node.args, *_values(node)) if _is_mode(x)]
    ):
      found.append((path, modes[0]))
  found = [entry for entry in found if entry[1] != 'rb']
  assert sorted(found) == [('files.py', 'a'), ('files.py', 'wb')]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'results.json'
  files.write_atomically(path, 'whole')

  def full(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left') as caught:
    files.write_atomically(path, 'half')
  assert caught.value.filename == str(path)
  assert path.read_text() == 'whole' and [*tmp_path.iterdir()] == [path]


def _objects(payload):
  """An .npz file with an array of Python objects, whose pickle is `payload`."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '|O', 'fortran_order': False, 'shape': (1,)}
  )
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as file:
    for name in ('images', 'test_predictions', 'test_labels', 'train_images'):
      file.writestr(f'{name}.npy', header.getvalue() + payload)
  return content.getvalue()


def _bomb(count):
  """A small .npz file of many zeros."""
  content = io.BytesIO()
  np.savez_compressed(content, images=np.zeros(count, np.uint8))
  return content.getvalue()


def _liar(shape):
  """An .npz file whose header claims what is not there."""
  header = io.BytesIO()
  about = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_2_0(header, about)
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as file:
    file.writestr('images.npy', header.getvalue() + b'x')
  return content.getvalue()


@pytest.mark.parametrize('kind', ['pickle', 'objects', 'liar', 'header', 'zip'])
def test_arrays_of_a_run_are_read_without_trust(kind, tmp_path, payload):
  path = tmp_path / 'arms' / 'augmented' / 'predictions.npz'
  content = {
    'pickle': payload,
    'objects': _objects(payload),
    'liar': _liar((2**62, 2)),
    'header': b'PK\x03\x04' + b'\xff' * 100,
    'zip': _objects(payload)[:-30],
  }[kind]
  files.write_atomically(path, content)
  with pytest.raises((OSError, ValueError)):
    files.read_arrays(path)
  with pytest.raises(CheckpointError, match='missing or damaged'):
    read_predictions(path.parent)
  assert offline._read(path, (3, 4, 8, 8, 1)) is None


def test_a_bomb_is_not_unpacked(tmp_path):
  path = tmp_path / 'offline.npz'
  path.write_bytes(_bomb(2**22))
  assert path.stat().st_size < 2**13
  with pytest.raises(ValueError, match='too many'):
    files.read_arrays(path, 2**20)
  assert offline._read(path, (3, 4, 8, 8, 1)) is None


def _bytes_of(value):
  return flax.serialization.msgpack_serialize(value)


def test_a_kept_probe_is_read_without_trust(tmp_path, payload):
  shapes = {'params': {'a': jax.ShapeDtypeStruct((2, 3), np.float32)}}
  good = {'params': {'a': np.ones((2, 3), np.float32)}}
  path = tmp_path / 'probe.msgpack'
  path.write_bytes(_bytes_of(good))
  assert probe._read(path, shapes) is not None
  whole = path.read_bytes()
  harmful = [
    payload,
    b'',
    whole[:-1],
    whole + b'x',
    b'\x93' * 2000,
    b'\xdd\xff\xff\xff\xff',
  ]
  harmful += [
    _bytes_of({'params': {'a': np.ones((2, 3), np.float64)}}),
    _bytes_of({'params': {'a': np.ones((3, 2), np.float32)}}),
    _bytes_of({'params': {'a': 1}}),
    _bytes_of([1]),
    # It claims to be the chunks of an array that is larger than any memory.
    _bytes_of({'params': {'a': {
      '__msgpack_chunked_array__': True, 'shape': {'0': 2**40, '1': 3}, 'chunks': {}}}}),
  ]  # fmt: skip
  rng = np.random.default_rng(0)
  for _ in range(200):  # and damage anywhere
    damaged = bytearray(whole)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    harmful.append(bytes(damaged))
  for content in harmful:
    path.write_bytes(content)
    read = probe._read(path, shapes)
    assert read is None or read['params']['a'].shape == (2, 3)


def test_a_checkpoint_of_pickles_is_refused(tmp_path, payload):
  state = {'a': jax.numpy.ones((2, 3))}
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    checkpoints.save(1, state=state, progress={'step': 1})
  for path in (tmp_path / 'checkpoints').rglob('*'):
    if path.is_file():
      path.write_bytes(payload)
  with (
    checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints,
    pytest.raises(CheckpointError, match='Checkpoint 1'),
  ):
    checkpoints.restore_step(1, state)


class _Page(html.parser.HTMLParser):
  """Gathers what a page could run or fetch."""

  def __init__(self):
    super().__init__()
    self.found = []

  def handle_starttag(self, tag, attributes):
    if tag in ('script', 'iframe', 'object', 'link', 'form'):
      self.found.append(tag)
    for name, value in attributes:
      outside = name in ('src', 'href') and not (value or '').startswith('data:image/png')
      if name.startswith('on') or outside:
        self.found.append((name, value))


def test_evil_names_stay_in_the_workdir_and_in_the_report(original):  # noqa: F811
  """Class names of markup and of another directory, through a whole run."""
  outside = {path.name for path in original.root.iterdir()}
  assert outside == {'toy.py', 'toy.npz', 'done'}
  assert [*original.root.parent.iterdir()] == [original.root]
  text = (original.done / 'report.html').read_text()
  page = _Page()
  page.feed(text)
  assert not page.found
  assert '&lt;script&gt;alert(1)' in text and '&lt;i&gt;for ever' in text
  names = [path.name for path in original.done.rglob('*')]
  assert not [name for name in names if 'script' in name or 'onerror' in name]


@pytest.mark.parametrize('name', ['../x', 'a/b', '/etc/x', '<b>', 'a b', '..\\x', ''])
def test_names_of_an_ablation_that_could_be_paths_are_refused(name):
  config = config_lib.add_ablation(config_lib.default(), arms={name: {'mix.ratio': 0.1}})
  with pytest.raises(ConfigError, match='letters, digits'):
    ablation.list_arms(config, test_ablation.Costs(100))


def test_cells_stay_in_their_directory(tmp_path):
  """Also where a name comes from a value of the grid."""
  paths = ('../../x', '/etc/x', 'a/../../b', '/etc-x')
  config = config_lib.add_ablation(
    config_lib.default(), grid={'data.data_dir': paths}, seeds=(0,), arms={'..': {}}
  )
  arms = ablation.list_arms(config, test_ablation.Costs(1000))
  found = cells.list_cells(config, arms, tmp_path)
  home = (tmp_path / 'cells').resolve()
  for cell in found:
    assert (home / cell.name).resolve().parent == home, cell.name
  again = config_lib.add_ablation(
    config_lib.default(), grid={'data.data_dir': paths[::-1]}, seeds=(0,), arms={'..': {}}
  )
  arms = ablation.list_arms(again, test_ablation.Costs(1000))
  places = lambda cells: {cell.name: cell.config.data.data_dir for cell in cells}
  assert places(cells.list_cells(again, arms, tmp_path)) == places(found)
  # Nor do the data of two folders share a directory, or a generator.
  assert len({cell.name for cell in found}) == len(found)
  assert len({cell.generator for cell in found if cell.generator}) == len(paths)


def _summary(name):
  row = {'name': 'few', 'role': 'treatment', 'fields': {}, 'num_seeds': 0, 'accuracy': {}}
  setting = {'name': f'data.name={name}', 'arms': [row], 'best': None}
  setting['unadjusted_counts'] = None
  return {
    'dataset': name,
    'test_on': 'val',
    'seeds': [0],
    'control': 'real_classical',
    'num_cells': 1,
    'num_finished': 0,
    'missing': [name],
    'failures': {'few': f'ValueError: {name}'},
    'num_comparisons': 1,
    'foreign': [name],
    'generator_warnings': {name: {'cell': name, 'warnings': [name]}},
    'settings': [setting],
  }


@pytest.mark.parametrize('name', [*EVIL, '[/bold] | x'])
def test_the_report_of_an_ablation_escapes_names_and_errors(name, tmp_path, capsys):
  summary = _summary(name)
  plan = {
    'config': config_lib.default().to_dict() | {'expected_duration': name},
    'ablation': {'grid': {'data.name': (name,)}},
    'arms': [],
    'cells': [],
    'versions': {'x': name},
    'device': name,
  }
  cell = {'cell': name, 'status': 'missing', 'device': name, 'versions': name}
  page = _Page()
  page.feed(
    ablation_report._render(tmp_path, plan, [], summary, [cell | {'changed': name}])
  )
  assert not page.found
  tables.print_summary(summary)  # without obeying the terminal's markup
  assert name in capsys.readouterr().out


@pytest.mark.parametrize('name', ['evil:make', 'run.evil:make', 'pathlib:Path'])
def test_the_code_named_in_a_workdir_of_others_is_not_run(tmp_path, monkeypatch, name):
  """Code of one's own is imported where the command names it, not a file."""
  marker = tmp_path / 'marker'
  monkeypatch.chdir(tmp_path)
  config = config_lib.default()
  config.generator.family, config.data.image_size = name, 8
  config.classifier.arch = config.classifier.optimizer = name
  config.classifier.schedule = config.augment.transform = name
  config.data.name = 'npz'
  info = {'fingerprint': '0', 'class_names': ['a', 'b'], 'image_shape': [8, 8, 1]}
  info['num_train'] = 2
  run = {'config': config.to_dict(), 'data': info, 'versions': {}}
  files.write_atomically(tmp_path / 'run' / 'config.json', json.dumps(run))
  results = json.dumps({'arms': {}, 'generator': {}, 'versions': {}})
  files.write_atomically(tmp_path / 'run' / 'results.json', results)
  code = f'open({str(marker)!r}, "w")\n'
  for directory in (tmp_path, tmp_path / 'run'):
    files.write_atomically(directory / 'evil.py', code)
  trained = {'kept': [], 'networks': [], 'warnings': []}
  trained |= {'fingerprint': '0', 'num_steps': 0, 'seed': 0, 'chosen_step': 0}
  path = tmp_path / 'run' / 'generator' / 'result.json'
  files.write_atomically(path, json.dumps(trained))
  for command in ('sample', 'score', 'evaluate', 'report', 'export', 'predict'):
    flags = [f'--workdir={tmp_path / "run"}']
    flags += [f'--images={tmp_path}'] if command == 'predict' else []
    assert cli.main(['gan_aug_jax', command, *flags]) in (2, 3)
  assert not marker.exists()
