"""Distances between the features of real and of generated images.

Arrays in, numbers out: any extractor may have made the features, and a score has to be
named after it. Only with Inception's features is a Fréchet distance the FID.

All pairs of two sets are met a block at a time, its rows dealt to the devices of one
process, so that memory grows with the sets and not with the pairs. A block program has
one shape for a chunk size: the last chunk is padded, and the padding never counts.
Distances in float32 come with a bound on their rounding, and what they leave open, who
the neighbours are and the edges of balls, is settled in float64 on the host.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

# Shortlisted beyond k: enough that rounding seldom leaves the k nearest open.
_SPARE = 8


def _features(a, b, least=1):
  a, b = np.asarray(a), np.asarray(b)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(f'Features must be [N, D] of one D, not {a.shape} and {b.shape}.')
  if min(len(a), len(b)) < least:
    raise ValueError(f'Needs {least} or more of each set, not {len(a)} and {len(b)}.')
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise ValueError('Features must be finite.')
  return a, b


def _distance(a, b):
  return np.linalg.norm(np.subtract(a, b, dtype=np.float64), axis=-1)


def _centre(a, b):
  """Moves b's mean to 0, where |a|^2 + |b|^2 - 2 ab cancels least: float32 copies."""
  mean = b.mean(0, dtype=np.float64)
  return np.float32(a - mean), np.float32(b - mean)


def _split(arrays, size):
  """Yields chunks of arrays along their first axes, the last one padded with zeros."""
  for first in range(0, len(arrays[0]), size):
    parts = [x[first : first + size] for x in arrays]
    yield tuple(np.pad(x, [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)]) for x in parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _deal(block, mesh, rows, columns):
  # Left to the partitioner, `top_k` would gather every row on every device.
  own = PartitionSpec(mesh.axis_names)
  dealt = jax.shard_map(block, mesh=mesh, in_specs=(own, PartitionSpec()), out_specs=own)
  return dealt(rows, columns)


def _sweep(block, rows, columns, *, layout, chunk):
  """Runs a block program on every chunk of rows with every chunk of columns.

  Args:
    block: function of a chunk of rows and one of columns to arrays [rows, ...], the same
      object every time or it would be compiled again.
    rows: tuple of arrays [N, ...].
    columns: tuple of arrays [M, ...].
    layout: the `Layout` whose devices share a chunk's rows.
    chunk: rows of either chunk; those of the first are rounded up to the devices.

  Yields:
    For each chunk of rows their slice and the results on the host without padded rows, a
    list over the chunks of columns.
  """
  mesh, size = layout.mesh, layout.share(chunk) * layout.num_devices
  own = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  columns = [layout.place(part) for part in _split(columns, chunk)]
  for number, part in enumerate(_split(rows, size)):
    part = jax.device_put(part, own)
    results = jax.device_get([_deal(block, mesh, part, column) for column in columns])
    first = number * size
    count = min(size, len(rows[0]) - first)
    yield slice(first, first + count), jax.tree.map(lambda x, n=count: x[:n], results)


def _products(x, y):
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _squared_distances(x, y):
  """Squared distances [rows, columns] and how far rounding may have moved them."""
  scale = jnp.sum(x * x, -1)[:, None] + jnp.sum(y * y, -1)
  rounding = 8 * jnp.finfo(x.dtype).eps * x.shape[-1] ** 0.5 * scale
  return scale - 2 * _products(x, y), rounding


@functools.cache
def _make_shortlist(count):
  """The `count` smallest lower bounds on squared distances of each row, and where."""

  def shortlist(rows, columns):
    (x,), (y, valid) = rows, columns
    squared, rounding = _squared_distances(x, y)
    bounds = jnp.where(valid, jnp.maximum(squared - rounding, 0), jnp.inf)
    negated, index = jax.lax.top_k(-bounds, count)
    return -negated, index

  return shortlist


def _balls(rows, columns):
  """In how many balls each row lies for certain, and [rows, columns] left open."""
  (x,), (y, valid, limits) = rows, columns
  squared, rounding = _squared_distances(x, y)
  doubtful = valid & (jnp.abs(squared - limits) <= rounding)
  return jnp.sum(valid & ~doubtful & (squared <= limits), -1), doubtful


def _kernel_sums(rows, columns):
  (x,), (y,) = rows, columns
  return jnp.sum(_kernel(_products(x, y) / x.shape[-1]), -1)


def _kernel(products):
  """(products + 1)^3 - 1: the 1 cancels in the distance, and padding adds nothing."""
  return products * (3 + products * (3 + products))


def _root(centred):
  """R [D, D] for which R'R is the covariance of centred features [N, D]."""
  covariance = centred.T @ centred / (len(centred) - 1)
  values, vectors = np.linalg.eigh(covariance)
  # What rounding leaves of a 0 is tiny; its root is not.
  noise = values[-1] * len(values) * np.finfo(values.dtype).eps
  return np.sqrt(np.where(values > noise, values, 0))[:, None] * vectors.T


def frechet_distance(real, generated):
  """Squared Fréchet distance between Gaussians fitted to two sets.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of Dowson & Landau (1982) and, between
  features of images, Heusel et al. (2017, arXiv 1706.08500, "Performance Measure"). It
  shrinks with the number of images: only distances of equally many compare.

  Args:
    real: floats [N, D], N at least 2.
    generated: floats [M, D], M at least 2.

  Returns:
    A float, 0 or more, from unbiased covariances in float64.

  Raises:
    ValueError: if a set has fewer than 2 rows, or the features do not match.
  """
  sets = _features(real, generated, least=2)
  means = [x.mean(0, dtype=np.float64) for x in sets]
  roots = [_root(x - mean) for x, mean in zip(sets, means, strict=True)]
  shift = np.sum((means[0] - means[1]) ** 2)
  spread = sum(np.sum(root**2) for root in roots)
  # C = R'R, so that the singular values of R1 R2' are the roots of C1 C2's eigenvalues.
  shared = np.linalg.norm(roots[0] @ roots[1].T, 'nuc')
  return float(max(shift + spread - 2 * shared, 0))


def kernel_distance(real, generated, *, layout, chunk=1024):
  """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

  Bińkowski et al. (2018, arXiv 1801.01401, "Kernel Inception Distance"), over all pairs
  rather than a mean over subsets.

  Args:
    real: floats [N, D], N at least 2.
    generated: floats [M, D], M at least 2.
    layout: the `Layout` whose devices share the work.
    chunk: rows of a block.

  Returns:
    A float; 0 on average for sets of one distribution, and so at times below.

  Raises:
    ValueError: if a set has fewer than 2 rows, or the features do not match.
  """
  real, generated = _features(real, generated, least=2)

  def total(a, b):
    rows, columns = (np.float32(a),), (np.float32(b),)
    sweep = _sweep(_kernel_sums, rows, columns, layout=layout, chunk=chunk)
    return sum(np.sum(x, dtype=np.float64) for _, sums in sweep for x in sums)

  def within(a):
    norms = np.sum(np.square(a, dtype=np.float64), -1)
    itself = np.sum(_kernel(norms / a.shape[1]))
    return (total(a, a) - itself) / (len(a) * (len(a) - 1))

  between = total(real, generated) / (len(real) * len(generated))
  return float(within(real) + within(generated) - 2 * between)


def nearest(queries, references, k, *, layout, chunk=1024, exclude_self=False):
  """The k nearest references of every query, by Euclidean distance.

  Args:
    queries: floats [N, D].
    references: floats [M, D].
    k: neighbours, from 1 to the number of references that a query may have.
    layout: the `Layout` whose devices share the work.
    chunk: rows of a block.
    exclude_self: leave reference i out for query i, where both are the same array.

  Returns:
    Distances float64 [N, k] in ascending order, 0 for a copy, and the references' indices
    int [N, k].

  Raises:
    ValueError: if k is out of range, or the features do not match.
  """
  queries, references = _features(queries, references)
  available = len(references) - exclude_self
  if not 1 <= k <= available:
    raise ValueError(f'k must be from 1 to the {available} references, not {k}.')
  count = k + exclude_self + _SPARE
  block = _make_shortlist(min(count, chunk))
  x, y = _centre(queries, references)
  columns = (y, np.ones(len(y), bool))

  def rank(query, candidates):
    if exclude_self:
      candidates = candidates[candidates != query]
    distances = _distance(queries[query], references[candidates])
    order = np.argsort(distances, kind='stable')[:k]
    return distances[order], candidates[order]

  found = []
  for rows, lists in _sweep(block, (x,), columns, layout=layout, chunk=chunk):
    bounds = np.concatenate([bounds for bounds, _ in lists], 1)
    index = np.concatenate([at + i * chunk for i, (_, at) in enumerate(lists)], 1)
    best = np.argsort(bounds, 1, kind='stable')[:, : min(count, len(y))]
    for row, query in enumerate(range(rows.start, rows.stop)):
      ranked = rank(query, np.sort(index[row, best[row]]))
      if ranked[0][-1] ** 2 > bounds[row, best[row, -1]]:
        ranked = rank(query, np.arange(len(y)))
      found.append(ranked)
  distances, indices = zip(*found, strict=True)
  return np.stack(distances), np.stack(indices)


def count_within(queries, centres, radii, *, layout, chunk=1024):
  """Counts the balls that each query lies in, their surfaces included.

  Args:
    queries: floats [N, D].
    centres: floats [M, D].
    radii: floats [M], 0 or more, or one for all.
    layout: the `Layout` whose devices share the work.
    chunk: rows of a block.

  Returns:
    int [N], from 0 to M.

  Raises:
    ValueError: if the features do not match, or the radii the centres.
  """
  queries, centres = _features(queries, centres)
  radii = np.broadcast_to(np.asarray(radii, np.float64), len(centres))
  x, y = _centre(queries, centres)
  columns = (y, np.ones(len(y), bool), np.float32(radii**2))
  counts = np.zeros(len(queries), int)
  for rows, blocks in _sweep(_balls, (x,), columns, layout=layout, chunk=chunk):
    for i, (certain, doubtful) in enumerate(blocks):
      counts[rows] += certain
      for row in np.flatnonzero(doubtful.any(1)):
        at = i * chunk + np.flatnonzero(doubtful[row])
        query = rows.start + row
        counts[query] += np.sum(_distance(queries[query], centres[at]) <= radii[at])
  return counts


def manifold_scores(real, generated, *, k=5, layout, chunk=1024):
  """Precision, recall, density and coverage.

  A set's manifold is the union of the balls around its members that reach their k-th
  nearest other member. Precision and recall: Kynkäänniemi et al. (2019, arXiv 1904.06991,
  section 2); density and coverage: Naeem et al. (2020, arXiv 2002.09797, section 3). All
  depend on the sizes of the sets: only scores of equally many compare.

  Args:
    real: floats [N, D].
    generated: floats [M, D].
    k: the neighbour that a ball reaches, from 1 and below both N and M.
    layout: the `Layout` whose devices share the work.
    chunk: rows of a block.

  Returns:
    Dict of floats: 'precision', share of the generated in the real manifold; 'recall',
    share of the real in the generated one; 'density', mean number of real balls that a
    generated lies in, over k, 0 or more and about 1 for equal distributions; 'coverage',
    share of real balls that hold a generated.

  Raises:
    ValueError: if k is out of range, or the features do not match.
  """
  near = functools.partial(nearest, layout=layout, chunk=chunk)
  within = functools.partial(count_within, layout=layout, chunk=chunk)
  reach, generated_reach = (
    near(x, x, k, exclude_self=True)[0][:, -1] for x in (real, generated)
  )
  balls = within(generated, real, reach)
  closest = near(real, generated, 1)[0][:, 0]
  return {
    'precision': float(np.mean(balls > 0)),
    'recall': float(np.mean(within(real, generated, generated_reach) > 0)),
    'density': float(np.mean(balls) / k),
    'coverage': float(np.mean(closest <= reach)),
  }


def _share_below(distances, usual):
  """Share of the distances that are below the 1 % quantile of the usual ones, or 0."""
  return float(np.mean((distances < np.quantile(usual, 0.01)) | (distances == 0)))


def memorisation(generated, train, held_out, *, layout, chunk=1024):
  """Whether a generator copies its training set, or itself.

  Held-out real images say how close to the training set, and to each other, fresh images
  come. A larger set lies closer together: for 'duplicates', as many should be generated
  as are held out.

  Args:
    generated: floats [N, D], N at least 2.
    train: floats [M, D], M at least 1: what the generator was trained on.
    held_out: floats [K, D], K at least 2: real ones that it was not.
    layout: the `Layout` whose devices share the work.
    chunk: rows of a block.

  Returns:
    Dict of floats: 'nearest_train', median over the generated of the distance to the
    nearest training example; 'nearest_train_real', the same of the held-out; 'ratio', of
    the first to the second, near 0 for copies, about 1 for fresh images and NaN if the
    second is 0; 'memorised', share of the generated that are closer to a training example
    than the closest 1 % of the held-out, or copies: about 0.01 for fresh images;
    'duplicates', likewise by the distance to the nearest other of one's own set.

  Raises:
    ValueError: if a set has too few rows, or the features do not match.
  """
  near = functools.partial(nearest, k=1, layout=layout, chunk=chunk)
  to_train, usual = (near(x, train)[0] for x in (generated, held_out))
  to_others, usual_others = (
    near(x, x, exclude_self=True)[0] for x in (generated, held_out)
  )
  first, second = float(np.median(to_train)), float(np.median(usual))
  return {
    'nearest_train': first,
    'nearest_train_real': second,
    'ratio': first / second if second else float('nan'),
    'memorised': _share_below(to_train, usual),
    'duplicates': _share_below(to_others, usual_others),
  }


def by_class(score, real, real_labels, generated, generated_labels, num_classes):
  """Scores every class by itself.

  Args:
    score: `(real, generated) -> result` of features [N, D] and [M, D].
    real: floats [N, D].
    real_labels: ints [N], in 0..num_classes - 1.
    generated: floats [M, D].
    generated_labels: ints [M], in 0..num_classes - 1.
    num_classes: how many there are.

  Returns:
    List of `num_classes` results, None for a class with too few rows: where `score`
    raises ValueError.

  Raises:
    ValueError: if the features of the whole sets do not match.
  """
  real, generated = _features(real, generated)
  real_labels, generated_labels = np.asarray(real_labels), np.asarray(generated_labels)
  results = []
  for label in range(num_classes):
    try:
      result = score(real[real_labels == label], generated[generated_labels == label])
    except ValueError:
      result = None
    results.append(result)
  return results


def class_diversity(real, real_labels, generated, generated_labels):
  """How much the generated images of a class differ, against the real ones of it.

  Args:
    real: images or features [N, ...].
    real_labels: ints [N].
    generated: images or features [M, ...], of the same further axes.
    generated_labels: ints [M].

  Returns:
    The variance within the classes of the generated over that of the real, averaged over
    the classes: about 1 for equal distributions, 0 for one image a class.
  """

  def spread(values, labels, label):
    return np.mean(np.var(values[labels == label], axis=0, dtype=np.float64))

  ratios = []
  for label in np.intersect1d(real_labels, generated_labels):
    usual = spread(real, real_labels, label)
    if usual > 0:
      ratios.append(spread(generated, generated_labels, label) / usual)
  return float(np.mean(ratios)) if ratios else float('nan')
