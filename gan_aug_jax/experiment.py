"""A whole run: data, GAN, arms, results.

Every function here goes on from what a working directory holds, and does nothing that is
already done.
"""

import functools
import json

import jax
import numpy as np

from gan_aug_jax import (
  arms,
  config as config_lib,
  data as data_lib,
  gan_training,
  loop,
  own_generator,
  policies,
)
from gan_aug_jax.workdir import describe_data, describe_devices


def load_data(config):
  """Loads the dataset that a config asks for; see `data.load_dataset`."""
  data = config.data
  draws_unseen = config.sampler.source == 'unseen' and config_lib.draws_synthetic(config)
  return data_lib.load_dataset(
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


def obtain_generator(session, dataset, *, train=True):
  """The frozen generator of a run: the user's own where one is named, or the GAN.

  Args:
    session: the run's.
    dataset: the data; its test split is not read.
    train: whether to train a GAN that is not finished.

  Returns:
    A `gan_training.FrozenGenerator`.

  Raises:
    ConfigError, CheckpointError: see `own_generator` and `gan_training`.
  """
  if session.config.sampler.generator:
    return own_generator.obtain(session, dataset)
  if train:
    return gan_training.train_gan(session, dataset)
  return gan_training.load_generator(session, describe_data(dataset))


def announce(session, dataset, *, only_gan=False):
  """One paragraph on what a run will do."""
  config = session.config
  parts = []
  own = config.sampler.generator
  if only_gan or (config_lib.needs_generator(config) and not own):
    steps = config_lib.num_steps_of(config, 'gan', len(dataset.train))
    number = len({seed for seed, _ in config_lib.members_of(config)})
    parts.append(f'{number} x a {config.gan.arch} GAN, {steps:,} steps')
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
    ConfigError: if its schedule leaves no step with synthetic images.
  """
  synthetic = config_lib.is_augmented(config, name)
  steps = policies.num_steps_of_arm(config, len(dataset.train), synthetic=synthetic)
  policies.make_plan(config, steps, synthetic=synthetic)
  return steps


_SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds', 'eval_runtime')


def train_arms(session, dataset, generator):
  """Trains every arm of the config and writes results.json.

  Returns:
    The content of results.json.
  """
  evaluator = arms.make_evaluator(session, dataset.num_classes)
  # Once for all arms, and not where all are finished.
  prepare = functools.cache(lambda: policies.prepare(session, dataset, generator))
  trained = {
    name: arms.train_arm(session, dataset, name, prepare, evaluator)
    for name in session.config.arms
  }
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
  results = {
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
  if jax.process_index() == 0:
    loop.write_atomically(session.path('results.json'), json.dumps(results, indent=1))
  return results
