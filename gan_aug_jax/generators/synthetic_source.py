"""What the augmented arms of a run draw from, under the config's policies.

A source is known before anything is trained: its functions, and the shapes of the
variables that they take, so that the arms' steps can be compiled meanwhile. The variables
are loaded once the generator is trained.
"""

import dataclasses
import functools
import time

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import probe
from gan_aug_jax.generators import families, frozen, offline
from gan_aug_jax.step import class_labels, sampling, synthesis
from gan_aug_jax.step.synthesis import FrozenModels, Networks
from gan_aug_jax.training import signals


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
  """Pure functions to draw with, and the shapes of the variables that they take.

  Attributes:
    networks: what synthesis calls, except the classifier in training.
    shapes: of their variables.
  """

  networks: Networks
  shapes: FrozenModels


@dataclasses.dataclass(frozen=True)
class SourceVariables:
  """The variables of a `SyntheticSource`.

  Attributes:
    frozen: the variables, placed.
    info: what was loaded or trained, and in how many seconds; for result.json.
  """

  frozen: FrozenModels = dataclasses.field(default_factory=FrozenModels)
  info: dict = dataclasses.field(default_factory=dict)


def is_known(session, dataset) -> bool:
  """Whether the shapes of all variables are known before the generator is made."""
  config = session.config
  if config.cache.images_per_class or not config_lib.needs_generator(config):
    return True
  return not families.build_family(session, dataset.facts).fit


def build_source(session, dataset, generator=None) -> SyntheticSource:
  """Builds the source that the config describes; trains and reads nothing.

  Args:
    generator: the `FrozenGenerator`; None if it is not made yet and `is_known`.
  """
  config = session.config
  sample, shapes = _build_sample(session, dataset, generator)
  if count := config.cache.images_per_class:
    sample = sampling.make_pool_sampler()
    shapes = _shapes_of_images(dataset, count * dataset.num_classes)
  networks, shapes = Networks(sample), FrozenModels(generator=shapes)
  if config_lib.asks_discriminator(config):
    family = families.build_family(session, dataset.facts)
    logits_of = frozen.of_members(session, family.discriminator_logits)
    networks = dataclasses.replace(networks, discriminator_logits=logits_of)
    of_networks = frozen.shapes_of_members(session, family)
    shapes = shapes.replace(discriminator=of_networks['discriminator'])
  if config_lib.asks_teacher(config):
    model = probe.build_probe(session, dataset.num_classes)
    networks = dataclasses.replace(networks, teacher=functools.partial(_logits, model))
    shapes = shapes.replace(teacher=probe.shapes_of(model, dataset.image_shape))
  return SyntheticSource(networks, session.layout.replicated_shapes(shapes))


def _logits(model, variables, images):
  return model.apply(variables, images, train=False)


def _build_sample(session, dataset, generator):
  """The `sample` that draws fresh images, and the shapes of its variables."""
  config = session.config
  if config.mix.source == 'noise':
    return sampling.make_noise_sampler(dataset.image_shape), {}
  if (real := _real_images(config, dataset)) is not None:
    return sampling.make_pool_sampler(), _shapes_of_images(dataset, len(real))
  family = families.build_family(session, dataset.facts)
  sample = frozen.of_members(session, family.make_sampler(**config.latents))
  known = frozen.shapes_of_members(session, family)
  shapes = known['generator'] if known else generator and generator.variables
  if config.mix.source == 'mislabelled':
    sample = sampling.mislabel(sample, dataset.num_classes)
  return sample, shapes


def _real_images(config, dataset):
  """The real images that an oracle shows instead of generated ones; or None."""
  oracles = {'train_copies': dataset.train, 'held_out': dataset.held_out_real}
  return oracles.get(config.mix.source)


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
  directory = generator.directory if generator else session.generator_path()
  info = {'shows': config.mix.source}
  with signals.deferred() as stopped:
    images = _load_images(session, dataset, generator, directory)
    models = FrozenModels(generator=images)
    if config.cache.images_per_class:
      info['offline'] = config.cache.images_per_class
    if config_lib.asks_discriminator(config):
      models = models.replace(discriminator=generator.discriminator)
    if config_lib.asks_teacher(config):
      teacher = probe.train_extractor(
        session,
        dataset,
        dataset.val,
        num_steps=config.filter.teacher_steps,
        directory=directory / 'teacher',
      )
      models = models.replace(teacher=teacher.variables)
      info |= {'teacher_hash': teacher.hash, 'teacher_val_accuracy': teacher.accuracy}
    # Of several processes all stop, or none does.
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} before an arm; run the same command to go on.'
      )
  return SourceVariables(models, info | {'seconds': time.perf_counter() - began})


def _load_images(session, dataset, generator, directory):
  """The variables of the source's `sample`, placed."""
  config, num_classes = session.config, dataset.num_classes

  def place(images, labels):
    grouped = sampling.group_by_class(images, labels, num_classes)
    return session.layout.replicate(grouped)

  if (real := _real_images(config, dataset)) is not None:
    variables = place(real.images, real.labels)
  else:
    variables = {} if config.mix.source == 'noise' else generator.variables
  if count := config.cache.images_per_class:
    sample, _ = _build_sample(session, dataset, generator)
    images = offline.draw_once(session, dataset, sample, variables, directory)
    labels = np.repeat(np.arange(num_classes), count)
    variables = place(images.reshape(-1, *dataset.image_shape), labels)
  return variables


def build_synthesis(session, dataset, source, *, plan, model) -> synthesis.Synthesis:
  """Builds the `Synthesis` of an arm.

  Args:
    model: the classifier, see `recipe.build_model`.
  """
  config, classes = session.config, session.config.mix.classes
  filter_ = config.filter
  score = filter_.score_by
  if score == 'hard' and filter_.candidates == 1:  # nothing to choose from
    score = 'teacher'
  class_probs = None
  if classes == 'feedback':
    class_probs = lambda state: class_labels.feedback_distribution(
      state.class_stats['class_loss']
    )
  elif classes != 'uniform':
    counts = dataset.train.class_counts(dataset.num_classes)
    class_probs = class_labels.class_distribution(classes, counts, plan)
  return synthesis.Synthesis(
    dataclasses.replace(source.networks, classifier=functools.partial(_logits, model)),
    num_classes=dataset.num_classes,
    class_probs=class_probs,
    sample_filter=synthesis.SampleFilter(
      filter_.candidates, score, filter_.min_confidence
    ),
    targets=config.targets.kind,
    smoothing=config.targets.smoothing,
    dtype=session.image_dtype('classifier'),
  )


def class_stats_of(config) -> tuple[str, ...]:
  """What the state of an augmented arm gathers, see `ClassifierState.class_stats`."""
  names = ('asked', 'accepted') if config.filter.min_confidence else ()
  return names + (('class_loss',) if config.mix.classes == 'feedback' else ())
