"""The finished cells of an ablation, read from their files."""

import dataclasses

import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.experiment import cells as cells_lib
from gan_aug_jax.training import loop
from gan_aug_jax.training.files import read_json, read_json_or_none
from gan_aug_jax.training.workdir import (
  generator_directory,
  read_predictions,
  read_results,
  SPLITS,
)


@dataclasses.dataclass(frozen=True)
class Finished:
  """The results of a finished cell.

  Attributes:
    about: its entry in ablation.json.
    run: content of config.json.
    results: content of results.json.
    right: bool [num_test], which test images it got right.
    generator_seconds: that its generator took, with compilation and choice; of the whole
      training, whichever step of it the cell draws from.
  """

  about: dict
  run: dict
  results: dict
  right: np.ndarray
  generator_seconds: float

  @property
  def arm(self):
    """The results of its arm."""
    return self.results['arms'][self.about['kind']]


def read_cells(workdir) -> tuple[dict, list[Finished], dict[str, str]]:
  """Reads an ablation's workdir.

  Returns:
    `(content of ablation.json, finished cells, {cell name: why it failed})`.

  Raises:
    CheckpointError: if ablation.json or the files of a finished cell cannot be read.
  """
  plan = read_json(workdir / 'ablation.json', 'config', 'ablation', 'arms', 'cells')
  older = {'placebo': 'negative_control', 'bound': 'oracle'}
  for arm in plan['arms']:
    arm['role'] = older.get(arm['role'], arm['role'])
  finished, failures = [], {}
  for about in plan['cells']:
    name = about['name']
    about.setdefault('generator', about.pop('gan', ''))
    if cells_lib.is_finished(workdir, name, about['kind']):
      finished.append(_read_cell(workdir, about))
    elif why := cells_lib.failure(workdir, name):
      failures[name] = why
  return plan, finished, failures


def _read_cell(workdir, about):
  directory = workdir / 'cells' / about['name']
  run = read_json(directory / 'config.json', 'config', 'data')
  results = read_results(directory)
  predictions, labels = read_predictions(directory / 'arms' / about['kind'])
  seconds = sum(results['generator'].get(name, 0) for name in loop.SECONDS)
  return Finished(about, run, results, predictions == labels, seconds)


def check_same_images(treatment, control, seeds, *, same_labels: bool) -> None:
  """Checks that cells which are compared were trained and evaluated on the same images.

  Args:
    treatment, control: {seed: `Finished`}.
    seeds: that both have.
    same_labels: whether both train on the same images.

  Raises:
    CheckpointError: if the data have changed in between.
  """
  cells = []
  for seed in seeds:
    pair = [treatment[seed], control[seed]]
    for field in SPLITS:
      if same_labels or field != 'fingerprint':
        _refuse_different(pair, field)
    cells += pair
  # Training and validation images differ with the seed, which draws them.
  if all(cell.results.get('test_on', 'test') == 'test' for cell in cells):
    _refuse_different(cells, 'test_fingerprint')


def _refuse_different(cells, field):
  """Refuses cells that differ in a field of `SPLITS`; older versions left it out."""
  first = None
  for cell in (cell for cell in cells if cell.arm.get(field)):
    first = first or cell
    if cell.arm[field] != first.arm[field]:
      raise CheckpointError(
        f'The cells {first.about["name"]!r} and {cell.about["name"]!r} had different '
        f'{SPLITS[field]} images: the data have changed in between; move the older one '
        'away and run again.'
      )


def changed_fields(config, base) -> dict:
  """{field: value} of a cell's saved config that differ from the ablation's base.

  Args:
    config: dict in the cell's config.json.
    base: dict in ablation.json.
  """
  restore = lambda values: config_lib.flatten(config_lib.from_dict(values))
  mine, theirs = restore(config), restore(base)
  return {f: v for f, v in mine.items() if v != theirs[f] and f != 'expected_duration'}


def scores_of(workdir, name, drawn=()) -> dict:
  """The scores of the checkpoint of a generator that is drawn from, or {}.

  Args:
    drawn: names of what is drawn from, see `frozen.Member`; of several, or of none, the
      scores are those of the chosen checkpoint.
  """
  directory = generator_directory(cells_lib.generator_workdir(workdir, name))
  info = read_json_or_none(directory / 'result.json') or {}
  rows = drawn_candidates(info, drawn if len(drawn) == 1 else ())
  return rows[0] if rows else {}


def drawn_candidates(info, drawn=()) -> list[dict]:
  """The scores of the checkpoints of a generator that are drawn from.

  Args:
    info: its result.json.
    drawn: names of what is drawn from, see `frozen.Member`; without any, the chosen
      checkpoint is.
  """
  steps = [int(name.rpartition(' ')[2]) for name in drawn] or [info.get('chosen_step')]
  return [row for row in info.get('candidates', []) if row['step'] in steps]
