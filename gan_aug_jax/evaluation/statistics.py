"""What paired results show, and how surely.

Seeds are the unit of a comparison: an arm and its control share a seed's subset,
initialisation and order of real examples, so their difference is taken within the seed.
Images are the unit only where there is one seed.
"""

import math

import numpy as np
import scipy.special  # a second faster to import than scipy.stats

LEVEL, POWER = 0.95, 0.8
MIN_SEEDS = 3


def compare_predictions(treatment, control, labels) -> dict[str, float]:
  """Compares two sets of predictions for the same images.

  Args:
    treatment, control: predicted classes int [N].
    labels: true classes int [N].

  Returns:
    'difference' in accuracy; 'low' and 'high', its 95 % interval over the choice of test
    images (adjusted Wald: half an image more of each kind, Agresti and Min 2005, Statist.
    Med. 24, 729-740, so that it has a width even where no image differs); 'gained' and
    'lost', the numbers of images that only the treatment, or only the control, got right.
  """
  change = np.equal(treatment, labels).astype(int) - np.equal(control, labels)
  gained, lost = int(np.sum(change > 0)), int(np.sum(change < 0))
  total, centre = len(labels) + 2, (gained - lost) / (len(labels) + 2)
  reach = 1.96 * math.sqrt(((gained + lost + 1) / total - centre**2) / total)
  return {
    'difference': float(np.mean(change)),
    'low': max(centre - reach, -1.0),
    'high': min(centre + reach, 1.0),
    'gained': gained,
    'lost': lost,
  }


def proportion_interval(count: int, total: int) -> tuple[float, float]:
  """The 95 % interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

  Args:
    total: at least 1.
  """
  z, share = scipy.special.ndtri((1 + LEVEL) / 2), count / total
  spread = math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
  middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
  reach = z * spread / (1 + z**2 / total)
  return max(float(middle - reach), 0.0), min(float(middle + reach), 1.0)


def paired_t(differences) -> dict[str, float]:
  """Mean of paired differences, with a 95 % interval and Student's t test over seeds.

  Args:
    differences: float [num_seeds], treatment minus control of each seed.

  Returns:
    'mean', 'sd' (of a difference), 'low', 'high' and 'p' (two-sided). With one seed all
    but the mean are NaN. Equal differences, which accuracies of few images may have, do
    not show how much chance adds: then there is no interval (NaN), and p is 1.
  """
  n, mean = len(differences), float(np.mean(differences))
  if n < 2:
    return {'mean': mean, **dict.fromkeys(('sd', 'low', 'high', 'p'), math.nan)}
  sd = float(np.std(differences, ddof=1))
  if sd < 1e-9:
    return {'mean': mean, 'sd': 0.0, 'low': math.nan, 'high': math.nan, 'p': 1.0}
  error = sd / math.sqrt(n)
  reach = error * float(scipy.special.stdtrit(n - 1, (1 + LEVEL) / 2))
  p = float(2 * scipy.special.stdtr(n - 1, -abs(mean) / error))
  return {'mean': mean, 'sd': sd, 'low': mean - reach, 'high': mean + reach, 'p': p}


def detectable(sd, num_seeds, num_comparisons=1) -> float:
  """The smallest true effect that a design would have found with a probability of 0.8.

  Args:
    sd: standard deviation of a paired difference over seeds.
    num_seeds: number of pairs.
    num_comparisons: verdicts in the family. The hardest step of Holm's procedure is the
      Bonferroni correction.

  Returns:
    A difference; NaN with fewer than 2 seeds, or where they do not differ.
  """
  if num_seeds < 2 or not sd > 1e-9:
    return math.nan
  freedom = num_seeds - 1
  reach = scipy.special.stdtrit(freedom, 1 - (1 - LEVEL) / 2 / num_comparisons)
  # In standard errors: the test statistic is noncentral t.
  effect = scipy.special.nctdtrinc(freedom, 1 - POWER, reach)
  return float(effect * sd / math.sqrt(num_seeds))


def holm(p_values, num_comparisons=None) -> np.ndarray:
  """Adjusts p-values for their number (Holm 1979, Scand. J. Statist. 6, 65-70).

  Args:
    p_values: float [m].
    num_comparisons: size of the family, if some p-values are not known yet; None for m.

  Returns:
    float64 [m]. If all those of at most 0.05 are called effects, the chance of any false
    one is at most 5 %, however the tests depend on each other.
  """
  p_values = np.asarray(p_values, float)
  order, m = np.argsort(p_values, kind='stable'), len(p_values)
  largest = num_comparisons or m
  stepped = np.maximum.accumulate(p_values[order] * np.arange(largest, largest - m, -1))
  adjusted = np.empty(m)
  adjusted[order] = np.minimum(stepped, 1)
  return adjusted


def resample(treatment, control, *, num_draws=2000, seed=0) -> tuple[float, float]:
  """A 95 % interval of the difference in accuracy over seeds and test images together.

  Seeds are drawn with replacement, then images, the same ones for all seeds: resampling
  images for each seed separately would ignore that all seeds share the test images.

  Args:
    treatment, control: bool [num_seeds, num_images], which images were right.

  Returns:
    `(low, high)`, percentiles of the drawn differences.
  """
  differences = np.asarray(treatment, np.int8) - np.asarray(control, np.int8)
  num_seeds, num_images = differences.shape
  rng, drawn = np.random.default_rng(seed), np.empty(num_draws)
  for i in range(num_draws):
    seeds = rng.integers(0, num_seeds, num_seeds)
    images = rng.integers(0, num_images, num_images)
    by_image = differences[seeds].sum(0)
    drawn[i] = by_image[images].mean() / num_seeds
  low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return float(low), float(high)


def verdict(mean, adjusted_p, num_seeds) -> str:
  """'helps', 'hurts', 'no difference shown' or 'not enough seeds for a verdict'.

  Args:
    mean: of the paired differences.
    adjusted_p: by `holm` over the arms that are compared.
  """
  if num_seeds < MIN_SEEDS:
    return 'not enough seeds for a verdict'
  if adjusted_p <= 1 - LEVEL:
    return 'helps' if mean > 0 else 'hurts'
  return 'no difference shown'
