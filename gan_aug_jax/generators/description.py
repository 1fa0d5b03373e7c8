"""All that describes a generator but its weights, and how it is read from a file.

A file may be made to do harm, so its values are checked, no code that it names is run,
and of the network that it describes only the shapes are computed.
"""

import dataclasses
import json
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from gan_aug_jax import external
from gan_aug_jax.config.fields import FIELDS
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.generators import families
from gan_aug_jax.generators.family import Family, Setting
from gan_aug_jax.step import sampling, sharding


@dataclasses.dataclass(frozen=True)
class Description:
  """All that describes a generator but its weights.

  Attributes:
    name: what messages call it.
    family: 'gan', 'flow', or 'module:name' of one from outside the package.
    arguments: of the family, {name: value}.
    latents: how they are drawn, {'std', 'truncation', 'interpolation'}, see
      `sampling.draw_latents`; empty where there are none.
    image_shape: (H, W, C).
    class_names: one a class.
    precision: type that it computes in.
    trained_on: fingerprint of the training images that it saw; '' where unknown.
    seed, step: of its training.
  """

  name: str
  family: str
  arguments: dict[str, Any]
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  precision: str = 'float32'
  latents: dict[str, float] = dataclasses.field(default_factory=dict)
  trained_on: str = ''
  seed: int = 0
  step: int = 0

  @property
  def is_external(self) -> bool:
    return self.family not in families.FAMILIES

  def build(self) -> Family:
    """Builds the generator, one of the package's.

    Raises:
      ValueError: if there is none like it.
    """
    info = DataFacts(self.trained_on, self.class_names, self.image_shape, num_train=0)
    setting = Setting(
      info,
      sharding.make_layout('jit', jax.devices()[:1]),
      frozen_dtype=jnp.dtype(self.precision),
    )
    try:
      return families.FAMILIES[self.family](setting, **self.arguments)
    except TypeError as error:
      raise ValueError('it describes a network that does not exist') from error

  def make_sampler(self) -> sampling.Sample:
    """Returns the `sample` of `Family.make_sampler`."""
    return self.build().make_sampler(**self.latents)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables by path, {'params/...': (...)}; nothing is computed.

    Raises:
      ValueError: if there is no such network, or it draws images of another shape.
    """
    try:
      variables = self.build().shapes()['generator']
      images = sampling.trace_two(self.make_sampler(), variables)
    except Exception as error:  # flax and JAX raise many kinds
      raise ValueError('it describes a network that does not exist') from error
    if images.shape != (2, *self.image_shape):
      raise ValueError(
        f'it describes a network whose images are {list(images.shape[1:])}'
      )
    flat = traverse_util.flatten_dict(variables, sep='/')
    return {path: leaf.shape for path, leaf in flat.items()}


def _is_allowed(name, value):
  """Whether JSON gives a field a value of its type, and within the limits."""
  if name == 'family':
    is_text = isinstance(value, str)
    known = is_text and value in families.FAMILIES
    return known or (is_text and re.fullmatch(external.PATTERN, value))
  if name == 'precision':
    return value in ('float32', 'bfloat16', 'float64')
  if name == 'class_names':
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
  if name == 'image_shape':
    return isinstance(value, list) and len(value) == 3 and all(map(_is_integer, value))
  if name in ('arguments', 'latents'):
    return isinstance(value, dict)
  return isinstance(value, str) if name in ('name', 'trained_on') else _is_integer(value)


def _is_integer(value):
  return type(value) is int and 0 <= value < 2**31


def _fields(group, values):
  """The values of a group of the config's fields, each of its type and by its rule."""
  checked = {}
  for name, value in values.items():
    field = FIELDS.get(f'{group}.{name}')
    value = tuple(value) if isinstance(value, list) else value
    kinds = (type(field.default),) if field else ()
    kinds += (int,) if float in kinds else ()
    if type(value) not in kinds or not field.accepts(value):
      raise ValueError(f'its {group}.{name[:40]} is not allowed')
    checked[name] = value
  return checked


def parse(text: str) -> Description:
  """Reads a description from JSON.

  Raises:
    ValueError: naming a value that is not allowed.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError):
    raise ValueError('its description is not JSON') from None
  names = {field.name for field in dataclasses.fields(Description)}
  if not isinstance(values, dict) or set(values) != names:
    raise ValueError('its description has other fields')
  for name in sorted(names):
    if not _is_allowed(name, values[name]):
      raise ValueError(f'its {name} is not allowed')
  values |= {name: tuple(values[name]) for name in ('image_shape', 'class_names')}
  values['latents'] = _fields('latents', values['latents'])
  if values['family'] in families.FAMILIES:
    values['arguments'] = _fields(values['family'], values['arguments'])
  return Description(**values)
