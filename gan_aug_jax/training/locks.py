"""One writer per directory, by locks that the system releases when a process ends.

The lock is DIRECTORY/run.lock; run.owner says who holds it.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import logging
import os
import pathlib
import socket
import time

import filelock
import jax

from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.training import files, processes

_LOG = logging.getLogger('gan_aug_jax')
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# A command that only reads holds the lock for a moment, see `check_idle`.
_PATIENCE_SECONDS = 1.0


class NoLocksError(CheckpointError):
  """A file system without locks."""


@contextlib.contextmanager
def try_lock(directory: pathlib.Path, *, seconds: float = 0.0) -> Iterator[bool]:
  """Locks a directory; yields whether the lock is ours.

  Args:
    directory: what to lock; it is made if it is missing.
    seconds: how long to wait for the lock.

  Raises:
    NoLocksError: if the file system has no locks.
    CheckpointError: if the directory cannot be written.
  """
  path, owner = directory / 'run.lock', directory / 'run.owner'
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    lock.acquire(timeout=seconds)
  except filelock.Timeout:
    if not os.access(directory, os.W_OK):  # which filelock takes for a held lock
      raise _unwritable(directory, os.strerror(errno.EACCES)) from None
    yield False
    return
  except (OSError, NotImplementedError) as error:
    if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
      raise _unwritable(directory, error.strerror) from None
    raise NoLocksError(
      f'{str(directory)!r} is on a file system without locks ({error}); choose another '
      '--workdir.'
    ) from None
  try:
    about = {'host': socket.gethostname(), 'process': os.getpid()}
    about['started'] = time.strftime('%Y-%m-%d %H:%M:%S')
    with contextlib.suppress(OSError):  # it is only for the message to others
      files.write_atomically(owner, json.dumps(about))
    yield True
  finally:
    # While the lock is held: whoever waits for a file that is gone makes a new one.
    for file in (owner, path):
      with contextlib.suppress(OSError):
        file.unlink()
    lock.release()


@contextlib.contextmanager
def owned(directory: pathlib.Path) -> Iterator[None]:
  """Makes a run the only writer of its workdir for as long as it lasts.

  The first of several processes takes the lock for all of them.

  Raises:
    CheckpointError: if another run has it, naming that, or if it cannot be written.
  """
  with contextlib.ExitStack() as stack:
    is_ours, error = True, None
    if jax.process_index() == 0:
      try:
        is_ours = stack.enter_context(try_lock(directory, seconds=_PATIENCE_SECONDS))
      except NoLocksError:
        _LOG.warning(
          '%r is on a file system without locks: use it from one run at a time.',
          str(directory),
        )
      except CheckpointError as caught:
        error = caught  # or the others would wait for this process
    if not processes.all_agree(is_ours and not error):
      raise error or _held(directory)
    yield


def check_idle(directory: pathlib.Path) -> None:
  """Checks that no run writes in a workdir, before a command reads what is there.

  Raises:
    CheckpointError: naming the run that does.
  """
  # Never makes the lock of a directory that is not a run, or that may only be read.
  if not (directory / 'run.lock').exists() or not os.access(directory, os.W_OK):
    return
  with contextlib.suppress(NoLocksError), try_lock(directory) as is_idle:
    if not is_idle:
      raise _held(directory)


def _held(directory):
  about = files.read_json_or_none(directory / 'run.owner') or {}
  who = 'another process'
  if {'host', 'process', 'started'} <= set(about):
    who = f'process {about["process"]} on {about["host"]}, since {about["started"]}'
  return CheckpointError(
    f'{str(directory)!r} is in use by {who}; wait until it has finished, or give another '
    '--workdir.'
  )


def _unwritable(directory, reason):
  return CheckpointError(
    f'The workdir {str(directory)!r} cannot be written ({reason}); choose another '
    '--workdir.'
  )
