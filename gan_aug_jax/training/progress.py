"""Progress on the terminal, or as plain lines where there is none.

A process has one display, at the bottom of the terminal, with up to three lines that
move: the whole run, the training in progress, and what is being waited for. Elsewhere (a
pipe, a log file) a training prints a line at most every ten seconds, and one at the end.
"""

from collections.abc import Collection, Iterator, Mapping
import contextlib
import dataclasses
import os
import sys
import time

import rich.console
import rich.progress
import rich.table
import rich.text

_SECONDS_BETWEEN_LINES = 10
_FEWEST_SECONDS = 5  # of training, before the whole run's time is extrapolated

_display = None  # the `rich.progress.Progress` that is shown
_whole = None  # the `_Whole` in progress


def say(text: str) -> None:
  """Prints a line, above the display if there is one."""
  console = _display.console if _display else _make_console()
  console.print(text, soft_wrap=True)


def warn(text: str) -> None:
  """Writes a line to stderr at once, above the display if there is one."""
  if _display:
    _display.console.print(text, style='bold yellow', soft_wrap=True)
    return
  with contextlib.suppress(OSError):
    os.write(2, f'{text}\n'.encode())


@contextlib.contextmanager
def waiting(text: str, *, quiet: bool = False) -> Iterator[None]:
  """Says what is being done for as long as it lasts.

  Args:
    text: such as 'GAN: compiling'.
  """
  with _line(text, quiet=quiet) as line:
    if not line and not quiet:
      print(f'{text} ...', flush=True)
    yield


@contextlib.contextmanager
def whole(work: Mapping[str, float], *, counted: Collection[str] = ()) -> Iterator[None]:
  """Shows how far something of several parts is, and the time left.

  Args:
    work: {part: how much work it is, in any unit}, of what is not finished.
    counted: parts that are cells of an ablation: the display says how many are finished.
  """
  global _whole
  if not work:
    yield
    return
  with _line('', total=sum(work.values())) as line:
    _whole = _Whole(dict(work), frozenset(counted), line)
    try:
      yield
    finally:
      _whole = None


@contextlib.contextmanager
def part(*names: str) -> Iterator[None]:
  """Tells `whole`, if there is one, which of its parts are in progress, then finished."""
  if not _whole or not _whole.work.keys() & set(names):
    yield
    return
  before = _whole.current
  _whole.begin(names)
  try:
    yield
    finished(*names)
  finally:
    _whole.begin(before)


def finished(*names: str) -> None:
  """Tells `whole`, if there is one, that parts are finished."""
  if _whole:
    for name in names:
      _whole.work.pop(name, None)
    _whole.show()


class _Whole:
  """What `whole` knows."""

  def __init__(self, work, counted, line):
    self.work, self.current, self._fraction = work, (), 0.0
    self._counted, self._line, self._total = counted, line, sum(work.values())
    self._num_parts = len(work)
    # What trainings did in this process, and the seconds that it took; the rest of the
    # time went into what every part needs, such as compilation.
    self._done = self._seconds = 0.0
    self._began, self._begun = time.perf_counter(), set()
    self.show()

  def begin(self, names):
    self.current, self._fraction = names, 0.0
    self._begun.update(names)
    self.show()

  def advance(self, fraction, gained, seconds):
    """Counts progress: the current part is at `fraction`, of which `gained` is new.

    Args:
      fraction: of the current part, in [0, 1].
      gained: part of it that this process has done.
    """
    self._fraction = fraction
    self._done += gained * self._of_current()
    self._seconds += seconds
    self.show()

  def _of_current(self):
    return sum(self.work.get(name, 0) for name in self.current)

  def _left(self):
    return sum(self.work.values()) - self._fraction * self._of_current()

  def time_left(self):
    """'about 5 min 10 s left', or '' as long as little is known."""
    if self._seconds < _FEWEST_SECONDS or not self._done:
      return ''
    overhead = time.perf_counter() - self._began - self._seconds
    overhead *= len(self.work.keys() - self._begun) / len(self._begun)
    left = self._left() * self._seconds / self._done + overhead
    return f'about {format_seconds(left)} left'

  def describe(self):
    """What is in progress: '3 of 30 cells finished', or 'part 2 of 5'."""
    if self._counted:
      finished = len(self._counted - self.work.keys())
      return f'{finished} of {format_count(len(self._counted), "cell")} finished'
    number = min(self._num_parts - len(self.work) + 1, self._num_parts)
    return f'part {number} of {self._num_parts}'

  def show(self):
    if self._line:
      note = self.time_left() or 'measuring the time left'
      self._line.update(self._total - self._left(), name=self.describe(), note=note)


class ProgressBar:
  """Shows how far a training is, its rate and the time left; a context manager."""

  def __init__(self, name: str, total: int, *, start: int = 0, quiet: bool = False):
    """Prepares the display.

    Args:
      start: steps already taken.
    """
    self.name, self._total, self._start = name, total, start
    self._quiet, self._note, self._lines = quiet, '', contextlib.ExitStack()
    self._began = self._last_line = self._last = time.perf_counter()
    self._step = start

  def __enter__(self):
    self._line = self._lines.enter_context(
      _line(self.name, total=self._total, quiet=self._quiet)
    )
    return self

  def __exit__(self, *_):
    self._lines.close()

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if not self._quiet:
      say(text)

  def waiting(self, text: str):
    """As the function of that name; says nothing of an empty text."""
    return waiting(f'{self.name}: {text}', quiet=self._quiet or not text)

  def advance(self, step: int) -> None:
    """Moves the bar to the number of steps taken."""
    now = time.perf_counter()
    if _whole and not self._quiet:
      gained = (step - self._step) / self._total
      _whole.advance(step / self._total, gained, now - self._last)
    self._step, self._last = step, now
    if self._line:
      self._line.update(step, note=self._describe(now))

  def update(self, step: int, note: str = '') -> None:
    """Shows progress where there is a new line of metrics, perhaps of an earlier step.

    Args:
      note: text next to it, such as a loss.
    """
    self._note = note
    due = self._last - self._last_line >= _SECONDS_BETWEEN_LINES
    if not self._line and not self._quiet and (due or step >= self._total):
      self._last_line = self._last
      described = self._describe(self._last)
      if _whole and (left := _whole.time_left()):
        described += f' ({_whole.describe()}, {left})'
      print(f'{self.name}: step {step} of {self._total}, {described}', flush=True)

  def _describe(self, now):
    done = max(self._step - self._start, 1)
    rate = done / max(now - self._began, 1e-9)
    left = format_seconds((self._total - self._step) / rate)
    return ', '.join(filter(None, (f'{rate:.1f} steps/s', f'{left} left', self._note)))


@dataclasses.dataclass(frozen=True)
class _Line:
  """A line of the display."""

  task: int

  def update(self, completed, *, note='', name=None):
    fields = {'description': name} if name else {}
    _display.update(self.task, completed=completed, note=note, **fields)


@contextlib.contextmanager
def _line(name, *, total=None, quiet=False):
  """Shows a line for as long as it lasts; yields a `_Line`, or None off a terminal."""
  global _display
  console = None if _display else _make_console()
  if quiet or (console and not console.is_terminal):
    yield None
    return
  if console:
    _display = _make_display(console)
    _display.start()
  task = _display.add_task(name, total=total, note='')
  try:
    yield _Line(task)
  finally:
    _display.remove_task(task)
    if console:
      _display.stop()
      _display = None


class _Note(rich.progress.ProgressColumn):
  """What is next to a bar; it alone gives way where the terminal is narrow."""

  def render(self, task):
    return rich.text.Text(task.fields['note'], no_wrap=True, overflow='ellipsis')


def _make_console():
  return rich.console.Console(file=sys.stdout, markup=False, highlight=False)


def _make_display(console):
  return rich.progress.Progress(
    rich.progress.SpinnerColumn(finished_text=' '),
    rich.progress.TextColumn('{task.description}', markup=False),
    rich.progress.BarColumn(bar_width=16),
    _Note(rich.table.Column()),
    console=console,
    transient=True,
  )


def format_count(count: int, noun: str) -> str:
  """Formats a number of things as '1 image' or '1,500 images'."""
  return f'{count:,} {noun}{"" if count == 1 else "s"}'


def format_percent(share: float, decimals: int = 0) -> str:
  """Formats a share of 1 as '20 %', or '97.40 %' with two decimals."""
  return f'{100 * share:.{decimals}f} %'


def format_seconds(seconds: float) -> str:
  """Formats seconds as '48 s', '3 min 20 s' or '2 h 05 min'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
