"""The picture of docs/design.md: imports point one way, device code stays pure."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'gan_aug_jax'
# A folder may import itself and those before it.
FOLDERS = (
  'errors',
  'logs',
  'external',
  'config',
  'models',
  'step',
  'data',
  'training',
  'evaluation',
  'generators',
  'mixer',
  'experiment',
  'report',
  'cli',
  '__main__',
)
# Of the folders that take plain arguments and know no config.
WITHOUT_CONFIG = ('models', 'step', 'data', 'mixer')
PURE = ('models', 'step', 'mixer')
ROOT_NAMES = {'__version__'}


def _modules():
  """{module: the absolute names that it imports anywhere}"""
  found = {}
  for path in PACKAGE.rglob('*.py'):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    names = found['.'.join(parts).removesuffix('.__init__')] = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, path  # a relative one would escape the checks below
        names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


MODULES = _modules()


def _internal(names):
  inner = [name.removeprefix('gan_aug_jax.') for name in names]
  return {name for name in inner if name not in names and name not in ROOT_NAMES}


def _folder(name):
  return name.partition('.')[0]


@pytest.mark.parametrize('name', sorted(set(MODULES) - {'__init__'}))
def test_folders_import_those_before_them(name):
  allowed = FOLDERS[: FOLDERS.index(_folder(name)) + 1]
  assert {_folder(other) for other in _internal(MODULES[name])} <= set(allowed)


def test_no_two_modules_import_each_other():
  def imported(name):
    return set(map(_module_of, _internal(MODULES[name]))) - {name}

  edges = {name: imported(name) for name in MODULES}
  left = set(edges)
  while free := {name for name in left if not edges[name] & left}:
    left -= free
  assert not left, f'These import each other, or wait for ones that do: {left}'


def _module_of(name):
  """'data.splits' of 'data.splits.Split'."""
  while name and name not in MODULES:
    name = name.rpartition('.')[0]
  return name


def test_only_checkpoint_imports_orbax():
  users = {name for name, names in MODULES.items() if any('orbax' in n for n in names)}
  assert users == {'training.checkpoint'}


def test_device_code_does_no_input_or_output():
  foreign = ('orbax', 'tensorflow', 'absl', 'ml_collections', 'pathlib', 'rich')
  for name, names in MODULES.items():
    if _folder(name) in PURE:
      assert not [n for n in names if n.split('.')[0] in foreign], name
    if _folder(name) in WITHOUT_CONFIG:
      assert 'config' not in {_folder(n) for n in _internal(names)}, name
