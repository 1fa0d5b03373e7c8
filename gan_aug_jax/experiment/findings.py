"""What an ablation showed: the numbers of its report, from the files of its cells.

The best arm and the best control are chosen by the test accuracy that validation images
predict: their recall by class, weighted by the test images of the class. Test images are
used only once per cell, when it is trained.
"""

import dataclasses

import numpy as np

from gan_aug_jax.evaluation import statistics
from gan_aug_jax.experiment import finished as finished_lib

# Averaged over the seeds of an arm.
_MEANS = (
  *('val_accuracy', 'val_recall', 'val_loss', 'eval_f1', 'eval_precision'),
  *('eval_recall', 'eval_loss', 'eval_worst_recall', 'generalization_gap'),
  *('effective_ratio', 'asked_ratio', 'step_ms_median', 'train_seconds', 'num_steps'),
  'epoch',
)
_JUDGED, _CONTROLS = ('treatment', 'negative_control'), ('control', 'matched')
TREATED = (*_JUDGED, 'oracle')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How an arm is compared with one of its controls.

  Attributes:
    name: of the comparison in the arm's row of a summary.
    control: the field of `ablation.PlannedArm` that names the control.
    words: what is equal.
  """

  name: str
  control: str
  words: str


COMPARISONS = (
  Comparison('difference', 'same_steps', 'equal steps'),
  Comparison('exposure', 'same_exposure', 'equal exposure'),
  Comparison('compute', 'same_compute', 'at least equal operations'),
)


def summarize(plan, finished, failures) -> dict:
  """The findings of an ablation.

  Args:
    plan: content of ablation.json.
    finished: list of `finished.Finished`.
    failures: {cell name: why}.

  Returns:
    A JSON-serialisable dict: 'settings', a list of {'name', 'dataset', 'arms', 'best',
    'unadjusted_counts'}. An arm has the results of its seeds and, unless it is a control,
    one entry for each of `COMPARISONS`. 'best' compares the best arm with the best
    control, and in 'further_comparisons' with controls that also train on validation
    images or adjust their logits, and with training images that are drawn again.
    'unadjusted_counts' has the training images of each class if no control offsets their
    imbalance.
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
    setting = {'name': name, 'arms': rows, 'best': _best(rows, cells)}
    of_setting = [cell for seeds in cells.values() for cell in seeds.values()]
    setting['dataset'] = _datasets(of_setting)
    found.append(setting | {'unadjusted_counts': _unadjusted_counts(rows, cells)})
  # Of all that is planned, or what is finished first would be judged too easily.
  num_judged = sum(arm['role'] in _JUDGED for arm in plan['arms'])
  num_comparisons = len(settings) + num_judged
  _add_verdicts(found, num_comparisons)
  names = {about['name'] for about in plan['cells']}
  done = {cell.about['name'] for cell in finished}
  generators = [cell.results['generator'] for cell in finished]
  return {
    'dataset': _datasets(finished),
    'test_on': finished[0].results.get('test_on', 'test') if finished else '',
    'data_seed': plan['config']['data']['seed'],
    'seeds': sorted({about['seed'] for about in plan['cells']}),
    'control': plan['ablation']['control'],
    'num_cells': len(names),
    'num_finished': len(done),
    'missing': sorted(names - done - set(failures)),
    'failures': failures,
    'num_comparisons': num_comparisons,
    'generator_warnings': _generator_warnings(finished),
    'data_notes': _data_notes(plan, finished),
    'foreign': sorted({g['family'] for g in generators if g.get('foreign')}),
    'settings': found,
  }


def balance_may_help(train_counts, test_counts) -> bool:
  """Whether classes are imbalanced in training, but not in the test split."""
  return is_imbalanced(train_counts) and not is_imbalanced(test_counts)


def is_imbalanced(counts) -> bool:
  """Whether the rarest class has at most half as many images as the most common."""
  return 2 * min(counts) <= max(counts)


def _unadjusted_counts(rows, cells):
  """Training images of each class where no control offsets their imbalance; or None.

  None also if no treatment is finished, or if the test split is imbalanced, too.
  """
  controls = [cells[row['name']] for row in rows if row['role'] in _CONTROLS]
  treated = any(row['role'] == 'treatment' and row['num_seeds'] for row in rows)
  if not treated or any(map(_adjusts_logits, controls)):
    return None
  for cell in (cell for of_control in controls for cell in of_control.values()):
    counts = cell.results['train_counts']
    if balance_may_help(counts, cell.arm['per_class']['support']):
      return counts
  return None


def _adjusts_logits(cells):
  """Whether the cells of an arm, {seed: `finished.Finished`}, adjust their logits."""
  return any(cell.results.get('logit_adjustment') for cell in cells.values())


def _generator_warnings(finished):
  """{generator: {'cell': that uses it first, 'warnings': lines}} if there are any."""
  found = {}
  for cell in finished:
    if lines := cell.results['generator'].get('warnings'):
      about = {'cell': cell.about['name'], 'warnings': lines}
      found.setdefault(cell.about['generator'], about)
  return found


def _datasets(finished):
  """The names of the datasets that cells read: a grid may have several."""
  return ', '.join(dict.fromkeys(cell.results['dataset'] for cell in finished))


def _data_notes(plan, finished):
  """Those on each dataset of each setting, of the cell with the most of them.

  Counts in them differ with the seed.
  """
  setting_of, most = {arm['key']: arm['setting'] for arm in plan['arms']}, {}
  for cell in finished:
    data = cell.results['dataset'], setting_of[cell.about['arm']]
    notes = cell.results.get('data_notes', [])
    most[data] = max(most.get(data, []), notes, key=len)
  return list(dict.fromkeys(note for notes in most.values() for note in notes))


def _row(arm, cells):
  """The results of an arm over its seeds, and how it differs from its controls."""
  mine = cells[arm['name']]
  accuracies = {seed: cell.arm['eval_accuracy'] for seed, cell in mine.items()}
  row = {'name': arm['name'], 'role': arm['role'], 'fields': arm['fields']}
  row |= {'accuracy': accuracies, 'num_seeds': len(mine)}
  if not mine:
    return row
  mean = lambda values: float(np.mean(list(values)))
  row |= {field: mean(cell.arm[field] for cell in mine.values()) for field in _MEANS}
  row['expected_accuracy'] = mean(_expected_accuracy(cell.arm) for cell in mine.values())
  row['generator_seconds'] = mean(cell.generator_seconds for cell in mine.values())
  spread = statistics.paired_t(list(accuracies.values()))
  row |= {name: spread[name] for name in ('mean', 'sd', 'low', 'high')}
  if arm['role'] in TREATED:
    for comparison in COMPARISONS:
      if control := arm[comparison.control]:
        row[comparison.name] = _compare(mine, cells[control], control)
  return row


def _compare(treatment, control, name, *, same_labels=True):
  """Differences of test accuracy over the seeds that both have; None without any.

  Args:
    name: of the control.
    same_labels: whether both train on the same images.
  """
  seeds = sorted(set(treatment) & set(control))
  if not seeds:
    return None
  finished_lib.check_same_images(treatment, control, seeds, same_labels=same_labels)
  pairs = [(treatment[seed].arm, control[seed].arm) for seed in seeds]
  differences = [mine['eval_accuracy'] - other['eval_accuracy'] for mine, other in pairs]
  f1 = [
    np.subtract(mine['per_class']['f1'], other['per_class']['f1'])
    for mine, other in pairs
  ]
  right = (np.stack([arm[seed].right for seed in seeds]) for arm in (treatment, control))
  low, high = statistics.resample(*right)
  return {
    'control': name,
    'rare_recall': _compare_rare(treatment, control, seeds),
    'seeds': seeds,
    'differences': differences,
    **statistics.paired_t(differences),
    'resampled_low': low,
    'resampled_high': high,
    'f1': np.mean(f1, 0).tolist(),
  }


def _compare_rare(treatment, control, seeds):
  """Differences of the mean recall of the rarer half of the training set's classes.

  Classes without test images do not count. None where none of the rarer ones has any, or
  where the rarest class has more than half the images of the most common one.
  """
  differences = []
  for seed in seeds:
    counts = np.asarray(control[seed].results['train_counts'])
    if not is_imbalanced(counts):
      return None
    rare = np.argsort(counts, kind='stable')[: len(counts) // 2]
    rare = rare[np.asarray(control[seed].arm['per_class']['support'])[rare] > 0]
    if not len(rare):
      return None
    mine, other = (
      np.mean(np.asarray(cells[seed].arm['per_class']['recall'])[rare])
      for cells in (treatment, control)
    )
    differences.append(float(mine - other))
  return {'differences': differences, **statistics.paired_t(differences)}


def _best(rows, cells):
  """Compares the best treatment with the best control, both by validation images."""
  best = _best_row(rows, ('treatment',))
  control = _best_row(rows, _CONTROLS)
  if not (best and control):
    return None
  compare = lambda row: _compare(
    cells[best['name']],
    cells[row['name']],
    row['name'],
    same_labels=row['role'] != 'all_labels',
  )
  adjusts = lambda row: _adjusts_logits(cells[row['name']])
  further = [
    compare(row)
    for row in rows
    if row['role'] == 'all_labels'
    or row['name'] == 'train_copies'
    or (row['role'] == 'control' and adjusts(row) and not adjusts(control))
  ]
  compared = compare(control)
  return compared and compared | {
    'arm': best['name'],
    'further_comparisons': [other for other in further if other],
    'trials': sum(row['role'] == 'treatment' for row in rows),
    # A control that takes fewer steps than the arm is not a fair trial.
    'control_trials': sum(
      row['role'] in _CONTROLS and row.get('num_steps', 0) >= best['num_steps']
      for row in rows
    ),
  }


def _expected_accuracy(arm):
  """The test accuracy that validation images predict, for any balance of classes.

  Classes without validation images do not count. Older results lack the matrix.
  """
  if 'val_confusion_matrix' not in arm:
    return arm['val_recall']
  counts = np.asarray(arm['val_confusion_matrix'], float)
  totals, weights = counts.sum(1), np.asarray(arm['per_class']['support'], float)
  known = totals > 0
  recall = np.diag(counts)[known] / totals[known]
  return float(np.average(recall, weights=weights[known]))


def _best_row(rows, roles):
  """The row of the highest expected accuracy, among those with the most seeds.

  With few validation images many rows are equal; then the lowest loss decides.
  """
  rated = [row for row in rows if row['role'] in roles and row['num_seeds']]
  # With fewer seeds, a lucky one could win.
  most = max((row['num_seeds'] for row in rated), default=0)
  rated = [row for row in rated if row['num_seeds'] == most]
  rank = lambda row: (row['expected_accuracy'], -row['val_loss'])
  return max(rated, key=rank, default=None)


def _add_verdicts(settings, num_comparisons):
  """Adds verdicts, adjusted for the number of comparisons that are planned."""
  compared = []
  for setting in settings:
    compared += [
      row['difference']
      for row in setting['arms']
      if row['role'] in _JUDGED and row.get('difference')
    ]
    compared += [setting['best']] if setting['best'] else []
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
