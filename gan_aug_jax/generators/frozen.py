"""The frozen generators of a run: where they are kept, and how they are loaded."""

from collections.abc import Callable
import copy
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.generators import families, fitted
from gan_aug_jax.generators.family import Family
from gan_aug_jax.step import sampling
from gan_aug_jax.training import checkpoint, files, loop, workdir


@dataclasses.dataclass(frozen=True)
class Member:
  """One generator that a run draws from.

  Attributes:
    seed: of its training.
    step: of that training, at which it was frozen.
    variables: its own, placed.
  """

  seed: int
  step: int
  variables: Any = dataclasses.field(repr=False)

  @property
  def name(self) -> str:
    """What reports and exported files call it."""
    return f'seed {self.seed}, step {self.step}'


@dataclasses.dataclass(frozen=True)
class FrozenGenerator:
  """What the fused step draws from: one generator, or several stacked.

  Attributes:
    family: how they draw.
    variables: of one, or of all members stacked; placed.
    directory: where it is kept, and with it what is derived from it.
    members: each of them.
    info: how it was trained, for results.json: fingerprint, steps, seconds, selection.
    discriminator: variables of the discriminator, or of all members' stacked; or None.
  """

  family: Family
  variables: Any
  directory: pathlib.Path
  members: tuple[Member, ...]
  info: dict = dataclasses.field(default_factory=dict)
  discriminator: Any = None


@dataclasses.dataclass(frozen=True)
class SeedTraining:
  """The training of a run's generator with one seed.

  Attributes:
    session: the run's, with this seed in its config.
    directory: where it is trained.
    steps: of the generators that are drawn from; 0 for the chosen one.
  """

  session: workdir.Session
  directory: pathlib.Path
  steps: tuple[int, ...]

  @property
  def seed(self) -> int:
    return config_lib.seed_of(self.session.config, 'generator')

  def read_result(self) -> dict | None:
    """Its result.json; None where it is missing, damaged or of an older version."""
    result = files.read_json_or_none(self.directory / 'result.json')
    needed = {'fingerprint', 'num_steps', 'seed', 'chosen_step', 'kept', 'networks'}
    if not result or not needed <= set(result):
      return None
    # Older versions trained GANs only.
    older = {'family': 'gan', 'title': f'{result.get("arch", "")} GAN', 'foreign': False}
    return older | {'trained_on': result['fingerprint']} | result


def trainings_of(session) -> list[SeedTraining]:
  """The trainings of the generators that a run draws from, each in its own directory."""
  steps, trainings = {}, []
  for seed, step in config_lib.members_of(session.config):
    steps.setdefault(seed, []).append(step)
  for seed, of_seed in steps.items():
    config = copy.deepcopy(session.config)
    config.generator.seed = seed
    one = dataclasses.replace(session, config=config)
    directory = session.generator_path()
    if trainings:
      directory = directory.with_name(f'{directory.name}-seed{seed}')
    trainings.append(SeedTraining(one, directory, tuple(of_seed)))
  return trainings


def load_generator(session, facts) -> FrozenGenerator:
  """Loads the frozen generators of a working directory.

  Args:
    facts: the `DataFacts` of what they were trained on.

  Raises:
    CheckpointError: if one is not finished or was trained on other images.
    ConfigError: see `families.build_family`.
  """
  check_trained(session)  # before an external generator's code is run
  family, results, members, networks = families.build_family(session, facts), [], [], []
  for training in trainings_of(session):
    kept, result = load_networks(training, family, facts)
    results.append(result)
    for step in training.steps:
      networks.append(kept[f'step{step}' if step else 'chosen'])
      variables, number = networks[-1]['generator'], step or result['chosen_step']
      members.append(Member(training.seed, number, variables))
    chosen, directory = kept['chosen'], training.directory
    variables = functools.partial(chosen.get, 'generator')
    families.check_drawing(session, family, variables, facts=facts, directory=directory)
  stacked = networks[0]
  if len(members) > 1:
    trees = jax.device_get(networks)
    try:
      stacked = jax.tree.map(lambda *x: np.stack(x), *trees)
    except ValueError as error:
      raise ConfigError(
        f'The generators of generator.checkpoints={session.config.generator.checkpoints} '
        f'keep arrays that differ in names or shapes ({error}), and cannot take turns; '
        'name one of them.'
      ) from None
    stacked = session.layout.replicate(stacked)
  return FrozenGenerator(
    family,
    stacked['generator'],
    directory=session.generator_path(),
    members=tuple(members),
    info=_summary(results, members),
    discriminator=stacked.get('discriminator'),
  )


def of_members(session, function: Callable) -> Callable:
  """Turns a function of a generator's variables into one of all of a run's, stacked.

  Args:
    function: `(variables, ...) -> result`.
  """
  number = len(config_lib.members_of(session.config))
  return sampling.make_ensemble(function, number, session.layout)


def shapes_of_members(session, family: Family) -> dict | None:
  """The shapes of what all the generators of a run keep; None if they are not known."""
  shapes, number = family.shapes(), len(config_lib.members_of(session.config))
  if number == 1 or shapes is None:
    return shapes
  stacked = lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype)
  return jax.tree.map(stacked, shapes)


def _summary(results, members):
  """The 'generator' of results.json: that of the first, with the seconds of all."""
  warnings = [
    f'seed {result["seed"]}: {warning}' if len(results) > 1 else warning
    for result in results
    for warning in result['warnings']
  ]
  seconds = {name: sum(result[name] for result in results) for name in loop.SECONDS}
  names = [member.name for member in members]
  return results[0] | seconds | {'members': names, 'warnings': warnings}


def check_trained(session) -> None:
  """Checks that the generators of a run are trained, before anything else is done.

  Raises:
    CheckpointError: if one is not finished.
  """
  for training in trainings_of(session):
    _trained_result(training)


def _trained_result(training):
  """The result.json of a generator that is trained."""
  if result := training.read_result():
    return result
  todo = '; train one first, with'
  if training.directory.exists():
    todo = ' yet: its training is not finished; finish it with run or'
  raise CheckpointError(
    f'There is no trained generator in {str(training.directory)!r}{todo} '
    'train-generator and the same --config and --workdir.'
  )


def load_networks(training: SeedTraining, family: Family, facts) -> tuple[dict, dict]:
  """Loads what is kept of one training.

  Args:
    facts: the `DataFacts` of what it was trained on.

  Returns:
    {'chosen' or 'stepN': {'generator'}}, and 'discriminator' if it has one, placed; and
    its result.json.

  Raises:
    CheckpointError: if it is not finished, or was trained on other images.
    UnreadableGenerator: if what is kept is missing or damaged.
  """
  result = _trained_result(training)
  if result['fingerprint'] != facts.fingerprint:
    raise CheckpointError(
      f'The generator in {str(training.directory)!r} was trained on other images and may '
      'have seen some of the test split; train one in another --workdir.'
    )
  layout, shapes = training.session.layout, family.shapes()
  if shapes is None:
    variables = layout.replicate(fitted.read(training.directory))
    return {'chosen': {'generator': variables}}, result
  shapes = dict.fromkeys(result['kept'], shapes)
  with checkpoint.Checkpoints(training.directory / 'checkpoints') as checkpoints:
    networks = checkpoints.restore_generators(
      result['num_steps'], shapes, layout.replicated
    )
  return networks, result
