"""Tiny GANs and classifiers, built for a layout and a type."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax import (
  augment,
  classifier,
  gan,
  losses,
  mixing,
  realdata,
  sampler,
  sharding,
)
from gan_aug_jax.models import classifiers, discriminators, generators

LATENT = 5
CLASSES = 3
SHAPE = (8, 8, 1)


def layout(backend='jit', num_devices=4):
  return sharding.make_layout(backend, jax.devices()[:num_devices])


def cast(tree, dtype):
  """Gives the floating leaves of a tree a type."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
  )


def frozen_generator(dtype=jnp.float32, seed=0, compute=None):
  """A random generator: its sampler and variables."""
  module = generators.build_generator(
    'dcgan', image_shape=SHAPE, num_classes=CLASSES, width=8, dtype=compute or dtype
  )
  variables = module.init(
    jax.random.key(seed), jnp.zeros((2, LATENT)), jnp.zeros(2, jnp.int32), train=False
  )
  # Louder than its initialisation, so that its images differ from one another.
  variables = jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, variables)
  return sampler.make_sampler(module, LATENT), cast(variables, dtype)


def feed(place, toy, seed=0):
  return realdata.make_feed(toy.train.images, toy.train.labels, seed=seed, place=place)


def fused(
  where,
  *,
  ratio=0.25,
  mode='replace',
  batch_size=12,
  crop=2,
  dropout=0.3,
  arch='cnn',
  dtype=jnp.float32,
  batch_norm=False,
  compute=None,
  num_members=1,
):
  """The fused step, its initial state (unplaced), its plan and generator.

  Parameters and images are of `dtype`, the models compute in `compute` (default: it).
  """
  sample, variables = frozen_generator(dtype, compute=compute)
  if num_members > 1:
    members = [frozen_generator(dtype, seed)[1] for seed in range(num_members)]
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    sample = sampler.make_ensemble_sampler(sample, num_members, where)
  plan = mixing.plan_batch(batch_size, ratio=ratio, mode=mode)
  model = classifiers.build_classifier(
    arch,
    num_classes=CLASSES,
    dropout=dropout,
    features=(4, 4) if arch == 'cnn' else (),
    hidden=(8,),
    dtype=compute or dtype,
  )
  if batch_norm:
    model = NormalisedCNN(CLASSES, where.axis_name, compute or dtype)
  optimizer = classifier.make_optimizer('sgd', learning_rate=0.05, num_steps=50)
  compose = classifier.make_compose(
    layout=where,
    plan=plan,
    sample=sample,
    augment=augment.make_augment(crop=crop, flip=bool(crop)),
    num_classes=CLASSES,
    dtype=dtype,
  )
  step = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=where, plan=plan, compose=compose
  )
  state = classifier.init_classifier(model, optimizer, seed=3, image_shape=SHAPE)
  return step, cast(state, dtype), plan, variables


class NormalisedCNN(classifiers.nn.Module):
  """A classifier with batch statistics, weighted as the step weights examples."""

  num_classes: int
  axis_name: str | None
  dtype: jnp.dtype

  @classifiers.nn.compact
  def __call__(self, images, *, train, keys=None, weights=None):
    x = classifiers.layers.conv(4, (3, 3), dtype=self.dtype, use_bias=False)(images)
    norm = classifiers.layers.BatchNorm(self.axis_name, self.dtype)
    x = jax.nn.relu(norm(x, train=train, weights=weights)).mean((1, 2))
    return classifiers.layers.dense(self.num_classes, dtype=self.dtype)(x)


def gan_step(
  where,
  *,
  batch_size=12,
  arch='dcgan',
  loss='non_saturating',
  diffaug=(),
  d_steps=1,
  dtype=jnp.float32,
  compute=None,
  **regularisation,
):
  """The GAN's step and its initial state, unplaced."""
  generator = generators.build_generator(
    arch,
    image_shape=SHAPE,
    num_classes=CLASSES,
    width=8,
    axis_name=where.axis_name,
    dtype=compute or dtype,
  )
  discriminator = discriminators.build_discriminator(
    arch, num_classes=CLASSES, width=8, dtype=compute or dtype
  )
  adam = optax.adam(2e-4, 0.5)
  critic = gan.make_critic(
    discriminator=discriminator,
    loss=losses.make_gan_loss(loss, real_label=0.9),
    batch_size=batch_size,
    diffaug=augment.make_diffaug(diffaug) if diffaug else None,
    regularisation=gan.Regularisation(**regularisation),
  )
  step = gan.make_gan_step(
    generator=generator,
    critic=critic,
    generator_tx=adam,
    discriminator_tx=adam,
    layout=where,
    batch_size=batch_size,
    latent_dim=LATENT,
    ema_decay=0.9,
    d_steps=d_steps,
    dtype=dtype,
  )
  state = gan.init_gan(
    generator,
    discriminator,
    generator_tx=adam,
    discriminator_tx=adam,
    seed=3,
    latent_dim=LATENT,
  )
  return step, cast(state, dtype)


def run(where, step, state, toy, *, count, num_steps, extra=(), per_call=1):
  """Takes steps; returns the state on the host and metrics as {name: [num_steps]}."""
  take = feed(where.place, toy)
  state, extra = where.place(state), where.place(extra)
  inputs = lambda at: (take(at * count, max(1, count * per_call)), *extra)
  program = sharding.compile_step(
    sharding.repeat_step(step, per_call), where, state, *inputs(0)
  )
  rows = []
  for at in range(0, num_steps, per_call):
    state, metrics = program(state, *inputs(at))
    rows.append(jax.device_get(metrics))
  joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
  return jax.device_get(state), joined


def difference(a, b):
  """Largest absolute difference between two trees of numbers."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(np.max(np.abs(np.subtract(x, y)))) for x, y in pairs if np.size(x))
