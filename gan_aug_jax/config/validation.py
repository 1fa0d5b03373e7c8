"""What values a config may have: each field alone, then what cannot go together.

A config is validated once, before anything is computed.
"""

import importlib.util

from gan_aug_jax import config as config_lib
from gan_aug_jax.config.rules import RULES
from gan_aug_jax.errors import ConfigError


def validate(config, *, trains_gan=None):
  """Checks every field, alone and in combination, before anything is computed.

  Args:
    config: the config.
    trains_gan: whether a GAN will be trained; None: if an arm needs one.

  Raises:
    ConfigError: the first field that is wrong, its value and what is allowed.
  """
  fields = config_lib.flatten(config)
  unknown = set(fields) - set(config_lib.flatten(config_lib.default()))
  if unknown:
    raise ConfigError(
      f'There is no config field {min(unknown)!r}; see {config_lib.__name__}.'
    )
  for field, (allowed, description) in RULES.items():
    if field not in fields:
      raise ConfigError(f'The config lacks the field {field}; start from default().')
    try:
      fits = allowed(fields[field])
    except TypeError:
      fits = False
    if not fits:
      raise ConfigError(f'{field}={fields[field]!r} must be {description}.')
  if config_lib.needs_generator(config) if trains_gan is None else trains_gan:
    _validate_gan(config)
  _validate_classifier(config)
  if config.data.placement == 'host':
    _validate_host(config)
  if config_lib.draws_synthetic(config):
    _validate_policies(config)
  _validate_data(config)
  _validate_run(config)


def _validate_gan(config):
  if config.sampler.generator:
    _validate_own_generator(config)
    return
  size = config.data.image_size
  if config.gan.arch != 'mlp' and size not in (8, 16, 32, 64, 128):
    raise ConfigError(
      f'data.image_size={size} must be 8, 16, 32, 64 or 128 for gan.arch='
      f"{config.gan.arch!r}; the 'mlp' takes any."
    )


def _validate_own_generator(config):
  """Refuses what asks for a GAN where the user's own generator takes its place."""
  sampler, default = config.sampler, config_lib.default().sampler
  asks = [('checkpoints', sampler.checkpoints != default.checkpoints)]
  asks += [('score', sampler.score == 'discriminator')]
  for field in ('latent_std', 'truncation', 'interpolation'):
    asks += [(field, sampler[field] != default[field])]
  for field, asked in asks:
    if asked:
      raise ConfigError(
        f'sampler.{field}={sampler[field]!r} is of the GAN, whose place '
        f'sampler.generator={sampler.generator!r} takes; leave it at {default[field]!r}.'
      )


def _validate_host(config):
  """Refuses what looks at any image of the set in a step where they stay on the host."""
  augment, sampler = config.augment, config.sampler
  asks = [(f'augment.{name}', augment[name], 0.0) for name in ('mixup', 'cutmix')]
  if config_lib.draws_synthetic(config):
    if sampler.min_confidence > 0 and sampler.on_reject == 'real':
      asks += [('sampler.on_reject', 'real', 'drop')]
    if sampler.source in config_lib.BOUNDS:
      asks += [('sampler.source', sampler.source, 'generator')]
  for field, value, other in asks:
    if value != other:
      raise ConfigError(
        f"{field}={value!r} draws real images in the step, and data.placement='host' "
        f'has only those of the batch there; use {field}={other!r} or '
        "data.placement='device'."
      )


def _validate_classifier(config):
  size, classifier = config.data.image_size, config.classifier
  num_poolings = len(classifier.features) or 3
  if classifier.arch == 'cnn' and size >> num_poolings < 1:
    raise ConfigError(
      f'classifier.features={classifier.features!r} halves images {num_poolings} times, '
      f'too often for data.image_size={size}.'
    )
  for field in ('crop', 'cutout'):
    if config.augment[field] >= size:
      raise ConfigError(
        f'augment.{field}={config.augment[field]} must be smaller than data.image_size='
        f'{size}.'
      )
  if classifier.batch_norm != 'shared' and classifier.arch != 'resnet':
    raise ConfigError(
      f'classifier.batch_norm={classifier.batch_norm!r} is for classifier.arch='
      f"'resnet'; {classifier.arch!r} has no batch normalisation."
    )
  batch_size, ratio = classifier.batch_size, config.mix.ratio
  if 0 < ratio < 0.5 / batch_size:
    raise ConfigError(
      f'mix.ratio={ratio} of classifier.batch_size={batch_size} is less than half an '
      f'image; use 0 or at least {1 / batch_size:.4g}.'
    )


def _validate_policies(config):
  """Refuses policies of sampling and mixing that cannot go together."""
  mix, sampler, classifier = config.mix, config.sampler, config.classifier
  rejects = sampler.min_confidence > 0
  refusals = [
    (
      mix.warmup + mix.off >= 1,
      f'mix.warmup={mix.warmup} and mix.off={mix.off} leave no step with synthetic '
      'images; together they must be below 1',
    ),
    (
      rejects and sampler.score == 'random',
      f'sampler.min_confidence={sampler.min_confidence} needs a score that has one; '
      "sampler.score='random' has none",
    ),
    (
      rejects and sampler.score == 'discriminator' and config.gan.loss == 'relativistic',
      'sampler.min_confidence needs a logit whose zero means something; gan.loss='
      "'relativistic' leaves it open: choose sampler.score='teacher'",
    ),
    (
      sampler.offline > 0 and sampler.refresh_every > 1,
      f'sampler.offline={sampler.offline} draws from images that are there already; '
      'leave sampler.refresh_every at 1',
    ),
    (
      sampler.offline > 0
      and sampler.score == 'discriminator'
      and (rejects or sampler.candidates > 1)
      and len(config_lib.members_of(config)) > 1,
      "sampler.score='discriminator' with several generators has to know which drew an "
      'image; sampler.offline does not keep it: use one generator, or another score',
    ),
    (
      classifier.budget == 'exposure' and rejects and sampler.on_reject == 'real',
      "classifier.budget='exposure' counts real examples in advance; with "
      "sampler.min_confidence choose sampler.on_reject='drop'",
    ),
    (
      classifier.budget == 'exposure' and (config.augment.mixup or config.augment.cutmix),
      "classifier.budget='exposure' does not count the partners of augment.mixup and "
      "augment.cutmix, which are real examples too; use classifier.budget='steps'",
    ),
    (
      classifier.budget == 'exposure' and sampler.source in config_lib.BOUNDS,
      f"classifier.budget='exposure' does not count the real images that sampler.source="
      f"{sampler.source!r} shows; use classifier.budget='steps'",
    ),
    (
      config.augment.on == 'synthetic' and 'real_classical' in config.arms,
      "augment.on='synthetic' leaves the arm real_classical without any augmentation, "
      'the same as real_only; leave it out of arms',
    ),
  ]
  if mix.mode == 'replace' and mix.ratio * classifier.batch_size + 0.5 >= (
    classifier.batch_size
  ):
    no_real = f'mix.ratio={mix.ratio} replaces every real image'
    refusals += [
      (
        classifier.batch_norm != 'shared',
        f'{no_real}, and classifier.batch_norm={classifier.batch_norm!r} needs some',
      ),
      (
        classifier.budget == 'exposure',
        f"{no_real}: with classifier.budget='exposure' training would never end",
      ),
      (
        sampler.classes == 'feedback',
        f"{no_real}: sampler.classes='feedback' goes by their loss",
      ),
      (
        rejects and sampler.on_reject == 'drop',
        f"{no_real}: with sampler.on_reject='drop' a batch may have no image at all",
      ),
    ]
  for refused, why in refusals:
    if refused:
      raise ConfigError(f'{why}.')


def _validate_data(config):
  name, needed = config.data.name, {'folder': 'directory', 'npz': 'file'}
  if name in needed and not config.data.data_dir:
    raise ConfigError(
      f'data.name={name!r} needs data.data_dir, the {needed[name]} to read.'
    )

  if config.data.train_on_val and config.data.test_on == 'val':
    raise ConfigError(
      "data.train_on_val=True and data.test_on='val' would test on images that are "
      'trained on; choose one of the two.'
    )


def _validate_run(config):
  if config.score.neighbours >= config.score.num_samples:
    raise ConfigError(
      f'score.neighbours={config.score.neighbours} must be below score.num_samples='
      f'{config.score.num_samples}.'
    )
  every = config.sampler.refresh_every
  if config.log.save_every_steps % every:
    raise ConfigError(
      f'log.save_every_steps={config.log.save_every_steps} must be a multiple of '
      f'sampler.refresh_every={every}: a pool is not saved.'
    )
  for name, every in config.log.items():
    if name == 'tensorboard':
      continue
    if config.steps_per_call and every % config.steps_per_call:
      raise ConfigError(
        f'log.{name}={every} must be a multiple of steps_per_call='
        f'{config.steps_per_call}.'
      )
  needed = ('tensorflow', 'tensorboard')
  if config.log.tensorboard and not all(map(importlib.util.find_spec, needed)):
    raise ConfigError(
      'log.tensorboard=True needs TensorFlow and TensorBoard; install the extra: pip '
      "install -e '.[tensorflow]'."
    )
  distributed = config.distributed
  if distributed.coordinator and not (
    0 <= distributed.process_id < distributed.num_processes
  ):
    raise ConfigError(
      f'distributed.coordinator needs distributed.num_processes='
      f'{distributed.num_processes} of at least 1 and distributed.process_id='
      f'{distributed.process_id} from 0 to one less.'
    )
