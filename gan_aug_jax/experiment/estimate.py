"""How long an ablation will train, by a few steps of each kind."""

import dataclasses
import json
import pathlib
import tempfile

from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import cells as cells_lib, dry_run, runs
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.training.workdir import Session


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of training that are left, without compilation and evaluation.

  Attributes:
    cells: {cell name: seconds}, of cells that are not finished.
    generators: {generator name: seconds} likewise, with the choice of a checkpoint.
  """

  cells: dict[str, float]
  generators: dict[str, float]


def estimate(plan) -> Estimate:
  """Measures a few steps of every arm and generator of a `cells.Plan` still to train."""
  cells = [cell for cell in plan.cells if not cell.is_finished(plan.workdir)]
  lacking = [cell for cell in reversed(cells) if cell.lacks_generator(plan.workdir)]
  generators = {cell.generator: cell for cell in lacking}
  with tempfile.TemporaryDirectory() as scratch:
    # The config is set for each step that is measured.
    session = Session(plan.config, pathlib.Path(scratch), plan.layout, quiet=True)
    return Estimate(
      _arm_seconds(cells, session), _generator_seconds(generators.values(), session)
    )


def _arm_seconds(cells, session):
  """{cell name: seconds}; cells that differ in seed and length take the same step."""
  seconds, step_seconds = {}, {}
  for cell in cells:
    dataset, config = cells_lib.load_data(cell.config), cell.config
    total = runs.num_steps_of(config, dataset, cell.kind)
    key = json.dumps({**cell.arm.fields, 'classifier.num_steps': 0}, sort_keys=True)
    if key not in step_seconds:
      config = config.copy_and_resolve_references()
      config.filter.teacher_steps = 1
      session = dataclasses.replace(session, config=config)
      step = dry_run.arm_step(session, dataset, cell.kind, num_steps=total)
      step_seconds[key] = step.seconds()
    seconds[cell.name] = total * step_seconds[key]
  return seconds


def _generator_seconds(cells, session):
  """{generator name: seconds}; those that differ in seeds take the same step.

  One that is made at once counts as nothing.
  """
  seconds, measured = {}, {}
  for cell in cells:
    dataset, config = cells_lib.load_data(cell.config), cell.generator_config
    session = dataclasses.replace(session, config=config)
    generator = GeneratorTraining(session, dataset)
    fields = config_lib.flatten(config).items()
    key = tuple(item for item in fields if not item[0].endswith('seed'))
    if key not in measured:
      takes_steps = generator.num_steps > 0
      step = dry_run.generator_step(session, dataset).seconds() if takes_steps else 0.0
      scored = generator.num_candidates > 1  # the only checkpoint is kept without a score
      candidate = dry_run.candidate_seconds(session, dataset) if scored else 0.0
      measured[key] = step, candidate
    step, candidate = measured[key]
    seconds[cell.generator] = (
      generator.num_steps * step + generator.num_candidates * candidate
    )
  return seconds
