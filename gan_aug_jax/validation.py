"""What values a config may have: each field alone, then what cannot go together.

A config is validated once, before anything is computed.
"""

import importlib.util
import math
import re

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError


def _one_of(*allowed):
  return lambda value: value in allowed, 'one of ' + ', '.join(map(repr, allowed))


def _some_of(*allowed):
  return (
    lambda values: len(values) == len(set(values)) and set(values) <= set(allowed),
    f'some of {allowed}, each once',
  )


def _within(low, high, *, low_open=False, high_open=False):
  def inside(value):
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    return math.isfinite(value) and above and below

  brackets = '(['[not low_open], ')]'[not high_open]
  return inside, f'in {brackets[0]}{low:g}, {high:g}{brackets[1]}'


def _whole(low, high=2**31 - 1):
  power = high.bit_length()
  shown = f'2^{power} - 1' if high == 2**power - 1 else f'{high:,}'
  return lambda value: low <= value <= high, f'a whole number from {low} to {shown}'


def _within_whole(low, high):
  return lambda value: low <= value <= high, f'from {low} to {high}'


def _sizes(value):
  return all(isinstance(size, int) and 0 < size <= _MOST_FEATURES for size in value)


def _is_range(value):
  match = re.fullmatch(r'(\d+):(\d+)', value)
  return match and int(match[1]) <= int(match[2])


def _are_checkpoints(names):
  named = [re.fullmatch(r'step:[1-9]\d{,8}|seed:(0|[1-9]\d{,8})', x) for x in names]
  return all(named) and len(names) == len(set(names))


_POSITIVE = (lambda value: 0 < value < math.inf, 'a positive number')
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, 'a number of at least 0')

_PRECISIONS = ('float32', 'bfloat16', 'float64')
# What nobody means: the machine would end the run for want of memory, without a word.
_MOST_FEATURES, _MOST_IMAGES = 100_000, 1_000_000

# field: (whether a value is allowed, what is allowed)
_RULES = {
  'seed': _whole(0),
  'backend': _one_of('jit', 'pmap'),
  'platform': _one_of('', 'cpu', 'gpu', 'tpu'),
  'num_cpu_devices': _within_whole(0, 256),
  'steps_per_call': _whole(0),
  'precision': _one_of(*_PRECISIONS),
  'arms': (
    lambda arms: len(arms) == len(set(arms)) > 0 and set(arms) <= set(config_lib.ARMS),
    f'some of {tuple(config_lib.ARMS)}, each once',
  ),
  'data.image_size': _whole(8, 4096),
  'data.per_class': (lambda n: n == 0 or n >= 2, '0 (all), or at least 2'),
  'data.val_fraction': _within(0, 1, low_open=True, high_open=True),
  'data.on_corrupt': _one_of('refuse', 'skip'),
  'data.placement': _one_of('device', 'host'),
  'data.seed': _whole(-1),
  'data.imbalance': _within(1, 1e6),
  'data.imbalance_shape': _one_of('exponential', 'step'),
  'gan.arch': _one_of('dcgan', 'mlp', 'sngan', 'resnet'),
  'gan.upsampling': _one_of('transposed', 'subpixel', 'nearest'),
  'gan.loss': _one_of('non_saturating', 'hinge', 'relativistic'),
  'gan.seed': _whole(-1),
  'gan.precision': _one_of('', *_PRECISIONS),
  'gan.num_epochs': _whole(1),
  'gan.num_steps': _whole(0),
  'gan.batch_size': _whole(1, _MOST_IMAGES),
  'gan.learning_rate': _POSITIVE,
  'gan.discriminator_learning_rate': _NOT_NEGATIVE,
  'gan.d_steps': _whole(1, 1000),
  'gan.beta1': _within(0, 1, high_open=True),
  'gan.beta2': _within(0, 1, high_open=True),
  'gan.latent_dim': _whole(1, _MOST_FEATURES),
  'gan.width': _whole(8, _MOST_FEATURES),
  'gan.real_label': _within(0, 1, low_open=True),
  'gan.diffaug': _some_of('color', 'translation', 'cutout', 'flip'),
  'gan.r1': _NOT_NEGATIVE,
  'gan.r2': _NOT_NEGATIVE,
  'gan.lecam': _NOT_NEGATIVE,
  'gan.ema_decay': _within(0, 1, high_open=True),
  'classifier.arch': _one_of('cnn', 'mlp', 'resnet'),
  'classifier.seed': _whole(-1),
  'classifier.precision': _one_of('', *_PRECISIONS),
  'classifier.num_epochs': _whole(1),
  'classifier.num_steps': _whole(0),
  'classifier.budget': _one_of('steps', 'exposure'),
  'classifier.batch_size': _whole(1, _MOST_IMAGES),
  'classifier.optimizer': _one_of('sgd', 'adam'),
  'classifier.learning_rate': _POSITIVE,
  'classifier.momentum': _within(0, 1, high_open=True),
  'classifier.weight_decay': _NOT_NEGATIVE,
  'classifier.schedule': _one_of('constant', 'cosine'),
  'classifier.dropout': _within(0, 1, high_open=True),
  'classifier.features': (_sizes, f'whole numbers from 1 to {_MOST_FEATURES:,}'),
  'classifier.hidden': (_sizes, f'whole numbers from 1 to {_MOST_FEATURES:,}'),
  'classifier.blocks': _whole(1, 1000),
  'classifier.batch_norm': _one_of('shared', 'split', 'real_only'),
  'mix.ratio': _within(0, 1),
  'mix.mode': _one_of('replace', 'add'),
  'mix.ratio_schedule': _one_of('constant', 'linear', 'cosine'),
  'mix.warmup': _within(0, 1, high_open=True),
  'mix.off': _within(0, 1, high_open=True),
  'mix.weight': _POSITIVE,
  'mix.weight_schedule': _one_of('constant', 'linear', 'cosine'),
  'augment.on': _one_of('both', 'real', 'synthetic'),
  'augment.crop': _whole(0),
  'augment.color': _within(0, 1),
  'augment.cutout': _whole(0),
  'augment.mixup': _NOT_NEGATIVE,
  'augment.cutmix': _NOT_NEGATIVE,
  'augment.partner': _one_of('any', 'same'),
  'gan.select': _one_of('cas', 'frechet', 'last'),
  'gan.select_steps': _whole(1),
  'sampler.generator': (
    lambda name: not name or re.fullmatch(r'[A-Za-z_][\w.]*:[A-Za-z_]\w*', name),
    "empty, or 'module:name'",
  ),
  'sampler.checkpoints': (
    _are_checkpoints,
    "of the form 'step:N' or 'seed:N', each once",
  ),
  'score.width': _whole(1, _MOST_FEATURES),
  'score.extractor_steps': _whole(1),
  'score.cas_steps': _whole(1),
  'score.num_samples': _whole(10, _MOST_IMAGES),
  'score.neighbours': _whole(1),
  'sampler.precision': _one_of('', *_PRECISIONS),
  'sampler.source': _one_of('generator', 'noise', 'mislabelled'),
  'sampler.candidates': _within_whole(1, 64),
  'sampler.score': _one_of('teacher', 'discriminator', 'hard', 'random'),
  'sampler.min_confidence': _within(0, 1, high_open=True),
  'sampler.on_reject': _one_of('real', 'drop'),
  'sampler.teacher_steps': _whole(1),
  'sampler.labels': _one_of('hard', 'smoothed', 'teacher'),
  'sampler.smoothing': _within(0, 1),
  'sampler.classes': _one_of('uniform', 'train', 'inverse', 'balance', 'feedback'),
  'sampler.latent_std': _POSITIVE,
  'sampler.truncation': _NOT_NEGATIVE,
  'sampler.interpolation': _within(0, 1),
  'sampler.refresh_every': _whole(1),
  'sampler.offline': _whole(0, _MOST_IMAGES),
  'distributed.coordinator': (
    lambda place: not place or re.fullmatch(r'[^\s:]+:\d{1,5}|\[[^\s]+\]:\d{1,5}', place),
    "empty, or 'host:port' such as '10.0.0.1:1234'",
  ),
  'distributed.num_processes': _whole(0),
  'distributed.process_id': _whole(-1),
  'profile.steps': (
    lambda steps: not steps or _is_range(steps),
    "empty, or 'first:last' such as '100:110'",
  ),
  'log.every_steps': _whole(1),
  'log.eval_every_steps': _whole(0),
  'log.save_every_steps': _whole(0),
}


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
  for field, (allowed, description) in _RULES.items():
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
  if config_lib.needs_generator(config):
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
  rejects = sampler.min_confidence > 0 and config_lib.needs_generator(config)
  if rejects and sampler.on_reject == 'real':
    asks += [('sampler.on_reject', 'real', 'drop')]
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
