"""Images of noise, for timing where no prepared dataset is needed."""

import numpy as np

from gan_aug_jax.data import datasets


def make_dataset(image_shape, *, num_classes=10, per_class=200):
  """A `Dataset` of random pixels; its validation and test splits have 10 a class."""
  random = np.random.default_rng(0)

  def split(count):
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), count)
    shape = (len(labels), *image_shape)
    return datasets.Split(random.integers(0, 256, shape, np.uint8), labels)

  names = tuple(map(str, range(num_classes)))
  return datasets.Dataset('noise', names, split(per_class), split(10), split(10))
