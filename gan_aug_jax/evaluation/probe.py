"""Small classifiers that are trained in seconds to judge generators by.

A probe trained on real images is the feature extractor, and its accuracy on synthetic
images is GAN-test (Shmelkov et al. 2018, arXiv 1807.09499). The accuracy on real images
of one trained on synthetic images alone is the classification accuracy score, or
GAN-train (Ravuri & Vinyals 2019, arXiv 1905.10887, section 3). Width and seed differ from
those of the classifier that a run is about.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import hashlib
import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.models import classifiers
from gan_aug_jax.step import (
  augment,
  batches,
  classifier,
  classifier_state,
  plans,
  rng,
  sampling,
  synthesis,
)
from gan_aug_jax.step.synthesis import FrozenModels, Networks
from gan_aug_jax.training import files, processes, spec

_BATCH = 128
_OPTIMIZER = {'learning_rate': 0.02, 'schedule': 'cosine', 'momentum': 0.9}


@dataclasses.dataclass(frozen=True)
class Probe:
  """A trained probe.

  Attributes:
    variables: of the classifier that `build_probe` gives, placed.
    accuracy: on held-out real images, or None.
    hash: of the variables: hex, 16 digits.
  """

  variables: dict
  accuracy: float | None
  hash: str


@dataclasses.dataclass(frozen=True)
class Embedding:
  """Images as a probe sees them.

  Attributes:
    features: float32 [N, 64], the input of the last layer.
    predictions: int32 [N], the classes that the probe gives them.
    labels: int32 [N], their own.
  """

  features: np.ndarray
  predictions: np.ndarray
  labels: np.ndarray


def build_probe(session, num_classes: int):
  """The probe's linen module: a CNN whose first convolution is `score.width` wide."""
  width = session.config.score.width
  return classifiers.build_classifier(
    'cnn',
    num_classes=num_classes,
    features=(width, 2 * width, 4 * width),
    hidden=(64,),
    dtype=session.dtype('classifier'),
  )


def shapes_of(model, image_shape: tuple) -> dict:
  """The shapes of a probe's variables; computes nothing.

  Args:
    model: linen module from `build_probe`.
    image_shape: (H, W, C).
  """
  init = lambda images: model.init(rng.stream_key(0, 'init'), images, train=False)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return {'batch_stats': {}} | jax.eval_shape(init, images)


class Trainer:
  """Trains probes; `trainer(generator=None) -> variables`, placed.

  The fused step at a synthetic ratio of 0 or 1, with classical augmentation, compiled
  once for all the generators it is called with.
  """

  def __init__(self, session, dataset, *, num_steps, sample=None, variant=0):
    """Prepares the programs, which are compiled at the first call, or by `start`.

    Args:
      dataset: its training split is what the probe learns from without a `sample`.
      num_steps: optimizer steps of 128 images.
      sample: `(variables, keys, labels) -> images`, to train on synthetic images alone.
      variant: of the seed, which is never the classifier's. What reports a score uses
        another variant than what chooses a checkpoint.
    """
    plan = plans.plan_batch(_BATCH, ratio=1.0 if sample else 0.0, mode='replace')
    step, init, draw_ahead = _make_step(
      session, dataset, plan, num_steps=num_steps, sample=sample
    )
    # If all images are synthetic, no real one is looked at, but the step takes some.
    real = dataset.train.rows(slice(0, 1)) if sample else dataset.train
    self._training = spec.make_training(
      session,
      step,
      init=init,
      seed=config_lib.seed_of(session.config, 'classifier') ^ (2**30 >> variant),
      batches=spec.make_batches(session, real, plan),
      cadence=spec.Cadence(num_steps, num_steps, num_steps, num_steps),
      draw_ahead=draw_ahead,
    )

  def start(self, generator=None) -> None:
    """Compiles in threads, for a generator's variables or their shapes."""
    training = self._training.with_frozen(FrozenModels(generator=generator))
    training.start(saves=False)

  def operations(self, generator=None) -> float:
    """Of training a probe, see `spec.Training.operations`; `generator` may be shapes."""
    training = self._training.with_frozen(FrozenModels(generator=generator))
    return training.operations()

  def __call__(self, generator=None) -> dict:
    """Trains a probe; with a `sample`, on what a generator's variables draw."""
    training = self._training.with_frozen(FrozenModels(generator=generator))
    state = training.init()
    for call, step in enumerate(range(0, training.num_steps, training.steps_per_call)):
      state, metrics = training.take(state, step, training.call_length(step))
      if call % 20 == 0:  # or a fast host would fill the devices' queues
        jax.block_until_ready(metrics)
    return state.variables


def _make_step(session, dataset, plan, *, num_steps, sample):
  """The fused step of a probe, `init(seed) -> state`, and what draws ahead or None."""
  layout, augmentation = session.layout, session.config.augment
  num_classes, dtype = dataset.num_classes, session.image_dtype('classifier')
  model = build_probe(session, num_classes)
  optimizer = classifier.make_optimizer('sgd', num_steps=num_steps, **_OPTIMIZER)
  init = functools.partial(
    classifier_state.init_classifier,
    model=model,
    optimizer=optimizer,
    image_shape=dataset.image_shape,
  )
  synthesize = draw_synthetic = None
  if sample:
    networks = Networks(sampling.for_candidates(sample))
    synthesize = synthesis.Synthesis(networks, num_classes, dtype=dtype)
    draw_synthetic = synthesis.make_draw_synthetic(synthesize, layout=layout, plan=plan)
  transform = augment.make_augment(crop=augmentation.crop_padding, flip=augmentation.flip)
  compose = batches.make_compose(
    layout=layout,
    plan=plan,
    synthesize=synthesize,
    augmentation=batches.Augmentation(transform),
    num_classes=num_classes,
    dtype=dtype,
  )
  draw_ahead = batches.make_compose_ahead(
    compose,
    layout=layout,
    plan=plan,
    max_bytes=config_lib.draw_ahead_bytes(session.config),
    draw_synthetic=draw_synthetic,
  )
  step = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=layout, plan=plan, compose=compose
  )
  return step, init, draw_ahead


def train_extractor(session, dataset, held_out, *, num_steps, directory) -> Probe:
  """Trains the extractor on real images, or reads it where one is kept.

  Args:
    dataset: the extractor learns from its training split.
    held_out: real images to measure its accuracy on, or None.
    num_steps: optimizer steps.
    directory: of kept extractors, each named by a hash of everything it depends on;
      None to keep none.
  """
  model = build_probe(session, dataset.num_classes)
  name, variables = f'{_fingerprint(session, dataset, model, num_steps)}.msgpack', None
  if directory:
    variables = _read(directory / name, shapes_of(model, dataset.image_shape))
  # Training takes all processes, so if one cannot read the file, all train.
  if not processes.all_agree(variables is not None):
    variables = jax.device_get(Trainer(session, dataset, num_steps=num_steps)())
    if directory and jax.process_index() == 0:
      with contextlib.suppress(OSError):  # next time it is trained again
        files.write_atomically(
          directory / name, flax.serialization.msgpack_serialize(variables)
        )
  variables, accuracy = session.layout.replicate(variables), None
  if held_out is not None:
    evaluate = evaluators.Evaluator(session, model, largest=len(held_out))
    accuracy = evaluate(variables, held_out)['accuracy']
  return Probe(variables, accuracy, _hash(variables))


def _fingerprint(session, dataset, model, num_steps):
  """Of everything that a trained extractor depends on: hex, 16 digits."""
  config = session.config
  depends = {
    'images': dataset.fingerprint,
    'num_steps': num_steps,
    'seed': config_lib.seed_of(config, 'classifier'),
    'order': config_lib.seed_of(config, 'data'),
    'precision': config_lib.precision_of(config, 'classifier'),
    'model': repr(model),
    'augment': (config.augment.crop_padding, config.augment.flip),
    'optimizer': _OPTIMIZER,
  }
  digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
  return digest.hexdigest()[:16]


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


def make_embed(session, num_classes: int) -> Callable:
  """Returns `embed(variables, split) -> Embedding` by a probe."""
  model = build_probe(session, num_classes)

  def look(variables, images):
    logits, sown = model.apply(variables, images, train=False, mutable=['intermediates'])
    features = sown['intermediates']['embedding'][0].astype(jnp.float32)
    return features, jnp.argmax(logits, -1).astype(jnp.int32)

  dtype = session.image_dtype('classifier')
  look_at_all = evaluators.make_batched(session.layout, look, dtype=dtype)
  return lambda variables, split: Embedding(
    *look_at_all(variables, split.images), split.labels
  )
