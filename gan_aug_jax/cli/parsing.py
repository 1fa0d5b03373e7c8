"""The command line: what may be given, and what is wrong with what was given."""

import difflib
import pathlib
import re
import runpy
import traceback

from absl import flags
import ml_collections
from ml_collections import config_flags

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError, UserError

TRAINING = ('run', 'train-gan', 'train-classifier')
LATER = ('evaluate', 'sample', 'score', 'predict', 'export', 'report')
COMMANDS = (*TRAINING, *LATER, 'ablate')
_KINDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  tuple: "a tuple, such as \"('a','b')\"",
}


def parse(command, argv):
  """Parses what follows a command.

  Args:
    command: one of `COMMANDS`.
    argv: the program's name, then flags.

  Returns:
    An absl FlagValues with workdir, config, seed, debug and verbose; of ablate also with
    shard, dry_run and collect, of predict with images, arm and output, of export with
    output.

  Raises:
    ConfigError: if a flag or the config file is not what it should be.
  """
  argv = [re.sub('^--?dry-run', '--dry_run', arg) for arg in _join_config(argv)]
  values = _define(command)
  _check_names(argv, values)
  _check_flags(command, argv)
  argv = [_find_config(arg) for arg in argv]
  paths = [arg for arg in argv if re.match(r'--?config=', arg)]
  file = paths[-1].partition('=')[2].partition(':')[0] if paths else None
  if file:
    _check_config_file(file)
  config_flags.DEFINE_config_file(
    'config', None, 'Config file.', flag_values=values, sys_argv=argv
  )
  try:
    rest = values(argv)[1:]
    config = values.config
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # absl and ml_collections raise many kinds
    raise ConfigError(explain(error, file)) from error
  if rest:
    raise ConfigError(f'{rest[0]!r} is not a flag; flags are written --name=value.')
  if not values.workdir:
    raise ConfigError('--workdir is missing; name a directory, such as runs/first.')
  if not 0 <= values.seed < 2**31:
    raise ConfigError(f'--seed={values.seed} must be from 0 to 2^31 - 1.')
  if paths and not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(
      f'get_config() of the config file returned {type(config).__name__}; it must return '
      'a config that starts from gan_aug_jax.config.default().'
    )
  for field in config.get('ablation', {}).get('grid', {}) if paths else ():
    if any(arg.lstrip('-').startswith(f'config.{field}=') for arg in argv):
      raise ConfigError(
        f'--config.{field} would change nothing: ablation.grid of the config file sets '
        f'{field}.'
      )
  if any(arg.startswith('--config.') for arg in argv) and config:
    config.duration = ''  # which was that of the config as it stands
  return values


def _define(command):
  """The flags of a command but for --config, which is read by another parser."""
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'Directory of the run.', flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the samples to draw.', flag_values=values)
  flags.DEFINE_bool('debug', False, 'Show tracebacks.', flag_values=values)
  flags.DEFINE_bool('verbose', False, 'Show what is logged.', flag_values=values)
  if command == 'ablate':
    flags.DEFINE_string('shard', '0/1', 'Every n-th cell from i on.', flag_values=values)
    flags.DEFINE_bool('dry_run', False, 'List the cells only.', flag_values=values)
    flags.DEFINE_bool('collect', False, 'Report only.', flag_values=values)
  if command == 'predict':
    flags.DEFINE_string('images', '', 'An image or a folder.', flag_values=values)
    flags.DEFINE_string('arm', '', 'The best by default.', flag_values=values)
    flags.DEFINE_string('output', '', 'WORKDIR/predictions.csv.', flag_values=values)
  if command == 'export':
    flags.DEFINE_string('output', '', 'WORKDIR/export.', flag_values=values)
  return values


def _check_names(argv, values):
  """Refuses a flag that there is not, and one that is there twice."""
  known, seen = {'config', *values}, set()
  fields = {*config_lib.flatten(config_lib.default()), 'seed'}
  for arg in argv[1:]:
    if not re.match('--?[^-]', arg):
      continue
    name = arg.lstrip('-').partition('=')[0]
    name = positive if (positive := name.removeprefix('no')) in known else name
    if name in seen:
      raise ConfigError(f'--{name} is there twice; give it once.')
    seen.add(name)
    # Fields of the config are told from others where they are checked.
    if name not in known | fields and not name.startswith('config.'):
      close = difflib.get_close_matches(name, known, n=1)
      hint = f'did you mean --{close[0]}?' if close else f'there are: {_list(known)}.'
      raise ConfigError(f'There is no flag --{name}; {hint}')


def _list(names):
  return ', '.join(f'--{name}' for name in sorted(names))


def _check_flags(command, argv):
  """Refuses what absl and ml_collections would refuse with less help."""
  fields = config_lib.flatten(config_lib.default())
  has_config = any(re.match(r'--?config=', arg) for arg in argv)
  needs_config, example = command in TRAINING, 'mnist5k'
  if command == 'ablate':
    fields |= {f'ablation.{name}': value for name, value in config_lib.ablation().items()}
    needs_config, example = '--collect' not in argv, 'ablations/ratio'
  if needs_config and not has_config:
    raise ConfigError(f'--config is missing; name a file, such as configs/{example}.py.')
  if not needs_config and any(re.match(r'--?config[=.]', arg) for arg in argv):
    raise ConfigError(f'{command} takes its config from --workdir; leave --config out.')
  for arg in argv[1:]:
    name = arg.lstrip('-').partition('=')[0]
    if name in fields and name != 'seed':
      raise ConfigError(f'--{name} is a field of the config: write --config.{name}.')
    if name == 'seed' and command != 'sample':
      raise ConfigError('--seed belongs to sample; a run has --config.seed.')
    if not name.startswith('config.'):
      continue
    field = name.removeprefix('config.')
    if isinstance(fields.get(field), dict):
      raise ConfigError(f'{field} is a dict; change it in the config file.')
    if any(known.startswith(f'{field}.') for known in fields):
      raise ConfigError(f'{field} is a group of fields; set one, as in --{name}.NAME.')
    if field not in fields:
      close = difflib.get_close_matches(field, fields, n=1)
      hint = f'did you mean {close[0]}?' if close else 'see gan_aug_jax/config.py.'
      raise ConfigError(f'There is no config field {field!r}; {hint}')


def _join_config(argv):
  """Writes `--config FILE` as `--config=FILE`, and puts it before changes of fields."""
  for i, arg in enumerate(argv[:-1]):
    if arg in ('--config', '-config'):
      argv = [*argv[:i], f'--config={argv[i + 1]}', *argv[i + 2 :]]
      break
  is_file = lambda arg: bool(re.match(r'--?config=', arg))
  return [argv[0], *sorted(argv[1:], key=lambda arg: not is_file(arg))]


def _find_config(arg):
  """Lets --config name a shipped config from any directory."""
  name, _, value = arg.partition('=')
  if name not in ('--config', '-config'):
    return arg
  file, colon, variant = value.partition(':')
  package = pathlib.Path(__file__).resolve().parents[1]
  for root in (pathlib.Path(), package.parent, package):
    if (root / file).is_file():
      return f'{name}={root / file}{colon}{variant}'
  raise ConfigError(f'There is no config file {file!r}; see configs/ for those shipped.')


def _check_config_file(file):
  """Runs a config file by itself, where errors can still be told from others.

  Raises:
    ConfigError: if it cannot be run, or has no get_config.
  """
  try:
    content = runpy.run_path(file)
  except SyntaxError as error:
    raise ConfigError(f'In {file}, line {error.lineno}: {error.msg}.') from None
  except (Exception, SystemExit) as error:
    raise ConfigError(explain(error, file)) from error
  if not callable(content.get('get_config')):
    raise ConfigError(f'{file} has no get_config(); see configs/ for examples.')


def explain(error, file=None):
  """What a parser or a config file raised, as a sentence."""
  text = ' '.join(str(part) for part in error.args) or type(error).__name__
  if refused := re.match(r'flag --(config\.)?([\w.]+)=(.*?): ', text, re.DOTALL):
    fields = config_lib.flatten(config_lib.default())
    kind = _KINDS.get(bool if 'oolean' in text else type(fields.get(refused[2])))
    if kind:
      name = refused[2] if refused[1] else f'--{refused[2]}'
      return f'{name}={refused[3]!r} must be {kind}.'
  if 'get_config() takes 0' in text:
    return f'{file} has no variants; leave out what follows the colon.'
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  text = re.sub(r'^[\w.]+(Error|Exception): ', '', lines[-1])
  inside = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if file and frame.filename == file
  ]
  if inside:
    text = f'In {file}, line {inside[-1]}: {text}'
  return text if text.endswith(('.', '?')) else f'{text}.'
