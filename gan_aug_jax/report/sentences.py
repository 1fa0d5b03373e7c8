"""Sentences that the reports of runs and of ablations share."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

from gan_aug_jax import config as config_lib
from gan_aug_jax.training.progress import format_count, format_percent

SEARCH = (
  'This is a search: “test” here means the validation images, and the test split was not '
  'used.'
)
# {mix.source: what its images are}, except 'generator'.
SHOWN = {
  'noise': 'noise',
  'mislabelled': 'images of another class',
  'train_copies': 'real training images, drawn again',
  'held_out': 'real images beyond the label budget',
}
# In place of the verdict on one.
ORACLE = 'an oracle, so no verdict'


class Finding(NamedTuple):
  """What a comparison showed.

  Attributes:
    verdict: of `statistics.verdict`, or `ORACLE`; 'helps' and 'hurts' have a colour.
    headline: one sentence, with one number and one interval.
    detail: what else there is to know.
  """

  verdict: str
  headline: str
  detail: str


def images_of(data: Mapping) -> str:
  """How many images of which kind a run has, by the 'data' of its config.json."""
  height, width, channels = data['image_shape']
  return (
    f'{data["num_train"]:,} training, {data["num_val"]:,} validation and '
    f'{data["num_test"]:,} test images of {len(data["class_names"])} classes, '
    f'{height} x {width} pixels, {"grey" if channels == 1 else "in colour"}.'
  )


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
      source = arm['source'].get('shows')
      shown = SHOWN.get(source, 'synthetic images')
      share = format_percent(arm['effective_ratio'])
      text = f'Real images, {share} of them replaced by {shown}'
      if config.mix.mode == 'add':
        text = f'Real images, and on top of them {shown} ({share} of the batch size)'
      if source in config_lib.ORACLES:
        text += '. This is an oracle, not a result'
    if config_lib.is_augmented(config, name) != synthetic:
      text = 'Real images; no synthetic ones at this ratio'
    changes = _describe_augmentation(config.augment) if classical else 'none'
    lines[name] = f'{text}. Augmentation: {changes}.'
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
  return (', '.join(done) or 'none') + which[augment.apply_to]


def unadjusted(counts: Sequence[int]) -> str:
  """Warns that no control adjusts for class imbalance.

  Args:
    counts: training images of each class.
  """
  return (
    f'The classes have {min(counts):,} to {max(counts):,} training images, and no '
    'finished control adjusts for that imbalance. Part of any gain may come from class '
    'balance, which classifier.logit_adjustment=1 gives with no extra training: compare '
    'with that.'
  )


def interval(paired: Mapping) -> str:
  """'95 % interval +0.02 to +0.60', in points, of `statistics.paired_t`'s result."""
  if len(paired.get('differences', ())) == 2:
    return 'no interval from two seeds'
  if paired['low'] is None or math.isnan(paired['low']):
    return 'no interval'
  # z: no zero has a minus.
  return f'95 % interval {100 * paired["low"]:+z.2f} to {100 * paired["high"]:+z.2f}'


def points(paired: Mapping) -> str:
  """'+0.31 points (95 % interval +0.02 to +0.60)', of `statistics.paired_t`'s result."""
  return f'{100 * paired["mean"]:+z.2f} points ({interval(paired)})'
