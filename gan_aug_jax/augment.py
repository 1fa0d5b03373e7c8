"""Classical augmentation, and DiffAugment, one key an image.

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


def _uniform(keys, low, high, dtype):
  """A number an image, [B, 1, 1, 1]."""
  drawn = jax.vmap(lambda key: jax.random.uniform(key, (), dtype, low, high))(keys)
  return drawn[:, None, None, None]


def _color(keys, images):
  """Brightness +-0.5, saturation up to twice, contrast +-50 %, about the mean."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  dtype = images.dtype
  images = images + _uniform(fold(keys, 0), -0.5, 0.5, dtype)
  grey = jnp.mean(images, axis=3, keepdims=True)
  images = grey + (images - grey) * _uniform(fold(keys, 1), 0.0, 2.0, dtype)
  level = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
  return level + (images - level) * _uniform(fold(keys, 2), 0.5, 1.5, dtype)


def _translation(keys, images):
  """Shifts by up to an eighth of the side, zeros coming in.

  As products with shift matrices: the gradient of a slice at a drawn place is a scatter.
  """

  def matrices(offsets, side):
    to, source = jnp.arange(side)[:, None], jnp.arange(side)
    return (to - source == offsets[:, None, None]).astype(images.dtype)

  height, width = images.shape[1:3]
  limit = max(1, height // 8)
  draw = lambda key: jax.random.randint(key, (2,), -limit, limit + 1)
  offsets = jax.vmap(draw)(keys)
  rows, columns = matrices(offsets[:, 0], height), matrices(offsets[:, 1], width)
  # In full precision, or an accelerator would round the pixels.
  return jnp.einsum('byh,bxw,bhwc->byxc', rows, columns, images, precision='highest')


def _cutout(keys, images):
  """Sets a square of half the side, its centre anywhere, to zero."""
  height, width = images.shape[1:3]

  def outside(key):
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]) + 1)
    inside = lambda at, c, side: (at >= c - side // 4) & (at < c - side // 4 + side // 2)
    rows = inside(jnp.arange(height), centre[0], height)
    columns = inside(jnp.arange(width), centre[1], width)
    return ~(rows[:, None] & columns)

  return images * jax.vmap(outside)(keys)[..., None].astype(images.dtype)


_DIFFERENTIABLE = {
  'color': _color,
  'translation': _translation,
  'cutout': _cutout,
  'flip': random_flip,
}


def make_diffaug(policy):
  """Returns DiffAugment: `augment(keys [B], images [B, H, W, C]) -> images`.

  What the discriminator sees of real and of synthetic images, drawn anew for each, with
  gradients passing through (Zhao et al. 2020, arXiv 2006.10738, section 3).

  Args:
    policy: names among 'color', 'translation', 'cutout' and 'flip'; they are applied in
      this order, whatever the order they are named in.

  Raises:
    ValueError: if a name is unknown.
  """
  unknown = set(policy) - set(_DIFFERENTIABLE)
  if unknown:
    known = ', '.join(_DIFFERENTIABLE)
    raise ValueError(f'DiffAugment has no {min(unknown)!r}; known: {known}.')

  def augment(keys, images):
    for number, (name, transform) in enumerate(_DIFFERENTIABLE.items()):
      if name in policy:
        images = transform(jax.vmap(jax.random.fold_in, (0, None))(keys, number), images)
    return images

  return augment
