"""A whole run: data, GAN, arms, results.

Every function here goes on from what a working directory holds, and does nothing that is
already done.
"""

import functools
import json

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.experiment import arms as arms_lib
from gan_aug_jax.generators import external, gan_training, synthetic_source
from gan_aug_jax.training import loop
from gan_aug_jax.training.workdir import describe_data, describe_devices


def load_data(config):
  """Loads the dataset that a config asks for; see `datasets.load_dataset`."""
  data = config.data
  draws_unseen = config.sampler.source == 'unseen' and config_lib.draws_synthetic(config)
  return datasets.load_dataset(
    data.name,
    image_size=data.image_size,
    seed=config_lib.seed_of(config, 'data'),
    val_fraction=data.val_fraction,
    per_class=data.per_class,
    imbalance=data.imbalance,
    imbalance_shape=data.imbalance_shape,
    data_dir=data.data_dir,
    on_corrupt=data.on_corrupt,
    train_on_val=data.train_on_val,
    test_on=data.test_on,
    with_unseen=draws_unseen,
  )


class Run:
  """What a run trains: the GANs, unless the config needs none, and the arms.

  All that it will compile is known before anything is trained; `start` compiles it in
  threads, in the order in which it is needed.
  """

  def __init__(self, session, dataset, *, arms=True, gan_session=None):
    """Plans a run.

    Args:
      session: the run's.
      dataset: the data.
      arms: whether to train the arms.
      gan_session: of the GANs, where they are kept elsewhere than the arms.

    Raises:
      ConfigError: see `gan_training`.
    """
    config = session.config
    self.session, self.dataset = session, dataset
    self._gan_session = gan_session or session
    own = config.sampler.generator
    trains_gan = not own and (config_lib.needs_generator(config) or not arms)
    self.gan = trains_gan and gan_training.GanTraining(self._gan_session, dataset)
    evaluator = arms_lib.make_evaluator(session, dataset.num_classes)
    names = config.arms if arms else ()
    self.arms = [arms_lib.Arm(session, dataset, name, evaluator) for name in names]

  def start(self, *, gan=True):
    """Compiles in threads what is not trained yet; `gan`: the GAN's programs, too."""
    if self.gan and gan:
      self.gan.start()
    for arm in self.arms:
      arm.start()

  def obtain_generator(self, *, train=True):
    """The frozen generator: the user's own where one is named, or the GAN; or None.

    Args:
      train: whether to train a GAN that is not finished.

    Returns:
      A `gan_training.FrozenGenerator`; None where no arm draws from one.

    Raises:
      ConfigError, CheckpointError: see `external` and `gan_training`.
    """
    config, session = self.session.config, self._gan_session
    if config.sampler.generator:
      draws = config_lib.needs_generator(config)
      return external.obtain(session, self.dataset) if draws else None
    if not self.gan:
      return None
    if train:
      return self.gan.train()
    return gan_training.load_generator(session, describe_data(self.dataset))

  def train_arms(self, generator):
    """Trains every arm and writes results.json.

    Returns:
      The content of results.json.
    """
    session, dataset = self.session, self.dataset
    # Once for all arms, and not where all are finished.
    prepare = functools.cache(
      lambda: synthetic_source.prepare(session, dataset, generator)
    )
    trained = {arm.name: arm.train(generator, prepare) for arm in self.arms}
    results = _results(session, dataset, generator, trained)
    if jax.process_index() == 0:
      loop.write_atomically(session.path('results.json'), json.dumps(results, indent=1))
    return results


def announce(session, dataset, *, only_gan=False):
  """One paragraph on what a run will do."""
  config = session.config
  parts = []
  own = config.sampler.generator
  if only_gan or (config_lib.needs_generator(config) and not own):
    steps = config_lib.num_steps_of(config, 'gan', len(dataset.train))
    number = len({seed for seed, _ in config_lib.members_of(config)})
    choice = gan_training.num_candidates(session, steps)
    chosen = f', the best of {choice} checkpoints' if choice > 1 else ''
    parts.append(f'{number} x a {config.gan.arch} GAN, {steps:,} steps{chosen}')
  if not only_gan:
    steps = sorted({num_steps_of(config, dataset, name) for name in config.arms})
    each = ' or '.join(f'{number:,}' for number in steps)
    parts.append(f'{len(config.arms)} x a {config.classifier.arch}, {each} steps each')
  sizes = f'{len(dataset.train):,} / {len(dataset.val):,} / {len(dataset.test):,}'
  skipped = f' Files skipped: {len(dataset.skipped):,}.' if dataset.skipped else ''
  draws = own and config_lib.needs_generator(config)
  notes = f' Synthetic images are drawn from {own}.' if draws else ''
  notes += f' Expect {config.duration}.' if config.duration else ''
  if config.steps_per_call > 1 and session.layout.on_cpu:
    notes += ' Several steps a call are slow on a CPU: steps_per_call=1 is faster.'
  return (
    f'{dataset.name}: {sizes} training / validation / test images.{skipped}\n'
    f'Training {" and ".join(parts)}, on {describe_devices(session.layout)}.{notes}'
  )


def num_steps_of(config, dataset, name):
  """Optimizer steps of an arm.

  Raises:
    ConfigError: if its schedule leaves no step with synthetic images, or its warm-up no
      step at all.
  """
  synthetic = config_lib.is_augmented(config, name)
  steps = synthetic_source.num_steps_of_arm(
    config, len(dataset.train), synthetic=synthetic
  )
  synthetic_source.make_plan(config, steps, synthetic=synthetic)
  arms_lib.make_optimizer(config, steps)
  return steps


_SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds', 'eval_runtime')


def _results(session, dataset, generator, trained):
  """The content of results.json; `trained` has the dict of each arm."""
  first = trained[session.config.arms[0]]
  gan_info = generator.info if generator else {}
  total = sum(
    part[name]
    for part in (gan_info, *trained.values())
    for name in _SECONDS
    if name in part
  )
  # The arms draw from one source; read back after an interruption it takes no time.
  total += max(arm['source'].get('seconds', 0) for arm in trained.values())
  return {
    'dataset': dataset.name,
    'num_skipped': len(dataset.skipped),
    'test_on': session.config.data.test_on,
    'train_on_val': session.config.data.train_on_val,
    'seed': session.config.seed,
    'train_counts': np.bincount(
      dataset.train.labels, minlength=dataset.num_classes
    ).tolist(),
    # Of the training, which may have been another day on another machine.
    'versions': first['versions'],
    'device': first['device'],
    'gan': gan_info,
    'total_seconds': total,
    'arms': trained,
  }
