"""The frozen generator: labels and keys in, images out, and no gradient back.

The generator's variables are an argument of whatever program samples from them. Closed
over, they would be a constant in it: a larger executable, and one compilation for every
generator.
"""

import jax
import jax.numpy as jnp


def draw_latents(keys, latent_dim, dtype=jnp.float32):
  """Standard normal latents, one for each key: [B] to [B, latent_dim]."""
  return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,), dtype))(keys)


def make_sampler(generator, latent_dim):
  """Returns `sample(variables, keys [B], labels [B]) -> images [B, H, W, C]`.

  Args:
    generator: linen module, called with (latent, labels, train=False).
    latent_dim: size of the latent.

  Returns:
    A pure function. Its images are float in [-1, 1] and carry no gradient; `variables`
    hold 'params' and 'batch_stats'.
  """

  def sample(variables, keys, labels):
    latents = draw_latents(keys, latent_dim)
    images = generator.apply(variables, latents, labels, train=False)
    return jax.lax.stop_gradient(images)

  return sample
