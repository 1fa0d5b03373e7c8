"""Class-conditional discriminators: `(images [B, H, W, C], labels [B]) -> logits [B]`.

Logits are float32 or wider. They normalise within an example, if at all, so that real and
synthetic batches do not leak into each other and there is nothing to synchronise.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_aug_jax.models import layers

_INIT = nn.initializers.normal(0.02)


class DCGANDiscriminator(nn.Module):
  """The mirror of `DCGANGenerator`: 4 x 4 convolutions with stride 2 down to 4 x 4.

  The label comes in as constant one-hot maps beside the image. Group normalisation takes
  batch normalisation's place.
  """

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels):
    x = images.astype(self.dtype)
    maps = jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)
    maps = jnp.broadcast_to(maps[:, None, None], (*x.shape[:3], self.num_classes))
    x = jnp.concatenate([x, maps], axis=-1)
    conv = functools.partial(
      layers.conv, kernel=(4, 4), strides=(2, 2), dtype=self.dtype, kernel_init=_INIT
    )
    num_halvings = (images.shape[1] // 4).bit_length() - 1
    x = nn.leaky_relu(conv(self.width)(x), 0.2)
    for i in range(1, num_halvings):
      features = self.width * 2**i
      x = conv(features, use_bias=False)(x)
      x = nn.GroupNorm(
        math.gcd(8, features),
        dtype=self.dtype,
        param_dtype=layers.param_dtype(self.dtype),
      )(x)
      x = nn.leaky_relu(x, 0.2)
    x = x.reshape(x.shape[0], -1)
    logits = layers.dense(1, dtype=self.dtype, kernel_init=_INIT)(x)[:, 0]
    return logits.astype(layers.param_dtype(self.dtype))


class MLPDiscriminator(nn.Module):
  """Fully connected: four times `width`, twice and once, on pixels and one-hot label."""

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels):
    one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)
    pixels = images.reshape(images.shape[0], -1).astype(self.dtype)
    x = jnp.concatenate([pixels, one_hot], axis=-1)
    for factor in (4, 2, 1):
      x = nn.leaky_relu(layers.dense(factor * self.width, dtype=self.dtype)(x), 0.2)
    logits = layers.dense(1, dtype=self.dtype)(x)[:, 0]
    return logits.astype(layers.param_dtype(self.dtype))


DISCRIMINATORS = {'dcgan': DCGANDiscriminator, 'mlp': MLPDiscriminator}


def build_discriminator(arch, *, num_classes, width, dtype=jnp.float32):
  """Builds a discriminator, called with (images, labels).

  Args:
    arch: 'dcgan' or 'mlp'.
    num_classes: number of classes.
    width: features of the first convolution ('dcgan'), of the last layer ('mlp').
    dtype: type to compute in.

  Raises:
    ValueError: if the architecture is unknown.
  """
  if arch not in DISCRIMINATORS:
    known = ', '.join(DISCRIMINATORS)
    raise ValueError(f'Discriminator {arch!r} is unknown; known: {known}.')
  return DISCRIMINATORS[arch](num_classes, width, dtype)
