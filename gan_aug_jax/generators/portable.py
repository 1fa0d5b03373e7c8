"""Reads the generator files that `export` writes.

A file may be damaged, or made to do harm. Loading one runs no code from it, its header
has a limit, and its arrays are read only if they have the shapes of the network that it
describes.
"""

from collections.abc import Callable
import hashlib
import json
import os
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.generators import (
  description as description_lib,
  generator as generator_lib,
)
from gan_aug_jax.generators.generator import Generator

FORMAT = 'gan_aug_jax generator'
VERSION = '2'
_MAX_HEADER_BYTES = 10**7


def content_hash(description: str, arrays: dict) -> str:
  """The hash of a file's content, which shows damage: hex.

  Args:
    description: as JSON.
    arrays: {path: contiguous array}.
  """
  digest = hashlib.sha256(description.encode())
  for name in sorted(arrays):
    digest.update(name.encode())
    digest.update(arrays[name])
  return digest.hexdigest()


def load_generator(
  path: str | os.PathLike, *, trained_on: str | None = None
) -> Generator:
  """Loads a generator that `gan-aug-jax export` wrote.

  Args:
    path: of NAME.safetensors.
    trained_on: `fingerprint` of your own training images, to refuse a generator that was
      trained on others and may have seen some of your test images; None to accept any.

  Returns:
    A `Generator`, its variables on JAX's default device.

  Raises:
    CheckpointError: if the file is missing, damaged, of another format or not what it
      describes, or if the generator was trained on other images.
  """
  path = pathlib.Path(path)
  try:
    description, arrays = _read_weights(path)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise _refusal(path, error) from error
  _check_trained_on(path, description, trained_on)
  return Generator(
    sample=generator_lib.with_checked_labels(
      description.make_sampler(),
      len(description.class_names),
      f'Generator {description.name!r}',
    ),
    variables=traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, arrays), sep='/'),
    image_shape=description.image_shape,
    class_names=description.class_names,
    trained_on=description.trained_on,
    name=description.name,
  )


def _read_weights(path):
  """The `Description` and the arrays {path: array} of NAME.safetensors."""
  with open(path, 'rb') as file:
    if int.from_bytes(file.read(8), 'little') > _MAX_HEADER_BYTES:
      raise ValueError('it is not a safetensors file: its header is too long')
  # The library checks that types, shapes and offsets agree and cover the file.
  with safetensors.safe_open(path, 'np') as file:
    about = file.metadata() or {}
    if about.get('format') != FORMAT:
      raise ValueError('its header does not describe a generator')
    if about.get('format_version') != VERSION:
      version = str(about.get('format_version'))[:20]
      raise ValueError(
        f'its format is version {version}, but this package reads version {VERSION}'
      )
    text = about.get('description', '')
    description = description_lib.parse(text)
    if description.precision == 'float64' and not jax.config.jax_enable_x64:
      raise CheckpointError(
        "This generator computes in float64; call jax.config.update('jax_enable_x64', "
        'True) before you load it.'
      )
    if description.is_external:
      raise ValueError(
        f'it draws with code from outside the package, {description.family!r}; load the '
        f'program next to it, {path.with_suffix(".stablehlo").name}, with load_program'
      )
    shapes = description.shapes()
    if set(file.keys()) != set(shapes):
      raise ValueError('its arrays are not those of the network that it describes')
    for name, shape in shapes.items():
      array = file.get_slice(name)
      is_float = array.get_dtype() in ('F32', 'F64')
      if tuple(array.get_shape()) != shape or not is_float:
        raise ValueError(f'its array {name} is not that of the network that it describes')
    arrays = {name: file.get_tensor(name) for name in shapes}
  if content_hash(text, arrays) != about.get('sha256'):
    raise ValueError('its hash is not that of its content: it is damaged')
  return description, arrays


def _refusal(path, error):
  """What is wrong with a file, as a `CheckpointError`."""
  why = error.strerror if isinstance(error, OSError) else error
  return CheckpointError(
    f'{str(path)!r} cannot be loaded: {why}; gan-aug-jax export --workdir=DIR writes a '
    'generator that can.'
  )


def _check_trained_on(path, description, trained_on):
  if trained_on is None or description.trained_on == trained_on:
    return
  seen = description.trained_on or 'that it does not name'
  raise CheckpointError(
    f'The generator in {str(path)!r} was trained on images {seen}, not on {trained_on}: '
    'it may have seen some of your test images; export one that was trained on yours, or '
    'leave trained_on out.'
  )


def load_program(path: str | os.PathLike, *, trained_on: str | None = None) -> Callable:
  """Loads a program that `gan-aug-jax export` wrote; NAME.json must be in its folder.

  The program is compiled and run, so load only programs from people you trust: hashes
  show damage, not who wrote a file.

  Args:
    path: of NAME.stablehlo.
    trained_on: see `load_generator`.

  Returns:
    `draw(seed, labels) -> images`: seed an integer in [0, 2^31), labels integers [B],
    images float32 [B, H, W, C] in [-1, 1]. Image i depends on the seed, i and label i
    alone. Unless they are traced, `draw` refuses any other seed or label (ConfigError).

  Raises:
    CheckpointError: see `load_generator`.
  """
  path = pathlib.Path(path)
  try:
    description, exported = _read_program(path)
  except (OSError, ValueError) as error:
    raise _refusal(path, error) from error
  _check_trained_on(path, description, trained_on)
  call, num_classes = jax.jit(exported.call), len(description.class_names)

  def draw(seed, labels):
    _check_seed(seed)
    labels = generator_lib.check_labels(labels, num_classes, path.name)
    return call(jnp.int32(seed), jnp.asarray(labels, jnp.int32))

  return draw


def _check_seed(seed):
  if not generator_lib.is_concrete(seed):
    return
  value = np.asarray(seed)
  is_integer = value.ndim == 0 and np.issubdtype(value.dtype, np.integer)
  if not is_integer or not 0 <= value < 2**31:
    raise ConfigError(f'seed={seed!r} must be an integer from 0 to 2^31 - 1.')


def _read_program(path):
  """The `Description` in NAME.json and the `jax.export.Exported` in NAME.stablehlo."""
  content, about_path = path.read_bytes(), path.with_suffix('.json')
  try:
    with open(about_path, 'rb') as file:
      about = json.loads(file.read(_MAX_HEADER_BYTES))
    text = json.dumps(about['description'])
    # By its kind: both files may have been renamed.
    (digest,) = (x for name, x in about['sha256'].items() if name.endswith(path.suffix))
  except OSError as error:
    raise ValueError(f'{about_path.name} next to it: {error.strerror}') from None
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
    raise ValueError(f'{about_path.name} next to it is damaged') from None
  description = description_lib.parse(text)
  if hashlib.sha256(content).hexdigest() != digest:
    raise ValueError(f'its hash is not that in {about_path.name}: it is damaged')
  try:
    exported = jax.export.deserialize(bytearray(content))
    (images,) = exported.out_avals
  except Exception as error:  # flatbuffers and JAX raise many kinds
    raise ValueError('JAX cannot read it') from error
  if images.shape[1:] != description.image_shape:
    raise ValueError(f'it is not the program that {about_path.name} describes')
  return description, exported
