"""Classifiers: `(images [B, H, W, C], train, keys, weights) -> logits [B, num_classes]`.

The softmax is in the loss. `keys` [B] feed dropout and `weights` [B] the batch
statistics, for models that have them; neither is read outside training. What goes into
the last layer is sown as 'embedding' into the collection 'intermediates'.
"""

import flax.linen as nn
import jax.numpy as jnp

from gan_aug_jax.models import layers


class CNN(nn.Module):
  """3x3 convolution, ReLU and 2x2 max-pooling, thrice; a hidden layer; the classes."""

  num_classes: int
  dropout: float = 0.0
  features: tuple[int, ...] = (32, 64, 128)
  hidden: tuple[int, ...] = (128,)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, *, train, keys=None, weights=None):
    del weights  # No batch statistics.
    x = images.astype(self.dtype)
    for features in self.features:
      x = layers.conv(features, (3, 3), dtype=self.dtype)(x)
      x = layers.max_pool_2x2(nn.relu(x))
    return _head(self, x, train, keys)


class MLP(nn.Module):
  """Hidden layers with ReLU and dropout after each; the classes."""

  num_classes: int
  dropout: float = 0.0
  features: tuple[int, ...] = ()
  hidden: tuple[int, ...] = (128, 64)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, *, train, keys=None, weights=None):
    del weights
    return _head(self, images.astype(self.dtype), train, keys)


def _head(model, x, train, keys):
  """Fully connected layers of `model.hidden`, dropout after each, then the logits."""
  x = x.reshape(x.shape[0], -1)
  for i, features in enumerate(model.hidden):
    x = nn.relu(layers.dense(features, dtype=model.dtype)(x))
    x = layers.ExampleDropout(model.dropout, i)(x, keys, train=train)
  model.sow('intermediates', 'embedding', x)
  return layers.dense(model.num_classes, dtype=model.dtype)(x)


CLASSIFIERS = {'cnn': CNN, 'mlp': MLP}


def build_classifier(
  arch, *, num_classes, dropout=0.0, features=(), hidden=(), dtype=jnp.float32
):
  """Builds a classifier.

  Args:
    arch: 'cnn' or 'mlp'.
    num_classes: number of classes.
    dropout: rate after each hidden layer, in [0, 1).
    features: channels of the convolutions; empty for the architecture's own.
    hidden: sizes of the fully connected layers; empty for the architecture's own.
    dtype: type to compute in.

  Raises:
    ValueError: if the architecture is unknown.
  """
  if arch not in CLASSIFIERS:
    raise ValueError(f'Classifier {arch!r} is unknown; known: {", ".join(CLASSIFIERS)}.')
  sizes = {'features': tuple(features), 'hidden': tuple(hidden)}
  sizes = {name: value for name, value in sizes.items() if value}
  return CLASSIFIERS[arch](num_classes, dropout, dtype=dtype, **sizes)
