"""SIGTERM and Ctrl-C: noticed, and acted on where the state can be saved.

A signal is recorded first. Outside of a training it then raises at once, and, since a
raise can get lost (Python drops one in a callback of the garbage collector), again at the
next `check`. Inside of a training the loop asks for it.
"""

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


def _install():
  """Sets the handlers; returns those that were there."""
  with contextlib.suppress(ValueError):  # not the main thread: leave them alone
    return {number: signal.signal(number, _handle) for number in _NUMBERS}
  return {}


@contextlib.contextmanager
def watched():
  """Turns the two signals into `Interrupted` for as long as it lasts."""
  global _watching
  _caught.clear()
  handlers, _watching = _install(), True
  try:
    yield
  finally:
    _watching = False
    for number, handler in handlers.items():
      signal.signal(number, handler)


def check():
  """Raises `Interrupted` if a signal came."""
  if _caught:
    name = signal.Signals(_caught[0]).name
    raise Interrupted(f'Stopped by {name}; run the same command to go on.')


@contextlib.contextmanager
def deferred():
  """Lets a training ask for signals instead of being interrupted by them.

  Yields:
    `stopped(agree) -> name of a signal, or None`. Of several processes, a signal to one
    must stop them all at one step, so it is told only where all of them ask with
    `agree`, which costs a little communication.
  """
  # Imported late: signals are watched from before JAX is set up.
  import jax
  from jax.experimental import multihost_utils
  import numpy as np

  global _training
  if _watching:
    check()
  else:  # a training by itself, in a notebook say, where none of before counts
    _caught.clear()
  handlers = _install()  # again: joining other processes takes SIGTERM over

  def stopped(agree):
    number = _caught[0] if _caught else 0
    if jax.process_count() > 1:
      if not agree:
        return None
      number = int(np.max(multihost_utils.process_allgather(np.int32(number))))
    return signal.Signals(number).name if number else None

  _training = True
  try:
    yield stopped
  finally:
    _training = False
    for number, handler in handlers.items():
      signal.signal(number, handler)
