"""The report of a run: one HTML file, made from the files of its working directory.

It can be made again at any time, and shows nothing that is not on disk.
"""

from collections.abc import Mapping
import json
import math
import pathlib

import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.evaluation import figures, statistics
from gan_aug_jax.experiment import ablation, finished
from gan_aug_jax.generators import families
from gan_aug_jax.report import pages, run_sentences, sentences, tables
from gan_aug_jax.training import files
from gan_aug_jax.training.workdir import generator_directory, read_predictions

_METRICS = 'metrics.jsonl'
# {title of a plot: the metric in it}
_CURVES = {
  'validation accuracy': 'val_accuracy',
  'validation loss': 'val_loss',
  'training loss (as trained)': 'loss',
}


def render(workdir: pathlib.Path, run: Mapping, results: Mapping) -> pathlib.Path:
  """Writes report.html.

  Args:
    run: content of config.json.

  Raises:
    CheckpointError: if the results are of an older version, or predictions cannot be
      read.
    LookupError: if the results are damaged.
  """
  workdir = pathlib.Path(workdir)
  if 'train_counts' not in results:
    raise CheckpointError(
      f'The results in {str(workdir)!r} are of an older version; run again in another '
      '--workdir.'
    )
  arms, class_names = results['arms'], run['data']['class_names']
  if not arms:
    raise LookupError('arms')  # a damaged file, as for `files.reading`
  generator, config = results['generator'], run['config']
  scores, found = _read_scores(workdir, config), findings(workdir, arms)
  page = pages.render(
    'run.html.j2',
    config=config,
    images=_images(workdir, results, found, class_names),
    run=run,
    results=results,
    short_headings=tables.headings(tables.SHORT_RUN),
    short_rows=_rows(arms, tables.SHORT_RUN),
    headings=tables.headings(tables.RUN),
    rows=_rows(arms, tables.RUN),
    findings=found,
    one_seed=run_sentences.ONE_SEED,
    more_seeds=run_sentences.more_seeds(workdir, config),
    again=run_sentences.again('run', workdir, config),
    arms=sentences.arms(config, results),
    sizes=sentences.images_of(run['data']),
    costs=run_sentences.costs(results),
    notes=run_sentences.policies(results),
    warnings=run_sentences.warnings(results),
    choice=run_sentences.choice(generator),
    copies=run_sentences.copies(generator),
    checkpoints=_checkpoints(generator),
    score_headings=tables.headings(tables.SCORES),
    score_rows=tables.score_rows(scores) if scores else [],
    score_notes=run_sentences.of_scores(scores) if scores else [],
    class_rows=_class_rows(results, class_names),
  )
  path = workdir / 'report.html'
  files.write_atomically(path, page)
  return path


def findings(workdir: pathlib.Path, arms: Mapping) -> dict[str, sentences.Finding]:
  """{arm: what a run says of it} of arms with synthetic images and their controls.

  Args:
    arms: of results.json.

  Raises:
    CheckpointError: if predictions cannot be read.
  """
  found = {}
  for control, treatment in ablation.AUGMENTED.items():
    if {treatment, control} <= set(arms):
      mine, labels = read_predictions(workdir / 'arms' / treatment)
      theirs, _ = read_predictions(workdir / 'arms' / control)
      paired = statistics.compare_predictions(mine, theirs, labels)
      found[treatment] = run_sentences.finding(treatment, control, arms, paired)
  return found


def _images(workdir, results, found, class_names):
  """{name: PNG}; names that begin alike are shown next to each other."""
  arms = results['arms']
  images = {'answer': _answer(arms, found)}
  for name, arm in arms.items():
    matrix = arm['confusion_matrix']
    images[f'confusion {name}'] = figures.confusion_matrix(name, class_names, matrix)
    if (path := workdir / 'arms' / name / 'batch.png').exists():
      images[f'batch {name}'] = path.read_bytes()
  rows = {name: files.read_metrics(workdir / 'arms' / name / _METRICS) for name in arms}
  for title, metric in _CURVES.items():
    series = {name: _series(of_one, metric) for name, of_one in rows.items()}
    percent = 'accuracy' in title
    images[f'curve {title}'] = figures.curves(title, series, percent=percent)
  if results['generator']:
    images |= _generator_images(generator_directory(workdir))
  return images


def _rows(arms, fields):
  return [(name, tables.cells(arm, fields)) for name, arm in arms.items()]


def _answer(arms, found):
  rows = []
  for name, arm in arms.items():
    matrix = np.asarray(arm['confusion_matrix'])
    right, total = int(np.trace(matrix)), int(matrix.sum())
    low, high = statistics.proportion_interval(right, total)
    kind = found[name].verdict if name in found else 'plain'
    rows.append(figures.Interval(name, right / total, low, high, kind=kind))
  return figures.intervals(rows, 'test accuracy, with 95 % intervals')


def _generator_images(directory):
  """Samples, those at each save, and curves of the discriminator and generator."""
  images = {}
  if (path := directory / 'samples.png').exists():
    images['samples'] = path.read_bytes()
  strip = sorted((directory / 'samples').glob('[0-9]*.png'))
  images |= {f'step {int(path.stem):,}': path.read_bytes() for path in strip}
  rows = files.read_metrics(directory / _METRICS)
  names = sorted({name for row in rows for name in row})
  for title, ending in (
    ('losses of the networks', '_loss'),
    ('accuracy of the discriminator', '_accuracy'),
  ):
    series = {n: _series(rows, n) for n in names if n.endswith(ending) and 'cas' not in n}
    if series:
      percent = ending == '_accuracy'
      images[f'generator {title}'] = figures.curves(title, series, percent=percent)
  return images


def _series(rows, name):
  """(steps, values) of a metric in the rows of a metrics.jsonl that have it."""
  chosen = [(row['step'], row[name]) for row in rows if name in row]
  return tuple(zip(*chosen, strict=True)) if chosen else ((), ())


def _read_scores(workdir, config):
  """The content of score/scores.json; None where it is missing or damaged, or where the
  generator draws in another way by now, such as in fewer evaluations of a flow.
  """
  scores = files.read_json_or_none(workdir / 'score' / 'scores.json') or {}
  drawing = families.drawing_arguments_of(config_lib.from_dict(config))
  drawing = json.loads(json.dumps(drawing))
  # Older scores may lack arguments that were added since.
  then = scores.get('drawing', {}).items()
  is_own = all(drawing.get(name, value) == value for name, value in then)
  needed = {'rows', 'extractor', 'held_out_chose'}
  return scores if needed <= set(scores) and is_own else None


def _checkpoints(info):
  """Headings and rows, (step, scores, whether it is drawn from), of the candidates."""
  drawn = finished.drawn_candidates(info, info.get('members', ()))
  candidates = info.get('candidates', [])
  names = [*candidates[0]][1:] if candidates else []
  rows = [
    (
      f'{row["step"]:,}',
      [f'{row.get(name, math.nan):.4f}' for name in names],
      row in drawn,
    )
    for row in candidates
  ]
  return {
    'headings': names,
    'rows': rows,
    'drawn': [f'step {row["step"]:,}' for row in drawn],
  }


def _class_rows(results, class_names):
  """(class, [number of training images, recall and F1 of each arm]) of each class."""
  rows = []
  for i, name in enumerate(class_names):
    by_arm = [arm['per_class'] for arm in results['arms'].values()]
    scores = [
      f'{per[metric][i]:.4f}' if per['support'][i] else 'n/a'
      for per in by_arm
      for metric in ('recall', 'f1')
    ]
    rows.append((name, [f'{results["train_counts"][i]:,}', *scores]))
  return rows
