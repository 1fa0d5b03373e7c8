"""A generator of the user's own, drawn from in the GAN's place under every policy.

`sampler.generator='module:name'` names a `Generator`, or a function of the run's dataset
that returns one, having trained it or read it. It declares the training images that it
saw by their fingerprint; of others, or of none, it counts as foreign.

Its variables are kept in gan/own.npz, so that a run goes on with those that it began
with, whatever a second training gives; its code is not, and what it draws is compared.
"""

import dataclasses
import functools
import importlib
import io
import json
import os
import sys
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.evaluation import figures
from gan_aug_jax.generators import gan_training, generator as generator_lib
from gan_aug_jax.step import rng, sampling
from gan_aug_jax.step.device_data import to_pixels
from gan_aug_jax.training import files
from gan_aug_jax.training.files import read_result

# What a draw may differ by on another machine, in images of [-1, 1].
_TOLERANCE = 0.05


def load(session, dataset):
  """Makes the user's generator, or takes it up again, and checks it; writes nothing.

  Args:
    session: the run's.
    dataset: the data; the user's function does not get the test split.

  Returns:
    A `gan_training.FrozenGenerator`, the same on every process.

  Raises:
    ConfigError: if it is not what it should be, or is foreign and that is not allowed.
    CheckpointError: if it draws other images than what the run began with.
  """
  began, named = time.perf_counter(), session.config.sampler.generator
  generator = _on_all(named, lambda: _make(named, dataset))
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
  return gan_training.FrozenGenerator(
    sampling.for_candidates(_bounded(generator.sample)),
    session.layout.place(_variables(session, generator, dataset)),
    directory=session.path('gan'),
    info={
      'fingerprint': dataset.fingerprint,
      'own': named,
      'name': generator.name,
      'trained_on': generator.trained_on,
      'foreign': foreign,
      'train_seconds': time.perf_counter() - began,
    },
  )


def obtain(session, dataset):
  """Like `load`; and writes gan/own.npz, result.json and samples.png when it is new."""
  generator, path = load(session, dataset), session.path('gan', 'result.json')
  before = read_result(path)
  if before and session.path('gan', 'own.npz').exists():
    # The seconds are those of the first time.
    info = generator.info | {'train_seconds': before.get('train_seconds', 0.0)}
    return gan_training.FrozenGenerator(
      generator.sample, generator.variables, info=info, directory=generator.directory
    )

  def write():
    variables = jax.device_get(generator.variables)
    drawn = _draw(generator.sample, variables, dataset, 8)
    content = io.BytesIO()
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(variables))}
    np.savez(content, **leaves, drawn=drawn[:, 0])
    files.write_atomically(session.path('gan', 'own.npz'), content.getvalue())
    panels = {
      'real': gan_training.real_examples(dataset, 8),
      'generated': np.asarray(to_pixels(drawn)),
    }
    picture = figures.grid(dataset.class_names, panels)
    files.write_atomically(session.path('gan', 'samples.png'), picture)
    files.write_atomically(path, json.dumps(generator.info, indent=1))

  gan_training.finish_on_all(write)
  return generator


def _on_all(named, make):
  """What a function of the user's gives, or an error on every process if one had it."""
  result = error = None
  try:
    result = make()
  except ConfigError as caught:
    error = caught
  worked = multihost_utils.process_allgather(np.int32(error is None))
  if error or not np.all(worked):
    raise error or ConfigError(f'sampler.generator={named!r} failed on another process.')
  return result


def _make(named, dataset):
  """The user's `Generator`, made once for the same images, and checked."""
  found = _import(named)
  if not isinstance(found, generator_lib.Generator):
    found = _call(found, named, _Once(dataset))
  _check(found, named, dataset)
  return found


class _Once:
  """A dataset as the user's function gets it, equal to another of the same images."""

  def __init__(self, dataset):
    nothing = dataset.test.rows(slice(0, 0))
    self.dataset = dataclasses.replace(dataset, test=nothing, unseen=None)

  def __hash__(self):
    return hash(self.dataset.fingerprint)

  def __eq__(self, other):
    return self.dataset.fingerprint == other.dataset.fingerprint


def _import(named):
  """The object that 'module:name' names; the working directory is looked in, too."""
  module, _, name = named.partition(':')
  if os.getcwd() not in map(os.path.abspath, sys.path):
    sys.path.append(os.getcwd())
  try:
    return getattr(importlib.import_module(module), name)
  except Exception as error:  # of the user's own code, of any kind
    raise ConfigError(
      f'sampler.generator={named!r} cannot be imported ({_reason(error)}); name a module '
      'that Python finds from here, and something in it.'
    ) from error


@functools.lru_cache(maxsize=8)  # of the seeds of an ablation, whose cells share it
def _call(make, named, once):
  """What the user's function makes of the dataset."""
  try:
    made = make(once.dataset)
  except Exception as error:  # of the user's own code, of any kind
    raise ConfigError(f'sampler.generator={named!r} failed: {_reason(error)}.') from error
  if not isinstance(made, generator_lib.Generator):
    raise ConfigError(
      f'sampler.generator={named!r} must be a gan_aug_jax.Generator, or a function of '
      f'the dataset that returns one; it gave {type(made).__name__}.'
    )
  return made


def _reason(error):
  text = (str(error).strip().splitlines() or [''])[0].removesuffix('.')
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _check(generator, named, dataset):
  """Draws an image of each class; see `load`."""
  shape, names = tuple(generator.image_shape), tuple(generator.class_names)
  numbers = tuple(map(str, range(dataset.num_classes)))
  if shape != dataset.image_shape or names not in (dataset.class_names, numbers):
    raise ConfigError(
      f'sampler.generator={named!r} draws {shape} of the classes {", ".join(names)}; '
      f'{dataset.name!r} has {dataset.image_shape} of {", ".join(dataset.class_names)}: '
      'sizes, and the order of the classes, must agree.'
    )
  generator_lib.check_sample(generator)
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


def _variables(session, generator, dataset):
  """The variables that the run began with, or those that were made; on the host."""
  leaves, structure = jax.tree.flatten(jax.device_get(generator.variables))
  leaves = [np.asarray(leaf) for leaf in leaves]
  path = session.path('gan', 'own.npz')
  if path.exists():
    leaves, drawn = _read(path, leaves)
    variables = jax.tree.unflatten(structure, leaves)
    # As it was written: the first of eight.
    now = _draw(_bounded(generator.sample), variables, dataset, 8)[:, 0]
    if drawn.shape != now.shape or np.max(np.abs(drawn - now)) > _TOLERANCE:
      _refuse(path)
  if jax.process_count() > 1:
    leaves = multihost_utils.broadcast_one_to_all(leaves)
  return jax.tree.unflatten(structure, leaves)


def _read(path, like):
  """The leaves and the images of own.npz; leaves must be of the shapes of `like`."""
  try:
    saved = files.read_arrays(path)
  except (OSError, ValueError):
    raise CheckpointError(
      f'{str(path)!r} is damaged; move {str(path.parent)!r} away and run again.'
    ) from None
  found = [saved.get(str(i)) for i in range(len(like))]
  same = [x is not None and x.shape == y.shape for x, y in zip(found, like, strict=True)]
  if len(saved) != len(like) + 1 or 'drawn' not in saved or not all(same):
    _refuse(path)
  # NumPy writes types that it does not know, such as bfloat16, as bytes.
  return [x.view(y.dtype) for x, y in zip(found, like, strict=True)], saved['drawn']


def _refuse(path):
  raise CheckpointError(
    f'The run drew from another generator of your own, see {str(path)!r}: its code or '
    'the shapes of its variables are others now; give another --workdir.'
  )
