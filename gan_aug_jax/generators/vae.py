"""A generator other than a GAN: a small class-conditional variational autoencoder.

    python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/vae \\
        --config.generator.family=gan_aug_jax.generators.vae:train

Kingma & Welling 2013 (arXiv 1312.6114), with the label as an input of both networks
(Sohn et al. 2015). It is written as one of your own would be, and trains in seconds.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_aug_jax.generators.family import Family, from_loss, generator, Setting


class MLP(nn.Module):
  """Two layers on arrays [B, ...], joined by example."""

  width: int
  outputs: int

  @nn.compact
  def __call__(self, *inputs):
    x = jnp.concatenate([x.reshape(x.shape[0], -1) for x in inputs], -1)
    return nn.Dense(self.outputs)(nn.relu(nn.Dense(self.width)(x)))


@generator
def train(setting: Setting, *, width: int = 256, latent: int = 8) -> Family:
  """Returns a variational autoencoder, whose decoder is the generator.

  Args:
    width: of the hidden layers.
    latent: size of the latent.
  """
  shape = setting.image_shape
  encoder, decoder = MLP(width, 2 * latent), MLP(width, math.prod(shape))
  one_hot = lambda labels: jax.nn.one_hot(labels, setting.num_classes)

  def init(key):
    label = one_hot(jnp.zeros(1, int))
    encoder_key, decoder_key = jax.random.split(key)
    return {
      'encoder': encoder.init(encoder_key, jnp.zeros((1, *shape)), label),
      'decoder': decoder.init(decoder_key, jnp.zeros((1, latent)), label),
    }

  def render(params, latents, labels):
    pixels = decoder.apply(params['decoder'], latents, one_hot(labels))
    return jnp.tanh(pixels).reshape(-1, *shape)

  def loss(params, keys, images, labels):
    encoded = encoder.apply(params['encoder'], images, one_hot(labels))
    mean, log_var = jnp.split(encoded, 2, -1)
    noise = jax.vmap(lambda key: jax.random.normal(key, (latent,)))(keys)
    drawn = render(params, mean + jnp.exp(log_var / 2) * noise, labels)
    error = jnp.sum(jnp.square(drawn - images), (1, 2, 3))
    divergence = jnp.sum(jnp.exp(log_var) + jnp.square(mean) - 1 - log_var, -1) / 2
    # With a larger weight of the error, the latent would encode the class, too.
    return error / 6 + divergence

  return from_loss(
    setting, title='VAE', init=init, loss=loss, render=render, latent_shape=(latent,)
  )
