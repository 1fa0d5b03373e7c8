"""Flow matching: a velocity field that carries noise to images, its loss and its solvers.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): at time t between noise z and image x
lies (1 - t) z + t x, and the network learns the velocity x - z there. Drawing an image
solves dx/dt = v(x, t) from noise at time 0 to an image at time 1.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_aug_jax.models import layers, unet
from gan_aug_jax.step.rng import fold_keys

SOLVERS = ('euler', 'heun')


def make_loss(
  model: nn.Module,
  *,
  class_dropout: float = 0.0,
  augment: Callable | None = None,
) -> Callable:
  """Returns the loss of flow matching.

  Times are logit-normal, so that most lie in the middle, where the velocity is hardest to
  tell (Esser et al. 2024, arXiv 2403.03206, section 3.1).

  Args:
    model: `unet.UNet`, or a module that is called like it.
    class_dropout: fraction of images whose class the network is not told, which guidance
      needs (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1).
    augment: `(keys [B], images) -> images`, see `augment.make_augment`; None for none.

  Returns:
    `loss(params, keys [B], images [B, H, W, C], labels [B]) -> losses [B]`, the mean
    squared error of a pixel's velocity, of the type of the images.
  """

  def loss(params, keys, images, labels):
    if augment:
      images = augment(fold_keys(keys, 0), images)
    noise = _normal(fold_keys(keys, 1), images.shape[1:], images.dtype)
    times = jax.nn.sigmoid(_normal(fold_keys(keys, 2), (), images.dtype))
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, class_dropout))(
      fold_keys(keys, 3)
    )
    told = jnp.where(drop, unet.NO_CLASS, labels)
    return _squared_errors(model, params, (noise, images), times, told)

  return loss


def make_reflow_loss(model: nn.Module, render: Callable) -> Callable:
  """Returns the loss of reflow, after which one or two evaluations draw an image.

  The flow learns to go straight from noise to the image that a teacher draws from that
  noise (Liu et al. 2022, arXiv 2209.03003, section 2.2). A quarter of the times are 0,
  where a single evaluation is made.

  Args:
    model: see `make_loss`.
    render: of the teacher, from `make_render`.

  Returns:
    `loss(params, keys [B], images [B, H, W, C], labels [B], teacher) -> losses [B]`, as
    that of `make_loss`; of the images only shape and type are used.
  """

  def loss(params, keys, images, labels, teacher):
    noise = _normal(fold_keys(keys, 1), images.shape[1:], images.dtype)
    drawn = jax.lax.stop_gradient(render(teacher, noise, labels)).astype(images.dtype)
    draw = lambda key: jax.random.uniform(key, (), images.dtype)
    starts = jax.vmap(lambda key: jax.random.bernoulli(key, 0.25))(fold_keys(keys, 3))
    times = jnp.where(starts, 0, jax.vmap(draw)(fold_keys(keys, 2)))
    return _squared_errors(model, params, (noise, drawn), times, labels)

  return loss


def _squared_errors(model, params, ends, times, labels):
  """Of the velocity between two ends, noise and image: the mean over pixels, [B]."""
  noise, images = ends
  at = times[:, None, None, None]
  found = model.apply({'params': params}, (1 - at) * noise + at * images, times, labels)
  errors = found.astype(images.dtype) - (images - noise)
  return jnp.mean(jnp.square(errors), axis=(1, 2, 3))


def _normal(keys, shape, dtype):
  return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def integrate(
  velocity: Callable, noise: jax.Array, *, evaluations: int, solver: str = 'euler'
) -> jax.Array:
  """Solves dx/dt = velocity(x, t) from time 0 to 1, in equal steps.

  Args:
    velocity: `(x, t) -> dx/dt`, t a float.
    noise: x at time 0.
    evaluations: of the velocity, at least 1.
    solver: 'euler', of first order, one evaluation for each step; 'heun', of second
      order, two for each step (Karras et al. 2022, arXiv 2206.00364, algorithm 1). Where
      that leaves one evaluation, the last step is Euler's.

  Returns:
    x at time 1.

  Raises:
    ValueError: if the solver is unknown.
  """
  if solver not in SOLVERS:
    raise ValueError(f'Solver {solver!r} is unknown; known: {", ".join(SOLVERS)}.')
  num_heun = evaluations // 2 if solver == 'heun' else 0
  num_steps, x = evaluations - num_heun, noise
  for step in range(num_steps):
    slope = velocity(x, step / num_steps)
    if step < num_heun:
      end = velocity(x + slope / num_steps, (step + 1) / num_steps)
      slope = (slope + end) / 2
    x = x + slope / num_steps
  return x


def make_render(
  model: nn.Module, *, evaluations: int, solver: str = 'euler', guidance: float = 1.0
) -> Callable:
  """Returns `render(params, noise [B, H, W, C], labels [B]) -> images [B, H, W, C]`.

  Args:
    model: see `make_loss`.
    evaluations, solver: see `integrate`.
    guidance: how far the velocity goes from that of any class to that of the label: 1 is
      the label's own; above, images are more typical and more alike, at twice the cost
      (Ho & Salimans 2022, arXiv 2207.12598, equation 6, where it is 1 + w).

  Returns:
    A pure function, whose images are float in [-1, 1].
  """

  def render(params, noise, labels):
    noise = noise.astype(layers.param_dtype(model.dtype))

    def predict(x, time, labels):
      times = jnp.full(x.shape[:1], time, x.dtype)
      return model.apply({'params': params}, x, times, labels).astype(x.dtype)

    def velocity(x, time):
      conditional = predict(x, time, labels)
      if guidance == 1:
        return conditional
      # Not in one batch: joined along the sharded axis, it would cross devices.
      unconditional = predict(x, time, jnp.full_like(labels, unet.NO_CLASS))
      return unconditional + guidance * (conditional - unconditional)

    images = integrate(velocity, noise, evaluations=evaluations, solver=solver)
    return jnp.clip(images, -1, 1)

  return render
