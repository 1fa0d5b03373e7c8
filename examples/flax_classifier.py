"""A Flax classifier trained with 20 % synthetic images, generated in its own step.

python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/first
python -m gan_aug_jax export --workdir=runs/first
python examples/flax_classifier.py runs/first/export/generator.safetensors
"""

import sys

import flax.linen as nn
from flax.training.train_state import TrainState
import jax
import numpy as np
import optax

import gan_aug_jax
from gan_aug_jax.data import load_dataset

BATCH_SIZE = 128


class Classifier(nn.Module):
  @nn.compact
  def __call__(self, x):
    for features in (16, 32):
      x = nn.relu(nn.Conv(features, (3, 3), strides=2)(x))
    return nn.Dense(10)(x.reshape(len(x), -1))


def main(path, num_steps=300):
  dataset = load_dataset('mnist5k', image_size=32, seed=0, val_fraction=1 / 7)
  generator = gan_aug_jax.load_generator(path, trained_on=dataset.fingerprint)
  mix = gan_aug_jax.make_mixer(generator, batch_size=BATCH_SIZE, ratio=0.2)

  @jax.jit
  def train_step(state, variables, key, images, labels):
    key = jax.random.fold_in(key, state.step)
    images, labels = mix(variables, key, images, labels)

    def mean_loss(params):
      logits = state.apply_fn(params, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    return state.apply_gradients(grads=grads), loss

  model = Classifier()
  params = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1)))
  state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
  rng, key = np.random.default_rng(0), jax.random.key(1)
  for _ in range(num_steps):
    batch = dataset.train.rows(rng.integers(len(dataset.train), size=BATCH_SIZE))
    images = batch.images / 127.5 - 1
    state, loss = train_step(state, generator.variables, key, images, batch.labels)
  logits = jax.jit(model.apply)(state.params, dataset.test.images / 127.5 - 1)
  accuracy = np.mean(logits.argmax(-1) == dataset.test.labels)
  print(f'{num_steps} steps: loss {loss:.3f}, test accuracy {100 * accuracy:.2f} %')


if __name__ == '__main__':
  main(sys.argv[1])
