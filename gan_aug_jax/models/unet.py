"""The velocity network of a flow: `(images, times, labels) -> velocities`, a small U-Net.

After Ronneberger et al. 2015 (arXiv 1505.04597) and Dhariwal & Nichol 2021 (2105.05233),
section 3 and appendix A, without attention. It works on patches of 2 x 2 pixels, which
costs a quarter (Hoogeboom et al. 2023, 2301.11093, section 3.3).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.models import layers

# A class embedding is a product with one-hot rows, and the row of this label is empty.
NO_CLASS = -1

_PATCH = 2
# In half turns from time 0 to 1. High frequencies help no network that is smooth in time.
_FREQUENCIES = 2.0 ** np.arange(6)


class ResidualBlock(nn.Module):
  """Two convolutions next to a skip connection; at first it is the skip alone.

  The condition scales and shifts the normalised features between the two.
  """

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, condition):
    """Maps x [B, H, W, F] and condition [B, E] to [B, H, W, features]."""
    conv = functools.partial(layers.conv, self.features, dtype=self.dtype, use_bias=False)
    skip = x if x.shape[-1] == self.features else conv((1, 1))(x)
    x = conv((3, 3))(nn.silu(layers.group_norm(x, dtype=self.dtype)))
    change = layers.dense(2 * self.features, dtype=self.dtype)(condition)
    scale, shift = jnp.split(change[:, None, None], 2, axis=-1)
    x = layers.group_norm(x, dtype=self.dtype, use_scale=False, use_bias=False)
    x = nn.silu(x * (1 + scale) + shift)
    return skip + conv((3, 3), kernel_init=nn.initializers.zeros)(x)


class UNet(nn.Module):
  """A residual block for each size down to 4 x 4 patches, and back up again.

  Attributes:
    image_shape: (height, width, channels), the side even and at least 8.
    num_classes: number of classes.
    width: features at the largest size; the others have twice as many.
    dtype: type to compute in.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, times, labels):
    """Computes velocities.

    Args:
      images: float [B, H, W, C].
      times: float [B] in [0, 1].
      labels: int32 [B]; `NO_CLASS` for images of any class.

    Returns:
      Velocities [B, H, W, C], of the type to compute in.
    """
    block = functools.partial(ResidualBlock, dtype=self.dtype)
    condition = self._condition(times, labels)
    x = layers.conv(self.width, (3, 3), dtype=self.dtype)(_to_patches(images))
    x, skips = block(self.width)(x, condition), []
    while x.shape[1] % 2 == 0 and x.shape[1] > 4:
      skips.append(x)
      x = block(2 * self.width)(layers.avg_pool_2x2(x), condition)
    x = block(x.shape[-1])(x, condition)
    for skip in reversed(skips):
      x = jnp.concatenate([layers.repeat_2x2(x), skip], axis=-1)
      x = block(skip.shape[-1])(x, condition)
    x = nn.silu(layers.group_norm(x, dtype=self.dtype))
    depth, zeros = _PATCH**2 * self.image_shape[-1], nn.initializers.zeros
    head = layers.conv(depth, (3, 3), dtype=self.dtype, kernel_init=zeros)
    return layers.depth_to_space(head(x))

  def _condition(self, times, labels):
    """The embedding [B, 4 * width] of times and labels."""
    dense = functools.partial(layers.dense, 4 * self.width, dtype=self.dtype)
    angles = times[:, None] * (np.pi * _FREQUENCIES).astype(times.dtype)
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)
    embedded = dense()(waves) + dense(use_bias=False)(one_hot)
    return nn.silu(dense()(nn.silu(embedded)))


def _to_patches(x):
  """[B, H, W, C] to [B, H // 2, W // 2, 4 * C], inverse to `layers.depth_to_space`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    batch, height // _PATCH, width // _PATCH, _PATCH**2 * channels
  )
