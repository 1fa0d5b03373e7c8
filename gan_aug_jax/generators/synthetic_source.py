"""What the augmented arms of a run draw from, as the config's policies say.

Gathers what is frozen (generator, discriminator, teacher, or images drawn beforehand) and
the function that makes synthetic images of it inside the step.
"""

import bisect
import dataclasses
import functools
import hashlib
import io
import json
import math
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.evaluation import probe
from gan_aug_jax.generators import gan_training
from gan_aug_jax.step import class_labels, plans, sampling, synthesis
from gan_aug_jax.step.synthesis import FrozenModels, Networks
from gan_aug_jax.training import loop, signals
from gan_aug_jax.training.workdir import describe_data


@dataclasses.dataclass(frozen=True)
class Source:
  """What is drawn from: pure functions, and the shapes of the variables that they take.

  Attributes:
    networks: what is asked, but for the classifier in training.
    shapes: of their variables.
  """

  networks: Networks
  shapes: FrozenModels


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The variables of a `Source`.

  Attributes:
    frozen: the variables, placed.
    info: what was prepared, and in how many seconds.
  """

  frozen: FrozenModels
  info: dict


NOTHING = Prepared(FrozenModels(), {})  # of an arm that draws nothing


def make_source(session, dataset, generator=None):
  """Returns the `Source` of the config's policies; trains and reads nothing.

  Args:
    session: the run's.
    dataset: the data.
    generator: a `FrozenGenerator`, where the user's own takes the GAN's place: before it
      is made, nobody knows what it takes.
  """
  config = session.config
  sample, shapes = _sample_of(session, dataset, generator)
  if count := config.sampler.offline:
    sample = sampling.make_pool_sampler()
    shapes = _shapes_of_images(dataset, count * dataset.num_classes)
  networks, shapes = Networks(sample), FrozenModels(generator=shapes)
  info, num_members = describe_data(dataset), len(config_lib.members_of(config))
  if _asks_discriminator(config):
    logits_of = gan_training.make_discriminator_logits(session, info, num_members)
    networks = dataclasses.replace(networks, discriminator_logits=logits_of)
    discriminator = gan_training.shapes_of(session, info)['discriminator']
    shapes = shapes.replace(discriminator=discriminator)
  if _asks_teacher(config):
    model = probe.build_probe(session, dataset.num_classes)
    networks = dataclasses.replace(networks, teacher=functools.partial(_logits, model))
    shapes = shapes.replace(teacher=probe.shapes_of(model, dataset.image_shape))
  return Source(networks, session.layout.shapes(shapes))


def _asks_discriminator(config):
  return _filter(config).needs_discriminator


def _asks_teacher(config):
  return config.sampler.labels == 'teacher' or _filter(config).needs_teacher


def prepare(session, dataset, generator):
  """Trains or reads what the policies ask for.

  Args:
    session: the run's.
    dataset: the data; its test split is not read.
    generator: a `FrozenGenerator`; None where the config needs none.

  Returns:
    The `Prepared`.
  """
  # Of several processes all stop, or none does.
  with signals.deferred() as stopped:
    prepared = _prepare(session, dataset, generator)
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} before an arm; run the same command to go on.'
      )
  return prepared


def _prepare(session, dataset, generator):
  began, config = time.perf_counter(), session.config
  info = {'shows': config.sampler.source}
  directory = generator.directory if generator else session.path('gan')
  variables = _variables_of(session, dataset, generator)
  if count := config.sampler.offline:
    sample, _ = _sample_of(session, dataset, generator)
    depends = {**_latents_of(config), 'count': count, 'source': config.sampler.source}
    images = _offline(session, dataset, variables, sample, depends, directory)
    images = images.reshape(-1, *dataset.image_shape)
    labels = np.repeat(np.arange(dataset.num_classes), count)
    grouped = sampling.group_by_class(images, labels, dataset.num_classes)
    variables, info['offline'] = session.layout.place(grouped), count
  frozen = FrozenModels(generator=variables)
  if _asks_discriminator(config):
    frozen = frozen.replace(discriminator=generator.discriminator)
  if _asks_teacher(config):
    found = probe.train_extractor(
      session,
      dataset,
      dataset.val,
      num_steps=config.sampler.teacher_steps,
      directory=directory / 'teacher',
    )
    frozen = frozen.replace(teacher=found.variables)
    info |= {'teacher_hash': found.hash, 'teacher_val_accuracy': found.accuracy}
  info['seconds'] = time.perf_counter() - began
  return Prepared(frozen, info)


def _sample_of(session, dataset, generator):
  """The `sample` of generated images, or of what takes their place, and the shapes of its
  variables.
  """
  config = session.config
  source, num_classes = config.sampler.source, dataset.num_classes
  if source == 'noise':
    return sampling.make_noise_sampler(dataset.image_shape), {}
  if source in config_lib.BOUNDS:
    shapes = _shapes_of_images(dataset, len(_real_images(dataset, source)))
    return sampling.make_pool_sampler(), shapes
  if config.sampler.generator:  # whose latents are its own affair
    sample, shapes = generator.sample, generator.variables
  else:
    info, num_members = describe_data(dataset), len(config_lib.members_of(config))
    sample = gan_training.make_sampler(session, info, num_members, **_latents_of(config))
    shapes = gan_training.shapes_of(session, info)['generator']
  if source == 'mislabelled':
    sample = sampling.mislabel(sample, num_classes)
  return sample, shapes


def _variables_of(session, dataset, generator):
  """The variables of `_sample_of`, placed."""
  source = session.config.sampler.source
  if source == 'noise':
    return {}
  if source in config_lib.BOUNDS:
    split = _real_images(dataset, source)
    images = sampling.group_by_class(split.images, split.labels, dataset.num_classes)
    return session.layout.place(images)
  return generator.variables


def _real_images(dataset, source):
  return dataset.train if source == 'replayed' else dataset.unseen


def _shapes_of_images(dataset, count):
  """The shapes of what `sampling.group_by_class` gives of that many images."""
  per_class = jax.ShapeDtypeStruct((dataset.num_classes,), np.int32)
  images = jax.ShapeDtypeStruct((count, *dataset.image_shape), np.uint8)
  return {'images': images, 'first': per_class, 'count': per_class}


def _latents_of(config):
  fields = config.sampler
  return {
    'std': fields.latent_std,
    'truncation': fields.truncation,
    'interpolation': fields.interpolation,
  }


def _filter(config):
  return synthesis.SampleFilter(
    config.sampler.candidates, config.sampler.score, config.sampler.min_confidence
  )


def _logits(model, variables, images):
  return model.apply(variables, images, train=False)


def _offline(session, dataset, variables, sample, depends, directory):
  """Images drawn once and kept in gan/: uint8 [num_classes, count, H, W, C].

  Args:
    session: the run's.
    dataset: the data.
    variables: of what they are drawn from.
    sample: of it.
    depends: what the draw hangs on beside these, 'count' images a class included.
    directory: to keep them in.
  """
  seed = config_lib.seed_of(session.config, 'classifier') ^ 2**29
  digest = hashlib.sha256(json.dumps({**depends, 'seed': seed}).encode())
  for leaf in jax.tree.leaves(jax.device_get(variables)):
    digest.update(np.ascontiguousarray(leaf))
  path = directory / f'offline-{digest.hexdigest()[:16]}.npz'
  shape = (dataset.num_classes, depends['count'], *dataset.image_shape)
  images = _read_images(path, shape)
  # All processes draw them or none does.
  if not np.all(multihost_utils.process_allgather(np.int32(images is not None))):
    draw = probe.Draw(session, sample, dataset.num_classes)
    drawn = draw(variables, math.prod(shape[:2]), seed)
    images = drawn.images[np.argsort(drawn.labels, kind='stable')].reshape(shape)
    if jax.process_index() == 0:
      content = io.BytesIO()
      np.savez_compressed(content, images=images)
      loop.write_atomically(path, content.getvalue())
  return images


def _read_images(path, shape):
  """The images in a file, or None where it is missing, damaged or of another shape."""
  try:
    images = loop.read_arrays(path, math.prod(shape) + 2**16)['images']
  except (OSError, ValueError, KeyError):
    return None
  return images if images.shape == shape and images.dtype == np.uint8 else None


def make_plan(config, num_steps, *, synthetic):
  """The `BatchPlan` of an arm, and the ramp of a synthetic example's weight.

  Args:
    config: the config.
    num_steps: of the training.
    synthetic: whether the arm draws any.

  Returns:
    `(plan, weight)`, `weight(step)` being a number.

  Raises:
    ConfigError: if the schedule leaves no step with synthetic images.
  """
  mix = config.mix
  ramp = functools.partial(
    plans.make_ramp, num_steps=num_steps, warmup=mix.warmup, off=mix.off
  )
  scheduled = mix.ratio_schedule != 'constant' or mix.warmup or mix.off
  plan = plans.plan_batch(
    config.classifier.batch_size,
    ratio=mix.ratio if synthetic else 0.0,
    mode=mix.mode,
    ramp=ramp(mix.ratio_schedule) if scheduled else None,
  )
  if plan.rises and plan.rises[0] >= plan.stop:
    raise ConfigError(
      f'mix.warmup={mix.warmup} and mix.off={mix.off} of {num_steps} steps leave no step '
      'with synthetic images; lower them.'
    )
  if mix.weight_schedule == 'constant':
    return plan, lambda step: mix.weight
  rising = ramp(mix.weight_schedule)
  return plan, lambda step: mix.weight * rising(step)


def num_steps_of_arm(config, num_examples, *, synthetic):
  """Steps of an arm: the config's, or as many as show as many real examples.

  Args:
    config: the config.
    num_examples: of the training set.
    synthetic: whether the arm draws any.
  """
  base = config_lib.num_steps_of(config, 'classifier', num_examples)
  if not (synthetic and config.classifier.budget == 'exposure'):
    return base
  batch_size = config.classifier.batch_size

  def shows_enough(num_steps):
    plan, _ = make_plan(config, num_steps, synthetic=True)
    return int(plan.real_before(num_steps)) >= base * batch_size

  # Each step shows at least one.
  return base + bisect.bisect_left(range(base, base * batch_size), True, key=shows_enough)


def make_synthesize(session, dataset, source, plan, model):
  """Returns the arm's `synthesize`, see `synthesis`.

  Args:
    session: the run's.
    dataset: the data.
    source: the `Source`.
    plan: the `BatchPlan`.
    model: the classifier.
  """
  config = session.config.sampler
  if config.classes == 'feedback':
    class_probs = lambda state: class_labels.feedback_distribution(
      state.class_stats['class_loss']
    )
  elif config.classes == 'uniform':
    class_probs = lambda state: None
  else:
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    probs = class_labels.class_distribution(config.classes, counts, plan)
    class_probs = lambda state: probs
  synthesize = synthesis.make_synthesize(
    dataclasses.replace(source.networks, classifier=functools.partial(_logits, model)),
    num_classes=dataset.num_classes,
    class_probs=class_probs,
    sample_filter=_filter(session.config),
    targets=config.labels,
    smoothing=config.smoothing,
    dtype=session.image_dtype('classifier'),
  )
  if config.refresh_every > 1:
    synthesize = synthesis.make_pooled(synthesize, config.refresh_every, session.layout)
  return synthesize


def class_stats_of(config):
  """What the state of an augmented arm gathers, see `ClassifierState.class_stats`."""
  names = ('asked', 'accepted') if config.sampler.min_confidence else ()
  return names + (('class_loss',) if config.sampler.classes == 'feedback' else ())
