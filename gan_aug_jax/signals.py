"""SIGTERM and Ctrl-C: noticed, and acted on where the state can be saved."""

import contextlib
import signal

import jax
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax.errors import UserError

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(UserError):
  """A run that was stopped by a signal, with its state saved."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


def raise_interrupted(number, _=None):
  """A handler for the time between trainings, when everything is saved already."""
  name = signal.Signals(number).name
  raise Interrupted(f'Stopped by {name}; run the same command to go on.')


@contextlib.contextmanager
def deferred():
  """Keeps the two signals from ending the process, and tells who asks.

  Yields:
    `stopped(agree) -> name of a signal, or None`. Of several processes, a signal to one
    must stop them all at one step, so it is told only where all of them ask with
    `agree`, which costs a little communication.
  """
  caught, handlers = [], {}
  with contextlib.suppress(ValueError):  # not the main thread: leave them alone
    for number in _NUMBERS:
      handlers[number] = signal.signal(number, lambda n, _: caught.append(n))

  def stopped(agree):
    number = caught[0] if caught else 0
    if jax.process_count() > 1:
      if not agree:
        return None
      number = int(np.max(multihost_utils.process_allgather(np.int32(number))))
    return signal.Signals(number).name if number else None

  try:
    yield stopped
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
