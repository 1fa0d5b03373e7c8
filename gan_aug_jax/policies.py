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

from gan_aug_jax import (
  config as config_lib,
  gan_training,
  loop,
  mixing,
  probe,
  sampler,
  signals,
  synthesis,
)
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.workdir import describe_data


@dataclasses.dataclass(frozen=True)
class Source:
  """What is drawn from.

  Attributes:
    sample: `(variables, keys [B, m], labels [B]) -> images`.
    frozen: variables by name, 'generator' and what the policies ask beside it.
    teacher: `(variables, images) -> logits`, or None.
    judge: see `sampler.make_judge`, or None.
    info: what was prepared, and in how many seconds.
  """

  sample: object
  frozen: dict
  teacher: object
  judge: object
  info: dict


def prepare(session, dataset, generator):
  """Trains or reads what the policies ask for.

  Args:
    session: the run's.
    dataset: the data; its test split is not read.
    generator: a `FrozenGenerator`; None where the config needs none.

  Returns:
    The `Source`.
  """
  # Of several processes all stop, or none does.
  with signals.deferred() as stopped:
    source = _prepare(session, dataset, generator)
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} before an arm; run the same command to go on.'
      )
  return source


def _prepare(session, dataset, generator):
  began, config = time.perf_counter(), session.config
  info, keep = {'shows': config.sampler.source}, _filter(config)
  directory = generator.directory if generator else session.path('gan')
  sample, variables = _images_of(session, dataset, generator)
  if count := config.sampler.offline:
    depends = {**_latents_of(config), 'count': count, 'source': config.sampler.source}
    images = _offline(session, dataset, variables, sample, depends, directory)
    images = images.reshape(-1, *dataset.image_shape)
    labels = np.repeat(np.arange(dataset.num_classes), count)
    grouped = sampler.group_by_class(images, labels, dataset.num_classes)
    variables = session.layout.place(grouped)
    sample, info['offline'] = sampler.make_pool_sampler(), count
  frozen = {'generator': variables}
  teacher = judge = None
  if keep.looks and keep.score == 'discriminator':
    frozen['discriminator'] = generator.discriminator
    num_members = max(1, len(generator.members))
    judge = gan_training.make_judge(session, describe_data(dataset), num_members)
  if config.sampler.labels == 'teacher' or keep.asks_teacher:
    found = probe.train_extractor(
      session,
      dataset,
      dataset.val,
      num_steps=config.sampler.teacher_steps,
      directory=directory / 'teacher',
    )
    frozen['teacher'] = found.variables
    teacher = functools.partial(_logits, probe.build_probe(session, dataset.num_classes))
    info |= {'teacher_hash': found.hash, 'teacher_val_accuracy': found.accuracy}
  info['seconds'] = time.perf_counter() - began
  return Source(sample, frozen, teacher, judge, info)


def _images_of(session, dataset, generator):
  """What gives the images, generated ones or what takes their place: a `sample` and its
  variables, placed.
  """
  config = session.config
  source, num_classes = config.sampler.source, dataset.num_classes
  if source == 'noise':
    return sampler.make_noise_sampler(dataset.image_shape), {}
  if source in config_lib.BOUNDS:
    split = dataset.train if source == 'replayed' else dataset.unseen
    images = sampler.group_by_class(split.images, split.labels, num_classes)
    return sampler.make_pool_sampler(), session.layout.place(images)
  sample = generator.sample
  if not config.sampler.generator:  # whose latents are its own affair
    num_members, data_info = max(1, len(generator.members)), describe_data(dataset)
    latents = _latents_of(config)
    sample = gan_training.make_sampler(session, data_info, num_members, **latents)
  if source == 'mislabelled':
    sample = sampler.mislabel(sample, num_classes)
  return sample, generator.variables


def _latents_of(config):
  fields = config.sampler
  return {
    'std': fields.latent_std,
    'truncation': fields.truncation,
    'interpolation': fields.interpolation,
  }


def _filter(config):
  return synthesis.Filter(
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
    draw = probe.make_draw(session, sample, dataset.num_classes)
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
    mixing.make_ramp, num_steps=num_steps, warmup=mix.warmup, off=mix.off
  )
  scheduled = mix.ratio_schedule != 'constant' or mix.warmup or mix.off
  plan = mixing.plan_batch(
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
    distribution = lambda state: mixing.feedback_distribution(state.policy['class_loss'])
  elif config.classes == 'uniform':
    distribution = lambda state: None
  else:
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    shares = mixing.class_distribution(config.classes, counts, plan)
    distribution = lambda state: shares
  synthesize = synthesis.make_synthesize(
    sample=source.sample,
    num_classes=dataset.num_classes,
    dtype=session.image_dtype('classifier'),
    distribution=distribution,
    keep=_filter(session.config),
    labels=config.labels,
    smoothing=config.smoothing,
    teacher=source.teacher,
    judge=source.judge,
    classifier=functools.partial(_logits, model),
  )
  if config.refresh_every > 1:
    synthesize = synthesis.make_pooled(synthesize, config.refresh_every, session.layout)
  return synthesize


def memory_of(config):
  """What the state of an augmented arm gathers, see `ClassifierState.policy`."""
  names = ('asked', 'accepted') if config.sampler.min_confidence else ()
  return names + (('class_loss',) if config.sampler.classes == 'feedback' else ())
