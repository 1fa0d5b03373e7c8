"""A frozen class-conditional generator: a pure function and its variables."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.data import splits
from gan_aug_jax.errors import ConfigError, DataError
from gan_aug_jax.step import sampling


@dataclasses.dataclass(frozen=True)
class Generator:
  """A frozen class-conditional generator.

  Attributes:
    sample: `(variables, keys [B], labels [B]) -> images [B, H, W, C]`, float in [-1, 1]:
      a pure function whose image i hangs on key i and label i alone.
    variables: pytree of arrays, an argument of `sample` so that it is no constant in a
      program.
    image_shape: (H, W, C).
    class_names: one a class; label i is the i-th.
    trained_on: `fingerprint` of the training images that it saw; '' where unknown.
    name: what messages call it.
  """

  sample: Callable = dataclasses.field(repr=False)
  variables: Any = dataclasses.field(repr=False)  # or a notebook would print them all
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  trained_on: str = ''
  name: str = 'generator'

  @property
  def num_classes(self):
    return len(self.class_names)


def from_function(
  sample,
  variables,
  *,
  image_shape,
  num_classes,
  class_names=None,
  trained_on='',
  name='generator',
):
  """Makes a `Generator` of any function of one key and a batch of labels.

  The function is mapped over examples, a key and a batch of one each, so that an image
  belongs to its example and not to the device or batch that it is drawn in. A network
  must so be in inference mode: one image has no batch statistics.

  Args:
    sample: `(variables, key, labels int32 [B]) -> images [B, H, W, C]`, float in [-1, 1];
      pure, `key` being a typed key.
    variables: pytree of arrays.
    image_shape: (H, W, C).
    num_classes: number of classes.
    class_names: one a class; None for their numbers.
    trained_on: `fingerprint` of the training images that it saw; '' where unknown.
    name: what messages call it.

  Returns:
    A `Generator`. Its `sample` also takes keys [B, m], for m images of each label, and
    carries no gradient.

  Raises:
    ConfigError: if the function fails or returns something else, or if there is not a
      name for each class.
  """
  names = tuple(map(str, range(num_classes) if class_names is None else class_names))
  if len(names) != num_classes:
    raise ConfigError(
      f'Generator {name!r} has num_classes={num_classes} and {len(names)} class_names; '
      'give one a class.'
    )

  def draw(variables, key, label):
    return jax.lax.stop_gradient(sample(variables, key, label[None])[0])

  mapped = sampling.for_candidates(jax.vmap(draw, (None, 0, 0)))
  generator = Generator(mapped, variables, tuple(image_shape), names, trained_on, name)
  check_sample(generator)
  return generator


def check_sample(generator):
  """Traces a draw of two images; see `from_function`."""
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  try:
    drawn = jax.eval_shape(generator.sample, generator.variables, keys, labels)
    found = f'{drawn.dtype}{list(drawn.shape)}'
  except Exception as error:  # of the user's own code, of any kind
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ConfigError(
      f'Drawing from generator {generator.name!r} fails ({reason.removesuffix(".")}); '
      'its sample must take variables, a key and labels, and return images.'
    ) from error
  is_float = jnp.issubdtype(drawn.dtype, jnp.floating)
  if drawn.shape != (2, *generator.image_shape) or not is_float:
    raise ConfigError(
      f'Two images of generator {generator.name!r} are {found}; they must be float '
      f'{[2, *generator.image_shape]} as its image_shape says.'
    )


def fingerprint(images, labels):
  """The fingerprint of training images, for `trained_on`: hex, 16 digits.

  Args:
    images: uint8 [N, H, W, C], all that a generator or classifier is trained on.
    labels: whole numbers [N].

  Raises:
    DataError: if they are anything else, whose hash would equal no other.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  is_whole = np.issubdtype(labels.dtype, np.integer)
  if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
    raise DataError(
      f'A fingerprint is of uint8 images [N, H, W, C] and labels [N], not of '
      f'{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}.'
    )
  if not is_whole:
    raise DataError(f'Labels must be whole numbers, not {labels.dtype}.')
  return splits.Split(images, labels).fingerprint
