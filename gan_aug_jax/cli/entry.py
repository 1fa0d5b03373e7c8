"""The entry point: help, dispatch to a command, and errors as sentences."""

import difflib
import os
import re
import sys

import gan_aug_jax
from gan_aug_jax import config as config_lib, logs
from gan_aug_jax.cli import help as help_pages, parsing
from gan_aug_jax.config import validation
from gan_aug_jax.errors import ConfigError, MachineError, UserError
from gan_aug_jax.training import signals

_ALIASES = {'train-gan': 'train-generator'}


def main(argv: list[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: the program's name, the command and its flags; None for those of the process,
      which then ends with the command.
  """
  ends, argv = argv is None, list(sys.argv if argv is None else argv)
  for name in {'XDG_CACHE_HOME', 'XDG_CONFIG_HOME'} & set(os.environ):
    # Matplotlib would make a directory of the name ~.
    os.environ[name] = os.path.expanduser(os.environ[name])
  if ends:  # a notebook sets its own for all it starts, and it may be missing here
    os.environ['MPLBACKEND'] = 'agg'
  if hasattr(sys.stdout, 'reconfigure'):  # or names that it cannot encode end a run
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    with signals.watched(), logs.shown(_asks('verbose', argv), to_the_end=ends):
      _dispatch(argv)
  except signals.Interrupted as stopped:
    print(f'gan_aug_jax: {stopped}', file=sys.stderr)
    return stopped.exit_code
  except Exception as error:
    if _asks('debug', argv):
      sys.excepthook = sys.__excepthook__  # which `logs` keeps quiet
      raise
    user_error = _as_user_error(error)
    if user_error:
      print(f'gan_aug_jax: {user_error}', file=sys.stderr)
      return user_error.exit_code
    print(
      f'gan_aug_jax: {parsing.sentence(error)} ({type(error).__name__}; this is a '
      'bug, or a fault of the machine: --debug shows where.)',
      file=sys.stderr,
    )
    return 1
  return 0


def _asks(flag, argv):
  """Whether a flag is there, which must be known before flags are parsed."""
  spelled = re.compile(rf'--?{flag}(=(true|t|1))?', re.IGNORECASE)
  return any(map(spelled.fullmatch, argv))


def _as_user_error(error):
  """The error as one that the user can fix, or None."""
  if isinstance(error, UserError):
    return error
  if isinstance(error, BrokenPipeError):
    # Python would otherwise report on exit that it cannot flush the output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return MachineError('The output was closed early; run the same command again.')
  if isinstance(error, OSError) and error.strerror:
    where = f' for {error.filename!r}' if error.filename else ''
    return MachineError(
      f'The operating system reported an error{where} ({error.strerror}). Finished work '
      'is kept: fix the cause and run the same command again.'
    )
  exhausted = type(error).__name__ == 'JaxRuntimeError' and 'EXHAUSTED' in str(error)
  if exhausted or isinstance(error, MemoryError):
    return MachineError(
      'There is not enough memory; lower the batch sizes, data.image_size or the width '
      "of the models, or set data.placement='host'."
    )
  return None


def _dispatch(argv):
  command = argv[1] if len(argv) > 1 else '--help'
  if command == '--version':
    print(gan_aug_jax.__version__)
    return
  if command in ('--help', '-h', '-help', 'help'):
    print(help_pages.overview())
    return
  command = _ALIASES.get(command, command)
  if command not in help_pages.PAGES:
    raise ConfigError(_no_such_command(command))
  if {'--help', '-h', '-help'} & set(argv[2:]):
    print(help_pages.page_of(command, parsing.define(command)))
    return
  if command == 'fields':
    _print_fields(argv[2:])
    return
  flags = parsing.parse(command, [argv[0], *argv[2:]])
  if 'config' in flags:
    trains = True if command in ('train-generator', 'ablate') else None
    validation.validate(config_lib.base_of(flags.config), trains_generator=trains)
  # Imported late: what is wrong with the usage must not wait for JAX.
  try:
    import jax  # noqa: F401  it reads its switches
  except ValueError as error:
    raise ConfigError(f'JAX refuses its environment: {parsing.sentence(error)}') from None
  from gan_aug_jax.cli import commands

  commands.COMMANDS[command](flags)


def _no_such_command(command):
  close = difflib.get_close_matches(command, help_pages.PAGES, n=1)
  several = ', '.join(help_pages.PAGES)
  hint = f'did you mean {close[0]}?' if close else f'choose one of {several}.'
  return f'There is no command {command!r}; {hint}'


def _print_fields(names):
  """Prints the reference of a group or a field; needs no JAX."""
  names = [name for name in names if name not in ('--verbose', '--debug')]
  if len(names) > 1 or any(name.startswith('-') for name in names):
    raise ConfigError('fields takes the name of one group or field, such as mix.')
  print(help_pages.fields_page(*names))
