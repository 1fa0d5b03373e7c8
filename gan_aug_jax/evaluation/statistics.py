"""What paired results show, and how surely.

Seeds are the unit of a comparison: an arm and its control share the subset, the
initialisation and the order of real examples of a seed, so their difference is taken
within it. Images are the unit only where there is one seed.
"""

import math

import numpy as np
import scipy.optimize
import scipy.stats

LEVEL = 0.95
MIN_SEEDS = 3


def compare_predictions(treatment, control, labels):
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


def paired_t(differences, level=LEVEL):
  """Mean of paired differences, with an interval and a test by Student's t over seeds.

  Args:
    differences: float [num_seeds], treatment minus control of each seed.
    level: of the interval.

  Returns:
    Dict of floats: 'mean', 'sd' (of a difference), 'low', 'high' and 'p' (two-sided).
    With one seed all but the mean are NaN. Differences that are all equal, as accuracies
    of few images may be, say nothing of chance: no interval, NaN, and p is 1.
  """
  differences = np.asarray(differences, float)
  n, mean = len(differences), float(np.mean(differences))
  if n < 2:
    return {'mean': mean, **dict.fromkeys(('sd', 'low', 'high', 'p'), math.nan)}
  sd = float(np.std(differences, ddof=1))
  if sd < 1e-9:
    return {'mean': mean, 'sd': 0.0, 'low': math.nan, 'high': math.nan, 'p': 1.0}
  error = sd / math.sqrt(n)
  reach = scipy.stats.t.ppf((1 + level) / 2, n - 1)
  return {
    'mean': mean,
    'sd': sd,
    'low': mean - reach * error,
    'high': mean + reach * error,
    'p': float(2 * scipy.stats.t.sf(abs(mean) / error, n - 1)),
  }


def detectable(sd, num_seeds, num_comparisons=1, power=0.8):
  """The smallest true effect that a design would have found.

  Args:
    sd: standard deviation of a paired difference over seeds.
    num_seeds: of pairs.
    num_comparisons: verdicts that share the error; the hardest step of Holm's is the
      Bonferroni one.
    power: how often it would have been found.

  Returns:
    A difference; NaN with fewer than 2 seeds, or where they do not differ.
  """
  if num_seeds < 2 or not sd > 1e-9:
    return math.nan
  reach = scipy.stats.t.ppf(1 - (1 - LEVEL) / 2 / num_comparisons, num_seeds - 1)

  def missing(effect):  # in standard errors; the test statistic is noncentral t
    return scipy.stats.nct.sf(reach, num_seeds - 1, effect) - power

  found = scipy.optimize.brentq(missing, 0, 20 * reach + 20)
  return float(found * sd / math.sqrt(num_seeds))


def holm(p_values, num_comparisons=None):
  """Adjusts p-values for how many there are (Holm 1979, Scand. J. Statist. 6, 65-70).

  Args:
    p_values: float [m].
    num_comparisons: of the family, where some of them are not known yet; None for m.

  Returns:
    float64 [m]; where all those of at most 0.05 are called effects, the chance of any
    false one is at most 5 %, whatever hangs on what.
  """
  p_values = np.asarray(p_values, float)
  order, m = np.argsort(p_values, kind='stable'), len(p_values)
  largest = num_comparisons or m
  stepped = np.maximum.accumulate(p_values[order] * np.arange(largest, largest - m, -1))
  adjusted = np.empty(m)
  adjusted[order] = np.minimum(stepped, 1)
  return adjusted


def resample(treatment, control, *, num_draws=2000, seed=0, level=LEVEL):
  """An interval of the difference in accuracy over seeds and test images together.

  Seeds are drawn with replacement, then images, the same for all seeds: test images are
  shared, so resampling each seed's alone would count their luck as if it were many.

  Args:
    treatment, control: bool [num_seeds, num_images], which images were right.
    num_draws: bootstrap draws.
    seed: of the draws.
    level: of the interval.

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
  tail = 100 * (1 - level) / 2
  low, high = np.percentile(drawn, [tail, 100 - tail])
  return float(low), float(high)


def verdict(mean, adjusted_p, num_seeds):
  """'helps', 'hurts', 'no difference shown' or 'not enough seeds for a verdict'.

  Args:
    mean: of the paired differences.
    adjusted_p: by `holm` over the arms that are compared.
    num_seeds: of pairs.
  """
  if num_seeds < MIN_SEEDS:
    return 'not enough seeds for a verdict'
  if adjusted_p <= 1 - LEVEL:
    return 'helps' if mean > 0 else 'hurts'
  return 'no difference shown'
