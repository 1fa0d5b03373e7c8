"""Finds and loads config files: your own by their paths, shipped ones from anywhere."""

import importlib.util
import json
import pathlib
import types

import ml_collections

from gan_aug_jax.config import configs, derived
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
    ConfigError: if there is none, or it is not a Python file.
    Exception: what running it raises.
  """
  path = find_file(file)
  spec = importlib.util.spec_from_file_location(f'config_file_{path.stem}', path)
  if not spec:
    raise ConfigError(
      f"{str(path)!r} is not a Python file; name one, or a run's config.json."
    )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def load_saved(file: str) -> ml_collections.ConfigDict:
  """The config of a run, from the config.json in its workdir.

  Raises:
    ConfigError: if there is no such file, or it names code: a workdir may come from
      somebody else, and what it names must not be imported unasked.
    CheckpointError: if it does not fit this version.
  """
  path = find_file(file)
  try:
    saved = json.loads(path.read_text())
    values, _ = saved['config'], saved['data']
  except (ValueError, LookupError, RecursionError, TypeError):
    raise ConfigError(
      f'{str(path)!r} is not the config.json of a run; name one, or a Python file.'
    ) from None
  config = configs.from_dict(values)
  if named := derived.own_code_of(config):
    raise ConfigError(
      f'{str(path)!r} names code ({", ".join(named.values())}), which only a config file '
      'in Python or a flag may; name the config file that the run was started with.'
    )
  return config
