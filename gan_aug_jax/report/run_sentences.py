"""What a run's results say, in sentences that the terminal and the page share."""

from collections.abc import Mapping
import pathlib
import shlex

from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import findings, finished
from gan_aug_jax.report import sentences
from gan_aug_jax.training.progress import format_count, format_percent, format_seconds

ONE_SEED = (
  'This is one seed, and the intervals cover only the choice of test images: a first '
  'look, not a verdict.'
)
_TRAINED_ON_VAL = (
  'The validation images were trained on too, so validation accuracy, and any choice '
  'based on it, means nothing.'
)
_FEW_IMAGES = 100  # to test on
# Fields of a run whose config `ablate` refuses unless they have their defaults.
_NOT_IN_ABLATIONS = ('generator.seed', 'classifier.seed', 'mix.source')
_NOT_IN_ABLATIONS += ('data.train_on_val', 'distributed.auto', 'distributed.coordinator')


def finding(
  treatment: str, control: str, arms: Mapping, paired: Mapping
) -> sentences.Finding:
  """What a run says about an arm with synthetic images and its control.

  Args:
    paired: of `statistics.compare_predictions`.
  """
  before, after = arms[control], arms[treatment]
  if after['source'].get('shows') in config_lib.ORACLES:
    verdict = sentences.ORACLE
  elif paired['low'] > 0:
    verdict = 'helps'
  elif paired['high'] < 0:
    verdict = 'hurts'
  else:
    verdict = 'no difference shown'
  steps = f'Both arms took {format_count(after["num_steps"], "step")}.'
  if before['num_steps'] != after['num_steps']:
    steps = (
      'Both arms saw the same number of real images, in '
      f'{after["num_steps"]:,} and {format_count(before["num_steps"], "step")}.'
    )
  points = sentences.points(paired | {'mean': paired['difference']})
  headline = f'{treatment} vs. {control}: {verdict}, {points}.'
  detail = (
    f'Test accuracy is {format_percent(after["eval_accuracy"], 2)} with synthetic '
    f'images ({format_percent(after["effective_ratio"])} of the batch size) and '
    f'{format_percent(before["eval_accuracy"], 2)} without: '
    f'{format_count(paired["gained"], "test image")} became right, {paired["lost"]:,} '
    'became wrong. '
    f'{steps}'
  )
  return sentences.Finding(verdict, headline, detail)


def costs(results: Mapping) -> str:
  """How long the training of results.json took."""
  arms = sum(arm['train_seconds'] for arm in results['arms'].values())
  parts = [f'classifiers {format_seconds(arms)}']
  if generator := results['generator']:
    parts.insert(0, f'generator {format_seconds(generator["train_seconds"])}')
  total = format_seconds(results['total_seconds'])
  return f'Training: {", ".join(parts)}; {total} with compilation and evaluation.'


def caveats(results: Mapping) -> list[str]:
  """Why results.json means less than it seems: a search, few images, rare classes."""
  lines = [sentences.SEARCH] if results.get('test_on') == 'val' else []
  lines += [_TRAINED_ON_VAL] if results.get('train_on_val') else []
  lines += results.get('data_notes', [])
  if _may_gain_by_balance(results):
    lines.append(sentences.unadjusted(results['train_counts']))
  total = sum(map(sum, next(iter(results['arms'].values()))['confusion_matrix']))
  if total < _FEW_IMAGES:
    lines.append(
      f'The test split has {format_count(total, "image")}, so a single one counts for '
      f'{100 / total:.1f} points: differences of a few images mean nothing.'
    )
  for name, arm in results['arms'].items():
    if shown := sentences.SHOWN.get(source := arm['source'].get('shows')):
      oracle = ' It is an oracle, not a result.' * (source in config_lib.ORACLES)
      lines.append(f'{name}: “synthetic” here means {shown}.{oracle}')
  return lines


def _may_gain_by_balance(results):
  arms = results['arms'].values()
  from_generator = [arm['source'].get('shows') == 'generator' for arm in arms]
  test_counts = next(iter(arms))['per_class']['support']
  return (
    any(from_generator)
    and not all(from_generator)
    and not results.get('logit_adjustment')
    and findings.balance_may_help(results['train_counts'], test_counts)
  )


def warnings(results: Mapping) -> list[str]:
  """Warnings to read before the results of results.json."""
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
    'images, or more labels than the run. The results of the augmented arms are not '
    'evidence.'
  ]


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


def more_seeds(workdir: pathlib.Path, config: Mapping) -> str:
  """The command that trains the arms of a run with several seeds, or '' without any.

  Args:
    config: of config.json.
  """
  here = config_lib.flatten(config_lib.from_dict(config))
  default = config_lib.flatten(config_lib.default())
  if any(here[field] != default[field] for field in _NOT_IN_ABLATIONS):
    return ''
  return again('ablate', workdir, config)


def choice(info: Mapping) -> str:
  """Which checkpoint of the generator was chosen, and why; '' without any."""
  rows = info.get('candidates', [])
  if not rows:
    return ''
  (chosen,), members = finished.drawn_candidates(info), info['members']
  if len(members) > 1 or finished.drawn_candidates(info, members) != [chosen]:
    return f'The arms draw from {"; ".join(members)}, as generator.checkpoints says.'
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
  """Whether a generator copies its training images; '' where not measured."""
  rows = finished.drawn_candidates(info, info.get('members', ()))
  shares = {row['step']: row['memorised'] for row in rows if 'memorised' in row}
  if not shares:
    return ''
  step, share = max(shares.items(), key=lambda pair: pair[1])
  verdict = 'it copies training images' if share > 0.1 else 'no sign of copying'
  return (
    f'Memorisation: {format_percent(share, 1)} of the images of step {step:,} '
    'are closer to a training image, in pixels, than 99 % of the validation images are '
    f'({verdict}; about 1 % is expected of fresh images).'
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
      'Validation images, which also chose the checkpoint, are among these real images: '
      'CAS is slightly optimistic.'
    )
  counts = scores.get('held_out_counts')  # older versions did not write it
  if counts and findings.is_imbalanced(counts):
    notes.append(
      f'The classes have {min(counts):,} to {max(counts):,} of these real images, and '
      'equal numbers of generated ones: scores of all classes together compare that, '
      'too. Read those by class, which are in scores.json.'
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
