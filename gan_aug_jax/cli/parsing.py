"""Flags and the config file, and one sentence for each thing that is wrong with them.

Absl parses the flags, and ml_collections the values of config fields. This module loads
the config file in between, and words their errors.
"""

import contextlib
import difflib
import functools
import inspect
import os
import re
import traceback

from absl import flags
import ml_collections
from ml_collections import config_flags

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import files, renamed, suggestions, validation
from gan_aug_jax.config.fields import FIELDS, OF_GENERATORS
from gan_aug_jax.errors import ConfigError, UserError

TRAINING = ('run', 'train-generator', 'train-classifier')
# Where absl's own words are none, or do not help.
_TYPES = {'bool': 'True or False', 'tuple': "a tuple, such as \"('a','b')\""}


def parse(command: str, argv: list[str]) -> flags.FlagValues:
  """Parses what follows a command.

  Args:
    command: one of `commands.COMMANDS`.
    argv: the program's name, then flags.

  Returns:
    The flags: workdir, debug and verbose; config of a command that trains; and those that
    only this command has (see `define`).

  Raises:
    ConfigError: if a flag, a config field or the config file is wrong.
  """
  _check_names(argv)
  values, config_flag = define(command), flags.FlagValues()
  flags.DEFINE_string('config', None, 'Config file.', flag_values=config_flag)
  argv = _renew(_read(config_flag, argv, known_only=True))
  fields = _overridden(argv)
  _read(values, argv, known_only=True)
  if command in TRAINING or (command == 'ablate' and not values.collect):
    if not config_flag.config:
      example = 'ablations/ratio' if command == 'ablate' else 'mnist5k'
      raise ConfigError(
        f'--config is missing; name a file, such as configs/{example}.py.'
      )
    config = _load_config(_expand('--config', config_flag.config))
    if 'ablation' in config and command != 'ablate':
      raise ConfigError(f'This config is for an ablation, not for {command}; use ablate.')
    of_run = command == 'ablate' and 'ablation' not in config
    if of_run:
      config = config_lib.add_ablation(config)
    if 'ablation' in config:
      config_lib.renew_ablation(config.ablation)
    _check_fields(fields, config, of_run=of_run)
    _check_seeds(argv)
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    if fields:
      config.expected_duration = ''  # it was of the config as it stands in the file
  elif fields or config_flag.config:
    raise ConfigError(f'{command} takes its config from --workdir; leave --config out.')
  rest = _read(values, argv)[1:]
  if rest:
    raise ConfigError(f'{rest[0]!r} is not a flag; write flags as --name=value.')
  if not values.workdir:
    raise ConfigError('--workdir is missing; name a directory, such as runs/first.')
  for name in {'workdir', 'images', 'output'} & set(values):
    values[name].value = _local(f'--{name}', values[name].value)
  if 'config' in values:
    _make_absolute(values.config)
    _check_effects(values.config, fields)
    if of_run:
      _compare_arms(values.config, fields)
  return values


def _check_effects(config, fields):
  """Refuses to set fields that would have no effect."""
  epochs = [field for field in fields if field.endswith('.num_epochs')]
  validation.check_epochs(config, dict.fromkeys(epochs), 'On the command line')
  ablation = config.get('ablation')
  # Controls like noise, and oracles, take the values of the base.
  if not ablation or ablation.negative_controls or ablation.oracles:
    return
  for field in fields:
    of_arms = [field in own for own in ablation.arms.values()]
    is_of_synthesis = field in FIELDS and FIELDS[field].affects in OF_GENERATORS
    if is_of_synthesis and of_arms and all(of_arms):
      raise ConfigError(
        f'--config.{field} has no effect, as every arm of the ablation sets it; change '
        'the arms in the config file.'
      )


def _compare_arms(config, fields):
  """Makes the arms of a run those of its ablation, which trains them with more seeds."""
  arms = config.get('arms')
  if not isinstance(arms, tuple) or not set(map(str, arms)) <= set(config_lib.ARMS):
    return  # validation says what is wrong
  drawing = [name for name in arms if config_lib.ARMS[name][0]]
  if not drawing:
    raise ConfigError(
      f'arms={arms!r} has no arm with synthetic images, so there is nothing to compare '
      "with real images alone; add 'augmented' or 'augmented_classical'."
    )
  config.ablation.arms = {name: {'arms': (name,)} for name in drawing}
  has_classical = any(config_lib.ARMS[name][1] for name in arms)
  if not has_classical and 'ablation.control' not in fields:
    config.ablation.control = 'real_only'


def _expand(name, path):
  """A path with ~ and ~user replaced, as the shell does only at the start of a word."""
  expanded = os.path.expanduser(path)
  if expanded.startswith('~'):
    raise ConfigError(
      f'{name}={path}: there is no such home directory; write the path in full, or ./~ '
      'for a file of that name.'
    )
  return expanded


def _local(name, path):
  """A path as `_expand` gives it; not an address, which would become a directory here."""
  if re.match(r'\w{2,}://', path):  # C:// is a drive
    raise ConfigError(
      f'{name}={path} is an address and must be a path of this machine; mount what is '
      'there, or name a local path.'
    )
  return _expand(name, path)


def _make_absolute(config):
  """Makes each data.data_dir a path that means the same from any directory."""

  def absolute(place):
    is_path = isinstance(place, str) and place and '://' not in place
    return os.path.abspath(_expand('data.data_dir', place)) if is_path else place

  if 'data' in config:  # or validation says that it is not
    config.data.data_dir = absolute(config.data.data_dir)
  grid = config.ablation.grid if 'ablation' in config else {}
  if isinstance(places := grid.get('data.data_dir'), tuple | list):
    grid['data.data_dir'] = tuple(map(absolute, places))


def _check_seeds(argv):
  """Refuses a number for ablation.seeds: it means one seed and looks like a count."""
  text = ' '.join(argv)
  if match := re.search(r'--?config\.ablation\.seeds[= ](\d+)(?= |$)', text):
    count = int(match[1])
    shown = ','.join(map(str, range(count))) if count <= 10 else f'0,1,...,{count - 1}'
    several = f'"({shown})" for {count} seeds' if count > 1 else '"(0,)" for one seed'
    raise ConfigError(
      f'--config.ablation.seeds={count} is a number and must be a tuple: write '
      f'--config.ablation.seeds="({count},)" for seed {count}, or {several}.'
    )


def define(command: str) -> flags.FlagValues:
  """The flags of a command, except for those of the config.

  Args:
    command: one of `commands.COMMANDS`.
  """
  values = flags.FlagValues()
  define_string = functools.partial(flags.DEFINE_string, flag_values=values)
  define_bool = functools.partial(flags.DEFINE_bool, default=False, flag_values=values)
  kind = 'ablation' if command == 'ablate' else 'run'
  define_string('workdir', None, f'Directory of the {kind}.')
  define_bool('debug', help='Show the traceback of an error.')
  define_bool('verbose', help='Show the logs of dependencies.')
  if command in ('evaluate', 'sample', 'score', 'predict', 'export'):
    define_bool('trust-code', help='Import the code that the config in --workdir names.')
  if command == 'sample':
    flags.DEFINE_integer(
      'seed', 0, 'Seed of the drawn images.', 0, 2**31 - 1, flag_values=values
    )  # JAX's keys take 32 bits
  if command in ('run', 'ablate'):
    define_bool('dry-run', help='Train nothing; say what would be trained and how long.')
  if command == 'ablate':
    define_string('shard', '0/1', 'Train only part i of n, as i/n with i from 0.')
    define_bool('collect', help='Train nothing; write the report of what is finished.')
  if command == 'predict':
    define_string('images', '', 'An image, or a folder of images.')
    define_string('arm', '', 'Arm to use; by default the best on validation images.')
  if command in ('predict', 'export'):
    what = 'CSV file' if command == 'predict' else 'Directory'
    define_string('output', '', f'{what} to write; by default it is in the workdir.')
  return values


def _check_names(argv):
  """Refuses flags given twice, of which absl would take the last, and absl's own."""
  flags_given = [arg for arg in argv if re.match(r'--?[^\d.]', arg)]  # no numbers
  names = [f'--{arg.lstrip("-").partition("=")[0]}' for arg in flags_given]
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f'{name} is given twice; give it once.')
    if name in ('--flagfile', '--undefok'):
      raise ConfigError(f'There is no flag {name}.')


def _read(values, argv, known_only=False):
  """Lets absl parse argv, and returns the rest of it."""
  values.set_gnu_getopt()  # flags may follow what is not a flag
  try:
    return values(argv, known_only=known_only)
  except flags.UnrecognizedFlagError as error:
    raise ConfigError(_describe_unknown(error, values)) from None
  except flags.IllegalFlagValueError as error:
    raise ConfigError(_describe_illegal(error, values)) from None
  except (flags.Error, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(sentence(error)) from error


def _describe_unknown(error, values):
  name = error.flagname
  if 'config' in values and name in config_lib.flatten(values['config'].value):
    return f'--{name} is a field of the config; write --config.{name}.'
  known = sorted({*values, 'config'})
  hint = f'the flags are --{", --".join(known)}.'
  if close := difflib.get_close_matches(name, known, n=1):
    hint = f'did you mean --{close[0]}?'
  elif 'config' in values and (fields := suggestions.of_meaning(name)):
    hint = f'did you mean --config.{" or --config.".join(fields)}?'
  return f'There is no flag --{name}; {hint}'


def _describe_illegal(error, values):
  name, value = re.match(r'flag --([\w.-]+?)=(.*?): ', str(error), re.DOTALL).groups()
  parser = values[name].parser
  expected = _TYPES.get(parser.flag_type(), parser.syntactic_help)
  flag = name.removeprefix('config.') if name.startswith('config.') else f'--{name}'
  return f'{flag}={value!r} must be {expected}.'


def _renew(argv):
  """argv with the new names of fields for old ones, each with a line on stderr."""
  renewed, rest, given = [], iter(argv), _overridden(argv)
  for arg in rest:
    flag, old, value = re.fullmatch(
      r'(--?(?:no)?config\.)?([^=]*)(?:=(.*))?', arg, re.DOTALL
    ).groups()
    if not flag or not renamed.describe(old):
      renewed.append(arg)
      continue
    if value is None and not _is_switch(*renamed.translate({old: ''})):
      value = next(rest, None)
    renewed += [
      f'{flag}{name}' if new is None else f'{flag}{name}={new}'
      for name, new in renamed.accept({old: value}, given).items()
    ]
  return renewed


def _is_switch(field, *_):
  return field in FIELDS and isinstance(FIELDS[field].default, bool)


def _overridden(argv):
  """The config fields that argv sets."""
  matches = [re.match(r'--?(?:no)?config\.([^=]*)', arg) for arg in argv]
  return [match[1] for match in matches if match]


# {field that every cell of an ablation sets: what to set in its place}
_OF_CELLS = {'seed': 'ablation.seeds', 'arms': 'ablation.arms or ablation.control'}


def _check_fields(fields, config, *, of_run):
  """Refuses to set fields that ml_collections would refuse with less help.

  Args:
    of_run: whether the arms of an ablation are those of a run's config.
  """
  known = config_lib.flatten(config)
  grid = config.ablation.grid if 'ablation' in config else {}
  for field in fields:
    if 'ablation' in config and field in _OF_CELLS and not (of_run and field == 'arms'):
      raise ConfigError(
        f'--config.{field} has no effect on an ablation; set {_OF_CELLS[field]} instead.'
      )
    if field in grid:
      raise ConfigError(
        f'--config.{field} has no effect, as ablation.grid sets it; change the grid in '
        'the config file.'
      )
    if isinstance(known.get(field), dict):
      raise ConfigError(f'{field} is a dict; change it in the config file.')
    if any(name.startswith(f'{field}.') for name in known):
      raise ConfigError(
        f'{field} is a group of fields; set one, as in --config.{field}.NAME.'
      )
    if field not in known:
      raise ConfigError(suggestions.no_such_field(field, known))


def _load_config(path):
  """The config that FILE or FILE:VARIANT names; FILE may be one that is shipped."""
  if path.endswith('.json'):
    return files.load_saved(path)
  file, variant = _split_variant(path)
  found = files.find_file(file)
  try:
    get_config = getattr(files.load_file(file), 'get_config', None)
    if not callable(get_config):
      raise ConfigError(f'{found} has no get_config(); see configs/ for examples.')
    if variant and not inspect.signature(get_config).parameters:
      raise ConfigError(f'{found} has no variants; leave out the colon and the rest.')
    config = get_config(*variant)
  except UserError:
    raise
  except SyntaxError as error:
    raise ConfigError(f'In {found}, line {error.lineno}: {error.msg}.') from None
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename == str(found)]
    lines = [frame.lineno for frame in inside]
    where = f'In {found}, line {lines[-1]}: ' if lines else f'In {found}: '
    better = _describe_line(inside[-1].line) if inside else ''
    raise ConfigError(where + (better or sentence(error))) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(
      f'get_config() of {found} returned {type(config).__name__}; it must return a '
      'config that starts from gan_aug_jax.config.default().'
    )
  return config


def _split_variant(path):
  """(file, [variant] or []) of FILE or FILE:VARIANT; the path may have colons, too."""
  parts = path.split(':')
  for end in range(len(parts), 0, -1):
    file, rest = ':'.join(parts[:end]), parts[end:]
    with contextlib.suppress(ConfigError, OSError):  # the latter if it is too long
      files.find_file(file)
      return file, [':'.join(rest)] if rest else []
  return path, []


def _describe_line(line):
  """What is wrong with the fields in a line of a config file that failed, or ''."""
  if now := renamed.find(line):
    return now
  (name, *_) = re.findall(r'\bconfig\.(\w+(?:\.\w+)?) *=(?!=)', line) or ['']
  groups = {field.partition('.')[0] for field in FIELDS}
  is_unknown = name and name not in FIELDS and name not in {*groups, 'ablation'}
  return suggestions.no_such_field(name) if is_unknown else ''


def sentence(error: BaseException) -> str:
  """The last line of an error's message, as a sentence."""
  text = ' '.join(str(part) for part in error.args) or type(error).__name__
  text = text.partition('Other fields present')[0]  # ml_collections lists all of them
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  text = re.sub(r'^[\w.]+(Error|Exception): ', '', lines[-1])
  return text if text.endswith(('.', '?')) else f'{text}.'
