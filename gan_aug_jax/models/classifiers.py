"""Classifiers: `(images [B, H, W, C], train, keys, ...) -> logits [B, num_classes]`.

The softmax is in the loss. In training, `keys` [B] are for dropout. For models with batch
statistics, `valid_mask` bool [B] says which examples count in them, and `synthetic` bool
[B] which are synthetic. The input of the last layer is sown as 'embedding' into the
collection 'intermediates'.
"""

import flax.linen as nn
import jax.numpy as jnp

from gan_aug_jax.models import layers


class CNN(nn.Module):
  """Three times 3x3 convolution, ReLU and 2x2 max-pooling; a hidden layer; logits."""

  num_classes: int
  dropout: float = 0.0
  features: tuple[int, ...] = (32, 64, 128)
  hidden: tuple[int, ...] = (128,)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, *, train, keys=None, valid_mask=None, synthetic=None):
    del valid_mask, synthetic  # No batch statistics.
    x = images.astype(self.dtype)
    for i, features in enumerate(self.features):
      x = layers.conv(features, (3, 3), dtype=self.dtype, use_bias=False)(x)
      wide = layers.param_dtype(self.dtype)
      bias = self.param(f'bias_{i}', nn.initializers.zeros, (features,), wide)
      x = layers.bias_relu_pool(x, bias.astype(self.dtype))
    return _head(self, x, train, keys)


class MLP(nn.Module):
  """Hidden layers, each with ReLU and dropout; logits."""

  num_classes: int
  dropout: float = 0.0
  features: tuple[int, ...] = ()
  hidden: tuple[int, ...] = (128, 64)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, *, train, keys=None, valid_mask=None, synthetic=None):
    del valid_mask, synthetic
    return _head(self, images.astype(self.dtype), train, keys)


class ResNet(nn.Module):
  """Pre-activation residual network for small images.

  He et al. 2016 (arXiv 1603.05027), figure 4 e. There is a stage for each of `features`;
  all but the first halve the image. Then come global average pooling, dropout and logits.
  """

  num_classes: int
  dropout: float = 0.0
  features: tuple[int, ...] = (16, 32, 64)
  hidden: tuple[int, ...] = ()
  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None
  blocks: int = 1
  batch_norm: str = 'shared'

  @nn.compact
  def __call__(self, images, *, train, keys=None, valid_mask=None, synthetic=None):
    def activate(x):
      norm = layers.BatchNorm(self.axis_name, dtype=self.dtype, synthetic=self.batch_norm)
      return nn.relu(norm(x, train=train, valid_mask=valid_mask, synthetic=synthetic))

    def conv(features, size, stride):
      return layers.conv(
        features, (size, size), strides=(stride, stride), use_bias=False, dtype=self.dtype
      )

    x = conv(self.features[0], 3, 1)(images.astype(self.dtype))
    for stage, features in enumerate(self.features):
      for block in range(self.blocks):
        stride = 2 if stage and not block else 1
        active = activate(x)
        if stride > 1 or x.shape[-1] != features:
          x = conv(features, 1, stride)(active)
        residual = activate(conv(features, 3, stride)(active))
        x = x + conv(features, 3, 1)(residual)
    x = jnp.mean(activate(x), axis=(1, 2))
    x = layers.ExampleDropout(self.dropout, len(self.hidden))(x, keys, train=train)
    return _head(self, x, train, keys)


def _head(model, x, train, keys):
  """The fully connected layers of `model.hidden`, dropout after each, then logits."""
  x = x.reshape(x.shape[0], -1)
  for i, features in enumerate(model.hidden):
    x = nn.relu(layers.dense(features, dtype=model.dtype)(x))
    x = layers.ExampleDropout(model.dropout, i)(x, keys, train=train)
  model.sow('intermediates', 'embedding', x)
  # In bfloat16 the two largest of ten are equal for one image in 200.
  return layers.dense(model.num_classes, dtype=layers.param_dtype(model.dtype))(x)


CLASSIFIERS = {'cnn': CNN, 'mlp': MLP, 'resnet': ResNet}


def build_classifier(
  arch: str,
  *,
  num_classes: int,
  dropout: float = 0.0,
  features: tuple[int, ...] = (),
  hidden: tuple[int, ...] = (),
  dtype: jnp.dtype = jnp.float32,
  axis_name: str | None = None,
  blocks: int = 1,
  batch_norm: str = 'shared',
) -> nn.Module:
  """Builds a classifier.

  Args:
    arch: 'cnn', 'mlp' or 'resnet'.
    dropout: rate after each hidden layer and after the resnet's pooling, in [0, 1).
    features: channels of the convolutions; empty for the architecture's default.
    hidden: sizes of the fully connected layers; empty for the architecture's default.
    axis_name: mapped axis of the devices, for the resnet's batch statistics, or None.
    blocks: residual blocks per stage of the resnet.
    batch_norm: of the resnet: 'shared', 'split' or 'real_only', see `layers.BatchNorm`.

  Raises:
    ValueError: if the architecture is unknown.
  """
  if arch not in CLASSIFIERS:
    raise ValueError(f'Classifier {arch!r} is unknown; known: {", ".join(CLASSIFIERS)}.')
  sizes = {'features': tuple(features), 'hidden': tuple(hidden)}
  options = {name: value for name, value in sizes.items() if value}
  if arch == 'resnet':
    options |= {'axis_name': axis_name, 'blocks': blocks, 'batch_norm': batch_norm}
  return CLASSIFIERS[arch](num_classes, dropout, dtype=dtype, **options)
