"""SIGTERM and Ctrl-C: noticed, and acted on where the state can be saved.

A signal is recorded first. Outside a training it then raises at once, and, since a raise
can get lost (Python drops one in a callback of the garbage collector), again at the next
`check`. Inside a training the loop asks for it.
"""

from collections.abc import Callable, Iterator
import contextlib
import signal

from gan_aug_jax.errors import UserError

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_caught = []
_watching = _training = False


class Interrupted(UserError):
  """A run that was stopped by a signal, with its state saved."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


def _handle(number, _):
  _caught.append(number)
  if not _training:
    check()


@contextlib.contextmanager
def _installed():
  """Handles the two signals for as long as it lasts."""
  handlers = {}
  with contextlib.suppress(ValueError):  # not the main thread: leave them alone
    handlers = {number: signal.signal(number, _handle) for number in _NUMBERS}
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Turns the two signals into `Interrupted` for as long as it lasts."""
  global _watching
  _caught.clear()
  with _installed():
    _watching = True
    try:
      yield
    finally:
      _watching = False


def check() -> None:
  """Raises `Interrupted` if a signal came."""
  if _caught:
    name = signal.Signals(_caught[0]).name
    raise Interrupted(f'Stopped by {name}; run the same command to continue.')


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[bool], str | None]]:
  """Lets a training ask for signals instead of being interrupted by them.

  Yields:
    `stopped(agree) -> name of a signal, or None`. A signal to one of several processes
    must stop them all at the same step, so it is reported only if all of them call with
    `agree`, which costs a little communication.
  """
  global _training
  if _watching:
    check()
  else:  # a training by itself, in a notebook say, where earlier signals do not count
    _caught.clear()
  with _installed():  # again: joining other processes takes SIGTERM over
    _training = True
    try:
      yield _stopped
    finally:
      _training = False


def _stopped(agree):
  # Imported late: signals are watched from before JAX is set up.
  import jax
  from jax.experimental import multihost_utils
  import numpy as np

  number = _caught[0] if _caught else 0
  if jax.process_count() > 1:
    if not agree:
      return None
    number = int(np.max(multihost_utils.process_allgather(np.int32(number))))
  return signal.Signals(number).name if number else None
