"""What training all seeds of an arm in one program is worth.

    python -m benchmarks.sweep --config=configs/scarce.py --seeds=1,2,5

Takes a step of each of n seeds, one after the other, and one step of all of them under
`vmap`, interleaved in one process: milliseconds for all n (median and quartiles) and the
median ratio of the two. Images are noise and networks untrained, which changes no time.
"""

import json
import pathlib
import time

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import noise
from gan_aug_jax import devices, validation

CONFIG = config_flags.DEFINE_config_file('config', 'configs/scarce.py')
SEEDS = flags.DEFINE_list('seeds', ['1', '2', '5'], 'Numbers of seeds.')
ARMS = flags.DEFINE_list('arms', ['real_classical', 'augmented_classical'], 'To time.')
CHANNELS = flags.DEFINE_integer('channels', 1, 'Of the images.')
ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed steps.')
JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')


def prepare(config, layout, dataset, arm, count):
  """Returns two functions that take a step of every seed, alone and together."""
  import jax

  from gan_aug_jax import rehearsal, sharding, together, workdir

  rehearsed = []
  for seed in range(count):
    one = config.copy_and_resolve_references()
    one.seed = seed
    session = workdir.Session(one, pathlib.Path('unused'), layout, quiet=True)
    rehearsed.append(rehearsal.rehearse_arm(session, dataset, arm, num_steps=10_000))
  states = [each.state for each in rehearsed]
  program = rehearsed[0].compile()
  stacked = layout.place(
    jax.tree.map(lambda *x: np.stack(x), *(jax.device_get(state) for state in states))
  )
  feeds = [lambda at, _, each=each: each.inputs(at) for each in rehearsed]
  feed = together.stack_feeds(feeds, layout.place)
  step = together.make_step(rehearsed[0].step, count)
  joint = sharding.compile_step(step, layout, stacked, *feed(0, 0))

  def alone(at):
    for i, each in enumerate(rehearsed):
      states[i], metrics = program(states[i], *each.inputs(at))
    jax.block_until_ready(metrics)

  def as_one(at):
    nonlocal stacked
    stacked, metrics = joint(stacked, *feed(at, 0))
    jax.block_until_ready(metrics)

  return alone, as_one


def main(_):
  config = CONFIG.value
  validation.validate(config)
  found = devices.start(config)
  from gan_aug_jax import sharding, workdir

  layout = sharding.make_layout(config.backend, found)
  size = config.data.image_size
  dataset = noise.make_dataset((size, size, CHANNELS.value))
  where, table = workdir.describe_devices(layout), {}
  print(f'{where}; {config.classifier.arch}, batch {config.classifier.batch_size}')
  for arm in ARMS.value:
    for count in map(int, SEEDS.value):
      taken = prepare(config, layout, dataset, arm, count)
      seconds = np.zeros((2, ROUNDS.value))
      for number in range(-3, ROUNDS.value):
        for i, take in enumerate(taken):
          began = time.perf_counter()
          take(number + 3)
          if number >= 0:  # warm by then
            seconds[i, number] = time.perf_counter() - began
      quartiles = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75], axis=1).T
      ratio = float(np.median(seconds[0] / seconds[1]))
      table[f'{arm} x {count}'] = {'ms': quartiles.tolist(), 'faster': ratio}
      (a, alone, b), (c, joint, d) = quartiles
      print(
        f'{arm:20} x {count}: alone {alone:7.1f} ms ({a:.1f} to {b:.1f}), together '
        f'{joint:7.1f} ms ({c:.1f} to {d:.1f}), {ratio:.2f} times as fast'
      )
  if JSON.value:
    result = {'config': config.to_dict(), 'versions': workdir.versions(), 'device': where}
    pathlib.Path(JSON.value).write_text(json.dumps({**result, 'steps': table}, indent=1))


if __name__ == '__main__':
  app.run(main)
