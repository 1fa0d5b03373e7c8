"""How time and memory of the fused step scale, and what more devices bring.

    python -m benchmarks.scaling --config=configs/cifar10.py

Measures step time and memory for a range of batch sizes, ratios, image sizes, steps per
call, dataset sizes, ratio schedules and data placements, each group interleaved in one
process, and fits a line where the cost should be linear. Then weak scaling: the same
batch per device on 1, 2 and 4 devices, each number of devices in a fresh process. On a
CPU the devices are virtual and share its cores, so n of them are compared with n times
the work on one. Last, an estimate for a pod: the bytes that a step all-reduces (from the
compiled program) and the operations per device, at the rates given by --chip_tflops and
--link_gbytes. Images are random and networks untrained.
"""

import json
import os
import re
import subprocess
import sys

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import timing
from gan_aug_jax.config import validation

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
BATCHES = flags.DEFINE_list('batches', ['32', '64', '128', '256', '512'], 'Batch sizes.')
RATIOS = flags.DEFINE_list('ratios', ['0', '0.25', '0.5', '0.75', '1'], 'Ratios.')
SIDES = flags.DEFINE_list('sides', ['16', '32', '64'], 'Sides of images, in pixels.')
SIZES = flags.DEFINE_list('sizes', ['1000', '10000', '50000'], 'Sizes of the dataset.')
CALLS = flags.DEFINE_list('calls', ['1', '4'], 'Steps per call.')
DEVICES = flags.DEFINE_list('devices', ['1', '2', '4'], 'Numbers of devices.')
SHARE = flags.DEFINE_integer('share', 64, 'Batch per device in weak scaling.')
CHIP = flags.DEFINE_float(
  'chip_tflops', 100.0, 'Rate of a chip of the pod, at the precision used.'
)
LINK = flags.DEFINE_float('link_gbytes', 100.0, "Rate of a chip's links, GB/s.")
WEAK = flags.DEFINE_integer('weak', 0, 'Internal: number of devices of a fresh process.')

_STEPS = 2  # of a run
_SIZES = {'f32': 4, 'f64': 8, 's32': 4, 'u32': 4, 'bf16': 2, 'pred': 1}


def measure(cases, layout, steps=_STEPS):
  """Times cases; returns a row for each.

  Args:
    cases: {name: (config fields, options of `dry_run.on_noise`)}.
    layout: where they run.
    steps: number of steps in a run.
  """
  from benchmarks import dry_run

  takes, rows = {}, {}
  for name, (fields, options) in cases.items():
    config = CONFIG.value.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    validation.validate(config)
    inputs = dry_run.on_noise(config, layout, **options)
    dry = dry_run.arm_step(*inputs, 'augmented_classical', at=5_000)
    calls = timing.compile_calls(dry)
    takes[name] = calls.run(steps)
    rows[name] = {
      'peak_mib': calls.program.peak_bytes / 2**20,
      'compile_s': calls.compile_seconds,
      'all_reduced_bytes': all_reduced_bytes(calls.program.compiled.as_text()),
      'operations': dry.operations(),
    }
  seconds = timing.interleave(takes, timing.ROUNDS.value)
  base = next(iter(takes))
  for name, row in timing.compare(seconds, base).items():
    rows[name] |= row
  return rows


def several_a_call(count):
  """The fields of a config whose calls take so many steps."""
  return {'steps_per_call': count, 'log.every_steps': count}


def all_reduced_bytes(text):
  """Returns the bytes per device that a compiled program all-reduces."""
  total = 0
  for line in text.splitlines():
    if match := re.search(r'= (.*?) all-reduce(?:-start)?\(', line):
      for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', match[1]):
        sides = [int(side) for side in shape.split(',') if side]
        total += int(np.prod(sides, dtype=np.int64)) * _SIZES.get(kind, 4)
  return total


def fit_line(rows):
  """Fits ms = intercept + slope * x to rows whose names are the numbers x.

  Returns:
    {'intercept', 'slope', 'residuals' (relative to the measured times), 'r2'}.
  """
  x = np.array([float(name) for name in rows])
  y = np.array([row['ms'] for row in rows.values()])
  slope, intercept = np.polyfit(x, y, 1)
  gaps = y - (intercept + slope * x)
  return {
    'intercept': float(intercept),
    'slope': float(slope),
    'residuals': (gaps / y).tolist(),
    'r2': float(1 - np.sum(gaps**2) / np.sum((y - np.mean(y)) ** 2)),
  }


def show(title, rows, line=None):
  table = [
    [
      name,
      timing.per_step(row),
      f'{row["peak_mib"]:.1f}',
      f'{row["operations"] / 1e9:.2f}',
      f'{row["compile_s"]:.1f}',
    ]
    for name, row in rows.items()
  ]
  headings = [title, 'per step', 'MiB per device', 'GFLOP', 'compilation, s']
  timing.print_table(headings, table)
  if line:
    residuals = ', '.join(f'{100 * gap:+.1f} %' for gap in line['residuals'])
    print(
      f'ms = {line["intercept"]:.1f} + {line["slope"]:.4g} x {title}; R2 '
      f'{line["r2"]:.4f}; residuals {residuals}\n',
      flush=True,
    )


def weak_scaling(layout):
  """Times the same batch per device on more and more devices, and all of it on one."""
  import jax

  rows = {}
  for count in map(int, DEVICES.value):
    if layout.on_cpu or count <= jax.device_count():
      row = measure_apart(count)
      whole = {'whole': ({'classifier.batch_size': SHARE.value * count}, {})}
      row['one_device'] = measure(whole, layout)['whole']
      rows[str(count)] = row
  return rows


def measure_apart(count):
  """Returns the row of a number of devices, measured in a fresh process."""
  command = [sys.executable, '-m', 'benchmarks.scaling', *sys.argv[1:]]
  command += [f'--weak={count}', '--json=', '--plot=']
  output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
  return json.loads(output.splitlines()[-1])


def weak_row(count):
  """Measures the row that `measure_apart` returns, in this process."""
  base = CONFIG.value
  if base.platform in ('', 'cpu'):
    base.num_cpu_devices = count
  layout, _ = timing.start(base, count)
  cases = {'weak': ({'classifier.batch_size': SHARE.value * count}, {})}
  return measure(cases, layout)['weak']


def print_weak(rows, virtual):
  first = next(iter(rows.values()))['ms']
  table = []
  for count, row in rows.items():
    ideal = first * int(count) if virtual else first
    row['efficiency'] = ideal / row['ms']
    table.append(
      [
        count,
        timing.per_step(row),
        timing.per_step(row['one_device']),
        f'{row["efficiency"]:.2f}',
        f'{row["all_reduced_bytes"] / 2**20:.2f}',
      ]
    )
  kind = 'n times the work on one' if virtual else 'the time on one'
  headings = ['devices', 'per step', 'whole batch on one device']
  headings += [f'efficiency, relative to {kind}', 'MiB all-reduced per step']
  timing.print_table(headings, table)


def print_pod(rows):
  """A ring all-reduce moves 2 (n - 1) / n of the bytes over each chip's links."""
  with_sums = [row for row in rows.values() if row['all_reduced_bytes']]
  if not with_sums:
    return {}
  row = with_sums[-1]
  share = row['operations'] / max(int(name) for name in rows)
  compute = share / (CHIP.value * 1e12)
  exchange = 2 * row['all_reduced_bytes'] / (LINK.value * 1e9)
  print(
    f'Estimate for a pod, {SHARE.value} images per chip: {share / 1e9:.2f} GFLOP take '
    f'{1e6 * compute:.0f} us at {CHIP.value:.0f} TFLOP/s, and the all-reduce of '
    f'{row["all_reduced_bytes"] / 2**20:.2f} MiB takes {1e6 * exchange:.0f} us at '
    f'{LINK.value:.0f} GB/s: {100 * exchange / (compute + exchange):.0f} % of a step '
    'without overlap. Latency is not included.'
  )
  return {'compute_s': compute, 'exchange_s': exchange}


def main(_):
  # The processes that it starts share a GPU with this one.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if WEAK.value:
    print(json.dumps(weak_row(WEAK.value)), flush=True)
    return
  base = CONFIG.value
  layout, where = timing.start(base, 1)
  groups = {
    'batch': {n: ({'classifier.batch_size': int(n)}, {}) for n in BATCHES.value},
    'ratio': {x: ({'mix.ratio': float(x)}, {}) for x in RATIOS.value},
    'side': {n: ({'data.image_size': int(n)}, {}) for n in SIDES.value},
    'images': {n: ({}, {'per_class': int(n) // 10}) for n in SIZES.value},
    'steps a call': {n: (several_a_call(int(n)), {}) for n in CALLS.value},
    'schedule': {
      name: ({'mix.ratio_schedule': name}, {})
      for name in ('constant', 'linear', 'cosine')
    },
    'placement': {name: ({'data.placement': name}, {}) for name in ('device', 'host')},
  }
  config = json.loads(base.to_json_best_effort())
  results = {**where, 'config': config}
  for title, cases in groups.items():
    # Long runs: otherwise data would be read ahead during the turns of the others.
    rows = measure(cases, layout, 12 if title == 'placement' else _STEPS)
    line = fit_line(rows) if title in ('batch', 'ratio') else None
    show(title, rows, line)
    results[title] = {'rows': rows, 'line': line}
    timing.finish(results)  # what follows may fail
  weak = weak_scaling(layout)
  print_weak(weak, layout.on_cpu)
  results |= {'weak scaling': {'rows': weak}, 'pod': print_pod(weak)}
  timing.finish(results, draw(results))


def draw(results):
  """Returns a function that plots step time against batch size, with the fitted line."""

  def onto(ax):
    group = results['batch']
    x = [float(name) for name in group['rows']]
    ax.plot(x, [row['ms'] for row in group['rows'].values()], 'o', label='measured')
    line = group['line']
    ax.plot(x, [line['intercept'] + line['slope'] * at for at in x], label='line')
    ax.set_xlabel('batch')
    ax.set_ylabel('ms per step')
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend()

  return onto


if __name__ == '__main__':
  app.run(main)
