"""Synthetic images in a training loop of one's own: a generator, and mixing it in.

    generator = gan_aug_jax.load_generator('generator.safetensors')
    mix = gan_aug_jax.make_mixer(generator, batch_size=128, ratio=0.2)

    @jax.jit
    def train_step(state, variables, key, images, labels):
      images, labels = mix(variables, key, images, labels)
      ...  # as before

Pure: arrays in, arrays out. What is public stands in `gan_aug_jax/__init__.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.errors import ConfigError
from gan_aug_jax.step import mixing, rng


def make_mixer(
  generator,
  *,
  batch_size,
  ratio,
  mode='replace',
  class_shares=None,
  sharding=None,
  axis_name=None,
):
  """Returns `mix(variables, key, images, labels) -> (images, labels)` for one's own step.

  S = round(ratio * B) images of a batch are synthetic, drawn anew from every key, with
  drawn labels and without a gradient. With the batch over n devices, in contiguous
  shares, slot s of device d is position d + n * s, and synthetic if and only if that is
  below S: each device draws its own, as many as the others but for one, and nothing moves
  between them. Position p has the same image and label on any number of devices.

  Args:
    generator: a `Generator`.
    batch_size: B, of all devices together; a multiple of n.
    ratio: S / B, in [0, 1]. At 0 the generator is in no program.
    mode: 'replace' real images, or 'add' to them: the batch is then B + S long, and S
      must be a multiple of n.
    class_shares: what part of the synthetic images each class has [num_classes]; None for
      equal ones.
    sharding: under `jax.jit` over several devices, the batch's `NamedSharding`.
    axis_name: inside `jax.pmap` or `jax.shard_map`, the mapped axis that the batch is
      dealt over; images and labels are then one device's share.

  Returns:
    A pure function of the generator's variables; a scalar key, which the caller must
    change with the step, as in `jax.random.fold_in(key, step)`; images [B, H, W, C],
    float in [-1, 1]; and labels [B], whole numbers. Images keep their type.

  Raises:
    ConfigError: if that cannot be, here or when `mix` is traced.
  """
  plan = _plan(batch_size, ratio, mode)
  if sharding is not None and axis_name:
    raise ConfigError('Give make_mixer a sharding or an axis_name, not both.')
  class_shares = _checked_shares(class_shares, generator.num_classes)
  if not plan.num_synthetic:
    return lambda variables, key, images, labels: (images, labels)
  mix_share = functools.partial(_mix_share, generator, plan, class_shares)
  if axis_name:

    def mix_mapped(variables, key, images, labels):
      _check_deal(plan, jax.lax.axis_size(axis_name))
      return mix_share(axis_name, variables, key, images, labels)

    return mix_mapped
  axes = _batch_axes(sharding)
  if not axes:
    return functools.partial(mix_share, None)
  _check_deal(plan, math.prod(sharding.mesh.shape[axis] for axis in axes))
  replicated, dealt = jax.P(), jax.P(axes)
  return jax.shard_map(
    functools.partial(mix_share, axes),
    mesh=sharding.mesh,
    in_specs=(replicated, replicated, dealt, dealt),
    out_specs=(dealt, dealt),
    check_vma=False,  # a loop in a generator would have to mark what it carries
  )


def _checked_shares(shares, num_classes):
  """Class shares as an array that adds up to 1, or None."""
  if shares is None:
    return None
  shares = np.asarray(shares, np.float32)
  fits = shares.shape == (num_classes,) and np.all(np.isfinite(shares))
  if not fits or np.any(shares < 0) or not np.sum(shares) > 0:
    raise ConfigError(
      f'class_shares={shares.tolist()} must be {num_classes} numbers of at least 0, one '
      'a class, not all of them 0.'
    )
  return shares / np.sum(shares)


def _plan(batch_size, ratio, mode):
  try:
    plan = mixing.plan_batch(batch_size, ratio=ratio, mode=mode)
  except ValueError as error:
    raise ConfigError(str(error)) from None
  if ratio and not plan.num_synthetic:
    raise ConfigError(
      f'ratio={ratio} of batch_size={batch_size} is less than half an image; raise one '
      'of them, or set ratio=0.'
    )
  return plan


def _batch_axes(sharding):
  """The mesh axes that a batch's first axis is dealt over, a tuple."""
  if sharding is None:
    return ()
  if not isinstance(sharding, jax.sharding.NamedSharding):
    kind = type(sharding).__name__
    raise ConfigError(f'make_mixer takes the NamedSharding of a batch, not {kind}.')
  first = (*sharding.spec, None)[0]
  return first if isinstance(first, tuple) else (first,) * (first is not None)


def _check_deal(plan, num_devices):
  """Checks that every device gets as many positions."""
  if plan.batch_size % num_devices:
    raise ConfigError(
      f'batch_size={plan.batch_size} must be a multiple of the {num_devices} devices.'
    )
  if plan.adds and plan.num_synthetic % num_devices:
    raise ConfigError(
      f"With mode='add' the {plan.num_synthetic} synthetic images of a batch must be a "
      f'multiple of the {num_devices} devices; choose another ratio.'
    )


def _mix_share(generator, plan, class_shares, axes, variables, key, images, labels):
  """What `mix` does to one device's share; `axes` are what a batch is dealt over."""
  device, num_devices = 0, 1
  if axes:
    device, num_devices = jax.lax.axis_index(axes), jax.lax.axis_size(axes)
  _check_batch(generator, plan.batch_size // num_devices, images, labels)
  count = -(-plan.num_synthetic // num_devices)
  positions = device + num_devices * jnp.arange(count, dtype=jnp.int32)
  # threefry, whatever kind of key is given: see `rng`.
  label_key, latent_key = jax.random.wrap_key_data(
    jax.random.bits(key, (2, 2), jnp.uint32), impl='threefry2x32'
  )
  drawn = mixing.draw_labels(
    rng.example_keys(label_key, positions), generator.num_classes, class_shares
  )
  keys = rng.example_keys(latent_key, positions)
  synthetic = jax.lax.stop_gradient(generator.sample(variables, keys, drawn))

  def join(real, synthetic):
    if plan.adds:
      return jnp.concatenate([synthetic.astype(real.dtype), real])
    is_synthetic = positions < plan.num_synthetic
    rows = (x[None] for x in (real, synthetic, is_synthetic))
    return mixing.select_synthetic(*rows)[0]

  return join(images, synthetic), join(labels, drawn)


def _check_batch(generator, count, images, labels):
  """Checks a device's share of a batch, `count` examples, while it is traced."""
  expected = (count, *generator.image_shape)
  if images.shape != expected or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ConfigError(
      f'mix got images {images.dtype}{list(images.shape)}; it takes float '
      f'{list(expected)} in [-1, 1], as generator {generator.name!r} draws them '
      '(uint8 images are images / 127.5 - 1).'
    )
  if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ConfigError(
      f'mix got labels {labels.dtype}{list(labels.shape)}; it takes whole numbers '
      f'[{count}] (make them one-hot after it).'
    )
