"""Random images, for timings that need no prepared dataset."""

import numpy as np

from gan_aug_jax.data import datasets


def make_dataset(
  image_shape: tuple[int, int, int], *, num_classes: int = 10, per_class: int = 200
) -> datasets.Dataset:
  """Makes a `Dataset` of random pixels, with 10 validation and 10 test images per class.

  Args:
    image_shape: (H, W, C).
    num_classes: number of classes.
    per_class: training images per class.

  Returns:
    The `Dataset`.
  """
  random = np.random.default_rng(0)

  def split(count):
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), count)
    shape = (len(labels), *image_shape)
    return datasets.Split(random.integers(0, 256, shape, np.uint8), labels)

  names = tuple(map(str, range(num_classes)))
  return datasets.Dataset('noise', names, split(per_class), split(10), split(10))
