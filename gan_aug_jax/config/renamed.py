"""Old names of fields and of their values: read, translated, and refused in a sentence.

A config that an older version wrote, or that somebody still writes as it was, keeps its
meaning. A field that gets another name needs an entry in `_RENAMED`.
"""

from collections.abc import Iterable
import functools
import logging
import re
from typing import Any

from gan_aug_jax.config.fields import FIELDS
from gan_aug_jax.errors import ConfigError

_LOGGER = logging.getLogger('gan_aug_jax')

# {old name: new name}, of fields and groups; see `describe`.
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


def describe(name: str) -> str:
  """What became of an older version's field, as a sentence; '' for any other name."""
  if name not in _RENAMED:
    return ''
  complement = ' (1 minus the old value)' if name in _COMPLEMENT else ''
  also = f' and {_ALSO[name]}' if name in _ALSO else ''
  return f'{name} is now {_RENAMED[name]}{also}{complement}.'


def find(text: str) -> str:
  """The sentence of `describe` for the first old name in a line of code, or ''."""
  for name in sorted(_RENAMED, key=len, reverse=True):
    if re.search(rf'(?<![\w.])(?:config\.|\w+\.config\.)?{re.escape(name)}\b', text):
      return describe(name)
  return ''


@functools.cache
def old_groups() -> set[str]:
  """The groups that no longer exist."""
  groups = {name.partition('.')[0] for name in _RENAMED if '.' in name}
  return groups - {*(name.partition('.')[0] for name in FIELDS), 'ablation'}


def translate(flat: dict[str, Any]) -> dict[str, Any]:
  """The fields {dotted name: value} of an older version under their new names."""
  translated = {}
  for name, value in flat.items():
    if name in _COMPLEMENT:
      value = _complement(value)
    if name in _ALSO:
      translated[_ALSO[name]] = value
    name, values = _RENAMED.get(name, name), _RENAMED_VALUES
    if name in values and isinstance(value, str):
      value = values[name].get(value, value)
    translated[name] = value
  return translated


def _complement(value):
  try:
    return round(1 - float(value), 12)  # 0.1, not 0.09999999999999998
  except (TypeError, ValueError):
    return value  # refused as what it is


def accept(flat: dict[str, Any], given: Iterable[str] = ()) -> dict[str, Any]:
  """`translate`, with a line on stderr for each old name.

  Args:
    flat: {dotted name: value}; a value may be the text of a flag.
    given: further names that are set at the same place.

  Raises:
    ConfigError: if a field is given under two names.
  """
  for name in filter(describe, flat):
    for new in translate({name: None}):
      others = {*flat, *given} - {name}
      if same := [other for other in others if new in translate({other: None})]:
        raise ConfigError(
          f'{name} is an old name of {new}, which {same[0]} sets, too; leave it out.'
        )
    _LOGGER.warning('%s', describe(name))
  return translate(flat)
