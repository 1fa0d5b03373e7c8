"""Intervals and verdicts against simulations with a known answer, and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats

from gan_aug_jax.evaluation import statistics

SEEDS = 5


@pytest.mark.parametrize(('count', 'total'), [(0, 5), (5, 5), (3, 10), (1234, 1500)])
def test_an_interval_of_a_share_equals_scipy(count, total):
  test = scipy.stats.binomtest(count, total)
  expected = test.proportion_ci(statistics.LEVEL, method='wilson')
  found = statistics.proportion_interval(count, total)
  assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_paired_t_equals_scipy():
  treatment, control = np.random.default_rng(0).normal(0.9, 0.02, (2, 7))
  found = statistics.paired_t(treatment - control)
  theirs = scipy.stats.ttest_rel(treatment, control)
  interval = theirs.confidence_interval(0.95)
  assert found['p'] == pytest.approx(theirs.pvalue, rel=1e-9)
  assert (found['low'], found['high']) == pytest.approx(tuple(interval), rel=1e-9)
  alone = statistics.paired_t([0.02])
  assert alone['mean'] == 0.02 and math.isnan(alone['low']) and math.isnan(alone['p'])
  # Equal differences, as 1 of 1,500 images each: no evidence without a spread.
  alike = statistics.paired_t(np.array([0.9001, 0.8001, 0.7001]) - [0.9, 0.8, 0.7])
  assert alike['p'] == 1 and math.isnan(alike['low'])


def test_holm_equals_its_definition():
  p_values = np.array([0.04, 0.001, 0.03, 0.5, 0.011])
  # Each is as small as the smallest level at which the procedure would reject it.
  levels = np.linspace(0, 1, 100_001)
  ranked = np.sort(p_values)

  def rejected(level):
    failing = np.flatnonzero(ranked > level / np.arange(5, 0, -1))
    return p_values < (ranked[failing[0]] if len(failing) else np.inf)

  found = [
    levels[np.argmax([rejected(x)[i] for x in levels[::50]]) * 50] for i in range(5)
  ]
  np.testing.assert_allclose(statistics.holm(p_values), found, atol=1e-3)
  # Those that are not known yet might be anything.
  padded = statistics.holm([*p_values, 1, 1])[:5]
  np.testing.assert_array_equal(statistics.holm(p_values, 7), padded)


def test_no_effect_is_seldom_called_one():
  """Five arms that share a control and do nothing: any false verdict at most in 5 %."""
  random = np.random.default_rng(2)
  false = 0
  for _ in range(1500):
    control = random.normal(0, 0.01, SEEDS)
    arms = random.normal(0, 0.01, (5, SEEDS))
    found = [statistics.paired_t(arm - control) for arm in arms]
    adjusted = statistics.holm([row['p'] for row in found])
    verdicts = [
      statistics.verdict(row['mean'], p, SEEDS)
      for row, p in zip(found, adjusted, strict=True)
    ]
    false += bool({'helps', 'hurts'} & set(verdicts))
  assert false / 1500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_an_effect_of_the_detectable_size_is_found_in_four_of_five():
  random, sd = np.random.default_rng(3), 0.01
  for seeds in (5, 10):
    effect = statistics.detectable(sd, seeds)
    runs = random.normal(effect, sd, (4000, seeds))
    found = np.mean([statistics.paired_t(row)['p'] < 0.05 for row in runs])
    assert found == pytest.approx(0.8, abs=6 * math.sqrt(0.8 * 0.2 / 4000))
    # Of six verdicts, by the hardest step of Holm's procedure.
    runs = random.normal(statistics.detectable(sd, seeds, 6), sd, (4000, seeds))
    found = np.mean([6 * statistics.paired_t(row)['p'] < 0.05 for row in runs])
    assert found == pytest.approx(0.8, abs=6 * math.sqrt(0.8 * 0.2 / 4000))


@pytest.mark.parametrize(
  ('seeds', 'images', 'sd', 'spread'), [(12, 300, 0.05, 0.1), (40, 40, 0.0, 0.35)]
)
def test_resampling_covers_seeds_and_images_together(seeds, images, sd, spread):
  """Seeds differ in skill and images in difficulty; each alone would be too narrow."""
  random, covered, trials = np.random.default_rng(4), 0, 150
  for trial in range(trials):
    effect = random.normal(0.05, sd, (seeds, 1))
    hard = random.uniform(-spread, spread, images)
    control = random.uniform(0, 1, (seeds, images)) < 0.5
    treatment = random.uniform(0, 1, (seeds, images)) < 0.5 + effect + hard
    low, high = statistics.resample(treatment, control, num_draws=200, seed=trial)
    covered += low <= 0.05 <= high
  assert 0.87 < covered / trials < 0.995  # percentiles of few draws are a little narrow
  same = np.ones((3, 50), bool)
  assert statistics.resample(same, same) == (0, 0)


@pytest.mark.parametrize(
  ('mean', 'p', 'seeds', 'expected'),
  [
    (0.01, 0.05, 5, 'helps'),
    (-0.01, 0.01, 5, 'hurts'),
    (0.01, 0.0501, 5, 'no difference shown'),
    (0.01, 0.001, 2, 'not enough seeds for a verdict'),
  ],
)
def test_verdict_goes_by_the_rule(mean, p, seeds, expected):
  assert statistics.verdict(mean, p, seeds) == expected


def test_paired_comparison_counts_what_only_one_got_right():
  labels = np.zeros(100, int)
  control, treatment = np.zeros(100, int), np.zeros(100, int)
  control[:12] = 1  # 12 wrong
  treatment[8:14] = 1  # 4 of the same wrong, and 2 others
  paired = statistics.compare_predictions(treatment, control, labels)
  assert (paired['gained'], paired['lost']) == (8, 2)
  assert paired['difference'] == pytest.approx(0.06)
  # Against the standard error of the per-image differences themselves, with two images
  # more: one that each of the two gets right, in halves.
  wins = (treatment == labels).astype(float) - (control == labels)
  weights = np.ones(104)
  weights[100:] = 0.5
  wins = np.append(wins, [1, -1, 0, 0])
  error = np.sqrt(np.cov(wins, aweights=weights, ddof=0) / 102)
  assert paired['high'] - paired['low'] == pytest.approx(2 * 1.96 * error)


def test_arms_that_are_right_on_the_same_few_images_may_still_differ():
  same = np.zeros(6, int)
  paired = statistics.compare_predictions(same, same, same)
  assert paired['difference'] == paired['gained'] == paired['lost'] == 0
  # The rule of three: with no difference in 6 images, up to half of others may differ.
  assert -0.5 < paired['low'] < -0.1 and 0.1 < paired['high'] < 0.5
