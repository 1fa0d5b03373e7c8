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

from gan_aug_jax.config import validation
from gan_aug_jax.training import devices

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


def measure(name, dry, steps):
  """Takes steps; returns rows of (step, resident MiB, live MiB, seconds)."""
  import jax

  program, state = dry.compile(), dry.state
  rows, began = [], time.perf_counter()
  every = max(1, steps // 10)
  for step in range(1, steps + 1):
    state, metrics = program(state, *dry.inputs(step - 1))
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
  from gan_aug_jax.experiment import dry_run, runs
  from gan_aug_jax.step import sharding
  from gan_aug_jax.training import workdir

  layout = sharding.make_layout(config.backend, found)
  session = workdir.Session(config, pathlib.Path('unused'), layout, quiet=True)
  dataset = runs.load_data(config)
  print(f'{dataset.name} on {workdir.describe_devices(layout)}')
  results = {}

  gan = dry_run.gan_step(session, dataset)
  results['gan'] = measure('GAN', gan, STEPS.value)
  fused = dry_run.arm_step(session, dataset, 'augmented_classical', num_steps=STEPS.value)
  results['fused'] = measure('fused', fused, STEPS.value)
  print(json.dumps(results))


if __name__ == '__main__':
  app.run(main)
