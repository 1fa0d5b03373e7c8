"""A generator of the user's own, drawn from in the GAN's place under every policy.

`sampler.generator='module:name'` names a `library.Generator`, or a function of the run's
`data.Dataset` that returns one, having trained it or read it. It declares the training
images that it saw by their fingerprint; of others, or of none, it counts as foreign.
"""

import hashlib
import importlib
import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import gan_training, library, loop, pictures, rng, sampler
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.realdata import to_pixels
from gan_aug_jax.workdir import describe_data, read_result


def obtain(session, dataset, *, train=True):
  """The frozen generator of a run: the user's own, or the GAN.

  Args:
    session: the run's.
    dataset: the data; its test split is not read, but for what the user's code reads.
    train: whether to train a GAN that is not finished.

  Returns:
    A `gan_training.FrozenGenerator`.

  Raises:
    ConfigError: if the user's own is not what it should be, or is foreign and that is
      not allowed.
    CheckpointError: if the GAN is not there, or the workdir's arms drew from another.
  """
  if session.config.sampler.generator:
    return _obtain_own(session, dataset)
  if train:
    return gan_training.train_gan(session, dataset)
  return gan_training.load_generator(session, describe_data(dataset))


def _obtain_own(session, dataset):
  began, named = time.perf_counter(), session.config.sampler.generator
  generator = _import(named)
  if not isinstance(generator, library.Generator):
    generator = _call(generator, named, dataset)
  _check(generator, named, dataset)
  foreign = generator.trained_on != dataset.fingerprint
  if foreign and not session.config.sampler.allow_foreign:
    saw = 'does not say which images it saw'
    if generator.trained_on:
      saw = f'saw other images ({generator.trained_on}) than the run trains on'
    raise ConfigError(
      f'sampler.generator={named!r} {saw}, and may have seen some of the test split; '
      f'set its trained_on to {dataset.fingerprint!r} if it saw these only, or '
      '--config.sampler.allow_foreign=True to go on, which the report then says.'
    )
  own = gan_training.FrozenGenerator(
    sampler.for_candidates(_bounded(generator.sample)),
    session.layout.place(generator.variables),
    directory=session.path('gan'),
  )
  info = {
    'fingerprint': dataset.fingerprint,
    'own': named,
    'name': generator.name,
    'trained_on': generator.trained_on,
    'foreign': foreign,
    'hash': _hash(generator.variables),
    'train_seconds': time.perf_counter() - began,
  }
  return _finish(session, dataset, own, info)


def _import(named):
  """The object that 'module:name' names; the working directory is looked in, too."""
  module, _, name = named.partition(':')
  if os.getcwd() not in map(os.path.abspath, sys.path):
    sys.path.insert(0, os.getcwd())
  try:
    return getattr(importlib.import_module(module), name)
  except Exception as error:  # of the user's own code, of any kind
    raise ConfigError(
      f'sampler.generator={named!r} cannot be imported ({_reason(error)}); name a module '
      'that Python finds from here, and something in it.'
    ) from error


def _call(make, named, dataset):
  """What the user's function makes of the dataset."""
  try:
    made = make(dataset)
  except Exception as error:  # of the user's own code, of any kind
    raise ConfigError(f'sampler.generator={named!r} failed: {_reason(error)}.') from error
  if not isinstance(made, library.Generator):
    raise ConfigError(
      f'sampler.generator={named!r} must be a gan_aug_jax.Generator, or a function of '
      f'the dataset that returns one; it gave {type(made).__name__}.'
    )
  return made


def _reason(error):
  text = (str(error).strip().splitlines() or [''])[0].removesuffix('.')
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _check(generator, named, dataset):
  """Draws an image of each class; see `obtain`."""
  if (tuple(generator.image_shape), generator.num_classes) != (
    dataset.image_shape,
    dataset.num_classes,
  ):
    raise ConfigError(
      f'sampler.generator={named!r} draws {generator.num_classes} classes of '
      f'{tuple(generator.image_shape)}; {dataset.name!r} has {dataset.num_classes} of '
      f'{dataset.image_shape}.'
    )
  images = _draw(generator.sample, generator.variables, dataset, 1)
  largest = float(np.max(np.abs(images)))
  if not largest <= 1.01:  # nor is NaN
    raise ConfigError(
      f'sampler.generator={named!r} draws values up to {largest:.3g} in size; images '
      'must be in [-1, 1].'
    )


def _draw(sample, variables, dataset, count):
  """Images [num_classes, count, H, W, C] of each class, on this process's own device."""
  numbers = jnp.arange(dataset.num_classes * count)
  keys = rng.example_keys(rng.stream_key(0, 'show'), numbers)
  images = np.asarray(jax.jit(sample)(jax.device_get(variables), keys, numbers // count))
  return images.reshape(dataset.num_classes, count, *images.shape[1:])


def _bounded(sample):
  """Keeps images in [-1, 1], and gradients away from the generator."""

  def bounded(variables, keys, labels):
    return jax.lax.stop_gradient(jnp.clip(sample(variables, keys, labels), -1, 1))

  return bounded


def _hash(variables):
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(jax.device_get(variables)):
    digest.update(f'{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}'.encode())
    digest.update(np.ascontiguousarray(leaf))
  return digest.hexdigest()[:16]


def _finish(session, dataset, own, info):
  """Writes gan/result.json and samples.png, or checks that they are of this generator."""
  path = session.path('gan', 'result.json')
  before = read_result(path)
  if before and before.get('hash') != info['hash']:
    raise CheckpointError(
      f'{str(session.workdir)!r} drew from another {info["own"]!r}: its variables are '
      'not the same any more; give another --workdir.'
    )
  info = before or info
  if not before and jax.process_index() == 0:
    panels = {
      'real': gan_training.real_examples(dataset, 8),
      'generated': np.asarray(to_pixels(_draw(own.sample, own.variables, dataset, 8))),
    }
    picture = pictures.grid(dataset.class_names, panels)
    loop.write_atomically(session.path('gan', 'samples.png'), picture)
    loop.write_atomically(path, json.dumps(info, indent=1))
  return gan_training.FrozenGenerator(
    own.sample, own.variables, info=info, directory=own.directory
  )
