"""Timing of alternatives: interleaved in one process, without compilation.

A machine's speed drifts by tens of per cent within minutes. So alternatives are compared
within a round, and the medians of ratios and differences are reported, with quartiles.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any

from absl import flags
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.errors import UserError
from gan_aug_jax.training import devices, files

JSON = flags.DEFINE_string('json', '', 'JSON file for the results.')
PLOT = flags.DEFINE_string('plot', '', 'PNG file for the plot.')
ROUNDS = flags.DEFINE_integer('rounds', 10, 'Number of timed rounds.')


def start(config, num_devices: int | None = None) -> tuple[Any, dict[str, Any]]:
  """Starts JAX as a config says, without cached programs, and prints where.

  Args:
    config: of the benchmark; one that cannot run here ends it with a sentence.
    num_devices: how many of the devices to use; None for all.

  Returns:
    The `Layout`, and what `describe` says of it.
  """
  try:
    validation.validate(config)
    found = devices.start(config)
  except UserError as error:
    sys.exit(str(error))
  import jax

  from gan_aug_jax.step import sharding

  # Compilation is timed, and the environment may name a cache, too.
  jax.config.update('jax_enable_compilation_cache', False)
  layout = sharding.make_layout(config.backend, found[:num_devices])
  where = describe(layout)
  print_where(where)
  return layout, where


def check_defaults(config, fields: Iterable[str], why: str) -> None:
  """Ends the benchmark with a sentence if one of these fields is not at its default.

  Args:
    fields: their dotted names.
    why: completes the sentence "FIELD=VALUE ...".
  """
  values = config_lib.flatten(config)
  defaults = config_lib.flatten(config_lib.default())
  for name in fields:
    if values[name] != defaults[name]:
      sys.exit(f'{name}={values[name]!r} {why}; leave it at {defaults[name]!r}.')


def environment_with_cache(directory: pathlib.Path | str) -> dict[str, str]:
  """The environment of a process that keeps its compiled programs in a directory."""
  environment = os.environ | {'XDG_CACHE_HOME': str(directory)}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # it would be used instead
  return environment


def interleave(
  takes: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 2
) -> dict[str, np.ndarray]:
  """Calls functions in turn; each round starts with another one.

  Args:
    takes: {name: function}, each returning seconds per step.
    rounds: number of rounds.
    warm: number of rounds before these that do not count.

  Returns:
    {name: float64 [rounds]}, seconds per step.
  """
  seconds = {name: np.zeros(rounds) for name in takes}
  names = list(takes)
  for number in range(-warm, rounds):
    first = number % len(names)
    for name in names[first:] + names[:first]:
      elapsed = takes[name]()
      if number >= 0:
        seconds[name][number] = elapsed
  return seconds


def repeat(take: Callable[[], Any], steps: int) -> Callable[[], float]:
  """Makes a function that times several steps.

  Args:
    take: takes a step, and returns arrays to wait for.
    steps: number of steps to time.

  Returns:
    A function without arguments that returns the mean seconds per step.
  """
  import jax

  def run():
    began = time.perf_counter()
    for _ in range(steps):
      last = take()
    jax.block_until_ready(last)
    return (time.perf_counter() - began) / steps

  return run


@dataclasses.dataclass(frozen=True)
class Calls:
  """The calls of a `DryRun`, compiled.

  Attributes:
    take: makes the next call; returns its metrics.
    steps_per_call: how many steps a call takes.
    compile_seconds: what its compilation took.
    program: the `Program`.
  """

  take: Callable[[], Any]
  steps_per_call: int
  compile_seconds: float
  program: Any

  def run(self, steps: int) -> Callable[[], float]:
    """Returns a function that times at least so many steps: seconds per step."""
    seconds = repeat(self.take, -(-steps // self.steps_per_call))
    return lambda: seconds() / self.steps_per_call


def compile_calls(dry) -> Calls:
  """Compiles a `DryRun`; its state is used up by the calls."""
  began = time.perf_counter()
  program = dry.compile()
  compile_seconds = time.perf_counter() - began
  state, number = dry.state, 0

  def take():
    nonlocal state, number
    state, metrics = program(state, *dry.inputs(number))
    number += 1
    return metrics

  return Calls(take, dry.steps_per_call, compile_seconds, program)


def compare(seconds: Mapping[str, np.ndarray], base: str) -> dict[str, dict]:
  """Compares times with those of a baseline in the same rounds.

  Args:
    seconds: from `interleave`.
    base: name of the baseline.

  Returns:
    {name: {'ms', 'quartiles', 'ratio', 'ratio_quartiles', 'added_ms',
    'added_quartiles'}}: medians, and pairs of quartiles.
  """
  quartiles = lambda values: np.quantile(values, [0.25, 0.75]).tolist()
  rows = {}
  for name, times in seconds.items():
    ratio, added = times / seconds[base], 1e3 * (times - seconds[base])
    rows[name] = {
      'ms': float(np.median(1e3 * times)),
      'quartiles': quartiles(1e3 * times),
      'ratio': float(np.median(ratio)),
      'ratio_quartiles': quartiles(ratio),
      'added_ms': float(np.median(added)),
      'added_quartiles': quartiles(added),
    }
  return rows


def spread(low_high: Sequence[float], digits: int = 1) -> str:
  """'(1.2 to 3.4)' of two numbers."""
  low, high = low_high
  return f'({low:.{digits}f} to {high:.{digits}f})'


def _unit(row):
  """(factor, name, digits): microseconds where milliseconds are too coarse."""
  return (1e3, 'µs', 0) if row['ms'] < 2 else (1, 'ms', 1)


def per_step(row: Mapping[str, Any]) -> str:
  """'12.3 ms (11.9 to 12.8)' or '338 µs (330 to 345)' of a row of `compare`."""
  factor, unit, digits = _unit(row)
  quartiles = spread([factor * ms for ms in row['quartiles']], digits)
  return f'{factor * row["ms"]:.{digits}f} {unit} {quartiles}'


def added(row: Mapping[str, Any]) -> str:
  """'+1.2 ms, +10.3 %' of a row of `compare`."""
  factor, unit, digits = _unit(row)
  percent = 100 * row['ratio'] - 100
  return f'{factor * row["added_ms"]:+.{digits}f} {unit}, {percent:+.1f} %'


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  """The lines of a Markdown table of rows of strings."""
  rows = list(rows)
  widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
  line = lambda cells: (
    '| ' + ' | '.join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True)) + ' |'
  )
  rule = '|' + '|'.join('-' * (n + 2) for n in widths) + '|'
  return [line(headings), rule, *map(line, rows)]


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  """Prints rows of strings as a Markdown table."""
  print('\n'.join(table_lines(headings, rows)) + '\n', flush=True)


def describe(layout=None) -> dict[str, Any]:
  """Returns {'date', 'device', 'cores', 'versions'}, with the device of the layout."""
  from gan_aug_jax.training import workdir

  return {
    'date': datetime.date.today().isoformat(),
    'device': workdir.describe_devices(layout) if layout else platform.machine(),
    'cores': len(os.sched_getaffinity(0)),
    'versions': workdir.versions(),
  }


def where_line(where: Mapping[str, Any]) -> str:
  """What `describe` returned, on one line."""
  versions = where['versions']
  return (
    f'{where["date"]}, {where["device"]}, {where["cores"]} cores, jax {versions["jax"]}, '
    f'commit {versions.get("commit", "unknown")}'
  )


def print_where(where: Mapping[str, Any]) -> None:
  """Prints the line of `where_line`."""
  print(where_line(where) + '\n')


def draw_bars(rows: Mapping[str, Mapping]) -> Callable[[Any], None]:
  """Returns a function that plots the rows as bars in milliseconds, with quartiles."""

  def onto(ax):
    times = np.array([row['ms'] for row in rows.values()])
    low_high = np.array([row['quartiles'] for row in rows.values()]).T
    ax.barh(list(rows), times, xerr=np.abs(low_high - times), color='#56B4E9')
    ax.invert_yaxis()
    ax.set_xlabel('ms per step')
    ax.figure.set_figheight(1 + 0.28 * len(rows))

  return onto


def finish(result: Mapping[str, Any], draw: Callable[[Any], None] | None = None) -> None:
  """Writes the files that the flags name.

  Args:
    result: content of the JSON file.
    draw: draws the plot onto matplotlib `Axes`.
  """
  if JSON.value:
    files.write_atomically(JSON.value, json.dumps(result, indent=1) + '\n')
  if PLOT.value and draw:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout='constrained')
    draw(figure.subplots())
    pathlib.Path(PLOT.value).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT.value, dpi=110)
