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
# {type: what a field of it may be, if it has no rule}
_KINDS = {bool: 'True or False', str: 'a string', tuple: 'a tuple', dict: 'a dict'}


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which values a field may have.

  Attributes:
    allows: `value -> bool`; it may raise a TypeError, see `Field.accepts`.
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
    when: when to change it, or to leave it: a sentence.
  """

  default: Any
  doc: str
  rule: Rule | None = None
  affects: str = RUN
  when: str = ''

  @property
  def allowed(self) -> str:
    """Completes the sentence "FIELD=VALUE must be ..."."""
    return self.rule.text if self.rule else _KINDS[type(self.default)]

  def accepts(self, value: Any) -> bool:
    """Whether a value is allowed; its type must be the default's, or int for a float."""
    kind = type(self.default)
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool) != (kind is bool):
      return False
    try:
      return self.rule is None or bool(self.rule.allows(value))
    except TypeError:  # of what is in a tuple
      return False


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
  return all(type(size) is int and 0 < size <= _MOST_FEATURES for size in sizes)


_POSITIVE = Rule(lambda value: 0 < value < math.inf, 'a positive number')
_NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, 'a number of at least 0')
_FRACTION = _within(0, 1)
_BELOW_1 = _within(0, 1, high_open=True)
_SIZES = Rule(_are_sizes, f'whole numbers from 1 to {_MOST_FEATURES:,}')
_ARGUMENTS = Rule(_are_arguments, "of the form 'name=value', each name once")
_PRECISION = _one_of('', *_PRECISIONS)
_SEED = _whole(-1)

_OF_THE_RUN = {
  'expected_duration': Field(
    '',
    'text printed at the start: how long the run takes, and on what',
    affects=NOTHING,
    when='Set it in your own config, for whoever runs it next.',
  ),
  'seed': Field(
    0,
    'seed of the run; data.seed, generator.seed and classifier.seed follow it unless set',
    _whole(0),
    when='Change it to repeat a run independently; `ablate` repeats over seeds for you.',
  ),
  'backend': Field(
    'jit',
    "how steps are compiled: 'jit' or 'pmap', with the same numbers",
    _one_of('jit', 'pmap'),
    when="Leave it at 'jit'; 'pmap' is there for comparison.",
  ),
  'platform': Field(
    '',
    "where to compute: 'cpu', 'gpu' or 'tpu'; '' takes what JAX finds",
    _one_of('', 'cpu', 'gpu', 'tpu'),
    NOTHING,
    when='Name the accelerator, and a run stops if it is missing instead of falling '
    'back to the CPU.',
  ),
  'num_cpu_devices': Field(
    0,
    'number of virtual devices on a CPU host; 0 means one',
    _whole(0, 256),
    NOTHING,
    when='Raise it only to test code for several devices; one device is fastest.',
  ),
  'steps_per_call': Field(
    0,
    'training steps scanned in one call of the compiled program; 0 means 1 on a CPU, '
    'except for an MLP classifier with an MLP GAN, and up to 50 elsewhere',
    _whole(0),
    when='Leave it on a CPU, where convolutions are slow in a loop; set it on an '
    'accelerator to try other lengths.',
  ),
  'compilation_cache': Field(
    True,
    "keep compiled programs in the user's cache directory",
    affects=NOTHING,
    when='Turn it off where the home directory is small or slow.',
  ),
  'precision': Field(
    'float32',
    'dtype of the computation',
    _one_of(*_PRECISIONS),
    when="Use 'bfloat16' on a TPU or a recent GPU.",
  ),
  'matmul_precision': Field(
    'default',
    "precision of matrix products and convolutions in float32: 'default' is TF32 on "
    "recent NVIDIA GPUs and bfloat16 on TPUs, 'highest' is float32 everywhere",
    _one_of('default', 'highest'),
    when="Use 'highest' to compare numbers between kinds of devices; it is slower.",
  ),
  'deterministic': Field(
    False,
    'repeat and resume a run on a GPU bit for bit, as always happens on a CPU',
    when='Turn it on where a resumed run must not differ in any digit; it costs time.',
  ),
  'arms': Field(
    tuple(ARMS),
    'classifiers to compare',
    _some_of(*ARMS, least=1),
    CLASSIFIER,
    when='Leave some out to save time; an augmented arm needs its real counterpart for '
    'a comparison.',
  ),
}

_DATA = {
  'name': Field(
    'mnist5k',
    "source of the images: the embedded 'mnist5k', 'folder', 'npz', "
    "'huggingface:NAME' or the name of a TFDS dataset",
    when="Use 'folder' or 'npz' for your own images.",
  ),
  'data_dir': Field(
    '',
    "directory or file of the data; '' takes TFDS_DATA_DIR, or TFDS's own default",
    affects=NOTHING,
    when="Set it for a 'folder' or 'npz', and for TFDS where TFDS_DATA_DIR is not set.",
  ),
  'on_corrupt': Field(
    'refuse',
    "what to do about image files that cannot be read: 'refuse' the dataset, or 'skip' "
    'and count them',
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
    'side of the images in pixels; those up to 8 pixels smaller are padded, all others '
    'resized',
    _whole(8, 4096),
    when='Raise it if the classes differ in details; time and memory grow '
    'with its square.',
  ),
  'label_budget': Field(
    0,
    'labelled images per class, validation included; 0 means all',
    Rule(lambda n: n == 0 or n >= 2, '0 (all), or at least 2'),
    when='Set it to see what generated images are worth when labels are scarce.',
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
    'how many times fewer images the rarest class has than the most common, validation '
    'included',
    _within(1, 1e6),
    when='Raise it to study rare classes; leave it at 1 for data that are imbalanced '
    'already.',
  ),
  'imbalance_shape': Field(
    'exponential',
    "shape of the imbalance: 'exponential' is a long tail, with 'step' half of the "
    'classes are rare',
    _one_of('exponential', 'step'),
    when='Choose the one that your problem resembles; without data.imbalance it has no '
    'effect.',
  ),
  'train_on_val': Field(
    False,
    'also train on the validation images; their scores then mean nothing',
    when='Turn it on only in a control that is given every label.',
  ),
  'test_on': Field(
    'test',
    "images of the final evaluation: the 'test' split, or 'val' in a search that must "
    'not see it',
    _one_of('test', 'val'),
    when="Use 'val' while you search for a recipe, and 'test' once, to confirm it.",
  ),
  'seed': Field(
    -1,
    'seed of the subset, the validation split and the order of the images; -1 follows '
    '`seed`',
    _SEED,
    when='Set it to keep the images while other seeds change.',
  ),
}

_GENERATOR = {
  'family': Field(
    'gan',
    "kind of generator: 'gan', 'flow' (flow matching), or 'module:name' of your own",
    _or_code(*FAMILIES),
    when="Try 'flow' where a GAN does not train well; it costs more time per image.",
  ),
  'args': Field(
    (),
    "arguments of your own generator, each 'name=value'",
    _ARGUMENTS,
    when="Set it for a family of the form 'module:name' that has options.",
  ),
  'seed': Field(
    -1,
    "seed of the generator's training; -1 follows `seed`",
    _SEED,
    when='Set it to train another generator on the same images.',
  ),
  'num_epochs': Field(
    200,
    "length of the generator's training in epochs of the training set",
    _whole(1),
    when='Use generator.num_steps instead when you compare sizes of training sets.',
  ),
  'num_steps': Field(
    0,
    "length of the generator's training in steps; above 0 it overrides num_epochs",
    _whole(0),
    when='Raise it until the score of its checkpoints is flat.',
  ),
  'batch_size': Field(
    64,
    "real images per update of the generator's training; in a GAN, of its discriminator",
    _whole(1, _MOST_IMAGES),
    when='Lower it if memory runs out; raise it on an accelerator that is idle.',
  ),
  'learning_rate': Field(
    2e-4,
    "learning rate of the generator's Adam",
    _POSITIVE,
    when='Lower it if the losses oscillate or become nan.',
  ),
  'ema_decay': Field(
    0.999,
    "decay of the moving average of the generator's weights, which images are drawn with",
    _BELOW_1,
    when='Leave it: it is ramped up, to at most (1 + t) / (10 + t) after t steps.',
  ),
  'train_precision': Field(
    '',
    "dtype that the generator's training computes in; '' follows `precision`; parameters "
    'are never below float32',
    _PRECISION,
    when="Use 'float32' if a GAN is unstable in bfloat16.",
  ),
  'precision': Field(
    '',
    "dtype that the frozen generator computes in; '' follows generator.train_precision",
    _PRECISION,
    when="Use 'bfloat16' on an accelerator to draw images faster.",
  ),
  'save_every_steps': Field(
    0,
    "steps between the generator's checkpoints (the candidates) and between its sample "
    'grids; 0 saves about 5 times, never more often than every 1,000 steps',
    _whole(0),
    CADENCE,
    when='Set it for more candidates to choose from; each is scored, which takes time.',
  ),
  'select': Field(
    'cas',
    "which checkpoint of the generator the arms draw from: the best by 'cas' (accuracy "
    "of a classifier trained on its images alone) or by 'frechet' (distance of its "
    "images to the training images), or the 'last' one",
    _one_of('cas', 'frechet', 'last'),
    when="Use 'last' to save the time that scoring checkpoints takes.",
  ),
  'select_steps': Field(
    200,
    "training steps of the classifier by which 'cas' scores a checkpoint",
    _whole(1),
    when='Lower it to choose faster; raise it if all scores are alike.',
  ),
  'allow_foreign': Field(
    False,
    'accept a generator that was trained on other images, and say so in the report',
    when='Turn it on only for a model that cannot have seen your test images.',
  ),
  'checkpoints': Field(
    (),
    "generators to draw from in turn: 'step:N' is a checkpoint, 'seed:N' one trained "
    'with another seed; () means the chosen one',
    Rule(_are_checkpoints, "of the form 'step:N' or 'seed:N', each once"),
    when='Name several for more varied images; each seed trains another generator.',
  ),
}

_GAN = {
  'arch': Field(
    'dcgan',
    'architecture of generator and discriminator',
    _one_of('dcgan', 'mlp', 'sngan', 'resnet'),
    when="Try 'sngan' first with few images, 'resnet' for better images at more cost.",
  ),
  'upsampling': Field(
    'transposed',
    "how the generator doubles an image: 'transposed' convolutions (4x4, stride 2), "
    "'subpixel' or 'nearest' (both 3x3)",
    _one_of('transposed', 'subpixel', 'nearest'),
    when="Use 'nearest' if the images show a checkerboard.",
  ),
  'loss': Field(
    'non_saturating',
    'adversarial loss',
    _one_of('non_saturating', 'hinge', 'relativistic'),
    when="Use 'hinge' with the sngan; with the resnet raise gan.d_steps, too.",
  ),
  'discriminator_learning_rate': Field(
    0.0,
    'learning rate of the discriminator; 0 means generator.learning_rate',
    _NOT_NEGATIVE,
    when="Set it below the generator's if the discriminator wins outright.",
  ),
  'd_steps': Field(
    1,
    'discriminator updates for each generator update',
    _whole(1, 1000),
    when='Raise it with the hinge loss and spectral normalisation; 2 to 5 is usual.',
  ),
  'beta1': Field(
    0.5,
    "first decay rate of the GAN's Adam",
    _BELOW_1,
    when='Try 0 if training with the hinge loss is unstable.',
  ),
  'beta2': Field(
    0.999,
    "second decay rate of the GAN's Adam",
    _BELOW_1,
    when='Lower it to 0.9 if training with beta1=0 is slow to start.',
  ),
  'latent_dim': Field(
    100,
    'size of the latent vector',
    _whole(1, _MOST_FEATURES),
    when='Leave it; the size of the network matters more.',
  ),
  'width': Field(
    64,
    'number of features in the layer next to the image, in both networks; four times as '
    "many with gan.arch='mlp'",
    _whole(8, _MOST_FEATURES),
    when='Lower it on a CPU or with few images; time grows with its square.',
  ),
  'label_smoothing': Field(
    0.1,
    "one-sided label smoothing: the discriminator's target for real images is 1 minus "
    'this',
    _BELOW_1,
    when='Leave it; the non-saturating loss alone has targets to smooth.',
  ),
  'diffaug': Field(
    (),
    'operations of DiffAugment, which augments all that the discriminator sees',
    _some_of('color', 'translation', 'cutout', 'flip'),
    when='Set it with few images and long training; it slows learning.',
  ),
  'r1': Field(
    0.0,
    'weight of the gradient penalty at real images',
    _NOT_NEGATIVE,
    when='Raise it if the discriminator overfits; a step then takes longer.',
  ),
  'r2': Field(
    0.0,
    'weight of the gradient penalty at synthetic images',
    _NOT_NEGATIVE,
    when='Raise it together with gan.r1 for the relativistic loss.',
  ),
  'lecam': Field(
    0.0,
    'weight of the LeCam regulariser, which keeps the logits of real images close to the '
    'average of synthetic ones, and the other way round',
    _NOT_NEGATIVE,
    when='Raise it a little with few images.',
  ),
}

_FLOW = {
  'width': Field(
    32,
    'number of features at full size: 32 gives 0.5 million parameters, 128 gives 8 '
    'million',
    _whole(8, _MOST_FEATURES),
    when='Raise it on a GPU, with training to match.',
  ),
  'class_dropout': Field(
    0.1,
    'fraction of images trained without their class, as guidance needs',
    _BELOW_1,
    when='Set it to 0 if flow.guidance stays at 1.',
  ),
  'crop_padding': Field(
    0,
    'largest shift of the images that the flow trains on, in pixels',
    _whole(0),
    when='Raise it with few images; the images it draws are then shifted, too.',
  ),
  'flip': Field(
    False,
    'mirror the images that the flow trains on left to right, half of the time',
    when='Turn it on with few images, where a mirrored image keeps its class.',
  ),
  'reflow_steps': Field(
    0,
    'number of steps at the end of training in which the flow learns to draw in one '
    'evaluation what it drew in eight; each has nearly four times the operations',
    _whole(0),
    when='Set it to a few hundred, and flow.evaluations to 1, to draw cheaply.',
  ),
  'evaluations': Field(
    4,
    'evaluations of the network (NFE) for each image drawn',
    _whole(1, 1000),
    SYNTHESIS,
    when='Lower it to draw faster, raise it for sharper images; 2 to 8 is useful, or 1 '
    'with flow.reflow_steps.',
  ),
  'solver': Field(
    'euler',
    "how the flow is integrated: 'euler', or 'heun', of second order, with two "
    'evaluations per step',
    _one_of('euler', 'heun'),
    SYNTHESIS,
    when="Use 'heun' with many evaluations.",
  ),
  'guidance': Field(
    1.0,
    'classifier-free guidance: above 1, images are more typical of their class and more '
    'alike, at twice the cost',
    _NOT_NEGATIVE,
    SYNTHESIS,
    when='Leave it at 1 to train classifiers; raise it for images to look at.',
  ),
}

_CLASSIFIER = {
  'arch': Field(
    'cnn',
    "network of the classifier, or 'module:name' of your own",
    _or_code('cnn', 'mlp', 'resnet'),
    when='Name the network that you want to improve; gains on a small one may vanish '
    'on a strong one.',
  ),
  'args': Field(
    (),
    "arguments of your own classifier, each 'name=value'",
    _ARGUMENTS,
    when="Set it for an arch of the form 'module:name' that has options.",
  ),
  'seed': Field(
    -1,
    'seed of the initialisation and of what the training draws; -1 follows `seed`',
    _SEED,
    when='Set it to keep the classifier while other seeds change.',
  ),
  'precision': Field(
    '',
    "dtype that the classifier computes in; '' follows `precision`; parameters are never "
    'below float32',
    _PRECISION,
    when='Set it where classifier and generator need different types.',
  ),
  'num_epochs': Field(
    50,
    'length of training in epochs of real images: num_epochs * N / batch_size steps',
    _whole(1),
    when='Train until the validation accuracy is flat: an undertrained '
    'baseline makes any augmentation look good.',
  ),
  'num_steps': Field(
    0,
    "length of the classifier's training in steps; above 0 it overrides num_epochs",
    _whole(0),
    when='Use it with few images, where an epoch is a few steps.',
  ),
  'budget': Field(
    'steps',
    "what is equal in all arms: 'steps', or 'exposure' to real examples",
    _one_of('steps', 'exposure'),
    when="Use 'exposure' to test whether a drop comes from seeing fewer real images; "
    "leave 'steps' where more steps alone would help.",
  ),
  'batch_size': Field(
    128,
    'examples per step of the classifier',
    _whole(1, _MOST_IMAGES),
    when='Raise it on an accelerator, and the learning rate with it.',
  ),
  'optimizer': Field(
    'sgd',
    "optimizer: 'sgd' with momentum, 'adam' (AdamW), or 'module:name' of your own",
    _or_code('sgd', 'adam'),
    when='Use the one that your baseline was tuned with.',
  ),
  'learning_rate': Field(
    1e-3,
    'peak learning rate of the classifier',
    _POSITIVE,
    when='Tune it for the baseline, without synthetic images.',
  ),
  'momentum': Field(
    0.9, 'momentum of sgd', _BELOW_1, when='Leave it, and tune the learning rate.'
  ),
  'nesterov': Field(
    False,
    'use Nesterov momentum; with adam, NAdam',
    when='Turn it on if your baseline has it.',
  ),
  'weight_decay': Field(
    0.0,
    'weight decay: added to the gradient of sgd, decoupled in adam',
    _NOT_NEGATIVE,
    when='Raise it if the gap between training and validation accuracy is large; '
    '5e-4 is usual for sgd.',
  ),
  'weight_decay_on': Field(
    'all',
    "which parameters decay: 'all', or only 'kernels', not biases and norms",
    _one_of('all', 'kernels'),
    when="Use 'kernels' for networks with batch norm.",
  ),
  'clip_norm': Field(
    0.0,
    'largest global norm of the gradient; 0 means no limit',
    _NOT_NEGATIVE,
    when='Set it, to 1 for instance, if the loss has spikes.',
  ),
  'schedule': Field(
    'constant',
    "learning rate after the warm-up: 'constant', 'cosine' or 'linear' to 0, or "
    "'module:name' of your own",
    _or_code(*_SHAPES),
    when="Use 'cosine' for the last points of accuracy.",
  ),
  'warmup_steps': Field(
    0,
    'steps over which the learning rate rises linearly',
    _whole(0),
    when='Raise it if a high learning rate makes the first steps diverge.',
  ),
  'label_smoothing': Field(
    0.0,
    "fraction of a real image's target that is spread over all classes",
    _BELOW_1,
    when='Raise it to 0.1 if the network is overconfident.',
  ),
  'logit_adjustment': Field(
    0.0,
    "strength tau of logit adjustment: the loss adds tau times the log of each class's "
    'share to the logits, which offsets class imbalance; 0 means none',
    _NOT_NEGATIVE,
    when='Set it to 1 if some classes are rarer in the training set than in the images '
    'that you will classify.',
  ),
  'ema_decay': Field(
    0.0,
    'decay of a moving average of the weights, which is evaluated in their place; 0 '
    'means none',
    _BELOW_1,
    when='Set it, to 0.999 for instance, for a validation accuracy that varies less.',
  ),
  'dropout': Field(
    0.0,
    "dropout rate after each hidden layer, and the resnet's pooling",
    _BELOW_1,
    when='Raise it if the gap between training and validation accuracy is large.',
  ),
  'features': Field(
    (),
    'channels of the convolutions; () means (32, 64, 128) for the cnn and (16, 32, 64) '
    'for the resnet',
    _SIZES,
    when='Lower them for few images or a slow machine.',
  ),
  'hidden': Field(
    (),
    'sizes of the dense layers; () means (128,) for the cnn and (128, 64) for the mlp',
    _SIZES,
    when='Change it to match a network that you know.',
  ),
  'blocks': Field(
    1,
    'residual blocks of the resnet for each entry of classifier.features',
    _whole(1, 1000),
    when='Raise it for a deeper resnet.',
  ),
  'save_every_steps': Field(
    0,
    "steps between the classifier's checkpoints; 0 saves 5 times a training",
    _whole(0),
    NOTHING,
    when='Lower it where a machine may be killed without a warning.',
  ),
  'batch_norm': Field(
    'shared',
    "batch statistics of the resnet: 'shared' by all images, 'split' between real and "
    "synthetic ones, or those of the real images alone ('real_only')",
    _one_of('shared', 'split', 'real_only'),
    when="Try 'split' if synthetic images look unlike real ones.",
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
    "whether synthetic images 'replace' real ones of the batch, or 'add' to them",
    _one_of('replace', 'add'),
    when="Use 'add' to keep all real images of a batch; a step then takes longer.",
  ),
  'source': Field(
    'generator',
    "what the synthetic positions show: the 'generator', a negative control ('noise', "
    "'mislabelled') or an oracle ('train_copies', 'held_out' real images)",
    _one_of('generator', *NEGATIVE_CONTROLS, *ORACLES),
    when='Change it to check a gain: if noise helps as much, it was not the generator.',
  ),
  'classes': Field(
    'uniform',
    "class distribution of the synthetic images: 'uniform'; 'train', that of the "
    "training set; 'inverse', inversely proportional to it; 'balance', which fills up "
    "the rare classes; or 'feedback', which prefers classes with a high loss on real "
    'images',
    _one_of('uniform', 'train', 'inverse', 'balance', 'feedback'),
    when="Use 'balance' if some classes are rare.",
  ),
  'ratio_schedule': Field(
    'constant',
    "how the ratio changes during training: 'constant', or rising to mix.ratio",
    _one_of(*_SHAPES),
    when='Let it rise if synthetic images disturb the first steps.',
  ),
  'start_fraction': Field(
    0.0,
    'fraction of the training after which synthetic images begin',
    _BELOW_1,
    when='Raise it to learn from real images first.',
  ),
  'stop_fraction': Field(
    1.0,
    'fraction of the training after which synthetic images stop',
    _within(0, 1, low_open=True),
    when='Lower it to end on real images alone.',
  ),
  'weight': Field(
    1.0,
    'weight of a synthetic image in the loss; a real one has 1',
    _POSITIVE,
    when='Lower it if the generator is poor.',
  ),
  'weight_schedule': Field(
    'constant',
    "how the weight changes during training: 'constant', or rising to mix.weight",
    _one_of(*_SHAPES),
    when='Let it rise if synthetic images disturb the first steps.',
  ),
  'draw_ahead_mib': Field(
    -1,
    'memory for drawing the images of several steps in one forward pass, and composing '
    'their batches: the largest array on each device, in MiB; -1 means 256, and 0 draws '
    'in each step',
    _whole(-1, 2**20),
    NOTHING,
    when="Set it below 256 if a step does not fit into the accelerator's memory.",
  ),
}

_LATENTS = {
  'std': Field(
    1.0,
    'standard deviation of the latents that the arms draw from',
    _POSITIVE,
    when='Raise it for more varied images, lower it for more typical ones.',
  ),
  'truncation': Field(
    0.0,
    'largest latent, in standard deviations; 0 means no limit',
    _NOT_NEGATIVE,
    when='Set it, to 2 for instance, if outliers among the images look broken.',
  ),
  'interpolation': Field(
    0.0,
    'draw on the line between two latents, up to this fraction of it',
    _FRACTION,
    when='Raise it to try images between those that the generator usually draws.',
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
    "how the best candidate is chosen: by the 'teacher', a classifier of real images; "
    "the GAN's 'discriminator'; 'hard', which the classifier in training is least sure "
    "of; or 'random'",
    _one_of('teacher', 'discriminator', 'hard', 'random'),
    when="Try 'hard' if the teacher keeps images that are all alike; 'random' is the "
    'control at equal cost.',
  ),
  'min_confidence': Field(
    0.0,
    'least confidence of the teacher or discriminator at which an image is accepted',
    _BELOW_1,
    when='Raise it if the generator often draws the wrong class.',
  ),
  'on_reject': Field(
    'real',
    "what replaces a rejected image: a 'real' one of the class, or nothing ('drop')",
    _one_of('real', 'drop'),
    when="Use 'drop' with data.placement='host'.",
  ),
  'teacher_steps': Field(
    1000,
    'training steps of the teacher, a small classifier of real images',
    _whole(1),
    when='Raise it if the report shows a low accuracy of the teacher.',
  ),
}

_TARGETS = {
  'kind': Field(
    'hard',
    "targets of synthetic images: 'hard' labels, 'smoothed' ones, or the probabilities "
    "of the 'teacher'",
    _one_of('hard', 'smoothed', 'teacher'),
    when="Try 'teacher' if the generator often draws the wrong class.",
  ),
  'smoothing': Field(
    0.1,
    "share of the target that 'smoothed' spreads over all classes",
    _FRACTION,
    when="Raise it if you do not trust the generator's labels.",
  ),
}

_CACHE = {
  'refresh_steps': Field(
    1,
    'steps for which a synthetic image is kept, augmented anew in each',
    _whole(1),
    when='Raise it to divide the cost of drawing images by that factor.',
  ),
  'images_per_class': Field(
    0,
    'number of images per class that are drawn once, kept in a file and used instead of '
    'fresh ones; 0 draws fresh ones in training',
    _whole(0, _MOST_IMAGES),
    when='Set it to compare with a fixed set of synthetic images.',
  ),
}

_AUGMENT = {
  'apply_to': Field(
    'both',
    "images that the classical arms augment: 'both' kinds, 'real' or 'synthetic' ones",
    _one_of('both', 'real', 'synthetic'),
    when="Use 'real' if the generator's images are varied enough as they are.",
  ),
  'crop_padding': Field(
    4,
    'largest shift of an image in pixels',
    _whole(0),
    when='Scale it with the image size; about an eighth of the side is usual.',
  ),
  'flip': Field(
    True,
    'mirror images left to right, half of the time',
    when='Turn it off where mirrored images mean something else, such as digits.',
  ),
  'color': Field(
    0.0,
    'largest change of brightness, saturation and contrast, up to 1',
    _FRACTION,
    when='Raise it for photographs in varying light, unless colour tells the classes '
    'apart.',
  ),
  'cutout': Field(
    0,
    'side in pixels of a square that is blanked in each image; 0 blanks none',
    _whole(0),
    when='Set it, to a quarter of the side for instance, if the network overfits.',
  ),
  'transform': Field(
    '',
    "'module:name' of your own function of a key and an image, which runs after the "
    'built-in ones',
    _matching(external.PATTERN, "empty, or 'module:name'"),
    when='Set it for an augmentation that is missing here.',
  ),
  'mixup': Field(
    0.0,
    'alpha of MixUp, which blends an image with a real training image; 0 turns it off',
    _NOT_NEGATIVE,
    when='Set it, to 0.2 for instance, with few images or long training.',
  ),
  'cutmix': Field(
    0.0,
    'alpha of CutMix, which pastes a part of a real training image; 0 turns it off',
    _NOT_NEGATIVE,
    when='Set it, to 1 for instance, with few images or long training.',
  ),
  'partner': Field(
    'any',
    "training image that MixUp and CutMix use: 'any', or one of the 'same' class",
    _one_of('any', 'same'),
    when="Use 'same' to keep labels hard.",
  ),
}

_SCORE = {
  'width': Field(
    24,
    'width of the small CNNs by which generators are scored',
    _whole(1, _MOST_FEATURES),
    when='Raise it for images with many details; scores of other widths do not compare.',
  ),
  'extractor_steps': Field(
    2000,
    'training steps of the CNN whose features `score` compares, on real images',
    _whole(1),
    when='Raise it if its accuracy on real images, which `score` prints, is low.',
  ),
  'cas_steps': Field(
    600,
    'training steps of the CNNs that `score` trains on synthetic images',
    _whole(1),
    NOTHING,
    when='Raise it until the score of real images stops rising.',
  ),
  'num_samples': Field(
    5000,
    'number of synthetic images to score, and the largest number of real ones',
    _whole(10, _MOST_IMAGES),
    when='Raise it for scores that vary less; compare only scores of '
    'equally many images.',
  ),
  'neighbours': Field(
    5,
    'number of neighbours, the k of precision, recall, density and coverage',
    _whole(1),
    NOTHING,
    when='Leave it, so that scores stay comparable.',
  ),
}

_DISTRIBUTED = {
  'auto': Field(
    False,
    "run in several processes, which find each other through the cluster's environment",
    when='Turn it on under SLURM or on a TPU pod.',
  ),
  'coordinator': Field(
    '',
    'host:port of process 0, where the environment does not give it',
    _matching(
      r'[^\s:]+:\d{1,5}|\[[^\s]+\]:\d{1,5}',
      "empty, or 'host:port' such as '10.0.0.1:1234'",
    ),
    when='Set it, the same on every host, to start the processes by hand.',
  ),
  'num_processes': Field(
    0,
    'number of processes, with distributed.coordinator',
    _whole(0),
    when='Set it with the coordinator, the same in every process.',
  ),
  'process_id': Field(
    -1,
    'number of this process, from 0, with distributed.coordinator',
    _whole(-1),
    when='Set it with the coordinator, to a different number in each process.',
  ),
}

_PROFILE = {
  'steps': Field(
    '',
    "'first:last' steps of every training that are traced",
    Rule(_is_range, "empty, or 'first:last' such as '100:110'"),
    when='Set it to find out where time goes; leave out the first steps, which warm up.',
  ),
}

_LOG = {
  'every_steps': Field(
    50,
    'steps between lines of metrics.jsonl',
    _whole(1),
    when='Raise it if steps are so short that writing delays them.',
  ),
  'eval_every_steps': Field(
    0,
    'steps between evaluations of the classifier on validation images; 0 means about '
    '20 times a training',
    _whole(0),
    when='Set it lower for finer curves, higher if the validation split is large.',
  ),
  'tensorboard': Field(
    False,
    'also write event files for TensorBoard; needs the extra tensorflow',
    affects=NOTHING,
    when='Turn it on to watch several runs in one place.',
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
  'generator.family',
  'classifier.arch',
  'classifier.optimizer',
  'classifier.schedule',
  'augment.transform',
)

# Of `ablation`, in a config of `configs/ablations/`; checked by experiment/ablation.py.
ABLATION_FIELDS = {
  'seeds': Field(
    (0, 1, 2, 3, 4),
    'seeds, each of which sets the subset, the generator and the classifier together',
    when='Take at least 5, or more for small effects, and decide before you look.',
  ),
  'arms': Field(
    {},
    '{name: {field: value}} of the arms to compare; {} means one, augmented like the '
    'control',
    when='Set it to compare settings of the generator or of mixing.',
  ),
  'grid': Field(
    {},
    '{field: values}; arms and controls are repeated for every combination of values',
    when='Set it to see how a gain depends on something else, such as the label budget.',
  ),
  'control': Field(
    'real_classical',
    "control of arms that do not name theirs: 'real_classical', or 'real_only' without "
    'classical augmentation',
    when="Use 'real_only' where classical augmentation is out of the question.",
  ),
  'controls': Field(
    {},
    '{name: {field: value}} of further controls, the best of which is compared as well',
    when='Give real images as many trials as the arms get.',
  ),
  'negative_controls': Field(
    (),
    "arms with 'noise' or 'mislabelled' images in the generator's place",
    when='Add them to show that a gain is due to the images.',
  ),
  'oracles': Field(
    (),
    "arms with real images in the generator's place: 'train_copies' as a floor, "
    "'held_out' as a ceiling",
    when='Add them before you tune a generator: with a low ceiling, none helps.',
  ),
  'equal_compute': Field(
    False,
    'add a control of real images alone that trains for at least as many operations as '
    'an arm and its generator together',
    when='Turn it on where the cost of the generator counts.',
  ),
  'vmap_seeds': Field(
    False,
    'train all seeds of an arm in one program',
    when='Turn it on for MLPs and very small networks that leave an accelerator idle, '
    'never on a CPU; time it first, with `python -m benchmarks.sweep`.',
  ),
}
