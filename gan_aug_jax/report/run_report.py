"""What happened, told from the files of a run: a terminal table and one HTML file.

Everything is read back from the working directory, so a report can be made again at any
time, and shows nothing that is not on disk.
"""

import base64
import itertools
import json
import math
import pathlib

import jinja2
import rich.console
import rich.table

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.evaluation import figures, statistics
from gan_aug_jax.training import files
from gan_aug_jax.training.progress import format_seconds

# (field of an arm, heading, format)
_COLUMNS = (
  ('eval_accuracy', 'test accuracy', '{:.2%}'),
  ('eval_precision', 'precision', '{:.4f}'),
  ('eval_recall', 'recall', '{:.4f}'),
  ('eval_f1', 'F1', '{:.4f}'),
  ('eval_worst_recall', 'worst class', '{:.1%}'),
  ('eval_loss', 'test loss', '{:.4f}'),
  ('val_accuracy', 'val. accuracy', '{:.2%}'),
  ('generalization_gap', 'gap', '{:+.2%}'),
  ('effective_ratio', 'synthetic', '{:.1%}'),
  ('step_ms_median', 'ms a step', '{:.1f}'),
  ('train_seconds', 'training s', '{:.1f}'),
)
# What a terminal shows that has no room for all of them; the report has them.
_WIDTH = 150
_WHEN_NARROW = ('test accuracy', 'F1', 'gap', 'synthetic', 'ms a step')
# (treatment, its control)
_PAIRS = (('augmented', 'real_only'), ('augmented_classical', 'real_classical'))


def print_table(results, file=None):
  """Prints the arms of results.json as a table on the terminal."""
  console = rich.console.Console(file=file, markup=False)
  if not console.is_terminal:
    console.width = 170  # a log has no width to fit
  table = rich.table.Table(title=f'{results["dataset"]}, seed {results["seed"]}')
  table.add_column('arm', no_wrap=True)
  narrow = console.width < _WIDTH
  shown = [not narrow or heading in _WHEN_NARROW for _, heading, _ in _COLUMNS]
  for _, heading, _ in itertools.compress(_COLUMNS, shown):
    table.add_column(heading, justify='right')
  for name, arm in results['arms'].items():
    table.add_row(name, *itertools.compress(_cells(arm), shown))
  console.print(table)
  told = (*_costs(results), *_caveats(results), _foreign(results['gan']))
  for line in filter(None, told):
    console.print(line, highlight=False, soft_wrap=True)


def print_scores(scores, file=None):
  """Prints {arm: {split: scores}} of `arms.evaluate_arms` as a table."""
  names = ('accuracy', 'precision', 'recall', 'f1', 'loss')
  table = rich.table.Table(rich.table.Column('arm', no_wrap=True), 'split', *names)
  for arm, splits in scores.items():
    for split, values in splits.items():
      table.add_row(arm, split, *(f'{values[name]:.4f}' for name in names))
  rich.console.Console(file=file, markup=False).print(table)


# (field of a generator's scores, heading, format)
_SCORES = (
  ('frechet', 'Fréchet', '{:.2f}'),
  ('kernel', 'kernel', '{:.4f}'),
  ('precision', 'precision', '{:.3f}'),
  ('recall', 'recall', '{:.3f}'),
  ('density', 'density', '{:.3f}'),
  ('coverage', 'coverage', '{:.3f}'),
  ('cas', 'CAS', '{:.2%}'),
  ('gan_test', 'GAN-test', '{:.2%}'),
  ('memorised', 'memorised', '{:.1%}'),
  ('duplicates', 'duplicates', '{:.1%}'),
)


def _score_rows(scores):
  """(name, cells) of each set of images; those of another size say it."""
  rows = []
  for name, row in scores['rows'].items():
    fewer = row['count'] != scores['num_generated']
    values = {**row, **(row['copies'] or {})}
    cells = [
      template.format(values[field]) if field in values else 'n/a'
      for field, _, template in _SCORES
    ]
    rows.append((f'{name} ({row["count"]:,} only)' if fewer else name, cells))
  return rows


def print_generators(scores, file=None):
  """Prints the content of score/scores.json as a table."""
  console = rich.console.Console(file=file, markup=False)
  if not console.is_terminal:
    console.width = 160
  table = rich.table.Table(title=f'{scores["dataset"]}: what the generators are worth')
  table.add_column('images', no_wrap=True)
  for _, heading, _ in _SCORES:
    table.add_column(heading, justify='right')
  for name, cells in _score_rows(scores):
    table.add_row(name, *cells)
  console.print(table)
  for line in score_notes(scores):
    console.print(line, highlight=False, soft_wrap=True)


def score_notes(scores):
  """Sentences that say what the scores are, and what they warn of."""
  extractor = scores['extractor']
  notes = [
    f'{scores["num_generated"]:,} images against {scores["num_held_out"]:,} real ones '
    f'that the generators did not train on ({scores["num_train"]:,} they did), by an '
    f'extractor of our own: accuracy {extractor["accuracy"]:.2%}, hash '
    f'{extractor["hash"]}. Real training images are the ceiling, noise is the floor; of '
    'fewer images all but CAS and GAN-test come out worse. '
    'CAS: accuracy on real images of a classifier trained on these alone. GAN-test: '
    'share that a classifier trained on real images gives the label asked for.'
  ]
  if scores['held_out_chose']:
    notes.append(
      'There is no label budget, so these real images are the validation split, by which '
      'the checkpoint was chosen: CAS flatters a little.'
    )
  for name, row in scores['rows'].items():
    if name == 'noise' or not row['copies']:
      continue
    copies = row['copies']
    if copies['memorised'] > 0.1:
      notes.append(
        f'{name}: {copies["memorised"]:.0%} lie closer to a training image than the '
        'closest 1 % of fresh real ones: it copies its training set.'
      )
    if copies['duplicates'] > 0.1:
      notes.append(
        f'{name}: {copies["duplicates"]:.0%} lie closer to another generated image than '
        'the closest 1 % of real ones to one another: it repeats itself.'
      )
  return notes


def _cells(arm):
  return [template.format(arm[field]) for field, _, template in _COLUMNS]


def _foreign(gan_info):
  """What a reader must know of a generator that saw other images; or ''."""
  if not gan_info.get('foreign'):
    return ''
  saw = 'does not say which images it saw'
  if gan_info['trained_on']:
    saw = f'saw other images ({gan_info["trained_on"]}) than this run trains on'
  return (
    f'The generator {gan_info["own"]} is foreign: it {saw}, and may have seen test '
    'images or more labels than the run. What the augmented arms show is no evidence.'
  )


SEARCH = (
  'A search: what is called test here are the validation images; the test split was not '
  'looked at.'
)
_LABELLED = (
  'The validation images were trained on, too: what is said of them, and chosen by '
  'them, is no measure.'
)
_SHOWN = {
  'noise': 'noise',
  'mislabelled': 'of another class',
  'replayed': 'real, drawn from the training images once more: a bound, and no result',
  'unseen': 'real, and beyond the budget of labels: a bound, and no result',
}


def _caveats(results):
  """What a reader must know of a search, a bound, or a validation that is none."""
  lines = [SEARCH] if results.get('test_on') == 'val' else []
  lines += [_LABELLED] if results.get('train_on_val') else []
  for name, arm in results['arms'].items():
    if (shown := arm['source'].get('shows', 'generator')) in _SHOWN:
      lines.append(f'{name}: what is called synthetic is {_SHOWN[shown]}.')
  return lines


def _costs(results):
  parts = []
  if results['gan']:
    what = 'generator of your own' if 'own' in results['gan'] else 'GAN'
    parts.append(f'{what} {format_seconds(results["gan"]["train_seconds"])}')
  arms = sum(arm['train_seconds'] for arm in results['arms'].values())
  parts.append(f'classifiers {format_seconds(arms)}')
  total = format_seconds(results['total_seconds'])
  return [f'Training took: {", ".join(parts)}. With compilation and evaluation {total}.']


def _predictions(workdir, arm):
  path = pathlib.Path(workdir, 'arms', arm, 'predictions.npz')
  try:
    saved = files.read_arrays(path)
    return saved['test_predictions'], saved['test_labels']
  except (OSError, ValueError, KeyError):
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
    theirs, _ = _predictions(workdir, control)
    paired = statistics.compare_predictions(mine, theirs, labels)
    arms = results['arms']
    before, after = arms[control], arms[treatment]
    if after['source'].get('shows') in config_lib.BOUNDS:
      verdict = 'a bound, and no verdict'
    elif paired['low'] > 0:
      verdict = 'helped'
    elif paired['high'] < 0:
      verdict = 'hurt'
    else:
      verdict = 'no difference shown'
    steps = before['num_steps'], after['num_steps']
    held = (
      f'Both took {steps[0]:,} steps.'
      if steps[0] == steps[1]
      else f'Both saw as many real images, in {steps[1]:,} steps and in {steps[0]:,}.'
    )
    slower = after['step_ms_median'] / before['step_ms_median'] - 1
    lines.append(
      (
        f'{treatment} against {control}: {verdict}.',
        f'With {after["effective_ratio"]:.0%} synthetic images the test accuracy is '
        f'{after["eval_accuracy"]:.2%}, without them {before["eval_accuracy"]:.2%}: '
        f'{100 * paired["difference"]:+.2f} points (95 % interval over the choice of '
        f'test images {100 * paired["low"]:+.2f} to {100 * paired["high"]:+.2f}; '
        f'{paired["gained"]} images gained, {paired["lost"]} lost). {held} '
        'The median step took '
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
      rows = files.read_metrics(pathlib.Path(workdir, 'arms', arm, 'metrics.jsonl'))
      series[arm] = _series(rows, name)
    panels.append((title, series))
  return figures.curves(panels)


def _gan_curves(workdir):
  rows = files.read_metrics(pathlib.Path(workdir, 'gan', 'metrics.jsonl'))
  panels = []
  for title, names in (
    ('GAN losses', ('discriminator_loss', 'generator_loss')),
    ('discriminator right on', ('real_accuracy', 'fake_accuracy')),
  ):
    panels.append((title, {name: _series(rows, name) for name in names}))
  return figures.curves(panels)


def changed_fields(config):
  """(field, value, whether it is another than the default's) of a saved config."""
  defaults = config_lib.flatten(config_lib.default())
  fields = config_lib.flatten(config_lib.from_dict(config))
  return [(name, value, value != defaults[name]) for name, value in fields.items()]


def _per_class(results, class_names):
  """(class, training images, recall and F1 of each arm) of each class."""
  arms = results['arms'].values()
  return [
    (
      class_name,
      results['train_counts'][i],
      [(arm['per_class']['recall'][i], arm['per_class']['f1'][i]) for arm in arms],
    )
    for i, class_name in enumerate(class_names)
  ]


def _policies(results):
  """Sentences on what the policies did, of each arm that has something to tell."""
  lines = _caveats(results)
  if skipped := results.get('num_skipped'):
    lines.append(f'{skipped:,} image files could not be read and were left out.')
  for name, arm in results['arms'].items():
    source, rates = arm['source'], arm['acceptance']
    if 'teacher_val_accuracy' in source:
      lines.append(
        f'{name}: the teacher, trained on the same real images, is right on '
        f'{source["teacher_val_accuracy"]:.1%} of the validation images.'
      )
    if rates:
      by_class = ', '.join(f'{label} {rate:.0%}' for label, rate in rates.items())
      lines.append(
        f'{name}: {arm["asked_ratio"]:.1%} of a batch were to be synthetic images, '
        f'{arm["effective_ratio"]:.1%} were accepted; by class: {by_class}.'
      )
    if 'offline' in source:
      lines.append(
        f'{name}: drawn from {source["offline"]:,} images a class that were made before.'
      )
  return lines


def _read_scores(workdir):
  """The content of score/scores.json, or None where it is missing or damaged."""
  try:
    scores = json.loads((workdir / 'score' / 'scores.json').read_text())
  except (OSError, ValueError):
    return None
  return scores if {'rows', 'extractor', 'held_out_chose'} <= set(scores) else None


def _choice(gan_info):
  """The generators that were chosen from: headings, and (cells, chosen) of each."""
  candidates = gan_info.get('candidates', [])
  names = list(candidates[0]) if candidates else []
  rows = [
    [f'{row["step"]:,}', *(f'{row.get(name, math.nan):.4f}' for name in names[1:])]
    for row in candidates
  ]
  chosen = [row['step'] == gan_info['chosen_step'] for row in candidates]
  return {'headings': names, 'rows': list(zip(rows, chosen, strict=True))}


def load_template(name):
  """A template of this package, whose values are escaped and must all be there."""
  return jinja2.Environment(
    loader=jinja2.PackageLoader('gan_aug_jax.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
  ).get_template(name)


def embed(pictures):
  """{name: PNG bytes} as a page holds them."""
  return {name: base64.b64encode(png).decode() for name, png in pictures.items()}


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
  if 'train_counts' not in results:
    raise CheckpointError(
      f'The results in {str(workdir)!r} are of an older version; run again in another '
      '--workdir.'
    )
  embedded = {
    'arm_curves': _arm_curves(workdir, results['arms']),
    'confusions': figures.confusion_matrices(
      run['data']['class_names'],
      {name: arm['confusion_matrix'] for name, arm in results['arms'].items()},
    ),
  }
  if results['gan']:
    if 'own' not in results['gan']:
      embedded['gan_curves'] = _gan_curves(workdir)
    samples = workdir / 'gan' / 'samples.png'
    if samples.exists():
      embedded['samples'] = samples.read_bytes()
  scores = _read_scores(workdir)
  html = load_template('run.html.j2').render(
    run=run,
    results=results,
    headings=[heading for _, heading, _ in _COLUMNS],
    rows=[(name, _cells(arm)) for name, arm in results['arms'].items()],
    findings=findings(workdir, results),
    costs=_costs(results),
    foreign=_foreign(results['gan']),
    choice=_choice(results['gan']),
    score_headings=[heading for _, heading, _ in _SCORES],
    score_rows=_score_rows(scores) if scores else [],
    score_notes=score_notes(scores) if scores else [],
    images=embed(embedded),
    fields=changed_fields(run['config']),
    per_class=_per_class(results, run['data']['class_names']),
    policies=_policies(results),
  )
  path = workdir / 'report.html'
  files.write_atomically(path, html)
  return path
