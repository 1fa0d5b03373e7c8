"""The entry point: help, dispatch to a command, and errors as sentences."""

import os
import sys

import gan_aug_jax
from gan_aug_jax import config as config_lib, logs
from gan_aug_jax.cli import parsing
from gan_aug_jax.config import validation
from gan_aug_jax.errors import ConfigError, MachineError, UserError
from gan_aug_jax.training import signals

_HELP = """\
gan_aug_jax: does generative augmentation help your classifier, and what does it cost?

usage: python -m gan_aug_jax COMMAND --workdir=DIR [--config=FILE] [--config.FIELD=VALUE]

  run               train the GAN, then every arm; write results.json and report.html
  train-gan         train the GAN only
  train-classifier  train the arms with the GAN in the workdir
  evaluate          evaluate the trained classifiers again, on validation and test images
  sample            draw a grid of images by class from the generator (--seed=N)
  score             measure the quality of the generators; write score/
  predict           classify the images in --images=FILE_OR_FOLDER with the best arm, or
                    with --arm=NAME; write predictions.csv, or --output=FILE.csv
  export            write the generator to files that need none of this package, in
                    WORKDIR/export or --output=DIR
  report            write report.html again
  ablate            train every arm of an ablation with every seed, and write a report;
                    --dry-run only lists the cells and estimates their time, --shard=i/n
                    trains part i of n, --collect only writes the report

A config is a Python file; configs/ has examples. The command line can change any field of
it; docs/config.md lists them all. Commands that train resume from what is in the workdir.
The commands from evaluate to report, and ablate --collect, need only --workdir.

  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/first
  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/half \\
      --config.mix.ratio=0.5 --config.data.label_budget=50
  python -m gan_aug_jax run --config=configs/mlp.py:updated --workdir=runs/mlp
  python -m gan_aug_jax sample --workdir=runs/first --seed=7
  python -m gan_aug_jax predict --workdir=runs/first --images=photos
  python -m gan_aug_jax ablate --config=configs/ablations/ratio.py --workdir=runs/ratio

Write tuples as --config.arms="('real_only','augmented')".

A config can name code of your own as module:name (docs/howto/own-classifier.md). evaluate
and predict import what a workdir names only with --trust-code.

--verbose shows the logs of dependencies, and --debug shows tracebacks.

Exit codes: 0 success, 1 a bug (--debug shows where), 2 wrong usage, 3 a problem with data
or the machine, 75 stopped by a signal with the state saved (run the same command again to
resume).
"""


def main(argv: list[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: the program's name, the command and its flags; None for those of the process,
      which then ends with the command.

  Returns:
    The exit code.
  """
  ends, argv = argv is None, list(sys.argv if argv is None else argv)
  try:
    with signals.watched(), logs.shown('--verbose' in argv, to_the_end=ends):
      _dispatch(argv)
  except Exception as error:
    if '--debug' in argv:
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


def _as_user_error(error):
  """The error as one that the user can fix, or None."""
  if isinstance(error, UserError):
    return error
  if isinstance(error, BrokenPipeError):
    # Python would otherwise report on exit that it cannot flush the output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return MachineError('The output was closed; run the same command to resume.')
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
      'of the models.'
    )
  return None


def _dispatch(argv):
  command = argv[1] if len(argv) > 1 else '--help'
  if command == '--version':
    print(gan_aug_jax.__version__)
    return
  if command in ('--help', '-h', '-help', 'help') or '--help' in argv:
    print(_HELP)
    return
  if command not in parsing.COMMANDS:
    raise ConfigError(
      f'There is no command {command!r}; choose one of {", ".join(parsing.COMMANDS)}.'
    )
  flags = parsing.parse(command, [argv[0], *argv[2:]])
  if 'config' in flags:
    trains_gan = True if command in ('train-gan', 'ablate') else None
    validation.validate(config_lib.base_of(flags.config), trains_gan=trains_gan)
  # Imported late: what is wrong with the usage must not wait for JAX.
  try:
    import jax  # noqa: F401  it reads its switches
  except ValueError as error:
    raise ConfigError(f'JAX refuses its environment: {parsing.sentence(error)}') from None
  from gan_aug_jax.cli import commands

  commands.COMMANDS[command](flags)
