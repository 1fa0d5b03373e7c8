"""Distances between sets of features, against plain NumPy and SciPy."""

import functools

import numpy as np
import pytest
import scipy.linalg

from gan_aug_jax.evaluation import fidelity


@pytest.fixture(params=[1, 200, 2**20])
def blocks(request, monkeypatch):
  """Blocks of one row, of some rows that do not divide the sets, and of all rows."""
  monkeypatch.setattr(fidelity, '_PAIRS', request.param)


def normal(count, dims=6, seed=0, offset=0.0):
  return offset + np.random.default_rng(seed).normal(size=(count, dims))


def distances(a, b):
  return np.sqrt(np.sum((a[:, None] - b[None]) ** 2, -1))


def frechet_by_root(a, b):
  covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
  shift = a.mean(0) - b.mean(0)
  return shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.mark.parametrize('counts', [(50, 70), (50, 5), (4, 5)])  # 6 dims: rank-deficient
def test_frechet_distance_equals_the_matrix_root(counts):
  a, b = normal(counts[0]), 1.5 * normal(counts[1], seed=1) + 0.3
  expected = frechet_by_root(a, b)
  assert fidelity.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
  assert fidelity.frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('count', [40, 3])  # 3 of 6 dims: rank-deficient
def test_frechet_distance_of_shifted_and_scaled_sets_is_a_closed_form(count):
  a = normal(count)
  shift = np.arange(6.0)
  shifted = fidelity.frechet_distance(a, a + shift)
  assert shifted == pytest.approx(shift @ shift, rel=1e-12)
  assert fidelity.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
  centred = a - a.mean(0)
  spread = np.trace(np.cov(a, rowvar=False))
  scaled = fidelity.frechet_distance(centred, 3 * centred)
  assert scaled == pytest.approx((3 - 1) ** 2 * spread, rel=1e-12)


def test_frechet_distance_to_two_points_is_a_closed_form():
  """A covariance 2 uu', of rank 1: what rounding makes of its zeros must not count."""
  (mean, u), b = normal(2, 30), normal(50, 30, seed=1)
  shift, covariance = mean - b.mean(0), np.cov(b, rowvar=False)
  spread = 2 * u @ u + np.trace(covariance)
  expected = shift @ shift + spread - 2 * np.sqrt(2 * u @ covariance @ u)
  result = fidelity.frechet_distance([mean - u, mean + u], b)
  assert result == pytest.approx(expected, rel=1e-12)


def kernel_by_loops(a, b):
  kernel = lambda x, y: (x @ y / len(x) + 1) ** 3
  within = lambda s: np.mean(
    [kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]
  )
  between = np.mean([kernel(x, y) for x in a for y in b])
  return within(a) + within(b) - 2 * between


def test_kernel_distance_equals_loops(blocks):
  a, b = normal(37), 1.2 * normal(50, seed=1) + 0.2
  result = fidelity.kernel_distance(a, b)
  assert result == pytest.approx(kernel_by_loops(a, b), rel=1e-12)


def test_kernel_distance_of_one_distribution_is_0_on_average():
  draws = [
    fidelity.kernel_distance(normal(16, seed=i), normal(16, seed=100 + i))
    for i in range(40)
  ]
  assert min(draws) < 0 < max(draws)
  assert abs(np.mean(draws)) < 3.5 * np.std(draws) / 40**0.5  # 1, were pairs (i, i) in it


@pytest.mark.parametrize('k', [1, 9])
def test_nearest_equals_brute_force(blocks, k):
  queries, references = normal(21), normal(37, seed=1)
  table = distances(queries, references)
  found, index = fidelity.nearest(queries, references, k)
  np.testing.assert_array_equal(index, np.argsort(table, 1)[:, :k])
  np.testing.assert_allclose(found, np.sort(table, 1)[:, :k], rtol=1e-14)
  table = distances(references, references)
  np.fill_diagonal(table, np.inf)
  found, index = fidelity.nearest(references, references, k, exclude_self=True)
  np.testing.assert_array_equal(index, np.argsort(table, 1)[:, :k])
  np.testing.assert_allclose(found, np.sort(table, 1)[:, :k], rtol=1e-14)


def test_nearest_gives_every_reference_once():
  features = normal(18, offset=1e3)
  found, index = fidelity.nearest(features, features, 18)
  assert found.dtype == np.float64 and np.issubdtype(index.dtype, np.integer)
  assert all(sorted(row) == list(range(18)) for row in index)
  np.testing.assert_array_equal(index[:, 0], np.arange(18))
  _, index = fidelity.nearest(features, features, 17, exclude_self=True)
  assert all(sorted([i, *row]) == list(range(18)) for i, row in enumerate(index))


@pytest.mark.parametrize('offset', [0, 1e4])
def test_nearest_finds_copies_at_0(offset):
  references = normal(60, 32, offset=offset).astype(np.float32)
  queries = references[::3]
  found, index = fidelity.nearest(queries, references, 2)
  np.testing.assert_array_equal(found[:, 0], 0)
  np.testing.assert_array_equal(index[:, 0], np.arange(0, 60, 3))
  table = np.sort(distances(np.float64(queries), np.float64(references)), 1)
  np.testing.assert_allclose(found[:, 1], table[:, 1], rtol=1e-14)


def test_nearest_gives_ties_to_the_lower_index(blocks):
  corners = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]] * 5)
  found, index = fidelity.nearest(np.zeros((3, 2)), corners, 7)
  np.testing.assert_array_equal(index, np.tile(np.arange(7), (3, 1)))
  np.testing.assert_array_equal(found, 1)


@pytest.mark.parametrize('width', [1e-6, 0.05])
def test_nearest_tells_apart_what_a_matrix_product_cannot(width):
  """Two clusters so far apart that rounding levels distances inside one."""
  features = normal(600, 3) * width
  features[300:] += 100
  found, index = fidelity.nearest(features, features, 3, exclude_self=True)
  table = distances(features, features)
  np.fill_diagonal(table, np.inf)
  np.testing.assert_allclose(found, np.sort(table, 1)[:, :3], rtol=1e-14)
  np.testing.assert_array_equal(index, np.argsort(table, 1)[:, :3])


def test_count_within_equals_brute_force_and_counts_the_surface(blocks):
  queries, centres = normal(21), normal(37, seed=1)
  table = distances(queries, centres)
  # Balls that a query each lies on: a matrix product cannot tell on which side.
  radii = table[np.arange(37) % 21, np.arange(37)]
  radii[::2] = np.nextafter(radii[::2], 0)
  radii[5] = np.inf
  counts = fidelity.count_within(queries, centres, radii)
  np.testing.assert_array_equal(counts, np.sum(table <= radii, 1))
  counts = fidelity.count_within(centres, centres, 0.0)
  np.testing.assert_array_equal(counts, 1)


def scores_by_tables(real, generated, k):
  """The definitions of the papers, written out."""
  reach = np.sort(distances(real, real), 1)[:, k]  # 0 is the distance to oneself
  generated_reach = np.sort(distances(generated, generated), 1)[:, k]
  inside = distances(generated, real) <= reach  # [generated, real]
  inside_generated = distances(real, generated) <= generated_reach
  return {
    'precision': np.mean(inside.any(1)),
    'recall': np.mean(inside_generated.any(1)),
    'density': np.mean(inside.sum(1)) / k,
    'coverage': np.mean(inside.any(0)),
  }


def test_manifold_scores_equal_their_definitions(blocks):
  real, generated = normal(37), 0.7 * normal(50, seed=1) + 0.4
  scores = fidelity.manifold_scores(real, generated, k=3)
  assert scores == pytest.approx(scores_by_tables(real, generated, 3), rel=1e-12)
  assert len({*scores.values()} - {0, 1}) == 4  # or a mix-up would not show


def test_manifold_scores_of_copies_hit_every_surface():
  real = normal(37)
  scores = fidelity.manifold_scores(real, real[::-1], k=3)
  # Every ball holds its centre and k others, the last of them on its surface.
  assert scores == {'precision': 1, 'recall': 1, 'density': 4 / 3, 'coverage': 1}


def test_manifold_scores_count_the_surface():
  line = lambda *values: np.stack([values, np.zeros(len(values))], 1)
  scores = fidelity.manifold_scores(line(0, 1, 3), line(-1, -1.5), k=1)
  # Of the real balls only the first holds a generated, and that on its surface.
  expected = {'precision': 1 / 2, 'recall': 0, 'density': 1 / 2, 'coverage': 1 / 3}
  assert scores == pytest.approx(expected)


def test_manifold_scores_tell_fidelity_from_diversity():
  real = np.concatenate([normal(20), normal(20, seed=1, offset=50)])
  one_mode = normal(40, seed=2)
  scores = fidelity.manifold_scores(real, 0.3 * one_mode, k=3)
  assert scores['precision'] == 1 and scores['recall'] < 0.5
  assert scores['coverage'] <= 0.5


def test_replayed_training_images_are_memorised_and_fresh_ones_are_not():
  train, held_out = normal(200), normal(120, seed=1)
  score = lambda x: fidelity.memorisation(x, train, held_out)
  fresh = score(normal(120, seed=2))
  assert fresh['memorised'] < 0.1 and fresh['duplicates'] < 0.1
  assert fresh['ratio'] == pytest.approx(1, abs=0.2)
  expected = np.median(distances(held_out, train).min(1))
  assert fresh['nearest_train_real'] == pytest.approx(expected, rel=1e-12)
  copies = train[:120] + 1e-3 * normal(120, seed=3)
  replayed = score(copies)
  assert replayed['memorised'] > 0.9 and replayed['ratio'] < 0.05
  assert replayed['duplicates'] < 0.1
  expected = np.median(distances(copies, train).min(1))
  assert replayed['nearest_train'] == pytest.approx(expected, rel=1e-12)
  twice = score(np.repeat(normal(60, seed=4), 2, axis=0))
  assert twice['duplicates'] > 0.9 and twice['memorised'] < 0.1


def test_memorised_is_strictly_below_the_quantile_or_a_copy():
  train = np.zeros((1, 2))
  line = lambda values: np.stack([values, np.zeros(len(values))], 1)
  held_out = line(np.full(50, 2.0))
  score = lambda x, held: fidelity.memorisation(line(x), train, held)
  tied = score([2.0, 2.0, 1.9, 3.0], held_out)
  assert (tied['memorised'], tied['ratio']) == (0.25, 1.0)
  usual = fidelity.kth_distance(held_out, train)
  assert fidelity.memorised_share(np.array([2.0, 2.0, 1.9, 3.0]), usual) == 0.25
  # The held-out are copies of each other, so only what has a copy counts.
  assert tied['duplicates'] == 0.5
  copied = score([0.0, 1.0, 2.0, 3.0], line(np.zeros(50)))
  assert copied['memorised'] == 0.25 and np.isnan(copied['ratio'])


def test_by_class_leaves_out_classes_with_too_few_rows():
  real, generated = normal(30), normal(24, seed=1)
  real_labels = np.repeat([0, 1, 3], 10)
  generated_labels = np.repeat([0, 1, 2, 3], [12, 1, 5, 6])
  args = real, real_labels, generated, list(generated_labels), 4
  results = fidelity.by_class(fidelity.frechet_distance, *args)
  assert results == [
    fidelity.frechet_distance(real[:10], generated[:12]),
    None,
    None,
    fidelity.frechet_distance(real[20:], generated[18:]),
  ]
  manifold = functools.partial(fidelity.manifold_scores, k=6)
  assert [bool(scores) for scores in fidelity.by_class(manifold, *args)] == [1, 0, 0, 0]


def test_wrong_arguments_raise():
  a = normal(5)
  for score in (fidelity.frechet_distance, fidelity.kernel_distance):
    for few in ((a[:1], a), (a, a[:1]), (a[:0], a)):
      with pytest.raises(ValueError, match='2 or more'):
        score(*few)
    for odd in (a[:, :3], a[0], a[..., None]):
      with pytest.raises(ValueError, match='one D'):
        score(a, odd)
    with pytest.raises(ValueError, match='finite'):
      score(a, np.where(a == a[2, 1], np.nan, a))
  for k in (0, 6):
    with pytest.raises(ValueError, match='from 1 to the 5'):
      fidelity.nearest(a, a, k)
  with pytest.raises(ValueError, match='from 1 to the 4'):
    fidelity.nearest(a, a, 5, exclude_self=True)
  with pytest.raises(ValueError, match='1 or more'):
    fidelity.nearest(a[:0], a, 1)
  for sets in ((a, normal(9)), (normal(9), a)):
    with pytest.raises(ValueError, match='from 1 to the 4'):
      fidelity.manifold_scores(*sets, k=5)
  with pytest.raises(ValueError, match='broadcast'):
    fidelity.count_within(a, a, np.ones(4))
  with pytest.raises(ValueError, match='one D'):
    fidelity.by_class(len, a, np.zeros(5), a[:, :3], np.zeros(5), 1)
