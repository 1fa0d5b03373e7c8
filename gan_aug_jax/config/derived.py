"""What follows from a config's fields: seeds, precisions, lengths, what is drawn."""

import ast
import math
from typing import Any

import ml_collections

from gan_aug_jax import external
from gan_aug_jax.config import configs, fields

ConfigDict = ml_collections.ConfigDict

# 50 steps of 26 images by the widest layer of the default GAN are about 80 MiB.
_DRAW_AHEAD_MIB = 256


def members_of(config: ConfigDict) -> list[tuple[int, int]]:
  """The generators to draw from, [(seed, step)]; step 0 is the chosen one."""
  own = seed_of(config, 'generator')
  named = [name.split(':') for name in config.generator.checkpoints]
  members = [
    (own, int(number)) if kind == 'step' else (int(number), 0) for kind, number in named
  ]
  return members or [(own, 0)]


def is_augmented(config: ConfigDict, arm: str) -> bool:
  """Whether an arm draws synthetic images.

  Args:
    arm: one of `ARMS`.
  """
  return config.mix.ratio > 0 and fields.ARMS[arm][0]


def parse_arguments(args: tuple[str, ...]) -> dict[str, Any]:
  """The arguments in a field `args`; a value that is not a literal stays a string."""
  arguments = {}
  for text in args:
    name, _, value = text.partition('=')
    try:
      arguments[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      arguments[name] = value
  return arguments


def draws_synthetic(config: ConfigDict) -> bool:
  """Whether any arm draws synthetic images, or what a control has in their place."""
  return any(is_augmented(config, arm) for arm in config.arms)


def needs_generator(config: ConfigDict) -> bool:
  """Whether any arm draws from a generator, or asks its discriminator."""
  shows_it = config.mix.source in ('generator', 'mislabelled')
  return (shows_it or asks_discriminator(config)) and draws_synthetic(config)


def asks_discriminator(config: ConfigDict) -> bool:
  """Whether the generator's discriminator scores its images."""
  return _scores_by(config, 'discriminator')


def asks_teacher(config: ConfigDict) -> bool:
  """Whether a policy needs a classifier that is trained on the real images first."""
  return _scores_by(config, 'teacher', 'hard') or config.targets.kind == 'teacher'


def _scores_by(config, *scores):
  filter_ = config.filter
  is_active = filter_.candidates > 1 or filter_.min_confidence > 0
  return is_active and filter_.score_by in scores


def code_of(config: ConfigDict) -> dict[str, str]:
  """{field: 'module:name'} of the code that a config names."""
  values = configs.flatten(config)
  return {name: values[name] for name in fields.CODE if external.is_named(values[name])}


def own_code_of(config: ConfigDict) -> dict[str, str]:
  """The part of `code_of` that is not one of this package's generators.

  Only these are marked as meant to be named: what else is in the package may load a file.
  """
  ours = lambda field, name: (
    field == 'generator.family' and name.startswith('gan_aug_jax.')
  )
  return {field: name for field, name in code_of(config).items() if not ours(field, name)}


def seed_of(config: ConfigDict, part: str) -> int:
  """The seed of 'data', 'generator' or 'classifier': its own, or the root's."""
  return config.seed if config[part].seed == -1 else config[part].seed


def precision_of(config: ConfigDict, part: str) -> str:
  """What 'generator' or 'classifier' trains in, or the 'frozen' generator draws in."""
  if part == 'frozen':
    return config.generator.precision or precision_of(config, 'generator')
  field = 'train_precision' if part == 'generator' else 'precision'
  return config[part][field] or config.precision


def uses_float64(config: ConfigDict) -> bool:
  """Whether any part computes in float64, which a process allows for all or for none."""
  parts = ('generator', 'frozen', 'classifier')
  return 'float64' in (precision_of(config, part) for part in parts)


def draw_ahead_bytes(config: ConfigDict) -> int:
  """The largest array that drawing ahead may make on each device; 0 for none."""
  mib = config.mix.draw_ahead_mib
  return 2**20 * (_DRAW_AHEAD_MIB if mib == -1 else mib)


def num_steps_of(config: ConfigDict, part: str, num_examples: int) -> int:
  """Optimizer steps of a training.

  Epochs count batches of the configured size, however many of their images are synthetic,
  so that every arm takes the same number of steps. A GAN takes a batch for each update of
  its discriminator.

  Args:
    part: 'generator' or 'classifier'.
    num_examples: images of the training set.
  """
  has_substeps = part == 'generator' and config.generator.family == 'gan'
  batches = config.gan.d_steps if has_substeps else 1
  part = config[part]
  examples = batches * part.batch_size
  return part.num_steps or math.ceil(part.num_epochs * num_examples / examples)
