"""Everything to measure on a fresh GPU or TPU host, in one command.

    python -m benchmarks.accelerator --minutes=9 --out=DIR [--data=cifar10.npz]

It needs no network: images are random, unless `--data` names a file for `data.name=npz`.
Parts run in order of importance, each in a separate process with its own time limit;
what a part leaves of its time goes to those after it. Every few seconds what there is by
then is written to DIR/results.json and DIR/table.md, so that a lost host, or a part that
hangs, costs only what is unfinished. The table is printed last. Logs, compiled programs
and the ablation go to `--scratch`.

  startup   seconds to import, to compile and to the first steps; then with a full cache
  step      the fused step by ratio, batches composed ahead and in each step; at a larger
            batch; the GAN's; by steps per call; by precision; with one flat update
  torch     benchmarks.vs_torch without torch.compile, if PyTorch is installed
  tests     pytest -m accelerator, if pytest is installed
  options   both steps under options of XLA
  profile   where the time of both steps goes, kernel by kernel; the traces are kept as
            DIR/step.xplane.pb.gz and DIR/GAN.xplane.pb.gz
  ablation  with --data: configs/evidence/proportion.py, ratios 0.2 and 0.5 with and
            without classical augmentation and their controls, seed by seed, with a GAN
            of 20,000 steps (--ablation=--config.generator.num_steps=0: 200 epochs)

`--parts` names some of them. On a CPU all of it is a rehearsal: set small sizes.
"""

import collections
from collections.abc import Iterator
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from absl import app, flags
import numpy as np

from benchmarks import accelerator_parts as parts_lib, timing
from gan_aug_jax.training import files

# How the time that is left is divided among the parts that are left.
_SHARES = {
  'startup': 2,
  'step': 4,
  'torch': 3,
  'tests': 1.5,
  'options': 1.5,
  'profile': 0.5,
  'ablation': 3,
}
_EVERY = 5  # seconds between two looks at what a part has written

MINUTES = flags.DEFINE_float('minutes', 9.0, 'Time for all of it.')
OUT = flags.DEFINE_string('out', None, 'Directory for the results, four files.')
SCRATCH = flags.DEFINE_string('scratch', '', "For all else; '' for OUT/scratch.")
DATA = flags.DEFINE_string('data', '', 'An .npz file of images, for the ablation.')
PARTS = flags.DEFINE_list('parts', list(_SHARES), 'Which parts to run.')
ABLATION = flags.DEFINE_multi_string('ablation', [], 'A further flag of the ablation.')


@dataclasses.dataclass(frozen=True)
class Part:
  """A part to run.

  Attributes:
    name: a key of `_SHARES`.
    scratch: directory for its files.
    commands: command lines to run one after the other; number i may write `output(i)`.
    lacks: what is missing for it here; '' for nothing.
  """

  name: str
  scratch: pathlib.Path
  commands: list[list[str]]
  lacks: str = ''

  def output(self, number: int = 0) -> pathlib.Path:
    return self.scratch / f'{self.name}{number or ""}.json'

  def results(self) -> list:
    """What it has written by now, one element per command."""
    if self.name == 'ablation':
      return [read_ablation(self.scratch / self.name)]
    paths = map(self.output, range(len(self.commands)))
    return [json.loads(path.read_text()) for path in paths if path.exists()]

  def run(self, limit: float) -> Iterator[dict]:
    """Runs it for at most so many seconds.

    Yields:
      What there is of it, every few seconds and at its end: 'why' it did not end well,
      or '', its 'results', and 'said', the last lines of its output.
    """
    log, began = self.scratch / f'{self.name}.log', time.perf_counter()
    for number in range(len(self.commands)):
      self.output(number).unlink(missing_ok=True)
    with open(log, 'w') as file:
      for command in self.commands:
        process = self._start(command, file)
        try:
          for why in _watch(process, began, limit):
            said = log.read_text(errors='replace').splitlines()[-100:]
            seconds = {'limit_s': limit, 'seconds': time.perf_counter() - began}
            yield seconds | {'why': why, 'results': self.results(), 'said': said}
        finally:
          _stop(process)
        if why:
          break

  def _start(self, command, log):
    places = os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')])
    environment = timing.environment_with_cache(self.scratch / 'cache')
    environment.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    environment['PYTHONPATH'] = places
    return subprocess.Popen(
      command, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def _watch(process, began, limit):
  """Yields why a process did not end well, every few seconds until it ends; '' if it did.

  Args:
    began: when its part did, on `time.perf_counter`.
    limit: seconds of the part.
  """
  while (left := began + limit - time.perf_counter()) > 0:
    try:
      code = process.wait(min(left, _EVERY))
    except subprocess.TimeoutExpired:
      yield 'unfinished'
    else:
      yield f'exit code {code}' if code else ''
      return
  yield f'stopped after {limit:.0f} s'


def _stop(process):
  """Ends a process and those that it started; a training saves its state first."""
  for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(patience)


def list_parts(out: pathlib.Path, scratch: pathlib.Path) -> list[Part]:
  """The parts that `--parts` names, in order.

  Args:
    out: directory for the traces.
    scratch: directory for their other files.
  """
  python, ratios = [sys.executable, '-m'], ','.join(parts_lib.RATIOS.value)
  lacks = lambda name: '' if importlib.util.find_spec(name) else f'{name} is missing'
  fields = [x for x in sys.argv[1:] if x.startswith('--config.')]
  base = fields + [x for x in sys.argv[1:] if x.startswith('--config=')]
  base += [f'--{name}={flags.FLAGS[name].value}' for name in ('rounds', 'steps')]
  base += [f'--ratios={ratios}']
  more = [f'--large={parts_lib.LARGE.value}', f'--traces={out}']
  more += [f'--calls={",".join(parts_lib.CALLS.value)}']

  def own(name, number=0):
    command = [*python, 'benchmarks.accelerator_parts', *base, *more, f'--part={name}']
    return [*command, f'--json={Part(name, scratch, []).output(number)}']

  of_torch = [*python, 'benchmarks.vs_torch', *base, f'--json={scratch / "torch.json"}']
  # Eager steps take milliseconds, and compiling them would take all of the time.
  of_torch += [f'--steps={min(50, parts_lib.STEPS.value)}']
  of_torch += [f'--rounds={min(5, timing.ROUNDS.value)}']
  of_torch += ['--precisions=float32,bfloat16', '--nocompile']
  of_torch += [
    f'--batches={parts_lib.CONFIG.value.classifier.batch_size},{parts_lib.LARGE.value}'
  ]
  # With options of their own, as pytest's plugins may be missing.
  tests = [*python, 'pytest', '-o', 'addopts=', '-p', 'no:cacheprovider', '-v', '-rfEs']
  tests += ['-m', 'accelerator', 'tests/test_accelerator.py']
  ablation = [*python, 'gan_aug_jax', 'ablate', f'--workdir={scratch / "ablation"}']
  ablation += [f'--config=configs/evidence/proportion.py:cifar10,{ratios}', *fields]
  ablation += ['--config.data.name=npz', f'--config.data.data_dir={DATA.value}']
  if not any(flag.startswith('--config.generator.num_') for flag in ABLATION.value):
    ablation += ['--config.generator.num_steps=20000']  # as configs/ablations/full.py
  commands = {
    'startup': [own('startup'), own('startup', 1)],
    'step': [own('step')],
    'torch': [of_torch],
    'tests': [tests],
    'options': [own('options')],
    'profile': [own('profile')],
    'ablation': [ablation + ABLATION.value],
  }
  missing = {'torch': lacks('torch'), 'tests': lacks('pytest')}
  missing['ablation'] = '' if DATA.value else 'no --data'
  return [
    Part(name, scratch, commands[name], missing.get(name, ''))
    for name in _SHARES
    if name in PARTS.value
  ]


def read_ablation(workdir: pathlib.Path) -> dict:
  """{arm: {'accuracy': {seed: of the test images}, 'train_seconds': {seed: seconds}}}.

  Args:
    workdir: of the ablation, finished or not.
  """
  found = collections.defaultdict(lambda: collections.defaultdict(dict))
  for path in sorted(workdir.glob('cells/*/results.json')):
    name, _, seed = path.parent.name.rpartition(',seed=')
    (arm,) = json.loads(path.read_text())['arms'].values()
    found[name]['accuracy'][seed] = arm['eval_accuracy']
    found[name]['train_seconds'][seed] = arm['train_seconds']
  return found


def run_all(parts: list[Part], out: pathlib.Path, seconds: float) -> dict:
  """Runs the parts; every few seconds writes OUT/results.json and OUT/table.md.

  Args:
    parts: what to run, in order.
    out: directory for the results.
    seconds: for all of them.

  Returns:
    {part: its results}, including those of parts that an earlier command ran into OUT.
  """
  began, done, earlier = time.perf_counter(), {}, out / 'results.json'
  if earlier.exists():
    done = json.loads(earlier.read_text())['parts']
  for number, part in enumerate(parts):
    left = seconds - (time.perf_counter() - began)
    shares = sum(_SHARES[other.name] for other in parts[number:] if not other.lacks)
    limit = left * _SHARES[part.name] / max(shares, _SHARES[part.name])
    why = part.lacks or ('' if left > 0 else 'no time was left')
    print(f'{part.name}: {why or f"up to {limit:.0f} s"}', flush=True)
    # Closed wherever this process is ended, and with it the part.
    with contextlib.closing(part.run(limit)) as entries:
      for entry in [{'why': why, 'results': []}] if why else entries:
        done[part.name] = entry
        content = json.dumps({'command': sys.argv, 'parts': done}, indent=1)
        files.write_atomically(out / 'results.json', content + '\n')
        files.write_atomically(out / 'table.md', '\n'.join(describe(done)) + '\n')
  return done


def describe(done: dict) -> list[str]:
  """The lines of the table, in Markdown, of what there is."""
  lines = []
  for name, entry in done.items():
    title = f'## {name}' + (f' ({entry["why"]})' if entry['why'] else '')
    lines += [title, '']
    if name == 'tests' or entry['why'].startswith('exit code'):
      lines += [*entry.get('said', [])[-12:], '']
    if name == 'startup' and entry['results']:
      lines += _of_startup(entry['results'])
    elif name in _TABLES:
      for result in entry['results']:
        lines += _TABLES[name](result)
  return lines


def _of_startup(results):
  rows = {
    name: [name, *(f'{result["seconds"].get(name, np.nan):.1f}' for result in results)]
    for name in results[0]['seconds']
  }
  headings = ['seconds from the start to', 'empty cache', 'full cache'][
    : 1 + len(results)
  ]
  return [
    timing.where_line(results[0]),
    '',
    *timing.table_lines(headings, rows.values()),
    '',
  ]


def _of_groups(result):
  lines = []
  for title, rows in result['groups'].items():
    cells = [
      [name, timing.per_step(row), timing.added(row)] for name, row in rows.items()
    ]
    lines += [*timing.table_lines([title, 'per step', 'added'], cells), '']
  return lines + [f'{name}: {why}' for name, why in result.get('refused', {}).items()]


def _of_torch(result):
  lines = []
  for setting, found in result['settings'].items():
    names = list(found['rows']['ours'])
    cells = [
      [variant, *(timing.per_step(rows[name]) for name in names)]
      for variant, rows in found['rows'].items()
    ]
    best = found['best']
    cells.append(['ours, relative to the best'])
    cells[-1] += [f'{best[name]["ours_to_best"]:.2f}' for name in names]
    lines += [*timing.table_lines([f'batch {setting}', *names], cells), '']
  return lines


def _of_profile(result):
  lines = []
  for title, step in result['steps'].items():
    cells = [
      [f'`{name}`', f'{row["us"]:.1f}', f'{row["count"]:.1f}']
      for name, row in {'all': step, **step['kernels']}.items()
    ]
    headings = [f'kernels of {title}', 'µs per step', 'times per step']
    lines += [*timing.table_lines(headings, cells), '']
  return lines


def _of_ablation(result):
  cells = [
    [
      arm,
      f'{100 * np.mean(list(row["accuracy"].values())):.2f}',
      f'{100 * np.ptp(list(row["accuracy"].values())):.2f}',
      str(len(row['accuracy'])),
      f'{np.mean(list(row["train_seconds"].values())):.1f}',
    ]
    for arm, row in result.items()
  ]
  headings = ['arm', 'test accuracy, %', 'range', 'seeds', 'seconds of training']
  return [*timing.table_lines(headings, cells), '']


_TABLES = {
  'step': _of_groups,
  'torch': _of_torch,
  'options': _of_groups,
  'profile': _of_profile,
  'ablation': _of_ablation,
}


def main(_):
  # Whoever lends the machine may end this process: it then ends the part that runs.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit('Stopped.'))
  out = pathlib.Path(OUT.value).absolute()
  scratch = pathlib.Path(SCRATCH.value or out / 'scratch').absolute()
  for directory in (out, scratch):
    directory.mkdir(parents=True, exist_ok=True)
  if 'startup' in PARTS.value:  # which measures what an empty cache costs
    shutil.rmtree(scratch / 'cache', ignore_errors=True)
  try:
    run_all(list_parts(out, scratch), out, 60 * MINUTES.value)
  finally:
    if (table := out / 'table.md').exists():
      print('\n' + table.read_text(), flush=True)


if __name__ == '__main__':
  flags.mark_flag_as_required('out')
  app.run(main)
