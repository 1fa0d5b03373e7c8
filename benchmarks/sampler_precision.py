"""Does a frozen generator in bfloat16 teach as well as in float32? From the same latents.

    python -m gan_aug_jax train-generator --config=configs/mnist5k.py --workdir=RUN
    python -m benchmarks.sampler_precision --workdir=RUN --seeds=5

For each seed, a probe is trained on what the run's generator draws in float32, and one on
what it draws in bfloat16: the same weights, latents, initial values and steps. Both are
evaluated on the run's validation images (classification accuracy score, Ravuri and
Vinyals 2019). Also says how far the images are apart, in gray levels of 255.
"""

import json
import pathlib

from absl import app, flags
import numpy as np

from benchmarks import timing
from gan_aug_jax import config as config_lib

WORKDIR = flags.DEFINE_string('workdir', None, 'Of a run whose GAN is trained.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Number of pairs of probes.')
STEPS = flags.DEFINE_integer('steps', 600, 'That a probe is trained.')


def score(session, dataset, generator, precision):
  """The accuracy of a probe for each seed, and 500 images, drawn in a precision."""
  from gan_aug_jax.evaluation import evaluators, image_sampler, probe
  from gan_aug_jax.generators import families

  config = session.config
  config.generator.precision = precision
  sample = families.build_family(session, dataset.facts).make_sampler()
  num_classes = dataset.num_classes
  variables = generator.members[0].variables
  drawn = image_sampler.ImageSampler(session, sample, num_classes)(variables, 500)
  model = probe.build_probe(session, num_classes)
  evaluate, accuracies = evaluators.Evaluator(session, model, num_classes), []
  for seed in range(SEEDS.value):
    config.classifier.seed = seed
    train = probe.Trainer(session, dataset, num_steps=STEPS.value, sample=sample)
    accuracies.append(evaluate(train(variables), dataset.val)['accuracy'])
    print(f'{precision}, seed {seed}: {accuracies[-1]:.2%}', flush=True)
  return np.array(accuracies), drawn.images.astype(np.float64)


def main(_):
  from gan_aug_jax.evaluation import statistics
  from gan_aug_jax.experiment import runs
  from gan_aug_jax.generators import frozen
  from gan_aug_jax.step import sharding
  from gan_aug_jax.training import devices, workdir

  about = json.loads(pathlib.Path(WORKDIR.value, 'config.json').read_text())
  config = config_lib.from_dict(about['config'])
  layout = sharding.make_layout(config.backend, devices.start(config))
  session = workdir.Session(config, pathlib.Path(WORKDIR.value), layout, quiet=True)
  where = timing.describe(layout)
  timing.print_where(where)
  dataset = runs.load_data(config)
  generator = frozen.load_generator(session, dataset.facts)
  (exact, images), (coarse, others) = (
    score(session, dataset, generator, precision) for precision in ('float32', 'bfloat16')
  )
  gaps, lost = np.abs(images - others), exact - coarse
  found = statistics.paired_t(100 * lost)
  print(
    f'float32 {exact.mean():.2%}, bfloat16 {coarse.mean():.2%}; lost '
    f'{found["mean"]:+.2f} points ({found["low"]:+.2f} to {found["high"]:+.2f}, 95 % by '
    f'Student, {len(lost)} seeds). Images differ by {gaps.mean():.2f} gray levels on '
    f'average, {np.quantile(gaps, 0.99):.0f} at most for 99 % of pixels.'
  )
  timing.finish({**where, 'float32': exact.tolist(), 'bfloat16': coarse.tolist()})


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
