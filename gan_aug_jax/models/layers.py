"""Layers that the models share.

Images are channels last. Parameters are float32, or float64 if the computation is:
bfloat16 is a type to compute in, not one for parameters or statistics.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def param_dtype(dtype: jnp.dtype) -> jnp.dtype:
  """The type of the parameters of a layer that computes in `dtype`."""
  return jnp.promote_types(dtype, jnp.float32)


def num_doublings(side: int) -> int:
  """Number of doublings from 4 to the side of an image, 4 times a power of two."""
  return (side // 4).bit_length() - 1


def conv(
  features: int, kernel: tuple[int, int], *, dtype: jnp.dtype, **kwargs: Any
) -> nn.Conv:
  """A convolution.

  Args:
    kernel: (height, width).
  """
  return nn.Conv(features, kernel, dtype=dtype, param_dtype=param_dtype(dtype), **kwargs)


def dense(features: int, *, dtype: jnp.dtype, **kwargs: Any) -> nn.Dense:
  """A fully connected layer."""
  return nn.Dense(features, dtype=dtype, param_dtype=param_dtype(dtype), **kwargs)


def group_norm(x: jax.Array, *, dtype: jnp.dtype, **kwargs: Any) -> jax.Array:
  """Normalises up to 8 groups of features; the statistics are float32 or wider.

  It makes a layer in the module that calls it.

  Args:
    x: [B, H, W, features].
  """
  groups = math.gcd(8, x.shape[-1])
  norm = nn.GroupNorm(groups, dtype=dtype, param_dtype=param_dtype(dtype), **kwargs)
  return norm(x)


def join_label(
  x: jax.Array, labels: jax.Array, num_classes: int, *, dtype: jnp.dtype
) -> jax.Array:
  """Joins the one-hot label to x [B, n] (Mirza & Osindero 2014, arXiv 1411.1784).

  Args:
    labels: int32 [B].

  Returns:
    [B, n + num_classes].
  """
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
  return jnp.concatenate([x.astype(dtype), one_hot], axis=-1)


class BatchNorm(nn.Module):
  """Batch normalisation over the valid examples of the whole global batch.

  Ioffe & Szegedy 2015 (arXiv 1502.03167). flax's own averages local means, which is wrong
  if devices have different numbers of examples, and NaN if one has none.

  Attributes:
    axis_name: mapped axis to sum over, or None.
    dtype: type of the result; the statistics are float32 or wider.
    num_classes: above 0, each class has its own scale and bias: conditional batch
      normalisation (Dumoulin et al. 2017, arXiv 1610.07629, section 2.2).
    momentum: fraction of the old running statistics that an update keeps.
    epsilon: added to the variance.
    synthetic: what synthetic examples do to a batch's statistics: 'shared', they count
      like real ones; 'real_only', all are normalised by those of the real ones; 'split',
      each kind by its own, in the manner of Xie et al. 2019 (1911.09665, section 4.1),
      who also split scale and bias. Except with 'shared', the running statistics are
      those of real examples.
  """

  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  num_classes: int = 0
  momentum: float = 0.9
  epsilon: float = 1e-5
  synthetic: str = 'shared'

  @nn.compact
  def __call__(self, x, *, train, valid_mask=None, synthetic=None, labels=None):
    """Normalises x [B, ..., F].

    Args:
      train: whether to use the batch's statistics rather than the running ones.
      valid_mask: bool [B], which examples count; None for all.
      synthetic: bool [B], which are synthetic; None for none.
      labels: int32 [B], for conditional batch normalisation.
    """
    features, wide = x.shape[-1], param_dtype(self.dtype)
    shape = (self.num_classes, features) if self.num_classes else (features,)
    scale = self.param('scale', nn.initializers.ones, shape, wide)
    bias = self.param('bias', nn.initializers.zeros, shape, wide)
    if self.num_classes:
      # A product with one-hot rows: the gradient of a lookup is a scatter, which a GPU
      # sums in any order.
      one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=wide)
      rows = (-1, *(1,) * (x.ndim - 2), features)
      look_up = lambda table: jnp.matmul(one_hot, table, precision='highest')
      scale, bias = (look_up(table).reshape(rows) for table in (scale, bias))
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (features,), wide)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (features,), wide)
    if train:
      (mean, var), own = self._batch_statistics(x.astype(wide), valid_mask, synthetic)
      if not self.is_initializing():
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * var
      if own:
        is_synthetic = _column(synthetic, x)
        pairs = zip(own, (mean, var), strict=True)
        mean, var = (jnp.where(is_synthetic, *pair) for pair in pairs)
    else:
      mean, var = running_mean.value, running_var.value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    return (x.astype(wide) * factor + (bias - mean * factor)).astype(self.dtype)

  def _batch_statistics(self, x, valid_mask, synthetic):
    """(mean, var) [F]; and those of synthetic examples if these have their own."""
    valid_mask = jnp.ones(x.shape[0], bool) if valid_mask is None else valid_mask
    kinds = [valid_mask]
    if synthetic is not None and self.synthetic != 'shared':
      kinds = [valid_mask & ~synthetic, valid_mask & synthetic]
      kinds = kinds[: 2 if self.synthetic == 'split' else 1]
    axes, per_example = tuple(range(x.ndim - 1)), x.size // (x.shape[0] * x.shape[-1])

    def sums(kind):
      w = _column(kind.astype(x.dtype), x)
      total = jnp.sum(w, axes) * per_example
      return total, jnp.sum(w * x, axes), jnp.sum(w * jnp.square(x), axes)

    # Together, so that there is only one all-reduce.
    found = [sums(kind) for kind in kinds]
    if self.axis_name and not self.is_initializing():
      found = jax.lax.psum(found, self.axis_name)

    def moments(total, first, second):
      total = jnp.maximum(total, 1)  # the batch may have none of a kind
      mean = first / total
      return mean, jnp.maximum(second / total - jnp.square(mean), 0)

    main, *own = (moments(*kind) for kind in found)
    return main, own[0] if own else None


def _column(rows, x):
  """One value per example, [B], shaped to broadcast with x [B, ...]."""
  return rows.reshape(-1, *(1,) * (x.ndim - 1))


class ExampleDropout(nn.Module):
  """Dropout with one key per example.

  With one key for the batch, every `pmap` device would draw the same mask.

  Attributes:
    rate: probability of dropping, in [0, 1).
    substep: folded into the keys, so that layers drop independently.
  """

  rate: float
  substep: int = 0

  @nn.compact
  def __call__(self, x, keys, *, train):
    """Drops from x [B, ...].

    Args:
      keys: key array [B]; may be None if not training.
    """
    if not train or self.rate == 0:
      return x
    drop = nn.Dropout(self.rate, deterministic=False)
    fold = lambda key: jax.random.fold_in(key, self.substep)
    return jax.vmap(lambda row, key: drop(row, rng=fold(key)))(x, keys)


def spectral(layer: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
  """Applies a layer with its kernel divided by its largest singular value.

  It is estimated by one step of power iteration from the vectors in the collection
  'spectral' (Miyato et al. 2018, arXiv 1802.05957, algorithm 1).

  Args:
    layer: linen module with a kernel.
    train: whether to keep the vectors after that step.
  """
  normalised = nn.SpectralNorm(
    layer, param_dtype=layer.param_dtype, collection_name='spectral'
  )
  return normalised(x, update_stats=train)


@jax.custom_vjp
def bias_relu_pool(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a bias, rectifies, and takes the maximum of 2 x 2 blocks, as one operation.

  The gradient goes to the place of each maximum, the first of equal ones, in one pass
  over the large array; summed over blocks it is also the bias's. The gradient of
  `nn.max_pool` is a select-and-scatter, ten times slower on CPU.

  Args:
    x: [B, H, W, F]. An odd last row or column is ignored.
    bias: [F], of the type of x.

  Returns:
    [B, H // 2, W // 2, F].
  """
  top_left, top_right, low_left, low_right = _quarters(nn.relu(x + bias))
  return jnp.maximum(jnp.maximum(top_left, top_right), jnp.maximum(low_left, low_right))


def _quarters(x):
  """The four places of each 2 x 2 block, row by row, each [B, H // 2, W // 2, F]."""
  x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
  return [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _bias_relu_pool_forward(x, bias):
  pooled = bias_relu_pool(x, bias)
  top_left, top_right, low_left, low_right = _quarters(x)
  top, low = jnp.maximum(top_left, top_right), jnp.maximum(low_left, low_right)
  right = jnp.where(low > top, low_right > low_left, top_right > top_left)
  place = 2 * (low > top).astype(jnp.uint8) + right.astype(jnp.uint8)
  return pooled, (pooled, place, jnp.zeros((0, *x.shape[1:3])))


def _bias_relu_pool_backward(kept, grad):
  pooled, place, (_, *size) = *kept[:2], kept[2].shape
  grad = jnp.where(pooled > 0, grad, 0)
  batch, height, width, features = grad.shape
  number = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
  spread = lambda x: x[:, :, None, :, None]
  blocks = jnp.where(spread(place) == number, spread(grad), 0)
  blocks = blocks.reshape(batch, 2 * height, 2 * width, features)
  odd = [(0, whole - even) for whole, even in zip(size, blocks.shape[1:3], strict=True)]
  return jnp.pad(blocks, ((0, 0), *odd, (0, 0))), jnp.sum(grad, (0, 1, 2))


bias_relu_pool.defvjp(_bias_relu_pool_forward, _bias_relu_pool_backward)


def depth_to_space(x: jax.Array) -> jax.Array:
  """Sub-pixel rearrangement (Shi et al. 2016, arXiv 1609.05158).

  [B, H, W, 4 * F] to [B, 2 * H, 2 * W, F].
  """
  batch, height, width, depth = x.shape
  x = x.reshape(batch, height, width, 2, 2, depth // 4)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, 2 * height, 2 * width, depth // 4)


def avg_pool_2x2(x: jax.Array) -> jax.Array:
  """Mean over 2x2 blocks: [B, H, W, F] to [B, H // 2, W // 2, F], H and W even."""
  batch, height, width, features = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, features).mean((2, 4))


def repeat_2x2(x: jax.Array) -> jax.Array:
  """Nearest-neighbour upsampling: [B, H, W, F] to [B, 2 * H, 2 * W, F]."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _subpixel(x, features, **kwargs):
  return depth_to_space(conv(4 * features, (3, 3), **kwargs)(x))


def _nearest(x, features, **kwargs):
  return conv(features, (3, 3), **kwargs)(repeat_2x2(x))


def _transposed(x, features, **kwargs):
  """A 4 x 4 transposed convolution with stride 2, computed by sub-pixel.

  Each pixel of a 2 x 2 block sees 2 x 2 pixels of x through a quarter of the kernel: less
  than half the work of 3 x 3, and no zeros are multiplied. Each pixel of the block has a
  bias, as with 'subpixel'.
  """
  # Padded here: if the convolution pads, XLA on CPU computes the kernel's gradient some
  # fifty times slower.
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  blocks = conv(4 * features, (2, 2), padding='VALID', **kwargs)(x)
  return depth_to_space(blocks)[:, 1:-1, 1:-1]


# Each doubles the size and convolves:
# `(x [B, H, W, F], features, **conv) -> [B, 2H, 2W, features]`.
UPSAMPLINGS = {'transposed': _transposed, 'subpixel': _subpixel, 'nearest': _nearest}
