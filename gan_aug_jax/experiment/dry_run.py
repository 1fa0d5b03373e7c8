"""Training steps with untrained networks, to measure them before anything is trained.

What a step costs depends on shapes, not on weights.
"""

from collections.abc import Callable
import dataclasses
import time

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import arms
from gan_aug_jax.generators import (
  fitted,
  frozen as frozen_lib,
  synthetic_source,
)
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.step import programs, sharding, synthesis

_NUM_STEPS = 10  # that are timed


@dataclasses.dataclass(frozen=True)
class DryRun:
  """A training step and its inputs.

  Attributes:
    layout: where it runs.
    step: `(state, *inputs) -> (state, metrics)`.
    state: as initialised, placed.
    batches: `(step number, 1) -> data`.
    extra: further inputs, the same for every step.
  """

  layout: sharding.Layout
  step: Callable
  state: object
  batches: Callable
  extra: tuple = ()

  def inputs(self, number) -> tuple:
    """All inputs of step `number`."""
    return (self.batches(number, 1), *self.extra)

  def operations(self) -> float:
    """Floating-point operations of a step on all devices, as XLA counts them."""
    lowered = programs.lower_step(self.step, self.layout, self.state, *self.inputs(0))
    return lowered.cost_analysis()['flops']

  def compile(self) -> programs.Program:
    """The compiled step, see `programs.compile_step`."""
    return programs.compile_step(self.step, self.layout, self.state, *self.inputs(0))

  def seconds(self) -> float:
    """Mean seconds of ten steps after three to warm up; consumes the state."""
    program, state = self.compile(), self.state
    for number in range(3 + _NUM_STEPS):
      if number == 3:
        jax.block_until_ready(state)
        began = time.perf_counter()
      state, _ = program(state, *self.inputs(number))
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / _NUM_STEPS


def generator_step(session, dataset) -> DryRun:
  """The `DryRun` of a step of the generator's training.

  Args:
    session: of a run.
    dataset: the data.

  Raises:
    ConfigError: if the generator takes no steps.
  """
  generator = GeneratorTraining(session, dataset)
  if generator.family.fit:
    raise ConfigError(
      f'generator.family={session.config.generator.family!r} is not trained in steps, so '
      'its operations cannot be counted; leave ablation.equal_compute at False.'
    )
  training = generator.training
  step, state = training.step_function, training.init()
  return DryRun(session.layout, step, state, training.batches)


def arm_step(session, dataset, name, *, num_steps, at=0) -> DryRun:
  """The `DryRun` of an arm's fused step.

  Args:
    session: of a run. If a policy needs a teacher, it is trained into the run's workdir.
    dataset: the data.
    name: of the arm.
    num_steps: of the training, which schedules depend on.
    at: the step that the state is at.
  """
  config, layout = session.config, session.layout
  source, frozen, generator = None, synthesis.FrozenModels(), None
  if config_lib.is_augmented(config, name):
    if config_lib.needs_generator(config):
      generator = untrained_generator(session, dataset)
    source = synthetic_source.build_source(session, dataset, generator)
    frozen = synthetic_source.load_variables(session, dataset, generator).frozen
  training = arms.set_up(session, dataset, name, source, num_steps=num_steps).training
  state = training.init().replace(step=layout.replicate(np.int32(at)))
  batches = lambda number, count: training.batches(at + number, count)
  return DryRun(layout, training.single_step, state, batches, (frozen,))


def untrained_generator(session, dataset) -> frozen_lib.FrozenGenerator:
  """The generator before its first step; one that takes none is made.

  Args:
    session: of a run.
    dataset: the data.
  """
  generator, directory = GeneratorTraining(session, dataset), session.generator_path()
  family = generator.family
  if family.fit:
    named, layout = session.config.generator.family, session.layout
    fitted.fit(named, family, dataset, seed=0, directory=directory)
    networks = {'generator': layout.replicate(fitted.read(directory))}
  else:
    networks = family.freeze(generator.training.init())
  return frozen_lib.FrozenGenerator(
    family,
    networks['generator'],
    directory=directory,
    members=(),
    discriminator=networks.get('discriminator'),
  )


def candidate_seconds(session, dataset) -> float:
  """Seconds it takes to score a checkpoint of the generator, without compilation.

  The feature extractor of `generator.select='frechet'`, trained only once, is left out.

  Args:
    session: of a run.
    dataset: the data.
  """
  config = session.config.copy_and_resolve_references()
  select_steps = config.generator.select_steps
  config.generator.select_steps = min(_NUM_STEPS, select_steps)
  if config.generator.select == 'frechet':
    config.generator.select = 'last'
  training = GeneratorTraining(dataclasses.replace(session, config=config), dataset)
  state = training.training.init()
  for _ in range(2):  # the first one compiles
    began = time.perf_counter()
    probe_seconds = training.rehearse_choice(state)
    seconds = time.perf_counter() - began
  return seconds + probe_seconds * (select_steps / config.generator.select_steps - 1)
