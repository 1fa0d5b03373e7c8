"""Every field of a run with its default.

Experiments are files in `configs/` that start from `default()` and change a few fields.
What values are allowed stands in `validation.py`; pure code never reads a config.
"""

import math

import ml_collections

from gan_aug_jax.errors import CheckpointError, ConfigError  # noqa: F401  of config files

ARMS = {
  # name: (draws synthetic images, augments classically)
  'real_only': (False, False),
  'real_classical': (False, True),
  'augmented': (True, False),
  'augmented_classical': (True, True),
}

# What `sampler.source` shows of real images: those of the training set, and others.
BOUNDS = ('replayed', 'unseen')


def default():
  """Returns the config that every experiment starts from."""
  config = ml_collections.ConfigDict()

  config.duration = ''  # how long it takes on what; shown at the start
  config.seed = 0  # root of every seed below that is -1
  config.backend = 'jit'  # 'jit' or 'pmap': the same numbers
  config.platform = ''  # 'cpu', 'gpu' or 'tpu'; '' takes what JAX finds
  config.num_cpu_devices = 0  # virtual devices on a CPU host; 0: one
  config.steps_per_call = 0  # steps scanned in one call; 0: 1 on CPU, up to 50 elsewhere
  config.compilation_cache = True  # keep compiled programs in the user's cache directory
  config.precision = 'float32'  # to compute in, or 'bfloat16', 'float64'
  config.arms = tuple(ARMS)  # what to compare: any of ARMS

  config.data = data = ml_collections.ConfigDict()
  data.name = 'mnist5k'  # embedded; 'folder', 'npz', 'huggingface:NAME'; or TFDS's name
  data.data_dir = ''  # where it is; '' takes TFDS_DATA_DIR, or TFDS's own default
  data.on_corrupt = 'refuse'  # image files that cannot be read; or 'skip' and count them
  data.placement = 'device'  # all images at once; or 'host' streams what each step takes
  data.image_size = 32  # side in pixels, padded or resized to
  data.per_class = 0  # label budget: images a class, validation included; 0: all
  data.val_fraction = 0.1  # of the training split (or the budget), stratified
  data.imbalance = 1.0  # times fewer images of the rarest class, validation included
  data.imbalance_shape = 'exponential'  # a long tail; or 'step', half of the classes rare
  data.train_on_val = False  # train on validation images, too, which then say nothing
  data.test_on = 'test'  # or, in a search, 'val': the test split is not looked at
  data.seed = -1  # of the subset, the validation split and the order

  config.gan = gan = ml_collections.ConfigDict()
  gan.arch = 'dcgan'  # 'dcgan', 'mlp', 'sngan' or 'resnet'
  gan.upsampling = 'transposed'  # 4x4, stride 2; or 'subpixel', 'nearest', each 3x3
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
  classifier.nesterov = False  # momentum that looks ahead; with adam, NAdam
  classifier.weight_decay = 0.0
  classifier.clip_norm = 0.0  # largest global norm of a gradient; 0: no clipping
  classifier.schedule = 'constant'  # or 'cosine', to 0
  classifier.warmup_steps = 0  # the learning rate rises from 0, before the schedule
  classifier.label_smoothing = 0.0  # part of a real target spread over all classes
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
  sampler.generator = ''  # 'module:name' of a generator of one's own; '' trains the GAN
  sampler.allow_foreign = False  # also one that saw other images, and say so
  sampler.checkpoints = ()  # generators to draw from: 'step:N' and 'seed:N'; (): the best
  sampler.source = 'generator'  # or, to compare, 'noise', 'mislabelled' or real images
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
  log.tensorboard = False  # event files beside metrics.jsonl; needs the extra tensorflow
  log.save_every_steps = 0  # checkpoints, grids; 0: 5 times, a GAN's at most every 1,000
  return config.lock()


def ablation():
  """Returns the group of fields `ablation` of a config in `configs/ablations/`.

  Its `arms` and `grid` are plain dicts, as their keys are dotted fields.
  """
  fields = {
    'seeds': (0, 1, 2, 3, 4),  # of the subset, the GAN and the classifier together
    'arms': {},  # name: {field: value}, what is compared; {}: augmented_classical alone
    'grid': {},  # field: values; arms and controls are repeated at each point
    'control': 'real_classical',  # or 'real_only', what the verdict compares with
    'controls': {},  # name: {field: value}, further ones, which may be the best, too
    'placebos': (),  # some of 'noise', 'mislabelled': images in place of the generator's
    'bounds': (),  # some of 'replayed', 'unseen': real ones, the floor and the ceiling
    'equal_compute': False,  # a control that has the GAN's operations to train on, too
    'vmap_seeds': False,  # all seeds of an arm in one program
  }
  return ml_collections.ConfigDict(fields, convert_dict=False).lock()


def add_ablation(config, **fields):
  """Returns a config with the group of fields `ablation`, some of them set."""
  with config.unlocked():
    config.ablation = ablation()
  config.ablation.update(fields)
  return config


def base_of(config):
  """The config without its ablation: what every cell of one starts from."""
  base = config.copy_and_resolve_references()
  if 'ablation' in base:
    with base.unlocked():
      del base['ablation']
  return base


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
    CheckpointError: if it has other fields than `default()`, or other types.
  """
  config = default()
  try:
    unknown = set(_names(values)) - set(_names(config.to_dict()))
    if unknown:
      raise KeyError(f'it has a field {min(unknown)}')
    config.update(_with_tuples(values))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    reason = ' '.join(map(str, error.args))
    raise CheckpointError(
      f'The saved config does not fit this version ({reason}); use the one that made it.'
    ) from None
  return config


def _names(values, group=''):
  """Dotted names of the fields and groups of a nested dict."""
  for name, value in values.items():
    yield group + name
    if isinstance(value, dict):
      yield from _names(value, f'{group}{name}.')


def _with_tuples(value):
  if isinstance(value, dict):
    return {name: _with_tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


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


def draws_synthetic(config):
  """Whether any arm draws synthetic images, or what a control has in their place."""
  return any(is_augmented(config, arm) for arm in config.arms)


def needs_generator(config):
  """Whether any arm draws from a generator, or asks its discriminator."""
  sampler = config.sampler
  judged = sampler.candidates > 1 or sampler.min_confidence > 0
  asked = sampler.source in ('generator', 'mislabelled')
  asked = asked or (judged and sampler.score == 'discriminator')
  return asked and draws_synthetic(config)


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
