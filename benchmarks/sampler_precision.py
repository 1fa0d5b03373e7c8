"""Does a frozen generator in bfloat16 teach as well as in float32? From the same latents.

    python -m gan_aug_jax train-generator --config=configs/mnist5k.py --workdir=RUN
    python -m benchmarks.sampler_precision --workdir=RUN --seeds=5

For each seed, a probe is trained on what the run's generator draws in float32, and one on
what it draws in bfloat16: the same weights, latents, initial values and steps. Both are
evaluated on the run's validation images (classification accuracy score, Ravuri and
Vinyals 2019). Also says how far the images are apart, in gray levels of 255.
"""

import functools
import json
import pathlib

from absl import app, flags
import numpy as np

from benchmarks import timing
from gan_aug_jax import config as config_lib

WORKDIR = flags.DEFINE_string('workdir', None, 'Of a run whose GAN is trained.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Number of pairs of probes.')
STEPS = flags.DEFINE_integer('steps', 600, 'That a probe is trained.')


PRECISIONS = ('float32', 'bfloat16')


def make_sampler(session, dataset, precision):
  """`sample(variables, keys, labels) -> images`, computed in a precision."""
  from gan_aug_jax.generators import families

  session.config.generator.precision = precision
  return families.build_family(session, dataset.facts).make_sampler()


def train_pairs(session, dataset, variables, samplers):
  """Yields {precision: validation accuracy of a probe} for each seed."""
  from gan_aug_jax.evaluation import evaluators, probe

  num_classes = dataset.num_classes
  model = probe.build_probe(session, num_classes)
  evaluate = evaluators.Evaluator(session, model, largest=10_000)
  for seed in range(SEEDS.value):
    session.config.classifier.seed = seed
    pair = {}
    for precision, sample in samplers.items():
      train = probe.Trainer(session, dataset, num_steps=STEPS.value, sample=sample)
      pair[precision] = evaluate(train(variables), dataset.val)['accuracy']
    print(seed, {name: f'{100 * accuracy:.2f} %' for name, accuracy in pair.items()})
    yield pair


def main(_):
  from gan_aug_jax.evaluation import image_sampler, statistics
  from gan_aug_jax.experiment import runs
  from gan_aug_jax.generators import frozen
  from gan_aug_jax.training import workdir

  about = json.loads(pathlib.Path(WORKDIR.value, 'config.json').read_text())
  config = config_lib.from_dict(about['config'])
  layout, where = timing.start(config)
  session = workdir.Session(config, pathlib.Path(WORKDIR.value), layout, quiet=True)
  dataset = runs.load_data(config)
  variables = frozen.load_generator(session, dataset.facts).members[0].variables
  samplers = {name: make_sampler(session, dataset, name) for name in PRECISIONS}
  draw = functools.partial(image_sampler.ImageSampler, session)
  drawn = [
    draw(sample, dataset.num_classes)(variables, 500) for sample in samplers.values()
  ]
  gaps = np.abs(np.subtract(*(split.images.astype(np.float64) for split in drawn)))
  pairs = list(train_pairs(session, dataset, variables, samplers))
  exact, coarse = (100 * np.array([pair[name] for pair in pairs]) for name in PRECISIONS)
  lost = statistics.paired_t(exact - coarse)
  print(
    f'float32 {exact.mean():.2f} %, bfloat16 {coarse.mean():.2f} %; lost '
    f'{lost["mean"]:+.2f} points ({lost["low"]:+.2f} to {lost["high"]:+.2f}, 95 % by '
    f'Student, {len(pairs)} seeds). Images differ by {gaps.mean():.2f} gray levels on '
    f'average, {np.quantile(gaps, 0.99):.0f} at most for 99 % of pixels.'
  )
  timing.finish({**where, 'pairs': pairs, 'gap': float(gaps.mean())})


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
