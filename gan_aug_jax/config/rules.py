"""What values each field of a config may have; `validation` says what goes together."""

import math
import re

from gan_aug_jax import config as config_lib


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
RULES = {
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
  'data.test_on': _one_of('test', 'val'),
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
  'classifier.clip_norm': _NOT_NEGATIVE,
  'classifier.schedule': _one_of('constant', 'cosine'),
  'classifier.warmup_steps': _whole(0),
  'classifier.label_smoothing': _within(0, 1, high_open=True),
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
  'sampler.source': _one_of('generator', 'noise', 'mislabelled', *config_lib.BOUNDS),
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
