"""Scores a generator, and says what is wrong with it, while it still trains.

Everything comes from the run's own training and validation images: what chooses a
generator must not know more labels than the run may use.
"""

import functools
import math

import numpy as np

from gan_aug_jax.data.splits import Split
from gan_aug_jax.evaluation import evaluators, fidelity, probe
from gan_aug_jax.step import sampling

# When copies are looked for: training images, which take time, and images that are
# compared with them; and numbers of the former at once, which take memory.
_MOST_TRAIN, _MOST_COMPARED, _AT_ONCE = 50_000, 1000, 2**24


class Scores:
  """Scores frozen generators; `scores(variables, drawn) -> {name: float}`.

  The scores are 'diversity', see `fidelity.class_diversity`, 'memorised', see
  `fidelity.memorised_share`, and what `generator.select` asks for: 'cas' and 'cas_loss',
  the accuracy and loss (nats) on validation images of a probe trained on samples alone;
  or 'frechet', the distance to training images in the features of a probe trained on
  them.
  """

  def __init__(self, session, directory, dataset, draw):
    """Prepares the programs, which are compiled at the first call, or by `start`.

    Args:
      directory: of the generator, where an extractor is kept.
      dataset: what it trains on; its test split is not read.
      draw: the generator's `ImageSampler`.
    """
    self._session, self._directory, self._dataset = session, directory, dataset
    self._draw, self._by = draw, session.config.generator.select
    if self._by == 'cas':
      self._train = probe.Trainer(
        session,
        dataset,
        num_steps=session.config.generator.select_steps,
        sample=sampling.make_pool_sampler(),
      )
      self._model = probe.build_probe(session, dataset.num_classes)
      self._evaluate = evaluators.Evaluator(
        session, self._model, largest=len(dataset.val)
      )

  def start(self) -> None:
    """Compiles in threads."""
    if self._by == 'cas':
      shape, layout = self._dataset.image_shape, self._session.layout
      self._train.start(self._pool_shapes)
      self._evaluate.start(
        layout.replicated_shapes(probe.shapes_of(self._model, shape)), shape
      )

  def operations(self, generator) -> float:
    """Floating-point operations of a score, without its evaluation; compiles nothing.

    Args:
      generator: the shapes of its variables.
    """
    if self._by == 'last':
      return 0.0
    train = self._train.operations(self._pool_shapes) if self._by == 'cas' else 0.0
    return train + self._draw.operations(generator, self._num_drawn)

  @property
  def _pool_shapes(self):
    count, shape = self._num_drawn, self._dataset.image_shape
    blank = Split(np.zeros((count, *shape), np.uint8), np.zeros(count, np.int32))
    return self._session.layout.replicated_shapes(self._group(blank))

  def __call__(self, variables, drawn, *, is_only: bool = False) -> dict[str, float]:
    """Scores a generator.

    Args:
      variables: of the generator, placed.
      drawn: a `Split` of 50 images a class from it.
      is_only: whether its training has no other candidate to compare with: then the
        diversity is enough.
    """
    found = {}
    variances = fidelity.class_variances(drawn.images, drawn.labels)
    diversity = fidelity.class_diversity(self._variances, variances)
    if math.isfinite(diversity):  # it is not with one real image a class
      found['diversity'] = diversity
    if len(drawn) > 1 and len(self._dataset.val) > 1:
      distances = self._distances(drawn)
      found['memorised'] = fidelity.memorised_share(distances, self._usual_distances)
    if self._by == 'cas' and not is_only:
      found |= self._classification_accuracy(variables)
    if self._by == 'frechet' and not is_only:
      found['frechet'] = self._frechet_distance(variables)
    return found

  @functools.cached_property
  def _variances(self):
    """Of the training images of each class."""
    return fidelity.class_variances(
      self._dataset.train.images, self._dataset.train.labels
    )

  @functools.cached_property
  def _usual_distances(self):
    """Of validation images to the nearest training image."""
    return self._distances(self._dataset.val)

  def _distances(self, images):
    """Of some images to the nearest training image: float64 [N]."""
    flat = lambda images: np.float32(images.reshape(len(images), -1)) / 255
    train, some = self._dataset.train, flat(images.some(_MOST_COMPARED, 0).images)
    order = np.random.default_rng(0).permutation(len(train))[:_MOST_TRAIN]
    size = max(_AT_ONCE // math.prod(self._dataset.image_shape), 1)
    blocks = (order[at : at + size] for at in range(0, len(order), size))
    distances = (fidelity.kth_distance(some, flat(train.images[at])) for at in blocks)
    return functools.reduce(np.minimum, distances)

  @property
  def _num_drawn(self):
    """Images to train a probe on: at least one of each class."""
    return max(self._session.config.score.num_samples, self._dataset.num_classes)

  def _classification_accuracy(self, variables):
    # Drawn once: in each step of the probe, an image that takes several evaluations of a
    # network would cost more than the training that it scores.
    drawn = self._draw(variables, self._num_drawn)
    pool = self._session.layout.replicate(self._group(drawn))
    result = self._evaluate(self._train(pool), self._dataset.val)
    return {'cas': result['accuracy'], 'cas_loss': result['loss']}

  def _group(self, images):
    return sampling.group_by_class(
      images.images, images.labels, self._dataset.num_classes
    )

  def _frechet_distance(self, variables):
    embed, real = self._extractor
    drawn = self._draw(variables, self._session.config.score.num_samples)
    return fidelity.frechet_distance(real, embed(drawn).features)

  @functools.cached_property
  def _extractor(self):
    """`embed(split) -> Embedding`, and the features of training images."""
    score, dataset = self._session.config.score, self._dataset
    extractor = probe.train_extractor(
      self._session,
      dataset,
      None,
      num_steps=score.extractor_steps,
      directory=self._directory / 'extractor',
    )
    embed = functools.partial(
      probe.make_embed(self._session, dataset.num_classes), extractor.variables
    )
    real = _balanced(dataset.train, score.num_samples, dataset.num_classes)
    return embed, embed(real).features


def _balanced(split, count, num_classes):
  """About `count` of its images, of all classes alike, as those from a generator are.

  Images of rare classes are repeated. With the classes as they are, a generator that
  follows their frequencies rather than the label would be closest.
  """
  order = np.random.default_rng(0).permutation(len(split))
  of_class = [order[split.labels[order] == label] for label in range(num_classes)]
  per_class = max(count // num_classes, 1)
  rows = [np.resize(rows, per_class) for rows in of_class if len(rows)]
  return split.rows(np.concatenate(rows))


def warnings(rows, candidates, num_steps, *, chosen_step=None) -> list[str]:
  """Sentences on what went wrong in a training, at any time of it.

  Args:
    rows: lines of its metrics.jsonl.
    candidates: 'step' and scores of each.
    chosen_step: of the candidate that was chosen, when the training is over.
  """
  return _defeat(rows, num_steps) + _collapse(candidates, num_steps, chosen_step)


def _defeat(rows, num_steps):
  """The longest time for which the discriminator won, if it was long."""
  needed, first, longest = {'real_accuracy', 'fake_accuracy'}, None, (0, 0)
  rows = [row for row in rows if needed <= set(row)]
  for row in rows:
    wins = min(row['real_accuracy'], row['fake_accuracy']) > 0.99
    first = (first or row['step']) if wins else None
    if first:
      longest = max(
        longest, (first, row['step']), key=lambda streak: streak[1] - streak[0]
      )
  start, end = longest
  if not start or end - start < num_steps / 5:
    return []
  won = f'has won outright since step {start:,}'
  if end != rows[-1]['step']:
    won = f'won outright from step {start:,} to step {end:,}'
  return [
    f'the discriminator {won} (right on more than 99 % of real and of synthetic images): '
    'the generator gets little to learn from; try gan.diffaug, a lower '
    'gan.discriminator_learning_rate, or fewer steps.'
  ]


def _collapse(candidates, num_steps, chosen_step):
  """The candidates whose images are all alike, except for early ones."""
  late = [row for row in candidates if row['step'] >= num_steps / 2]
  late += [row for row in candidates if row['step'] == chosen_step and row not in late]
  alike = [row for row in late if row.get('diversity', 1) < 0.3]
  if not alike:
    return []
  steps = [row['step'] for row in alike]
  where = f'at step {steps[0]:,}'
  if len(steps) > 1:
    where = f'at {len(steps)} checkpoints from step {min(steps):,} to {max(steps):,}'
  chosen = '' if chosen_step in (None, *steps) else f' (chosen: step {chosen_step:,})'
  least = min(row['diversity'] for row in alike)
  return [
    f'{where} the images of a class differ {least:.2f} times as much as real ones: the '
    f'generator may have collapsed{chosen}.'
  ]
