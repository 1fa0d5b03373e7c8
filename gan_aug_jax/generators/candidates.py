"""What a generator is worth, and what is wrong with it, while its GAN still trains.

All by the run's own training and validation images: what chooses a generator must not
know more labels than the run may use.
"""

import functools
import math
import time

import jax

from gan_aug_jax.evaluation import evaluators, fidelity, probe


class Scores:
  """Scores frozen generators; `scores(variables, drawn) -> {name: float}`.

  The scores are 'diversity', see `fidelity.class_diversity`, and what `gan.select` goes
  by: 'cas' and 'cas_loss', the accuracy and loss (nats) on validation images of a probe
  trained on samples alone; or 'frechet', the distance to training images in features of a
  probe trained on them.
  """

  def __init__(self, session, directory, dataset, sample, draw):
    """Prepares what scores are made with.

    Args:
      session: the run's.
      directory: of the GAN, where an extractor is kept.
      dataset: what the GAN trains on; its test split is not read.
      sample: `(variables, keys, labels) -> images`.
      draw: a `probe.Draw` of it.
    """
    self._session, self._directory, self._dataset = session, directory, dataset
    self._draw, self._by = draw, session.config.gan.select
    self.probe_seconds = 0.0  # of the last probe that was trained
    if self._by == 'cas':
      self._train = probe.Trainer(
        session, dataset, num_steps=session.config.gan.select_steps, sample=sample
      )
      self._model = probe.build_probe(session, dataset.num_classes)
      self._evaluate = evaluators.Evaluator(session, self._model, dataset.num_classes)

  def start(self, variables):
    """Compiles in threads, for a generator's variables or shapes like these."""
    if self._by == 'cas':
      self._train.start(variables)
      shape, layout = self._dataset.image_shape, self._session.layout
      self._evaluate.start(layout.shapes(probe.shapes_of(self._model, shape)), shape)

  def __call__(self, variables, drawn, *, is_only=False):
    """Scores a generator, of which `drawn` is a `Split` of 50 images a class.

    The only one of its training has no need of more than a diversity.
    """
    train, val, found = self._dataset.train, self._dataset.val, {}
    diversity = fidelity.class_diversity(
      train.images, train.labels, drawn.images, drawn.labels
    )
    if math.isfinite(diversity):  # it is not with one real image a class
      found['diversity'] = diversity
    if is_only:
      return found
    if self._by == 'cas':
      began = time.perf_counter()
      trained = jax.block_until_ready(self._train(variables))
      self.probe_seconds = time.perf_counter() - began
      accuracy = self._evaluate(trained, val)
      found |= {'cas': accuracy['accuracy'], 'cas_loss': accuracy['loss']}
    if self._by == 'frechet':
      extractor, real = self._real
      many = self._draw(variables, self._session.config.score.num_samples)
      generated = self._embed(extractor, many)[0]
      found['frechet'] = fidelity.frechet_distance(real, generated)
    return found

  @functools.cached_property
  def _embed(self):
    return probe.make_embed(self._session, self._dataset.num_classes)

  @functools.cached_property
  def _real(self):
    """The extractor's variables and the features of training images."""
    score, train = self._session.config.score, self._dataset.train
    extractor = probe.train_extractor(
      self._session,
      self._dataset,
      None,
      num_steps=score.extractor_steps,
      directory=self._directory / 'extractor',
    )
    some = train.some(score.num_samples, 0)
    return extractor.variables, self._embed(extractor.variables, some)[0]


def warnings(rows, last, num_steps):
  """Sentences on what goes wrong in a GAN's training.

  Args:
    rows: lines of its metrics.jsonl.
    last: 'step' and scores of the last candidate.
    num_steps: length of the training.
  """
  found, since = [], None
  rows = [row for row in rows if 'real_accuracy' in row]
  for row in rows:
    wins = min(row['real_accuracy'], row['fake_accuracy']) > 0.99
    since = (since or row['step']) if wins else None
  if since and rows[-1]['step'] - since >= num_steps / 5:
    found.append(
      f'the discriminator has won outright since step {since} (right on more than 99 % '
      'of real and of synthetic images): the generator gets little to learn from; try '
      'gan.diffaug, a lower gan.discriminator_learning_rate, or fewer steps.'
    )
  if last['step'] >= num_steps / 2 and last.get('diversity', 1) < 0.3:
    found.append(
      f'at step {last["step"]} the images of a class differ {last["diversity"]:.2f} '
      'times as much as real ones: the generator may have collapsed.'
    )
  return found
