"""The frozen generator: labels and keys in, images out, and no gradient back.

The generator's variables are an argument of whatever program samples from them. Closed
over, they would be a constant in it: a larger executable, and one compilation for every
generator.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def draw_latents(keys, latent_dim, dtype=jnp.float32):
  """Standard normal latents, one for each key: [B] to [B, latent_dim]."""
  return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,), dtype))(keys)


def make_render(generator):
  """Returns `render(variables, latents [B, Z], labels [B]) -> images [B, H, W, C]`.

  Args:
    generator: linen module, called with (latent, labels, train=False).

  Returns:
    A pure function. Its images are float in [-1, 1] and carry no gradient; `variables`
    hold 'params' and 'batch_stats'.
  """

  def render(variables, latents, labels):
    images = generator.apply(variables, latents, labels, train=False)
    return jax.lax.stop_gradient(images)

  return render


def make_sampler(generator, latent_dim):
  """Returns `sample(variables, keys [B], labels [B]) -> images [B, H, W, C]`.

  Args:
    generator: linen module, see `make_render`.
    latent_dim: size of the latent.

  Returns:
    A pure function, see `make_render`.
  """
  render = make_render(generator)

  def sample(variables, keys, labels):
    return render(variables, draw_latents(keys, latent_dim), labels)

  return sample


def make_ensemble_sampler(sample, num_members, layout):
  """Returns a `sample` whose variables are those of several generators, stacked.

  Position p of a batch is drawn from generator p mod G, on any number of devices. Each
  device runs a generator on its share only: with n devices, slot s of device d holds
  position d + n s, so every G / gcd(n, G)-th slot belongs to the same generator.

  Args:
    sample: from `make_sampler`.
    num_members: G.
    layout: where the step runs; the batch comes as `sharding.flatten` leaves it.

  Returns:
    `sample(variables, keys [B], labels [B]) -> images`, each leaf of `variables` with a
    leading axis [G].
  """
  num_devices = layout.num_devices
  period = num_members // math.gcd(num_devices, num_members)

  def sample_share(variables, keys, labels):
    parts = []
    for first in range(min(period, len(labels))):
      member = (layout.device_index() + num_devices * first) % num_members
      chosen = jax.tree.map(lambda x, member=member: x[member], variables)
      parts.append(sample(chosen, keys[first::period], labels[first::period]))
    order = np.concatenate(
      [np.arange(len(labels))[first::period] for first in range(len(parts))]
    )
    return jnp.concatenate(parts)[np.argsort(order)]

  return layout.per_device(sample_share)
