"""The picture of what an arm trains on: arms/NAME/batch.png."""

import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import figures
from gan_aug_jax.experiment import recipe
from gan_aug_jax.generators import families, synthetic_source
from gan_aug_jax.step import device_data, rng, sharding
from gan_aug_jax.training import files

_COUNT = 10  # images of a kind


def write(arm, generator, source_variables) -> None:
  """Writes images such as an arm trains on, augmented but not mixed or filtered.

  Args:
    arm: the `arms.Arm`.
    generator: the `FrozenGenerator`, or None.
    source_variables: the `SourceVariables` that it draws from.
  """
  config, dataset = arm.session.config, arm.dataset
  train = dataset.train
  classes = [np.flatnonzero(train.labels == c) for c in range(dataset.num_classes)]
  shown = [rows[i] for i in range(_COUNT) for rows in classes if len(rows) > i]
  rows = {'real': train.images[shown[:_COUNT]]}
  if arm.is_augmented:
    saved = _read_samples(config, generator)
    drawn = draw(arm, generator, source_variables) if saved is None else saved
    rows['synthetic'] = drawn[:_COUNT]
  if config_lib.ARMS[arm.name][1]:
    transform = recipe.make_augmentation(
      arm.session, arm.name, dataset.image_shape
    ).transform
    for name in rows:
      if config.augment.apply_to in ('both', name):
        rows[name] = np.asarray(_augment_pixels(transform, rows[name]))
  count = min(map(len, rows.values()))
  images = np.stack([images[:count] for images in rows.values()])
  picture = figures.grid(list(rows), {'': images})
  files.write_atomically(arm.directory / 'batch.png', picture)


def _read_samples(config, generator):
  """What was drawn after the generator's training, if an arm draws the same, or None."""
  draws_same = config.mix.source == 'generator' and not config.generator.checkpoints
  draws_same &= config.latents == config_lib.default().latents
  # Where a training keeps further steps, the file may show one of these.
  if not draws_same or generator.info.get('kept', [])[1:]:
    return None
  with contextlib.suppress(OSError, ValueError, KeyError):
    saved = files.read_arrays(generator.directory / 'samples.npz')
    if saved['options'] == json.dumps(families.drawing_arguments_of(config)):
      return saved['drawn']
  return None


def draw(arm, generator, source_variables) -> np.ndarray:
  """Draws what an arm shows of the first classes: uint8 [10, H, W, C]; see `write`."""
  # One process draws them, on one device, on however many the arm trains.
  alone = sharding.make_layout('jit', arm.session.layout.mesh.local_devices[:1])
  session = dataclasses.replace(arm.session, layout=alone)
  source = synthetic_source.build_source(session, arm.dataset, generator)
  positions = jnp.arange(_COUNT)
  keys = rng.example_keys(rng.stream_key(0, 'show'), positions)[:, None]
  variables = jax.device_get(source_variables.frozen.generator)
  labels = positions % arm.dataset.num_classes
  images = jax.jit(source.networks.sample)(variables, keys, labels)
  return np.asarray(device_data.to_pixels(images[:, 0]))


@functools.partial(jax.jit, static_argnums=0)
def _augment_pixels(transform, pixels):
  """Augments uint8 [N, H, W, C] as images are in training."""
  keys = rng.example_keys(rng.stream_key(0, 'show', step=1), jnp.arange(len(pixels)))
  return device_data.to_pixels(transform(keys, device_data.normalize(pixels)))
