"""Distances between the features of real and of generated images.

Arrays in, numbers out. Any extractor may have made the features, and a score is named
after its extractor: only with Inception's features is a Fréchet distance the FID.

Everything is float64 on the host. Some rows of one set at a time meet the whole other
set, so memory does not grow with the number of pairs. A score raises ValueError if
features are not finite, if their number differs between the sets, or if a set has too few
rows.
"""

from collections.abc import Iterator, Mapping

import numpy as np

_PAIRS = 2**22  # pairs of rows at a time: 32 MiB of distances


def _check(a, b, least=1):
  """Two sets of features as float64 arrays [N, D] and [M, D]."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(f'Features must be [N, D] of one D, not {a.shape} and {b.shape}.')
  if min(len(a), len(b)) < least:
    raise ValueError(f'Needs {least} or more of each set, not {len(a)} and {len(b)}.')
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise ValueError('Features must be finite.')
  return a, b


def _blocks(a, b) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields rows of `a`, and their products with all of `b`: [rows, M]."""
  size = max(1, _PAIRS // len(b))
  for first in range(0, len(a), size):
    rows = slice(first, min(first + size, len(a)))
    yield rows, a[rows] @ b.T


def _squared_distances(a, b):
  """Yields rows of `a`, their squared distances to `b`, and a bound on rounding errors.

  A matrix product is several times as fast as subtracting every pair. But close rows
  cancel in it, so callers recompute by subtraction what the bound leaves open.
  """
  norms, others = np.sum(a**2, -1), np.sum(b**2, -1)
  # Twice that of sums of D products (Higham 2002, "Accuracy and Stability of Numerical
  # Algorithms", section 3.1), to be safe.
  error = 4 * (a.shape[1] + 2) * np.finfo(float).eps * (norms + others.max())
  for rows, squared in _blocks(a, b):
    squared *= -2
    squared += norms[rows, None]
    squared += others
    yield rows, squared, error[rows, None]


def _root(centred):
  """R [D, D] for which R'R is the covariance of centred features [N, D]."""
  covariance = centred.T @ centred / (len(centred) - 1)
  values, vectors = np.linalg.eigh(covariance)
  # What rounding leaves of a 0 is tiny; its root is not.
  noise = values[-1] * len(values) * np.finfo(float).eps
  return np.sqrt(np.where(values > noise, values, 0))[:, None] * vectors.T


def frechet_distance(real, generated) -> float:
  """Squared Fréchet distance between Gaussians fitted to two sets.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of Dowson & Landau (1982) and, between
  features of images, Heusel et al. (2017, arXiv 1706.08500, "Performance Measure"). It
  falls as the number of images grows: compare distances of equally many only.

  Args:
    real: floats [N, D], N at least 2.
    generated: floats [M, D], M at least 2.

  Returns:
    0 or more, from unbiased covariances.
  """
  real, generated = _check(real, generated, least=2)
  mean, generated_mean = real.mean(0), generated.mean(0)
  root, generated_root = _root(real - mean), _root(generated - generated_mean)
  shift = np.sum((mean - generated_mean) ** 2)
  spread = np.sum(root**2) + np.sum(generated_root**2)
  # C = R'R, so that the singular values of R1 R2' are the roots of C1 C2's eigenvalues.
  shared = np.linalg.norm(root @ generated_root.T, 'nuc')
  return float(max(shift + spread - 2 * shared, 0))


def kernel_distance(real, generated) -> float:
  """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

  Bińkowski et al. (2018, arXiv 1801.01401, "Kernel Inception Distance"), over all pairs
  rather than a mean over subsets.

  Args:
    real: floats [N, D], N at least 2.
    generated: floats [M, D], M at least 2.

  Returns:
    0 on average for two sets from one distribution, so it may be negative.
  """
  real, generated = _check(real, generated, least=2)

  def kernel(products):
    inner = products / real.shape[1] + 1
    return inner * inner * inner  # numpy's power is many times slower

  def total(a, b):
    return sum(np.sum(kernel(products)) for _, products in _blocks(a, b))

  def mean_within(a):
    pairs_with_itself = np.sum(kernel(np.sum(a**2, -1)))
    return (total(a, a) - pairs_with_itself) / (len(a) * (len(a) - 1))

  between = total(real, generated) / (len(real) * len(generated))
  return float(mean_within(real) + mean_within(generated) - 2 * between)


def nearest(
  queries, references, k, *, exclude_self=False
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest references of every query, by Euclidean distance.

  Args:
    queries: floats [N, D].
    references: floats [M, D].
    k: neighbours, from 1 to the number of references that a query may have.
    exclude_self: leave reference i out for query i, where both are the same array.

  Returns:
    Distances float64 [N, k] in ascending order, 0 for a copy, and the references' indices
    int [N, k], the lower one first where distances are equal.
  """
  queries, references = _check(queries, references)
  available = len(references) - exclude_self
  if not 1 <= k <= available:
    raise ValueError(f'k must be from 1 to the {available} references, not {k}.')
  distances = np.empty((len(queries), k))
  indices = np.empty((len(queries), k), int)
  for rows, squared, error in _squared_distances(queries, references):
    numbers = range(rows.start, rows.stop)
    if exclude_self:
      squared[np.arange(len(squared)), numbers] = np.inf
    kth = np.partition(squared, k - 1)[:, k - 1, None]
    for query, close in zip(numbers, squared <= kth + 2 * error, strict=True):
      found = np.flatnonzero(close)
      exact = np.linalg.norm(queries[query] - references[found], axis=1)
      order = np.argsort(exact, kind='stable')[:k]
      distances[query], indices[query] = exact[order], found[order]
  return distances, indices


def count_within(queries, centres, radii) -> np.ndarray:
  """Counts the balls that each query lies in, their surfaces included.

  Args:
    queries: floats [N, D].
    centres: floats [M, D].
    radii: floats [M], 0 or more, or one for all.

  Returns:
    int [N], from 0 to M.
  """
  queries, centres = _check(queries, centres)
  radii = np.broadcast_to(np.asarray(radii, np.float64), len(centres))
  counts = np.empty(len(queries), int)
  for rows, squared, error in _squared_distances(queries, centres):
    beyond = squared - radii**2
    counts[rows] = np.sum(beyond < -error, axis=1)
    doubtful = np.abs(beyond) <= error
    for row in np.flatnonzero(doubtful.any(1)):
      at, query = np.flatnonzero(doubtful[row]), rows.start + row
      exact = np.linalg.norm(queries[query] - centres[at], axis=1)
      counts[query] += np.sum(exact <= radii[at])
  return counts


def kth_distance(queries, references, k=1, *, exclude_self=False) -> np.ndarray:
  """Each query's distance to its k-th nearest reference, see `nearest`: float64 [N]."""
  distances, _ = nearest(queries, references, k, exclude_self=exclude_self)
  return distances[:, -1]


def manifold_scores(real, generated, *, k: int = 5) -> dict[str, float]:
  """Precision, recall, density and coverage.

  A set's manifold is the union of the balls around its members that reach their k-th
  nearest other member. Precision and recall: Kynkäänniemi et al. (2019, arXiv 1904.06991,
  section 2); density and coverage: Naeem et al. (2020, arXiv 2002.09797, section 3). All
  depend on the sizes of the sets: compare scores of equally many only.

  Args:
    real: floats [N, D].
    generated: floats [M, D].
    k: the neighbour that a ball reaches, from 1 and below both N and M.

  Returns:
    'precision', share of the generated in the real manifold; 'recall', share of the real
    in the generated manifold; 'density', mean number of real balls that a generated
    example lies in, over k: 0 or more, about 1 for equal distributions; 'coverage', share
    of the real balls that hold a generated example.
  """
  reach = kth_distance(real, real, k, exclude_self=True)
  generated_reach = kth_distance(generated, generated, k, exclude_self=True)
  balls = count_within(generated, real, reach)
  return {
    'precision': float(np.mean(balls > 0)),
    'recall': float(np.mean(count_within(real, generated, generated_reach) > 0)),
    'density': float(np.mean(balls) / k),
    'coverage': float(np.mean(kth_distance(real, generated) <= reach)),
  }


def memorised_share(distances, usual) -> float:
  """The share of distances that are 0, or below all but the closest 1 % of usual ones.

  Args:
    distances: [N], of generated examples to the nearest training example.
    usual: [K], of real examples that are held out.
  """
  below = distances < np.quantile(usual, 0.01)
  return float(np.mean(below | (distances == 0)))


def memorisation(generated, train, held_out) -> dict[str, float]:
  """Whether a generator copies its training set, or its own images.

  Held-out real images show how close fresh images come to the training set and to each
  other. A larger set lies closer together: for 'duplicates', generate as many images as
  are held out.

  Args:
    generated: floats [N, D], N at least 2.
    train: floats [M, D], M at least 1: what the generator was trained on.
    held_out: floats [K, D], K at least 2: real ones that it was not trained on.

  Returns:
    'nearest_train', median over the generated of the distance to the nearest training
    example; 'nearest_train_real', the same of the held-out; 'ratio', of the first to the
    second: near 0 for copies, about 1 for fresh images, NaN if the second is 0;
    'memorised', share of the generated that are copies, or closer to a training example
    than all but the closest 1 % of the held-out: about 0.01 for fresh images;
    'duplicates', likewise by the distance to the nearest other of the same set.
  """
  to_train, usual = (kth_distance(x, train) for x in (generated, held_out))
  to_others, usual_to_others = (
    kth_distance(x, x, exclude_self=True) for x in (generated, held_out)
  )
  median, usual_median = float(np.median(to_train)), float(np.median(usual))
  return {
    'nearest_train': median,
    'nearest_train_real': usual_median,
    'ratio': median / usual_median if usual_median else float('nan'),
    'memorised': memorised_share(to_train, usual),
    'duplicates': memorised_share(to_others, usual_to_others),
  }


def by_class(score, real, real_labels, generated, generated_labels, num_classes) -> list:
  """Scores each class separately.

  Args:
    score: `(real, generated) -> result` of features [N, D] and [M, D].
    real: floats [N, D].
    real_labels: ints [N], in 0..num_classes - 1.
    generated: floats [M, D].
    generated_labels: ints [M], in 0..num_classes - 1.

  Returns:
    `num_classes` results, None for a class with too few rows: where `score` raises
    ValueError.
  """
  real, generated = _check(real, generated)

  def score_class(label):
    rows, generated_rows = (np.equal(x, label) for x in (real_labels, generated_labels))
    try:
      return score(real[rows], generated[generated_rows])
    except ValueError:
      return None

  return [score_class(label) for label in range(num_classes)]


def class_variances(images, labels) -> dict[int, float]:
  """{label: mean variance of a pixel or feature} of the classes with two images.

  Args:
    images: images or features [N, ...].
    labels: ints [N].
  """
  counts = zip(*np.unique(labels, return_counts=True), strict=True)
  return {
    int(label): float(
      np.mean(np.var(images[labels == label], axis=0, dtype=np.float64, ddof=1))
    )
    for label, count in counts
    if count > 1
  }


def class_diversity(real: Mapping, generated: Mapping) -> float:
  """How much the generated images of a class differ, relative to the real ones.

  Args:
    real, generated: of `class_variances`.

  Returns:
    The ratio of the variances, averaged over the classes: about 1 for equal
    distributions, 0 for the same image again, NaN where no class has two different real
    images.
  """
  ratios = [x / real[label] for label, x in generated.items() if real.get(label)]
  return float(np.mean(ratios)) if ratios else float('nan')
