"""The steps of a run before anything is trained: what one costs does not hang on that."""

from collections.abc import Callable
import dataclasses
import time

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import arms
from gan_aug_jax.generators import external, gan_training, synthetic_source
from gan_aug_jax.step import programs, sharding, synthesis
from gan_aug_jax.training.workdir import describe_data


@dataclasses.dataclass(frozen=True)
class Rehearsal:
  """A step with all that it takes.

  Attributes:
    layout: where it runs.
    step: `(state, *inputs) -> (state, metrics)`.
    state: as initialised, placed.
    feed: `(step number, 1) -> inputs`.
    extra: further inputs, the same for every step.
  """

  layout: sharding.Layout
  step: Callable
  state: object
  feed: Callable
  extra: tuple = ()

  def inputs(self, number):
    """All inputs of a step."""
    return (*self.feed(number, 1), *self.extra)

  def operations(self):
    """Floating-point operations of a step on all devices, as XLA counts them."""
    lowered = programs.lower_step(self.step, self.layout, self.state, *self.inputs(0))
    return lowered.cost_analysis()['flops']

  def compile(self):
    """The compiled step, see `programs.compile_step`."""
    return programs.compile_step(self.step, self.layout, self.state, *self.inputs(0))

  def seconds(self, num_steps=10):
    """Mean seconds of a step after the first ones; takes the state's buffers."""
    program, state, warm = self.compile(), self.state, 3
    for number in range(warm + num_steps):
      if number == warm:
        jax.block_until_ready(state)
        began = time.perf_counter()
      state, _ = program(state, *self.inputs(number))
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / num_steps


def rehearse_gan(session, dataset):
  """The `Rehearsal` of the GAN's step."""
  training = gan_training.GanTraining(session, dataset).training
  step, state = training.step_function, training.init()
  return Rehearsal(session.layout, step, state, training.feed)


def candidate_seconds(session, dataset, num_steps=10):
  """Seconds that a GAN's training takes to consider a checkpoint, without compilation.

  Args:
    session: of a run.
    dataset: the data.
    num_steps: to measure of the probe that 'cas' trains. For 'frechet' the one that makes
      features, which is trained once, is left out.
  """
  config = session.config.copy_and_resolve_references()
  asked = config.gan.select_steps
  config.gan.select_steps = min(num_steps, asked)
  if config.gan.select == 'frechet':
    config.gan.select = 'last'
  session = dataclasses.replace(session, config=config)
  gan = gan_training.GanTraining(session, dataset)
  state = gan.training.init()
  for _ in range(2):  # the first one compiles
    began = time.perf_counter()
    probe_seconds = gan.consider(state)
    seconds = time.perf_counter() - began
  return seconds + probe_seconds * (asked / config.gan.select_steps - 1)


def rehearse_arm(session, dataset, name, *, num_steps, at=0, generator=None):
  """The `Rehearsal` of an arm's fused step.

  Args:
    session: of a run. The teacher, where a policy asks for one, is trained into its
      workdir.
    dataset: the data.
    name: of the arm.
    num_steps: of the training, which schedules hang on.
    at: the step that the state is at.
    generator: the `FrozenGenerator` that an augmented arm draws from; None for that of a
      GAN as initialised.
  """
  config, layout = session.config, session.layout
  source, frozen = None, synthesis.FrozenModels()
  if config_lib.is_augmented(config, name):
    if generator is None and config_lib.needs_generator(config):
      generator = untrained_generator(session, dataset)
    source = synthetic_source.make_source(session, dataset, generator)
    frozen = synthetic_source.prepare(session, dataset, generator).frozen
  _, training = arms.make_training(session, dataset, name, source, num_steps=num_steps)
  state = training.init().replace(step=layout.place(np.int32(at)))
  if training.make_pool:
    state = state.replace(pool=training.make_pool())
  feed = lambda number, count: training.feed(at + number, count)
  return Rehearsal(layout, training.step_function, state, feed, (frozen,))


def untrained_generator(session, dataset):
  """The `FrozenGenerator` of a GAN before its first step; or the user's own."""
  if session.config.sampler.generator:
    return external.load(session, dataset)
  state = gan_training.GanTraining(session, dataset).training.init()
  generator = {'params': state.ema, 'batch_stats': state.generator_stats}
  discriminator = {'params': state.discriminator, 'spectral': state.discriminator_stats}
  return gan_training.FrozenGenerator(
    gan_training.make_sampler(session, describe_data(dataset)),
    generator,
    discriminator=discriminator,
    directory=session.path('gan'),
  )
