"""The evaluation of one chunk of images."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gan_aug_jax.step import device_data, losses
from gan_aug_jax.step.sharding import flatten, Layout


def make_eval_step(
  *, model: nn.Module, layout: Layout, dtype: jnp.dtype = jnp.float32
) -> Callable:
  """Returns the evaluation of one chunk, in evaluation mode on un-augmented images.

  Args:
    model: linen module from `build_classifier`.
    dtype: of the images, float32 or wider.

  Returns:
    `eval_step(variables, images uint8 [N, H, W, C], labels int32 [N], count) -> dict`,
    over the first `count` images: confusion int32 [true, predicted]; loss, the sum in
    nats; predictions int32 [N rounded up to the devices].
  """
  num_classes = model.num_classes

  def eval_step(variables, images, labels, count):
    positions = layout.positions(len(images))
    x = device_data.normalize(images.at[positions].get(mode='clip'), dtype)
    y = flatten(labels.at[positions].get(mode='clip'))
    logits = model.apply(variables, flatten(x), train=False)
    predicted = jnp.argmax(logits, -1).astype(jnp.int32)
    inside = flatten(positions < count)
    cell = y * num_classes + predicted
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(inside.astype(jnp.int32))
    sums = {
      'confusion': counts.reshape(num_classes, num_classes),
      'loss': jnp.sum(inside * losses.cross_entropy(logits, y)),
    }
    return {**layout.sum(sums), 'predictions': layout.all_gather(predicted)}

  return eval_step
