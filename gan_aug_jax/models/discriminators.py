"""Class-conditional discriminators: `(images [B, H, W, C], labels [B], train) -> [B]`.

Logits are float32 or wider. Any normalisation is within an example, so that real and
synthetic batches do not leak into each other and there is nothing to synchronise. With
spectral normalisation, `train` keeps the vectors of its power iteration.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_aug_jax.models import layers

_INIT = nn.initializers.normal(0.02)


def _project(x, labels, num_classes, *, dtype, train):
  """The projection head: `v x + y V x` of the features x of a whole image.

  Miyato & Koyama 2018 (arXiv 1802.05637), equation 3, sum the features over the image
  first. Small networks, which see it in patches, then cannot tell where things are: on
  MNIST the samples collapsed to one blot per class.

  Args:
    x: features [B, H, W, F].
    labels: int32 [B].
    train: see `layers.spectral`.

  Returns:
    Logits [B], float32 or wider.
  """
  wide = layers.param_dtype(dtype)
  x = x.reshape(x.shape[0], -1)
  logits = layers.spectral(layers.dense(1, dtype=wide), x, train=train)[:, 0]
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
  embed = layers.dense(x.shape[-1], dtype=dtype, use_bias=False)
  projections = layers.spectral(embed, one_hot, train=train) * x
  return logits + jnp.sum(projections, axis=-1, dtype=wide)


class DCGANDiscriminator(nn.Module):
  """The mirror of `DCGANGenerator`: 4 x 4 convolutions with stride 2 down to 4 x 4.

  The label enters as constant one-hot maps next to the image. Group normalisation
  replaces batch normalisation.
  """

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels, *, train=False):
    del train
    x = images.astype(self.dtype)
    maps = jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)
    maps = jnp.broadcast_to(maps[:, None, None], (*x.shape[:3], self.num_classes))
    x = jnp.concatenate([x, maps], axis=-1)
    conv = functools.partial(
      layers.conv, kernel=(4, 4), strides=(2, 2), dtype=self.dtype, kernel_init=_INIT
    )
    x = nn.leaky_relu(conv(self.width)(x), 0.2)
    for i in range(1, layers.num_doublings(images.shape[1])):
      features = self.width * 2**i
      x = conv(features, use_bias=False)(x)
      x = nn.leaky_relu(layers.group_norm(x, dtype=self.dtype), 0.2)
    x = x.reshape(x.shape[0], -1)
    wide = layers.param_dtype(self.dtype)
    return layers.dense(1, dtype=wide, kernel_init=_INIT)(x)[:, 0]


class SNGANDiscriminator(nn.Module):
  """Spectrally normalised and as small as `DCGANDiscriminator`.

  4 x 4 convolutions with stride 2 down to 4 x 4, and the projection head. Table 3 of
  Miyato et al. 2018 (arXiv 1802.05957) has 3 x 3 convolutions in between, which take four
  times as long.
  """

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels, *, train=False):
    x = images.astype(self.dtype)
    for i in range(layers.num_doublings(images.shape[1])):
      layer = layers.conv(self.width * 2**i, (4, 4), strides=(2, 2), dtype=self.dtype)
      x = nn.leaky_relu(layers.spectral(layer, x, train=train), 0.1)
    return _project(x, labels, self.num_classes, dtype=self.dtype, train=train)


class ResNetDiscriminator(nn.Module):
  """The residual discriminator of Miyato et al. 2018 (arXiv 1802.05957), table 4.

  Residual blocks of one depth, which halve the image down to 8 x 8, then two that do not;
  spectral normalisation and the projection head. The paper's width is 128.
  """

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels, *, train=False):
    x = images.astype(self.dtype)
    x = self._block(x, train, halve=True, first=True)
    for _ in range(layers.num_doublings(images.shape[1]) - 2):
      x = self._block(x, train, halve=True)
    for _ in range(2):
      x = self._block(x, train, halve=False)
    return _project(nn.relu(x), labels, self.num_classes, dtype=self.dtype, train=train)

  def _block(self, x, train, *, halve, first=False):
    def conv(x, kernel):
      layer = layers.conv(self.width, kernel, dtype=self.dtype)
      return layers.spectral(layer, x, train=train)

    pool = layers.avg_pool_2x2 if halve else lambda x: x
    # The 1 x 1 convolution commutes with the pooling, and is cheaper after it.
    skip = conv(pool(x), (1, 1)) if halve else x
    if not first:  # pixels need no rectifying
      x = nn.relu(x)
    x = nn.relu(conv(x, (3, 3)))
    return skip + pool(conv(x, (3, 3)))


class MLPDiscriminator(nn.Module):
  """Fully connected layers of 4, 2 and 1 times `width`, on pixels and one-hot label."""

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, labels, *, train=False):
    del train
    pixels = images.reshape(images.shape[0], -1)
    x = layers.join_label(pixels, labels, self.num_classes, dtype=self.dtype)
    for factor in (4, 2, 1):
      x = nn.leaky_relu(layers.dense(factor * self.width, dtype=self.dtype)(x), 0.2)
    return layers.dense(1, dtype=layers.param_dtype(self.dtype))(x)[:, 0]


DISCRIMINATORS = {
  'dcgan': DCGANDiscriminator,
  'mlp': MLPDiscriminator,
  'sngan': SNGANDiscriminator,
  'resnet': ResNetDiscriminator,
}


def build_discriminator(
  arch: str, *, num_classes: int, width: int, dtype: jnp.dtype = jnp.float32
) -> nn.Module:
  """Builds a discriminator, called with (images, labels, train=bool).

  Args:
    arch: 'dcgan', 'mlp', 'sngan' or 'resnet'.
    width: features of the first convolution, or of the last hidden layer of an 'mlp'.

  Raises:
    ValueError: if the architecture is unknown.
  """
  if arch not in DISCRIMINATORS:
    known = ', '.join(DISCRIMINATORS)
    raise ValueError(f'Discriminator {arch!r} is unknown; known: {known}.')
  return DISCRIMINATORS[arch](num_classes, width, dtype)
