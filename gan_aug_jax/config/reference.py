"""The reference of every config field, for the command `fields` and docs/config.md.

Made from the table in `fields`; each entry can be read by itself.
"""

import dataclasses

from gan_aug_jax.config import fields, suggestions
from gan_aug_jax.errors import ConfigError

# {group: what its fields are about}
GROUPS = {
  'run': 'where and how a run computes, and its arms',
  'data': 'the images: source, size, label budget, splits',
  'generator': 'the generator: kind, training, choice of a checkpoint',
  'gan': 'what only GANs have: architecture, width, loss, discriminator, regularisers',
  'flow': 'the flow-matching generator',
  'classifier': 'the classifier: network, optimizer, length of training',
  'mix': 'how many synthetic images, of which classes, when and with which weight',
  'latents': 'the latents that synthetic images are drawn from',
  'filter': 'which synthetic images are accepted',
  'targets': 'the targets that synthetic images are trained with',
  'cache': 'how long synthetic images are reused',
  'augment': 'classical augmentation, in the classical arms',
  'score': 'how the command score measures generators',
  'distributed': 'several processes',
  'profile': 'traces of training steps',
  'log': 'lines of metrics, evaluations and TensorBoard files while training',
  'ablation': 'the arms, seeds and controls of an ablation',
}
_OF_ARMS = (
  'A change needs another workdir, unless the generator is finished and no arm has begun.'
)
_AFFECTS = {
  fields.RUN: 'A change needs another workdir.',
  fields.GENERATOR: 'A change needs another workdir, where another generator is trained.',
  fields.SYNTHESIS: _OF_ARMS,
  fields.CLASSIFIER: _OF_ARMS,
  fields.CADENCE: 'A run can be resumed with another value, unless that would move the '
  'checkpoints of an unfinished generator.',
  fields.NOTHING: 'A run can be resumed with another value.',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """What is to be said about a field, by its dotted name."""

  name: str
  field: fields.Field

  @property
  def group(self) -> str:
    """One of `GROUPS`."""
    return self.name.rpartition('.')[0] or 'run'

  @property
  def default(self) -> str:
    """As Python writes it."""
    return repr(self.field.default)

  def meaning(self) -> list[str]:
    """What it means and what is allowed, in sentences."""
    doc = self.field.doc
    allowed = [f'Allowed: {self.field.rule.text}.'] if self.field.rule else []
    return [f'{doc[:1].upper()}{doc[1:]}.', *allowed]

  def advice(self) -> list[str]:
    """When to change it, and what a change costs, in sentences."""
    cost = [_AFFECTS[self.field.affects]] if self.group != 'ablation' else []
    return [self.field.when, *cost]


def entries() -> list[Entry]:
  """Every field, those of an ablation last."""
  of_ablation = {f'ablation.{f}': field for f, field in fields.ABLATION_FIELDS.items()}
  return [Entry(*item) for item in (fields.FIELDS | of_ablation).items()]


def find(name: str) -> list[Entry]:
  """The entries of a group or a field of that name; of all for ''.

  Raises:
    ConfigError: if there is neither.
  """
  found = [entry for entry in entries() if name in ('', entry.group, entry.name)]
  if not found:
    sentence = suggestions.no_such_field(name, [entry.name for entry in entries()])
    raise ConfigError(f'{sentence} `fields` without a name lists the groups.')
  return found
