"""Class-conditional generators: `(latent [B, Z], labels [B], train) -> images`.

Images are in (-1, 1). No convolution before a normalisation has a bias, even further up a
residual stream: its gradient would be zero up to rounding, and Adam would blow that up.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from gan_aug_jax.models import layers

# Radford et al. 2015 (arXiv 1511.06434), section 4.
_INIT = nn.initializers.normal(0.02)


class DCGANGenerator(nn.Module):
  """The generator of Radford et al. 2015, with the label joined to the latent.

  4 x 4 features, doubled in size and halved in depth up to the image's size: for 32 x 32
  pixels and width 64, the depths are 256, 128, 64.

  Attributes:
    conditional_norm: whether each class has its own scale and bias for the normalised
      features, as in the `sngan` (Miyato & Koyama 2018, arXiv 1802.05637).
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  upsampling: str = 'transposed'
  conditional_norm: bool = False

  @nn.compact
  def __call__(self, latent, labels, *, train):
    size, channels = self.image_shape[0], self.image_shape[-1]
    num_doublings = layers.num_doublings(size)
    options = {'dtype': self.dtype, 'kernel_init': _INIT}
    upsample = functools.partial(layers.UPSAMPLINGS[self.upsampling], **options)
    classes = self.num_classes if self.conditional_norm else 0
    norm = functools.partial(layers.BatchNorm, self.axis_name, self.dtype, classes)

    depth = self.width * 2 ** (num_doublings - 1)
    x = layers.join_label(latent, labels, self.num_classes, dtype=self.dtype)
    x = layers.dense(4 * 4 * depth, use_bias=False, **options)(x)
    x = x.reshape(-1, 4, 4, depth)
    x = nn.relu(norm()(x, train=train, labels=labels))
    for _ in range(num_doublings - 1):
      depth //= 2
      x = upsample(x, depth, use_bias=False)
      x = nn.relu(norm()(x, train=train, labels=labels))
    return nn.tanh(upsample(x, channels))


class ResNetGenerator(nn.Module):
  """The residual generator of Miyato et al. 2018 (arXiv 1802.05957), table 4.

  4 x 4 features, a residual block for each doubling, all of the same depth, and
  conditional batch normalisation. The paper's width is 256, twice the discriminator's.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  upsampling: str = 'transposed'

  @nn.compact
  def __call__(self, latent, labels, *, train):
    size, channels = self.image_shape[0], self.image_shape[-1]
    norm = functools.partial(layers.BatchNorm, self.axis_name, self.dtype)
    x = layers.dense(4 * 4 * self.width, dtype=self.dtype)(latent.astype(self.dtype))
    x = x.reshape(-1, 4, 4, self.width)
    for _ in range(layers.num_doublings(size)):
      x = self._block(x, labels, train)
    x = nn.relu(norm()(x, train=train))
    return nn.tanh(layers.conv(channels, (3, 3), dtype=self.dtype)(x))

  def _block(self, x, labels, train):
    norm = functools.partial(
      layers.BatchNorm, self.axis_name, self.dtype, self.num_classes
    )
    conv = functools.partial(layers.conv, self.width, dtype=self.dtype, use_bias=False)
    # The 1 x 1 convolution commutes with the doubling, and is cheaper before it.
    skip = layers.repeat_2x2(conv((1, 1))(x))
    x = nn.relu(norm()(x, train=train, labels=labels))
    upsample = layers.UPSAMPLINGS[self.upsampling]
    x = upsample(x, self.width, dtype=self.dtype, use_bias=False)
    x = nn.relu(norm()(x, train=train, labels=labels))
    return skip + conv((3, 3))(x)


class MLPGenerator(nn.Module):
  """Fully connected layers of 1, 2 and 4 times `width`, then the pixels."""

  image_shape: tuple[int, int, int]
  num_classes: int
  width: int
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  upsampling: str = 'transposed'  # not used

  @nn.compact
  def __call__(self, latent, labels, *, train):
    x = layers.join_label(latent, labels, self.num_classes, dtype=self.dtype)
    for factor in (1, 2, 4):
      x = layers.dense(factor * self.width, dtype=self.dtype, use_bias=False)(x)
      x = layers.BatchNorm(self.axis_name, self.dtype)(x, train=train)
      x = nn.leaky_relu(x, 0.2)
    height, width, channels = self.image_shape
    x = layers.dense(height * width * channels, dtype=self.dtype)(x)
    return nn.tanh(x).reshape(-1, height, width, channels)


GENERATORS = {
  'dcgan': DCGANGenerator,
  'mlp': MLPGenerator,
  'sngan': functools.partial(DCGANGenerator, conditional_norm=True),
  'resnet': ResNetGenerator,
}


def build_generator(
  arch: str,
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  width: int,
  axis_name: str | None = None,
  dtype: jnp.dtype = jnp.float32,
  upsampling: str = 'transposed',
) -> nn.Module:
  """Builds a generator.

  Args:
    arch: 'dcgan', 'mlp', 'sngan' or 'resnet'.
    image_shape: (height, width, channels); all but 'mlp' need a side of 8, 16, 32...
    width: features of the last hidden convolution, or of the first layer of an 'mlp'.
    axis_name: mapped axis that batch statistics are summed over, or None.
    upsampling: 'subpixel' (Shi et al. 2016), 'nearest' (then a 3 x 3 convolution) or
      'transposed' (4 x 4 convolutions, as in Radford et al.).

  Returns:
    A linen module, called with (latent, labels, train=bool).

  Raises:
    ValueError: if the architecture or the upsampling is unknown.
  """
  if arch not in GENERATORS:
    raise ValueError(f'Generator {arch!r} is unknown; known: {", ".join(GENERATORS)}.')
  if upsampling not in layers.UPSAMPLINGS:
    known = ', '.join(layers.UPSAMPLINGS)
    raise ValueError(f'Upsampling {upsampling!r} is unknown; known: {known}.')
  return GENERATORS[arch](
    tuple(image_shape),
    num_classes,
    width,
    axis_name=axis_name,
    dtype=dtype,
    upsampling=upsampling,
  )
