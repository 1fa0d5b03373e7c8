"""The frozen generator: labels and keys in, images out, and no gradient back."""

from collections.abc import Callable
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.step import device_data
from gan_aug_jax.step.sharding import Layout

# `(variables, keys [B, ...], labels [B]) -> images [B, ..., H, W, C]`, float in [-1, 1].
Sample = Callable[[dict, jax.Array, jax.Array], jax.Array]
# `(variables, latents [B, ...], labels [B]) -> images [B, H, W, C]`, float in [-1, 1].
Render = Callable[[dict, jax.Array, jax.Array], jax.Array]


def draw_latents(
  keys: jax.Array,
  shape: tuple[int, ...],
  dtype: jnp.dtype = jnp.float32,
  *,
  std: float = 1.0,
  truncation: float = 0.0,
  interpolation: float = 0.0,
) -> jax.Array:
  """Draws a normal latent for each key: [B] to [B, *shape].

  Args:
    keys: key array [B].
    std: standard deviation. GaFi (Dell'Acqua et al. 2023, arXiv 2305.10118) searches from
      1 up; below 1 images are more typical and more alike.
    truncation: largest magnitude of a number in standard deviations, larger ones being
      redrawn (Brock et al. 2018, 1809.11096, section 3.1); 0 for none.
    interpolation: above 0, up to 1: a latent lies on the straight line between two, up to
      that part of the way. (On a great circle its distribution would not change.)
  """

  def normal(key):
    if truncation:
      drawn = jax.random.truncated_normal(key, -truncation, truncation, shape, dtype)
    else:
      drawn = jax.random.normal(key, shape, dtype)
    return drawn if std == 1 else std * drawn

  def draw(key):
    if not interpolation:
      return normal(key)
    ends = [normal(jax.random.fold_in(key, number)) for number in (0, 1)]
    way = jax.random.uniform(jax.random.fold_in(key, 2), (), dtype, maxval=interpolation)
    return ends[0] + way * (ends[1] - ends[0])

  return jax.vmap(draw)(keys)


def make_render(generator: nn.Module) -> Render:
  """Returns the `Render` of a linen module that is called with (latents, labels, train).

  Its `variables` hold 'params' and 'batch_stats'.
  """
  return lambda variables, *inputs: generator.apply(variables, *inputs, train=False)


def make_sampler(
  render: Render, latent_shape: tuple[int, ...], **latents: float
) -> Sample:
  """Returns `sample(variables, keys [B, ...], labels [B]) -> images [B, ..., H, W, C]`.

  Args:
    **latents: see `draw_latents`.

  Returns:
    A pure function, whose images carry no gradient. With keys [B, m] it draws m images of
    each label.
  """

  def sample(variables, keys, labels):
    drawn = draw_latents(keys, latent_shape, **latents)
    return jax.lax.stop_gradient(render(variables, drawn, labels))

  return for_candidates(sample)


def trace_two(sample: Sample, variables: Any) -> jax.ShapeDtypeStruct:
  """Traces a draw of two images; returns their shape and type.

  Args:
    variables: or their shapes.
  """
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  return jax.eval_shape(sample, variables, keys, labels)


def for_candidates(sample: Sample) -> Sample:
  """Lets a `sample` of keys [B] take keys [B, ...], for several images of each label."""

  @functools.wraps(sample)
  def sample_all(variables, keys, labels):
    repeated = _repeat(labels, keys.shape)
    images = sample(variables, keys.reshape(-1), repeated)
    return images.reshape(*keys.shape, *images.shape[1:])

  return sample_all


def _repeat(labels, shape):
  """Labels [B] repeated to the shape [B, ...], flattened."""
  per_row = math.prod(shape[1:])
  return jnp.broadcast_to(labels[:, None], (shape[0], per_row)).reshape(-1)


def make_pool_sampler() -> Sample:
  """Returns a `sample` that draws from existing images instead of a generator.

  They were generated in advance; or they are real, as an oracle of a generator that
  repeats its training set or draws new images like it. Its variables are from
  `group_by_class`.
  """

  def sample(variables, keys, labels):
    draw = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count))
    place = variables['first'][labels] + draw(keys, variables['count'][labels])
    return device_data.normalize(variables['images'][place])

  return for_candidates(sample)


def group_by_class(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
  """Sorts images by class, for `make_pool_sampler`.

  Args:
    images: uint8 [N, H, W, C].
    labels: [N].

  Returns:
    {'images': uint8 [N, H, W, C], 'first': int32 [num_classes], where a class begins,
    'count': int32 [num_classes]}.
  """
  count = np.bincount(labels, minlength=num_classes).astype(np.int32)
  order = np.argsort(labels, kind='stable')
  first = (np.cumsum(count) - count).astype(np.int32)
  return {'images': images[order], 'first': first, 'count': count}


def make_noise_sampler(image_shape: tuple[int, int, int]) -> Sample:
  """Returns a `sample` of uniform noise in [-1, 1] for any label.

  A control for generated images: everything but their content.
  """

  def sample(variables, keys, labels):
    draw = jax.vmap(lambda key: jax.random.uniform(key, image_shape, minval=-1, maxval=1))
    return draw(keys)

  return for_candidates(sample)


def mislabel(sample: Sample, num_classes: int) -> Sample:
  """Makes a `sample` draw images of another class than the label's, uniformly.

  A control: the images are the generator's, and what they teach is wrong.

  Args:
    num_classes: at least 2.
  """

  def mislabelled(variables, keys, labels):
    first = keys.reshape(len(labels), -1)[:, 0]
    shift = jax.vmap(
      lambda key: jax.random.randint(jax.random.fold_in(key, 3), (), 1, num_classes)
    )
    return sample(variables, keys, (labels + shift(first)) % num_classes)

  return mislabelled


def make_discriminator_logits(discriminator: nn.Module) -> Callable:
  """Returns `(variables, images [B, m, H, W, C], labels [B]) -> logits [B, m]`.

  A pure function of a linen module called with (images, labels). The logits carry no
  gradient; `variables` hold 'params' and 'spectral'.
  """

  def discriminator_logits(variables, images, labels):
    rows = images.reshape(-1, *images.shape[2:])
    logits = discriminator.apply(variables, rows, _repeat(labels, images.shape[:2]))
    return jax.lax.stop_gradient(logits.reshape(images.shape[:2]))

  return discriminator_logits


def make_ensemble(function: Callable, num_members: int, layout: Layout) -> Callable:
  """Turns a function of one network's variables into one of several networks', stacked.

  Position p of a batch belongs to network p mod G, on any number of devices. Each device
  runs a network on its share only: with n devices, slot s of device d holds position
  d + n s, so every G / gcd(n, G)-th slot belongs to the same network.

  Args:
    function: `(variables, *arrays [B, ...]) -> array [B, ...]`, such as a `Sample`.
    num_members: G; with a single one, the function stays as it is.
    layout: where the step runs; the batch comes as `sharding.flatten` leaves it.

  Returns:
    `(variables, *arrays) -> array`, each leaf of `variables` with a leading axis [G].
  """
  if num_members == 1:
    return function
  num_devices = layout.num_devices
  period = num_members // math.gcd(num_devices, num_members)

  def share(variables, *arrays):
    size = len(arrays[0])
    turns = min(period, size)
    # A network's slots in each row, the last one repeated where they are fewer.
    slots = np.arange(-(-size // turns) * turns).reshape(-1, turns).T
    slots = np.minimum(slots, size - 1)

    def run(_, turn):
      first, rows = turn
      member = (layout.device_index() + num_devices * first) % num_members
      return None, function(jax.tree.map(lambda x: x[member], variables), *rows)

    rows = (np.arange(turns), [x[slots] for x in arrays])
    _, parts = layout.scan(run, None, rows)
    parts = jnp.stack(parts, axis=1)
    return parts.reshape(-1, *parts.shape[2:])[:size]

  return layout.map_devices(share)
