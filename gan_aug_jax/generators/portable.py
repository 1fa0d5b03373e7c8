"""A generator in files that stand by themselves, for other programs and machines.

    NAME.safetensors  the weights, and what they are of
    NAME.stablehlo    (seed, labels) -> images as one program, the weights inside
    NAME.json         what both are, and their hashes

Nothing of a file is believed: it may be damaged, or made to do harm. What it says of
itself is checked against limits, the shapes of its arrays against those of the network
that it describes, before either is built or read; and no code comes out of it.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

import gan_aug_jax
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.generators import description as description_lib
from gan_aug_jax.generators.generator import Generator
from gan_aug_jax.step import rng
from gan_aug_jax.training import files

_FORMAT = 'gan_aug_jax generator'
_VERSION = 1
_MOST_HEADER_BYTES = 10**7
_TYPES = {'F32': np.dtype('<f4'), 'F64': np.dtype('<f8')}
_PLATFORMS = ('cpu', 'cuda', 'tpu')


def save_generator(path, description, variables):
  """Writes NAME.safetensors, NAME.stablehlo and NAME.json.

  Args:
    path: of the first of them.
    description: the `Description`.
    variables: of the generator, arrays in nested dicts.

  Raises:
    CheckpointError: if it is larger than what would be loaded again, or a file cannot be
      written.
  """
  path = pathlib.Path(path).with_suffix('.safetensors')
  text = json.dumps(dataclasses.asdict(description))
  try:
    description_lib.parse(text)
  except ValueError as error:
    raise CheckpointError(f'This generator cannot be exported: {error}.') from None
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
  flat = {name: np.ascontiguousarray(value) for name, value in flat.items()}
  about = {'format': _FORMAT, 'format_version': str(_VERSION), 'description': text}
  about |= {'sha256': _hash(text, flat), 'package_version': gan_aug_jax.__version__}
  contents = {
    path: safetensors.numpy.save(flat, about),
    path.with_suffix('.stablehlo'): _compile(description, variables),
  }
  program = {
    'arguments': {'seed': 'int32 []', 'labels': 'int32 [b]'},
    'result': f'float32 [b, {", ".join(map(str, description.image_shape))}]',
    'platforms': _PLATFORMS,
    'jax': jax.__version__,
  }
  about |= {'description': dataclasses.asdict(description), 'program': program}
  about['sha256'] = {
    file.name: hashlib.sha256(content).hexdigest() for file, content in contents.items()
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


def _hash(text, arrays):
  """Of a description and {path: array}, so that damage to either shows: hex."""
  digest = hashlib.sha256(text.encode())
  for name in sorted(arrays):
    digest.update(name.encode())
    digest.update(arrays[name])
  return digest.hexdigest()


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


def load_generator(path, *, trained_on=None):
  """Loads a generator that `export` wrote.

  Args:
    path: of NAME.safetensors.
    trained_on: `fingerprint` of one's own training images, to refuse a generator that was
      trained on others and may have seen some of the test images; None asks nothing.

  Returns:
    A `Generator`, its variables on JAX's default device.

  Raises:
    CheckpointError: if the file is missing, damaged, not of this format or not what it
      says, or if the generator was trained on other images.
  """
  path = pathlib.Path(path)
  try:
    with open(path, 'rb') as file:
      header = _read_header(file)
      text, description = _check_header(header, os.fstat(file.fileno()).st_size, file)
      file.seek(0)
      flat = safetensors.numpy.load(file.read())
    if _hash(text, flat) != header['__metadata__'].get('sha256'):
      raise ValueError('its hash is not that of its content: it is damaged')
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise _refusal(path, error) from error
  _check_trained_on(path, description, trained_on)
  return Generator(
    sample=description.make_sampler(),
    variables=traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, flat), sep='/'),
    image_shape=description.image_shape,
    class_names=description.class_names,
    trained_on=description.trained_on,
    name=description.name,
  )


def _refusal(path, error):
  """What is wrong with a file, as a `CheckpointError`."""
  if isinstance(error, FileNotFoundError):
    why = f'There is no {str(path)!r}'
  elif isinstance(error, OSError):
    why = f'{str(path)!r} cannot be read ({error.strerror})'
  else:
    why = f'{str(path)!r} is no generator that can be loaded ({error})'
  return CheckpointError(f'{why}; gan-aug-jax export --workdir=DIR writes one.')


def _read_header(file):
  """The header of an open safetensors file, its JSON object.

  The library reads headers of any content up to 100 MB.
  """
  size = os.fstat(file.fileno()).st_size
  length = int.from_bytes(file.read(8), 'little')
  if size < 8 or not 0 < length <= min(size - 8, _MOST_HEADER_BYTES):
    raise ValueError('it is no safetensors file, or cut short')
  try:
    header = json.loads(file.read(length))
  except (ValueError, RecursionError):
    raise ValueError('its header is not JSON') from None
  if not isinstance(header, dict) or not isinstance(header.get('__metadata__'), dict):
    raise ValueError('its header says nothing of a generator')
  return header


def _check_header(header, size, file):
  """Checks what a file says of itself against its arrays, none of which is read.

  Args:
    header: of `_read_header`.
    size: of the file, in bytes.
    file: positioned behind the header.

  Returns:
    The description as it is in the file, and as a `Description`.
  """
  about = header['__metadata__']
  if about.get('format') != _FORMAT:
    raise ValueError('its header says nothing of a generator')
  if about.get('format_version') != str(_VERSION):
    raise ValueError(
      f'its format is version {str(about.get("format_version"))[:20]}, and this package '
      f'reads version {_VERSION}'
    )
  text = about.get('description')
  if not isinstance(text, str):
    raise ValueError('it has no description')
  description = description_lib.parse(text)
  if description.precision == 'float64' and not jax.config.jax_enable_x64:
    raise CheckpointError(
      "This generator computes in float64; call jax.config.update('jax_enable_x64', "
      'True) before it is loaded.'
    )
  arrays = {name: value for name, value in header.items() if name != '__metadata__'}
  shapes = description.shapes()
  if set(arrays) != set(shapes):
    raise ValueError('its arrays are not those of the network that it describes')
  total = file.tell()
  for name, shape in shapes.items():
    array = arrays[name] if isinstance(arrays[name], dict) else {}
    kind = str(array.get('dtype'))
    if array.get('shape') != list(shape) or kind not in _TYPES:
      raise ValueError(f'its array {name} is not that of the network that it describes')
    total += math.prod(shape) * _TYPES[kind].itemsize
  if total != size:
    raise ValueError('it is cut short, or longer than its arrays')
  return text, description


def _check_trained_on(path, description, trained_on):
  if trained_on is None or description.trained_on == trained_on:
    return
  seen = (
    f'images {description.trained_on}' if description.trained_on else 'unknown images'
  )
  raise CheckpointError(
    f'The generator in {str(path)!r} was trained on {seen}, not on {trained_on}, and may '
    'have seen some of your test images; export one that was trained on yours, or leave '
    'trained_on out.'
  )


def load_program(path, *, trained_on=None):
  """Loads a program that `export` wrote; NAME.json must lie beside it.

  A program is compiled and run: load only those of people whom you trust. Hashes show
  damage, not who wrote a file.

  Args:
    path: of NAME.stablehlo.
    trained_on: see `load_generator`.

  Returns:
    `draw(seed, labels) -> images`: seed a whole number, labels [B], images float32
    [B, H, W, C] in [-1, 1]. Image i hangs on the seed, i and label i alone.

  Raises:
    CheckpointError: see `load_generator`.
  """
  path = pathlib.Path(path)
  try:
    description, digest = _read_about(path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
      raise ValueError('its hash is not the one beside it: it is damaged')
    exported = _deserialize(content, description)
  except (OSError, ValueError) as error:
    raise _refusal(path, error) from error
  _check_trained_on(path, description, trained_on)
  call = jax.jit(exported.call)
  return lambda seed, labels: call(jnp.int32(seed), jnp.asarray(labels, jnp.int32))


def _read_about(path):
  """The `Description` of a program and the hash that it should have."""
  beside = path.with_suffix('.json')
  try:
    with open(beside, 'rb') as file:
      about = json.loads(file.read(_MOST_HEADER_BYTES))
    description, digest = about['description'], about['sha256'][path.name]
  except OSError as error:
    raise ValueError(f'{beside.name} beside it: {error.strerror}') from None
  except (ValueError, RecursionError, KeyError, TypeError):
    raise ValueError(f'{beside.name} beside it is damaged') from None
  return description_lib.parse(json.dumps(description)), digest


def _deserialize(content, description):
  try:
    exported = jax.export.deserialize(bytearray(content))
    arguments = [(x.dtype, len(x.shape)) for x in exported.in_avals]
    (images,) = exported.out_avals
  except Exception as error:  # flatbuffers and JAX raise many kinds
    raise ValueError('JAX cannot read it') from error
  is_as_described = (
    arguments == [(jnp.int32, 0), (jnp.int32, 1)]
    and images.dtype == jnp.float32
    and images.shape[1:] == description.image_shape
  )
  if not is_as_described:
    raise ValueError('it is not the program that is described beside it')
  return exported
