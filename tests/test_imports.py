"""The picture of docs/design.md: imports point one way, pure modules stay pure."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'gan_aug_jax'
# A module may import those that stand before its own layer.
LAYERS = [
  {'__init__', 'errors'},
  {'config', 'rng', 'losses', 'realdata', 'metrics', 'models', 'progress', 'logs'},
  {'programs'},
  {'splits', 'imagefiles'},
  {'sources'},
  {'catalogues'},
  {'pictures', 'statistics', 'tensorboard'},
  {'augment', 'mixing', 'sampler', 'sharding', 'data', 'checkpoint', 'devices'},
  {'rules'},
  {'validation'},
  {'synthesis', 'library', 'description'},
  {'signals', 'selection'},
  {'loop'},
  {'gan', 'classifier', 'fidelity', 'workdir', 'report', 'portable'},
  {'evaluation', 'streaming'},
  {'fitting'},
  {'probe'},
  {'candidates'},
  {'gan_training'},
  {'own_generator'},
  {'policies'},
  {'arms'},
  {'experiment', 'rehearsal', 'ablation', 'together', 'predict', 'export'},
  {'scoring', 'cells'},
  {'findings'},
  {'ablation_plots'},
  {'ablation_report'},
  {'options'},
  {'cli'},
  {'__main__'},
]
PURE = {'rng', 'losses', 'realdata', 'models', 'augment', 'mixing', 'sampler'}
PURE |= {'sharding', 'synthesis', 'gan', 'classifier', 'fidelity', 'metrics'}
PURE |= {'splits', 'statistics', 'library', 'description'}


def _imports():
  """{module: set of absolute module names that it imports anywhere}"""
  found = {}
  for path in PACKAGE.rglob('*.py'):
    name = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    names = found.setdefault(name, set())
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


def _internal(names):
  inner = {name.split('.')[1] for name in names if name.startswith('gan_aug_jax.')}
  return inner - {'__version__'}


@pytest.mark.parametrize(('name', 'names'), sorted(_imports().items()))
def test_imports_point_one_way(name, names):
  (level,) = [i for i, layer in enumerate(LAYERS) if name in layer]
  allowed = set().union(*LAYERS[:level], {name})
  assert _internal(names) <= allowed


def test_only_checkpoint_imports_orbax():
  users = {name for name, names in _imports().items() if any('orbax' in n for n in names)}
  assert users == {'checkpoint'}


def test_pure_modules_do_no_input_or_output():
  foreign = ('orbax', 'tensorflow', 'absl', 'ml_collections', 'os', 'pathlib', 'rich')
  for name, names in _imports().items():
    if name in PURE:
      assert not [n for n in names if n.split('.')[0] in foreign], name
      assert 'config' not in _internal(names), name
