"""Which generators there are, and the one that a config asks for.

Everything else treats them alike, but for rules about the fields of one of them.
"""

from collections.abc import Callable
from typing import Any

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import flatten
from gan_aug_jax.config.fields import FIELDS
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import external, flow, gan
from gan_aug_jax.generators.family import Family, Setting

# {generator.family: `build(setting, **fields of the group of that name)`}
FAMILIES = {'gan': gan.build, 'flow': flow.build}


def build_family(session, facts: DataFacts) -> Family:
  """Builds the generator that the config asks for; trains and reads nothing.

  Raises:
    ConfigError: if there is no such generator, or it lacks what the config needs.
  """
  config, name = session.config, session.config.generator.family
  setting = _setting_of(session, facts)
  if name in FAMILIES:
    family = FAMILIES[name](setting, **arguments_of(config))
  else:
    args = tuple(config.generator.args)
    family = external.build(name, setting, args, trusted=session.trusts_code)
  _check_has(family, config)
  if is_foreign(family, facts) and not config.generator.allow_foreign:
    raise ConfigError(
      f'generator.family={name!r} has trained_on={family.trained_on!r} and may have seen '
      'some of the test split; if it saw only the training images of this run, set '
      f'trained_on to {facts.fingerprint!r}, or else give '
      '--config.generator.allow_foreign=True, which the report will mention.'
    )
  return family


def is_foreign(family: Family, facts: DataFacts) -> bool:
  """Whether a generator may have seen other images than the run's training images."""
  return bool(family.fit) and family.trained_on != facts.fingerprint


def drawing_arguments_of(config) -> dict[str, Any]:
  """What a config's generator is built with to draw, once it is trained."""
  arguments = arguments_of(config)
  arguments.pop('reflow_steps', None)
  return arguments


def arguments_of(config) -> dict[str, Any]:
  """What a config's generator is built with: its group's fields, or texts."""
  name, args = config.generator.family, config.generator.args
  if name in FAMILIES:
    return config[name].to_dict()
  return dict(text.split('=', 1) for text in args)


def _setting_of(session, facts):
  config = session.config.generator
  return Setting(
    facts,
    session.layout,
    num_steps=config_lib.num_steps_of(session.config, 'generator', facts.num_train),
    batch_size=config.batch_size,
    learning_rate=config.learning_rate,
    ema_decay=config.ema_decay,
    dtype=session.dtype('generator'),
    frozen_dtype=session.dtype('frozen'),
  )


def check_drawing(
  session, family: Family, variables: Callable, *, facts, directory
) -> None:
  """Checks what an external generator draws, see `external.check_drawing`.

  Args:
    variables: `() -> variables` of the frozen generator.
    directory: where it is trained; None before that.
  """
  name = session.config.generator.family
  if name not in FAMILIES:
    path = directory and directory / 'drawn.npz'
    external.check_drawing(name, family, variables(), facts=facts, path=path)


def _check_has(family, config):
  """Raises an error if the config needs what the generator lacks."""
  values, lacks = flatten(config), []
  if not family.render:
    needs = ('latents.std', 'latents.truncation', 'latents.interpolation')
    lacks += [(name, 'latents') for name in needs if values[name] != FIELDS[name].default]
  if not family.discriminator_logits and config_lib.asks_discriminator(config):
    lacks += [('filter.score_by', 'a discriminator')]
  if family.fit:
    steps = [name for name in config.generator.checkpoints if name.startswith('step')]
    lacks += [('generator.checkpoints', 'training steps')] if steps else []
  for name, what in lacks:
    raise ConfigError(
      f'{name}={values[name]!r} needs {what}, and generator.family='
      f'{config.generator.family!r} has none; leave it at {FIELDS[name].default!r}.'
    )
