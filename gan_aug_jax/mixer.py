"""Synthetic images in your own training loop: a generator, and mixing it in.

    generator = gan_aug_jax.load_generator('generator.safetensors')
    mix = gan_aug_jax.make_mixer(generator, batch_size=128, ratio=0.2)

    @jax.jit
    def train_step(state, variables, key, images, labels):
      images, labels = mix(variables, key, images, labels)
      ...  # as before

Pure: arrays in, arrays out. Its public names are in `gan_aug_jax/__init__.py`.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators.generator import (
  as_if_from_0_to_1,
  check_labels,
  is_concrete,
)
from gan_aug_jax.step import batches, class_labels, plans, rng

Mix = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_mixer(
  generator: Any,
  *,
  batch_size: int,
  ratio: float,
  mode: str = 'replace',
  class_shares: Sequence[float] | np.ndarray | None = None,
  sharding: jax.sharding.NamedSharding | None = None,
  axis_name: str | None = None,
) -> Mix:
  """Returns `mix(variables, key, images, labels) -> (images, labels)` for your own step.

  S = round(ratio * B) images of a batch are synthetic, drawn from the given key, with
  drawn labels and without a gradient. If the batch is split over n devices, in contiguous
  shares, slot s of device d is position d + n * s, which is synthetic if and only if it
  is below S. So each device draws its own images, at most one more than another does, and
  nothing moves between them. Position p has the same image and label on any devices.

  Args:
    generator: a `Generator`.
    batch_size: B, over all devices; a multiple of n.
    ratio: S / B, in [0, 1]. At 0 the program does not contain the generator.
    mode: 'replace' real images, or 'add' to them: the batch then has B + S images, and S
      must be a multiple of n.
    class_shares: relative frequency of each class among the synthetic images
      [num_classes]; None for equal ones.
    sharding: under `jax.jit` over several devices, the batch's `NamedSharding`.
    axis_name: inside `jax.pmap` or `jax.shard_map`, the mapped axis that the batch is
      split over; images and labels are then one device's share.

  Returns:
    A pure function of the generator's variables; a scalar key, which must change with the
    step, as in `jax.random.fold_in(key, step)`; images [B, H, W, C], float in [-1, 1];
    and labels [B], integers. Images keep their type.

  Raises:
    ConfigError: if the arguments do not fit together, here or when `mix` is traced; or
      if arrays that are not traced have other labels, or images in [0, 1].
  """
  mix_unchecked = _make_mix(
    generator,
    _plan(batch_size, ratio, mode),
    class_shares=class_shares,
    sharding=sharding,
    axis_name=axis_name,
  )

  def mix(variables, key, images, labels):
    _check_values(generator, images, labels)
    return mix_unchecked(variables, key, images, labels)

  return mix


def _make_mix(generator, plan, *, class_shares, sharding, axis_name):
  """`make_mixer` of a plan; does not look at the values of a batch."""
  if sharding is not None and axis_name:
    raise ConfigError('Give make_mixer a sharding or an axis_name, not both.')
  class_probs = _class_probs(class_shares, generator.num_classes)
  if not plan.num_synthetic:
    return lambda variables, key, images, labels: (images, labels)
  mix_share = functools.partial(_mix_share, generator, plan, class_probs)
  if axis_name:

    def mix_mapped(variables, key, images, labels):
      _check_divides(plan, jax.lax.axis_size(axis_name))
      return mix_share(axis_name, variables, key, images, labels)

    return mix_mapped
  axes = _batch_axes(sharding)
  if not axes:
    return functools.partial(mix_share, None)
  _check_divides(plan, math.prod(sharding.mesh.shape[axis] for axis in axes))
  replicated, split = jax.P(), jax.P(axes)
  return jax.shard_map(
    functools.partial(mix_share, axes),
    mesh=sharding.mesh,
    in_specs=(replicated, replicated, split, split),
    out_specs=(split, split),
    check_vma=False,  # or a loop in a generator would have to mark its carry
  )


def _class_probs(shares, num_classes):
  """Class shares as probabilities, or None."""
  if shares is None:
    return None
  shares = np.asarray(shares, np.float32)
  fits = shares.shape == (num_classes,) and np.all(np.isfinite(shares))
  if not fits or np.any(shares < 0) or not np.sum(shares) > 0:
    raise ConfigError(
      f'class_shares={shares.tolist()} must be {num_classes} numbers of at least 0, one '
      'per class, not all of them 0.'
    )
  return shares / np.sum(shares)


def _plan(batch_size, ratio, mode):
  try:
    plan = plans.plan_batch(batch_size, ratio=ratio, mode=mode)
  except ValueError as error:
    raise ConfigError(str(error)) from None
  if ratio and not plan.num_synthetic:
    raise ConfigError(
      f'ratio={ratio} of batch_size={batch_size} is less than half an image; raise one '
      'of them, or set ratio=0.'
    )
  return plan


def _batch_axes(sharding):
  """The mesh axes that a batch's first axis is split over."""
  if sharding is None:
    return ()
  if not isinstance(sharding, jax.sharding.NamedSharding):
    kind = type(sharding).__name__
    raise ConfigError(f'make_mixer takes the NamedSharding of a batch, not {kind}.')
  first = (*sharding.spec, None)[0]
  return first if isinstance(first, tuple) else (first,) * (first is not None)


def _check_divides(plan, num_devices):
  """Checks that every device gets the same number of positions."""
  if plan.batch_size % num_devices:
    raise ConfigError(
      f'batch_size={plan.batch_size} must be a multiple of the {num_devices} devices.'
    )
  if plan.adds and plan.num_synthetic % num_devices:
    raise ConfigError(
      f"With mode='add' the {plan.num_synthetic} synthetic images of a batch must be a "
      f'multiple of the {num_devices} devices; choose another ratio.'
    )


def _mix_share(generator, plan, class_probs, axes, variables, key, images, labels):
  """Mixes one device's share of a batch that is split over some axes."""
  device, num_devices = 0, 1
  if axes:
    device, num_devices = jax.lax.axis_index(axes), jax.lax.axis_size(axes)
  _check_batch(generator, plan.batch_size // num_devices, images, labels)
  count = -(-plan.num_synthetic // num_devices)
  positions = device + num_devices * jnp.arange(count, dtype=jnp.int32)
  # threefry for any kind of key, see `rng`.
  label_key, latent_key = jax.random.wrap_key_data(
    jax.random.bits(key, (2, 2), jnp.uint32), impl='threefry2x32'
  )
  drawn = class_labels.draw_labels(
    rng.example_keys(label_key, positions), generator.num_classes, class_probs
  )
  keys = rng.example_keys(latent_key, positions)
  synthetic = jax.lax.stop_gradient(generator.sample(variables, keys, drawn))

  def join(real, synthetic):
    if plan.adds:
      return jnp.concatenate([synthetic.astype(real.dtype), real])
    is_synthetic = positions < plan.num_synthetic
    rows = (x[None] for x in (real, synthetic, is_synthetic))
    return batches.select_synthetic(*rows)[0]

  return join(images, synthetic), join(labels, drawn)


def _check_batch(generator, count, images, labels):
  """Checks the `count` examples of a device's share while they are traced."""
  expected = (count, *generator.image_shape)
  if images.shape != expected or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ConfigError(
      f'mix got images {images.dtype}{list(images.shape)}; it takes float '
      f'{list(expected)} in [-1, 1], as generator {generator.name!r} draws them '
      '(uint8 images are images / 127.5 - 1).'
    )
  if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ConfigError(
      f'mix got labels {labels.dtype}{list(labels.shape)}; it takes integers [{count}] '
      '(make them one-hot afterwards).'
    )


def _check_values(generator, images, labels):
  """Checks the values of a batch, unless it is traced and has none."""
  are_integers = labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer)
  if is_concrete(labels) and are_integers:
    check_labels(labels, generator.num_classes, 'mix')
  are_floats = images.size and jnp.issubdtype(images.dtype, jnp.floating)
  if is_concrete(images) and are_floats and (found := as_if_from_0_to_1(images)):
    raise ConfigError(
      f'mix got images {found}; it takes images in [-1, 1]: convert them with '
      '2 * images - 1.'
    )
