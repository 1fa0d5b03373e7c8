"""Losses, one value an example; the caller weights, sums and divides.

A mean taken here would be a mean over one device's share (see `sharding`).
"""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits, labels):
  """Softmax cross-entropy.

  Args:
    logits: float [B, num_classes].
    labels: int32 [B].

  Returns:
    Losses [B], in nats, float32 or wider.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _non_saturating_discriminator(real_logits, fake_logits, real_label):
  real = optax.sigmoid_binary_cross_entropy(real_logits, real_label)
  return real + jax.nn.softplus(fake_logits)


def _hinge_discriminator(real_logits, fake_logits, real_label):
  del real_label  # Smoothing belongs to the cross-entropy.
  return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


# (discriminator loss, generator loss). Goodfellow et al. 2014 (arXiv 1406.2661), section
# 3, with the one-sided label smoothing of Salimans et al. 2016 (1606.03498), 3.4; hinge:
# Lim & Ye 2017 (1705.02894).
_GAN_LOSSES = {
  'non_saturating': (_non_saturating_discriminator, lambda fake: jax.nn.softplus(-fake)),
  'hinge': (_hinge_discriminator, lambda fake: -fake),
}


def make_gan_losses(name, *, real_label=1.0):
  """Returns the pair of adversarial losses called `name`.

  Args:
    name: 'non_saturating' or 'hinge'.
    real_label: the discriminator's target for real images, in (0, 1]; below 1 it is
      one-sided label smoothing. The hinge loss has no target and ignores it.

  Returns:
    `discriminator_loss(real_logits [B], fake_logits [B]) -> [B]` and
    `generator_loss(fake_logits [B]) -> [B]`.

  Raises:
    ValueError: if there is no such loss.
  """
  if name not in _GAN_LOSSES:
    raise ValueError(f'GAN loss {name!r} is unknown; known: {", ".join(_GAN_LOSSES)}.')
  discriminator_loss, generator_loss = _GAN_LOSSES[name]

  def smoothed(real_logits, fake_logits):
    return discriminator_loss(real_logits, fake_logits, real_label)

  return smoothed, generator_loss
