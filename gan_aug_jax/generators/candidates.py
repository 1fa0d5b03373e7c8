"""Scores a generator, and says what is wrong with it, while its GAN still trains.

Everything comes from the run's own training and validation images: what chooses a
generator must not know more labels than the run may use.
"""

import functools
import math
import time

import jax

from gan_aug_jax.evaluation import evaluators, fidelity, probe


class Scores:
  """Scores frozen generators; `scores(variables, drawn) -> {name: float}`.

  The scores are 'diversity', see `fidelity.class_diversity`, and what `gan.select` asks
  for: 'cas' and 'cas_loss', the accuracy and loss (nats) on validation images of a probe
  trained on samples alone; or 'frechet', the distance to training images in the features
  of a probe trained on them.

  Attributes:
    probe_seconds: how long the last probe trained.
  """

  def __init__(self, session, directory, dataset, sample, draw):
    """Prepares the programs, which are compiled at the first call, or by `start`.

    Args:
      session: the run's.
      directory: of the GAN, where an extractor is kept.
      dataset: what the GAN trains on; its test split is not read.
      sample: `(variables, keys, labels) -> images`.
      draw: an `ImageSampler` of it.
    """
    self._session, self._directory, self._dataset = session, directory, dataset
    self._draw, self._by = draw, session.config.gan.select
    self.probe_seconds = 0.0
    if self._by == 'cas':
      self._train = probe.Trainer(
        session, dataset, num_steps=session.config.gan.select_steps, sample=sample
      )
      self._model = probe.build_probe(session, dataset.num_classes)
      self._evaluate = evaluators.Evaluator(session, self._model, dataset.num_classes)

  def start(self, variables) -> None:
    """Compiles in threads, for a generator's variables or their shapes."""
    if self._by == 'cas':
      self._train.start(variables)
      shape, layout = self._dataset.image_shape, self._session.layout
      self._evaluate.start(layout.shapes(probe.shapes_of(self._model, shape)), shape)

  def __call__(self, variables, drawn, *, is_only: bool = False) -> dict[str, float]:
    """Scores a generator.

    Args:
      variables: of the generator, placed.
      drawn: a `Split` of 50 images a class from it.
      is_only: whether its training has no other candidate to compare with: then the
        diversity is enough.
    """
    train, found = self._dataset.train, {}
    diversity = fidelity.class_diversity(
      train.images, train.labels, drawn.images, drawn.labels
    )
    if math.isfinite(diversity):  # it is not with one real image a class
      found['diversity'] = diversity
    if self._by == 'cas' and not is_only:
      found |= self._classification_accuracy(variables)
    if self._by == 'frechet' and not is_only:
      found['frechet'] = self._frechet_distance(variables)
    return found

  def _classification_accuracy(self, variables):
    began = time.perf_counter()
    trained = jax.block_until_ready(self._train(variables))
    self.probe_seconds = time.perf_counter() - began
    result = self._evaluate(trained, self._dataset.val)
    return {'cas': result['accuracy'], 'cas_loss': result['loss']}

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
    return embed, embed(dataset.train.some(score.num_samples, 0)).features


def warnings(rows, last, num_steps) -> list[str]:
  """Sentences on what goes wrong in a GAN's training.

  Args:
    rows: lines of its metrics.jsonl.
    last: 'step' and scores of the last candidate.
    num_steps: length of the training.
  """
  found, won_since = [], None
  rows = [row for row in rows if 'real_accuracy' in row]
  for row in rows:
    wins = min(row['real_accuracy'], row['fake_accuracy']) > 0.99
    won_since = (won_since or row['step']) if wins else None
  if won_since and rows[-1]['step'] - won_since >= num_steps / 5:
    found.append(
      f'the discriminator has won outright since step {won_since} (right on more than '
      '99 % of real and of synthetic images): the generator gets little to learn from; '
      'try gan.diffaug, a lower gan.discriminator_learning_rate, or fewer steps.'
    )
  if last['step'] >= num_steps / 2 and last.get('diversity', 1) < 0.3:
    found.append(
      f'at step {last["step"]} the images of a class differ {last["diversity"]:.2f} '
      'times as much as real ones: the generator may have collapsed.'
    )
  return found
