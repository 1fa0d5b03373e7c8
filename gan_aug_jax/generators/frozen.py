"""The frozen generators of a run: where they are kept, and how they are loaded."""

from collections.abc import Callable
import copy
import dataclasses
import pathlib

import jax
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.generators import build
from gan_aug_jax.training import checkpoint, files, workdir

_SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds')


@dataclasses.dataclass(frozen=True)
class Member:
  """One generator that a run draws from.

  Attributes:
    seed: of its GAN's training.
    step: of that training, at which it was frozen.
    variables: its own, placed.
  """

  seed: int
  step: int
  variables: dict = dataclasses.field(repr=False)

  @property
  def name(self) -> str:
    """What reports and exported files call it."""
    return f'seed {self.seed}, step {self.step}'


@dataclasses.dataclass(frozen=True)
class FrozenGenerator:
  """What the fused step draws from: one generator, or several stacked.

  Attributes:
    sample: `(variables, keys [B, ...], labels [B]) -> images`, see `sampling`.
    variables: of one, or of all members stacked; placed.
    directory: where it is kept, and with it what is derived from it.
    members: each of them; empty where the run trained no GAN.
    info: how it was trained, for results.json: fingerprint, steps, seconds, selection.
    discriminator: variables of the discriminator, or of all members' stacked.
  """

  sample: Callable
  variables: dict
  directory: pathlib.Path
  members: tuple[Member, ...] = ()
  info: dict = dataclasses.field(default_factory=dict)
  discriminator: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Gan:
  """One GAN of a run.

  Attributes:
    session: the run's, with this GAN's seed in its config.
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
    result = files.read_result(self.directory / 'result.json')
    needed = {'fingerprint', 'num_steps', 'seed', 'chosen_step', 'kept', 'networks'}
    return result if result and needed <= set(result) else None


def gans_of(session) -> list[Gan]:
  """The GANs that a run draws from; the first is in gan/, the others in gan-seedN/."""
  steps, gans = {}, []
  for seed, step in config_lib.members_of(session.config):
    steps.setdefault(seed, []).append(step)
  for seed, of_seed in steps.items():
    config = copy.deepcopy(session.config)
    config.generator.seed = seed
    one = dataclasses.replace(session, config=config)
    directory = session.path(f'gan-seed{seed}' if gans else 'gan')
    gans.append(Gan(one, directory, tuple(of_seed)))
  return gans


def on_first_process(action: Callable[[], None]) -> None:
  """Changes files on process 0, while the others wait to read them."""
  if jax.process_index() == 0:
    action()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('gan result')


def load_generator(session, info) -> FrozenGenerator:
  """Loads the frozen generators of a working directory.

  Args:
    session: the run's.
    info: the `DataFacts` of what they were trained on.

  Raises:
    CheckpointError: if one is not finished or was trained on other images, or if the run
      drew from an external generator.
  """
  if config_lib.is_external(session.config):
    # A workdir's config must not make a later command import the module that it names.
    raise CheckpointError(
      f'The run in {str(session.workdir)!r} trained no GAN: it drew from the external '
      f'generator {session.config.generator.family!r}, whose samples are in '
      'gan/samples.png.'
    )
  results, members, networks = [], [], []
  for gan in gans_of(session):
    kept, result = load_networks(gan, info)
    results.append(result)
    for step in gan.steps:
      networks.append(kept[f'step{step}' if step else 'chosen'])
      generator = networks[-1]['generator']
      members.append(Member(gan.seed, step or result['chosen_step'], generator))
  stacked = networks[0]
  if len(members) > 1:
    trees = jax.device_get(networks)
    stacked = session.layout.replicate(jax.tree.map(lambda *x: np.stack(x), *trees))
  return FrozenGenerator(
    sample=build.make_sampler(session, info, len(members)),
    variables=stacked['generator'],
    directory=session.path('gan'),
    members=tuple(members),
    info=_summary(results, members),
    discriminator=stacked['discriminator'],
  )


def _summary(results, members):
  """The 'gan' of results.json: that of the first GAN, with the seconds of all."""
  warnings = [
    f'seed {result["seed"]}: {warning}' if len(results) > 1 else warning
    for result in results
    for warning in result['warnings']
  ]
  seconds = {name: sum(result[name] for result in results) for name in _SECONDS}
  names = [member.name for member in members]
  return results[0] | seconds | {'members': names, 'warnings': warnings}


def check_trained(session) -> None:
  """Checks that the GANs of a run are trained, before anything else is done.

  Raises:
    CheckpointError: if one is not finished.
  """
  for gan in gans_of(session):
    _trained_result(gan)


def _trained_result(gan):
  """The result.json of a GAN that is trained."""
  if result := gan.read_result():
    return result
  todo = '; train one first, with'
  if gan.directory.exists():
    todo = ' yet: the training of the GAN is not finished; finish it with run or'
  raise CheckpointError(
    f'There is no trained generator in {str(gan.directory)!r}{todo} train-gan and the '
    'same --config and --workdir.'
  )


def load_networks(gan: Gan, info) -> tuple[dict, dict]:
  """Loads what is kept of one GAN.

  Args:
    gan: which one.
    info: the `DataFacts` of what it was trained on.

  Returns:
    {'chosen' or 'stepN': {'generator', 'discriminator'}}, placed; and its result.json.

  Raises:
    CheckpointError: if it is not finished, or was trained on other images.
    UnreadableGenerator: if its last checkpoint is missing or damaged.
  """
  result = _trained_result(gan)
  if result['fingerprint'] != info.fingerprint:
    raise CheckpointError(
      f'The generator in {str(gan.directory)!r} was trained on other images and may have '
      'seen some of the test split; train one in another --workdir.'
    )
  shapes = dict.fromkeys(result['kept'], build.network_shapes(gan.session, info))
  replicated = gan.session.layout.replicated
  with checkpoint.Checkpoints(gan.directory / 'checkpoints') as checkpoints:
    networks = checkpoints.restore_generators(result['num_steps'], shapes, replicated)
  return networks, result
