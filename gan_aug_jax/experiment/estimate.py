"""How long a run or an ablation takes, by its operations and how fast this machine is.

The operations of a program are counted when it is traced, which is quick. Only a step of
the generator and one of an arm are compiled and timed, on a CPU without optimization: it
makes a step less than twice as fast, as most of a step is convolutions.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import json
import math
import pathlib
import time

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import arms as arms_lib, cells as cells_lib, runs
from gan_aug_jax.generators import families
from gan_aug_jax.step import sharding
from gan_aug_jax.training.workdir import Session

# Rough figures: seconds of imports, of reading the data and of writing a report, and of
# saving a training.
_START_SECONDS, _SAVE_SECONDS = 10.0, 1.5
# On a CPU, how many times faster an optimized step is (1.6 for the GAN of
# configs/mnist5k.py, 1.9 for its arms), and how many times longer all programs of a
# training take to compile than its step does without optimization.
_FASTER, _COMPILATION = 1.8, 9.0
_NUM_CALLS = 2  # that are timed


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that are left, with compilation, choice of checkpoints and evaluation.

  Attributes:
    arms: {cell or arm: seconds}, of those that are not finished.
    generators: {name: seconds} likewise.
    left_out: what is not in these figures, a sentence each.
  """

  arms: dict[str, float]
  generators: dict[str, float]
  left_out: tuple[str, ...] = ()

  @property
  def total(self) -> float:
    """Of all of it, with the start of the process."""
    left = sum(self.arms.values()) + sum(self.generators.values())
    return left and left + _START_SECONDS


def of_run(session: Session, dataset) -> Estimate:
  """Estimates what is left of a run."""
  run, left_out = _without_fit(session, dataset)
  work, speed = run.work(), _Speed()
  generators = {}
  if 'generator' in work:
    generators['generator'] = speed.of_generator(run.generator, work['generator'])
  arms = {
    arm.name: speed.of_arm(arm, work[arm.name]) for arm in run.arms if arm.name in work
  }
  return Estimate(arms, generators, left_out)


def of_ablation(plan) -> Estimate:
  """Estimates what is left of a `cells.Plan`."""
  arms, generators, left_out, speed, known = {}, {}, {}, _Speed(), {}
  for cell in plan.cells:
    if cell.is_finished(plan.workdir):
      continue
    key, generator_key = _keys(cell, plan.workdir, plan.layout)
    if key not in known:
      run, sentences = _run_of(cell, plan.workdir, plan.layout)
      left_out |= dict.fromkeys(sentences)
      work = run.work(generator=generator_key not in known)
      known[key] = run.arms[0], work.get(cell.arm_name, 0.0)
      if 'generator' in work:
        known[generator_key] = run.generator, work['generator']
    if generator_key and generator_key in known and cell.generator not in generators:
      generators[cell.generator] = speed.of_generator(*known[generator_key])
    arms[cell.name] = speed.of_arm(*known[key])
  return Estimate(arms, generators, tuple(left_out))


def work_of(
  cells: Iterable, workdir: pathlib.Path, layout: sharding.Layout
) -> dict[str, float]:
  """Operations of what cells train, {cell or generator: operations}, see `runs.Run.work`.

  Args:
    cells: of a plan, those that are not finished.
  """
  work, known = {}, {}
  for cell in cells:
    key, generator_key = _keys(cell, workdir, layout)
    if key not in known:
      known[key] = 0.0
      with contextlib.suppress(Exception):  # noted when it is the cell's turn
        run, _ = _run_of(cell, workdir, layout)
        counted = run.work(generator=generator_key not in known)
        known[key] = counted.get(cell.arm_name, 0.0)
        if 'generator' in counted:
          known[generator_key] = counted['generator']
    work[cell.name] = known[key]
    if generator_key and generator_key in known:
      work[cell.generator] = known[generator_key]
  return work


def _keys(cell, workdir, layout):
  """What cells with the same work share, such as those that differ in their seeds.

  Args:
    cell: that is not finished.

  Returns:
    The key of its arm, and that of the generator that it waits for, or ''.
  """
  is_trained = arms_lib.finished_result(cell.directory(workdir) / 'arms' / cell.arm_name)
  of_generator = _unseeded(cell.generator_config)
  waits = cell.lacks_generator(workdir, layout)
  key = json.dumps([_unseeded(cell.config), of_generator, bool(is_trained), waits])
  return key, json.dumps(of_generator) if waits else ''


def _run_of(cell, workdir, layout):
  """The `runs.Run` of a cell and what is left out of it, see `_without_fit`."""
  session = Session(cell.config, cell.directory(workdir), layout, quiet=True)
  shared = None
  if cell.generator:
    directory = cells_lib.generator_workdir(workdir, cell.generator)
    shared = Session(cell.generator_config, directory, layout, quiet=True)
  return _without_fit(session, cells_lib.load_data(cell.config), shared)


def _unseeded(config):
  fields = config_lib.flatten(config).items() if config else ()
  return {name: value for name, value in fields if not name.endswith('seed')}


def _without_fit(session, dataset, generator_session=None):
  """A run and what is left out of it: a generator that is made at once, by any code.

  Noise takes the place of its images, which costs next to nothing.
  """
  config, left_out = session.config, ()
  if config_lib.asks_teacher(config):
    left_out = ('Not included: training the teacher.',)
  if not config_lib.needs_generator(config) or not (
    families.build_family(session, dataset.facts).fit
  ):
    return runs.Run(session, dataset, generator_session=generator_session), left_out
  config = config.copy_and_resolve_references()
  config.mix.source = 'noise'
  sentence = (
    f'Not included: making and drawing from generator.family={config.generator.family!r}.'
  )
  trial = dataclasses.replace(session, config=config)
  return runs.Run(trial, dataset), (*left_out, sentence)


class _Speed:
  """Seconds of trainings, by the first generator and the first arm, which are timed."""

  def __init__(self):
    self._timed, self._compiled = {}, set()

  def of_generator(self, generator, operations) -> float:
    """Seconds that trainings of a `GeneratorTraining` take.

    Args:
      generator: only what is left of it counts.
      operations: of its trainings.
    """
    saving = _SAVE_SECONDS * generator.num_left
    return self._seconds('generator', generator.training, operations) + saving

  def of_arm(self, arm, operations) -> float:
    """Seconds that the training of an `arms.Arm` takes.

    Args:
      arm: not finished, or its results are missing.
      operations: of the training.
    """
    training, config, dataset = arm.training_ahead(), arm.session.config, arm.dataset
    if not training:  # it is finished, and only its results are missing
      return _SAVE_SECONDS
    cadence = training.cadence
    num_evaluations = math.ceil(cadence.num_steps / cadence.eval_every) + 1
    images = num_evaluations * len(dataset.val) + len(dataset.train) + len(dataset.test)
    # Evaluating an image takes a third of training on it.
    steps = images / config.classifier.batch_size / 3
    operations *= 1 + steps / training.num_steps
    return self._seconds('arm', training, operations) + _SAVE_SECONDS

  def _seconds(self, kind, training, operations):
    """Seconds of the operations of a kind of training, and of compiling it once."""
    if kind not in self._timed:
      each = training.step_operations(training.stages[0])
      step_seconds, compiling = _time_unoptimized(training)
      if training.layout.on_cpu:
        step_seconds, compiling = step_seconds / _FASTER, compiling * _COMPILATION
      self._timed[kind] = step_seconds / max(each, 1.0), compiling
    per_operation, compiling = self._timed[kind]
    program = kind, operations / training.num_steps
    if program in self._compiled:
      compiling = 0.0
    self._compiled.add(program)
    return operations * per_operation + compiling


def _time_unoptimized(training):
  """Times a step that is compiled quickly, from a state of zeros; runs nothing else.

  Args:
    training: `frozen` may be shapes.

  Returns:
    Seconds of a step, and those that compilation took.
  """
  layout, count = training.layout, training.steps_per_call
  place = lambda x: layout.replicate(np.zeros(x.shape, x.dtype))
  state = training.with_pool(jax.tree.map(place, training.state))
  inputs = training.with_frozen(*jax.tree.map(place, training.frozen)).inputs(0, count)
  program, seconds = training.stages[0].program.unoptimized(), []
  compiling = program.compile(state, *inputs)
  for _ in range(1 + _NUM_CALLS):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(program(state, *inputs))
    seconds.append((time.perf_counter() - began) / count)
  return min(seconds[1:]), compiling
