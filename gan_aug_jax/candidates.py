"""What a generator is worth, and what is wrong with it, while its GAN still trains.

All by the run's own training and validation images: what chooses a generator must not
know more labels than the run may use.
"""

import math

from gan_aug_jax import evaluation, fidelity, probe


def make_scores(session, directory, dataset, sample):
  """Returns `scores(variables) -> {name: float}` of a frozen generator.

  Args:
    session: the run's.
    directory: of the GAN, where an extractor is kept.
    dataset: what the GAN trains on; its test split is not read.
    sample: `(variables, keys, labels) -> images`.

  Returns:
    A function whose scores are 'diversity', see `fidelity.class_diversity`, and what
    `gan.select` goes by: 'cas' and 'cas_loss', the accuracy and loss (nats) on validation
    images of a probe trained on samples alone; or 'frechet', the distance to training
    images in features of a probe trained on them.
  """
  config, num_classes = session.config, dataset.num_classes
  select = config.gan.select
  draw = probe.make_draw(session, sample, num_classes)
  train, val = dataset.train, dataset.val
  if select == 'cas':
    train_probe = probe.make_trainer(
      session, dataset, num_steps=config.gan.select_steps, sample=sample
    )
    model = probe.build_probe(session, num_classes)
    evaluate = evaluation.make_evaluate(session, model, num_classes)
  embed, real = probe.make_embed(session, num_classes), None

  def extract():
    extractor = probe.train_extractor(
      session,
      dataset,
      None,
      num_steps=config.score.extractor_steps,
      directory=directory / 'extractor',
    )
    some = train.some(config.score.num_samples, 0)
    return extractor.variables, embed(extractor.variables, some)[0]

  def scores(variables):
    nonlocal real
    few, found = draw(variables, 50 * num_classes), {}
    diversity = fidelity.class_diversity(
      train.images, train.labels, few.images, few.labels
    )
    if math.isfinite(diversity):  # it is not with one real image a class
      found['diversity'] = diversity
    if select == 'cas':
      accuracy = evaluate(train_probe(variables), val)
      found |= {'cas': accuracy['accuracy'], 'cas_loss': accuracy['loss']}
    if select == 'frechet':
      real = real or extract()
      drawn = draw(variables, config.score.num_samples)
      found['frechet'] = fidelity.frechet_distance(real[1], embed(real[0], drawn)[0])
    return found

  return scores


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
