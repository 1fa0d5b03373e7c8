"""Takes the generators of a working directory out of it; see `portable`."""

import pathlib
import re

from gan_aug_jax.config import precision_of
from gan_aug_jax.generators import gan_training, portable
from gan_aug_jax.generators.description import Description


def export(session, info, output=None):
  """Writes each generator that the run draws from, weights and program.

  Args:
    session: the run's.
    info: the run's `DataFacts`.
    output: directory; None for WORKDIR/export.

  Returns:
    The paths of the weights: of one, generator.safetensors; of several,
    generator-0.safetensors and so on, in the order in which positions draw from them.

  Raises:
    CheckpointError: if the run trained none, or a file cannot be written.
  """
  directory = pathlib.Path(output) if output else session.path('export')
  members = gan_training.load_generator(session, info).members
  paths = []
  for i, (name, variables) in enumerate(members.items()):
    stem = 'generator' if len(members) == 1 else f'generator-{i}'
    paths.append(directory / f'{stem}.safetensors')
    description = _describe(session.config, info, name)
    portable.save_generator(paths[-1], description, variables)
  return paths


def _describe(config, info, name):
  """The `Description` of the member of that name, 'seed S, step N'."""
  seed, step = map(int, re.findall(r'\d+', name))
  return Description(
    name=name,
    arch=config.gan.arch,
    image_shape=info.image_shape,
    width=config.gan.width,
    upsampling=config.gan.upsampling,
    precision=precision_of(config, 'sampler'),
    latent_dim=config.gan.latent_dim,
    class_names=info.class_names,
    latent_std=config.sampler.latent_std,
    truncation=config.sampler.truncation,
    interpolation=config.sampler.interpolation,
    trained_on=info.fingerprint,
    seed=seed,
    step=step,
  )
