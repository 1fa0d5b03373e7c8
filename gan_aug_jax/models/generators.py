"""Class-conditional generators: `(latent [B, L], labels [B]) -> images [B, H, W, C]`.

Images are in (-1, 1). The one-hot label is joined to the latent (Mirza & Osindero 2014,
arXiv 1411.1784). No layer before a normalisation has a bias: its gradient would be zero
up to rounding, and Adam would blow that rounding up.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_aug_jax.models import layers

# Radford et al. 2015 (arXiv 1511.06434), section 4.
_INIT = nn.initializers.normal(0.02)


def _condition(latent, labels, num_classes, dtype):
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
  return jnp.concatenate([latent.astype(dtype), one_hot], axis=-1)


class DCGANGenerator(nn.Module):
  """The generator of Radford et al. 2015 with sub-pixel upsampling.

  4 x 4 features, doubled in size and halved in depth until the image's size: for 32 x 32
  pixels and width 64, depths 256, 128, 64. On CPU sub-pixel upsampling takes about a
  third of the time of the paper's transposed convolutions.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, latent, labels, *, train):
    size, channels = self.image_shape[0], self.image_shape[-1]
    num_doublings = (size // 4).bit_length() - 1
    conv = functools.partial(layers.conv, dtype=self.dtype, kernel_init=_INIT)
    norm = functools.partial(layers.BatchNorm, self.axis_name, self.dtype)

    depth = self.width * 2 ** (num_doublings - 1)
    x = _condition(latent, labels, self.num_classes, self.dtype)
    x = layers.dense(4 * 4 * depth, dtype=self.dtype, use_bias=False, kernel_init=_INIT)(
      x
    )
    x = x.reshape(-1, 4, 4, depth)
    x = nn.relu(norm()(x, train=train))
    for _ in range(num_doublings - 1):
      depth //= 2
      x = layers.depth_to_space(conv(4 * depth, (3, 3), use_bias=False)(x))
      x = nn.relu(norm()(x, train=train))
    return nn.tanh(layers.depth_to_space(conv(4 * channels, (3, 3))(x)))


class MLPGenerator(nn.Module):
  """Fully connected: `width`, twice and four times that, then the pixels."""

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, latent, labels, *, train):
    x = _condition(latent, labels, self.num_classes, self.dtype)
    for factor in (1, 2, 4):
      x = layers.dense(factor * self.width, dtype=self.dtype, use_bias=False)(x)
      x = layers.BatchNorm(self.axis_name, self.dtype)(x, train=train)
      x = nn.leaky_relu(x, 0.2)
    height, width, channels = self.image_shape
    x = layers.dense(height * width * channels, dtype=self.dtype)(x)
    return nn.tanh(x).reshape(-1, height, width, channels)


GENERATORS = {'dcgan': DCGANGenerator, 'mlp': MLPGenerator}


def build_generator(
  arch, *, image_shape, num_classes, width, axis_name=None, dtype=jnp.float32
):
  """Builds a generator.

  Args:
    arch: 'dcgan' or 'mlp'.
    image_shape: (height, width, channels).
    num_classes: number of classes.
    width: features of the last hidden convolution ('dcgan'), of the first layer ('mlp').
    axis_name: mapped axis that batch statistics are summed over, or None.
    dtype: type to compute in.

  Returns:
    A linen module, called with (latent, labels, train=bool).

  Raises:
    ValueError: if the architecture is unknown.
  """
  if arch not in GENERATORS:
    raise ValueError(f'Generator {arch!r} is unknown; known: {", ".join(GENERATORS)}.')
  return GENERATORS[arch](tuple(image_shape), num_classes, width, axis_name, dtype)
