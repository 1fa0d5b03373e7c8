"""What a generator is beside its weights, and what a file may say of that.

Whoever wrote a file may have meant harm: each value has its limits, and the network that
they describe is made of shapes alone.
"""

import dataclasses
import json

from flax import traverse_util
import jax
import jax.numpy as jnp

from gan_aug_jax.models import generators, layers
from gan_aug_jax.step import rng, sampling


@dataclasses.dataclass(frozen=True)
class Description:
  """All that a generator is beside its weights.

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

  def make_sampler(self):
    """Returns the `sample` of `sampling.make_sampler`."""
    return sampling.make_sampler(
      self._build(),
      self.latent_dim,
      std=self.latent_std,
      truncation=self.truncation,
      interpolation=self.interpolation,
    )

  def shapes(self):
    """Shapes of the variables by path, {'params/...': (...)}; nothing is computed.

    Raises:
      ValueError: if there is no network like that, or it draws other images.
    """
    number = jax.ShapeDtypeStruct((2,), jnp.int32)
    latents = jax.ShapeDtypeStruct((2, self.latent_dim), jnp.float32)
    module, key = self._build(), rng.stream_key(0, 'gan_init')
    init = lambda *inputs: module.init(key, *inputs, train=False)
    try:
      variables = jax.eval_shape(init, latents, number)
      keys = jax.eval_shape(lambda: jax.random.split(key, 2))
      images = jax.eval_shape(self.make_sampler(), variables, keys, number)
    except Exception as error:  # flax and JAX raise many kinds
      raise ValueError('no network is like what it describes') from error
    if images.shape != (2, *self.image_shape):
      raise ValueError(f'what it describes draws images of {list(images.shape[1:])}')
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


def _whole(low, high):
  return lambda value: type(value) is int and low <= value <= high


def _number(high):
  return lambda value: type(value) in (int, float) and 0 <= value <= high


def _one_of(names):
  return lambda value: isinstance(value, str) and value in names


def _is_text(value):
  return isinstance(value, str) and len(value) <= 1000


def _list_of(is_allowed, low, high):
  return lambda value: (
    isinstance(value, list) and low <= len(value) <= high and all(map(is_allowed, value))
  )


# What a file may say of itself.
_ALLOWED = {
  'name': _is_text,
  'arch': _one_of(generators.GENERATORS),
  'image_shape': _list_of(_whole(1, 4096), 3, 3),
  'width': _whole(1, 2**14),
  'upsampling': _one_of(layers.UPSAMPLINGS),
  'precision': _one_of(('float32', 'bfloat16', 'float64')),
  'latent_dim': _whole(1, 2**16),
  'class_names': _list_of(_is_text, 1, 2**17),
  'latent_std': _number(1e6),
  'truncation': _number(1e6),
  'interpolation': _number(1),
  'trained_on': _is_text,
  'seed': _whole(0, 2**31 - 1),
  'step': _whole(0, 2**31 - 1),
}


def parse(text):
  """The `Description` that a JSON text holds.

  Raises:
    ValueError: saying which of its values cannot be.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError):
    raise ValueError('its description is not JSON') from None
  if not isinstance(values, dict) or set(values) != set(_ALLOWED):
    raise ValueError('its description has other fields')
  for name, is_allowed in _ALLOWED.items():
    if not is_allowed(values[name]):
      raise ValueError(f'its {name} cannot be')
  tuples = {name: tuple(values[name]) for name in ('image_shape', 'class_names')}
  return Description(**values | tuples)
