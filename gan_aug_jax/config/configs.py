"""Makes configs from the table of fields, and takes them apart again."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from gan_aug_jax.config import fields as fields_lib, renamed
from gan_aug_jax.errors import CheckpointError, ConfigError

# Of a run by any version; the others were added later, and may be missing.
_FIRST_GROUPS = ('data', 'gan', 'classifier', 'mix', 'augment', 'log')


class _Config(ml_collections.ConfigDict):
  """A config, or a group of one, in which an old name of a field stands for the new one.

  The old name can be set, not read; if both are set, the later one counts. Copies take
  the new names only.
  """

  def __init__(self, *args, group='', root=None, **options):
    object.__setattr__(self, '_group', group)
    object.__setattr__(self, '_root', root)
    super().__init__(*args, **options)

  def __getitem__(self, key):
    if key in renamed.old_groups() and key not in self:
      return _Config(group=key, root=self).lock()
    return super().__getitem__(key)

  def __setitem__(self, key, value):
    old = f'{self._group}.{key}' if self._group else key
    is_group = isinstance(value, Mapping | ml_collections.ConfigDict)
    if is_group and key in renamed.old_groups():
      for name, inner in value.items():
        self[key][name] = inner
      return
    if key in self or not renamed.describe(old):
      super().__setitem__(key, value)
      return
    for name, new in renamed.accept({old: value}).items():
      group, _, last = name.rpartition('.')
      root = self._root or self
      (self if group == self._group else root[group])[last] = new


def default() -> ml_collections.ConfigDict:
  """Returns the config that every experiment starts from, with each field's default."""
  config = _Config()
  for name, field in fields_lib.FIELDS.items():
    group, _, last = name.rpartition('.')
    if group and group not in config:
      config[group] = _Config(group=group, root=config)
    (config[group] if group else config)[last] = field.default
  return config.lock()


def ablation() -> ml_collections.ConfigDict:
  """Returns the group of fields `ablation` of a config in `configs/ablations/`.

  Its `arms`, `grid` and `controls` are plain dicts, because their keys are dotted fields.
  """
  table = fields_lib.ABLATION_FIELDS
  values = {name: field.default for name, field in table.items()}
  copies = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
  return _Config(copies, convert_dict=False, group='ablation').lock()


def add_ablation(
  config: ml_collections.ConfigDict, **fields
) -> ml_collections.ConfigDict:
  """Adds the group `ablation` to a config.

  Args:
    config: from `default`; changed in place.
  """
  with config.unlocked():
    config.ablation = ablation()
  config.ablation.update(fields)
  return config


def renew_ablation(spec: ml_collections.ConfigDict) -> None:
  """Gives old names in an ablation's grid, arms and controls the new ones.

  Args:
    spec: `config.ablation`; changed in place.

  Raises:
    ConfigError: if a field is missing, of the wrong type or given under two names, or if
      an arm is no dict of fields.
  """
  _check_types(spec)
  for kind in ('arms', 'controls'):
    spec[kind] = {name: renamed.accept(fields) for name, fields in spec[kind].items()}
  grid = {}
  for name, values in spec.grid.items():
    if renamed.describe(name) and isinstance(values, tuple | list):
      new, *others = renamed.accept({name: ''}, spec.grid)
      if others:  # their values would be combined
        raise ConfigError(f'ablation.grid: {renamed.describe(name)}')
      values = tuple(renamed.translate({name: value})[new] for value in values)
      name = new
    grid[name] = values
  spec.grid = grid


def _check_types(spec):
  if lacking := set(ablation()) - set(spec):
    raise ConfigError(
      f'config.ablation lacks {min(lacking)!r}; start from gan_aug_jax.config.ablation().'
    )
  for name, field in fields_lib.ABLATION_FIELDS.items():
    if not field.accepts(spec[name]):
      raise ConfigError(f'ablation.{name}={spec[name]!r} must be {field.allowed}.')
  _check_names('ablation.grid', spec.grid)
  for kind in ('arms', 'controls'):
    _check_names(f'ablation.{kind}', spec[kind])
    for name, fields in spec[kind].items():
      _check_fields(f'ablation.{kind}[{name!r}]', fields)


def _check_fields(where, fields):
  if not isinstance(fields, Mapping):
    raise ConfigError(
      f"{where} must be a dict of fields, such as {{'mix.ratio': 0.5}}, not {fields!r}."
    )
  _check_names(where, fields)
  for name, value in renamed.translate(fields).items():
    field = fields_lib.FIELDS.get(name)
    value = tuple(value) if isinstance(value, list) else value
    value = value.item() if hasattr(value, 'item') else value  # of NumPy
    if field and not field.accepts(value):
      raise ConfigError(f'{where}: {name}={value!r} must be {field.allowed}.')


def _check_names(where, named):
  for name in named:
    if not isinstance(name, str):
      raise ConfigError(f'{where}: the name {name!r} must be a string; put it in quotes.')


def base_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a copy without `ablation`: what every cell of one starts from."""
  base = config.copy_and_resolve_references()
  if 'ablation' in base:
    with base.unlocked():
      del base['ablation']
  return base


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {dotted field: value}, sorted by field."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat.update({f'{name}.{inner}': v for inner, v in flatten(value).items()})
    else:
      flat[name] = value
  return dict(sorted(flat.items()))


def from_dict(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """Restores a config from `config.to_dict()` after JSON.

  Fields that were renamed since it was written get their new names.

  Raises:
    CheckpointError: if it has other fields than `default()`, or other types, or lacks a
      group that every version had.
  """
  config = default()
  try:
    if lacking := [group for group in _FIRST_GROUPS if group not in values]:
      raise CheckpointError(
        f'The saved config has no group {lacking[0]!r}, so its file is damaged or is not '
        'the config.json of a run; name another one.'
      )
    flat = renamed.translate(dict(_flat(values)))
    if unknown := set(flat) - set(fields_lib.FIELDS):
      raise KeyError(f'it has a field {min(unknown)}')
    config.update_from_flattened_dict(flat)
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    reason = ' '.join(map(str, error.args))
    raise CheckpointError(
      f'The saved config does not fit this version ({reason}); use the one that made it.'
    ) from None
  return config


def _flat(values, group=''):
  """(dotted name, value) of a nested dict; JSON's lists become tuples."""
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{group}{name}.')
    else:
      yield group + name, tuple(value) if isinstance(value, list) else value
