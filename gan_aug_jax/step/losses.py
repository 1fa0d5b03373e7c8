"""Losses, one value per example; the caller weights, sums and divides.

A mean taken here would be a mean over one device's share (see `sharding`).
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Softmax cross-entropy.

  Args:
    logits: float [B, num_classes].
    targets: labels int32 [B], or probabilities [B, num_classes].

  Returns:
    Losses [B], in nats, float32 or wider.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  if targets.ndim == logits.ndim:
    return optax.softmax_cross_entropy(logits, targets)
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


@dataclasses.dataclass(frozen=True)
class GanLoss:
  """A pair of adversarial losses, one value per example.

  Attributes:
    discriminator: `(real_logits, fake_logits) -> losses`, of the same shape.
    generator: `(fake_logits, real_logits) -> losses`; `real_logits` is None unless
      `paired`.
    paired: whether the generator's loss needs the logits of real images.
  """

  discriminator: Callable
  generator: Callable
  paired: bool = False


def _non_saturating(real_label):
  """Goodfellow et al. 2014 (arXiv 1406.2661), section 3.

  With the one-sided label smoothing of Salimans et al. 2016 (1606.03498), section 3.4.
  """

  def discriminator(real, fake):
    smoothed = optax.sigmoid_binary_cross_entropy(real, real_label)
    return smoothed + jax.nn.softplus(fake)

  return GanLoss(discriminator, lambda fake, _: jax.nn.softplus(-fake))


def _hinge(real_label):
  """Lim & Ye 2017 (arXiv 1705.02894); there is no target to smooth."""
  del real_label
  return GanLoss(
    lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
    lambda fake, _: -fake,
  )


def _relativistic(real_label):
  """Relativistic pairing: Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4.

  With penalties on both gradients it is R3GAN's loss (Huang et al. 2025, 2501.05441).
  """
  del real_label
  return GanLoss(
    lambda real, fake: jax.nn.softplus(fake - real),
    lambda fake, real: jax.nn.softplus(real - fake),
    paired=True,
  )


GAN_LOSSES = {
  'non_saturating': _non_saturating,
  'hinge': _hinge,
  'relativistic': _relativistic,
}


def make_gan_loss(name: str, *, real_label: float = 1.0) -> GanLoss:
  """Returns the `GanLoss` called `name`.

  Args:
    name: 'non_saturating', 'hinge' or 'relativistic'.
    real_label: the discriminator's target for real images in 'non_saturating', in (0, 1];
      below 1 it is one-sided label smoothing.

  Raises:
    ValueError: if the loss is unknown.
  """
  if name not in GAN_LOSSES:
    raise ValueError(f'GAN loss {name!r} is unknown; known: {", ".join(GAN_LOSSES)}.')
  return GAN_LOSSES[name](real_label)


def lecam(real_logits: jax.Array, fake_logits: jax.Array, means: jax.Array) -> jax.Array:
  """LeCam regulariser (Tseng et al. 2021, arXiv 2104.03310, equation 3), per example.

  Args:
    real_logits, fake_logits: of the same shape.
    means: moving averages of the logits of real and of synthetic images, [2].

  Returns:
    The squared distances of each side's logits to the other side's average, summed.
  """
  return jnp.square(real_logits - means[1]) + jnp.square(fake_logits - means[0])
