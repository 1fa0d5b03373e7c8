"""Every field of a run with its default, and what values are allowed.

Experiments are files in `configs/` that start from `default()` and change a few fields.
A config is validated once, here, and pure code never reads it.
"""

import math
import re

import ml_collections

from gan_aug_jax.errors import ConfigError

ARMS = {
  # name: (draws synthetic images, augments classically)
  'real_only': (False, False),
  'real_classical': (False, True),
  'augmented': (True, False),
  'augmented_classical': (True, True),
}


def default():
  """Returns the config that every experiment starts from."""
  config = ml_collections.ConfigDict()

  config.duration = ''  # how long it takes on what; shown at the start
  config.seed = 0  # root of every seed below that is -1
  config.backend = 'jit'  # 'jit' or 'pmap': the same numbers
  config.platform = ''  # 'cpu', 'gpu' or 'tpu'; '' takes what JAX finds
  config.num_cpu_devices = 0  # virtual devices on a CPU host; 0: automatic
  config.steps_per_call = 0  # steps scanned in one call; 0: 1 on CPU, measured elsewhere
  config.compilation_cache = True  # keep compiled programs in the user's cache directory
  config.precision = 'float32'  # to compute in, or 'bfloat16', 'float64'
  config.arms = tuple(ARMS)  # what to compare: any of ARMS

  config.data = data = ml_collections.ConfigDict()
  data.name = 'mnist5k'  # embedded, or any TFDS image-classification dataset
  data.data_dir = ''  # of TFDS; '' takes TFDS_DATA_DIR, or TFDS's own default
  data.image_size = 32  # side in pixels, padded or resized to
  data.per_class = 0  # label budget: images a class, validation included; 0: all
  data.val_fraction = 0.1  # of the training split (or the budget), stratified
  data.imbalance = 1.0  # times fewer images of the rarest class, validation included
  data.imbalance_shape = 'exponential'  # a long tail; or 'step', half of the classes rare
  data.seed = -1  # of the subset, the validation split and the order

  config.gan = gan = ml_collections.ConfigDict()
  gan.arch = 'dcgan'  # 'dcgan', 'mlp', 'sngan' or 'resnet'
  gan.upsampling = 'subpixel'  # or 'nearest', 'transposed'; subpixel is fastest on CPU
  gan.loss = 'non_saturating'  # or 'hinge', 'relativistic'
  gan.seed = -1
  gan.precision = ''  # '' follows the root's; parameters are never below float32
  gan.num_epochs = 200
  gan.num_steps = 0  # above 0 it overrides num_epochs
  gan.batch_size = 64
  gan.learning_rate = 2e-4  # Adam, of the generator
  gan.discriminator_learning_rate = 0.0  # 0: the generator's
  gan.d_steps = 1  # updates of the discriminator for one of the generator
  gan.beta1 = 0.5
  gan.beta2 = 0.999
  gan.latent_dim = 100
  gan.width = 64  # features at the image's end of both networks
  gan.real_label = 0.9  # one-sided label smoothing; 1 for none
  gan.diffaug = ()  # some of 'color', 'translation', 'cutout', 'flip', in training
  gan.r1 = 0.0  # weight of the gradient penalty at real images
  gan.r2 = 0.0  # and at synthetic ones
  gan.lecam = 0.0  # weight of the LeCam regulariser
  gan.ema_decay = 0.999  # moving average of the generator, which is what is sampled
  gan.select = 'cas'  # freeze the best saved generator by 'cas', 'frechet'; or the 'last'
  gan.select_steps = 200  # of a probe that 'cas' trains on each of them

  config.classifier = classifier = ml_collections.ConfigDict()
  classifier.arch = 'cnn'  # 'cnn', 'mlp' or 'resnet'
  classifier.seed = -1
  classifier.precision = ''
  classifier.num_epochs = 50  # steps of num_epochs * N / batch_size for every arm
  classifier.num_steps = 0  # above 0 it overrides num_epochs
  classifier.budget = 'steps'  # equal for all arms; or real examples seen, 'exposure'
  classifier.batch_size = 128
  classifier.optimizer = 'sgd'  # with momentum, or 'adam'
  classifier.learning_rate = 1e-3
  classifier.momentum = 0.9  # of sgd
  classifier.weight_decay = 0.0
  classifier.schedule = 'constant'  # or 'cosine', to 0
  classifier.dropout = 0.0  # after each hidden layer, and the resnet's pooling
  classifier.features = ()  # channels; (): (32, 64, 128) for cnn, (16, 32, 64) for resnet
  classifier.hidden = ()  # fully connected layers; (): (128,) for cnn, (128, 64) for mlp
  classifier.blocks = 1  # of the resnet, residual blocks for each of features
  classifier.batch_norm = 'shared'  # of the resnet; or synthetic 'split' off, 'real_only'

  config.mix = mix = ml_collections.ConfigDict()
  mix.ratio = 0.2  # synthetic images / batch size, in the augmented arms
  mix.mode = 'replace'  # 'replace' real ones, or 'add' to them
  mix.ratio_schedule = 'constant'  # or rising to the ratio, 'linear' or 'cosine'
  mix.warmup = 0.0  # share of the steps, the first ones, without synthetic images
  mix.off = 0.0  # and the last ones
  mix.weight = 1.0  # of a synthetic image in the loss, beside 1 of a real one
  mix.weight_schedule = 'constant'  # or rising to the weight, 'linear' or 'cosine'

  config.augment = augment = ml_collections.ConfigDict()
  augment.on = 'both'  # in the classical arms: 'both', or 'real' or 'synthetic' images
  augment.crop = 4  # largest shift in pixels
  augment.flip = True  # mirror left to right
  augment.color = 0.0  # largest change of brightness, saturation and contrast, up to 1
  augment.cutout = 0  # side in pixels of a square that is blanked
  augment.mixup = 0.0  # alpha; blends with a real training image
  augment.cutmix = 0.0  # alpha; a rectangle from a real training image
  augment.partner = 'any'  # real training image for these two; or of the 'same' class

  config.sampler = sampler = ml_collections.ConfigDict()
  sampler.checkpoints = ()  # generators to draw from: 'step:N' and 'seed:N'; (): the best
  sampler.precision = ''  # the frozen generator computes in; '' follows gan.precision
  sampler.candidates = 1  # drawn for each synthetic position, the best of them kept
  sampler.score = 'teacher'  # best by 'teacher', 'discriminator', 'hard' or 'random'
  sampler.min_confidence = 0.0  # of an accepted image: the teacher's, or discriminator's
  sampler.on_reject = 'real'  # a 'real' image of the class instead; or 'drop', weight 0
  sampler.teacher_steps = 1000  # of the teacher, a probe trained on real images
  sampler.labels = 'hard'  # targets; or 'smoothed', or the 'teacher' probabilities
  sampler.smoothing = 0.1  # of 'smoothed'
  sampler.classes = 'uniform'  # or 'train', 'inverse', 'balance', 'feedback'
  sampler.latent_std = 1.0  # standard deviation of the latents
  sampler.truncation = 0.0  # in standard deviations; 0 for none
  sampler.interpolation = 0.0  # up to this part of the way from one latent to another
  sampler.refresh_every = 1  # steps that a synthetic image is kept, augmented anew
  sampler.offline = 0  # above 0: images a class, drawn once and written, to draw from

  config.score = score = ml_collections.ConfigDict()
  score.width = 24  # of the probes, the small CNNs that generators are judged by
  score.extractor_steps = 2000  # of the one trained on real images
  score.cas_steps = 600  # of those trained on synthetic images alone
  score.num_samples = 5000  # synthetic images, and real ones at the most
  score.neighbours = 5  # k of precision, recall, density and coverage

  config.distributed = distributed = ml_collections.ConfigDict()
  distributed.auto = False  # several processes, as the cluster's environment says
  distributed.coordinator = ''  # host:port of process 0, where no environment says
  distributed.num_processes = 0  # with coordinator
  distributed.process_id = -1  # with coordinator, from 0

  config.profile = profile = ml_collections.ConfigDict()
  profile.steps = ''  # 'first:last': traces these steps of every training

  config.log = log = ml_collections.ConfigDict()
  log.every_steps = 50  # between lines of metrics.jsonl
  log.eval_every_steps = 0  # classifier on validation data; 0: about 20 times a run
  log.save_every_steps = 0  # checkpoints and the GAN's sample grids; 0: about 5 times
  return config.lock()


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


def _whole(low):
  return lambda value: low <= value < 2**31, f'a whole number from {low} to 2^31 - 1'


def _within_whole(low, high):
  return lambda value: low <= value <= high, f'from {low} to {high}'


def _sizes(value):
  return all(isinstance(size, int) and size > 0 for size in value)


def _is_range(value):
  match = re.fullmatch(r'(\d+):(\d+)', value)
  return match and int(match[1]) <= int(match[2])


def _are_checkpoints(names):
  named = [re.fullmatch(r'step:[1-9]\d{,8}|seed:(0|[1-9]\d{,8})', x) for x in names]
  return all(named) and len(names) == len(set(names))


_POSITIVE = (lambda value: 0 < value < math.inf, 'a positive number')
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, 'a number of at least 0')

_PRECISIONS = ('float32', 'bfloat16', 'float64')

# field: (whether a value is allowed, what is allowed)
_RULES = {
  'seed': _whole(0),
  'backend': _one_of('jit', 'pmap'),
  'platform': _one_of('', 'cpu', 'gpu', 'tpu'),
  'num_cpu_devices': _within_whole(0, 256),
  'steps_per_call': _whole(0),
  'precision': _one_of(*_PRECISIONS),
  'arms': (
    lambda arms: len(arms) == len(set(arms)) > 0 and set(arms) <= set(ARMS),
    f'some of {tuple(ARMS)}, each once',
  ),
  'data.image_size': _whole(8),
  'data.per_class': (lambda n: n == 0 or n >= 2, '0 (all), or at least 2'),
  'data.val_fraction': _within(0, 1, low_open=True, high_open=True),
  'data.seed': _whole(-1),
  'data.imbalance': _within(1, 1e6),
  'data.imbalance_shape': _one_of('exponential', 'step'),
  'gan.arch': _one_of('dcgan', 'mlp', 'sngan', 'resnet'),
  'gan.upsampling': _one_of('subpixel', 'nearest', 'transposed'),
  'gan.loss': _one_of('non_saturating', 'hinge', 'relativistic'),
  'gan.seed': _whole(-1),
  'gan.precision': _one_of('', *_PRECISIONS),
  'gan.num_epochs': _whole(1),
  'gan.num_steps': _whole(0),
  'gan.batch_size': _whole(1),
  'gan.learning_rate': _POSITIVE,
  'gan.discriminator_learning_rate': _NOT_NEGATIVE,
  'gan.d_steps': _whole(1),
  'gan.beta1': _within(0, 1, high_open=True),
  'gan.beta2': _within(0, 1, high_open=True),
  'gan.latent_dim': _whole(1),
  'gan.width': _whole(8),
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
  'classifier.batch_size': _whole(1),
  'classifier.optimizer': _one_of('sgd', 'adam'),
  'classifier.learning_rate': _POSITIVE,
  'classifier.momentum': _within(0, 1, high_open=True),
  'classifier.weight_decay': _NOT_NEGATIVE,
  'classifier.schedule': _one_of('constant', 'cosine'),
  'classifier.dropout': _within(0, 1, high_open=True),
  'classifier.features': (_sizes, 'positive whole numbers'),
  'classifier.hidden': (_sizes, 'positive whole numbers'),
  'classifier.blocks': _whole(1),
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
  'sampler.checkpoints': (
    _are_checkpoints,
    "of the form 'step:N' or 'seed:N', each once",
  ),
  'score.width': _whole(1),
  'score.extractor_steps': _whole(1),
  'score.cas_steps': _whole(1),
  'score.num_samples': _whole(10),
  'score.neighbours': _whole(1),
  'sampler.precision': _one_of('', *_PRECISIONS),
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
  'sampler.offline': _whole(0),
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


def flatten(config):
  """Returns {dotted field: value} of a config, sorted by field."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat.update({f'{name}.{inner}': v for inner, v in flatten(value).items()})
    else:
      flat[name] = value
  return dict(sorted(flat.items()))


def from_dict(values):
  """Restores a config from `config.to_dict()` after JSON.

  Raises:
    ConfigError: if it has other fields than `default()`, or other types.
  """
  config = default()
  try:
    config.update(_with_tuples(values))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(f'The saved config does not fit this version: {error}') from None
  return config


def _with_tuples(value):
  if isinstance(value, dict):
    return {name: _with_tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


def validate(config, *, trains_gan=None):
  """Checks every field, alone and in combination, before anything is computed.

  Args:
    config: the config.
    trains_gan: whether a GAN will be trained; None: if an arm needs one.

  Raises:
    ConfigError: the first field that is wrong, its value and what is allowed.
  """
  fields = flatten(config)
  unknown = set(fields) - set(flatten(default()))
  if unknown:
    raise ConfigError(f'There is no config field {min(unknown)!r}; see {__name__}.')
  for field, (allowed, description) in _RULES.items():
    if field not in fields:
      raise ConfigError(f'The config lacks the field {field}; start from default().')
    try:
      fits = allowed(fields[field])
    except TypeError:
      fits = False
    if not fits:
      raise ConfigError(f'{field}={fields[field]!r} must be {description}.')
  if needs_generator(config) if trains_gan is None else trains_gan:
    _validate_gan(config)
  _validate_classifier(config)
  if needs_generator(config):
    _validate_policies(config)
  _validate_run(config)


def _validate_gan(config):
  size = config.data.image_size
  if config.gan.arch != 'mlp' and size not in (8, 16, 32, 64, 128):
    raise ConfigError(
      f'data.image_size={size} must be 8, 16, 32, 64 or 128 for gan.arch='
      f"{config.gan.arch!r}; the 'mlp' takes any."
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
      and len(members_of(config)) > 1,
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
    if config.steps_per_call and every % config.steps_per_call:
      raise ConfigError(
        f'log.{name}={every} must be a multiple of steps_per_call='
        f'{config.steps_per_call}.'
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


def members_of(config):
  """The generators that are drawn from, [(seed, step)]; step 0 is the best one."""
  own = seed_of(config, 'gan')
  named = [name.split(':') for name in config.sampler.checkpoints]
  members = [
    (own, int(number)) if kind == 'step' else (int(number), 0) for kind, number in named
  ]
  return members or [(own, 0)]


def is_augmented(config, arm):
  """Whether an arm draws synthetic images."""
  return config.mix.ratio > 0 and ARMS[arm][0]


def needs_generator(config):
  """Whether any arm draws synthetic images."""
  return any(is_augmented(config, arm) for arm in config.arms)


def seed_of(config, part):
  """The seed of 'data', 'gan' or 'classifier': its own, or the root's where it is -1."""
  return config.seed if config[part].seed == -1 else config[part].seed


def precision_of(config, part):
  """What 'gan', 'sampler' or 'classifier' computes in: its own, or what it follows."""
  followed = precision_of(config, 'gan') if part == 'sampler' else config.precision
  return config[part].precision or followed


def num_steps_of(config, part, num_examples):
  """Optimizer steps of 'gan' or 'classifier' over a training set.

  Epochs count batches of the asked size (`count_of`), whatever part of them is synthetic,
  so that every arm takes the same number of steps.
  """
  examples = count_of(config, part)
  part = config[part]
  return part.num_steps or math.ceil(part.num_epochs * num_examples / examples)


def count_of(config, part):
  """Examples of the asked batches that a step of 'gan' or 'classifier' takes."""
  times = config.gan.d_steps if part == 'gan' else 1
  return times * config[part].batch_size
