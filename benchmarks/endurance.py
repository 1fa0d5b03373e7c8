"""Does memory stay flat, and does nothing deadlock, over thousands of steps?

    python -m benchmarks.endurance --config=configs/mnist5k.py --config.num_cpu_devices=4

Takes `--steps` GAN steps and as many fused classifier steps of the config's sizes, and
prints the process's resident memory and the bytes of live arrays on the way. A rise that
goes on, or a run that does not end, is a failure.
"""

import json
import pathlib
import resource
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from benchmarks import untrained
from gan_aug_jax import devices, validation

CONFIG = config_flags.DEFINE_config_file('config', 'configs/mnist5k.py')
STEPS = flags.DEFINE_integer('steps', 2000, 'Steps of each training.')


def resident_bytes():
  """Memory of this process now; its peak where /proc is missing."""
  try:
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1]) * resource.getpagesize()
  except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == 'darwin' else 1024)


def measure(name, program, state, feed, count, steps):
  """Takes steps; returns rows of (step, resident MiB, live MiB, seconds)."""
  import jax

  rows, began = [], time.perf_counter()
  every = max(1, steps // 10)
  for step in range(1, steps + 1):
    state, metrics = program(state, *feed((step - 1) * count, count))
    if step % every == 0:
      jax.block_until_ready(metrics)
      live = sum(array.nbytes for array in jax.live_arrays())
      seconds = time.perf_counter() - began
      rows.append((step, resident_bytes() / 2**20, live / 2**20, seconds))
      print(
        f'{name} step {step}: resident {rows[-1][1]:.0f} MiB, arrays {rows[-1][2]:.1f} '
        f'MiB, {1e3 * seconds / step:.1f} ms a step',
        flush=True,
      )
  return rows


def main(_):
  config = CONFIG.value
  validation.validate(config)
  found = devices.start(config)
  from gan_aug_jax import (
    arms,
    experiment,
    fitting,
    gan_training,
    policies,
    sharding,
    workdir,
  )

  layout = sharding.make_layout(config.backend, found)
  session = workdir.Session(config, pathlib.Path('unused'), layout, quiet=True)
  dataset = experiment.load_data(config)
  print(f'{dataset.name} on {workdir.describe_devices(layout)}')
  results = {}

  step, state = gan_training.make_step(session, dataset)
  feed, count = fitting.make_feed(session, dataset), config.gan.batch_size
  placed = layout.place(state)
  program = sharding.compile_step(step, layout, placed, *feed(0, count))
  results['gan'] = measure('GAN', program, placed, feed, count, STEPS.value)

  generator = untrained.frozen_generator(session, dataset)
  source = policies.prepare(session, dataset, generator)
  model, _ = arms.make_evaluator(session, dataset.num_classes)
  plan, step, state = arms.make_step(
    session, dataset, 'augmented_classical', source, model, STEPS.value
  )
  feed = fitting.make_feed(session, dataset, source.frozen)
  state, count = layout.place(state), plan.num_real
  program = sharding.compile_step(step, layout, state, *feed(0, count))
  results['fused'] = measure('fused', program, state, feed, count, STEPS.value)
  print(json.dumps(results))


if __name__ == '__main__':
  app.run(main)
