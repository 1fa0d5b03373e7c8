"""Writes generators to files that other programs and machines can read.

    NAME.safetensors  the weights, and their description
    NAME.stablehlo    (seed, labels) -> images as one program that holds the weights
    NAME.json         the description, and the hashes of both

`portable` reads them.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

import gan_aug_jax
from gan_aug_jax import external
from gan_aug_jax.config import precision_of
from gan_aug_jax.errors import CheckpointError, UserError
from gan_aug_jax.generators import (
  description as description_lib,
  families,
  frozen,
  portable,
)
from gan_aug_jax.generators.description import Description
from gan_aug_jax.step import rng
from gan_aug_jax.training import files

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(session, facts, output=None) -> list[pathlib.Path]:
  """Writes each generator that a run draws from.

  Args:
    facts: the run's `DataFacts`.
    output: directory; None for WORKDIR/export.

  Returns:
    The paths of the weights: generator.safetensors; or generator-0.safetensors and so on,
    in the order in which batch positions draw from them.

  Raises:
    CheckpointError: if the run trained none.
    WriteError: if a file cannot be written.
  """
  directory = pathlib.Path(output) if output else session.path('export')
  generator, paths = frozen.load_generator(session, facts), []
  members, family = generator.members, generator.family
  for i, member in enumerate(members):
    name = 'generator' if len(members) == 1 else f'generator-{i}'
    paths.append(directory / f'{name}.safetensors')
    latents = session.config.latents.to_dict() if family.render else {}
    description = Description(
      name=member.name,
      family=session.config.generator.family,
      arguments=families.drawing_arguments_of(session.config),
      image_shape=facts.image_shape,
      class_names=facts.class_names,
      precision=precision_of(session.config, 'frozen'),
      latents=latents,
      trained_on=generator.info['trained_on'],
      seed=member.seed,
      step=member.step,
    )
    sample = family.make_sampler(**latents)
    save_generator(paths[-1], description, member.variables, sample)
  return paths


def save_generator(path, description, variables, sample=None) -> None:
  """Writes the three files of a generator.

  Args:
    path: of NAME.safetensors.
    variables: arrays in nested dicts.
    sample: `(variables, keys, labels) -> images`; None for that of the description.

  Raises:
    CheckpointError: if `portable` would refuse it.
    WriteError: if a file cannot be written.
  """
  path = pathlib.Path(path).with_suffix('.safetensors')
  text = json.dumps(dataclasses.asdict(description))
  try:
    description_lib.parse(text)
  except ValueError as error:
    raise CheckpointError(f'This generator cannot be exported: {error}.') from None
  leaves, _ = jax.tree.flatten_with_path(jax.device_get(variables))
  name_of = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  flat = {name_of(path): np.ascontiguousarray(value) for path, value in leaves}
  about = {
    'format': portable.FORMAT,
    'format_version': portable.VERSION,
    'description': text,
    'sha256': portable.content_hash(text, flat),
    'package_version': gan_aug_jax.__version__,
  }
  contents = {
    path: safetensors.numpy.save(flat, about),
    path.with_suffix('.stablehlo'): _compile_or_refuse(
      sample or description.make_sampler(), variables
    ),
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
  for file, content in contents.items():
    files.write_atomically(file, content)


def _compile_or_refuse(sample, variables):
  """Compiles the sampler; image by image if the user's code needs a known batch size."""

  def sample_singly(variables, keys, labels):
    draw = lambda key, label: sample(variables, key[None], label[None])[0]
    return jax.vmap(draw)(keys, labels)

  try:
    try:
      return _compile(sample, variables)
    except UserError:
      raise
    except Exception:  # any that a symbolic size raises, as `len(x)` or `x.shape[0] > 9`
      return _compile(sample_singly, variables)
  except UserError:
    raise
  except Exception as error:  # any, of an external generator
    raise CheckpointError(
      f'This generator cannot be exported ({external.reason(error)}).'
    ) from error


def _compile(sample, variables):
  """The bytes of a program `(seed int32, labels int32 [b]) -> images float32`."""
  variables = jax.tree.map(jnp.asarray, jax.device_get(variables))

  def draw(seed, labels):
    numbers = jnp.arange(labels.shape[0], dtype=jnp.int32)
    keys = rng.example_keys(rng.stream_key(seed, 'show'), numbers)
    return sample(variables, keys, labels).astype(jnp.float32)

  seed = jax.ShapeDtypeStruct((), jnp.int32)
  labels = jax.ShapeDtypeStruct(jax.export.symbolic_shape('b'), jnp.int32)
  exported = jax.export.export(jax.jit(draw), platforms=_PLATFORMS)(seed, labels)
  return bytes(exported.serialize())
