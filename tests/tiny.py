"""Tiny GANs and classifiers, built for a layout and a type."""

import functools
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.models import classifiers, discriminators, generators, unet
from gan_aug_jax.step import (
  augment,
  batches,
  class_labels,
  classifier,
  classifier_state,
  device_data,
  flow,
  gan,
  generator,
  losses,
  plans,
  programs,
  sampling,
  sharding,
  synthesis,
)

COLLECTIVE = re.compile(
  r'\b(all-gather|all-to-all|collective-permute|reduce-scatter|send|recv|infeed|outfeed'
  r'|custom-call|all-reduce)(?:-start)?\('
)
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


@functools.cache
def _init(module, *shapes, seed=0, **options):
  """The variables of a linen module for inputs of some shapes, labels int32."""
  inputs = [jnp.zeros(shapes[0]), *(jnp.zeros(s, jnp.int32) for s in shapes[1:])]
  init = lambda key: module.init(key, *inputs, **options)
  return jax.device_get(jax.jit(init)(jax.random.key(seed)))


_SGD = classifier.make_optimizer('sgd', learning_rate=0.05, num_steps=50)
_ADAM = optax.adam(2e-4, 0.5)


@functools.cache
def _init_classifier(model, class_stats):
  init = functools.partial(
    classifier_state.init_classifier,
    model=model,
    optimizer=_SGD,
    image_shape=SHAPE,
    class_stats=class_stats,
  )
  return jax.device_get(jax.jit(init)(3))


@functools.cache
def _init_gan(generator, discriminator):
  init = functools.partial(
    gan.init_gan,
    generator=generator,
    discriminator=discriminator,
    generator_tx=_ADAM,
    discriminator_tx=_ADAM,
    latent_dim=LATENT,
  )
  return jax.device_get(jax.jit(init)(3))


def frozen_generator(dtype=jnp.float32, seed=0, compute=None, arch='dcgan', **latents):
  """A random generator: its sampler and variables."""
  module = generators.build_generator(
    arch, image_shape=SHAPE, num_classes=CLASSES, width=8, dtype=compute or dtype
  )
  variables = _init(module, (2, LATENT), (2,), seed=seed, train=False)
  # Louder than its initialisation, so that its images differ from one another.
  variables = jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, variables)
  render = sampling.make_render(module)
  return sampling.make_sampler(render, (LATENT,), **latents), cast(variables, dtype)


def frozen_discriminator(dtype=jnp.float32, seed=0, arch='dcgan'):
  """A random discriminator: its logits and variables."""
  module = discriminators.build_discriminator(
    arch, num_classes=CLASSES, width=8, dtype=dtype
  )
  variables = _init(module, (2, *SHAPE), (2,), seed=seed)
  variables = {'params': variables['params'], 'spectral': {}}
  return sampling.make_discriminator_logits(module), cast(variables, dtype)


def teacher(dtype=jnp.float32, scale=1, arch='cnn'):
  """A random classifier that is sure of something: its logits and variables."""
  features = (4, 4) if arch == 'cnn' else ()
  module = classifiers.build_classifier(
    arch, num_classes=CLASSES, features=features, hidden=(8,), dtype=dtype
  )
  variables = _init(module, (1, *SHAPE), seed=7, train=False)
  variables = jax.tree.map(lambda x: scale * x, variables)
  apply = lambda variables, images: module.apply(variables, images, train=False)
  return apply, cast(variables, dtype)


def feed(place, toy, seed=0):
  examples = place(device_data.arrange(toy.train.images, toy.train.labels))
  return device_data.make_feed(examples, seed=seed, place=place)


def fused(where, **options):
  """The fused step, its initial state, its plan and what is frozen; see `fused_ahead`."""
  return fused_ahead(where, max_bytes=0, **options)[:4]


def fused_ahead(
  where,
  *,
  max_bytes=2**28,
  ratio=0.25,
  mode='replace',
  batch_size=12,
  crop=2,
  dropout=0.3,
  arch='cnn',
  dtype=jnp.float32,
  batch_norm='shared',
  compute=None,
  num_members=1,
  latents=(),
  offline=False,
  sample_filter=None,
  targets='hard',
  classes='uniform',
  ramp=None,
  weight=lambda step: 1.0,
  on_reject='drop',
  color=0.0,
  cutout=0,
  mixup=0.0,
  cutmix=0.0,
  partner='any',
  on='both',
  refresh_every=1,
  frozen='dcgan',
  logit_shift=lambda state: 0.0,
):
  """The fused step, its initial state, its plan, what is frozen, and what draws ahead.

  All unplaced. Nothing is drawn ahead if `max_bytes` is 0, or where the images depend on
  the classifier.
  Parameters and images are of `dtype`, the models compute in `compute` (default: it).
  What is frozen is a 'dcgan', a 'flow', or, which compiles faster, an 'mlp'.
  Classes are drawn as if the training set had 6, 3 and 1 of them.
  """
  compute = compute or dtype
  arches = ('dcgan', 'cnn') if frozen != 'mlp' else ('mlp', 'mlp')
  options = {'compute': compute, **dict(latents)}
  if frozen == 'flow':
    sample, variables = frozen_flow(dtype, **options)
  else:
    sample, variables = frozen_generator(dtype, arch=frozen, **options)
  logits_of, discriminator = frozen_discriminator(dtype, arch=arches[0])
  ask, teacher_variables = teacher(dtype, scale=3, arch=arches[1])
  if offline:
    sample = sampling.make_pool_sampler()
    pixels = np.random.default_rng(1).integers(0, 256, (5 * CLASSES, *SHAPE), np.uint8)
    labels = np.repeat(np.arange(CLASSES), 5)
    variables = sampling.group_by_class(pixels, labels, CLASSES)
  if num_members > 1:
    stack = lambda tree: jax.tree.map(
      lambda x: jnp.stack([x * (1 + i) for i in range(num_members)]), tree
    )
    variables, discriminator = stack(variables), stack(discriminator)
    sample, logits_of = (
      sampling.make_ensemble(function, num_members, where)
      for function in (sample, logits_of)
    )
  plan = plans.plan_batch(batch_size, ratio=ratio, mode=mode, ramp=ramp)
  model = arch  # an `ExternalClassifier`
  if isinstance(arch, str):
    model = classifiers.build_classifier(
      arch,
      num_classes=CLASSES,
      dropout=dropout,
      features={'cnn': (4, 4), 'mlp': (), 'resnet': (4,)}[arch],
      hidden=() if arch == 'resnet' else (8,),
      dtype=compute,
      axis_name=where.axis_name,
      batch_norm=batch_norm,
    )
  optimizer = _SGD
  class_probs = None
  if classes == 'feedback':
    class_probs = lambda state: class_labels.feedback_distribution(
      state.class_stats['class_loss']
    )
  elif classes != 'uniform':
    class_probs = class_labels.class_distribution(classes, [6, 3, 1], plan)
  classify = lambda variables, images: model.apply(variables, images, train=False)
  synthesize = synthesis.Synthesis(
    synthesis.Networks(sample, ask, logits_of, classify),
    num_classes=CLASSES,
    class_probs=class_probs,
    sample_filter=sample_filter or synthesis.SampleFilter(),
    targets=targets,
    smoothing=0.1,
    dtype=dtype,
  )
  draw_synthetic = None
  if max_bytes:
    draw_synthetic = synthesis.make_draw_synthetic(
      synthesize, layout=where, plan=plan, refresh_steps=refresh_every
    )
  has_pool = refresh_every > 1 and plan.num_synthetic > 0 and not draw_synthetic
  if has_pool:
    pool = synthesis.init_pool(synthesize, where, plan, SHAPE)
    synthesize = synthesis.make_pooled(synthesize, refresh_every, where)
  compose = batches.make_compose(
    layout=where,
    plan=plan,
    synthesize=synthesize,
    augmentation=batches.Augmentation(
      augment.make_augment(crop=crop, flip=bool(crop), color=color, cutout=cutout),
      augment.make_mix(mixup=mixup, cutmix=cutmix),
      partner,
      on,
    ),
    num_classes=CLASSES,
    weight=weight,
    on_reject=on_reject,
    dtype=dtype,
  )
  draw_ahead = batches.make_compose_ahead(
    compose,
    layout=where,
    plan=plan,
    max_bytes=max_bytes,
    draw_synthetic=draw_synthetic,
  )
  step = classifier.make_fused_step(
    model=model,
    optimizer=optimizer,
    layout=where,
    plan=plan,
    compose=compose,
    logit_shift=logit_shift,
  )
  class_stats = ('class_loss',) if classes == 'feedback' else ()
  if sample_filter and sample_filter.min_confidence:
    class_stats += ('asked', 'accepted')
  state = cast(_init_classifier(model, class_stats), dtype)
  if has_pool:
    state = state.replace(pool=pool)
  models = synthesis.FrozenModels(discriminator, variables, teacher_variables)
  return step, state, plan, models, draw_ahead


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
  adam = _ADAM
  gan_losses = gan.GanLosses(
    discriminator=discriminator,
    loss=losses.make_gan_loss(loss, real_label=0.9),
    batch_size=batch_size,
    diffaug=augment.make_diffaug(diffaug) if diffaug else None,
    **regularisation,
  )
  step = gan.make_gan_step(
    generator=generator,
    gan_losses=gan_losses,
    generator_tx=adam,
    discriminator_tx=adam,
    layout=where,
    latent_dim=LATENT,
    ema_decay=0.9,
    d_steps=d_steps,
    dtype=dtype,
  )
  return step, cast(_init_gan(generator, discriminator), dtype)


def flow_model(compute=jnp.float32):
  return unet.UNet(SHAPE, CLASSES, width=8, dtype=compute)


def flow_variables(by=0.1):
  """The first variables with noise added, as velocities are zero at first."""
  noise = np.random.default_rng(0)
  shake = lambda x: x + (by * noise.normal(size=x.shape)).astype(x.dtype)
  return jax.tree.map(shake, _init(flow_model(), (2, *SHAPE), (2,), (2,)))


def frozen_flow(dtype=jnp.float32, compute=None, **latents):
  """A random flow: its sampler and parameters."""
  model = flow_model(compute=compute or dtype)
  render = flow.make_render(model, evaluations=2)
  sample = sampling.make_sampler(render, SHAPE, **latents)
  return sample, cast(flow_variables()['params'], dtype)


def flow_step(where, *, batch_size=12, dtype=jnp.float32, compute=None, reflow_from=0):
  """The flow's step and its initial state, unplaced."""
  model = flow_model(compute=compute or dtype)
  loss = flow.make_loss(model, class_dropout=0.2, augment=augment.make_augment(crop=2))
  if reflow_from:
    loss = flow.make_reflow_loss(model, flow.make_render(model, evaluations=2))
  tx = classifier.make_optimizer(
    'adam', learning_rate=1e-3, num_steps=50, warmup_steps=2, clip_norm=1.0
  )
  step = generator.make_generator_step(
    loss=loss,
    tx=tx,
    layout=where,
    batch_size=batch_size,
    ema_decay=0.9,
    dtype=dtype,
    taught_from=reflow_from,
  )
  variables = flow_variables()  # here: inside `jit` the cache would keep tracers
  init = functools.partial(
    generator.init_generator,
    init_params=lambda key: variables['params'],
    tx=tx,
    taught=bool(reflow_from),
  )
  return step, cast(jax.device_get(jax.jit(init)(3)), dtype)


def equations(jaxpr):
  """Every equation of a jaxpr, also of those within."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from equations(inner)


def compile_step(step, where, *args, donate=(0,)):
  """The `Program` of a step, compiled for these arguments, which the layout placed."""
  program = programs.Program(step, where, donate=donate)
  program.compile(*args)
  return program


def run(
  where,
  step,
  state,
  toy,
  *,
  count,
  num_steps,
  extra=(),
  per_call=1,
  place=None,
  draw_ahead=None,
):
  """Takes steps; returns the state on the host and metrics as {name: [num_steps]}.

  On several devices the program may communicate by all-reduces only.
  """
  take, place = feed(where.replicate, toy), place or (lambda step: step * count)
  state, extra = put(where, state), where.replicate(extra)
  inputs = lambda at: (take(int(place(at)), max(1, count * per_call)), *extra)
  repeated = programs.repeat_step(step, per_call, draw_ahead)
  program = compile_step(
    repeated, where, state, where.replicated_int(per_call), *inputs(0)
  )
  if where.num_devices > 1:
    assert_only_all_reduces(program)
  rows = []
  for at in range(0, num_steps, per_call):
    taken = min(per_call, num_steps - at)
    state, metrics = program(state, where.replicated_int(taken), *inputs(at))
    rows.append({name: x[:taken] for name, x in jax.device_get(metrics).items()})
  joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
  return jax.device_get(state), joined


def assert_only_all_reduces(program):
  """And by none that decides how long a loop goes on, for which all would wait."""
  text = program.compiled.as_text()
  # On a GPU its libraries are custom calls.
  libraries = set() if jax.default_backend() == 'cpu' else {'custom-call'}
  assert set(COLLECTIVE.findall(text)) - libraries == {'all-reduce'}
  assert not re.search(r'= pred\[\]\S* all-reduce', text)


def put(where, state):
  """Places a state, but for a pool, which is placed already."""
  return jax.tree.map(lambda x: x if where.is_sharded(x) else where.replicate(x), state)


def difference(a, b):
  """Largest absolute difference between two trees of numbers."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  differing = [np.abs(np.float64(x) - np.float64(y)) for x, y in pairs if np.size(x)]
  return max(x.max() for x in differing)
