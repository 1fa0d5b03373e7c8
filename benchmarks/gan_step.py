"""What a training step of a GAN costs, by architecture, DiffAugment and upsampling.

    python -m benchmarks.gan_step --variants=mnist500-dcgan,mnist500-sngan \\
        --upsamplings=subpixel,nearest,transposed

Times the whole step of each, interleaved in one process; prints medians, quartiles and
compile times. The variants are those of configs/generators.py.
"""

import json
import pathlib
import time

from absl import app, flags
import numpy as np

from configs import generators as configs
from gan_aug_jax import devices, validation

VARIANTS = flags.DEFINE_list('variants', ['mnist500-dcgan'], 'Of configs/generators.py.')
UPSAMPLINGS = flags.DEFINE_list('upsamplings', ['subpixel'], 'See gan.upsampling.')
WIDTH = flags.DEFINE_integer('width', 0, "Of the networks; 0 for the variant's own.")
ROUNDS = flags.DEFINE_integer('rounds', 40, 'Steps of each that are timed, in turn.')
JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')


def prepare(config, layout):
  """Returns (take, compile seconds): `take()` takes a step and returns its seconds."""
  import jax

  from gan_aug_jax import experiment, rehearsal, workdir

  session = workdir.Session(config, pathlib.Path('.'), layout, quiet=True)
  dataset = experiment.load_data(config)
  rehearsed = rehearsal.rehearse_gan(session, dataset)
  state = rehearsed.state
  began = time.perf_counter()
  program = rehearsed.compile()
  compile_seconds = time.perf_counter() - began

  def take():
    nonlocal state
    began = time.perf_counter()
    state, metrics = program(state, *rehearsed.inputs(0))
    jax.block_until_ready(metrics)
    return time.perf_counter() - began

  return take, compile_seconds


def main(_):
  arms = {}
  for variant in VARIANTS.value:
    for upsampling in UPSAMPLINGS.value:
      config = configs.get_config(variant)
      config.gan.width = WIDTH.value or config.gan.width
      config.gan.upsampling = upsampling
      config.compilation_cache = False
      validation.validate(config, trains_gan=True)
      arms[f'{variant} {upsampling}'] = config
  first = next(iter(arms.values()))
  found = devices.start(first)
  from gan_aug_jax import sharding, workdir

  layout = sharding.make_layout(first.backend, found)
  steps = {name: prepare(config, layout) for name, config in arms.items()}
  seconds = {name: [] for name in steps}
  for number in range(ROUNDS.value + 5):
    for name, (take, _) in steps.items():
      elapsed = take()
      if number >= 5:  # warm by then
        seconds[name].append(elapsed)
  where, table = workdir.describe_devices(layout), {}
  print(where)
  for name, times in seconds.items():
    low, median, high = 1e3 * np.quantile(times, [0.25, 0.5, 0.75])
    table[name] = {'ms': median, 'quartiles': [low, high], 'compile_s': steps[name][1]}
    print(
      f'{name:40}  {median:7.1f} ms  ({low:.1f} to {high:.1f})  compiled in '
      f'{steps[name][1]:.1f} s'
    )
  if JSON.value:
    result = {'width': WIDTH.value, 'versions': workdir.versions(), 'device': where}
    pathlib.Path(JSON.value).write_text(json.dumps({**result, 'steps': table}, indent=1))


if __name__ == '__main__':
  app.run(main)
