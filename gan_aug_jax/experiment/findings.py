"""What an ablation showed: the numbers behind its report, from the files of its cells.

Everything that is chosen (the best arm, the best control) is chosen by the mean recall of
the classes on validation images: accuracy, where classes are balanced. Test images are
looked at once a cell, when it is trained.
"""

import dataclasses

import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.evaluation import statistics
from gan_aug_jax.experiment import cells as cells_lib
from gan_aug_jax.training import files
from gan_aug_jax.training.files import read_json, read_result

# What a row of an arm averages over its seeds.
_MEANS = (
  'val_accuracy',
  'val_recall',
  'val_loss',
  'eval_f1',
  'eval_precision',
  'eval_recall',
  'eval_loss',
)
_MEANS += ('eval_worst_recall', 'generalization_gap', 'effective_ratio', 'asked_ratio')
_MEANS += ('step_ms_median', 'train_seconds', 'num_steps', 'epoch')
_JUDGED, _CONTROLS = ('treatment', 'placebo'), ('control', 'matched')
TREATED = (*_JUDGED, 'bound')
# What a row has: the field of an `ablation.Arm` that names what it is compared with, and
# what is equal then.
COMPARISONS = {
  'difference': ('same_steps', 'equal steps'),
  'exposure': ('same_exposure', 'equal exposure'),
  'compute': ('same_compute', 'at least equal operations'),
}


@dataclasses.dataclass(frozen=True)
class Finished:
  """A cell that was read.

  Attributes:
    about: its entry of ablation.json.
    results: content of results.json.
    right: bool [num_test], which test images it got right.
    gan_seconds: that its GAN took, with its compilation and choice.
  """

  about: dict
  results: dict
  right: np.ndarray
  gan_seconds: float

  @property
  def arm(self):
    return self.results['arms'][self.about['kind']]


def read_cells(workdir):
  """Reads an ablation's workdir.

  Returns:
    (content of ablation.json, [Finished], {cell name: why it failed}).

  Raises:
    CheckpointError: if ablation.json, or what a finished cell wrote, cannot be read.
  """
  plan = read_json(workdir / 'ablation.json', 'config', 'ablation', 'arms', 'cells')
  finished, failures = [], {}
  for about in plan['cells']:
    if cells_lib.is_finished(workdir, about):
      finished.append(_read_cell(workdir, about))
    elif why := cells_lib.failure(workdir, about['name']):
      failures[about['name']] = why
  return plan, finished, failures


def _read_cell(workdir, about):
  directory = workdir / 'cells' / about['name']
  results = read_json(directory / 'results.json', 'arms')
  path = directory / 'arms' / about['kind'] / 'predictions.npz'
  try:
    saved = files.read_arrays(path)
    right = saved['test_predictions'] == saved['test_labels']
  except (OSError, ValueError, KeyError):
    raise CheckpointError(
      f'{str(path)!r} is damaged; move {str(directory)!r} away and run again.'
    ) from None
  gan = results['gan']
  seconds = sum(gan.get(f'{part}_seconds', 0) for part in ('train', 'compile', 'eval'))
  return Finished(about, results, right, seconds)


def summarize(plan, finished, failures):
  """The findings of an ablation.

  Args:
    plan: content of ablation.json.
    finished: [Finished].
    failures: {cell name: why}.

  Returns:
    A JSON-serialisable dict: 'settings', a list of {'name', 'arms', 'best'}; an arm has
    what its seeds gave and, if it is no control, 'difference' to the control of as many
    steps, 'exposure' and 'compute' to the controls of as many real images and
    operations; 'best' compares the best arm with the best control, and in 'beside' with
    controls that train on validation images, too, and with replayed training images.
  """
  by_arm, settings = {}, {}
  for cell in finished:
    by_arm.setdefault(cell.about['arm'], {})[cell.about['seed']] = cell
  for arm in plan['arms']:
    settings.setdefault(arm['setting'], []).append(arm)
  found = []
  for name, arms in settings.items():
    cells = {arm['name']: by_arm.get(arm['key'], {}) for arm in arms}
    rows = [_row(arm, cells) for arm in arms]
    found.append({'name': name, 'arms': rows, 'best': _best(rows, cells)})
  # Of all that will be compared, or what is finished first would be judged too easily.
  num_comparisons = len(settings)
  num_comparisons += sum(arm['role'] in _JUDGED for arm in plan['arms'])
  _decide(found, num_comparisons)
  names = {about['name'] for about in plan['cells']}
  done = {cell.about['name'] for cell in finished}
  return {
    'dataset': finished[0].results['dataset'] if finished else '',
    'test_on': finished[0].results.get('test_on', 'test') if finished else '',
    'seeds': sorted({about['seed'] for about in plan['cells']}),
    'control': plan['ablation']['control'],
    'num_cells': len(names),
    'num_finished': len(done),
    'missing': sorted(names - done - set(failures)),
    'failures': failures,
    'num_comparisons': num_comparisons,
    'foreign': sorted(
      {
        cell.results['gan']['own']
        for cell in finished
        if cell.results['gan'].get('foreign')
      }
    ),
    'settings': found,
  }


def _row(arm, cells):
  """What the seeds of an arm gave, and how it differs from its controls."""
  mine = cells[arm['name']]
  accuracies = {seed: cell.arm['eval_accuracy'] for seed, cell in mine.items()}
  row = {'name': arm['name'], 'role': arm['role'], 'fields': arm['fields']}
  row |= {'accuracy': accuracies, 'num_seeds': len(mine)}
  if not mine:
    return row
  row |= {field: _mean(cell.arm[field] for cell in mine.values()) for field in _MEANS}
  row['gan_seconds'] = _mean(cell.gan_seconds for cell in mine.values())
  row |= _spread(list(accuracies.values()))
  if arm['role'] in TREATED:
    for name, (control, _) in COMPARISONS.items():
      if arm[control]:
        row[name] = _compare(mine, cells[arm[control]], arm[control])
  return row


def _mean(values):
  return float(np.mean(list(values)))


def _spread(values):
  """Mean, standard deviation and t-interval over seeds."""
  about = statistics.paired_t(values)
  return {name: about[name] for name in ('mean', 'sd', 'low', 'high')}


def _rare_recall(cell, of):
  """Mean test recall of the classes that are the rarer half in the training of `of`.

  None where its rarest class has more than half the images of its most common one.
  """
  counts = np.asarray(of.results['train_counts'])
  if 2 * counts.min() > counts.max():
    return None
  rare = np.argsort(counts, kind='stable')[: len(counts) // 2]
  return float(np.mean(np.asarray(cell.arm['per_class']['recall'])[rare]))


def _compare(treatment, control, name):
  """Differences of test accuracy over the seeds that both have; None with no seed."""
  seeds = sorted(set(treatment) & set(control))
  if not seeds:
    return None
  pairs = [(treatment[seed], control[seed]) for seed in seeds]
  differences = [
    mine.arm['eval_accuracy'] - theirs.arm['eval_accuracy'] for mine, theirs in pairs
  ]
  right = [np.stack([pair[i].right for pair in pairs]) for i in (0, 1)]
  low, high = statistics.resample(*right)
  f1 = [
    np.subtract(mine.arm['per_class']['f1'], theirs.arm['per_class']['f1'])
    for mine, theirs in pairs
  ]
  slower = [
    mine.arm['step_ms_median'] / theirs.arm['step_ms_median'] - 1
    for mine, theirs in pairs
  ]
  rare = [[_rare_recall(cell, pair[1]) for cell in pair] for pair in pairs]
  unequal = all(None not in pair for pair in rare)
  return {
    'control': name,
    'rare_recall': statistics.paired_t([a - b for a, b in rare]) if unequal else None,
    'seeds': seeds,
    'differences': differences,
    **statistics.paired_t(differences),
    'resampled_low': low,
    'resampled_high': high,
    'f1': np.mean(f1, 0).tolist(),
    'overhead': float(np.median(slower)),
  }


def _best(rows, cells):
  """The best treatment against the best control, both by validation images."""
  best = _first(row for row in rows if row['role'] == 'treatment')
  control = _first(row for row in rows if row['role'] in _CONTROLS)
  if not (best and control):
    return None
  compared = _compare(cells[best['name']], cells[control['name']], control['name'])
  # A control that takes fewer steps than the arm is no trial to find the best by.
  fair = [
    row
    for row in rows
    if row['role'] in _CONTROLS and row.get('num_steps', 0) >= best['num_steps']
  ]
  beside = [
    _compare(cells[best['name']], cells[row['name']], row['name'])
    for row in rows
    if row['role'] == 'all_labels' or row['name'] == 'replayed'
  ]
  return compared and compared | {
    'arm': best['name'],
    'beside': [other for other in beside if other],
    'trials': sum(row['role'] == 'treatment' for row in rows),
    'control_trials': len(fair),
  }


def _first(rows):
  """The row of the highest validation recall, among those of the most seeds.

  Few validation images make many equals; among them the lowest loss decides.
  """
  rated = [row for row in rows if row['num_seeds']]
  # Of fewer seeds, a lucky one could win.
  most = max((row['num_seeds'] for row in rated), default=0)
  rated = [row for row in rated if row['num_seeds'] == most]
  best = lambda row: (row['val_recall'], -row['val_loss'])
  return max(rated, key=best, default=None)


def _compared(settings):
  """Every comparison that gets a verdict."""
  for setting in settings:
    for row in setting['arms']:
      if row['role'] in _JUDGED and row.get('difference'):
        yield row['difference']
    if setting['best']:
      yield setting['best']


def _decide(settings, num_comparisons):
  """Adds verdicts, adjusted for how many there will be."""
  compared = list(_compared(settings))
  known = [row for row in compared if len(row['seeds']) >= 2]
  adjusted = statistics.holm([row['p'] for row in known], num_comparisons)
  for row in compared:
    row['adjusted_p'] = None
  for row, p in zip(known, adjusted, strict=True):
    row['adjusted_p'] = float(p)
  for row in compared:
    num_seeds = len(row['seeds'])
    row['verdict'] = statistics.verdict(row['mean'], row['adjusted_p'], num_seeds)
    row['detectable'] = statistics.detectable(row['sd'], num_seeds, num_comparisons)


def changed_fields(cell_config, base):
  """{field: value} in which a cell's saved config differs from the ablation's base."""
  restore = lambda values: config_lib.flatten(config_lib.from_dict(values))
  mine, theirs = restore(cell_config), restore(base)
  return {f: v for f, v in mine.items() if v != theirs[f] and f != 'duration'}


def scores_of(workdir, name):
  """What was measured of a GAN of the ablation when its checkpoint was chosen, or {}."""
  directory = workdir / 'gans' / name / 'gan'
  result = read_result(directory / 'result.json') or {}
  chosen = [
    row for row in result.get('candidates', []) if row['step'] == result['chosen_step']
  ]
  return chosen[0] if chosen else {}
