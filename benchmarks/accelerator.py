"""Everything to measure on a fresh GPU or TPU host, in one command.

    python -m benchmarks.accelerator --minutes=9 --out=DIR [--data=cifar10.npz]

It needs no network: images are random, unless `--data` names a file for `data.name=npz`.
Parts run in order of importance, each in a separate process with its own time limit;
what a part leaves of its time goes to the others. Results are written to DIR as they
arrive, so that a lost host, or a part that hangs, costs only what is unfinished:
DIR/results.json and DIR/table.md, and of each part its output. The table is printed last.

  startup   seconds to import, to compile and to the first steps; then with a full cache
  step      the fused step by ratio, batches composed ahead and in each step; at a larger
            batch; the GAN's; by steps per call; by precision; with one flat update
  torch     benchmarks.vs_torch without torch.compile, if PyTorch is installed
  tests     pytest -m accelerator, if pytest is installed
  options   the fused step under options of XLA
  profile   where its time goes, kernel by kernel
  ablation  with --data: configs/evidence/proportion.py, ratios 0.2 and 0.5 with and
            without classical augmentation and their controls, seed by seed, with a GAN
            of 20,000 steps (--ablation=--config.generator.num_steps=0: 200 epochs)

`--parts` names some of them. On a CPU all of it is a rehearsal: set small sizes.
"""

import collections
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

# The most of the time that a part may take; the last one takes what is left.
_SHARES = {
  'startup': 0.15,
  'step': 0.3,
  'torch': 0.35,
  'tests': 0.2,
  'options': 0.15,
  'profile': 0.1,
  'ablation': 1.0,
}

MINUTES = flags.DEFINE_float('minutes', 9.0, 'Time for all of it.')
OUT = flags.DEFINE_string('out', None, 'Directory for the results.')
DATA = flags.DEFINE_string('data', '', 'An .npz file of images, for the ablation.')
PARTS = flags.DEFINE_list('parts', list(_SHARES), 'Which parts to run.')
ABLATION = flags.DEFINE_multi_string('ablation', [], 'A further flag of the ablation.')


@dataclasses.dataclass(frozen=True)
class Part:
  """A part to run.

  Attributes:
    name: a key of `_SHARES`.
    out: directory for its files.
    commands: command lines to run one after the other; number i may write `output(i)`.
    lacks: what is missing for it here; '' for nothing.
  """

  name: str
  out: pathlib.Path
  commands: list[list[str]]
  lacks: str = ''

  def output(self, number: int = 0) -> pathlib.Path:
    return self.out / f'{self.name}{number or ""}.json'

  def run(self, limit: float) -> dict:
    """Runs it for at most so many seconds; returns its results, also if unfinished."""
    log, began = self.out / f'{self.name}.log', time.perf_counter()
    entry = {'limit_s': limit, 'why': '', 'results': []}
    with open(log, 'w') as file:
      for number, command in enumerate(self.commands):
        output = self.output(number)
        output.unlink(missing_ok=True)
        left = limit - (time.perf_counter() - began)
        entry['why'] = self._run(command, file, left) if left > 0 else 'no time was left'
        if output.exists():
          entry['results'].append(json.loads(output.read_text()))
        if entry['why']:
          break
    entry['said'] = log.read_text(errors='replace').splitlines()[-30:]
    return entry | {'seconds': time.perf_counter() - began}

  def _run(self, command, log, limit):
    """Runs a command; returns '' or what went wrong."""
    places = os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')])
    environment = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ}
    environment |= {'PYTHONPATH': places, 'XDG_CACHE_HOME': str(self.out / 'cache')}
    process = subprocess.Popen(
      command, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
      code = process.wait(limit)
      return f'exit code {code}' if code else ''
    except subprocess.TimeoutExpired:
      return f'stopped after {limit:.0f} s'
    finally:
      _stop(process)


def _stop(process):
  """Ends a process and those that it started; a training saves its state first."""
  for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(patience)


def list_parts(out: pathlib.Path) -> list[Part]:
  """The parts that `--parts` names, in order.

  Args:
    out: directory for their files.
  """
  python, ratios = [sys.executable, '-m'], ','.join(parts_lib.RATIOS.value)
  lacks = lambda name: '' if importlib.util.find_spec(name) else f'{name} is missing'
  base = [x for x in sys.argv[1:] if x.startswith(('--config.', '--config='))]
  base += [f'--{name}={flags.FLAGS[name].value}' for name in ('rounds', 'steps')]
  base += [f'--ratios={ratios}']
  more = [f'--{name}={flags.FLAGS[name].value}' for name in ('large', 'side')]
  more += [f'--calls={",".join(parts_lib.CALLS.value)}', f'--trace={out / "profile"}']

  def own(name, number=0):
    command = [*python, 'benchmarks.accelerator_parts', *base, *more, f'--part={name}']
    return [*command, f'--json={Part(name, out, []).output(number)}']

  of_torch = [*python, 'benchmarks.vs_torch', *base, f'--json={out / "torch.json"}']
  # Eager steps take milliseconds, and compiling them would take all of the time.
  of_torch += [f'--steps={min(50, parts_lib.STEPS.value)}']
  of_torch += [f'--rounds={min(5, timing.ROUNDS.value)}']
  of_torch += ['--precisions=float32,bfloat16', '--nocompile']
  of_torch += [
    f'--batches={parts_lib.CONFIG.value.classifier.batch_size},{parts_lib.LARGE.value}'
  ]
  # With options of their own, as pytest's plugins may be missing.
  tests = [*python, 'pytest', '-o', 'addopts=', '-p', 'no:cacheprovider', '-q', '-rfEs']
  tests += ['-m', 'accelerator', 'tests/test_accelerator.py']
  ablation = [*python, 'gan_aug_jax', 'ablate', f'--workdir={out / "ablation"}']
  ablation += [f'--config=configs/evidence/proportion.py:cifar10,{ratios}']
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
    Part(name, out, commands[name], missing.get(name, ''))
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
  """Runs the parts, and writes OUT/results.json and OUT/table.md after each.

  Args:
    parts: what to run, in order.
    out: directory for the results.
    seconds: for all of them.

  Returns:
    {part: what came of it}.
  """
  began, done = time.perf_counter(), {}
  for part in parts:
    left = seconds - (time.perf_counter() - began)
    limit = left if part is parts[-1] else min(left, seconds * _SHARES[part.name])
    why = part.lacks or ('' if left > 0 else 'no time was left')
    print(f'{part.name}: {why or f"up to {limit:.0f} s"}', flush=True)
    done[part.name] = {'why': why, 'results': []} if why else part.run(limit)
    if part.name == 'ablation' and not why:
      done[part.name]['results'] = [read_ablation(out / 'ablation')]
    content = json.dumps({'command': sys.argv, 'parts': done}, indent=1)
    (out / 'results.json').write_text(content + '\n')
    (out / 'table.md').write_text('\n'.join(describe(done)) + '\n')
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
  return [timing.where_line(results[0]), '', *timing.table_lines(headings, rows.values())]


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
  cells = [
    [f'`{name}`', f'{row["us"]:.1f}', f'{row["count"]:.1f}']
    for name, row in result['kernels'].items()
  ]
  total = f'{result["us"]:.0f} µs in kernels per step; trace: {result["trace"]}'
  return [total, '', *timing.table_lines(['kernel', 'µs per step', 'times'], cells), '']


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
  out.mkdir(parents=True, exist_ok=True)
  if 'startup' in PARTS.value:  # which measures what an empty cache costs
    shutil.rmtree(out / 'cache', ignore_errors=True)
  done = run_all(list_parts(out), out, 60 * MINUTES.value)
  print('\n'.join(['', *describe(done)]))


if __name__ == '__main__':
  flags.mark_flag_as_required('out')
  app.run(main)
