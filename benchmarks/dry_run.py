"""Training steps with untrained networks, to measure them before anything is trained.

What a step costs depends on shapes, not on weights.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from benchmarks import noise
from gan_aug_jax import config as config_lib
from gan_aug_jax.experiment import arms
from gan_aug_jax.generators import frozen as frozen_lib, synthetic_source
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.step import programs, synthesis
from gan_aug_jax.training import spec, workdir


@dataclasses.dataclass(frozen=True)
class DryRun:
  """The calls of a training that is never run: several steps each, as a run takes them.

  Attributes:
    training: with its frozen inputs.
    state: placed; as initialised, except for its step.
    at: the step that the state is at, a multiple of the steps per call.
  """

  training: spec.Training
  state: Any
  at: int = 0

  @property
  def steps_per_call(self) -> int:
    return self.training.steps_per_call

  def inputs(self, number: int) -> tuple:
    """What call `number` takes next to the state."""
    return self.training.inputs(
      self.at + number * self.steps_per_call, self.steps_per_call
    )

  def lower_step(self) -> jax.stages.Lowered:
    """A single step that draws for itself, lowered, for what XLA counts in it."""
    training = self.training
    arguments = (self.state, training.batches(0, 1), *training.frozen)
    return programs.lower_step(training.stages[0].step, training.layout, *arguments)

  def operations(self) -> float:
    """Floating-point operations of a step on all devices."""
    return self.training.step_operations(self.training.stages[0])

  def compile(self) -> programs.Program:
    """The program of a call, compiled."""
    program = self.training.stages[0].program
    program.compile(self.state, *self.inputs(0))
    return program


def on_noise(config, layout, *, directory='unused', channels=3, per_class=200):
  """The `Session` of a run that shows nothing, and random images for it.

  Args:
    directory: for what policies keep, such as a teacher.
    channels: of the images, whose side is the config's.
    per_class: number of training images of each class.
  """
  session = workdir.Session(config, pathlib.Path(directory), layout, quiet=True)
  shape = (config.data.image_size, config.data.image_size, channels)
  return session, noise.make_dataset(shape, per_class=per_class)


def generator_step(session, dataset) -> DryRun:
  """The `DryRun` of a step of the generator's training, which takes steps."""
  training = GeneratorTraining(session, dataset).training
  return DryRun(training, training.init())


def arm_step(session, dataset, name, *, num_steps=10_000, at=0) -> DryRun:
  """The `DryRun` of an arm's fused step.

  Args:
    session: of a run. If a policy needs a teacher, it is trained into the run's workdir.
    num_steps: of the training, which schedules depend on.
    at: a step; the state is at the last multiple of the steps per call before it.
  """
  config, layout = session.config, session.layout
  source, frozen, generator = None, synthesis.FrozenModels(), None
  if config_lib.is_augmented(config, name):
    if config_lib.needs_generator(config):
      generator = untrained_generator(session, dataset)
    source = synthetic_source.build_source(session, dataset, generator)
    frozen = synthetic_source.load_variables(session, dataset, generator).frozen
  training = arms.set_up(session, dataset, name, source, num_steps=num_steps)
  at -= at % training.steps_per_call
  state = training.init().replace(step=layout.replicate(np.int32(at)))
  return DryRun(training.with_frozen(frozen), state, at)


def untrained_generator(session, dataset) -> frozen_lib.FrozenGenerator:
  """The generator before its first step."""
  generator = GeneratorTraining(session, dataset)
  family = generator.family
  networks = family.freeze(generator.training.init())
  return frozen_lib.FrozenGenerator(
    family,
    networks['generator'],
    directory=session.generator_path(),
    members=(),
    discriminator=networks.get('discriminator'),
  )
