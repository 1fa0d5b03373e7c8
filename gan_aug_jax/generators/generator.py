"""A frozen class-conditional generator: a pure function and its variables."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import external
from gan_aug_jax.data import splits
from gan_aug_jax.errors import ConfigError, DataError
from gan_aug_jax.step import sampling


@dataclasses.dataclass(frozen=True)
class Generator:
  """A frozen class-conditional generator.

  Attributes:
    sample: `(variables, keys [B], labels [B]) -> images [B, H, W, C]`, float in [-1, 1]:
      a pure function whose image i depends on key i and label i alone. Unless they are
      traced, those of `from_function` and `load_generator` check the labels.
    variables: pytree of arrays. `sample` takes them as an argument so that they are no
      constant in a compiled program.
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
  def num_classes(self) -> int:
    return len(self.class_names)


def from_function(
  sample: Callable,
  variables: Any,
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  class_names: Sequence[str] | None = None,
  trained_on: str = '',
  name: str = 'generator',
) -> Generator:
  """Makes a `Generator` from any function of one key and a batch of labels.

  The function is mapped over examples, each with a key and a batch of one label, so that
  an image depends on its example and not on the device or batch that it is drawn in. A
  network must therefore be in inference mode: one image has no batch statistics.

  Args:
    sample: `(variables, key, labels int32 [B]) -> images [B, H, W, C]`, float in [-1, 1];
      pure, `key` being a typed key.
    variables: pytree of arrays.
    image_shape, class_names, trained_on, name: see `Generator`; without class names, the
      classes are called by their numbers.

  Returns:
    A `Generator`. Its `sample` also takes keys [B, m], for m images of each label, and
    carries no gradient.

  Raises:
    ConfigError: if the function fails or returns something else, or if the number of
      class names is not `num_classes`.
  """
  names = tuple(map(str, range(num_classes) if class_names is None else class_names))
  if len(names) != num_classes:
    raise ConfigError(
      f'Generator {name!r} has num_classes={num_classes} but {len(names)} class_names; '
      'give one per class.'
    )

  def draw(variables, key, label):
    return jax.lax.stop_gradient(sample(variables, key, label[None])[0])

  mapped = sampling.for_candidates(jax.vmap(draw, (None, 0, 0)))
  mapped = with_checked_labels(mapped, num_classes, f'Generator {name!r}')
  generator = Generator(mapped, variables, tuple(image_shape), names, trained_on, name)
  _check_sample(generator)
  return generator


def is_concrete(array: Any) -> bool:
  """Whether the values of an array can be looked at: not traced, and on this process."""
  traced = isinstance(array, jax.core.Tracer)
  return not traced and getattr(array, 'is_fully_addressable', True)


def as_if_from_0_to_1(images: Any) -> str:
  """'from LOW to HIGH, ...' if images look as if they were in [0, 1], not [-1, 1]."""
  low, high = float(jnp.min(images)), float(jnp.max(images))
  is_suspect = 0 <= low < high <= 1
  return f'from {low:.3g} to {high:.3g}, as if in [0, 1]' if is_suspect else ''


def check_labels(labels: Any, num_classes: int, whose: str) -> Any:
  """Checks labels, unless they are traced, and makes an array of a list.

  Args:
    labels: integers [B], from 0 to num_classes - 1.
    whose: that got them, for the message.

  Raises:
    ConfigError: if they are anything else, saying what was found and what is allowed.
  """
  if not is_concrete(labels):
    return labels
  labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
  allowed = f'they must be integers [B] from 0 to {num_classes - 1}, one a class'
  if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ConfigError(
      f'{whose} got labels {labels.dtype}{list(labels.shape)}; {allowed}.'
    )
  values = np.asarray(labels)
  wrong = values[(values < 0) | (values >= num_classes)]
  if len(wrong):
    counts_from_1 = values.min() == 1 and values.max() == num_classes
    hint = ' (these count from 1: subtract 1)' if counts_from_1 else ''
    raise ConfigError(f'{whose} got the label {wrong[0]}; {allowed}{hint}.')
  return labels


def with_checked_labels(sample: Callable, num_classes: int, whose: str) -> Callable:
  """Makes a `sample` check its labels; see `check_labels`.

  Args:
    sample: see `Generator`.
    whose: what messages call the generator.
  """

  @functools.wraps(sample)
  def checked(variables, keys, labels):
    return sample(variables, keys, check_labels(labels, num_classes, whose))

  return checked


def _check_sample(generator):
  """Traces a draw of two images, and raises the errors of `from_function`."""
  try:
    drawn = sampling.trace_two(generator.sample, generator.variables)
    found = f'{drawn.dtype}{list(drawn.shape)}'
  except Exception as error:  # any, from the user's code
    raise ConfigError(
      f'Drawing from generator {generator.name!r} fails ({external.reason(error)}); '
      'its sample must take variables, a key and labels, and return images.'
    ) from error
  is_float = jnp.issubdtype(drawn.dtype, jnp.floating)
  if drawn.shape != (2, *generator.image_shape) or not is_float:
    raise ConfigError(
      f'Two images of generator {generator.name!r} are {found}; they must be float '
      f'{[2, *generator.image_shape]}, as its image_shape says.'
    )


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
  """The fingerprint of training images, for `trained_on`: hex, 16 digits.

  Args:
    images: uint8 [N, H, W, C], all that a generator or classifier is trained on.
    labels: integers [N].

  Raises:
    DataError: if they have other types or shapes, whose hash would match no other.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  is_image = images.dtype == np.uint8 and images.ndim == 4
  is_integer = np.issubdtype(labels.dtype, np.integer)
  if not is_image or not is_integer or labels.shape != images.shape[:1]:
    raise DataError(
      'A fingerprint needs uint8 images [N, H, W, C] and integer labels [N], not '
      f'{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}.'
    )
  return splits.Split(images, labels).fingerprint
