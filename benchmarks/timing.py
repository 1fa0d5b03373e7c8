"""Times what is to be compared: in turn, in one process, and compilation apart.

A machine drifts by tens of per cent over minutes, so what is reported are ratios and
differences of neighbours in time, as medians with quartiles.
"""

import datetime
import json
import os
import pathlib
import platform
import time

from absl import flags
import numpy as np

JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
PLOT = flags.DEFINE_string('plot', '', 'PNG file to draw the figures into.')
ROUNDS = flags.DEFINE_integer('rounds', 10, 'Timed runs of each, in turn.')


def interleave(takes, rounds, *, warm=2):
  """Calls functions in turn.

  Args:
    takes: {name: function}, each returning the seconds of a step.
    rounds: how often.
    warm: rounds before them that do not count.

  Returns:
    {name: float64 [rounds]}, seconds. Each round begins with another of them.
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


def repeat(take, steps):
  """Returns a function that takes steps and gives the mean seconds of one.

  Args:
    take: takes a step, and returns what to wait for.
    steps: how many in a run.
  """
  import jax

  def run():
    began = time.perf_counter()
    for _ in range(steps):
      last = take()
    jax.block_until_ready(last)
    return (time.perf_counter() - began) / steps

  return run


def stepper(dry):
  """Compiles a `DryRun`.

  Returns:
    `(take, seconds of compilation, Program)`; `take()` takes the next step.
  """
  began = time.perf_counter()
  program = dry.compile()
  compile_seconds = time.perf_counter() - began
  state, number = dry.state, 0

  def take():
    nonlocal state, number
    state, metrics = program(state, *dry.inputs(number))
    number += 1
    return metrics

  return take, compile_seconds, program


def compare(seconds, base):
  """Sets times beside those of a base in the same rounds.

  Args:
    seconds: from `interleave`.
    base: name of what the others are compared with.

  Returns:
    {name: {'ms', 'quartiles', 'ratio', 'ratio_quartiles', 'added_ms',
    'added_quartiles'}}; all but the quartiles, pairs, are medians.
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


def spread(low_high, digits=1):
  """'(a to b)'."""
  low, high = low_high
  return f'({low:.{digits}f} to {high:.{digits}f})'


def print_table(headings, rows):
  """Prints rows of strings as a table in Markdown."""
  widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
  line = lambda cells: (
    '| ' + ' | '.join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True)) + ' |'
  )
  print(line(headings))
  print('|' + '|'.join('-' * (n + 2) for n in widths) + '|')
  for row in rows:
    print(line(row))
  print(flush=True)


def describe(layout=None):
  """Where and when: {'date', 'device', 'cores', 'versions'}; the device of a layout."""
  from gan_aug_jax.training import workdir

  return {
    'date': datetime.date.today().isoformat(),
    'device': workdir.describe_devices(layout) if layout else platform.machine(),
    'cores': len(os.sched_getaffinity(0)),
    'versions': workdir.versions(),
  }


def print_where(where):
  versions = where['versions']
  print(
    f'{where["date"]}, {where["device"]}, {where["cores"]} cores, jax {versions["jax"]}, '
    f'commit {versions.get("commit", "unknown")}\n'
  )


def draw_bars(rows):
  """Returns the plot of rows' milliseconds with quartiles, one bar each."""

  def onto(ax):
    times = np.array([row['ms'] for row in rows.values()])
    low_high = np.array([row['quartiles'] for row in rows.values()]).T
    ax.barh(list(rows), times, xerr=np.abs(low_high - times), color='#56B4E9')
    ax.invert_yaxis()
    ax.set_xlabel('ms a step')
    ax.figure.set_figheight(1 + 0.28 * len(rows))

  return onto


def finish(result, draw=None):
  """Writes what was measured where the flags ask for it.

  Args:
    result: what the JSON file gets.
    draw: `matplotlib Axes -> None`, of the plot.
  """
  if JSON.value:
    pathlib.Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(JSON.value).write_text(json.dumps(result, indent=1) + '\n')
  if PLOT.value and draw:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout='constrained')
    draw(figure.subplots())
    pathlib.Path(PLOT.value).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT.value, dpi=110)
