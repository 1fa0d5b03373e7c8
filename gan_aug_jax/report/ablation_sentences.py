"""What an ablation's results say, in sentences that terminal and page share."""

from collections.abc import Mapping
import math

from gan_aug_jax.evaluation import statistics
from gan_aug_jax.experiment import findings
from gan_aug_jax.report import sentences
from gan_aug_jax.training.progress import format_count

INTERVALS = (
  'Intervals are 95 %, by a paired t-test over the seeds. A seed sets the subset, the '
  'generator, the initialisation and the order, the same for every arm. Verdicts depend '
  'on p-values adjusted for the number of comparisons (Holm), so an interval without 0 '
  'is not enough. The smallest detectable effect would have been found in four out of '
  'five such ablations. The best arm and the best control are those with the highest '
  'recall on validation images, with classes weighted as in the test images; ties go to '
  'the lower loss.'
)
INTERVALS_IN_SHORT = (
  'Intervals are 95 %, by a paired t-test over the seeds; verdicts allow for the number '
  'of comparisons (Holm).'
)
_FOREIGN = (
  'is a foreign generator, which may have seen test images, or more labels than the '
  'runs: the results of its arms are not evidence.'
)
_ONE_SUBSET = (
  'data.seed is fixed, so all seeds share one training subset: the intervals say nothing '
  'about other subsets.'
)
_MOST_GENERATORS = 5  # whose warnings are shown
_MUCH = 10  # points: a design that detects no less is too small


def verdict_of(row: Mapping) -> str:
  """The verdict on an arm, compared with its control at equal steps."""
  is_oracle = row['role'] == 'oracle'
  return sentences.ORACLE if is_oracle else row['difference']['verdict']


def verdicts(setting: Mapping, num_comparisons: int) -> list[sentences.Finding]:
  """What an ablation says about its best arm, and then about every arm.

  Args:
    setting: one of the 'settings' of `findings.summarize`.
    num_comparisons: the number that p-values are adjusted for.
  """
  lines = []
  if best := setting['best']:
    lines.append(_of_best(best, num_comparisons))
  for row in setting['arms']:
    if not (paired := row.get('difference')):
      continue
    others = [
      f'At {comparison.words}, vs. {other["control"]}: {sentences.points(other)}.'
      for comparison in findings.COMPARISONS
      if (other := row.get(comparison.name)) and other['control'] != paired['control']
    ]
    details = [*_rare(paired), *others]
    if row['role'] != 'oracle':
      details += _power(paired, num_comparisons)
    arms = f'{row["name"]} vs. {paired["control"]} at equal steps'
    verdict = verdict_of(row)
    headline = f'{arms}: {verdict}, {sentences.points(paired)}.'
    lines.append(sentences.Finding(verdict, headline, ' '.join(details)))
  return lines


def difference(row: Mapping | None) -> str:
  """'+0.31 (+0.02 to +0.60) vs. real_classical', of a comparison; 'n/a' of None."""
  if not row:
    return 'n/a'
  interval = sentences.interval(row).removeprefix('95 % interval ')
  return f'{100 * row["mean"]:+z.2f} ({interval}) vs. {row["control"]}'


def status(summary: Mapping) -> list[str]:
  """Which cells of an ablation finished and which failed, with all warnings."""
  finished = f'Finished: {summary["num_finished"]} of '
  finished += f'{format_count(summary["num_cells"], "cell")}.'
  if summary['missing']:
    finished += ' The verdicts are provisional.'
  failed = [f'Failed: {name}: {why}' for name, why in summary['failures'].items()]
  return [finished, *failed, *warnings(summary)]


def warnings(summary: Mapping) -> list[str]:
  """Why results of an ablation are weaker evidence than they seem, or none."""
  lines = [f'{name} {_FOREIGN}' for name in summary['foreign']]
  lines += [sentences.SEARCH] if summary['test_on'] == 'val' else []
  lines += [_ONE_SUBSET] if summary.get('data_seed', -1) != -1 else []
  imbalanced = [setting['unadjusted_counts'] for setting in summary['settings']]
  lines += dict.fromkeys(map(sentences.unadjusted, filter(None, imbalanced)))
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
  details += [f'Vs. {other["control"]}: {sentences.points(other)}.' for other in others]
  headline = (
    f'Best arm ({best["arm"]}) vs. best control ({best["control"]}): '
    f'{best["verdict"]}, {sentences.points(best)}.'
  )
  details += _power(best, num_comparisons)
  return sentences.Finding(best['verdict'], headline, ' '.join(details))


def _rare(row):
  rare = row['rare_recall']
  return [f'Mean recall of the rarer classes: {sentences.points(rare)}.'] if rare else []


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
