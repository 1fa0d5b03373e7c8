"""What results say, in sentences that the terminal and the pages share."""

from collections.abc import Mapping
import math
import pathlib
import shlex
from typing import NamedTuple

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import statistics
from gan_aug_jax.experiment import findings
from gan_aug_jax.training.progress import (
  format_count,
  format_percent,
  format_seconds,
)

SEARCH = (
  'This is a search: “test” here means the validation images, and the test split was not '
  'used.'
)
INTERVALS = (
  'Intervals are 95 %, by a paired t-test over the seeds. A seed sets the subset, the '
  'generator, the initialisation and the order, the same for every arm. Verdicts depend '
  'on p-values adjusted for the number of comparisons (Holm), so an interval without 0 '
  'is not enough. The smallest detectable effect would have been found in four out of '
  'five such ablations. The best arm and the best control are those with the highest '
  'mean recall over the classes on validation images; ties go to the lower loss.'
)
INTERVALS_IN_SHORT = (
  'Intervals are 95 %, by a paired t-test over the seeds; verdicts allow for the number '
  'of comparisons (Holm).'
)
ONE_SEED = (
  'This is one seed, and the intervals cover only the choice of test images: a first '
  'look, not a verdict.'
)
_TRAINED_ON_VAL = (
  'The validation images were trained on too, so validation accuracy, and any choice '
  'based on it, means nothing.'
)
_FOREIGN = (
  'is a foreign generator, which may have seen test images, or more labels than the '
  'runs: the results of its arms are no evidence.'
)
_ONE_SUBSET = (
  'data.seed is fixed, so all seeds share one training subset: the intervals say nothing '
  'about other subsets.'
)
_UNADJUSTED = (
  'The classes have {:,} to {:,} training images, and no arm of real images adjusts for '
  'that. Where synthetic images gain, it may be by balance alone, which '
  'classifier.logit_adjustment=1 gives for free: compare with that, too.'
)
_MOST_GENERATORS = 5  # whose warnings are shown
_FEW_IMAGES = 100  # to test on
_MUCH = 10  # points: a design that detects no less is too small
_SHOWN = {
  'noise': 'noise',
  'mislabelled': 'images of another class',
  'train_copies': 'real training images, drawn again: an oracle, not a result',
  'held_out': 'real images beyond the label budget: an oracle, not a result',
}


class Finding(NamedTuple):
  """What a comparison showed.

  Attributes:
    kind: 'helps', 'hurts', 'not-shown', 'few-seeds' or 'oracle'; the class of its box and
      the key of its colour.
    headline: one sentence, with one number and one interval.
    detail: what else there is to know.
  """

  kind: str
  headline: str
  detail: str


_WORDS = {
  'helps': 'helps',
  'hurts': 'hurts',
  'not-shown': 'no difference shown',
  'few-seeds': 'too few seeds for a verdict',
  'oracle': 'an oracle, so no verdict',
}


# The verdicts of `evaluation.statistics`.
_KINDS = {
  'helps': 'helps',
  'hurts': 'hurts',
  'no difference shown': 'not-shown',
  'not enough seeds for a verdict': 'few-seeds',
}


def kind_of(paired: Mapping) -> str:
  """The `Finding.kind` of a comparison with a verdict."""
  return _KINDS[paired['verdict']]


def finding(treatment: str, control: str, arms: Mapping, paired: Mapping) -> Finding:
  """What a run says about an arm with synthetic images and its control.

  Args:
    paired: of `statistics.compare_predictions`.

  """
  before, after = arms[control], arms[treatment]
  if after['source'].get('shows') in config_lib.ORACLES:
    kind = 'oracle'
  elif paired['low'] > 0:
    kind = 'helps'
  elif paired['high'] < 0:
    kind = 'hurts'
  else:
    kind = 'not-shown'
  steps = f'Both arms took {format_count(after["num_steps"], "step")}.'
  if before['num_steps'] != after['num_steps']:
    steps = (
      'Both arms saw the same number of real images, in '
      f'{after["num_steps"]:,} and {format_count(before["num_steps"], "step")}.'
    )
  points = _points(paired | {'mean': paired['difference']})
  headline = f'{treatment} vs. {control}: {_WORDS[kind]}, {points}.'
  detail = (
    f'Test accuracy is {format_percent(after["eval_accuracy"], 2)} with synthetic '
    f'images ({format_percent(after["effective_ratio"])} of the batch size) and '
    f'{format_percent(before["eval_accuracy"], 2)} without: '
    f'{format_count(paired["gained"], "test image")} became right, {paired["lost"]:,} '
    'became wrong. '
    f'{steps}'
  )
  return Finding(kind, headline, detail)


def images_of(data: Mapping) -> str:
  """How many images of which kind a run has, by the 'data' of its config.json."""
  height, width, channels = data['image_shape']
  return (
    f'{data["num_train"]:,} training, {data["num_val"]:,} validation and '
    f'{data["num_test"]:,} test images of {len(data["class_names"])} classes, '
    f'{height} x {width} pixels, {"grey" if channels == 1 else "in colour"}.'
  )


def costs(results: Mapping) -> str:
  """How long the training of results.json took."""
  arms = sum(arm['train_seconds'] for arm in results['arms'].values())
  parts = [f'classifiers {format_seconds(arms)}']
  if generator := results['generator']:
    parts.insert(0, f'generator {format_seconds(generator["train_seconds"])}')
  total = format_seconds(results['total_seconds'])
  return f'Training: {", ".join(parts)}; {total} with compilation and evaluation.'


def caveats(results: Mapping) -> list[str]:
  """Why results.json means less than it seems: few images, a search, an oracle."""
  lines = [SEARCH] if results.get('test_on') == 'val' else []
  lines += [_TRAINED_ON_VAL] if results.get('train_on_val') else []
  lines += results.get('data_notes', [])
  counts = results['train_counts']
  is_adjusted = results.get('logit_adjustment', 0) > 0
  if findings.is_imbalanced(counts) and len(results['arms']) > 1 and not is_adjusted:
    lines.append(_UNADJUSTED.format(min(counts), max(counts)))
  total = sum(map(sum, next(iter(results['arms'].values()))['confusion_matrix']))
  if total < _FEW_IMAGES:
    lines.append(
      f'The test split has {format_count(total, "image")}, so a single one counts for '
      f'{100 / total:.1f} points: differences of a few images mean nothing.'
    )
  for name, arm in results['arms'].items():
    if shown := _SHOWN.get(arm['source'].get('shows')):
      lines.append(f'{name}: “synthetic” here means {shown}.')
  return lines


def run_warnings(results: Mapping) -> list[str]:
  """All that is to be read before the results of results.json."""
  generator = results['generator']
  return [*of_generator(generator), *foreign(generator), *caveats(results)]


def of_generator(info: Mapping) -> list[str]:
  """What went wrong in a generator's training: to be read before its results."""
  return [f"The generator's training: {line}" for line in info.get('warnings', [])]


def foreign(info: Mapping) -> list[str]:
  """A warning about a generator that saw other images than the run."""
  if not info.get('foreign'):
    return []
  saw = 'does not say which images it saw'
  if info['trained_on']:
    saw = f'saw images ({info["trained_on"]}) other than those of this run'
  return [
    f'The generator {info["family"]} is foreign: it {saw}, and may have seen test '
    'images, or more labels than the run. The results of the augmented arms are no '
    'evidence.'
  ]


def arms(config: Mapping, results: Mapping) -> dict[str, str]:
  """{arm: what it trains on, in a line} of results.json.

  Args:
    config: of config.json.
  """
  config, lines = config_lib.from_dict(config), {}
  for name, arm in results['arms'].items():
    synthetic, classical = config_lib.ARMS[name]
    text = 'Real images only'
    if synthetic:
      shown = _SHOWN.get(arm['source'].get('shows'), 'synthetic images')
      share = format_percent(arm['effective_ratio'])
      text = f'Real images, {share} of them replaced by {shown}'
      if config.mix.mode == 'add':
        text = f'Real images, and on top of them {shown} ({share} of the batch size)'
    if config_lib.is_augmented(config, name) != synthetic:
      text = 'Real images; no synthetic ones at this ratio'
    changes = _describe_augmentation(config.augment) if classical else 'not augmented'
    lines[name] = f'{text}, {changes}.'
  return lines


def _describe_augmentation(augment):
  done = [f'shifted by up to {format_count(augment.crop_padding, "pixel")}'] * bool(
    augment.crop_padding
  )
  done += ['mirrored'] * augment.flip
  done += ['recoloured'] * bool(augment.color)
  done += [f'with a blank square of {augment.cutout} pixels'] * bool(augment.cutout)
  done += ['mixed by MixUp'] * bool(augment.mixup)
  done += ['mixed by CutMix'] * bool(augment.cutmix)
  done += [f'changed by {augment.transform}'] * bool(augment.transform)
  which = {'both': '', 'real': ' (real images)', 'synthetic': ' (synthetic images)'}
  return (', '.join(done) or 'not augmented') + which[augment.apply_to]


def again(command: str, workdir: pathlib.Path, config: Mapping) -> str:
  """The command that repeats a run in another workdir.

  Args:
    command: 'run', or 'ablate' for several seeds.
    config: of config.json.
  """
  file = f'{workdir}/config.json'
  if config_lib.own_code_of(config_lib.from_dict(config)):
    file = 'FILE'  # a config.json that names code is refused
  other = f'{workdir}-{"seeds" if command == "ablate" else "again"}'
  return (
    f'python -m gan_aug_jax {command} \\\n    --config={shlex.quote(file)} \\\n'
    f'    --workdir={shlex.quote(other)}'
  )


def choice(info: Mapping) -> str:
  """Which checkpoint of the generator was chosen, and why; '' without any."""
  rows = info.get('candidates', [])
  if not rows:
    return ''
  chosen = findings.chosen_candidate(info)
  step = f'step {chosen["step"]:,}'
  if len(rows) == 1:
    return f'The only checkpoint, {step}, was kept.'
  first = f'Of {len(rows)} checkpoints, {step} was chosen'
  worst = lambda name, choose: choose(row[name] for row in rows)
  if 'cas' in chosen:
    return (
      f'{first}: a classifier trained on its images alone is right on '
      f'{format_percent(chosen["cas"], 1)} of the validation images (the worst '
      f'checkpoint: {format_percent(worst("cas", min), 1)}).'
    )
  if 'frechet' in chosen:
    return (
      f'{first}: its images are closest to the training images (Fréchet distance '
      f'{chosen["frechet"]:.2f}; the worst checkpoint: {worst("frechet", max):.2f}).'
    )
  return f'{first}, the last one.'


def copies(info: Mapping) -> str:
  """Whether the chosen generator copies its training images; '' where not measured."""
  share = findings.chosen_candidate(info).get('memorised')
  if share is None:
    return ''
  verdict = 'it copies training images' if share > 0.1 else 'no sign of copying'
  return (
    f'Memorisation: {format_percent(share, 1)} of its images are closer to a training '
    f'image, in pixels, than 99 % of the validation images are ({verdict}; about 1 % is '
    'expected of fresh images).'
  )


def policies(results: Mapping) -> list[str]:
  """What the policies of each arm in results.json did."""
  lines = []
  if skipped := results.get('num_skipped'):
    lines.append(f'Skipped: {format_count(skipped, "unreadable image file")}.')
  for name, arm in results['arms'].items():
    source, rates = arm['source'], arm['acceptance']
    if 'teacher_val_accuracy' in source:
      lines.append(
        f'{name}: the teacher, trained on the same real images, classifies '
        f'{format_percent(source["teacher_val_accuracy"], 1)} of the validation images '
        'correctly.'
      )
    if rates:
      by_class = ', '.join(
        f'{label} {format_percent(rate)}' for label, rate in rates.items()
      )
      lines.append(
        f'{name}: after the filter, synthetic images were '
        f'{format_percent(arm["effective_ratio"], 1)} of the batch size; '
        f'{format_percent(arm["asked_ratio"], 1)} was configured. '
        f'Accepted by class: {by_class}.'
      )
    if 'offline' in source:
      lines.append(
        f'{name}: draws from images that were generated beforehand, '
        f'{source["offline"]:,} per class.'
      )
  return lines


def of_scores(scores: Mapping) -> list[str]:
  """What the scores of scores.json are, and what they warn of."""
  extractor = scores['extractor']
  notes = [
    f'{scores["num_generated"]:,} generated images, compared with '
    f'{scores["num_held_out"]:,} real ones that the generators did not train on (they '
    f'trained on {scores["num_train"]:,}). Features are from our own extractor (accuracy '
    f'{format_percent(extractor["accuracy"], 2)}, hash {extractor["hash"]}). Real '
    'training images are the ceiling, noise is the floor. With fewer images, all scores '
    'but CAS and GAN-test look worse. CAS: accuracy, on real images, of a classifier '
    'trained only on the images of that row. GAN-test: share of the images of that row '
    'to which a classifier trained on real images gives the intended label.'
  ]
  if scores['held_out_chose']:
    notes.append(
      'Without a label budget, these real images are the validation split, which also '
      'chose the checkpoint: CAS is slightly optimistic.'
    )
  for name, row in scores['rows'].items():
    copies = row['copies'] if name != 'noise' else None
    if copies and copies['memorised'] > 0.1:
      notes.append(
        f'{name} copies its training set: {format_percent(copies["memorised"])} of its '
        'images are closer to a training image than 99 % of fresh real images are.'
      )
    if copies and copies['duplicates'] > 0.1:
      notes.append(
        f'{name} repeats itself: {format_percent(copies["duplicates"])} of its images '
        'are closer to another generated image than 99 % of real images are to one '
        'another.'
      )
  return notes


def verdicts(setting: Mapping, num_comparisons: int) -> list[Finding]:
  """What an ablation says about its best arm, and then about every arm.

  Args:
    setting: one of the 'settings' of `findings.summarize`.
    num_comparisons: that the p-values are adjusted for.

  """
  lines = []
  if best := setting['best']:
    lines.append(_of_best(best, num_comparisons))
  for row in setting['arms']:
    if not (paired := row.get('difference')):
      continue
    others = [
      f'At {comparison.words}, vs. {other["control"]}: {_points(other)}.'
      for comparison in findings.COMPARISONS
      if (other := row.get(comparison.name)) and other['control'] != paired['control']
    ]
    details = [*_rare(paired), *others]
    if row['role'] == 'oracle':
      kind = 'oracle'
    else:
      kind = _KINDS[paired['verdict']]
      details += _power(paired, num_comparisons)
    arms = f'{row["name"]} vs. {paired["control"]} at equal steps'
    headline = f'{arms}: {_WORDS[kind]}, {_points(paired)}.'
    lines.append(Finding(kind, headline, ' '.join(details)))
  return lines


def difference(row: Mapping | None) -> str:
  """'+0.31 (+0.02 to +0.60) vs. real_classical', of a comparison; 'n/a' of None."""
  if not row:
    return 'n/a'
  interval = _interval(row).removeprefix('95 % interval ')
  return f'{100 * row["mean"]:+.2f} ({interval}) vs. {row["control"]}'


def status(summary: Mapping) -> list[str]:
  """What of an ablation is finished, failed or no evidence."""
  finished = f'Finished: {summary["num_finished"]} of '
  finished += f'{format_count(summary["num_cells"], "cell")}.'
  if summary['missing']:
    finished += ' The verdicts are provisional.'
  failed = [f'Failed: {name}: {why}' for name, why in summary['failures'].items()]
  return [finished, *failed, *warnings(summary)]


def warnings(summary: Mapping) -> list[str]:
  """Why results of an ablation are no evidence, or less."""
  lines = [f'{name} {_FOREIGN}' for name in summary['foreign']]
  lines += [SEARCH] if summary['test_on'] == 'val' else []
  lines += [_ONE_SUBSET] if summary.get('data_seed', -1) != -1 else []
  if counts := summary['unadjusted_counts']:
    lines.append(_UNADJUSTED.format(min(counts), max(counts)))
  return lines + summary.get('data_notes', [])


def of_generators(summary: Mapping) -> list[str]:
  """What went wrong in the training of an ablation's generators, the first few."""
  found = summary['generator_warnings']
  lines = [
    f'The training of the generator of {about["cell"]}: {line}'
    for about in [*found.values()][:_MOST_GENERATORS]
    for line in about['warnings']
  ]
  if len(found) > _MOST_GENERATORS:
    more = format_count(len(found) - _MOST_GENERATORS, 'further generator')
    lines.append(f'{more} with warnings: see generators/NAME/generator/result.json.')
  return lines


def _of_best(best, num_comparisons):
  details = [
    f'Chosen on validation images (arms: {best["trials"]}, controls: '
    f'{best["control_trials"]}).'
  ]
  if best['control_trials'] < best['trials']:
    details.append(
      'The controls had fewer trials, which favours synthesis: add some as '
      'ablation.controls.'
    )
  details += _rare(best)
  others = best['further_comparisons']
  details += [f'Vs. {other["control"]}: {_points(other)}.' for other in others]
  kind = _KINDS[best['verdict']]
  headline = (
    f'Best arm ({best["arm"]}) vs. best control ({best["control"]}): {_WORDS[kind]}, '
    f'{_points(best)}.'
  )
  return Finding(kind, headline, ' '.join(details + _power(best, num_comparisons)))


def _interval(row):
  if len(row.get('differences', ())) == 2:
    return 'no interval from two seeds'
  if row['low'] is None or math.isnan(row['low']):
    return 'no interval'
  return f'95 % interval {100 * row["low"]:+.2f} to {100 * row["high"]:+.2f}'


def _points(row):
  return f'{100 * row["mean"]:+.2f} points ({_interval(row)})'


def _rare(row):
  rare = row['rare_recall']
  return [f'Mean recall of the rarer classes: {_points(rare)}.'] if rare else []


def _power(row, num_comparisons):
  if row['adjusted_p'] is None or len(row['seeds']) < statistics.MIN_SEEDS:
    return []
  detectable = ''
  if row['detectable'] is not None and not math.isnan(row['detectable']):
    points = 100 * row['detectable']
    detectable = f'; smallest detectable effect {points:.2f} points'
    if points > _MUCH:
      detectable = f'; too few seeds to detect less than {points:.0f} points'
  return [
    f'Adjusted p {row["adjusted_p"]:.2g} ({format_count(num_comparisons, "comparison")}, '
    f'{format_count(len(row["seeds"]), "seed")}){detectable}.'
  ]
