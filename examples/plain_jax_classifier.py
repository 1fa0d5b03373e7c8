"""A plain JAX classifier trained with 20 % synthetic images, generated in its own step.

    python -m gan_aug_jax export --workdir=runs/first
    python examples/plain_jax_classifier.py runs/first/export/generator.safetensors

The batch is sharded over all devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import gan_aug_jax
from gan_aug_jax.data import load_dataset

BATCH_SIZE = 128


def apply(params, images):
  (first, bias), (second, shift) = params
  x = images.reshape(len(images), -1)
  return jax.nn.relu(x @ first + bias) @ second + shift


def main(path, num_steps=300):
  mesh = jax.make_mesh((jax.device_count(),), ('data',))
  sharded, replicated = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (['data'], []))
  dataset = load_dataset('mnist5k', image_size=32, seed=0, val_fraction=1 / 7)
  generator = gan_aug_jax.load_generator(path, trained_on=dataset.fingerprint)
  mix = gan_aug_jax.make_mixer(
    generator, batch_size=BATCH_SIZE, ratio=0.2, sharding=sharded
  )
  variables = jax.device_put(generator.variables, replicated)

  @jax.jit
  def train_step(params, variables, key, images, labels):
    images, labels = mix(variables, key, images, labels)

    def mean_loss(params):
      shares = jax.nn.log_softmax(apply(params, images))
      return -jnp.mean(jnp.sum(shares * jax.nn.one_hot(labels, 10), axis=-1))

    loss, grads = jax.value_and_grad(mean_loss)(params)
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), loss

  rng, key = np.random.default_rng(0), jax.random.key(1)
  layer = lambda n, m: (rng.normal(0, n**-0.5, (n, m)).astype('f4'), np.zeros(m, 'f4'))
  params = jax.device_put((layer(32 * 32, 128), layer(128, 10)), replicated)
  for step in range(num_steps):
    batch = dataset.train.rows(rng.integers(len(dataset.train), size=BATCH_SIZE))
    real = jax.device_put((batch.images / 127.5 - 1, batch.labels), sharded)
    params, loss = train_step(params, variables, jax.random.fold_in(key, step), *real)
  logits = jax.jit(apply)(params, dataset.test.images / 127.5 - 1)
  accuracy = np.mean(logits.argmax(-1) == dataset.test.labels)
  print(f'{num_steps} steps: loss {loss:.3f}, test accuracy {100 * accuracy:.2f} %')


if __name__ == '__main__':
  main(sys.argv[1])
