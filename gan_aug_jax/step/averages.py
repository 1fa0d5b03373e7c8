"""The moving average of a network's weights during its training."""

import jax
import jax.numpy as jnp
import optax

from gan_aug_jax.step.sharding import Tree


def update_average(
  average: Tree, variables: Tree, decay: float, num_updates: jax.Array
) -> Tree:
  """Moves an average towards the variables after an update.

  Args:
    average, variables: of the same structure. Integers, such as counters, are taken as
      they are.
    decay: in [0, 1); ramped up, as the average of a short training would otherwise be
      mostly initialisation.
    num_updates: number of earlier updates, int32 scalar.

  Returns:
    The average, of the same structure and types.
  """
  decay = jnp.minimum(decay, (1 + num_updates) / (10 + num_updates))

  def move(old, new):
    if not jnp.issubdtype(new.dtype, jnp.floating):
      return new
    # In float32 or wider: 1 - decay may be 0 in bfloat16.
    return optax.incremental_update(new, old, 1 - decay).astype(new.dtype)

  return jax.tree.map(move, average, variables)
