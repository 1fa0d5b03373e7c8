"""The report of an ablation: report.html, report.md, cells.csv and summary.json.

Everything is read back from the cells, so it can be made at any time, of whatever is
finished.
"""

import csv
import html
import io
import itertools
import json
import math

import rich.console
import rich.table

from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.experiment import findings
from gan_aug_jax.report import ablation_figures, run_report
from gan_aug_jax.training import loop
from gan_aug_jax.training.progress import format_seconds
from gan_aug_jax.training.workdir import read_json

_FOREIGN = (
  'is a foreign generator, which may have seen test images or more labels than the runs: '
  'what its arms show is no evidence.'
)
# (field of an arm's row, heading, format)
_COLUMNS = (
  ('num_seeds', 'seeds', '{}'),
  ('mean', 'test accuracy', '{:.2%}'),
  ('sd', 'sd over seeds', '{:.2%}'),
  ('val_accuracy', 'val. accuracy', '{:.2%}'),
  ('eval_precision', 'precision', '{:.4f}'),
  ('eval_recall', 'recall', '{:.4f}'),
  ('eval_f1', 'F1', '{:.4f}'),
  ('eval_worst_recall', 'worst class', '{:.1%}'),
  ('generalization_gap', 'gap', '{:+.2%}'),
  ('effective_ratio', 'synthetic', '{:.1%}'),
  ('num_steps', 'steps', '{:,.0f}'),
  ('epoch', 'epochs of real', '{:.1f}'),
  ('step_ms_median', 'ms a step', '{:.1f}'),
  ('train_seconds', 'training s', '{:.1f}'),
)
_ON_TERMINAL = ('seeds', 'test accuracy', 'sd over seeds', 'val. accuracy', 'F1', 'gap')
_ON_TERMINAL += ('synthetic', 'steps', 'ms a step', 'training s')
_WHEN_NARROW = ('seeds', 'test accuracy', 'val. accuracy', 'synthetic')
# (field of a cell's arm, its name in cells.csv)
_CELL_FIELDS = (
  ('eval_accuracy', 'test_accuracy'),
  ('val_accuracy', 'val_accuracy'),
  ('train_accuracy', 'train_accuracy'),
  ('eval_precision', 'precision'),
  ('eval_recall', 'recall'),
  ('eval_f1', 'f1'),
  ('eval_worst_recall', 'worst_recall'),
  ('generalization_gap', 'generalization_gap'),
  ('asked_ratio', 'asked_ratio'),
  ('effective_ratio', 'effective_ratio'),
  ('num_steps', 'num_steps'),
  ('step_ms_median', 'step_ms_median'),
  ('train_seconds', 'train_seconds'),
)
_EXPLAINED = (
  'Intervals in brackets are of 95 %, by paired t over the seeds; the second one '
  'resamples seeds and test images together. A seed sets the subset, the GAN and the '
  'classifier, its initialisation and order, the same for every arm. Verdicts are '
  'adjusted for their number by the procedure of Holm; the smallest effect is what would '
  'have been found in four of five such ablations. What is best was chosen by the mean '
  'recall of the classes on validation images, among equals by the loss. Of few seeds '
  'the resampled interval is too narrow: go by the other.'
)


def write(workdir):
  """Writes the report of what is finished.

  Returns:
    (summary, path of report.html).

  Raises:
    CheckpointError: if no cell is finished, or what is there cannot be read.
  """
  plan, finished, failures = findings.read_cells(workdir)
  if not finished:
    raise CheckpointError(f'No cell of the ablation in {str(workdir)!r} is finished yet.')
  summary = findings.summarize(plan, finished, failures)
  rows = _cell_rows(workdir, plan, finished, failures)
  content = json.dumps(_without_nan(summary), indent=1, allow_nan=False)
  loop.write_atomically(workdir / 'summary.json', content)
  loop.write_atomically(workdir / 'cells.csv', _csv(rows))
  loop.write_atomically(workdir / 'report.md', _markdown(summary))
  path = workdir / 'report.html'
  loop.write_atomically(path, _html(workdir, plan, finished, summary, rows))
  return summary, path


def _without_nan(value):
  """The same with None for NaN, which JSON does not have."""
  if isinstance(value, dict):
    return {name: _without_nan(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return [_without_nan(inner) for inner in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def print_summary(summary, file=None):
  """Prints the verdicts and the arms."""
  console = rich.console.Console(file=file, markup=False)
  if not console.is_terminal:
    console.width = 160
  headings = _ON_TERMINAL if console.width >= 140 else _WHEN_NARROW
  shown = [heading in headings for _, heading, _ in _COLUMNS]
  for setting in summary['settings']:
    table = rich.table.Table(title=_title(summary, setting))
    table.add_column('arm', no_wrap=True)
    for _, heading, _ in itertools.compress(_COLUMNS, shown):
      table.add_column(heading, justify='right')
    for row in setting['arms']:
      table.add_row(row['name'], *itertools.compress(_cells(row), shown))
    console.print(table)
    for _, verdict, sentence in verdicts(setting, summary):
      console.print(f'{verdict} {sentence}', highlight=False, soft_wrap=True)
  for line in (_EXPLAINED, *status(summary)):
    console.print(line, highlight=False, soft_wrap=True)


def print_plan(cells, estimate, file=None):
  """Prints the arms of a plan and how long what is left of them will train.

  Args:
    cells: of a `cells.Plan`.
    estimate: the `estimate.Estimate` of those that are not finished.
    file: to print to.
  """
  console = rich.console.Console(file=file, markup=False)
  if not console.is_terminal:
    console.width = 140
  table = rich.table.Table(title=f'{len(cells)} cells')
  for heading in ('setting', 'arm', 'role', 'changes', 'seeds', 'left', 'each'):
    table.add_column(heading, no_wrap=heading == 'arm')
  by_arm = {}
  for cell in cells:
    by_arm.setdefault(cell.arm.key, []).append(cell)
  for several in by_arm.values():
    arm = several[0].arm
    left = [estimate.cells[c.name] for c in several if c.name in estimate.cells]
    fields = {f: v for f, v in arm.fields.items() if f != 'arms'}
    changes = ', '.join(f'{f}={v}' for f, v in fields.items())
    seeds = ', '.join(str(cell.seed) for cell in several)
    each = format_seconds(left[0]) if left else 'finished'
    table.add_row(arm.setting, arm.name, arm.role, changes, seeds, str(len(left)), each)
  console.print(table)
  of_cells, of_gans = sum(estimate.cells.values()), sum(estimate.gans.values())
  console.print(
    f'To train: {len(estimate.cells)} classifiers, {format_seconds(of_cells)}, and '
    f'{len(estimate.gans)} GANs, {format_seconds(of_gans)}; '
    f'{format_seconds(of_cells + of_gans)} together, by a few steps of each, with the '
    'choice of checkpoints, without compilation and evaluation.',
    highlight=False,
    soft_wrap=True,
  )


def status(summary):
  """Sentences on what is finished, failed and missing."""
  lines = [f'{summary["num_finished"]} of {summary["num_cells"]} cells are finished.']
  if summary['missing']:
    lines[0] += ' What is said above is provisional.'
  lines += [f'Failed: {name}: {why}' for name, why in summary['failures'].items()]
  return lines + _warnings(summary)


def _warnings(summary):
  """Sentences on why a result is no evidence."""
  lines = [f'{name} {_FOREIGN}' for name in summary['foreign']]
  return lines + ([run_report.SEARCH] if summary['test_on'] == 'val' else [])


def _title(summary, setting):
  return ', '.join(filter(None, (summary['dataset'], setting['name'])))


def _cells(row):
  return [
    template.format(row[field]) if _known(row.get(field)) else 'n/a'
    for field, _, template in _COLUMNS
  ]


def _known(value):
  return value is not None and not math.isnan(value)


def _points(row, low='low', high='high'):
  if not _known(row[low]):
    return 'no interval'
  return f'{100 * row[low]:+.2f} to {100 * row[high]:+.2f}'


def _describe(row):
  """'+0.31 points (+0.02 to +0.60; seeds and images together +0.01 to +0.75)'."""
  return (
    f'{100 * row["mean"]:+.2f} points ({_points(row)}; seeds and images together '
    f'{_points(row, "resampled_low", "resampled_high")}{_rare(row)})'
  )


def _rare(row):
  """'; recall of the rarer half of the classes +2.1 points (+0.4 to +3.8)', if known."""
  rare = row['rare_recall']
  if not rare:
    return ''
  return (
    f'; mean recall of the rarer half of the classes {100 * rare["mean"]:+.2f} points '
    f'({_points(rare)})'
  )


def verdicts(setting, summary):
  """(kind, verdict, sentence) of the best arm and then of every arm."""
  lines = []
  if best := setting['best']:
    fewer = ''
    if best['control_trials'] < best['trials']:
      fewer = (
        ' The control had fewer trials, which favours synthesis: add some as '
        'ablation.controls.'
      )
    lines.append(
      (
        best['verdict'],
        f'The best arm, {best["arm"]}, against the best control, {best["control"]}: '
        f'{best["verdict"]}.',
        f'{_describe(best)}. Chosen on validation images from {best["trials"]} arms '
        f'and {best["control_trials"]} controls.{fewer}{_beside(best)}'
        f'{_power(best, summary)}',
      )
    )
  for row in setting['arms']:
    if row.get('difference'):
      paired = row['difference']
      others = [
        f'at {comparison.words} ({other["control"]}) {_describe(other)}'
        for comparison in findings.COMPARISONS
        if (other := row.get(comparison.name)) and other['control'] != paired['control']
      ]
      beside = f' Beside it: {"; ".join(others)}.' if others else ''
      if row['role'] == 'bound':
        about = f'{row["name"]}, a bound, against {paired["control"]}.'
        lines.append(('bound', about, f'{_describe(paired)} at equal steps.{beside}'))
        continue
      lines.append(
        (
          paired['verdict'],
          f'{row["name"]} against {paired["control"]}: {paired["verdict"]}.',
          f'{_describe(paired)} at equal steps.{beside}{_power(paired, summary)}',
        )
      )
  return lines


def _beside(best):
  others = [f'against {other["control"]} {_describe(other)}' for other in best['beside']]
  return f' Beside it: {"; ".join(others)}.' if others else ''


def _power(row, summary):
  if row['adjusted_p'] is None:
    return ''
  smallest = ''
  if _known(row['detectable']):
    points = 100 * row['detectable']
    smallest = f'; smallest effect that could have been shown {points:.2f} points'
  return (
    f' Adjusted p {row["adjusted_p"]:.2g} of {summary["num_comparisons"]} comparisons '
    f'over {len(row["seeds"])} seeds{smallest}.'
  )


def _cell_rows(workdir, plan, finished, failures):
  """A dict for each cell, finished or not."""
  results = {cell.about['name']: cell for cell in finished}
  rows = []
  for about in plan['cells']:
    name = about['name']
    row = {'cell': name, 'arm': about['arm'], 'seed': about['seed'], 'gan': about['gan']}
    row['status'] = 'failed' if name in failures else 'missing'
    values = dict.fromkeys(label for _, label in _CELL_FIELDS)
    values |= {'changed': '', 'device': '', 'versions': ''}
    if cell := results.get(name):
      row['status'] = 'finished'
      values |= {label: cell.arm[field] for field, label in _CELL_FIELDS}
      config = read_json(workdir / 'cells' / name / 'config.json', 'config')['config']
      changed = findings.changed_fields(config, plan['config'])
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


def _markdown(summary):
  parts = [f'# Does generative augmentation help on {_escaped(summary["dataset"])}?']
  for setting in summary['settings']:
    if setting['name']:
      parts.append(f'## {_escaped(setting["name"])}')
    parts += [
      f'- **{_escaped(verdict)}** {_escaped(sentence)}'
      for _, verdict, sentence in verdicts(setting, summary)
    ]
    heads = ['arm', *(heading for _, heading, _ in _COLUMNS)]
    table = [heads, ['---'] * len(heads)]
    table += [[_escaped(row['name']), *_cells(row)] for row in setting['arms']]
    parts.append('\n'.join(f'| {" | ".join(cells)} |' for cells in table))
  parts += [_EXPLAINED, _escaped(' '.join(status(summary)))]
  return '\n\n'.join(parts) + '\n'


def _escaped(text):
  """Text as Markdown shows it: no HTML, no cells of a table, no lines of its own."""
  return html.escape(' '.join(text.split()), quote=False).replace('|', '\\|')


def _html(workdir, plan, finished, summary, rows):
  settings = [
    {
      'title': setting['name'],
      'verdicts': verdicts(setting, summary),
      'rows': [(row['name'], row['role'], _cells(row)) for row in setting['arms']],
      'differences': [
        (row['name'], [_difference(row.get(c.name)) for c in findings.COMPARISONS])
        for row in setting['arms']
        if row['role'] in findings.TREATED
      ],
      'images': run_report.embed(_plots(workdir, plan, setting, finished)),
    }
    for setting in summary['settings']
  ]
  return run_report.load_template('ablation.html.j2').render(
    summary=summary,
    warnings=_warnings(summary),
    curve=run_report.embed(_curve(plan, summary)),
    explained=_EXPLAINED,
    settings=settings,
    treated=findings.TREATED,
    headings=[heading for _, heading, _ in _COLUMNS],
    kinds=[comparison.words for comparison in findings.COMPARISONS],
    gans=_gans(workdir, finished),
    samples=run_report.embed(_samples(workdir, plan)),
    cells=rows,
    versions=plan['versions'],
    device=plan['device'],
    fields=run_report.changed_fields(plan['config']),
    seconds=format_seconds(_seconds(finished)),
  )


def _difference(row):
  """'+0.31 (+0.02 to +0.60) to real_classical'."""
  if not row:
    return 'n/a'
  return f'{100 * row["mean"]:+.2f} ({_points(row)}) to {row["control"]}'


def _seconds(finished):
  """Training of all cells, and of each GAN once."""
  gans = {cell.about['gan']: cell.gan_seconds for cell in finished}
  return sum(cell.arm['train_seconds'] for cell in finished) + sum(gans.values())


def _plots(workdir, plan, setting, finished):
  """{name: PNG} of a setting of which an arm and its control are finished; or {}."""
  cells = {}
  for arm in plan['arms']:
    if arm['setting'] == setting['name']:
      cells[arm['name']] = [c for c in finished if c.about['arm'] == arm['key']]
  rows = [row for row in setting['arms'] if row.get('difference')]
  if not rows:
    return {}
  first = cells[rows[0]['name']][0].about['name']
  data = read_json(workdir / 'cells' / first / 'config.json', 'data')['data']
  control = plan['ablation']['control']
  return ablation_figures.draw(setting, control, cells, data['class_names'])


def _curve(plan, summary):
  """{'curve': PNG} where the grid is one field of numbers, or {}."""
  (field, values), *others = [*plan['ablation']['grid'].items()] or [('', ())]
  numbers = all(isinstance(value, int | float) for value in values)
  if others or len(values) < 2 or not numbers:
    return {}
  return ablation_figures.draw_curve(summary['settings'], field, values)


def _gans(workdir, finished):
  """Headings and rows of what the generators were worth when they were chosen."""
  first = {}
  for cell in finished:
    first.setdefault(cell.about['gan'], cell)
  rows, names = [], []
  for name, cell in first.items():
    if not name:
      continue
    scores = findings.scores_of(workdir, name)
    names = names or list(scores)
    values = [f'{scores.get(field, math.nan):.4g}' for field in names]
    rows.append([name, cell.about['name'], *values, f'{cell.gan_seconds:.0f}'])
  return {'headings': ['GAN', 'first drawn from by', *names, 'seconds'], 'rows': rows}


def _samples(workdir, plan):
  """{name: PNG} of the samples of the first GANs of the first seed, three at the most."""
  found = {}
  for about in plan['cells']:
    path = workdir / 'gans' / about['gan'] / 'gan' / 'samples.png'
    if about['gan'] and about['seed'] == plan['cells'][0]['seed'] and path.exists():
      found.setdefault(about['gan'], path.read_bytes())
  return dict(list(found.items())[:3])
