"""An Equinox classifier trained with 20 % synthetic images, generated in its own step.

    python -m gan_aug_jax export --workdir=runs/first
    python examples/equinox_classifier.py runs/first/export/generator.safetensors

Needs `pip install -e '.[examples]'`.
"""

import sys

import equinox as eqx
import jax
import numpy as np
import optax

import gan_aug_jax
from gan_aug_jax.data import load_dataset

BATCH_SIZE = 128


def apply(model, images):
  return jax.vmap(model)(images.reshape(len(images), -1))


def main(path, num_steps=300):
  dataset = load_dataset('mnist5k', image_size=32, seed=0, val_fraction=1 / 7)
  generator = gan_aug_jax.load_generator(path, trained_on=dataset.fingerprint)
  mix = gan_aug_jax.make_mixer(generator, batch_size=BATCH_SIZE, ratio=0.2)
  optimizer = optax.adam(1e-3)

  @eqx.filter_jit
  def train_step(model, opt_state, variables, key, images, labels):
    images, labels = mix(variables, key, images, labels)

    def mean_loss(model):
      logits = apply(model, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = eqx.filter_value_and_grad(mean_loss)(model)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, loss

  key = jax.random.key(1)
  model = eqx.nn.MLP(32 * 32, 10, 128, depth=1, key=jax.random.key(0))
  opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
  rng = np.random.default_rng(0)
  for step in range(num_steps):
    batch = dataset.train.rows(rng.integers(len(dataset.train), size=BATCH_SIZE))
    inputs = (
      jax.random.fold_in(key, step),
      batch.images / 127.5 - 1,
      batch.labels,
    )
    model, opt_state, loss = train_step(model, opt_state, generator.variables, *inputs)
  logits = eqx.filter_jit(apply)(model, dataset.test.images / 127.5 - 1)
  accuracy = np.mean(logits.argmax(-1) == dataset.test.labels)
  print(f'{num_steps} steps: loss {loss:.3f}, test accuracy {100 * accuracy:.2f} %')


if __name__ == '__main__':
  main(sys.argv[1])
