"""The columns of all tables, and the tables on the terminal."""

from collections.abc import Collection, Mapping, Sequence
import math

import rich.console
import rich.table

from gan_aug_jax.experiment.estimate import Estimate
from gan_aug_jax.report import ablation_sentences, run_sentences, sentences
from gan_aug_jax.training.progress import format_count, format_seconds

# field: (heading, format)
_COLUMNS = {
  'num_seeds': ('seeds', '{}'),
  'eval_accuracy': ('test accuracy', '{:.2%}'),
  'mean': ('test accuracy', '{:.2%}'),
  'sd': ('sd over seeds', '{:.2%}'),
  'val_accuracy': ('val. accuracy', '{:.2%}'),
  'eval_precision': ('precision', '{:.4f}'),
  'eval_recall': ('recall', '{:.4f}'),
  'eval_f1': ('F1', '{:.4f}'),
  'eval_worst_recall': ('worst class', '{:.1%}'),
  'eval_loss': ('test loss', '{:.4f}'),
  'generalization_gap': ('gap', '{:+z.2%}'),
  'effective_ratio': ('synthetic', '{:.1%}'),
  'num_steps': ('steps', '{:,.0f}'),
  'epoch': ('epochs of real', '{:.1f}'),
  'step_ms_median': ('ms/step', '{:.1f}'),
  'train_seconds': ('training s', '{:.1f}'),
  # Of generators.
  'frechet': ('Fréchet', '{:.2f}'),
  'kernel': ('kernel', '{:z.4f}'),
  'precision': ('precision', '{:.3f}'),
  'recall': ('recall', '{:.3f}'),
  'density': ('density', '{:.3f}'),
  'coverage': ('coverage', '{:.3f}'),
  'cas': ('CAS', '{:.2%}'),
  'gan_test': ('GAN-test', '{:.2%}'),
  'memorised': ('memorised', '{:.1%}'),
  'duplicates': ('duplicates', '{:.1%}'),
}
_MEANS = ('eval_precision', 'eval_recall', 'eval_f1', 'eval_worst_recall')
_END = ('step_ms_median', 'train_seconds')
RUN = ('eval_accuracy', *_MEANS, 'eval_loss', 'val_accuracy', 'generalization_gap')
RUN += ('effective_ratio', *_END)
ABLATION = ('num_seeds', 'mean', 'sd', 'val_accuracy', *_MEANS, 'generalization_gap')
ABLATION += ('effective_ratio', 'num_steps', 'epoch', *_END)
SCORES = ('frechet', 'kernel', 'precision', 'recall', 'density', 'coverage', 'cas')
SCORES += ('gan_test', 'memorised', 'duplicates')
# What comes first; the pages have everything.
SHORT_RUN = ('eval_accuracy', 'eval_f1', 'generalization_gap', 'effective_ratio')
SHORT_ABLATION = ('num_seeds', 'mean', 'sd', 'effective_ratio')
_STYLES = {'helps': 'bold green', 'hurts': 'bold red'}


def headings(fields: Sequence[str]) -> list[str]:
  """What the columns of these fields are called."""
  return [_COLUMNS[field][0] for field in fields]


def cells(row: Mapping, fields: Sequence[str]) -> list[str]:
  """Formats some fields of a row.

  Args:
    row: {field: number}; a field that is missing, None or NaN is shown as 'n/a'.
  """
  known = [field for field in fields if not _is_missing(row.get(field))]
  texts = {field: _COLUMNS[field][1].format(row[field]) for field in known}
  texts = {field: text.replace('%', ' %') for field, text in texts.items()}
  return [texts.get(field, 'n/a') for field in fields]


def score_rows(scores: Mapping) -> list[tuple[str, list[str]]]:
  """(name, cells of `SCORES`) of each set of images in scores.json."""
  rows = []
  for name, row in scores['rows'].items():
    fewer = row['count'] != scores['num_generated']
    label = f'{name} ({row["count"]:,} only)' if fewer else name
    rows.append((label, cells({**row, **(row['copies'] or {})}, SCORES)))
  return rows


def print_results(results: Mapping, findings: Collection[sentences.Finding] = ()) -> None:
  """Prints the verdicts of a run, then the arms of results.json.

  Args:
    findings: from `run_report.findings`.
  """
  print_warnings(run_sentences.warnings(results))
  _print_findings(findings)
  if findings:
    print_lines([run_sentences.ONE_SEED])
  title = f'{results["dataset"]}, seed {results["seed"]}'
  _print_arms(title, results['arms'], SHORT_RUN)
  print_lines([run_sentences.costs(results)])


def print_lines(lines: Sequence[str], style: str | None = None) -> None:
  """Prints lines, broken between words on a terminal and whole elsewhere.

  Args:
    lines: of text, without line breaks.
    style: of rich, such as "bold".
  """
  console = _console()
  for line in lines:
    whole = not console.is_terminal
    console.print(line, style=style, highlight=False, soft_wrap=whole)


def print_warnings(lines: Sequence[str]) -> None:
  """Prints lines that nobody should miss, in red on a terminal."""
  print_lines(lines, style='red')


def print_evaluations(scores: Mapping[str, Mapping]) -> None:
  """Prints {arm: {split: {metric: value}}}, as `evaluate.evaluate_arms` returns it."""
  names = ('accuracy', 'precision', 'recall', 'f1', 'loss')
  rows = [
    (arm, [split, *(f'{values[name]:.4f}' for name in names)])
    for arm, splits in scores.items()
    for split, values in splits.items()
  ]
  _print_table('', ('arm', 'split', *names), rows)


def print_scores(scores: Mapping) -> None:
  """Prints score/scores.json, the scores of generators."""
  title = f'{scores["dataset"]}: quality of the generators'
  _print_table(title, ('images', *headings(SCORES)), score_rows(scores))
  print_lines(run_sentences.of_scores(scores))


def print_summary(summary: Mapping) -> None:
  """Prints the arms and verdicts of an ablation, from `findings.summarize`."""
  print_warnings(ablation_sentences.of_generators(summary))
  for setting in summary['settings']:
    dataset = setting.get('dataset', summary['dataset'])
    title = ', '.join(filter(None, (dataset, setting['name'])))
    _print_findings(ablation_sentences.verdicts(setting, summary['num_comparisons']))
    _print_arms(title, {row['name']: row for row in setting['arms']}, SHORT_ABLATION)
  print_lines(
    [ablation_sentences.INTERVALS_IN_SHORT, *ablation_sentences.status(summary)]
  )


def print_plan(planned: Sequence, estimate: Estimate) -> None:
  """Prints the arms of a plan and how long the unfinished ones will train.

  Args:
    planned: the `cells.Cell`s of a plan.
  """
  seconds, by_arm = estimate.arms, {}
  for cell in planned:
    by_arm.setdefault(cell.arm.key, []).append(cell)
  rows = []
  for several in by_arm.values():
    arm = several[0].arm
    left = [seconds[cell.name] for cell in several if cell.name in seconds]
    changes = ', '.join(f'{f}={v}' for f, v in arm.fields.items() if f != 'arms')
    seeds = ', '.join(str(cell.seed) for cell in several)
    each = format_seconds(sum(left) / len(left)) if left else 'finished'
    texts = [arm.setting, arm.role, changes, seeds, str(len(left)), each]
    rows.append((arm.name, texts))
  columns = ('arm', 'setting', 'role', 'changes', 'seeds', 'left', 'time of each')
  _print_table(format_count(len(planned), 'cell'), columns, rows, justify='left')
  print_estimate(estimate)


def print_estimate(estimate: Estimate) -> None:
  """Prints how long what is left will take."""
  counted = {'classifier': estimate.arms, 'generator': estimate.generators}
  parts = [
    f'{format_count(len(seconds), noun)} {format_seconds(sum(seconds.values()))}'
    for noun, seconds in counted.items()
    if seconds
  ]
  print_lines(
    [
      f'Left: about {format_seconds(estimate.total)}{": " * bool(parts)}'
      f'{", ".join(parts)}. A rough estimate, from operations and the time of two '
      'unoptimized steps; it includes compilation, the choice of checkpoints and '
      'evaluation.',
      *estimate.left_out,
    ]
  )


def _is_missing(value):
  return value is None or (isinstance(value, float) and math.isnan(value))


def _console():
  console = rich.console.Console(markup=False)
  if not console.is_terminal:
    console.width = 200  # a log has no width to fit
  return console


def _print_findings(findings):
  for finding in findings:
    print_lines([finding.headline], style=_STYLES.get(finding.verdict, 'bold'))
    print_lines([finding.detail] if finding.detail else [])


def _print_arms(title, arms, fields):
  rows = [(name, cells(arm, fields)) for name, arm in arms.items()]
  _print_table(title, ('arm', *headings(fields)), rows)


def _print_table(title, columns, rows, justify='right'):
  table = rich.table.Table(title=title or None)
  table.add_column(columns[0], no_wrap=True)
  for heading in columns[1:]:
    table.add_column(heading, justify=justify)
  for name, texts in rows:
    table.add_row(name, *texts)
  _console().print(table)
