"""What reaches the terminal: our own warnings, and errors of dependencies.

With `--verbose`, everything from INFO on.
"""

from collections.abc import Iterator
import contextlib
import logging
import os
import sys
import warnings

import absl.logging  # noqa: F401  it defines the class of the logger 'absl'

_OURS, _ABSL = logging.getLogger('gan_aug_jax'), logging.getLogger('absl')


class _Handler(logging.StreamHandler):
  """Writes to what is stderr now: the terminal's display takes its place for a while."""

  @property
  def stream(self):
    return sys.stderr

  @stream.setter
  def stream(self, _):
    pass


@contextlib.contextmanager
def shown(verbose: bool, *, to_the_end: bool = False) -> Iterator[None]:
  """Shows on stderr what is logged, for as long as it lasts.

  Args:
    verbose: show what dependencies log and warn of, too.
    to_the_end: whether the process ends with it; threads that outlast it then stay quiet.
  """

  def is_shown(record):
    ours = record.name.partition('.')[0] == _OURS.name
    return verbose or ours or record.levelno >= logging.ERROR

  # For C++, whose lines do not pass through here; read when JAX is imported.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '0' if verbose else '2')
  handler = _Handler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(name)s: %(message)s'))
  handler.addFilter(is_shown)
  hooks = sys.excepthook, sys.unraisablehook
  loggers = (logging.root, _OURS, _ABSL)
  levels = [logger.level for logger in loggers]
  if verbose:
    for logger in loggers:
      logger.setLevel(logging.INFO)
  logging.root.addHandler(handler)
  # Errors that end threads and coroutines of dependencies; their caller was told already.
  sys.excepthook = lambda kind, error, _: _OURS.info('%s: %s', kind.__name__, error)
  sys.unraisablehook = lambda args: _OURS.info('%s', args.exc_value)
  try:
    with warnings.catch_warnings():
      if not verbose:
        warnings.simplefilter('ignore')
      yield
  finally:
    if not to_the_end:
      sys.excepthook, sys.unraisablehook = hooks
    logging.root.removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


def hide(level: int) -> None:
  """Hides what dependencies log through absl below a level, unless `--verbose`."""
  if not _OURS.isEnabledFor(logging.INFO):
    _ABSL.setLevel(level)
    # It reports every task that was abandoned when a save or a restore failed.
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
