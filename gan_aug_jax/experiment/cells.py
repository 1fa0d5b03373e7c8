"""The cells of an ablation, one classifier each, and their files.

WORKDIR/
  ablation.json       the config, the arms and the seeds
  cells/NAME/         a run of one arm: config.json, arms/, results.json; or failed.json
  generators/FINGERPRINT/  those that cells share: config.json, generator/
  together/           checkpoints of seeds that train in one program
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re

import ml_collections

from gan_aug_jax import config as config_lib
from gan_aug_jax.config.fields import FIELDS, OF_ARMS
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.experiment import ablation, arms as arms_lib, runs
from gan_aug_jax.generators import frozen, generator_training
from gan_aug_jax.step import sharding
from gan_aug_jax.training import devices, files, workdir as workdir_lib
from gan_aug_jax.training.progress import format_count
from gan_aug_jax.training.workdir import Session


@dataclasses.dataclass(frozen=True)
class Cell:
  """One classifier to train.

  Attributes:
    name: unique in the ablation; also the name of its directory.
    arm: an `ablation.PlannedArm`.
    seed: of everything random.
    config: of its run.
    generator: name of the one that it draws from, a fingerprint of what that depends on;
      or ''.
    generator_config: of that generator, or None. Its checkpoints are all that cells draw
      from, where several draw from given steps of one training.
  """

  name: str
  arm: ablation.PlannedArm
  seed: int
  config: ml_collections.ConfigDict
  generator: str = ''
  generator_config: ml_collections.ConfigDict | None = None

  @property
  def arm_name(self):
    """The name of its arm in `config.ARMS`."""
    return self.config.arms[0]

  def directory(self, workdir):
    """Where its files are."""
    return workdir / 'cells' / self.name

  def is_finished(self, workdir):
    """Whether its results are there."""
    return is_finished(workdir, self.name, self.arm_name)

  def lacks_generator(self, workdir, layout):
    """Whether it draws from a generator that is not trained yet."""
    if not self.generator:
      return False
    directory = generator_workdir(workdir, self.generator)
    session = Session(self.generator_config, directory, layout)
    trainings = frozen.trainings_of(session)
    return not all(training.read_result() for training in trainings)


def is_finished(workdir, name, arm_name) -> bool:
  """Whether the results of a cell are there.

  Args:
    arm_name: of its arm in `config.ARMS`.
  """
  directory = workdir / 'cells' / name
  results = files.read_json_or_none(directory / 'results.json')
  written = (directory / 'arms' / arm_name / 'predictions.npz').exists()
  return bool(written and results and arm_name in results.get('arms', {}))


def failure(workdir, name) -> str:
  """Why a cell failed, or ''."""
  failed = files.read_json_or_none(workdir / 'cells' / name / 'failed.json') or {}
  return failed.get('why', '')


def generator_workdir(workdir, name) -> pathlib.Path:
  """The workdir of a generator that cells share; older versions had it in gans/.

  Args:
    name: of the generator, as in `Cell.generator`.
  """
  old = workdir / 'gans' / name
  return old if old.exists() else workdir / 'generators' / name


def list_cells(config, arms, workdir: pathlib.Path) -> list[Cell]:
  """The cells of an ablation, seed by seed, so that whole seeds are finished first.

  Of a seed, the controls that match an arm come last: they take the longest, and most
  arms have another one.

  Args:
    arms: from `ablation.list_arms`.
    workdir: of the ablation, whose generators are used where they serve.
  """
  base, cells = config_lib.base_of(config), []
  places = config.ablation.grid.get('data.data_dir', ())
  distinct = [*reversed({arm.key: arm for arm in reversed(arms)}.values())]
  distinct.sort(key=lambda arm: arm.role == 'matched')
  names = {arm.key: re.sub(r'[^\w.,+=-]+', '-', arm.key) for arm in distinct}
  count = collections.Counter(names.values())
  for seed in config.ablation.seeds:
    for arm in distinct:
      of_cell = ablation.config_of(base, arm, seed)
      name = names[arm.key]
      if count[name] > 1:  # of a/b and a-b, in whatever order they are listed
        name += f',{fingerprint(arm.key)}'
      needs = config_lib.needs_generator(of_cell)
      generator = _generator_config(base, of_cell) if needs else None
      name += f',seed={seed}'
      cells.append(Cell(name, arm, seed, of_cell, generator_config=generator))
  _share_trainings(cells, workdir, places)
  return [
    dataclasses.replace(
      cell, generator=fingerprint(_depends_on(cell.generator_config, places))
    )
    if cell.generator_config
    else cell
    for cell in cells
  ]


def _share_trainings(cells, workdir, places):
  """Lets cells that draw from different steps of one training share that training.

  A cell that names no step draws from the chosen one, which every training keeps. What
  was begun keeps its name, and with it what it has: arms may be added later.
  """
  together, begun = {}, {}
  for path in sorted(workdir.glob('g*/*/config.json')):
    with contextlib.suppress(CheckpointError):
      config = config_lib.from_dict(workdir_lib.read_run(path.parent)['config'])
      kept = begun.setdefault(_training_of(config, places), [])
      kept.append(config.generator.checkpoints)
  for cell in cells:
    config = cell.generator_config
    own = config.generator.checkpoints if config else ()
    if not config or not all(name.startswith('step:') for name in own):
      continue
    key = _training_of(config, places)
    has_all = [kept for kept in begun.get(key, ()) if {*own} <= {*kept}]
    if has_all:
      config.generator.checkpoints = min(has_all, key=len)  # its own, if it was begun
    else:
      together.setdefault(key, []).append(config)
  for configs in together.values():
    kept = {config.generator.checkpoints for config in configs}
    names = sorted({*itertools.chain(*kept)}, key=lambda name: int(name[len('step:') :]))
    if () in kept:  # samples and scores are to show the chosen one, too
      names.append(f'seed:{config_lib.seed_of(configs[0], "generator")}')
    if len(kept) > 1:
      for config in configs:
        config.generator.checkpoints = tuple(names)


def _training_of(config, places):
  """What a generator's training depends on, whichever of its steps are kept."""
  return fingerprint(_depends_on(config, places) | {'generator.checkpoints': ()})


def _depends_on(config, places):
  """The fields {name: value} that a generator depends on.

  Data may be moved, so where they are does not count, unless a grid has several places.
  """
  depends_on = workdir_lib.fixed_fields(config)
  del depends_on['data.test_on']  # which changes no generator
  for field in ('classifier.args', 'classifier.logit_adjustment', 'flow.reflow_steps'):
    if not depends_on[field]:  # named before this field existed
      del depends_on[field]
  if config.data.data_dir in places:
    depends_on['data.data_dir'] = config.data.data_dir
  return depends_on


def _generator_config(base, config):
  """The config of a cell's generator, with the base's values of the arms' fields."""
  shared = config.copy_and_resolve_references()
  fields = config_lib.flatten(base)
  of_arms = {f: v for f, v in fields.items() if FIELDS[f].affects in OF_ARMS}
  seeds = {
    f'{part}.seed': config_lib.seed_of(config, part) for part in ('data', 'generator')
  }
  # The probes that choose a checkpoint belong to the generator and take its seed.
  seeds |= {'classifier.seed': seeds['generator.seed'], 'seed': 0}
  shared.update_from_flattened_dict({**of_arms, **seeds})
  return shared


def fingerprint(described):
  """A name for what JSON can describe, such as the fields that a generator depends on."""
  content = json.dumps(described, sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=8)  # seeds that train in one program need theirs at once
def _load(fields):
  config = config_lib.default()
  config.update_from_flattened_dict(dict(fields))
  return runs.load_data(config)


def load_data(config):
  """Returns the dataset as `runs.load_data` does, and caches the last eight."""
  fields = {f: v for f, v in config_lib.flatten(config).items() if f.startswith('data.')}
  fields['data.seed'] = config_lib.seed_of(config, 'data')
  if config.mix.source == 'held_out':  # which needs more images
    fields |= {'mix.source': 'held_out', 'arms': config.arms}
  return _load(tuple(fields.items()))


@dataclasses.dataclass(frozen=True)
class _Costs:
  """What `ablation.list_arms` has to know of a config without ablation."""

  session: Session

  def num_train(self, config):
    """Training images."""
    return len(load_data(config).train)

  def operations(self, config, control):
    """Of the generator's training, of a step of the arm and of a step of the control.

    Args:
      control: the kind of its control, one of `CONTROLS`.
    """
    # As if every step drew new images, so that the control gets more, never less; and on
    # one device, as the control must not depend on their number.
    config = config.copy_and_resolve_references()
    config.cache.refresh_steps = config.steps_per_call = 1
    layout = sharding.make_layout('jit', self.session.layout.mesh.local_devices[:1])
    session = dataclasses.replace(self.session, config=config, layout=layout)
    dataset = load_data(config)
    generator = generator_training.GeneratorTraining(session, dataset)
    if generator.family.fit:
      raise ConfigError(
        f'generator.family={config.generator.family!r} is not trained in steps, so its '
        'operations cannot be counted; leave ablation.equal_compute at False.'
      )

    def of_step(name):
      training = arms_lib.Arm(session, dataset, name, evaluator=None).training()
      return training.step_operations(training.stages[0])

    return generator.training.operations(), of_step(config.arms[0]), of_step(control)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The arms and cells of the ablation of a config, and where they run."""

  config: ml_collections.ConfigDict
  arms: list[ablation.PlannedArm]
  cells: list[Cell]
  workdir: pathlib.Path
  layout: sharding.Layout

  def units(self) -> list[list[Cell]]:
    """The cells that are trained at a time: each alone, or all seeds of an arm."""
    units, by_arm = {}, self.config.ablation.vmap_seeds
    for cell in self.cells:
      units.setdefault(cell.arm.key if by_arm else cell.name, []).append(cell)
    return list(units.values())

  def is_over(self) -> bool:
    """Whether every cell is finished or failed."""
    return all(
      cell.is_finished(self.workdir) or failure(self.workdir, cell.name)
      for cell in self.cells
    )

  def write(self) -> None:
    """Writes ablation.json: what a report has to know of cells that are not trained."""
    content = {
      'config': config_lib.base_of(self.config).to_dict(),
      'ablation': self.config.ablation.to_dict(),
      'arms': [dataclasses.asdict(arm) for arm in self.arms],
      'cells': [
        {'name': cell.name, 'arm': cell.arm.key, 'seed': cell.seed}
        | {'kind': cell.arm_name, 'generator': cell.generator}
        for cell in self.cells
      ],
      'versions': workdir_lib.versions(),
      'device': workdir_lib.describe_devices(self.layout),
    }
    path = self.workdir / 'ablation.json'
    files.write_atomically(path, json.dumps(content, indent=1))

  def describe(self) -> str:
    """Says what the ablation will do."""
    finished = sum(cell.is_finished(self.workdir) for cell in self.cells)
    generators = len({cell.generator for cell in self.cells if cell.generator})
    text = (
      f'{format_count(len(self.cells), "cell")}, {finished} of them finished, and '
      f'{format_count(generators, "generator")}; on '
      f'{workdir_lib.describe_devices(self.layout)}.'
    )
    if self.config.ablation.vmap_seeds and self.layout.on_cpu:
      text += (
        ' On a CPU, training the seeds in one program is several times slower than one '
        'after the other: set ablation.vmap_seeds=False.'
      )
    return text


def make_plan(config, workdir: pathlib.Path, layout: sharding.Layout) -> Plan:
  """Plans an ablation, and checks the plan against what the workdir holds.

  Raises:
    ConfigError: see `ablation.list_arms`, `generator_training.check` and
      `devices.check_batches`.
    CheckpointError: if the workdir holds a run, or a cell of another config.
  """
  if (workdir / 'config.json').exists():
    raise CheckpointError(
      f'{str(workdir)!r} holds a run; give an ablation another --workdir.'
    )
  arms = ablation.list_arms(config, _Costs(Session(config, workdir, layout, quiet=True)))
  cells = list_cells(config, arms, workdir)
  oracles = {c.arm.setting: c for c in cells if c.config.mix.source == 'held_out'}
  for cell in oracles.values():
    load_data(cell.config)  # if too few images are left, fail before anything is trained
  in_steps = set()
  for cell in {cell.arm.key: cell for cell in cells if cell.generator}.values():
    session = Session(cell.config, cell.directory(workdir), layout)
    _, cadence = generator_training.check(session, load_data(cell.config))  # likewise
    if cadence:
      in_steps.add(cell.arm.key)
  for cell in cells:
    session = Session(cell.config, cell.directory(workdir), layout)
    workdir_lib.check_config(session, grows=False)
    if not cell.is_finished(workdir):
      trains = ['classifier']
      if cell.arm.key in in_steps and cell.lacks_generator(workdir, layout):
        trains.append('generator')
      devices.check_batches(cell.config, layout.num_devices, trains)
  return Plan(config, arms, cells, workdir, layout)
