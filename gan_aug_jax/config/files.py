"""Finds and loads config files: your own by their paths, shipped ones from anywhere."""

import importlib.util
import pathlib
import types

from gan_aug_jax.errors import ConfigError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def find_file(file: str) -> pathlib.Path:
  """The path of a config file, such as 'configs/mnist5k.py'.

  Looks below the current directory, then where configs are shipped: next to the package
  in a checkout, inside it when installed.

  Raises:
    ConfigError: if there is none.
  """
  for root in (pathlib.Path(), _PACKAGE.parent, _PACKAGE):
    if (root / file).is_file():
      return root / file
  raise ConfigError(f'There is no config file {file!r}; configs/ has the shipped ones.')


def load_file(file: str) -> types.ModuleType:
  """Runs what `find_file` finds and returns the module, for one to build on another.

  Raises:
    ConfigError: if there is none.
    Exception: what running it raises.
  """
  path = find_file(file)
  spec = importlib.util.spec_from_file_location(f'config_file_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
