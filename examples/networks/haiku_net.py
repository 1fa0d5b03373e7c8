"""A Haiku network: its pair of pure functions, with batch statistics as state.

--config.classifier.arch=examples.networks.haiku_net:make
"""

import haiku as hk
import jax


def make(num_classes):
  def network(images, train):
    x = hk.Conv2D(16, 3, stride=2, with_bias=False)(images)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=train))
    x = hk.dropout(hk.next_rng_key(), 0.1, x) if train else x
    return hk.nets.MLP([32, num_classes])(hk.Flatten()(x))

  network = hk.transform_with_state(network)

  def apply(params, state, images, *, train, key):
    return network.apply(params, state, key, images, train)

  return lambda key, images: network.init(key, images, True), apply
