"""The plots of an ablation's report, from its findings."""

from collections.abc import Mapping, Sequence

import numpy as np

from gan_aug_jax.evaluation import figures, statistics
from gan_aug_jax.experiment import findings, finished as finished_lib
from gan_aug_jax.report import ablation_sentences

_UNIT = 'difference in test accuracy, points'


def draw(
  setting: Mapping,
  cells: Mapping[str, Sequence[finished_lib.Finished]],
  class_names: Sequence[str],
) -> dict[str, bytes]:
  """Draws the results at one point of the grid.

  Args:
    setting: of `findings.summarize`, with at least one comparison.

  Returns:
    {name: PNG bytes}: 'answer', 'accuracy', 'forest', 'f1'; and of the best arm and the
    best control 'confusion NAME' and 'confusion changes'.
  """
  rows = [row for row in setting['arms'] if row['num_seeds']]
  treated = [row for row in rows if row.get('difference')]
  f1 = [row['difference']['f1'] for row in treated]
  images = {
    'answer': answer(setting),
    'accuracy': _accuracy(rows, treated),
    'forest': figures.intervals(_differences(treated), 'all comparisons', unit=_UNIT),
    'f1': figures.changes(
      'F1 by class, minus its control', [row['name'] for row in treated], class_names, f1
    ),
  }
  if setting['best']:
    images |= _confusions(setting['best'], cells, class_names)
  return images


def answer(setting: Mapping) -> bytes:
  """Draws the gain of the best arm, and of every arm, each over its control: PNG.

  Args:
    setting: of `findings.summarize`, with at least one comparison.
  """
  treated = [row for row in setting['arms'] if row.get('difference')]
  rows = _answers(setting, treated)
  return figures.intervals(rows, 'gain over real images', unit=_UNIT)


def draw_curve(
  settings: Sequence[Mapping], field: str, values: Sequence[float]
) -> dict[str, bytes]:
  """Draws how each arm differs from its control along a grid of one field.

  Args:
    settings: of `findings.summarize`, one for each value.

  Returns:
    {'curve ARM': PNG bytes} of the arms that are finished at two values or more.
  """
  lines = {}
  for value, setting in zip(values, settings, strict=True):
    for row in setting['arms']:
      if row.get('difference'):
        lines.setdefault(row['name'], {})[value] = row['difference']
  missing = {'mean': np.nan, 'low': np.nan, 'high': np.nan, 'differences': []}
  lines = {
    name: [_interval('', line.get(value, missing), '') for value in values]
    for name, line in lines.items()
    if len(line) > 1
  }
  rows = [row for line in lines.values() for row in line]
  ends = [end for row in rows for end in (row.low, row.high, *row.singles)]
  if not np.any(np.isfinite(ends)):
    return {}
  low, high = np.nanmin([*ends, 0]), np.nanmax([*ends, 0])
  margin = 0.05 * (high - low)
  return {
    f'curve {name}': figures.along(
      figures.Line(
        *([getattr(row, end) for row in line] for end in ('mean', 'low', 'high')),
        singles=[row.singles for row in line],
        band=(0, 0, 0),
      ),
      name,
      x=values,
      x_name=field,
      unit=_UNIT,
      y_range=(low - margin, high + margin),
    )
    for name, line in lines.items()
  }


def _interval(label, paired, kind):
  ends = _ends(paired, len(paired['differences']))
  return figures.Interval(label, paired['mean'], *ends, paired['differences'], kind)


def _ends(row, num_seeds):
  """Of an interval; NaN where two seeds would give a very wide one."""
  if num_seeds < statistics.MIN_SEEDS or row['low'] is None:
    return np.nan, np.nan
  return row['low'], row['high']


def _answers(setting, treated):
  """The best arm, then every arm, each with its control at equal steps."""
  rows, best = [], setting['best']
  if best:
    label = f'best arm: {best["arm"]} vs. {best["control"]}'
    rows.append(_interval(label, best, best['verdict']))
  for row in treated:
    paired, verdict = row['difference'], ablation_sentences.verdict_of(row)
    rows.append(_interval(f'{row["name"]} vs. {paired["control"]}', paired, verdict))
  return rows


def _differences(treated):
  """Each arm with each of its controls."""
  rows = []
  for row in treated:
    seen = set()
    for comparison in findings.COMPARISONS:
      paired = row.get(comparison.name)
      if paired and paired['control'] not in seen:
        seen.add(paired['control'])
        rows.append(_interval(f'{row["name"]}, {comparison.words}', paired, ''))
  return rows


def _accuracy(rows, treated):
  """Test accuracies, along the ratio if the treatments differ in nothing else.

  Then the band is their control at equal steps, which they must have in common.
  """
  arms = [row for row in treated if row['role'] == 'treatment']
  others = [{f: v for f, v in row['fields'].items() if f != 'mix.ratio'} for row in arms]
  ratios = [row['effective_ratio'] for row in arms]
  controls = {row['difference']['control'] for row in arms}
  title = 'test accuracy'
  only_ratios = all(other == others[0] for other in others) and len(controls) == 1
  if only_ratios and len(set(ratios)) == len(ratios) > 1:
    (control,) = (row for row in rows if row['name'] in controls)
    ends = np.nan_to_num(_ends(control, control['num_seeds']), nan=control['mean'])
    line = figures.Line(
      [row['mean'] for row in arms],
      *zip(*(_ends(row, row['num_seeds']) for row in arms), strict=True),
      singles=[list(row['accuracy'].values()) for row in arms],
      band=(ends[0], control['mean'], ends[1]),
    )
    title = f'{title}; the band is {control["name"]}'
    return figures.along(line, title, x=ratios, x_name='share of synthetic images')
  return figures.intervals(
    [
      figures.Interval(
        row['name'],
        row['mean'],
        *_ends(row, row['num_seeds']),
        list(row['accuracy'].values()),
        'plain' if row in treated else '',
      )
      for row in rows
    ],
    title,
  )


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
  images = {
    f'confusion {name}': figures.confusion_matrix(name, class_names, counts)
    for name, counts in totals.items()
  }
  images['confusion changes'] = figures.changes(
    f'{best["arm"]} minus {best["control"]}',
    class_names,
    class_names,
    change,
    unit='test images',
    scale=1,
  )
  return images
