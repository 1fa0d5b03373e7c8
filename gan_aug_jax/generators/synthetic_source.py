"""What the augmented arms of a run draw from, under the config's policies.

A source is known before anything is trained: its functions, and the shapes of the
variables that they take, so that the arms' steps can be compiled meanwhile. The variables
are loaded once the GAN is trained.
"""

from collections.abc import Callable
import dataclasses
import functools
import time

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import probe
from gan_aug_jax.generators import build, offline
from gan_aug_jax.step import mixing, sampling, synthesis
from gan_aug_jax.training import signals


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
  """Pure functions to draw with, and the shapes of the variables that they take.

  Attributes:
    sample: `(variables, keys [B, m], labels [B]) -> images`.
    teacher: `(variables, images) -> logits`; None where no policy uses one.
    discriminator: see `sampling.make_judge`; None where no policy uses it.
    shapes: of the variables of each: 'generator', 'teacher', 'discriminator'.
  """

  sample: Callable
  teacher: Callable | None = None
  discriminator: Callable | None = None
  shapes: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SourceVariables:
  """The variables of a `SyntheticSource`.

  Attributes:
    frozen: by name, as in its `shapes`; placed.
    info: what was loaded or trained, and in how many seconds; for result.json.
  """

  frozen: dict = dataclasses.field(default_factory=dict)
  info: dict = dataclasses.field(default_factory=dict)


def build_source(session, dataset, generator=None) -> SyntheticSource:
  """Builds the source that the config describes; trains and reads nothing.

  Args:
    session, dataset: the run's.
    generator: the `FrozenGenerator` of an external one, whose variables' shapes are known
      only when it is made; None for the GAN's.
  """
  config, info = session.config, dataset.facts
  sample, shapes = _build_sample(session, dataset, generator)
  if count := config.sampler.offline:
    sample = sampling.make_pool_sampler()
    shapes = _shapes_of_images(dataset, count * dataset.num_classes)
  shapes, teacher, discriminator = {'generator': shapes}, None, None
  if _uses_discriminator(config):
    number = len(config_lib.members_of(config))
    discriminator = build.make_discriminator_logits(session, info, number)
    networks = build.network_shapes(session, info, number)
    shapes['discriminator'] = networks['discriminator']
  if _uses_teacher(config):
    model = probe.build_probe(session, dataset.num_classes)
    teacher = functools.partial(_logits, model)
    shapes['teacher'] = probe.shapes_of(model, dataset.image_shape)
  return SyntheticSource(sample, teacher, discriminator, session.layout.shapes(shapes))


def _filter(config):
  sampler = config.sampler
  return synthesis.Filter(sampler.candidates, sampler.score, sampler.min_confidence)


def _uses_discriminator(config):
  keep = _filter(config)
  return keep.looks and keep.score == 'discriminator'


def _uses_teacher(config):
  return config.sampler.labels == 'teacher' or _filter(config).asks_teacher


def _logits(model, variables, images):
  return model.apply(variables, images, train=False)


def _build_sample(session, dataset, generator):
  """The `sample` that draws fresh images, and the shapes of its variables."""
  config = session.config
  if config.sampler.source == 'noise':
    return sampling.make_noise_sampler(dataset.image_shape), {}
  if (real := _real_images(config, dataset)) is not None:
    return sampling.make_pool_sampler(), _shapes_of_images(dataset, len(real))
  if config.sampler.generator:
    sample, shapes = generator.sample, generator.variables
  else:
    info, number = dataset.facts, len(config_lib.members_of(config))
    options = build.latent_options(config)
    sample = build.make_sampler(session, info, number, **options)
    shapes = build.network_shapes(session, info, number)['generator']
  if config.sampler.source == 'mislabelled':
    sample = sampling.mislabel(sample, dataset.num_classes)
  return sample, shapes


def _real_images(config, dataset):
  """The real images of a bound, which are shown in the generator's place; or None."""
  bounds = {'replayed': dataset.train, 'unseen': dataset.held_out_real}
  return bounds.get(config.sampler.source)


def _shapes_of_images(dataset, count):
  """The shapes that `sampling.group_by_class` gives for `count` images."""
  per_class = jax.ShapeDtypeStruct((dataset.num_classes,), np.int32)
  images = jax.ShapeDtypeStruct((count, *dataset.image_shape), np.uint8)
  return {'images': images, 'first': per_class, 'count': per_class}


def load_variables(session, dataset, generator) -> SourceVariables:
  """Loads the variables of `build_source`; trains the teacher or draws images first.

  Args:
    session, dataset: the run's; the test split is not read.
    generator: the `FrozenGenerator`; None where the config needs none.

  Raises:
    signals.Interrupted: after that, if a signal came meanwhile.
  """
  began, config = time.perf_counter(), session.config
  directory = generator.directory if generator else session.path('gan')
  info = {'shows': config.sampler.source}
  with signals.deferred() as stopped:
    frozen = {'generator': _load_images(session, dataset, generator, directory)}
    if config.sampler.offline:
      info['offline'] = config.sampler.offline
    if _uses_discriminator(config):
      frozen['discriminator'] = generator.discriminator
    if _uses_teacher(config):
      teacher = probe.train_extractor(
        session,
        dataset,
        dataset.val,
        num_steps=config.sampler.teacher_steps,
        directory=directory / 'teacher',
      )
      frozen['teacher'] = teacher.variables
      info |= {'teacher_hash': teacher.hash, 'teacher_val_accuracy': teacher.accuracy}
    # Of several processes all stop, or none does.
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} before an arm; run the same command to go on.'
      )
  return SourceVariables(frozen, info | {'seconds': time.perf_counter() - began})


def _load_images(session, dataset, generator, directory):
  """The variables of the source's `sample`, placed."""
  config, num_classes = session.config, dataset.num_classes

  def place(images, labels):
    grouped = sampling.group_by_class(images, labels, num_classes)
    return session.layout.place(grouped)

  if (real := _real_images(config, dataset)) is not None:
    variables = place(real.images, real.labels)
  else:
    variables = {} if config.sampler.source == 'noise' else generator.variables
  if count := config.sampler.offline:
    sample, _ = _build_sample(session, dataset, generator)
    images = offline.draw_once(session, dataset, sample, variables, directory)
    labels = np.repeat(np.arange(num_classes), count)
    variables = place(images.reshape(-1, *dataset.image_shape), labels)
  return variables


def make_synthesize(session, dataset, source, *, plan, model) -> Callable:
  """Returns the `synthesize` of an arm, see `synthesis.make_synthesize`.

  Args:
    session, dataset: the run's.
    source: the `SyntheticSource`.
    plan: the arm's `BatchPlan`.
    model: the classifier, a linen module.
  """
  config = session.config.sampler
  distribution = lambda state: None
  if config.classes == 'feedback':
    distribution = lambda state: mixing.feedback_distribution(state.policy['class_loss'])
  elif config.classes != 'uniform':
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
    judge=source.discriminator,
    classifier=functools.partial(_logits, model),
  )
  if config.refresh_every > 1:
    synthesize = synthesis.make_pooled(synthesize, config.refresh_every, session.layout)
  return synthesize


def memory_of(config) -> tuple[str, ...]:
  """The names of what an augmented arm's state gathers, see `ClassifierState.policy`."""
  names = ('asked', 'accepted') if config.sampler.min_confidence else ()
  return names + (('class_loss',) if config.sampler.classes == 'feedback' else ())
