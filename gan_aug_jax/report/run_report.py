"""The report of a run: one HTML file, made from the files of its working directory.

It can be made again at any time, and shows nothing that is not on disk.
"""

from collections.abc import Mapping
import math
import pathlib

from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.evaluation import figures, statistics
from gan_aug_jax.report import pages, sentences, tables
from gan_aug_jax.training import files
from gan_aug_jax.training.files import read_result
from gan_aug_jax.training.workdir import generator_directory

# (treatment, its control)
_PAIRS = (('augmented', 'real_only'), ('augmented_classical', 'real_classical'))


def render(workdir: pathlib.Path, run: Mapping, results: Mapping) -> pathlib.Path:
  """Writes report.html.

  Args:
    workdir: directory of the run.
    run: content of config.json.
    results: content of results.json.

  Returns:
    The path of the report.

  Raises:
    CheckpointError: if the results are of an older version, or predictions cannot be
      read.
  """
  workdir = pathlib.Path(workdir)
  if 'train_counts' not in results:
    raise CheckpointError(
      f'The results in {str(workdir)!r} are of an older version; run again in another '
      '--workdir.'
    )
  arms, class_names = results['arms'], run['data']['class_names']
  scores = _read_scores(workdir)
  page = pages.render(
    'run.html.j2',
    config=run['config'],
    images=_images(workdir, results, class_names),
    run=run,
    results=results,
    headings=tables.headings(tables.RUN),
    rows=[(name, tables.cells(arm, tables.RUN)) for name, arm in arms.items()],
    findings=findings(workdir, arms),
    costs=sentences.costs(results),
    notes=sentences.policies(results),
    foreign=sentences.foreign(results['generator']),
    generator_warnings=sentences.of_generator(results['generator']),
    checkpoints=_checkpoints(results['generator']),
    score_headings=tables.headings(tables.SCORES),
    score_rows=tables.score_rows(scores) if scores else [],
    score_notes=sentences.of_scores(scores) if scores else [],
    class_rows=_class_rows(results, class_names),
  )
  path = workdir / 'report.html'
  files.write_atomically(path, page)
  return path


def findings(workdir: pathlib.Path, arms: Mapping) -> list[sentences.Finding]:
  """What a run says of each pair of arms with and without synthetic images.

  Args:
    workdir: directory of the run.
    arms: of results.json.

  Raises:
    CheckpointError: if predictions cannot be read.
  """
  found = []
  for treatment, control in _PAIRS:
    if {treatment, control} <= set(arms):
      mine, labels = _read_predictions(workdir, treatment)
      theirs, _ = _read_predictions(workdir, control)
      paired = statistics.compare_predictions(mine, theirs, labels)
      found.append(sentences.finding(treatment, control, arms, paired))
  return found


def _read_predictions(workdir, arm):
  path = workdir / 'arms' / arm / 'predictions.npz'
  try:
    saved = files.read_arrays(path)
    return saved['test_predictions'], saved['test_labels']
  except (OSError, ValueError, KeyError):
    raise CheckpointError(
      f'{str(path)!r} is missing or damaged; move it away and run again: the checkpoint '
      'has what is needed to write a new one.'
    ) from None


def _images(workdir, results, class_names):
  matrices = {name: arm['confusion_matrix'] for name, arm in results['arms'].items()}
  images = {
    'arm_curves': _arm_curves(workdir, results['arms']),
    'confusions': figures.confusion_matrices(class_names, matrices),
  }
  directory = generator_directory(workdir)
  if curves := results['generator'] and _generator_curves(directory):
    images['generator_curves'] = curves
  samples = directory / 'samples.png'
  if results['generator'] and samples.exists():
    images['samples'] = samples.read_bytes()
  return images


def _arm_curves(workdir, arms):
  rows = {
    arm: files.read_metrics(workdir / 'arms' / arm / 'metrics.jsonl') for arm in arms
  }
  panels = (
    ('validation accuracy', 'val_accuracy'),
    ('validation loss', 'val_loss'),
    ('training loss (as trained)', 'loss'),
  )
  return figures.curves(
    [
      (title, {arm: _series(of_arm, name) for arm, of_arm in rows.items()})
      for title, name in panels
    ]
  )


def _generator_curves(directory):
  """Curves of its losses and accuracies, as far as it has any; or None."""
  rows = files.read_metrics(directory / 'metrics.jsonl')
  names = sorted({name for row in rows for name in row})
  panels = []
  for title, end in (('losses', 'loss'), ('accuracy of the discriminator', 'accuracy')):
    if chosen := [name for name in names if name.endswith(end)]:
      panels.append((title, {name: _series(rows, name) for name in chosen}))
  return figures.curves(panels) if panels else None


def _series(rows, name):
  """(steps, values) of a metric in the rows of a metrics.jsonl that have it."""
  chosen = [(row['step'], row[name]) for row in rows if name in row]
  return tuple(zip(*chosen, strict=True)) if chosen else ((), ())


def _read_scores(workdir):
  """The content of score/scores.json, or None where it is missing or damaged."""
  scores = read_result(workdir / 'score' / 'scores.json') or {}
  return scores if {'rows', 'extractor', 'held_out_chose'} <= set(scores) else None


def _checkpoints(info):
  """Headings and rows, (step, scores, whether it was chosen), of the candidates."""
  candidates = info.get('candidates', [])
  names = [*candidates[0]][1:] if candidates else []
  rows = [
    (
      f'{row["step"]:,}',
      [f'{row.get(name, math.nan):.4f}' for name in names],
      row['step'] == info['chosen_step'],
    )
    for row in candidates
  ]
  return {'headings': names, 'rows': rows}


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
