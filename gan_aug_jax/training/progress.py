"""Progress on the terminal, or as plain lines where there is none."""

import sys
import time

import rich.console
import rich.progress

_SECONDS_BETWEEN_LINES = 10


class ProgressBar:
  """Shows how far a training is, its rate and the time left; a context manager.

  On a terminal it draws a bar; elsewhere (a pipe, a log file) it prints a line at most
  every ten seconds, and one at the end.
  """

  def __init__(self, name: str, total: int, *, start: int = 0, quiet: bool = False):
    """Prepares the display.

    Args:
      name: what is being trained.
      total: number of steps.
      start: steps already taken.
      quiet: show nothing.
    """
    self.name, self._total, self._start = name, total, start
    self._quiet = quiet
    self._console = rich.console.Console(file=sys.stdout, markup=False)
    self._bar = None
    self._began = self._last = time.perf_counter()

  def __enter__(self):
    if self._console.is_terminal and not self._quiet:
      self._bar = rich.progress.Progress(
        '{task.description}',
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        '{task.fields[rate]}',
        rich.progress.TimeRemainingColumn(compact=True),
        '{task.fields[note]}',
        console=self._console,
      )
      self._task = self._bar.add_task(
        self.name, total=self._total, completed=self._start, rate='', note=''
      )
      self._bar.start()
    return self

  def __exit__(self, *_):
    if self._bar:
      self._bar.stop()

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if not self._quiet:
      self._console.print(text, highlight=False, soft_wrap=True)

  def update(self, step: int, note: str = '') -> None:
    """Shows progress.

    Args:
      step: steps taken.
      note: text next to it, such as a loss.
    """
    now = time.perf_counter()
    done = max(step - self._start, 1)
    rate = done / (now - self._began)
    if self._bar:
      self._bar.update(self._task, completed=step, rate=f'{rate:.1f} steps/s', note=note)
    elif not self._quiet and (
      now - self._last >= _SECONDS_BETWEEN_LINES or step >= self._total
    ):
      self._last = now
      left = (self._total - step) / rate
      print(
        f'{self.name}: step {step} of {self._total}, {rate:.1f} steps/s, '
        f'{format_seconds(left)} left{", " + note if note else ""}',
        flush=True,
      )


def format_count(count: int, noun: str) -> str:
  """Formats a number of things as '1 image' or '1,500 images'.

  Args:
    count: how many.
    noun: one of them.
  """
  return f'{count:,} {noun}{"" if count == 1 else "s"}'


def format_seconds(seconds: float) -> str:
  """Formats seconds as '48 s', '3 min 20 s' or '2 h 05 min'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
