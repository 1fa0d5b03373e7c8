"""A Flax nnx network: split into its graph, its parameters and all other state.

--config.classifier.arch=examples.networks.nnx_net:make
"""

from flax import nnx
import jax


class Network(nnx.Module):
  def __init__(self, image_shape, num_classes, rngs):
    height, width, channels = image_shape
    self.conv = nnx.Conv(channels, 16, (3, 3), strides=2, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
    size = 16 * -(-height // 2) * -(-width // 2)
    self.dropout = nnx.Dropout(0.1)
    self.head = nnx.Linear(size, num_classes, rngs=rngs)

  def __call__(self, x, rngs):
    x = nnx.relu(self.norm(self.conv(x)))
    return self.head(self.dropout(x.reshape(len(x), -1), rngs=rngs))


def make(num_classes, image_shape):
  new = lambda key: Network(image_shape, num_classes, nnx.Rngs(key))
  graph = nnx.graphdef(nnx.eval_shape(lambda: new(jax.random.key(0))))

  def init(key, images):
    _, params, state = nnx.split(new(key), nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

  def apply(params, state, images, *, train, key):
    network = nnx.merge(graph, params, state)
    network = nnx.view(network, deterministic=not train, use_running_average=not train)
    logits = network(images, nnx.Rngs(key) if train else None)
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

  return init, apply
