"""Checks a config once, before anything is computed: each field, then what goes together.

The rules of single fields are in `fields`.
"""

from collections.abc import Mapping
import importlib.util
from typing import Any

import ml_collections

from gan_aug_jax import external
from gan_aug_jax.config import configs, derived, suggestions
from gan_aug_jax.config.fields import FAMILIES, FIELDS, ORACLES
from gan_aug_jax.errors import ConfigError

ConfigDict = ml_collections.ConfigDict


def validate(config: ConfigDict, *, trains_generator: bool | None = None) -> None:
  """Checks every field, alone and in combination.

  Args:
    trains_generator: whether one will be trained; None: if an arm needs one.

  Raises:
    ConfigError: on the first field that is wrong: its value and what is allowed.
  """
  _check_fields(configs.flatten(config))
  if trains_generator is None:
    trains_generator = derived.needs_generator(config)
  checks = [_classifier(config), _data(config), _run(config)]
  checks += [_generator(config)] if trains_generator else []
  checks += [_host(config)] if config.data.placement == 'host' else []
  checks += [_synthesis(config)] if derived.draws_synthetic(config) else []
  for check in checks:
    for wrong, sentence in check:
      if wrong:
        raise ConfigError(f'{sentence}.')


def check_epochs(config: ConfigDict, fields: Mapping[str, Any], where: str) -> None:
  """Refuses a number of epochs that a number of steps overrides.

  Args:
    fields: {dotted field: value} that are set on top of the config.
    where: they are set.

  Raises:
    ConfigError: names both.
  """
  for part in ('generator', 'classifier'):
    epochs, steps = f'{part}.num_epochs', f'{part}.num_steps'
    if epochs in fields and (number := fields.get(steps, config[part].num_steps)):
      raise ConfigError(
        f'{where}: {epochs} has no effect, because {steps}={number} takes precedence; '
        f'set one of them, with {steps}=0 for epochs.'
      )


def _check_fields(values):
  for name in sorted(set(values) - set(FIELDS)):
    raise ConfigError(suggestions.no_such_field(name))
  for name, field in FIELDS.items():
    if name not in values:
      raise ConfigError(f'The config lacks the field {name}; start from default().')
    if not field.accepts(values[name]):
      raise ConfigError(f'{name}={values[name]!r} must be {field.allowed}.')


# Each of the following yields (whether it is wrong, the sentence without its full stop).


def _generator(config):
  generator, size = config.generator, config.data.image_size
  yield (
    generator.args and generator.family in FAMILIES,
    f'generator.args={generator.args!r} are for a generator of your own, and '
    f'generator.family={generator.family!r} has fields instead; leave generator.args '
    'at ()',
  )
  yield (
    generator.family == 'gan'
    and config.gan.arch != 'mlp'
    and size not in (8, 16, 32, 64, 128),
    f'data.image_size={size} must be 8, 16, 32, 64 or 128 for gan.arch='
    f"{config.gan.arch!r}; the 'mlp' takes any",
  )
  if generator.family == 'flow':
    yield from _flow(config)


def _flow(config):
  size, flow = config.data.image_size, config.flow
  yield (
    size % 2,
    f"data.image_size={size} must be even for generator.family='flow', which works on "
    'patches of 2 x 2 pixels',
  )
  yield (
    flow.crop_padding >= size,
    f'flow.crop_padding={flow.crop_padding} must be smaller than data.image_size={size}',
  )
  yield (
    flow.guidance != 1 and flow.reflow_steps > 0,
    f'flow.guidance={flow.guidance} needs predictions without a class, which are not '
    f'learned in flow.reflow_steps={flow.reflow_steps}; leave one of them at its default',
  )
  yield (
    flow.guidance != 1 and not flow.class_dropout,
    f'flow.guidance={flow.guidance} needs predictions without a class, which the network '
    'learns only with a flow.class_dropout above 0; set it to 0.1, or leave '
    'flow.guidance at 1.0',
  )


def _host(config):
  """What looks at any image of the training set, where they stay on the host."""
  others = {'augment.mixup': 0.0, 'augment.cutmix': 0.0}
  if derived.draws_synthetic(config):
    if config.filter.min_confidence > 0 and config.filter.on_reject == 'real':
      others['filter.on_reject'] = 'drop'
    if config.mix.source in ORACLES:
      others['mix.source'] = 'generator'
  values = configs.flatten(config)
  for name, other in others.items():
    yield (
      values[name] != other,
      f"{name}={values[name]!r} draws real images in the step, and data.placement='host' "
      f'has only those of the batch there; use {name}={other!r} or '
      "data.placement='device'",
    )


def _classifier(config):
  size, classifier, augment = config.data.image_size, config.classifier, config.augment
  num_poolings = len(classifier.features) or 3
  batch_size, ratio = classifier.batch_size, config.mix.ratio
  yield (
    classifier.arch == 'cnn' and size >> num_poolings < 1,
    f'classifier.features={classifier.features!r} halves images {num_poolings} times, '
    f'too often for data.image_size={size}',
  )
  for name in ('crop_padding', 'cutout'):
    yield (
      augment[name] >= size,
      f'augment.{name}={augment[name]} must be smaller than data.image_size={size}',
    )
  yield from _own_code(config)
  yield (
    classifier.batch_norm != 'shared' and classifier.arch != 'resnet',
    f"classifier.batch_norm={classifier.batch_norm!r} is for classifier.arch='resnet'; "
    f'{classifier.arch!r} has no batch normalization',
  )
  yield (
    classifier.nesterov and classifier.optimizer == 'sgd' and not classifier.momentum,
    'classifier.nesterov=True needs a classifier.momentum above 0',
  )
  yield (
    0 < ratio < 0.5 / batch_size,
    f'mix.ratio={ratio} of classifier.batch_size={batch_size} is less than half an '
    f'image; use 0 or at least {1 / batch_size:.4g}',
  )


# {field that may name code of the user's: fields that only the built-in ones read}
_OF_BUILT_IN = {
  'classifier.arch': ('dropout', 'features', 'hidden', 'blocks', 'batch_norm'),
  'classifier.optimizer': ('momentum', 'nesterov', 'weight_decay', 'weight_decay_on'),
}


def _own_code(config):
  """What has no effect because the user's own code takes its place, or is not there."""
  values, classifier = configs.flatten(config), config.classifier
  yield (
    classifier.args and not external.is_named(classifier.arch),
    f'classifier.args={classifier.args!r} are for a classifier of your own, and '
    f'classifier.arch={classifier.arch!r} has fields instead; leave classifier.args '
    'at ()',
  )
  for name in sorted(set(derived.code_of(config)) & set(_OF_BUILT_IN)):
    for last in _OF_BUILT_IN[name]:
      field = f'classifier.{last}'
      yield (
        values[field] != FIELDS[field].default,
        f'{field}={values[field]!r} has no effect on {name}={values[name]!r}; set it in '
        f'that code, and leave it at {FIELDS[field].default!r} here',
      )


def _synthesis(config):
  """Policies of drawing and mixing that cannot go together."""
  mix, filter_, cache = config.mix, config.filter, config.cache
  classifier, augment = config.classifier, config.augment
  rejects = filter_.min_confidence > 0
  by_exposure = classifier.budget == 'exposure'
  yield (
    mix.start_fraction >= mix.stop_fraction,
    f'mix.start_fraction={mix.start_fraction} and mix.stop_fraction={mix.stop_fraction} '
    'leave no step with synthetic images; the first must be below the second',
  )
  yield (
    rejects and filter_.score_by == 'random',
    f'filter.min_confidence={filter_.min_confidence} needs a score with a confidence; '
    "filter.score_by='random' has none",
  )
  yield (
    rejects and filter_.score_by == 'discriminator' and config.gan.loss == 'relativistic',
    'filter.min_confidence needs a logit whose zero means something; gan.loss='
    "'relativistic' leaves it open: choose filter.score_by='teacher'",
  )
  yield (
    cache.images_per_class > 0 and cache.refresh_steps > 1,
    f'cache.images_per_class={cache.images_per_class} draws from images that exist '
    'already; leave cache.refresh_steps at 1',
  )
  yield (
    cache.images_per_class > 0
    and derived.asks_discriminator(config)
    and len(derived.members_of(config)) > 1,
    "filter.score_by='discriminator' with several generators must know which one drew an "
    'image; cache.images_per_class does not keep that: use one generator, or another '
    'score',
  )
  yield (
    by_exposure and rejects and filter_.on_reject == 'real',
    "classifier.budget='exposure' counts real examples in advance; with "
    "filter.min_confidence choose filter.on_reject='drop'",
  )
  yield (
    by_exposure and (augment.mixup or augment.cutmix),
    "classifier.budget='exposure' does not count the partners of augment.mixup and "
    "augment.cutmix, which are real examples, too; use classifier.budget='steps'",
  )
  yield (
    by_exposure and mix.source in ORACLES,
    "classifier.budget='exposure' does not count the real images that mix.source="
    f"{mix.source!r} shows; use classifier.budget='steps'",
  )
  for field, unknown in (
    ('filter.min_confidence', rejects),
    ("targets.kind='teacher'", config.targets.kind == 'teacher'),
  ):
    yield (
      classifier.logit_adjustment > 0 and unknown,
      f'classifier.logit_adjustment={classifier.logit_adjustment} needs the share of '
      f'each class in the loss, which {field} makes unknown; use one of the two',
    )
  yield (
    augment.apply_to == 'synthetic' and 'real_classical' in config.arms,
    "augment.apply_to='synthetic' leaves the arm real_classical without any "
    'augmentation, the same as real_only; leave it out of arms',
  )
  if mix.mode == 'replace' and mix.ratio * classifier.batch_size + 0.5 >= (
    classifier.batch_size
  ):
    yield from _no_real(config)


def _no_real(config):
  """What needs real images in the batch, where all of them are replaced."""
  classifier, filter_ = config.classifier, config.filter
  no_real = f'mix.ratio={config.mix.ratio} must leave real images'
  yield (
    classifier.batch_norm != 'shared',
    f'{no_real}, which classifier.batch_norm={classifier.batch_norm!r} needs',
  )
  yield (
    classifier.budget == 'exposure',
    f"{no_real}: with classifier.budget='exposure' training would never end",
  )
  yield (
    config.mix.classes == 'feedback',
    f"{no_real}: mix.classes='feedback' depends on their loss",
  )
  yield (
    filter_.min_confidence > 0 and filter_.on_reject == 'drop',
    f"{no_real}: with filter.on_reject='drop' a batch may have no image at all",
  )


def _data(config):
  name, needed = config.data.name, {'folder': 'directory', 'npz': 'file'}
  yield (
    name in needed and not config.data.data_dir,
    f'data.name={name!r} needs data.data_dir, the {needed.get(name)} to read',
  )
  yield (
    config.data.train_on_val and config.data.test_on == 'val',
    "data.train_on_val=True and data.test_on='val' would test on images that are "
    'trained on; choose one of the two',
  )


def _run(config):
  score, log, distributed = config.score, config.log, config.distributed
  yield (
    score.neighbours >= score.num_samples,
    f'score.neighbours={score.neighbours} must be below score.num_samples='
    f'{score.num_samples}',
  )
  every = config.cache.refresh_steps
  save_every = config.classifier.save_every_steps
  yield (
    save_every % every,
    f'classifier.save_every_steps={save_every} must be a multiple of '
    f'cache.refresh_steps={every}: a pool of images is not saved',
  )
  cadences = {
    'log.every_steps': log.every_steps,
    'log.eval_every_steps': log.eval_every_steps,
    'classifier.save_every_steps': save_every,
    'generator.save_every_steps': config.generator.save_every_steps,
  }
  for name, steps in cadences.items():
    yield (
      config.steps_per_call and steps % config.steps_per_call,
      f'{name}={steps} must be a multiple of steps_per_call={config.steps_per_call}',
    )
  needed = ('tensorflow', 'tensorboard')
  yield (
    log.tensorboard and not all(map(_is_installed, needed)),
    'log.tensorboard=True needs TensorFlow and TensorBoard; install the extra: pip '
    "install -e '.[tensorflow]'",
  )
  yield (
    distributed.coordinator
    and not 0 <= distributed.process_id < distributed.num_processes,
    'With distributed.coordinator, distributed.num_processes='
    f'{distributed.num_processes} must be at least 1, and distributed.process_id='
    f'{distributed.process_id} must be from 0 to num_processes - 1',
  )


def _is_installed(package):
  """Whether a package can be imported; a folder of that name does not count."""
  spec = importlib.util.find_spec(package)
  return bool(spec and spec.origin)
