"""Networks as initialised: what a step costs does not hang on what they have learned."""

import numpy as np

from gan_aug_jax import data, gan_training
from gan_aug_jax.workdir import describe_data


def frozen_generator(session, dataset):
  """The `FrozenGenerator` of a GAN before its first step."""
  _, state = gan_training.make_step(session, dataset)
  generator = {'params': state.ema, 'batch_stats': state.generator_stats}
  discriminator = {'params': state.discriminator, 'spectral': state.discriminator_stats}
  return gan_training.FrozenGenerator(
    gan_training.make_sampler(session, describe_data(dataset)),
    session.layout.place(generator),
    discriminator=session.layout.place(discriminator),
  )


def noise_dataset(image_shape, *, num_classes=10, per_class=200):
  """Images of noise, for timing where no prepared dataset is needed."""
  random = np.random.default_rng(0)

  def split(count):
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), count)
    shape = (len(labels), *image_shape)
    return data.Split(random.integers(0, 256, shape, np.uint8), labels)

  names = tuple(map(str, range(num_classes)))
  return data.Dataset('noise', names, split(per_class), split(10), split(10))
