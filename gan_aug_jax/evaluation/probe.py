"""Small classifiers that are trained in seconds to judge generators by.

Trained on real images a probe is the feature extractor, and what GAN-test asks; trained
on synthetic images alone, its accuracy on real ones is the classification accuracy score
(Ravuri & Vinyals 2019, arXiv 1905.10887, section 3; GAN-train and GAN-test: Shmelkov et
al. 2018, arXiv 1807.09499). Width and seed differ from the evaluated classifier's.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json

import flax.serialization
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import splits
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.models import classifiers
from gan_aug_jax.step import (
  augment,
  batches,
  classifier,
  classifier_state,
  device_data,
  plans,
  rng,
  sampling,
  sharding,
  synthesis,
)
from gan_aug_jax.step.programs import Program
from gan_aug_jax.step.synthesis import FrozenModels, Networks
from gan_aug_jax.training import fitting, loop

_BATCH = 128
_OPTIMIZER = {'learning_rate': 0.02, 'schedule': 'cosine', 'momentum': 0.9}


@dataclasses.dataclass(frozen=True)
class Probe:
  """A trained probe.

  Attributes:
    variables: of the classifier that `build_probe` gives.
    accuracy: on held-out real images, or None.
    hash: of the variables: hex, 16 digits.
  """

  variables: dict
  accuracy: float | None
  hash: str


def build_probe(session, num_classes):
  """The probe's linen module: a CNN whose first convolution is `score.width` wide."""
  width = session.config.score.width
  return classifiers.build_classifier(
    'cnn',
    num_classes=num_classes,
    features=(width, 2 * width, 4 * width),
    hidden=(64,),
    dtype=session.dtype('classifier'),
  )


class Trainer:
  """Trains probes; `trainer(generator=None) -> variables`, placed.

  The fused step at a synthetic ratio of 0 or 1, with classical augmentation, compiled
  once for all the generators it is called with.
  """

  def __init__(self, session, dataset, *, num_steps, sample=None, variant=0):
    """Prepares the programs, which are compiled at the first call, or by `start`.

    Args:
      session: the run's.
      dataset: what to train on where nothing is synthetic.
      num_steps: optimizer steps of 128 images.
      sample: `(variables, keys, labels) -> images`, to train on synthetic images alone.
      variant: of the seed, which is never the classifier's; what reports has another than
        what chooses.
    """
    layout, config = session.layout, session.config
    plan = plans.plan_batch(_BATCH, ratio=1.0 if sample else 0.0, mode='replace')
    model = build_probe(session, dataset.num_classes)
    optimizer = classifier.make_optimizer('sgd', num_steps=num_steps, **_OPTIMIZER)
    num_classes, dtype = dataset.num_classes, session.image_dtype('classifier')
    synthesize = sample and synthesis.make_synthesize(
      Networks(sampling.for_candidates(sample)), num_classes=num_classes, dtype=dtype
    )
    transform = augment.make_augment(crop=config.augment.crop, flip=config.augment.flip)
    compose = batches.make_compose(
      layout=layout,
      plan=plan,
      synthesize=synthesize,
      augmentation=batches.Augmentation(transform),
      num_classes=num_classes,
      dtype=dtype,
    )
    # Where all is synthetic, one image stands in for those that are never looked at.
    seen = dataset.train.rows(slice(0, 1)) if sample else dataset.train
    init = functools.partial(
      classifier_state.init_classifier,
      model=model,
      optimizer=optimizer,
      image_shape=dataset.image_shape,
    )
    self._training = fitting.make_training(
      session,
      classifier.make_fused_step(
        model=model, optimizer=optimizer, layout=layout, plan=plan, compose=compose
      ),
      init=init,
      seed=config_lib.seed_of(config, 'classifier') ^ (2**30 >> variant),
      feed=fitting.Feed(session, seen, plan),
      cadence=loop.Cadence(num_steps, num_steps, num_steps, num_steps),
    )

  def start(self, generator=None):
    """Compiles in threads, for a generator's variables or shapes like these."""
    self._training.start(FrozenModels(generator=generator))

  def __call__(self, generator=None):
    training, frozen = self._training, FrozenModels(generator=generator)
    state = training.init()
    for call, step in enumerate(range(0, training.num_steps, training.per_call)):
      count = min(training.per_call, training.num_steps - step)
      state, metrics = training.take(state, step, count, frozen)
      if call % 20 == 0:  # or a fast host would fill the devices' queues
        jax.block_until_ready(metrics)
    return state.variables


def train_extractor(session, dataset, held_out, *, num_steps, directory):
  """Trains the extractor on real images, or reads it from where it was kept.

  Args:
    session: the run's.
    dataset: its training split is what the extractor learns from.
    held_out: real images to measure its accuracy on, or None.
    num_steps: optimizer steps.
    directory: where extractors are kept, by fingerprint of all that they depend on.

  Returns:
    A `Probe`.
  """
  config = session.config
  depends = {
    'images': dataset.fingerprint,
    'num_steps': num_steps,
    'seed': config_lib.seed_of(config, 'classifier'),
    'precision': config_lib.precision_of(config, 'classifier'),
    'model': repr(build_probe(session, dataset.num_classes)),
    'augment': (config.augment.crop, config.augment.flip),
    'optimizer': _OPTIMIZER,
  }
  digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
  path = directory / f'{digest[:16]}.msgpack'
  model = build_probe(session, dataset.num_classes)
  variables = _read(path, shapes_of(model, dataset.image_shape))
  # All processes train it or none does.
  if not np.all(multihost_utils.process_allgather(np.int32(variables is not None))):
    variables = jax.device_get(Trainer(session, dataset, num_steps=num_steps)())
    if jax.process_index() == 0:
      with contextlib.suppress(OSError):  # what cannot be kept is trained again
        loop.write_atomically(path, flax.serialization.msgpack_serialize(variables))
  variables, accuracy = session.layout.place(variables), None
  if held_out is not None:
    evaluate = evaluators.Evaluator(session, model, dataset.num_classes)
    accuracy = evaluate(variables, held_out)['accuracy']
  return Probe(variables, accuracy, _hash(variables))


def shapes_of(model, image_shape):
  """The shapes of a probe's variables; nothing is computed."""
  init = lambda images: model.init(rng.stream_key(0, 'init'), images, train=False)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return {'batch_stats': {}} | jax.eval_shape(init, images)


def _read(path, shapes):
  """The variables in a file, or None where it is missing, damaged or of another model."""
  try:
    variables = flax.serialization.msgpack_restore(path.read_bytes())
    same = jax.tree.map(
      lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), variables, shapes
    )
  except Exception:  # msgpack and Flax raise many kinds on damaged files
    return None
  return variables if jax.tree.all(same) else None


def _hash(variables):
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(jax.device_get(variables)):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf))
  return digest.hexdigest()[:16]


def make_embed(session, num_classes):
  """Returns `embed(variables, split) -> (features, predictions)` of a probe.

  Features are float32 [N, 64], what goes into the last layer; predictions int32 [N].
  """
  model, layout = build_probe(session, num_classes), session.layout
  dtype = session.image_dtype('classifier')

  def embed_step(variables, images, labels, count):
    del labels, count
    position = layout.positions(evaluators.BATCH)
    x = device_data.normalize(images.at[position].get(mode='clip'), dtype)
    logits, sown = model.apply(
      variables, sharding.flatten(x), train=False, mutable=['intermediates']
    )
    features = sown['intermediates']['embedding'][0].astype(jnp.float32)
    predicted = jnp.argmax(logits, -1).astype(jnp.int32)
    return [
      layout.gather(y.reshape(*position.shape, *y.shape[1:]))
      for y in (features, predicted)
    ]

  program = Program(embed_step, layout, donate=())

  def embed(variables, split):
    parts = []
    for chunk in evaluators.chunks(session, split):
      features, predicted = jax.device_get(program(variables, *chunk))
      parts.append((features[: evaluators.BATCH], predicted[: evaluators.BATCH]))
    features, predicted = (
      np.concatenate(part)[: len(split)] for part in zip(*parts, strict=True)
    )
    return features, predicted

  return embed


class Draw:
  """Draws synthetic images; `draw(variables, count, seed=0) -> Split`.

  Each run of num_classes images has one of each class; pixels are rounded to uint8, as
  those of real images are.
  """

  def __init__(self, session, sample, num_classes):
    """Prepares the program, which is compiled at the first call, or by `start`.

    Args:
      session: the run's.
      sample: `(variables, keys, labels) -> images`.
      num_classes: number of classes.
    """
    self._layout, self._num_classes = session.layout, num_classes

    def draw_step(variables, seed, first):
      layout = session.layout
      position = first + layout.positions(evaluators.BATCH)
      keys = rng.example_keys(rng.stream_key(seed, 'score'), position)
      labels = sharding.flatten(self._labels(position))
      pixels = device_data.to_pixels(sample(variables, sharding.flatten(keys), labels))
      return layout.gather(pixels.reshape(*position.shape, *pixels.shape[1:]))

    self._program = Program(draw_step, session.layout, donate=())

  def _labels(self, number):
    # Turned on with every run, or with several generators, position by position, each
    # would draw classes of its own.
    return (number + number // self._num_classes) % self._num_classes

  def start(self, variables):
    """Compiles in a thread, for a generator's variables or shapes like these."""
    scalar = self._layout.scalar(0)
    self._program.start(variables, scalar, scalar)

  def __call__(self, variables, count, seed=0):
    scalar = self._layout.scalar
    parts = [
      np.asarray(self._program(variables, scalar(seed), scalar(first)))
      for first in range(0, count, evaluators.BATCH)
    ]
    images = np.concatenate([part[: evaluators.BATCH] for part in parts])
    labels = self._labels(np.arange(count, dtype=np.int32))
    return splits.Split(images[:count], labels)

  def by_class(self, variables, per_class, seed=0):
    """Images uint8 [num_classes, per_class, H, W, C]."""
    drawn = self(variables, per_class * self._num_classes, seed)
    return group(drawn, self._num_classes)


def group(split, num_classes):
  """The images of as many examples of each class: uint8 [num_classes, N, H, W, C]."""
  order = np.argsort(split.labels, kind='stable')
  return split.images[order].reshape(num_classes, -1, *split.images.shape[1:])
