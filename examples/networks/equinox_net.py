"""An Equinox network: its arrays are the parameters, and the rest is closed over.

--config.classifier.arch=examples.networks.equinox_net:make
"""

import equinox as eqx
import jax


class Network(eqx.Module):
  conv: eqx.nn.Conv2d
  dropout: eqx.nn.Dropout
  head: eqx.nn.MLP

  def __init__(self, image_shape, num_classes, key):
    height, width, channels = image_shape
    keys = jax.random.split(key)
    self.conv = eqx.nn.Conv2d(channels, 8, 4, stride=4, key=keys[0])
    self.dropout = eqx.nn.Dropout(0.1)
    size = 8 * (height // 4) * (width // 4)
    self.head = eqx.nn.MLP(size, num_classes, 32, depth=1, key=keys[1])

  def __call__(self, image, key):
    x = jax.nn.relu(self.conv(image.transpose(2, 0, 1))).reshape(-1)
    return self.head(self.dropout(x, key=key, inference=key is None))


def make(num_classes, image_shape):
  new = lambda key: Network(image_shape, num_classes, key)
  static = eqx.partition(eqx.filter_eval_shape(new, jax.random.key(0)), _is_array)[1]

  def init(key, images):
    return eqx.filter(new(key), eqx.is_array), ()

  def apply(params, state, images, *, keys):  # one key per example: any devices agree
    network = eqx.combine(params, static)
    if keys is None:
      return jax.vmap(lambda image: network(image, None))(images), state
    return jax.vmap(network)(images, keys), state

  return init, apply


def _is_array(x):
  return isinstance(x, jax.ShapeDtypeStruct)
