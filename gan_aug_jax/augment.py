"""Classical augmentation, one key an image.

Each function takes keys [B] and images [B, H, W, C], so what happens to an image depends
on its key alone and not on the batch or device it is in.
"""

import jax
import jax.numpy as jnp


def random_flip(keys, images):
  """Mirrors each image left to right with probability one half.

  Args:
    keys: key array [B].
    images: float [B, H, W, C].

  Returns:
    Images of the same shape.
  """
  flip = jax.vmap(jax.random.bernoulli)(keys)
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(keys, images, padding):
  """Shifts each image by up to `padding` pixels each way, mirroring at the border.

  Args:
    keys: key array [B].
    images: float [B, H, W, C], H and W above `padding`.
    padding: largest shift in pixels.

  Returns:
    Images of the same shape.
  """
  height, width = images.shape[1:3]
  border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  padded = jnp.pad(images, border, mode='reflect')
  offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)

  def crop(image, offset):
    start = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, start, (height, width, image.shape[-1]))

  return jax.vmap(crop)(padded, offsets)


def make_augment(*, crop=0, flip=False):
  """Returns `augment(keys [B], images [B, H, W, C]) -> images`.

  Args:
    crop: largest shift in pixels; 0 for none.
    flip: whether to mirror at random.
  """

  def augment(keys, images):
    fold = jax.vmap(jax.random.fold_in, (0, None))
    if crop:
      images = random_crop(fold(keys, 0), images, crop)
    if flip:
      images = random_flip(fold(keys, 1), images)
    return images

  return augment
