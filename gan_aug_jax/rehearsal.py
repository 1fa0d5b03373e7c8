"""The steps of a run before anything is trained: what one costs does not hang on that."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from gan_aug_jax import (
  arms,
  config as config_lib,
  fitting,
  gan_training,
  own_generator,
  policies,
  sharding,
)
from gan_aug_jax.workdir import describe_data


@dataclasses.dataclass(frozen=True)
class Rehearsal:
  """A step with all that it takes.

  Attributes:
    layout: where it runs.
    step: `(state, *inputs) -> (state, metrics)`.
    state: as initialised, placed.
    inputs: `step number -> inputs`.
  """

  layout: sharding.Layout
  step: Callable
  state: object
  inputs: Callable

  def operations(self):
    """Floating-point operations of a step on all devices, as XLA counts them."""
    lowered = sharding.lower_step(self.step, self.layout, self.state, *self.inputs(0))
    return lowered.cost_analysis()['flops']

  def compile(self):
    """The compiled step, see `sharding.compile_step`."""
    return sharding.compile_step(self.step, self.layout, self.state, *self.inputs(0))

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
  step, state = gan_training.make_step(session, dataset)
  feed = gan_training.make_feed(session, dataset)
  inputs = lambda at: feed(at, 1)
  return Rehearsal(session.layout, step, session.layout.place(state), inputs)


def rehearse_arm(session, dataset, name, *, num_steps, at=0, source=None):
  """The `Rehearsal` of an arm's fused step.

  Args:
    session: of a run. The teacher, where a policy asks for one, is trained into its
      workdir.
    dataset: the data.
    name: of the arm.
    num_steps: of the training, which schedules hang on.
    at: the step that the state is at.
    source: the `policies.Source` that an augmented arm draws from; None for what the
      config says, of a GAN as initialised.
  """
  config, layout = session.config, session.layout
  model, _ = arms.make_evaluator(session, dataset.num_classes)
  if source is None and config_lib.is_augmented(config, name):
    needed = config_lib.needs_generator(config)
    generator = untrained_generator(session, dataset) if needed else None
    source = policies.prepare(session, dataset, generator)
  plan, step, state = arms.make_step(session, dataset, name, source, model, num_steps)
  feed = fitting.make_feed(session, dataset, plan, source.frozen if source else {})
  state = layout.place(state.replace(step=np.int32(at)))
  if source and config.sampler.refresh_every > 1:
    state = state.replace(pool=arms.make_pool(session, dataset, plan))
  inputs = lambda number: feed(at + number, 1)
  return Rehearsal(layout, step, state, inputs)


def untrained_generator(session, dataset):
  """The `FrozenGenerator` of a GAN before its first step; or the user's own."""
  if session.config.sampler.generator:
    return own_generator.load(session, dataset)
  _, state = gan_training.make_step(session, dataset)
  generator = {'params': state.ema, 'batch_stats': state.generator_stats}
  discriminator = {'params': state.discriminator, 'spectral': state.discriminator_stats}
  return gan_training.FrozenGenerator(
    gan_training.make_sampler(session, describe_data(dataset)),
    session.layout.place(generator),
    discriminator=session.layout.place(discriminator),
    directory=session.path('gan'),
  )
