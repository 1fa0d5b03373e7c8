"""Classical augmentation, MixUp and CutMix, and DiffAugment, with one key per image.

Each function takes keys [B] and images [B, H, W, C], so what happens to an image depends
on its key alone and not on the batch or device it is in. Written here rather than taken
from dm_pix or augmax: neither has cutout, MixUp or CutMix, and their flips and crops of
small images are no faster (docs/design.md).
"""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from gan_aug_jax.step.rng import fold_keys


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each image left to right with probability one half.

  Args:
    keys: key array [B].
    images: float [B, H, W, C].

  Returns:
    Images of the same shape.
  """
  return jnp.where(_coins(keys)[:, None, None, None], images[:, :, ::-1], images)


def _coins(keys):
  """A bool per image, [B]."""
  return jax.vmap(jax.random.bernoulli)(keys)


def random_crop(
  keys: jax.Array, images: jax.Array, padding: int, mirrored: jax.Array | None = None
) -> jax.Array:
  """Shifts each image by up to `padding` pixels each way, mirroring at the border.

  All of it is one gather, which takes half as long as a pad, a slice and a flip.

  Args:
    keys: key array [B].
    images: float [B, H, W, C], H and W above `padding`.
    padding: largest shift in pixels.
    mirrored: bool [B], which of the results to mirror left to right; None for none.

  Returns:
    Images of the same shape.
  """
  height, width = images.shape[1:3]
  draw = lambda key: jax.random.randint(key, (2,), -padding, padding + 1)
  offsets = jax.vmap(draw)(keys)
  columns = jnp.arange(width)
  if mirrored is not None:
    columns = jnp.where(mirrored[:, None], columns[::-1], columns)
  rows = _reflect(jnp.arange(height) + offsets[:, :1], height)
  columns = _reflect(columns + offsets[:, 1:], width)

  def read(image, rows, columns):
    return image.at[rows[:, None], columns].get(mode='promise_in_bounds')

  return jax.vmap(read)(images, rows, columns)


def _reflect(places, side):
  """Where in [0, side) the mirror image of a place in (-side, 2 * side - 1) is."""
  places = jnp.abs(places)
  return jnp.where(places < side, places, 2 * (side - 1) - places)


def random_color(
  keys: jax.Array, images: jax.Array, *, brightness, saturation, contrast
) -> jax.Array:
  """Changes brightness, then saturation, then contrast, about the image's own mean.

  Args:
    keys: key array [B].
    images: float [B, H, W, C].
    brightness: largest change, in the pixels' units.
    saturation, contrast: largest relative change.

  Returns:
    Images of the same shape, not clipped.
  """
  dtype = images.dtype
  about = lambda number, middle, most: _uniform(
    fold_keys(keys, number), middle - most, middle + most, dtype
  )
  images = images + about(0, 0.0, brightness)
  grey = jnp.mean(images, axis=3, keepdims=True)
  images = grey + (images - grey) * about(1, 1.0, saturation)
  level = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
  return level + (images - level) * about(2, 1.0, contrast)


def random_cutout(keys: jax.Array, images: jax.Array, side: tuple[int, int]) -> jax.Array:
  """Sets a rectangle to 0, mid-grey. Its centre is anywhere, so it may be cut off.

  DeVries & Taylor 2017 (arXiv 1708.04552), section 3.

  Args:
    keys: key array [B].
    images: float [B, H, W, C].
    side: (height, width) of the rectangle in pixels.

  Returns:
    Images of the same shape.
  """
  # So that the first pixels of an image are as often in it as the last.
  limits = jnp.array(images.shape[1:3]) + 1 - jnp.array(side) % 2
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, limits))(keys)
  sides = jnp.broadcast_to(jnp.array(side), centres.shape)
  return jnp.where(_boxes(centres, sides, images), 0, images)


def _boxes(centres, sides, images):
  """Which pixels of images lie in boxes: bool [B, H, W, 1].

  Args:
    centres, sides: int32 [B, 2], down and across.
    images: [B, H, W, C].
  """

  def inside(axis):
    at = jnp.arange(images.shape[1 + axis])
    low = (centres[:, axis] - sides[:, axis] // 2)[:, None]
    return (at >= low) & (at < low + sides[:, axis, None])

  return (inside(0)[:, :, None] & inside(1)[:, None, :])[..., None]


def make_augment(
  *,
  crop: int = 0,
  flip: bool = False,
  color: float = 0.0,
  cutout: int = 0,
  custom: Callable | None = None,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns `augment(keys [B], images [B, H, W, C]) -> images`.

  Args:
    crop: largest shift in pixels; 0 for none.
    flip: whether to mirror at random.
    color: largest change of brightness, saturation and contrast, in [0, 1]; 0 for none.
    cutout: side in pixels of a square that is blanked; 0 for none.
    custom: `(key, image [H, W, C]) -> image`, applied last; None for none.
  """

  def augment(keys, images):
    if crop:
      mirrored = _coins(fold_keys(keys, 1)) if flip else None
      images = random_crop(fold_keys(keys, 0), images, crop, mirrored)
    elif flip:
      images = random_flip(fold_keys(keys, 1), images)
    if color:
      size = {'brightness': color, 'saturation': color, 'contrast': color}
      images = random_color(fold_keys(keys, 2), images, **size)
      images = jnp.clip(images, -1, 1)
    if cutout:
      images = random_cutout(fold_keys(keys, 3), images, (cutout, cutout))
    if custom:
      images = jax.vmap(custom)(fold_keys(keys, 4), images).astype(images.dtype)
    return images

  return augment


def make_mix(*, mixup: float = 0.0, cutmix: float = 0.0) -> Callable | None:
  """Returns the function that mixes each image with a partner, or None if nothing does.

  MixUp (Zhang et al. 2017, arXiv 1710.09412, section 2) blends the two; CutMix (Yun et
  al. 2019, 1905.04899, section 3.1) puts a rectangle of the partner into the image. With
  both, each image gets one of them by chance. The partner's part is the smaller one, as
  in MixMatch (Berthelot et al. 2019, 1905.02249, equation 9), so that a synthetic image
  with a real partner stays mostly synthetic.

  Args:
    mixup, cutmix: alpha of Beta(alpha, alpha), from which the parts come; 0 for none.

  Returns:
    `mix(keys [B], (images, targets), (partners, partner_targets)) -> (images, targets)`,
    images [B, H, W, C] and targets [B, num_classes].
  """
  if not (mixup or cutmix):
    return None
  mixup_part, cutmix_part = (alpha and _smaller_parts(alpha) for alpha in (mixup, cutmix))

  def mix(keys, one, other):
    (images, targets), (partners, partner_targets) = one, other
    part = jnp.zeros((len(images), 1, 1, 1), images.dtype)
    if mixup:
      part = mixup_part(fold_keys(keys, 0), images.dtype)[:, None, None, None]
    if cutmix:
      area = cutmix_part(fold_keys(keys, 1), images.dtype)
      inside = _random_boxes(fold_keys(keys, 2), area, images)
      if mixup:
        coin = jax.vmap(jax.random.bernoulli)(fold_keys(keys, 3))[:, None, None, None]
        part = jnp.where(coin, inside, part)
      else:
        part = inside.astype(images.dtype)
    share = jnp.mean(part, axis=(1, 2, 3))[:, None]
    mixed = images + part * (partners - images)
    return mixed, targets + share * (partner_targets - targets)

  return mix


def _random_boxes(keys, area, images):
  """Boxes of an area [B], relative to the image's, anywhere: bool [B, H, W, 1]."""
  limits = jnp.array(images.shape[1:3])
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, limits))(keys)
  return _boxes(centres, _box_sides(area, limits), images)


def _box_sides(area, limits):
  """Sides of boxes of an area [B] up to one half, in whole pixels: int32 [B, 2]."""
  sides = jnp.sqrt(area)[:, None] * limits
  nearest = jnp.rint(sides).astype(jnp.int32)
  too_large = 2 * jnp.prod(nearest, axis=1, keepdims=True) > jnp.prod(limits)
  return jnp.where(too_large, jnp.floor(sides).astype(jnp.int32), nearest)


def _smaller_parts(alpha, size=1024):
  """Returns `draw(keys [B], dtype)` of min(x, 1 - x) [B], x of Beta(alpha, alpha).

  From a table of quantiles: a rejection sampler is a loop that ends with the last example
  on any device, which all devices would have to communicate at every turn.
  """
  table = scipy.special.betaincinv(alpha, alpha, np.linspace(0, 0.5, size + 1))

  def draw(keys, dtype):
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), dtype))(keys)
    heights = jnp.asarray(table, dtype)
    place = uniform * size
    below = jnp.clip(place.astype(jnp.int32), 0, size - 1)
    low, high = heights[below], heights[below + 1]
    return low + (place - below) * (high - low)

  return draw


def _uniform(keys, low, high, dtype):
  """One number per image, [B, 1, 1, 1]."""
  drawn = jax.vmap(lambda key: jax.random.uniform(key, (), dtype, low, high))(keys)
  return drawn[:, None, None, None]


def _translation(keys, images):
  """Shifts by up to an eighth of the side, filling with zeros.

  By products with shift matrices: the gradient of a slice at a drawn place is a scatter.
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


def _half_cutout(keys, images):
  return random_cutout(keys, images, (images.shape[1] // 2, images.shape[2] // 2))


_DIFFERENTIABLE = {
  'color': functools.partial(random_color, brightness=0.5, saturation=1.0, contrast=0.5),
  'translation': _translation,
  'cutout': _half_cutout,
  'flip': random_flip,
}


def make_diffaug(
  policy: Sequence[str],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns DiffAugment: `augment(keys [B], images [B, H, W, C]) -> images`.

  It augments real and synthetic images, each with its own draw, before the discriminator
  sees them, and lets gradients through (Zhao et al. 2020, arXiv 2006.10738, section 3).

  Args:
    policy: names among 'color', 'translation', 'cutout' and 'flip', which are applied in
      that order.

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
        images = transform(fold_keys(keys, number), images)
    return images

  return augment
