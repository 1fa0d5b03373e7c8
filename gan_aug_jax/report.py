"""What happened, told from the files of a run: a terminal table and one HTML file.

Everything is read back from the working directory, so a report can be made again at any
time, and shows nothing that is not on disk.
"""

import base64
import importlib.resources
import math
import pathlib
import zipfile

import jinja2
import numpy as np
import rich.console
import rich.table

from gan_aug_jax import config as config_lib, loop, pictures
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.progress import format_seconds

# (field of an arm, heading, format)
_COLUMNS = (
  ('eval_accuracy', 'test accuracy', '{:.2%}'),
  ('eval_precision', 'precision', '{:.4f}'),
  ('eval_recall', 'recall', '{:.4f}'),
  ('eval_f1', 'F1', '{:.4f}'),
  ('eval_loss', 'test loss', '{:.4f}'),
  ('val_accuracy', 'val. accuracy', '{:.2%}'),
  ('generalization_gap', 'gap', '{:+.2%}'),
  ('effective_ratio', 'synthetic', '{:.1%}'),
  ('step_ms_median', 'ms a step', '{:.1f}'),
  ('train_seconds', 'training s', '{:.1f}'),
)
# (treatment, its control)
_PAIRS = (('augmented', 'real_only'), ('augmented_classical', 'real_classical'))


def print_table(results, file=None):
  """Prints the arms of results.json as a table on the terminal."""
  console = rich.console.Console(file=file)
  if not console.is_terminal:
    console.width = 140  # a log has no width to fit
  table = rich.table.Table(title=f'{results["dataset"]}, seed {results["seed"]}')
  table.add_column('arm', no_wrap=True)
  for _, heading, _ in _COLUMNS:
    table.add_column(heading, justify='right')
  for name, arm in results['arms'].items():
    table.add_row(name, *_cells(arm))
  console.print(table)
  for line in _costs(results):
    console.print(line, highlight=False, soft_wrap=True)


def print_scores(scores, file=None):
  """Prints {arm: {split: scores}} of `arms.evaluate_arms` as a table."""
  names = ('accuracy', 'precision', 'recall', 'f1', 'loss')
  table = rich.table.Table(rich.table.Column('arm', no_wrap=True), 'split', *names)
  for arm, splits in scores.items():
    for split, values in splits.items():
      table.add_row(arm, split, *(f'{values[name]:.4f}' for name in names))
  rich.console.Console(file=file).print(table)


def _cells(arm):
  return [template.format(arm[field]) for field, _, template in _COLUMNS]


def _costs(results):
  parts = []
  if results['gan']:
    parts.append(f'GAN {format_seconds(results["gan"]["train_seconds"])}')
  arms = sum(arm['train_seconds'] for arm in results['arms'].values())
  parts.append(f'classifiers {format_seconds(arms)}')
  total = format_seconds(results['total_seconds'])
  return [f'Training took: {", ".join(parts)}. With compilation and evaluation {total}.']


def compare(treatment, control, labels):
  """Paired comparison of two sets of predictions for the same images.

  Args:
    treatment, control: predicted classes int [N].
    labels: true classes int [N].

  Returns:
    Dict: 'difference' in accuracy, its 95 % interval ('low', 'high') over the choice of
    test images (Wald interval for paired proportions, Agresti 2013, 11.1.2), and the
    images that only one of the two got right ('gained', 'lost').
  """
  gained = int(np.sum((treatment == labels) & (control != labels)))
  lost = int(np.sum((treatment != labels) & (control == labels)))
  n = len(labels)
  difference = (gained - lost) / n
  error = math.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0)) / n
  return {
    'difference': difference,
    'low': difference - 1.96 * error,
    'high': difference + 1.96 * error,
    'gained': gained,
    'lost': lost,
  }


def _predictions(workdir, arm):
  path = pathlib.Path(workdir, 'arms', arm, 'predictions.npz')
  try:
    with np.load(path) as saved:
      return saved['test_predictions'], saved['test_labels']
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    raise CheckpointError(
      f'{str(path)!r} is missing or damaged; move it away and start the run again: it '
      'makes a new one from the checkpoint.'
    ) from None


def findings(workdir, results):
  """(verdict, paragraph) for each pair of arms with and without synthetic images."""
  lines = []
  for treatment, control in _PAIRS:
    if not {treatment, control} <= set(results['arms']):
      continue
    mine, labels = _predictions(workdir, treatment)
    paired = compare(mine, _predictions(workdir, control)[0], labels)
    arms = results['arms']
    before, after = arms[control], arms[treatment]
    if paired['low'] > 0:
      verdict = 'helped'
    elif paired['high'] < 0:
      verdict = 'hurt'
    else:
      verdict = 'no difference shown'
    slower = after['step_ms_median'] / before['step_ms_median'] - 1
    lines.append(
      (
        f'{treatment} against {control}: {verdict}.',
        f'With {after["effective_ratio"]:.0%} synthetic images the test accuracy is '
        f'{after["eval_accuracy"]:.2%}, without them {before["eval_accuracy"]:.2%}: '
        f'{100 * paired["difference"]:+.2f} points (95 % interval over the choice of '
        f'test images {100 * paired["low"]:+.2f} to {100 * paired["high"]:+.2f}; '
        f'{paired["gained"]} images gained, {paired["lost"]} lost). The median step took '
        f'{after["step_ms_median"]:.1f} ms against {before["step_ms_median"]:.1f} ms '
        f'({slower:+.0%}; the arms ran one after the other, so this is no benchmark).',
      )
    )
  return lines


def _series(rows, name):
  chosen = [(row['step'], row[name]) for row in rows if name in row]
  return tuple(zip(*chosen, strict=True)) if chosen else ((), ())


def _arm_curves(workdir, arms):
  panels = []
  for name, title in (
    ('val_accuracy', 'validation accuracy'),
    ('val_loss', 'validation loss'),
    ('loss', 'training loss (as trained)'),
  ):
    series = {}
    for arm in arms:
      rows = loop.read_metrics(pathlib.Path(workdir, 'arms', arm, 'metrics.jsonl'))
      series[arm] = _series(rows, name)
    panels.append((title, series))
  return pictures.curves(panels)


def _gan_curves(workdir):
  rows = loop.read_metrics(pathlib.Path(workdir, 'gan', 'metrics.jsonl'))
  panels = []
  for title, names in (
    ('GAN losses', ('discriminator_loss', 'generator_loss')),
    ('discriminator right on', ('real_accuracy', 'fake_accuracy')),
  ):
    panels.append((title, {name: _series(rows, name) for name in names}))
  return pictures.curves(panels)


def _changed_fields(config):
  defaults = config_lib.flatten(config_lib.default())
  fields = config_lib.flatten(config_lib.from_dict(config))
  return [(name, value, value != defaults[name]) for name, value in fields.items()]


def _per_class(results, class_names):
  arms = results['arms']
  return [
    (class_name, [arm['per_class']['f1'][i] for arm in arms.values()])
    for i, class_name in enumerate(class_names)
  ]


def render(workdir, run, results):
  """Writes report.html, one self-contained file.

  Args:
    workdir: directory of the run.
    run: content of config.json.
    results: content of results.json.

  Returns:
    The path of the report.
  """
  workdir = pathlib.Path(workdir)
  embedded = {
    'arm_curves': _arm_curves(workdir, results['arms']),
    'confusions': pictures.confusion_matrices(
      run['data']['class_names'],
      {name: arm['confusion_matrix'] for name, arm in results['arms'].items()},
    ),
  }
  if results['gan']:
    embedded['gan_curves'] = _gan_curves(workdir)
    samples = workdir / 'gan' / 'samples.png'
    if samples.exists():
      embedded['samples'] = samples.read_bytes()
  source = importlib.resources.files('gan_aug_jax').joinpath('report.html.j2').read_text()
  template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  html = template.from_string(source).render(
    run=run,
    results=results,
    headings=[heading for _, heading, _ in _COLUMNS],
    rows=[(name, _cells(arm)) for name, arm in results['arms'].items()],
    findings=findings(workdir, results),
    costs=_costs(results),
    images={name: base64.b64encode(png).decode() for name, png in embedded.items()},
    fields=_changed_fields(run['config']),
    per_class=_per_class(results, run['data']['class_names']),
  )
  path = workdir / 'report.html'
  loop.write_atomically(path, html)
  return path
