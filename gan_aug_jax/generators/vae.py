"""A generator other than a GAN: a small class-conditional variational autoencoder.

    python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/vae \\
        --config.generator.family=gan_aug_jax.generators.vae:train

Kingma & Welling 2013 (arXiv 1312.6114), with the label as an input of both networks
(Sohn et al. 2015). It trains in seconds, on the run's own training images only, and
records that.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.data import datasets
from gan_aug_jax.generators.generator import from_function, Generator

LATENT, WIDTH, BATCH_SIZE = 8, 256, 128


class Encoder(nn.Module):
  """(images [B, H, W, C], one-hot labels [B, K]) to mean and log variance [B, LATENT]."""

  @nn.compact
  def __call__(self, images, one_hot):
    x = jnp.concatenate([images.reshape(len(images), -1), one_hot], -1)
    return jnp.split(nn.Dense(2 * LATENT)(nn.relu(nn.Dense(WIDTH)(x))), 2, -1)


class Decoder(nn.Module):
  """(latents [B, LATENT], one-hot labels [B, K]) to images [B, H, W, C] in [-1, 1]."""

  image_shape: tuple[int, int, int]

  @nn.compact
  def __call__(self, latent, one_hot):
    x = nn.relu(nn.Dense(WIDTH)(jnp.concatenate([latent, one_hot], -1)))
    x = nn.tanh(nn.Dense(np.prod(self.image_shape))(x))
    return x.reshape(-1, *self.image_shape)


def train(dataset: datasets.Dataset, num_steps: int = 2000) -> Generator:
  """Trains a VAE and returns its decoder as a generator.

  Args:
    dataset: only its training images are used.
    num_steps: steps of Adam.

  Returns:
    A `Generator`.
  """
  images, labels = dataset.train.images, dataset.train.labels
  encoder, decoder = Encoder(), Decoder(dataset.image_shape)
  one_hot = lambda labels: jax.nn.one_hot(labels, dataset.num_classes)

  def loss_fn(params, key, x, y):
    mean, log_var = encoder.apply(params['encoder'], x, y)
    latent = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
    error = jnp.sum(jnp.square(decoder.apply(params['decoder'], latent, y) - x))
    divergence = jnp.sum(jnp.exp(log_var) + jnp.square(mean) - 1 - log_var) / 2
    # With a larger weight of the error, the latent would encode the class, too.
    return (error / 6 + divergence) / len(x)

  optimizer = optax.adam(1e-3)

  @jax.jit
  def step(params, opt_state, key, images, labels):
    x, y = images / 127.5 - 1, one_hot(labels)
    grads = jax.grad(loss_fn)(params, key, x, y)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state

  key, like = jax.random.key(0), np.zeros((1, *dataset.image_shape), np.float32)
  no_label = one_hot(np.zeros(1, np.int32))
  params = {
    'encoder': encoder.init(key, like, no_label),
    'decoder': decoder.init(key, np.zeros((1, LATENT)), no_label),
  }
  opt_state, rows = optimizer.init(params), np.random.default_rng(0)
  for number in range(num_steps):
    batch = rows.integers(0, len(images), BATCH_SIZE)
    key_now = jax.random.fold_in(key, number)
    params, opt_state = step(params, opt_state, key_now, images[batch], labels[batch])

  def sample(variables, key, labels):
    latent = jax.random.normal(key, (len(labels), LATENT))
    return decoder.apply(variables, latent, one_hot(labels))

  return from_function(
    sample,
    params['decoder'],
    image_shape=dataset.image_shape,
    num_classes=dataset.num_classes,
    trained_on=dataset.fingerprint,
    name='a class-conditional VAE',
  )
