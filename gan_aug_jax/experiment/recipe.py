"""The network, optimizer and augmentation of an arm, built in or the user's own."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax import config as config_lib, external
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import synthetic_source
from gan_aug_jax.models import classifiers, external as external_models
from gan_aug_jax.step import augment, batches, class_labels, classifier, classifier_state


def build_model(session, facts: DataFacts):
  """Builds the config's classifier: a linen module, or an `ExternalClassifier`.

  Raises:
    ConfigError: if it is the user's own and does not work.
  """
  config, options = session.config.classifier, {'num_classes': facts.num_classes}
  options['dtype'] = session.dtype('classifier')
  options['axis_name'] = session.layout.axis_name
  if external.is_named(config.arch):
    return external_models.build_external(
      session.load_code('classifier.arch'),
      _described(session.config, 'classifier.arch'),
      image_shape=facts.image_shape,
      arguments=config_lib.parse_arguments(config.args),
      **options,
    )
  return classifiers.build_classifier(
    config.arch,
    **options,
    dropout=config.dropout,
    features=config.features,
    hidden=config.hidden,
    blocks=config.blocks,
    batch_norm=config.batch_norm,
  )


def make_optimizer(session, num_steps) -> optax.GradientTransformation:
  """Returns the optimizer of the config's classifier.

  Args:
    num_steps: of the training, which schedules depend on.

  Raises:
    ConfigError: if the user's code fails.
  """
  config, described = session.config.classifier, _own_parts(session.config)
  optimizer, schedule = (
    session.load_code(f'classifier.{part}')
    if external.is_named(config[part])
    else config[part]
    for part in ('optimizer', 'schedule')
  )
  with external.running(described):
    optimizer = classifier.make_optimizer(
      optimizer,
      learning_rate=config.learning_rate,
      num_steps=num_steps,
      schedule=schedule,
      warmup_steps=config.warmup_steps,
      momentum=config.momentum,
      nesterov=config.nesterov,
      weight_decay=config.weight_decay,
      only_kernels=config.weight_decay_on == 'kernels',
      clip_norm=config.clip_norm,
    )
  if not isinstance(optimizer, optax.GradientTransformation):
    raise ConfigError(
      f'{described} returned {type(optimizer).__name__}; it must return an optax '
      'transformation.'
    )
  return optimizer


def make_init(session, model, optimizer, image_shape, *, synthetic) -> Callable:
  """Returns `seed -> state` of an arm, once that is known to work.

  Args:
    image_shape: (H, W, C).
    synthetic: whether the arm draws synthetic images.

  Raises:
    ConfigError: if the user's optimizer cannot take a step or be saved.
  """
  config = session.config
  init = functools.partial(
    classifier_state.init_classifier,
    model=model,
    optimizer=optimizer,
    image_shape=image_shape,
    class_stats=synthetic_source.class_stats_of(config) if synthetic else (),
    averages=config.classifier.ema_decay > 0,
  )
  _check_optimizer(session, optimizer, init)
  return init


def _check_optimizer(session, optimizer, init):
  """Checks the user's optimizer by shapes; one that is built in is not checked."""
  if not (described := _own_parts(session.config)):
    return

  def trace(seed):
    state = init(seed)
    external_models.check_arrays(state.opt_state, f'{described} has states')
    _, updated = optimizer.update(state.params, state.opt_state, state.params)
    return state.opt_state, updated

  with external.running(described):
    before, after = jax.eval_shape(trace, np.int32(0))
    before, after = (
      jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)
    )
    if before != after:
      raise ConfigError(
        f'{described} changes the structure, the shapes or the types of its state in a '
        'step; they must stay the same.'
      )


def make_logit_shift(config, dataset, plan, *, weight, class_probs_at) -> Callable:
  """Returns the `logit_shift` of `make_fused_step`, see `class_labels.label_prior`.

  Args:
    weight: `step -> weight` of a synthetic example in the loss.
    class_probs_at: of the arm's `Synthesis`, or what returns None.
  """
  tau, targets = config.classifier.logit_adjustment, config.targets
  if not tau:
    return lambda state: 0.0
  counts = dataset.train.class_counts(dataset.num_classes)

  def logit_shift(state):
    prior = class_labels.label_prior(
      counts,
      plan,
      state.step,
      class_probs=class_probs_at(state),
      weight=weight(state.step),
      label_smoothing=config.classifier.label_smoothing,
      smoothing=targets.smoothing if targets.kind == 'smoothed' else 0.0,
    )
    return tau * jnp.log(prior)

  return logit_shift


# The same function for the same arguments, which `jit` then compiles once.
_make_transform = functools.cache(augment.make_augment)


def make_augmentation(session, arm, image_shape) -> batches.Augmentation:
  """Returns what happens to the images of an arm.

  Args:
    arm: one of `config.ARMS`.

  Raises:
    ConfigError: if the user's transform does not work.
  """
  _, is_classical = config_lib.ARMS[arm]
  if not is_classical:
    return batches.Augmentation()
  config, custom = session.config.augment, None
  if config.transform:
    described = _described(session.config, 'augment.transform')
    custom = session.load_code('augment.transform')
    _check_transform(custom, described, image_shape)
    try:
      hash(custom)
    except TypeError:  # such as an object with arrays
      custom = functools.partial(custom)  # which is hashed by identity
  return batches.Augmentation(
    transform=_make_transform(
      crop=config.crop_padding,
      flip=config.flip,
      color=config.color,
      cutout=config.cutout,
      custom=custom,
    ),
    mix=augment.make_mix(mixup=config.mixup, cutmix=config.cutmix),
    partner=config.partner,
    on=config.apply_to,
  )


def _check_transform(transform, described, image_shape):
  """Checks by shapes that the user's transform gives an image."""
  image = jax.ShapeDtypeStruct(image_shape, np.float32)
  with external.running(described):
    made = jax.eval_shape(transform, jax.random.key(0), image)
  shape = getattr(made, 'shape', None)
  if shape != image_shape:
    raise ConfigError(
      f'{described} returned {shape or type(made).__name__} for an image of '
      f'{image_shape}; it must return an image of the same shape.'
    )


def _described(config, field):
  """ "classifier.arch='net:Net'", for example."""
  return f'{field}={config_lib.flatten(config)[field]!r}'


def _own_parts(config):
  """The user's optimizer and schedule, for messages; '' if both are built in."""
  fields = [f'classifier.{part}' for part in ('optimizer', 'schedule')]
  named = config_lib.code_of(config)
  return ' with '.join(_described(config, field) for field in fields if field in named)
