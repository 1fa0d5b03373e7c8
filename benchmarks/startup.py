"""How long a run takes to start and to finish, and what it compiles.

    python -m benchmarks.startup --config=configs/mnist5k.py \\
        --overrides=generator.num_steps=20,classifier.num_steps=20

Runs the config twice, each in a fresh process: first with an empty compilation cache,
then with the cache of the first run. Prints the seconds to the first step and to the
report, and how often and how long each program was compiled. Then measures the import of
the package, and of each package that it imports, by `python -X importtime`.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import numpy as np

from benchmarks import timing

CONFIG = flags.DEFINE_string('config', 'configs/mnist5k.py', 'Config of the run.')
OVERRIDES = flags.DEFINE_list('overrides', [], 'Config fields to change, as a.b=c.')
MODULE = flags.DEFINE_string('module', 'gan_aug_jax.experiment.runs', 'Module to import.')

_KINDS = ('first run', 'second run')

# Runs the command line in its arguments, and writes a list of what was compiled.
_CHILD = """
import json, sys
import jax

compiled = []

def listen(event, seconds, fun_name='', **_):
  if event == '/jax/core/compile/backend_compile_duration':
    compiled.append((fun_name, seconds))

jax.monitoring.register_event_duration_secs_listener(listen)
from gan_aug_jax import cli

code = cli.main(sys.argv[1:])
with open(sys.argv[0] + '.json', 'w') as file:
  json.dump(compiled, file)
sys.exit(code)
"""


def run(cache):
  """Runs the config once.

  Args:
    cache: directory of the compilation cache.

  Returns:
    {'first_step_s', 'report_s', 'programs'}: seconds from the start of the process, and
    {name: [compilations, seconds]}, longest first. Programs read from the cache count as
    compilations, with the time it takes to read them.
  """
  with tempfile.TemporaryDirectory() as directory:
    script, workdir = pathlib.Path(directory, 'run.py'), pathlib.Path(directory, 'run')
    script.write_text(_CHILD)
    fields = [
      f'--config.{field}'
      for field in ('log.every_steps=1', 'log.eval_every_steps=50', *OVERRIDES.value)
    ]
    command = [sys.executable, str(script), 'gan_aug_jax', 'run', *fields]
    command += [f'--config={CONFIG.value}', f'--workdir={workdir}']
    path = os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')])
    environment = timing.environment_with_cache(cache) | {'PYTHONPATH': path}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    seconds, first_step = lambda: time.perf_counter() - began, None
    while process.poll() is None:
      names = ('generator/metrics.jsonl', 'arms/*/metrics.jsonl')
      lines = [path for name in names for path in workdir.glob(name)]
      if first_step is None and any(path.stat().st_size for path in lines):
        first_step = seconds()
      time.sleep(0.005)
    if process.returncode:
      sys.exit('The run failed; see its output above.')
    compiled = json.loads(pathlib.Path(f'{script}.json').read_text())
    return {
      'first_step_s': first_step,
      'report_s': seconds(),
      'programs': _by_program(compiled),
    }


def _by_program(compiled):
  counts, seconds = collections.Counter(), collections.Counter()
  for name, elapsed in compiled:
    counts[name] += 1
    seconds[name] += elapsed
  return {name: [counts[name], total] for name, total in seconds.most_common()}


def import_seconds():
  """Returns the seconds of an import in a fresh process."""
  began = time.perf_counter()
  subprocess.run([sys.executable, '-c', f'import {MODULE.value}'], check=True)
  return time.perf_counter() - began


def import_seconds_by_package():
  """Returns {package: own seconds}, of an import that is slower because it is traced."""
  command = [sys.executable, '-X', 'importtime', '-c', f'import {MODULE.value}']
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  by_package = collections.Counter()
  for line in done.stderr.splitlines():
    own, _, name = line.removeprefix('import time:').split('|')
    if own.strip().isdigit():
      by_package[name.strip().partition('.')[0]] += int(own) / 1e6
  return dict(by_package.most_common(12))


def main(_):
  where = timing.describe()
  timing.print_where(where)
  runs = {kind: [] for kind in _KINDS}
  imports = []
  for _ in range(timing.ROUNDS.value):
    with tempfile.TemporaryDirectory() as cache:
      for kind in _KINDS:
        runs[kind].append(run(cache))
    imports.append(import_seconds())
  _print_runs(runs)
  _print_programs({kind: rounds[-1]['programs'] for kind, rounds in runs.items()})
  packages = import_seconds_by_package()
  timing.print_table(
    ['package', 'own seconds'], [[k, f'{v:.2f}'] for k, v in packages.items()]
  )
  result = {**where, 'config': CONFIG.value, 'overrides': OVERRIDES.value, 'runs': runs}
  timing.finish({**result, 'imports': imports, 'packages': packages}, draw(runs))


def _median(values):
  quartiles = np.quantile(values, [0.25, 0.75])
  return f'{np.median(values):.1f} {timing.spread(quartiles, 1)}'


def _print_runs(runs):
  table = []
  for kind, rounds in runs.items():
    counts = [sum(n for n, _ in one['programs'].values()) for one in rounds]
    compiling = [sum(s for _, s in one['programs'].values()) for one in rounds]
    times = [
      _median([one[name] for one in rounds]) for name in ('first_step_s', 'report_s')
    ]
    table.append([kind, *times, str(counts[-1]), _median(compiling)])
  headings = ['', 's to the first step', 's to the report', 'compilations', 's in XLA']
  timing.print_table(headings, table)


def _print_programs(programs, most=20):
  first, second = (programs[kind] for kind in _KINDS)
  table = []
  for name, (count, seconds) in list(first.items())[:most]:
    again = second.get(name, [0, 0.0])
    table.append(
      [name, f'{count} x', f'{seconds:.2f}', f'{again[0]} x', f'{again[1]:.2f}']
    )
  headings = ['program', 'first run', 's', 'second run', 's']
  timing.print_table(headings, table)


def draw(runs):
  """Returns a function that plots the seconds to the first step and to the report."""

  def onto(ax):
    for name, color in (('report_s', '#56B4E9'), ('first_step_s', '#E69F00')):
      times = [np.median([one[name] for one in rounds]) for rounds in runs.values()]
      label = {'report_s': 'to the report', 'first_step_s': 'to the first step'}[name]
      ax.barh(list(runs), times, color=color, label=label)
    ax.invert_yaxis()
    ax.set_xlabel('seconds')
    ax.legend()

  return onto


if __name__ == '__main__':
  app.run(main)
