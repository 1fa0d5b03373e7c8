"""How long a run or an ablation takes, by a few steps of its generator and of one arm.

Only these two are compiled and timed. Other arms take as much longer as they have
operations (XLA's count), and evaluating an image a third of training on it.
"""

import dataclasses
import json
import math
import pathlib
import tempfile
import time

from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import arms as arms_lib, cells as cells_lib, dry_run, runs
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.training import spec
from gan_aug_jax.training.workdir import Session

# A rough figure for saving a training, and for what is compiled next to its step.
_OVERHEAD_SECONDS = 1.5


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that are left, with compilation, choice of checkpoints and evaluation.

  Attributes:
    arms: {cell or arm: seconds}, of those that are not finished.
    generators: {name: seconds} likewise.
  """

  arms: dict[str, float]
  generators: dict[str, float]


def of_run(session: Session, dataset) -> Estimate:
  """Estimates what is left of a run.

  Args:
    session: the run's.
    dataset: the data.
  """
  config, arms, generators = session.config, {}, {}
  with tempfile.TemporaryDirectory() as scratch:
    trial = dataclasses.replace(session, workdir=pathlib.Path(scratch), quiet=True)
    needed = config_lib.needs_generator(config)
    if needed and (left := GeneratorTraining(session, dataset).num_left):
      generators['generator'] = left * _GeneratorTimes().seconds(trial, dataset)
    times = _ArmTimes()
    for name in config.arms:
      if not arms_lib.finished_result(session.path('arms', name)):
        arms[name] = times.seconds(trial, dataset, name, key=name)
  return Estimate(arms, generators)


def of_ablation(plan) -> Estimate:
  """Estimates what is left of a `cells.Plan`."""
  cells = [cell for cell in plan.cells if not cell.is_finished(plan.workdir)]
  lacking = [cell for cell in reversed(cells) if cell.lacks_generator(plan.workdir)]
  arms, generators, arm_times = {}, {}, _ArmTimes()
  generator_times = _GeneratorTimes()
  with tempfile.TemporaryDirectory() as scratch:
    # The config is set for each step that is measured.
    session = Session(plan.config, pathlib.Path(scratch), plan.layout, quiet=True)
    for name, cell in {cell.generator: cell for cell in lacking}.items():
      trial = dataclasses.replace(session, config=cell.generator_config)
      dataset = cells_lib.load_data(cell.config)
      generators[name] = generator_times.seconds(trial, dataset)
    for cell in cells:
      trial = dataclasses.replace(session, config=cell.config)
      dataset = cells_lib.load_data(cell.config)
      key = json.dumps(cell.arm.fields, sort_keys=True)
      arms[cell.name] = arm_times.seconds(trial, dataset, cell.kind, key=key)
  return Estimate(arms, generators)


class _ArmTimes:
  """Times of arms, of which the first is measured."""

  def __init__(self):
    self._per_operation = self._compile_seconds = 0.0
    self._step_seconds = {}

  def seconds(self, session, dataset, name, *, key):
    """Of an arm; arms of one key take the same step, compiled once."""
    config = session.config.copy_and_resolve_references()
    total, compiling = runs.num_steps_of(config, dataset, name), 0.0
    if key not in self._step_seconds:
      config.filter.teacher_steps = 1
      trial = dataclasses.replace(session, config=config)
      began = time.perf_counter()
      step = dry_run.arm_step(trial, dataset, name, num_steps=total)
      operations, compiling = step.operations(), self._compile_seconds
      if not self._per_operation:
        step.compile()
        self._compile_seconds = compiling = time.perf_counter() - began
        self._per_operation = step.seconds() / operations
      self._step_seconds[key] = operations * self._per_operation
    each = self._step_seconds[key]
    cadence = spec.make_cadence(session.config, 'classifier', total)
    looks = math.ceil(total / cadence.eval_every) + 1
    num_images = looks * len(dataset.val) + len(dataset.train) + len(dataset.test)
    evaluating = num_images * each / session.config.classifier.batch_size / 3
    return total * each + evaluating + compiling + _OVERHEAD_SECONDS


class _GeneratorTimes:
  """Times of generators, each kind measured once; one made at once counts as nothing."""

  def __init__(self):
    self._measured = {}

  def seconds(self, session, dataset):
    """Of a generator; those that differ in seeds take the same step."""
    training = GeneratorTraining(session, dataset)
    fields = config_lib.flatten(session.config).items()
    key = tuple(item for item in fields if not item[0].endswith('seed'))
    if key not in self._measured:
      step = dry_run.generator_step(session, dataset) if training.num_steps else None
      scored = training.num_candidates > 1  # the only checkpoint is kept without a score
      candidate = dry_run.candidate_seconds(session, dataset) if scored else 0.0
      self._measured[key] = step.seconds() if step else 0.0, candidate
    step, candidate = self._measured[key]
    seconds = training.num_steps * step + training.num_candidates * candidate
    return seconds + _OVERHEAD_SECONDS
