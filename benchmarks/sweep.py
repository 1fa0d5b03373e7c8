"""Cells per hour of an ablation, by how it is run, and all seeds in one program.

    python -m benchmarks.sweep --config=configs/scarce.py

First, on random images and interleaved in one process: one step of n seeds in turn, and
one step of all n under `vmap`. Then the `ablate` command on a short ablation (two
ratios, `--cell_seeds` seeds, `--cell_steps` steps per training), from an empty
compilation cache: by one worker, by two workers that share the workdir, and with all
seeds in one program. One more row estimates one worker without shared GANs: the measured
time plus that of training a GAN for every cell.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import timing

CONFIG = config_flags.DEFINE_config_file('config', 'configs/scarce.py')
SEEDS = flags.DEFINE_list('seeds', ['1', '2', '5'], 'Numbers of seeds.')
ARMS = flags.DEFINE_list('arms', ['real_classical', 'augmented_classical'], 'To time.')
CHANNELS = flags.DEFINE_integer('channels', 1, 'Of the images.')
ABLATION = flags.DEFINE_string(
  'ablation', 'configs/ablations/ratio.py:0.2,0.5', 'Its config; empty: skip it.'
)
CELL_SEEDS = flags.DEFINE_integer('cell_seeds', 3, 'Seeds of the ablation.')
CELL_STEPS = flags.DEFINE_integer('cell_steps', 200, 'Steps of each training in it.')

_WAYS = {
  'one worker': [[]],
  'two workers': [['--shard=0/2'], ['--shard=1/2']],
  'seeds in one program': [['--config.ablation.vmap_seeds=True']],
}


def prepare(config, layout, arm, count):
  """Returns timed runs of a step of every seed, in turn and under `vmap`."""
  import jax

  from benchmarks import dry_run
  from gan_aug_jax.experiment import vmap_seeds

  runs = []
  for seed in range(count):
    one = config.copy_and_resolve_references()
    one.seed = seed
    inputs = dry_run.on_noise(one, layout, channels=CHANNELS.value)
    runs.append(dry_run.arm_step(*inputs, arm))
  stack = lambda trees: layout.replicate(
    jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))
  )
  training = vmap_seeds.vmap_training([each.training for each in runs])
  frozen = stack([each.training.frozen for each in runs])
  joint = dry_run.DryRun(
    training.with_frozen(*frozen), stack([each.state for each in runs])
  )
  alone = [timing.compile_calls(each).run(1) for each in runs]
  return lambda: sum(run() for run in alone), timing.compile_calls(joint).run(1)


def time_seeds(config, layout):
  """Times seeds in turn and together; returns rows by arm and number of seeds."""
  rows, table = {}, []
  for arm in ARMS.value:
    for count in map(int, SEEDS.value):
      alone, joint = prepare(config, layout, arm, count)
      takes = {'alone': alone, 'together': joint}
      pair = timing.compare(timing.interleave(takes, timing.ROUNDS.value), 'together')
      rows[f'{arm} x {count}'] = pair
      times = [timing.per_step(row) for row in pair.values()]
      table.append([arm, str(count), *times, f'{pair["alone"]["ratio"]:.2f}'])
  headings = ['arm', 'seeds', 'in turn', 'together', 'speed-up']
  timing.print_table(headings, table)
  return rows


def run_ablation(workers):
  """Runs the short ablation in a new workdir.

  Args:
    workers: the extra flags of each worker.

  Returns:
    (seconds, number of cells, number of GANs saved by sharing, mean seconds of a GAN).
  """
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory, 'ablation')
    steps = f'num_steps={CELL_STEPS.value}'
    command = [sys.executable, '-m', 'gan_aug_jax', 'ablate']
    command += [f'--config={ABLATION.value}', f'--workdir={workdir}']
    command += [f'--config.generator.{steps}', f'--config.classifier.{steps}']
    command += [f'--config.ablation.seeds={tuple(range(CELL_SEEDS.value))}']
    environment = timing.environment_with_cache(pathlib.Path(directory, 'cache'))
    began = time.perf_counter()
    processes = [
      subprocess.Popen([*command, *extra], env=environment, stdout=subprocess.DEVNULL)
      for extra in workers
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
      sys.exit('The ablation failed; see its output above.')
    seconds = time.perf_counter() - began
    num_cells = len(list(workdir.glob('cells/*/results.json')))
    paths = workdir.glob('generators/*/generator/result.json')
    trained = [json.loads(path.read_text()) for path in paths]
    spent = [one['train_seconds'] + one['compile_seconds'] for one in trained]
    drawing = len(list(workdir.glob('cells/*/arms/augmented*/result.json')))
  return seconds, num_cells, drawing - len(trained), float(np.mean(spent))


def time_cells():
  """Times each way to run the ablation; returns a row for each."""
  rows = {}
  for way, workers in _WAYS.items():
    seconds, num_cells, further, of_gan = run_ablation(workers)
    rows[way] = {'seconds': seconds, 'cells': num_cells}
    if way == 'one worker':
      apart = seconds + further * of_gan
      rows['one worker, no shared GANs (estimated)'] = {
        'seconds': apart,
        'cells': num_cells,
      }
  for row in rows.values():
    row['cells_an_hour'] = 3600 * row['cells'] / row['seconds']
  table = [
    [way, str(row['cells']), f'{row["seconds"]:.0f}', f'{row["cells_an_hour"]:.0f}']
    for way, row in rows.items()
  ]
  timing.print_table(['way', 'cells', 'seconds, run once', 'cells per hour'], table)
  return rows


def main(_):
  # The processes that it starts share a GPU with this one.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  config = CONFIG.value
  layout, where = timing.start(config)
  result = {**where, 'config': json.loads(config.to_json_best_effort())}
  result['seeds'] = time_seeds(config, layout)
  if ABLATION.value:
    result['cells'] = time_cells()
  timing.finish(result, draw(result))


def draw(result):
  """Returns a function that plots cells per hour, or else the step times of seeds."""
  if 'cells' not in result:
    return timing.draw_bars(
      {k: row for k, pair in result['seeds'].items() for row in [pair['together']]}
    )

  def onto(ax):
    rows = result['cells']
    ax.barh(list(rows), [row['cells_an_hour'] for row in rows.values()], color='#56B4E9')
    ax.invert_yaxis()
    ax.set_xlabel('cells per hour')

  return onto


if __name__ == '__main__':
  app.run(main)
