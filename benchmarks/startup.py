"""Seconds from the command to the first step, cold and with programs kept; of imports.

    python -m benchmarks.startup --config=configs/mnist5k.py

Starts `python -m gan_aug_jax run` of the config's classifier on real images with an empty
cache, and again with what it kept, and waits for the line of the first step in
metrics.jsonl. Then imports the package anew, and what it imports, with the seconds of
each package by `python -X importtime`.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import numpy as np

from benchmarks import timing

CONFIG = flags.DEFINE_string('config', 'configs/mnist5k.py', 'Of the run.')
MODULE = flags.DEFINE_string('module', 'gan_aug_jax.experiment', 'To import.')
OVERRIDES = flags.DEFINE_list('overrides', [], 'Further overrides, as a.b=c.')

_FIELDS = ("arms=('real_only',)", 'classifier.num_steps=2', 'log.every_steps=1')


def first_step(cache):
  """Seconds until the first step of a run whose programs are kept in `cache`."""
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory, 'run')
    fields = [f'--config.{field}' for field in (*_FIELDS, *OVERRIDES.value)]
    command = [sys.executable, '-m', 'gan_aug_jax', 'run', f'--config={CONFIG.value}']
    command += [f'--workdir={workdir}', *fields]
    environment = os.environ | {'XDG_CACHE_HOME': cache}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    lines = workdir / 'arms' / 'real_only' / 'metrics.jsonl'
    while not (lines.exists() and lines.stat().st_size):
      if process.poll() is not None:
        sys.exit('The run ended before its first step; what it said stands above.')
      time.sleep(0.005)
    seconds = time.perf_counter() - began
    process.wait()
  return seconds


def import_seconds():
  """Seconds of an import in a new process, and of the packages in it, largest first."""
  command = [sys.executable, '-X', 'importtime', '-c', f'import {MODULE.value}']
  began = time.perf_counter()
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  seconds, by_package = time.perf_counter() - began, collections.Counter()
  for line in done.stderr.splitlines():
    own, _, name = line.removeprefix('import time:').split('|')
    if own.strip().isdigit():
      by_package[name.strip().partition('.')[0]] += int(own) / 1e6
  return seconds, dict(by_package.most_common(12))


def main(_):
  where = timing.describe()
  timing.print_where(where)
  rows = collections.defaultdict(list)
  for _ in range(timing.ROUNDS.value):
    with tempfile.TemporaryDirectory() as cache:
      rows['first step, cold'].append(first_step(cache))
      rows['first step, programs kept'].append(first_step(cache))
    rows[f'import {MODULE.value}'].append(import_seconds()[0])
    rows['import gan_aug_jax'].append(_bare_import())
  table = []
  for name, seconds in rows.items():
    quartiles = np.quantile(seconds, [0.25, 0.75])
    table.append([name, f'{np.median(seconds):.2f} {timing.spread(quartiles, 2)}'])
  timing.print_table(['', 'seconds'], table)
  packages = import_seconds()[1]
  timing.print_table(
    ['package', 'own seconds'], [[k, f'{v:.2f}'] for k, v in packages.items()]
  )
  result = {**where, 'config': CONFIG.value, 'seconds': rows, 'packages': packages}
  timing.finish(result, draw(rows))


def draw(rows):
  """Returns the plot of seconds by what is waited for."""

  def onto(ax):
    ax.barh(list(rows), [float(np.median(row)) for row in rows.values()], color='#56B4E9')
    ax.invert_yaxis()
    ax.set_xlabel('seconds')

  return onto


def _bare_import():
  began = time.perf_counter()
  subprocess.run([sys.executable, '-c', 'import gan_aug_jax'], check=True)
  return time.perf_counter() - began


if __name__ == '__main__':
  app.run(main)
