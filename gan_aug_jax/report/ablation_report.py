"""The report of an ablation: report.html, cells.csv and summary.json.

Made from the files of the cells, at any time, of what is finished.
"""

import csv
import io
import json
import math
import pathlib
from typing import Any

from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.experiment import cells, findings, finished as finished_lib
from gan_aug_jax.report import (
  ablation_figures,
  ablation_sentences,
  pages,
  sentences,
  tables,
)
from gan_aug_jax.training import files
from gan_aug_jax.training.progress import format_seconds
from gan_aug_jax.training.workdir import generator_directory

# name in cells.csv: field of a cell's arm
_CELL_FIELDS = {'test_accuracy': 'eval_accuracy'} | {
  field.removeprefix('eval_'): field
  for field in (
    *('val_accuracy', 'train_accuracy', 'eval_precision', 'eval_recall', 'eval_f1'),
    *('eval_worst_recall', 'generalization_gap', 'asked_ratio', 'effective_ratio'),
    *('num_steps', 'step_ms_median', 'train_seconds'),
  )
}


def write(workdir: pathlib.Path) -> tuple[dict[str, Any], pathlib.Path]:
  """Writes the report of what is finished in an ablation's workdir.

  Returns:
    (summary, path of report.html); see `findings.summarize`.

  Raises:
    CheckpointError: if no cell is finished, or a file cannot be read.
  """
  plan, finished, failures = finished_lib.read_cells(workdir)
  if not finished:
    failed = [f' The first failure, of {name}: {why}' for name, why in failures.items()]
    raise CheckpointError(
      f'No cell of the ablation in {str(workdir)!r} is finished; run the ablate command '
      f'that began it.{"".join(failed[:1])}'
    )
  summary = findings.summarize(plan, finished, failures)
  rows = _cell_rows(plan, finished, failures)
  content = json.dumps(_without_nan(summary), indent=1, allow_nan=False)
  files.write_atomically(workdir / 'summary.json', content)
  files.write_atomically(workdir / 'cells.csv', _csv(rows))
  path = workdir / 'report.html'
  files.write_atomically(path, _render(workdir, plan, finished, summary, rows))
  return summary, path


def _without_nan(value):
  """The same with None for NaN, which JSON does not have."""
  if isinstance(value, dict):
    return {name: _without_nan(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return [_without_nan(inner) for inner in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def _cell_rows(plan, finished, failures):
  """A dict for each cell, finished or not."""
  results = {cell.about['name']: cell for cell in finished}
  rows = []
  for about in plan['cells']:
    name = about['name']
    row = {'cell': name, **{f: about[f] for f in ('arm', 'seed', 'generator')}}
    row['status'] = 'failed' if name in failures else 'missing'
    values = dict.fromkeys(_CELL_FIELDS)
    values |= {'changed': '', 'device': '', 'versions': ''}
    if cell := results.get(name):
      row['status'] = 'finished'
      values |= {label: cell.arm[field] for label, field in _CELL_FIELDS.items()}
      changed = finished_lib.changed_fields(cell.run['config'], plan['config'])
      values['changed'] = ', '.join(f'{f}={v}' for f, v in changed.items())
      values['device'] = cell.arm['device']
      values['versions'] = ', '.join(f'{p} {v}' for p, v in cell.arm['versions'].items())
    rows.append(row | values)
  return rows


def _csv(rows):
  out = io.StringIO()
  writer = csv.DictWriter(out, rows[0])
  writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()


def _render(workdir, plan, finished, summary, rows):
  """The page as text."""
  images = _samples(workdir, plan) | _curve(plan, summary['settings'])
  settings = []
  for i, setting in enumerate(summary['settings']):
    for name, png in _plots(plan, setting, finished).items():
      images[f'{i} {name}'] = png
    treated = [row for row in setting['arms'] if row['role'] in findings.TREATED]
    settings.append(
      {
        'title': setting['name'],
        'sizes': _sizes(plan, setting, finished),
        'verdicts': ablation_sentences.verdicts(setting, summary['num_comparisons']),
        'short_rows': _rows(setting, tables.SHORT_ABLATION, treated),
        'rows': _rows(setting, tables.ABLATION, treated),
        'differences': [
          (
            row['name'],
            [
              ablation_sentences.difference(row.get(c.name)) for c in findings.COMPARISONS
            ],
          )
          for row in treated
        ],
      }
    )
  return pages.render(
    'ablation.html.j2',
    config=plan['config'],
    images=images,
    summary=summary,
    plan=plan,
    warnings=[
      *ablation_sentences.warnings(summary),
      *ablation_sentences.of_generators(summary),
    ],
    intervals=ablation_sentences.INTERVALS,
    settings=settings,
    arms=_arms(workdir, finished, images),
    short_headings=tables.headings(tables.SHORT_ABLATION),
    headings=tables.headings(tables.ABLATION),
    comparisons=[comparison.words for comparison in findings.COMPARISONS],
    generators=_generators(workdir, finished),
    cells=rows,
    seconds=format_seconds(_seconds(finished)),
  )


def _rows(setting, fields, treated):
  arms = setting['arms']
  return [(row['name'], tables.cells(row, fields), row in treated) for row in arms]


def _arms(workdir, finished, images):
  """{arm: what it trains on} by the first finished cell of each; adds their batches."""
  lines = {}
  for cell in finished:
    name, kind = cell.about['arm'], cell.about['kind']
    if name not in lines:
      directory = workdir / 'cells' / cell.about['name']
      lines[name] = sentences.arms(cell.run['config'], cell.results)[kind]
      if (path := directory / 'arms' / kind / 'batch.png').exists():
        images[f'batch {name}'] = path.read_bytes()
  return lines


def _seconds(finished):
  """Training time of all cells, and of each generator once."""
  each = {cell.about['generator']: cell.generator_seconds for cell in finished}
  return sum(cell.arm['train_seconds'] for cell in finished) + sum(each.values())


def _plots(plan, setting, finished):
  """{name: PNG} of a setting, or {} before an arm and its control are finished."""
  by_arm = {}
  for arm in plan['arms']:
    if arm['setting'] == setting['name']:
      by_arm[arm['name']] = [c for c in finished if c.about['arm'] == arm['key']]
  rows = [row for row in setting['arms'] if row.get('difference')]
  if not rows:
    return {}
  data = by_arm[rows[0]['name']][0].run['data']
  return ablation_figures.draw(setting, by_arm, data['class_names'])


def _sizes(plan, setting, finished):
  """How many images the first finished cell of a setting has; '' without any."""
  keys = {arm['key'] for arm in plan['arms'] if arm['setting'] == setting['name']}
  runs = [cell.run for cell in finished if cell.about['arm'] in keys]
  return sentences.images_of(runs[0]['data']) if runs else ''


def _curve(plan, settings):
  """{'curve ARM': PNG} if the grid is one field with numbers as values, or {}."""
  (field, values), *others = [*plan['ablation']['grid'].items()] or [('', ())]
  numbers = all(type(value) in (int, float) for value in values)  # no bool
  # No number on the axis is right for a budget of 0, which means all images.
  has_all = field == 'data.label_budget' and 0 in values
  if others or len(values) < 2 or not numbers or has_all:
    return {}
  return ablation_figures.draw_curve(settings, field, values)


def _generators(workdir, finished):
  """Headings and rows of what each generator scored at the step that is drawn from."""
  first = {}
  for cell in finished:
    if name := cell.about['generator']:
      drawn = tuple(cell.results['generator'].get('members', ()))
      first.setdefault((name, drawn), cell)
  scores = {key: finished_lib.scores_of(workdir, *key) for key in first}
  fields = list(dict.fromkeys(field for row in scores.values() for field in row))
  rows = []
  for key, cell in first.items():
    values = [_format(scores[key][f]) if f in scores[key] else 'n/a' for f in fields]
    rows.append((cell.about['name'], [*values, f'{cell.generator_seconds:.0f}', key[0]]))
  return {'headings': ['first used by', *fields, 'seconds', 'directory'], 'rows': rows}


def _format(score):
  return f'{score:,}' if isinstance(score, int) else f'{score:.4g}'


def _samples(workdir, plan):
  """{'generator of CELL': PNG} of samples of the first seed, three at most."""
  seed, found = next((about['seed'] for about in plan['cells']), None), {}
  for about in plan['cells']:
    name = about['generator']
    directory = generator_directory(cells.generator_workdir(workdir, name))
    path = directory / 'samples.png'
    if name and about['seed'] == seed and path.exists() and len(found) < 3:
      found.setdefault(name, (f'generator of {about["name"]}', path.read_bytes()))
  return dict(found.values())
