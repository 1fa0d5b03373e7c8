"""Writes generators to files that other programs and machines can read.

    NAME.safetensors  the weights, and their description
    NAME.stablehlo    (seed, labels) -> images as one program that holds the weights
    NAME.json         the description, and the hashes of both

`portable` reads them.
"""

import dataclasses
import hashlib
import json
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

import gan_aug_jax
from gan_aug_jax.config import precision_of
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.generators import build, description as description_lib, frozen, portable
from gan_aug_jax.generators.description import Description
from gan_aug_jax.step import rng
from gan_aug_jax.training import files

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(session, info, output=None) -> list[pathlib.Path]:
  """Writes each generator that a run draws from.

  Args:
    session: the run's.
    info: the run's `DataFacts`.
    output: directory; None for WORKDIR/export.

  Returns:
    The paths of the weights: generator.safetensors; or generator-0.safetensors and so on,
    in the order in which batch positions draw from them.

  Raises:
    CheckpointError: if the run trained none, or a file cannot be written.
  """
  directory = pathlib.Path(output) if output else session.path('export')
  members, paths = frozen.load_generator(session, info).members, []
  for i, member in enumerate(members):
    name = 'generator' if len(members) == 1 else f'generator-{i}'
    paths.append(directory / f'{name}.safetensors')
    description = _describe(session.config, info, member)
    save_generator(paths[-1], description, member.variables)
  return paths


def _describe(config, info, member):
  options = build.latent_options(config)
  return Description(
    name=member.name,
    arch=config.gan.arch,
    image_shape=info.image_shape,
    width=config.gan.width,
    upsampling=config.gan.upsampling,
    precision=precision_of(config, 'frozen'),
    latent_dim=config.gan.latent_dim,
    class_names=info.class_names,
    latent_std=options['std'],
    truncation=options['truncation'],
    interpolation=options['interpolation'],
    trained_on=info.fingerprint,
    seed=member.seed,
    step=member.step,
  )


def save_generator(path, description, variables) -> None:
  """Writes the three files of a generator.

  Args:
    path: of NAME.safetensors.
    description: its `Description`.
    variables: arrays in nested dicts.

  Raises:
    CheckpointError: if `portable` would refuse it, or a file cannot be written.
  """
  path = pathlib.Path(path).with_suffix('.safetensors')
  text = json.dumps(dataclasses.asdict(description))
  try:
    description_lib.parse(text)
  except ValueError as error:
    raise CheckpointError(f'This generator cannot be exported: {error}.') from None
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
  flat = {name: np.ascontiguousarray(value) for name, value in flat.items()}
  about = {
    'format': portable.FORMAT,
    'format_version': portable.VERSION,
    'description': text,
    'sha256': portable.content_hash(text, flat),
    'package_version': gan_aug_jax.__version__,
  }
  contents = {
    path: safetensors.numpy.save(flat, about),
    path.with_suffix('.stablehlo'): _compile(description, variables),
  }
  about |= {
    'description': dataclasses.asdict(description),
    'sha256': {
      file.name: hashlib.sha256(content).hexdigest() for file, content in contents.items()
    },
    'program': {
      'arguments': {'seed': 'int32 []', 'labels': 'int32 [b]'},
      'result': f'float32 [b, {", ".join(map(str, description.image_shape))}]',
      'platforms': _PLATFORMS,
      'jax': jax.__version__,
    },
  }
  contents[path.with_suffix('.json')] = json.dumps(about, indent=1)
  try:
    for file, content in contents.items():
      files.write_atomically(file, content)
  except OSError as error:
    raise CheckpointError(
      f'{str(path.parent)!r} cannot be written ({error.strerror}); choose another '
      'directory.'
    ) from None


def _compile(description, variables):
  """The bytes of a program `(seed int32, labels int32 [b]) -> images float32`."""
  sample, variables = description.make_sampler(), jax.device_get(variables)

  def draw(seed, labels):
    numbers = jnp.arange(labels.shape[0], dtype=jnp.int32)
    keys = rng.example_keys(rng.stream_key(seed, 'show'), numbers)
    return sample(variables, keys, labels).astype(jnp.float32)

  seed = jax.ShapeDtypeStruct((), jnp.int32)
  labels = jax.ShapeDtypeStruct(jax.export.symbolic_shape('b'), jnp.int32)
  exported = jax.export.export(jax.jit(draw), platforms=_PLATFORMS)(seed, labels)
  return bytes(exported.serialize())
