"""The plots of an ablation's report, from its findings."""

import numpy as np

from gan_aug_jax.evaluation import figures
from gan_aug_jax.experiment import findings


def draw(setting, control, cells, class_names):
  """Draws what one point of the grid showed.

  Args:
    setting: of `findings.summarize`, with a comparison at least.
    control: name of the control that is drawn as a band.
    cells: {name of an arm: [findings.Finished]}.
    class_names: one a class.

  Returns:
    {name: PNG bytes}: 'accuracy', 'forest', 'cost', 'f1', and of the best arm and the
    best control 'confusions' and 'confusion_changes'.
  """
  rows = [row for row in setting['arms'] if row['num_seeds']]
  treated = [row for row in rows if row.get('difference')]
  control = next((row for row in rows if row['name'] == control), None)
  images = {
    'accuracy': _accuracy(rows, treated, control),
    'forest': figures.forest(_differences(treated, setting['best'])),
    'cost': _cost(treated),
    'f1': figures.changes(
      [row['name'] for row in treated],
      class_names,
      [row['difference']['f1'] for row in treated],
    ),
  }
  if setting['best']:
    images |= _confusions(setting['best'], cells, class_names)
  return images


def draw_curve(settings, field, values):
  """Draws the differences of each arm to its control along a grid of one field.

  Args:
    settings: of `findings.summarize`, one for each value.
    field: name of it.
    values: numbers.

  Returns:
    {'curve': PNG bytes}; empty where no arm is finished at two values.
  """
  lines = {}
  for value, setting in zip(values, settings, strict=True):
    for row in setting['arms']:
      if row.get('difference'):
        lines.setdefault(row['name'], []).append((value, row['difference']))
  panels = {
    name: {
      'x': [value for value, _ in line],
      'values': [row['mean'] for _, row in line],
      'low': [row['low'] for _, row in line],
      'high': [row['high'] for _, row in line],
      'seeds': [row['differences'] for _, row in line],
      'band': (0, 0, 0),
    }
    for name, line in lines.items()
    if len(line) > 1
  }
  if not panels:
    return {}
  image = figures.dots(
    panels, labels=values, x=values, x_name=field, y_name='difference', same_y=True
  )
  return {'curve': image}


def _differences(treated, best):
  """(label, comparison) of each arm, with each control that is another, best first."""
  rows = []
  if best:
    rows.append((f'best: {best["arm"]} against {best["control"]}', best))
  for row in treated:
    seen = set()
    for comparison in findings.COMPARISONS:
      paired = row.get(comparison.name)
      if paired and paired['control'] not in seen:
        seen.add(paired['control'])
        rows.append((f'{row["name"]}, {comparison.words}', paired))
  return rows


def _along(treated, rows):
  """What a plot shows, and along which ratios where the arms differ in nothing else.

  Args:
    treated: rows of treatments and placebos.
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
  """Accuracy and gap: against the ratio where that is what differs, or of every arm."""
  shown, ratios = _along(treated, rows)
  panels = {}
  for title, field in (
    ('test accuracy', 'accuracy'),
    ('validation accuracy', 'val_accuracy'),
    ('generalization gap', 'generalization_gap'),
  ):
    spread = field == 'accuracy'
    values = [row['mean' if spread else field] for row in shown]
    panel = {
      'values': values,
      'low': [row['low'] for row in shown] if spread else values,
      'high': [row['high'] for row in shown] if spread else values,
      'seeds': [list(row['accuracy'].values()) for row in shown] if spread else [],
      'band': None,
    }
    if control:
      mean = control['mean' if spread else field]
      ends = (control['low'], control['high']) if spread else (mean, mean)
      panel['band'] = (np.nan_to_num(ends[0], nan=mean), mean)
      panel['band'] += (np.nan_to_num(ends[1], nan=mean),)
    panels[title] = panel
  return figures.dots(
    panels, labels=[row['name'] for row in shown], x=ratios, x_name='synthetic images'
  )


def _cost(treated):
  """How much longer a step takes, and the training with its GAN."""
  shown, ratios = _along(treated, treated)
  overhead = [row['difference']['overhead'] for row in shown]
  arms = [row['train_seconds'] for row in shown]
  panels = {
    'step time against the control': {'values': overhead},
    'training of the classifier, s': {'values': arms, 'percent': False},
    'with the GAN, s': {
      'values': [row['train_seconds'] + row['gan_seconds'] for row in shown],
      'percent': False,
    },
  }
  for panel in panels.values():
    panel['low'] = panel['high'] = panel['values']
  return figures.dots(
    panels, labels=[row['name'] for row in shown], x=ratios, x_name='synthetic images'
  )


def _confusions(best, cells, class_names):
  """Confusion of the best arm and the best control over all seeds, and the difference."""
  total = lambda name: np.sum(
    [
      cell.arm['confusion_matrix']
      for cell in cells[name]
      if cell.about['seed'] in best['seeds']
    ],
    0,
  )
  mine, theirs = total(best['arm']), total(best['control'])
  matrices = {best['arm']: mine, best['control']: theirs}
  return {
    'confusions': figures.confusion_matrices(class_names, matrices),
    'confusion_changes': figures.changes(
      class_names, class_names, mine - theirs, unit='test images', scale=1
    ),
  }
