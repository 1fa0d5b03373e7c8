"""Does memory stay flat over thousands of steps, and does nothing deadlock?

    python -m benchmarks.endurance --config=configs/mnist5k.py --config.num_cpu_devices=4

Takes `--steps` GAN steps and the same number of fused classifier steps at the config's
sizes, and prints the resident memory of the process and the bytes of live arrays along
the way. Memory that keeps rising, or a run that does not end, is a failure.
"""

import pathlib
import resource
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from benchmarks import timing

CONFIG = config_flags.DEFINE_config_file('config', 'configs/mnist5k.py')
STEPS = flags.DEFINE_integer('steps', 2000, 'Number of steps of each training.')


def resident_bytes():
  """Resident memory of this process; its peak where there is no /proc."""
  try:
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1]) * resource.getpagesize()
  except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == 'darwin' else 1024)


def measure(name, dry, steps):
  """Takes steps; returns rows of (step, resident MiB, live MiB, seconds)."""
  import jax

  calls = timing.compile_calls(dry)
  rows, began, per_call = [], time.perf_counter(), dry.steps_per_call
  every = max(1, steps // (10 * per_call)) * per_call
  for step in range(per_call, steps + 1, per_call):
    metrics = calls.take()
    if step % every == 0:
      jax.block_until_ready(metrics)
      live = sum(array.nbytes for array in jax.live_arrays())
      seconds = time.perf_counter() - began
      rows.append((step, resident_bytes() / 2**20, live / 2**20, seconds))
      print(
        f'{name} step {step}: resident {rows[-1][1]:.0f} MiB, arrays {rows[-1][2]:.1f} '
        f'MiB, {1e3 * seconds / step:.1f} ms per step',
        flush=True,
      )
  return rows


def main(_):
  config = CONFIG.value
  layout, where = timing.start(config)
  from benchmarks import dry_run
  from gan_aug_jax.experiment import runs
  from gan_aug_jax.training import workdir

  session = workdir.Session(config, pathlib.Path('unused'), layout, quiet=True)
  dataset = runs.load_data(config)
  gan = dry_run.generator_step(session, dataset)
  results = where | {'gan': measure('GAN', gan, STEPS.value)}
  fused = dry_run.arm_step(session, dataset, 'augmented_classical', num_steps=STEPS.value)
  timing.finish(results | {'fused': measure('fused', fused, STEPS.value)})


if __name__ == '__main__':
  app.run(main)
