"""SIGTERM, Ctrl-C and a closed terminal: noticed, and acted on where the state is saved.

A signal is recorded first. Outside a training it then raises at once, and, since a raise
can get lost (Python drops one in a callback of the garbage collector), again at the next
`check`. Inside a training the loop asks for it. Python only gets to handle a signal once
a computation returns, so a thread acknowledges it in the meantime.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading

from gan_aug_jax.training import progress

_STOP = (signal.SIGTERM, signal.SIGINT)
# Windows has no terminals that hang up.
_NUMBERS = (*_STOP, signal.SIGHUP) if hasattr(signal, 'SIGHUP') else _STOP
_TERMINALS = [fd for fd in (1, 2) if os.isatty(fd)]
_caught = []
_watching = _training = False
_COMPUTATION = 'the computation in progress'
_awaited = _COMPUTATION


class Interrupted(KeyboardInterrupt):
  """A run that was stopped by a signal, with its state saved.

  Like its base no `Exception`, so nothing that handles errors takes it for one.
  """

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


def _handle(number, _):
  _caught.append(number)
  if number not in _STOP:  # the terminal is gone, and every line to it would raise
    for fd in _TERMINALS:
      os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
  if not _training:
    check()


@contextlib.contextmanager
def _installed():
  """Handles the signals for as long as it lasts."""
  handlers = {}
  with contextlib.suppress(ValueError):  # not the main thread: leave them alone
    for number in _NUMBERS:
      # Under nohup SIGHUP is ignored, and must stay so.
      if number in _STOP or signal.getsignal(number) != signal.SIG_IGN:
        handlers[number] = signal.signal(number, _handle)
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def _acknowledged():
  """Says at once, on stderr, that a signal came and what it waits for."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  read, write = os.pipe()
  if hasattr(os, 'set_blocking'):  # not on Windows before Python 3.12
    os.set_blocking(write, False)
  thread = threading.Thread(target=_acknowledge, args=(read,), daemon=True)
  before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(write)
    thread.join()
    os.close(read)


def _acknowledge(read):
  while received := os.read(read, 1):
    if received[0] in _NUMBERS:
      name = signal.Signals(received[0]).name
      progress.warn(f'gan_aug_jax: {name}: waiting for {_awaited}.')


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Turns the signals into `Interrupted` for as long as it lasts."""
  global _watching
  _caught.clear()
  with _acknowledged(), _installed():
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
def deferred(awaited: str = _COMPUTATION) -> Iterator[Callable[[bool], str | None]]:
  """Lets a training ask for signals instead of being interrupted by them.

  Args:
    awaited: completes "waiting for ...", which the user is told when a signal comes.

  Yields:
    `stopped(agree) -> name of a signal, or None`. A signal to one of several processes
    must stop them all at the same step, so it is reported only if all of them call with
    `agree`, which costs a little communication.
  """
  global _awaited, _training
  if _watching:
    check()
  else:  # a training by itself, in a notebook say, where earlier signals do not count
    _caught.clear()
  with _installed():  # again: joining other processes takes SIGTERM over
    _awaited, _training = awaited, True
    try:
      yield _stopped
    finally:
      _awaited, _training = _COMPUTATION, False


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
