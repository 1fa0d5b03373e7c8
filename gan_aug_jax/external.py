"""The user's own code, named as 'module:name' in a config; only this module imports it.

A config that the user gives may name code. One that is read back from a workdir may come
from somebody else, so what it names is imported only where the user says `--trust-code`.
"""

import ast
from collections.abc import Iterator
import contextlib
import hashlib
import importlib
import importlib.util
import itertools
import os
import pathlib
import sys
from typing import Any

from gan_aug_jax.errors import ConfigError, UserError

PATTERN = r'[A-Za-z_][\w.]*:[A-Za-z_]\w*'


def is_named(value: Any) -> bool:
  """Whether a field's value names code, rather than something built in."""
  return isinstance(value, str) and ':' in value


def load(field: str, name: str, *, trusted: bool) -> Any:
  """Imports what 'module:name' names.

  Args:
    field: of the config, for messages.
    name: 'module:name'; the working directory counts, last.
    trusted: whether the user named it, or trusts whoever did. A generator of this
      package needs no trust.

  Raises:
    ConfigError: if it is not trusted, or cannot be imported.
  """
  module, _, attribute = name.partition(':')
  # Only a generator's code is marked as meant for it, and so not called by accident.
  is_ours = field == 'generator.family' and module.startswith('gan_aug_jax.')
  if not trusted and not is_ours:
    raise ConfigError(
      f'{field}={name!r} in the workdir names code that this command would have to '
      'import; give --trust-code if you trust its author.'
    )
  _search_here()
  try:
    return getattr(importlib.import_module(module), attribute)
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # any, from the user's code
    raise ConfigError(
      f'{field}={name!r} cannot be imported ({reason(error)}); name a module that Python '
      'finds from here, and something in it.'
    ) from error


def _search_here():
  if os.getcwd() not in map(os.path.abspath, sys.path):
    sys.path.append(os.getcwd())


@contextlib.contextmanager
def running(described: str) -> Iterator[None]:
  """Turns what the user's code raises into one sentence.

  Args:
    described: the code, as in "classifier.arch='net:Net'".

  Raises:
    ConfigError: for anything that is raised inside, except a `UserError`.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise ConfigError(f'{described} failed: {reason(error)}.') from error


def reason(error: BaseException) -> str:
  """The kind of an error and the first line of its message."""
  text = (str(error).strip().splitlines() or [''])[0].removesuffix('.')
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def fingerprint(name: str) -> str:
  """Hash of the source behind 'module:name': 16 hex digits, or 'unknown'.

  It covers the module's file and those that it imports, at any place, from next to it or
  from its package. Installed packages are left out, as is this one: their versions are
  recorded. Nothing is imported.
  """
  paths = sorted(_sources(name.partition(':')[0]))
  content = b'\0'.join(path.read_bytes() for path in paths)
  return hashlib.sha256(content).hexdigest()[:16] if paths else 'unknown'


def _find(module: str) -> pathlib.Path | None:
  """The file of a module, which need not be imported."""
  if module in sys.modules:
    origin = getattr(sys.modules[module], '__file__', None)
    return pathlib.Path(origin).absolute() if origin else None
  _search_here()
  importlib.invalidate_caches()
  top, *inner = module.split('.')
  if not (spec := importlib.util.find_spec(top)):  # with a dot, it would import packages
    return None
  if not inner:
    return pathlib.Path(spec.origin).absolute() if spec.origin else None
  places = [pathlib.Path(p, *inner) for p in spec.submodule_search_locations or ()]
  files = [f for p in places for f in (p / '__init__.py', p.with_name(f'{p.name}.py'))]
  return next((file.absolute() for file in files if file.is_file()), None)


def _sources(name: str) -> set[pathlib.Path]:
  """Found as files: what is imported by now depends on what has run."""
  path = _find(name)
  if not path or path.suffix != '.py':
    return set()
  top = name.partition('.')[0]
  if top == 'gan_aug_jax':
    return {path}
  root = path.parents[name.count('.') + (path.name == '__init__.py')]
  home = root / top if root.name.endswith('-packages') else root
  found, waiting = set(), [(name, path)]
  while waiting:
    name, path = waiting.pop()
    if path in found:
      continue
    found.add(path)
    for other in filter(None, (name, *_imported(name, path))):
      if other.partition('.')[0] == 'gan_aug_jax':  # its version is recorded
        continue
      # Importing a.b imports a.
      for part in itertools.accumulate(other.split('.'), '{}.{}'.format):
        place = root.joinpath(*part.split('.'))
        files = place.with_name(f'{place.name}.py'), place / '__init__.py'
        waiting += [(part, f) for f in files if f.is_file() and f.is_relative_to(home)]
  return found


def _imported(name, path):
  """The names of the modules that the file of a module may import, at any place."""
  package = name if path.name == '__init__.py' else name.rpartition('.')[0]
  try:
    tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):
    return  # importing it says so
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package.split('.')[: -(node.level - 1) or None]
      parts = [*(above if node.level else []), *filter(None, [node.module])]
      base = '.'.join(parts)
      yield base
      yield from (f'{base}.{alias.name}' for alias in node.names)
