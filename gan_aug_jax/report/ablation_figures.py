"""The plots of an ablation's report, from its findings."""

from collections.abc import Mapping, Sequence

import numpy as np

from gan_aug_jax.evaluation import figures
from gan_aug_jax.experiment import findings


def draw(
  setting: Mapping,
  control: str,
  cells: Mapping[str, Sequence[findings.Finished]],
  class_names: Sequence[str],
) -> dict[str, bytes]:
  """Draws the results at one point of the grid.

  Args:
    setting: of `findings.summarize`, with at least one comparison.
    control: name of the control to show as a band.
    cells: the finished cells of each arm.
    class_names: one per class.

  Returns:
    {name: PNG bytes}: 'accuracy', 'forest', 'cost', 'f1'; and of the best arm and the
    best control 'confusions' and 'confusion_changes'.
  """
  rows = [row for row in setting['arms'] if row['num_seeds']]
  treated = [row for row in rows if row.get('difference')]
  control = next((row for row in rows if row['name'] == control), None)
  f1 = [row['difference']['f1'] for row in treated]
  images = {
    'accuracy': _accuracy(rows, treated, control),
    'forest': figures.forest(_differences(treated, setting['best'])),
    'cost': _cost(treated),
    'f1': figures.changes([row['name'] for row in treated], class_names, f1),
  }
  if setting['best']:
    images |= _confusions(setting['best'], cells, class_names)
  return images


def draw_curve(
  settings: Sequence[Mapping], field: str, values: Sequence[float]
) -> dict[str, bytes]:
  """Draws how each arm differs from its control along a grid of one field.

  Args:
    settings: of `findings.summarize`, one for each value.
    field: its name.
    values: of the field.

  Returns:
    {'curve': PNG bytes}; empty if no arm is finished at two values.
  """
  lines = {}
  for value, setting in zip(values, settings, strict=True):
    for row in setting['arms']:
      if row.get('difference'):
        lines.setdefault(row['name'], {})[value] = row['difference']
  missing = {'mean': np.nan, 'low': np.nan, 'high': np.nan, 'differences': []}
  panels = {}
  for name, line in lines.items():
    if len(line) > 1:
      rows = [line.get(value, missing) for value in values]
      panels[name] = figures.Points(
        *([row[field] for row in rows] for field in ('mean', 'low', 'high')),
        seeds=[row['differences'] for row in rows],
        band=(0, 0, 0),
      )
  if not panels:
    return {}
  image = figures.dots(
    panels, labels=values, x=values, x_name=field, y_name='difference', same_y=True
  )
  return {'curve': image}


def _differences(treated, best):
  """(label, comparison) of the best arm, then of each arm with each of its controls."""
  rows = []
  if best:
    rows.append((f'best: {best["arm"]} vs. {best["control"]}', best))
  for row in treated:
    seen = set()
    for comparison in findings.COMPARISONS:
      paired = row.get(comparison.name)
      if paired and paired['control'] not in seen:
        seen.add(paired['control'])
        rows.append((f'{row["name"]}, {comparison.words}', paired))
  return rows


def _along_ratio(treated, rows):
  """What to show: treatments along their ratios if only these differ, or all rows.

  Args:
    treated: rows of the arms that are no controls.
    rows: to show otherwise.

  Returns:
    (treatments, their ratios), or (rows, None).
  """
  arms = [row for row in treated if row['role'] == 'treatment']
  others = [{f: v for f, v in row['fields'].items() if f != 'mix.ratio'} for row in arms]
  ratios = [row['effective_ratio'] for row in arms]
  alike = all(other == others[0] for other in others)
  if alike and len(set(ratios)) == len(ratios) > 1:
    return arms, ratios
  return rows, None


def _accuracy(rows, treated, control):
  """Accuracies and gap, along the ratio or of every arm."""
  shown, ratios = _along_ratio(treated, rows)
  panels = {}
  for title, field in (
    ('test accuracy', 'mean'),
    ('validation accuracy', 'val_accuracy'),
    ('generalization gap', 'generalization_gap'),
  ):
    spread = field == 'mean'
    band = None
    if control:
      mean = control[field]
      ends = (control['low'], control['high']) if spread else (mean, mean)
      low, high = np.nan_to_num(ends, nan=mean)
      band = (low, mean, high)
    panels[title] = figures.Points(
      [row[field] for row in shown],
      low=[row['low'] for row in shown] if spread else None,
      high=[row['high'] for row in shown] if spread else None,
      seeds=[list(row['accuracy'].values()) for row in shown] if spread else (),
      band=band,
    )
  return _dots(panels, shown, ratios)


def _cost(treated):
  """Training times of the classifier alone, and with its generator."""
  shown, ratios = _along_ratio(treated, treated)
  arms = [row['train_seconds'] for row in shown]
  total = [row['train_seconds'] + row['generator_seconds'] for row in shown]
  panels = {
    'classifier, seconds': figures.Points(arms, percent=False),
    'with the generator, seconds': figures.Points(total, percent=False),
  }
  return _dots(panels, shown, ratios)


def _dots(panels, shown, ratios):
  names = [row['name'] for row in shown]
  return figures.dots(panels, labels=names, x=ratios, x_name='synthetic images')


def _confusions(best, cells, class_names):
  """Confusion matrices of the best arm and the best control over all seeds."""
  totals = {
    name: sum(
      np.asarray(cell.arm['confusion_matrix'])
      for cell in cells[name]
      if cell.about['seed'] in best['seeds']
    )
    for name in (best['arm'], best['control'])
  }
  change = totals[best['arm']] - totals[best['control']]
  return {
    'confusions': figures.confusion_matrices(class_names, totals),
    'confusion_changes': figures.changes(
      class_names, class_names, change, unit='test images', scale=1
    ),
  }
