"""Every field of a config, in one table: default, rule, meaning, and what depends on it.

A new field is one entry here. The defaults, the checks of single values, the page
docs/config.md and the fields that may differ when a run goes on are all read from it.
"""

from collections.abc import Callable
import dataclasses
import math
import re
from typing import Any

from gan_aug_jax import external

ARMS = {
  # name: (draws synthetic images, augments classically)
  'real_only': (False, False),
  'real_classical': (False, True),
  'augmented': (True, False),
  'augmented_classical': (True, True),
}

# What `mix.source` can show that an oracle would: the training images once more, and
# real images that no arm may train on.
ORACLES = ('train_copies', 'held_out')
# And what a skeptic asks for: images without content, and images that teach nonsense.
NEGATIVE_CONTROLS = ('noise', 'mislabelled')

# The generators that are trained here; any other one is external, 'module:name'.
FAMILIES = ('gan', 'flow')

# What has to be trained again when a field changes.
RUN = 'run'  # everything
GENERATOR = 'generator'  # it, and the arms that draw from it
SYNTHESIS = 'synthesis'  # the arms that draw synthetic images
CLASSIFIER = 'classifier'  # every arm
CADENCE = 'cadence'  # an unfinished generator, which is chosen from checkpoints
NOTHING = 'nothing'  # it says where or how a run happens, not what comes out
OF_ARMS = {SYNTHESIS, CLASSIFIER}
OF_GENERATORS = {GENERATOR, SYNTHESIS}

# Nobody means more than this: the machine would run out of memory without a message.
_MOST_FEATURES, _MOST_IMAGES, _MOST = 100_000, 1_000_000, 2**31 - 1
_PRECISIONS = ('float32', 'bfloat16', 'float64')
_SHAPES = ('constant', 'linear', 'cosine')


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which values a field may have.

  Attributes:
    allows: `value -> bool`; a TypeError counts as False.
    text: completes the sentence "FIELD=VALUE must be ...".
  """

  allows: Callable[[Any], Any]
  text: str


@dataclasses.dataclass(frozen=True)
class Field:
  """One field.

  Attributes:
    default: its value, which also sets its type.
    doc: what it means, with its unit.
    rule: a `Rule`; None allows any value of the default's type.
    affects: one of the constants above.
    when: when to change it, a sentence; '' where the meaning says it.
  """

  default: Any
  doc: str
  rule: Rule | None = None
  affects: str = RUN
  when: str = ''


def _one_of(*allowed):
  return Rule(lambda value: value in allowed, 'one of ' + ', '.join(map(repr, allowed)))


def _some_of(*allowed, least=0):
  return Rule(
    lambda values: (
      least <= len(values) == len(set(values)) and set(values) <= set(allowed)
    ),
    f'some of {allowed}, each once',
  )


def _within(low, high, *, low_open=False, high_open=False):
  def allows(value):
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    return math.isfinite(value) and above and below

  brackets = '(['[not low_open], ')]'[not high_open]
  return Rule(allows, f'in {brackets[0]}{low:g}, {high:g}{brackets[1]}')


def _whole(low, high=_MOST):
  shown = '2^31 - 1' if high == _MOST else f'{high:,}'
  return Rule(lambda n: low <= n <= high, f'a whole number from {low} to {shown}')


def _matching(pattern, text):
  return Rule(lambda value: not value or re.fullmatch(pattern, value), text)


def _or_code(*allowed):
  return Rule(
    lambda value: value in allowed or re.fullmatch(external.PATTERN, value),
    'one of ' + ', '.join(map(repr, allowed)) + ", or 'module:name' of your own",
  )


def _is_range(value):
  match = re.fullmatch(r'(\d+):(\d+)', value)
  return not value or (match and int(match[1]) <= int(match[2]))


def _are_checkpoints(names):
  named = [re.fullmatch(r'step:[1-9]\d{,8}|seed:(0|[1-9]\d{,8})', x) for x in names]
  return all(named) and len(names) == len(set(names))


def _are_arguments(texts):
  names = [re.match(r'([A-Za-z_]\w*)=', text) for text in texts]
  return all(names) and len({name[1] for name in names}) == len(names)


def _are_sizes(sizes):
  return all(isinstance(size, int) and 0 < size <= _MOST_FEATURES for size in sizes)


_POSITIVE = Rule(lambda value: 0 < value < math.inf, 'a positive number')
_NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, 'a number of at least 0')
_FRACTION = _within(0, 1)
_BELOW_1 = _within(0, 1, high_open=True)
_SIZES = Rule(_are_sizes, f'whole numbers from 1 to {_MOST_FEATURES:,}')
_PRECISION = _one_of('', *_PRECISIONS)
_SEED = _whole(-1)

_OF_THE_RUN = {
  'expected_duration': Field(
    '', 'how long the run takes, and on what; printed at the start', affects=NOTHING
  ),
  'seed': Field(0, 'root of every seed that is -1', _whole(0)),
  'backend': Field(
    'jit',
    "how steps are compiled: 'jit' or 'pmap'; the numbers are the same",
    _one_of('jit', 'pmap'),
  ),
  'platform': Field(
    '',
    "where to compute: 'cpu', 'gpu' or 'tpu'; '' takes what JAX finds",
    _one_of('', 'cpu', 'gpu', 'tpu'),
    NOTHING,
  ),
  'num_cpu_devices': Field(
    0, 'virtual devices on a CPU host; 0: one', _whole(0, 256), NOTHING
  ),
  'steps_per_call': Field(
    0,
    'training steps scanned in one call; 0: 1 on a CPU, up to 50 elsewhere',
    _whole(0),
    when='Raise it on an accelerator if a step takes less than a few milliseconds.',
  ),
  'compilation_cache': Field(
    True, "keep compiled programs in the user's cache directory", affects=NOTHING
  ),
  'precision': Field(
    'float32',
    'type to compute in',
    _one_of(*_PRECISIONS),
    when="Use 'bfloat16' on a TPU or a recent GPU.",
  ),
  'matmul_precision': Field(
    'default',
    "of products and convolutions in float32: 'default', which is TF32 on recent NVIDIA "
    "GPUs and bfloat16 on TPUs, or 'highest', which is float32 everywhere and slower",
    _one_of('default', 'highest'),
  ),
  'deterministic': Field(
    False,
    'on a GPU, the same bits when a run is repeated or resumed, at a cost in time; they '
    'always are on a CPU',
  ),
  'arms': Field(
    tuple(ARMS), 'classifiers to compare', _some_of(*ARMS, least=1), CLASSIFIER
  ),
}

_DATA = {
  'name': Field(
    'mnist5k',
    "source of the images: the embedded 'mnist5k', 'folder', "
    "'npz', 'huggingface:NAME' or a TFDS name",
  ),
  'data_dir': Field(
    '',
    "where the data are; '' takes TFDS_DATA_DIR, or TFDS's own default",
    affects=NOTHING,
  ),
  'on_corrupt': Field(
    'refuse',
    "for image files that cannot be read: 'refuse' the dataset, or 'skip' and count them",
    _one_of('refuse', 'skip'),
    when="Use 'skip' once you have seen which files are damaged.",
  ),
  'placement': Field(
    'device',
    "keep all images on the 'device', or stream each step's images from the 'host'",
    _one_of('device', 'host'),
    NOTHING,
    when="Use 'host' if the images do not fit into the device's memory.",
  ),
  'image_size': Field(
    32,
    'side of the images in pixels; smaller ones are padded, larger ones resized',
    _whole(8, 4096),
    when='Raise it if the classes differ in details; time and memory grow '
    'with its square.',
  ),
  'label_budget': Field(
    0,
    'labelled images per class, validation included; 0: all',
    Rule(lambda n: n == 0 or n >= 2, '0 (all), or at least 2'),
    when='Lower it to see what generated images are worth when labels are scarce.',
  ),
  'val_fraction': Field(
    0.1,
    'fraction of the training split (or of the budget) that is '
    'held out for validation, by class',
    _within(0, 1, low_open=True, high_open=True),
    when='Raise it if a class has fewer than ten validation images.',
  ),
  'imbalance': Field(
    1.0,
    'how many times fewer images the rarest class has, validation included',
    _within(1, 1e6),
  ),
  'imbalance_shape': Field(
    'exponential',
    "shape of the imbalance: 'exponential', a long tail; 'step', "
    'half of the classes are rare',
    _one_of('exponential', 'step'),
  ),
  'train_on_val': Field(
    False, 'also train on the validation images, which then measure nothing'
  ),
  'test_on': Field(
    'test',
    "final evaluation: the 'test' split, or 'val' in a search that must not see it",
    _one_of('test', 'val'),
    when="Use 'val' while you search for a recipe, and 'test' once, to confirm it.",
  ),
  'seed': Field(
    -1,
    'seed of the subset, the validation split and the order of the '
    'images; -1 follows the root',
    _SEED,
  ),
}

_GENERATOR = {
  'family': Field(
    'gan',
    "what is trained: 'gan', or 'module:name' of your own generator",
    _or_code(*FAMILIES),
  ),
  'args': Field(
    (),
    "arguments of an external generator, each 'name=value'",
    Rule(_are_arguments, "of the form 'name=value', each name once"),
  ),
  'seed': Field(-1, "seed of the generator's training; -1 follows the root", _SEED),
  'num_epochs': Field(200, "length of the generator's training, in epochs", _whole(1)),
  'num_steps': Field(
    0,
    "length of the generator's training in steps; above 0 it overrides num_epochs",
    _whole(0),
    when='Raise it until the score of its checkpoints is flat.',
  ),
  'batch_size': Field(
    64, "real images per update of the generator's training", _whole(1, _MOST_IMAGES)
  ),
  'learning_rate': Field(2e-4, "learning rate of the generator's Adam", _POSITIVE),
  'ema_decay': Field(
    0.999, 'moving average of its weights, which is what is sampled', _BELOW_1
  ),
  'train_precision': Field(
    '',
    "it is trained in; '' follows the root's; parameters are never below float32",
    _PRECISION,
  ),
  'precision': Field(
    '', "the frozen generator computes in; '' follows train_precision", _PRECISION
  ),
  'save_every_steps': Field(
    0,
    'its checkpoints, which are candidates, and sample grids; 0: 5 times, at most every '
    '1,000 steps',
    _whole(0),
    CADENCE,
  ),
  'select': Field(
    'cas',
    "freeze the best saved generator by 'cas' or 'frechet', or the 'last' one",
    _one_of('cas', 'frechet', 'last'),
    when="Use 'last' to save the time that scoring checkpoints takes.",
  ),
  'select_steps': Field(200, "steps of the probe that 'cas' trains on each", _whole(1)),
  'allow_foreign': Field(
    False, 'accept a generator that saw other images, and say so in the report'
  ),
  'checkpoints': Field(
    (),
    "generators to draw from: 'step:N' and 'seed:N'; (): the chosen one",
    Rule(_are_checkpoints, "of the form 'step:N' or 'seed:N', each once"),
  ),
}

_GAN = {
  'arch': Field(
    'dcgan',
    'architecture of generator and discriminator',
    _one_of('dcgan', 'mlp', 'sngan', 'resnet'),
  ),
  'upsampling': Field(
    'transposed',
    "'transposed' convolutions (4x4, stride 2), 'subpixel' or 'nearest' (3x3)",
    _one_of('transposed', 'subpixel', 'nearest'),
  ),
  'loss': Field(
    'non_saturating',
    'adversarial loss',
    _one_of('non_saturating', 'hinge', 'relativistic'),
  ),
  'discriminator_learning_rate': Field(0.0, '0: generator.learning_rate', _NOT_NEGATIVE),
  'd_steps': Field(1, 'discriminator updates for each generator update', _whole(1, 1000)),
  'beta1': Field(0.5, 'first decay rate of Adam', _BELOW_1),
  'beta2': Field(0.999, 'second decay rate of Adam', _BELOW_1),
  'latent_dim': Field(100, 'size of the latent', _whole(1, _MOST_FEATURES)),
  'width': Field(
    64, 'features next to the image, in both networks', _whole(8, _MOST_FEATURES)
  ),
  'label_smoothing': Field(
    0.1, "one-sided: the discriminator's target for real images is 1 minus it", _BELOW_1
  ),
  'diffaug': Field(
    (),
    'DiffAugment operations in training',
    _some_of('color', 'translation', 'cutout', 'flip'),
  ),
  'r1': Field(0.0, 'weight of the gradient penalty at real images', _NOT_NEGATIVE),
  'r2': Field(0.0, 'weight of the gradient penalty at synthetic images', _NOT_NEGATIVE),
  'lecam': Field(0.0, 'weight of the LeCam regularizer', _NOT_NEGATIVE),
}

_FLOW = {
  'width': Field(
    32,
    'features at the largest size: 32 makes 0.5 million parameters, 128 makes 8',
    _whole(8, _MOST_FEATURES),
  ),
  'class_dropout': Field(
    0.1, 'fraction of images trained without their class, for guidance', _BELOW_1
  ),
  'crop_padding': Field(0, 'largest shift of training images in pixels', _whole(0)),
  'flip': Field(False, 'mirror training images left to right, half of the time'),
  'evaluations': Field(
    4, 'evaluations of the network for each image drawn', _whole(1, 1000), SYNTHESIS
  ),
  'solver': Field(
    'euler',
    "'euler', or 'heun', of second order, with two evaluations a step",
    _one_of('euler', 'heun'),
    SYNTHESIS,
  ),
  'guidance': Field(
    1.0,
    'above 1: images more typical of their class and more alike, at twice the cost',
    _NOT_NEGATIVE,
    SYNTHESIS,
  ),
}

_CLASSIFIER = {
  'arch': Field(
    'cnn',
    "network of the classifier, or 'module:name' of your own",
    _or_code('cnn', 'mlp', 'resnet'),
  ),
  'seed': Field(
    -1,
    'seed of the initialisation and of what the training draws; -1 follows the root',
    _SEED,
  ),
  'precision': Field(
    '', "'' follows the root's; parameters are never below float32", _PRECISION
  ),
  'num_epochs': Field(
    50,
    'length of training: num_epochs * N / batch_size steps in every arm',
    _whole(1),
    when='Train until the validation accuracy is flat: an undertrained '
    'baseline makes any augmentation look good.',
  ),
  'num_steps': Field(
    0, 'length of training in steps; above 0 it overrides num_epochs', _whole(0)
  ),
  'budget': Field(
    'steps',
    "what is equal in all arms: 'steps', or 'exposure' to real examples",
    _one_of('steps', 'exposure'),
    when="Use 'exposure' where more steps alone would help.",
  ),
  'batch_size': Field(
    128, 'examples per step of the classifier', _whole(1, _MOST_IMAGES)
  ),
  'optimizer': Field(
    'sgd',
    "'sgd' with momentum, 'adam' (AdamW), or 'module:name' of your own",
    _or_code('sgd', 'adam'),
  ),
  'learning_rate': Field(
    1e-3,
    'peak learning rate',
    _POSITIVE,
    when='Tune it for the baseline, without synthetic images.',
  ),
  'momentum': Field(0.9, 'momentum of sgd', _BELOW_1),
  'nesterov': Field(False, 'Nesterov momentum, which looks ahead; with adam, NAdam'),
  'weight_decay': Field(
    0.0, 'added to the gradient of sgd; decoupled in adam', _NOT_NEGATIVE
  ),
  'weight_decay_on': Field(
    'all',
    "what weight_decay applies to: 'all', or 'kernels' without biases and norms",
    _one_of('all', 'kernels'),
  ),
  'clip_norm': Field(
    0.0, 'largest global norm of the gradient; 0: no limit', _NOT_NEGATIVE
  ),
  'schedule': Field(
    'constant',
    "after the warm-up: 'constant', 'cosine' or 'linear' to 0, or 'module:name' of your "
    'own',
    _or_code(*_SHAPES),
  ),
  'warmup_steps': Field(
    0, 'steps over which the learning rate rises linearly', _whole(0)
  ),
  'label_smoothing': Field(
    0.0, "fraction of a real image's target that is spread over all classes", _BELOW_1
  ),
  'ema_decay': Field(
    0.0, 'moving average of the weights, which is what is evaluated; 0: none', _BELOW_1
  ),
  'dropout': Field(
    0.0, "dropout rate after each hidden layer, and the resnet's pooling", _BELOW_1
  ),
  'features': Field(
    (), 'channels; (): (32, 64, 128) for cnn, (16, 32, 64) for resnet', _SIZES
  ),
  'hidden': Field((), 'dense layers; (): (128,) for cnn, (128, 64) for mlp', _SIZES),
  'blocks': Field(
    1, 'residual blocks of the resnet per entry of features', _whole(1, 1000)
  ),
  'save_every_steps': Field(
    0, 'steps between its checkpoints; 0: 5 times a run', _whole(0), NOTHING
  ),
  'batch_norm': Field(
    'shared',
    "statistics of the resnet: 'shared', synthetic images 'split' off, or 'real_only'",
    _one_of('shared', 'split', 'real_only'),
  ),
}

_MIX = {
  'ratio': Field(
    0.2,
    'synthetic images divided by the batch size, in the augmented arms',
    _FRACTION,
    when='Try 0.1 to 0.5 with an ablation; the best ratio depends on the generator.',
  ),
  'mode': Field(
    'replace',
    "'replace' real images, or 'add' to them",
    _one_of('replace', 'add'),
    when="Use 'add' to keep all real images of a batch; a step then takes longer.",
  ),
  'source': Field(
    'generator',
    "what the synthetic positions show: the 'generator', a negative control ('noise', "
    "'mislabelled') or an oracle ('train_copies', 'held_out' real images)",
    _one_of('generator', *NEGATIVE_CONTROLS, *ORACLES),
  ),
  'classes': Field(
    'uniform',
    "classes of the synthetic images: 'uniform', as in 'train', "
    "'inverse' to it, what fills up the rare "
    "ones ('balance'), or where the classifier errs ('feedback')",
    _one_of('uniform', 'train', 'inverse', 'balance', 'feedback'),
  ),
  'ratio_schedule': Field(
    'constant', "'constant', or rising to the ratio", _one_of(*_SHAPES)
  ),
  'start_fraction': Field(
    0.0, 'fraction of the training after which synthetic images begin', _BELOW_1
  ),
  'stop_fraction': Field(
    1.0,
    'fraction of the training after which synthetic images stop',
    _within(0, 1, low_open=True),
  ),
  'weight': Field(
    1.0,
    'weight of a synthetic image in the loss, compared with 1 of a real one',
    _POSITIVE,
  ),
  'weight_schedule': Field(
    'constant', "'constant', or rising to the weight", _one_of(*_SHAPES)
  ),
  'draw_ahead_mib': Field(
    -1,
    'memory for drawing the images of several steps in one forward pass, and composing '
    'their batches: the largest array on each device, in MiB; -1: 256; 0: in each step',
    _whole(-1, 2**20),
    NOTHING,
  ),
}

_LATENTS = {
  'std': Field(1.0, 'standard deviation of the latents', _POSITIVE),
  'truncation': Field(
    0.0, 'largest latent, in standard deviations; 0: no limit', _NOT_NEGATIVE
  ),
  'interpolation': Field(
    0.0, 'draw on the line between two latents, up to this fraction of it', _FRACTION
  ),
}

_FILTER = {
  'candidates': Field(
    1,
    'images drawn per synthetic position, of which the best is kept',
    _whole(1, 64),
    when='Raise it to keep only the images that score best; each costs a forward pass.',
  ),
  'score_by': Field(
    'teacher',
    'what tells which candidate is best',
    _one_of('teacher', 'discriminator', 'hard', 'random'),
  ),
  'min_confidence': Field(
    0.0,
    "least confidence of an accepted image: the teacher's, or the discriminator's",
    _BELOW_1,
    when='Raise it if the generator often draws the wrong class.',
  ),
  'on_reject': Field(
    'real',
    "show a 'real' image of the class instead, or 'drop' the position",
    _one_of('real', 'drop'),
  ),
  'teacher_steps': Field(
    1000, 'training steps of the teacher, a probe trained on real images', _whole(1)
  ),
}

_TARGETS = {
  'kind': Field(
    'hard',
    "targets of synthetic images: 'hard', 'smoothed', or the 'teacher' probabilities",
    _one_of('hard', 'smoothed', 'teacher'),
  ),
  'smoothing': Field(
    0.1, "share of the target that 'smoothed' spreads over all classes", _FRACTION
  ),
}

_CACHE = {
  'refresh_steps': Field(
    1, 'steps for which a synthetic image is kept, augmented anew in each', _whole(1)
  ),
  'images_per_class': Field(
    0,
    'above 0: draw so many once, keep them in a file, and use only these',
    _whole(0, _MOST_IMAGES),
  ),
}

_AUGMENT = {
  'apply_to': Field(
    'both',
    "in the classical arms: 'both' kinds of images, 'real' or 'synthetic' ones",
    _one_of('both', 'real', 'synthetic'),
  ),
  'crop_padding': Field(
    4,
    'largest shift in pixels',
    _whole(0),
    when='Scale it with the image size; about an eighth of the side is usual.',
  ),
  'flip': Field(
    True,
    'mirror left to right, half of the time',
    when='Turn it off where mirrored images mean something else, such as digits.',
  ),
  'color': Field(
    0.0, 'largest change of brightness, saturation and contrast, up to 1', _FRACTION
  ),
  'cutout': Field(0, 'side in pixels of a square that is blanked', _whole(0)),
  'transform': Field(
    '',
    "'module:name' of your own function of a key and an image, after those above",
    _matching(external.PATTERN, "empty, or 'module:name'"),
  ),
  'mixup': Field(
    0.0, 'alpha of MixUp, which blends with a real training image', _NOT_NEGATIVE
  ),
  'cutmix': Field(
    0.0, 'alpha of CutMix, which pastes a part of a real training image', _NOT_NEGATIVE
  ),
  'partner': Field(
    'any',
    "training image that MixUp and CutMix use: 'any', or of the 'same' class",
    _one_of('any', 'same'),
  ),
}

_SCORE = {
  'width': Field(
    24,
    'width of the probes, small CNNs that generators are scored by',
    _whole(1, _MOST_FEATURES),
  ),
  'extractor_steps': Field(
    2000, 'training steps of the probe trained on real images', _whole(1)
  ),
  'cas_steps': Field(
    600, 'training steps of the probes trained on synthetic images', _whole(1), NOTHING
  ),
  'num_samples': Field(
    5000,
    'synthetic images to score, and at most so many real ones',
    _whole(10, _MOST_IMAGES),
    when='Raise it for scores that vary less; compare only scores of '
    'equally many images.',
  ),
  'neighbours': Field(
    5, 'k of precision, recall, density and coverage', _whole(1), NOTHING
  ),
}

_DISTRIBUTED = {
  'auto': Field(False, "several processes, as the cluster's environment says"),
  'coordinator': Field(
    '',
    'host:port of process 0, where no environment says',
    _matching(
      r'[^\s:]+:\d{1,5}|\[[^\s]+\]:\d{1,5}',
      "empty, or 'host:port' such as '10.0.0.1:1234'",
    ),
  ),
  'num_processes': Field(0, 'number of processes, where coordinator is set', _whole(0)),
  'process_id': Field(
    -1, 'number of this process, from 0, where coordinator is set', _whole(-1)
  ),
}

_PROFILE = {
  'steps': Field(
    '',
    "'first:last': trace these steps of every training",
    Rule(_is_range, "empty, or 'first:last' such as '100:110'"),
  ),
}

_LOG = {
  'every_steps': Field(50, 'steps between lines of metrics.jsonl', _whole(1)),
  'eval_every_steps': Field(
    0,
    'steps between evaluations of the classifier on validation images; '
    '0: about 20 times a run',
    _whole(0),
  ),
  'tensorboard': Field(
    False,
    'also write event files; needs the extra tensorflow',
    affects=NOTHING,
    when='Use it to watch several runs in one place.',
  ),
}

# group: (what its fields affect unless they say otherwise, its fields)
_GROUPS = {
  'data': (RUN, _DATA),
  'generator': (GENERATOR, _GENERATOR),
  'gan': (GENERATOR, _GAN),
  'flow': (GENERATOR, _FLOW),
  'classifier': (CLASSIFIER, _CLASSIFIER),
  'mix': (SYNTHESIS, _MIX),
  'latents': (SYNTHESIS, _LATENTS),
  'filter': (SYNTHESIS, _FILTER),
  'targets': (SYNTHESIS, _TARGETS),
  'cache': (SYNTHESIS, _CACHE),
  'augment': (CLASSIFIER, _AUGMENT),
  'score': (RUN, _SCORE),
  'distributed': (NOTHING, _DISTRIBUTED),
  'profile': (NOTHING, _PROFILE),
  'log': (CADENCE, _LOG),
}


def _flat_table():
  table = dict(_OF_THE_RUN)
  for group, (affects, fields) in _GROUPS.items():
    for name, field in fields.items():
      own = affects if field.affects == RUN else field.affects
      table[f'{group}.{name}'] = dataclasses.replace(field, affects=own)
  return table


# {dotted name: Field}
FIELDS = _flat_table()

# Those that may name code of the user's, whose source a run goes on with.
CODE = (
  'classifier.arch',
  'classifier.optimizer',
  'classifier.schedule',
  'augment.transform',
)

# Of `ablation`, in a config of `configs/ablations/`; checked by experiment/ablation.py.
ABLATION_FIELDS = {
  'seeds': Field(
    (0, 1, 2, 3, 4), 'each sets the subset, the generator and the classifier together'
  ),
  'arms': Field({}, '{name: {field: value}} to compare; {}: augmented_classical alone'),
  'grid': Field({}, '{field: values}; arms and controls are repeated at each point'),
  'control': Field('real_classical', "or 'real_only': what the verdict compares with"),
  'controls': Field({}, '{name: {field: value}}, further ones, which may be the best'),
  'negative_controls': Field((), "some of 'noise', 'mislabelled'"),
  'oracles': Field(
    (), "some of 'train_copies', 'held_out': real images, as floor and ceiling"
  ),
  'equal_compute': Field(
    False, "a control that spends the generator's operations on its own training, too"
  ),
  'vmap_seeds': Field(False, 'all seeds of an arm in one program'),
}

# {old name: new name}, of fields and groups; see `renamed`.
_RENAMED = {
  'duration': 'expected_duration',
  'data.per_class': 'data.label_budget',
  'gan.real_label': 'gan.label_smoothing',
  'mix.warmup': 'mix.start_fraction',
  'mix.off': 'mix.stop_fraction',
  'augment.on': 'augment.apply_to',
  'augment.crop': 'augment.crop_padding',
  'sampler.source': 'mix.source',
  'sampler.classes': 'mix.classes',
  'sampler.latent_std': 'latents.std',
  'sampler.truncation': 'latents.truncation',
  'sampler.interpolation': 'latents.interpolation',
  'sampler.candidates': 'filter.candidates',
  'sampler.score': 'filter.score_by',
  'sampler.min_confidence': 'filter.min_confidence',
  'sampler.on_reject': 'filter.on_reject',
  'sampler.teacher_steps': 'filter.teacher_steps',
  'sampler.labels': 'targets.kind',
  'sampler.smoothing': 'targets.smoothing',
  'sampler.refresh_every': 'cache.refresh_steps',
  'sampler.offline': 'cache.images_per_class',
  'sampler.generator': 'generator.family',
  'sampler.allow_foreign': 'generator.allow_foreign',
  'sampler.checkpoints': 'generator.checkpoints',
  'sampler.precision': 'generator.precision',
  'gan.seed': 'generator.seed',
  'gan.precision': 'generator.train_precision',
  'gan.num_epochs': 'generator.num_epochs',
  'gan.num_steps': 'generator.num_steps',
  'gan.batch_size': 'generator.batch_size',
  'gan.learning_rate': 'generator.learning_rate',
  'gan.ema_decay': 'generator.ema_decay',
  'gan.select': 'generator.select',
  'gan.select_steps': 'generator.select_steps',
  'generator.external': 'generator.family',
  'log.save_every_steps': 'generator.save_every_steps',
  'ablation.placebos': 'ablation.negative_controls',
  'ablation.bounds': 'ablation.oracles',
}
# {old name: a second field that took its place}
_ALSO = {'log.save_every_steps': 'classifier.save_every_steps'}
# {field: {old value: new value}}
_RENAMED_VALUES = {
  'mix.source': {'replayed': 'train_copies', 'unseen': 'held_out'},
  'generator.family': {
    '': 'gan',
    'examples.vae:train': 'gan_aug_jax.generators.vae:train',
    'examples.deformations:train': 'gan_aug_jax.generators.warps:train',
    'examples.deformations:train_colors': 'gan_aug_jax.generators.warps:train_colors',
    'examples.deformations:untrained': 'gan_aug_jax.generators.warps:untrained',
  },
}
# Where the value changed with the name.
_COMPLEMENT = ('gan.real_label', 'mix.off')


def renamed(name: str) -> str:
  """What became of an older version's field, as a sentence; '' for any other name."""
  if name not in _RENAMED:
    return ''
  complement = ' (1 minus the old value)' if name in _COMPLEMENT else ''
  also = f' and {_ALSO[name]}' if name in _ALSO else ''
  return f'{name} is now {_RENAMED[name]}{also}{complement}.'


def find_renamed(text: str) -> str:
  """The sentence of `renamed` for the first old name in a line of code, or ''."""
  for name in sorted(_RENAMED, key=len, reverse=True):
    if re.search(rf'(?<![\w.])(?:config\.|\w+\.config\.)?{re.escape(name)}\b', text):
      return renamed(name)
  return ''


def translate(flat: dict[str, Any]) -> dict[str, Any]:
  """The fields {dotted name: value} of an older version under their new names."""
  translated = {}
  for name, value in flat.items():
    if name in _COMPLEMENT:
      value = 1 - value
    if name in _ALSO:
      translated[_ALSO[name]] = value
    name, values = _RENAMED.get(name, name), _RENAMED_VALUES
    translated[name] = values[name].get(value, value) if name in values else value
  return translated
