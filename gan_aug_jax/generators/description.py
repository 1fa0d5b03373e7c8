"""All that describes a generator but its weights, and how it is read from a file.

A file may be made to do harm, so its values are checked, and of the network that it
describes only the shapes are computed.
"""

from collections.abc import Callable
import dataclasses
import json

from flax import traverse_util
import jax
import jax.numpy as jnp

from gan_aug_jax.models import generators, layers
from gan_aug_jax.step import rng, sampling


@dataclasses.dataclass(frozen=True)
class Description:
  """All that describes a generator but its weights.

  Attributes:
    name: what messages call it.
    arch, image_shape, width, upsampling: see `generators.build_generator`.
    precision: type that it computes in.
    latent_dim, latent_std, truncation, interpolation: see `sampling.draw_latents`.
    class_names: one a class.
    trained_on: fingerprint of the training images that it saw; '' where unknown.
    seed, step: of its training.
  """

  name: str
  arch: str
  image_shape: tuple[int, int, int]
  width: int
  upsampling: str
  precision: str
  latent_dim: int
  class_names: tuple[str, ...]
  latent_std: float = 1.0
  truncation: float = 0.0
  interpolation: float = 0.0
  trained_on: str = ''
  seed: int = 0
  step: int = 0

  def make_sampler(self) -> Callable:
    """Returns the `sample` of `sampling.make_sampler`."""
    return sampling.make_sampler(
      self._build(),
      self.latent_dim,
      std=self.latent_std,
      truncation=self.truncation,
      interpolation=self.interpolation,
    )

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables by path, {'params/...': (...)}; nothing is computed.

    Raises:
      ValueError: if there is no such network, or it draws images of another shape.
    """
    number = jax.ShapeDtypeStruct((2,), jnp.int32)
    latents = jax.ShapeDtypeStruct((2, self.latent_dim), jnp.float32)
    key = rng.stream_key(0, 'gan_init')
    init = lambda *inputs: self._build().init(key, *inputs, train=False)
    try:
      variables = jax.eval_shape(init, latents, number)
      keys = jax.eval_shape(lambda: jax.random.split(key, 2))
      images = jax.eval_shape(self.make_sampler(), variables, keys, number)
    except Exception as error:  # flax and JAX raise many kinds
      raise ValueError('it describes a network that does not exist') from error
    if images.shape != (2, *self.image_shape):
      raise ValueError(
        f'it describes a network whose images are {list(images.shape[1:])}'
      )
    flat = traverse_util.flatten_dict(variables, sep='/')
    return {path: leaf.shape for path, leaf in flat.items()}

  def _build(self):
    return generators.build_generator(
      self.arch,
      image_shape=self.image_shape,
      num_classes=len(self.class_names),
      width=self.width,
      dtype=jnp.dtype(self.precision),
      upsampling=self.upsampling,
    )


_CHOICES = {
  'arch': generators.GENERATORS,
  'upsampling': layers.UPSAMPLINGS,
  'precision': ('float32', 'bfloat16', 'float64'),
}


def _is_allowed(field, value):
  """Whether JSON gives a field a value of its type, and within the limits."""
  if field.name in _CHOICES:
    return isinstance(value, str) and value in _CHOICES[field.name]
  if field.name == 'class_names':
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
  if field.name == 'image_shape':
    return isinstance(value, list) and len(value) == 3 and all(map(_is_integer, value))
  if field.type is float:
    return type(value) in (int, float) and 0 <= value <= 1e6
  return _is_integer(value) if field.type is int else isinstance(value, str)


def _is_integer(value):
  return type(value) is int and 0 <= value < 2**31


def parse(text: str) -> Description:
  """Reads a description from JSON.

  Raises:
    ValueError: naming a value that is not allowed.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError):
    raise ValueError('its description is not JSON') from None
  fields = {field.name: field for field in dataclasses.fields(Description)}
  if not isinstance(values, dict) or set(values) != set(fields):
    raise ValueError('its description has other fields')
  for name, field in fields.items():
    if not _is_allowed(field, values[name]):
      raise ValueError(f'its {name} is not allowed')
  tuples = {name: tuple(values[name]) for name in ('image_shape', 'class_names')}
  return Description(**values | tuples)
