"""Draws a balanced set of images from a generator, to look at or to score."""

from collections.abc import Callable
import math

import numpy as np

from gan_aug_jax.data.splits import Split
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.step import device_data, rng, sharding
from gan_aug_jax.step.programs import Program


class ImageSampler:
  """Draws synthetic images; `sampler(variables, count, seed=0) -> Split`.

  Images come in rounds of num_classes, one of each class. Pixels are rounded to uint8, as
  those of real images are.
  """

  def __init__(
    self, session, sample: Callable, num_classes: int, *, num_generators: int = 1
  ):
    """Prepares the program, which is compiled at the first call, or by `start`.

    Args:
      sample: `(variables, keys, labels) -> images`.
      num_generators: that take turns by position.
    """
    self._layout, self._num_classes = session.layout, num_classes
    self._period = math.lcm(num_classes, num_generators)

    def draw_step(variables, seed, first):
      layout = session.layout
      position = first + layout.positions(evaluators.BATCH)
      keys = rng.example_keys(rng.stream_key(seed, 'score'), position)
      labels = sharding.flatten(self._labels(position))
      pixels = device_data.to_pixels(sample(variables, sharding.flatten(keys), labels))
      return layout.all_gather(pixels)

    self._program = Program(draw_step, session.layout, donate=())

  def _labels(self, position):
    # Shifted by one whenever the turns of classes and generators begin anew: without the
    # shift, the first of two generators would draw even classes only.
    return (position + position // self._period) % self._num_classes

  def start(self, variables) -> None:
    """Compiles in a thread, for a generator's variables or their shapes."""
    scalar = self._layout.replicated_int(0)
    self._program.start(variables, scalar, scalar)

  def operations(self, variables, count: int) -> float:
    """Floating-point operations of drawing `count` images, see `Program.operations`.

    Args:
      variables: of the generator, placed, or their shapes.
    """
    scalar = self._layout.replicated_int(0)
    each = self._program.operations(variables, scalar, scalar)
    return math.ceil(count / evaluators.BATCH) * each

  def __call__(self, variables, count: int, seed: int = 0) -> Split:
    """Draws images; the first ones are the same for any count.

    Args:
      variables: of the generator, placed.
    """
    scalar, parts = self._layout.replicated_int, []
    for first in range(0, count, evaluators.BATCH):
      parts.append(self._program(variables, scalar(seed), scalar(first)))
      # Fetched while the next ones are drawn, so that the devices hold two calls' images.
      parts[-2:-1] = map(np.asarray, parts[-2:-1])
    labels = self._labels(np.arange(count, dtype=np.int32))
    return Split(evaluators.join(map(np.asarray, parts), count), labels)

  def by_class(self, variables, per_class: int, seed: int = 0) -> np.ndarray:
    """Draws images: uint8 [num_classes, per_class, H, W, C].

    Args:
      variables: of the generator, placed.
    """
    drawn = self(variables, per_class * self._num_classes, seed)
    return stack_by_class(drawn, self._num_classes)


def stack_by_class(split: Split, num_classes: int) -> np.ndarray:
  """The images of a balanced split: uint8 [num_classes, N, H, W, C].

  Args:
    split: with N images of each class.
  """
  order = np.argsort(split.labels, kind='stable')
  return split.images[order].reshape(num_classes, -1, *split.images.shape[1:])
