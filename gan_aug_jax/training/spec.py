"""What a training is before it starts: its step, initial state, batches and cadence."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data.batches import BatchSource, DeviceBatches, HostBatches
from gan_aug_jax.data.splits import Split
from gan_aug_jax.step import plans
from gan_aug_jax.step.programs import DrawAhead, Program, repeat_step
from gan_aug_jax.training.workdir import Session

# Where starting a step takes longer than a small network takes to compute it; a constant,
# so that every training of a config runs the same program.
_STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class Cadence:
  """How long to train, and how often to do what, in steps.

  Attributes:
    num_steps: length of the training.
    log_every: steps between lines of metrics.
    eval_every: steps between evaluations.
    save_every: steps between checkpoints.
    cycle: steps that a pool of synthetic images lasts. A state is saved only at its
      multiples, also after a signal.
    scans_on_cpu: whether a call takes several steps on a CPU, too. Convolutions are many
      times slower in a loop there; without them the loop saves starting each step.
  """

  num_steps: int
  log_every: int
  eval_every: int
  save_every: int
  cycle: int = 1
  scans_on_cpu: bool = False

  def due(self, step: int) -> tuple[bool, bool, bool]:
    """Whether a line, an evaluation and a save are due after `step` steps."""
    cadences = (self.log_every, self.eval_every, self.save_every)
    return tuple(step % every == 0 or step == self.num_steps for every in cadences)


def make_cadence(
  config,
  part: str,
  num_steps: int,
  *,
  saves: int = 5,
  cycle: int = 1,
  scans_on_cpu: bool = False,
) -> Cadence:
  """Reads a cadence from a config; automatic ones are multiples of `log.every_steps`.

  Args:
    config: of the run; `log.eval_every_steps=0` means about 20 evaluations.
    part: 'generator' or 'classifier', whose `save_every_steps` is read.
    saves: about how many, where `save_every_steps=0` leaves that open.
    cycle: see `Cadence`; automatic saves are multiples of it, too.
    scans_on_cpu: see `Cadence`.
  """
  log_every = config.log.every_steps
  save_unit = log_every
  if cycle > 1:
    # Calls end where a state is saved, so it shares a large divisor with the lines.
    shortest = math.lcm(cycle, config.steps_per_call or 1)
    divisors = (n for n in range(1, log_every + 1) if log_every % n == 0)
    units = [math.lcm(shortest, n) for n in divisors]
    save_unit = max([u for u in units if u <= num_steps // saves], default=shortest)
  automatic = lambda times, unit: max(1, num_steps // times // unit) * unit
  return Cadence(
    num_steps,
    log_every,
    config.log.eval_every_steps or automatic(20, log_every),
    config[part].save_every_steps or automatic(saves, save_unit),
    cycle,
    scans_on_cpu,
  )


@dataclasses.dataclass(frozen=True)
class Stage:
  """Steps of one kind.

  Attributes:
    first: the number of steps taken before the first of them.
    step: `(state, data, *frozen) -> (state, metrics)`; takes what was drawn ahead as a
      last argument.
    program: of `steps_per_call` of them, see `programs.repeat_step`.
  """

  first: int
  step: Callable
  program: Program


@dataclasses.dataclass(frozen=True)
class Training:
  """All that a training takes.

  Attributes:
    session: the run's.
    init_function: `seed -> state`, of arrays.
    stages: the `Stage`s in order, mostly a single one.
    init_program: the program of `init_function`.
    finite_program: the program of `all_finite`, of states as they are saved.
    state: shapes of the state as it is saved, without a pool.
    seed: of the state; a tuple for several states in one program.
    batches: the `BatchSource`.
    cadence: the `Cadence`.
    steps_per_call: steps that a full call takes.
    init_pool: `() -> arrays` for `state.pool`, an empty pool, which is filled at
      multiples of `cadence.cycle` and never saved; or None.
    draw_ahead: what a call of several steps draws before the first; or None.
    frozen: further inputs of every step, placed; shapes of them will do for `start`.
  """

  session: Session
  init_function: Callable
  stages: tuple[Stage, ...]
  init_program: Program
  finite_program: Program
  state: Any
  seed: int | tuple[int, ...]
  batches: BatchSource
  cadence: Cadence
  steps_per_call: int
  init_pool: Callable | None = None
  draw_ahead: DrawAhead | None = None
  frozen: tuple = ()

  @property
  def num_steps(self) -> int:
    return self.cadence.num_steps

  @property
  def layout(self):
    return self.session.layout

  def with_frozen(self, *frozen) -> 'Training':
    """The same training with these inputs; it shares the programs."""
    return dataclasses.replace(self, frozen=frozen)

  def start(self, *, saves: bool = True) -> None:
    """Compiles in threads, also the check of states if any will be saved."""
    self.init_program.start(self._placed_seed())
    for stage in self.stages:
      stage.program.start(*self._shapes())
    if saves:
      self.finite_program.start(self.state)

  def operations(self) -> float:
    """Floating-point operations of all steps, on all devices; compiles nothing."""
    return sum(
      self.length_of(stage) * self.step_operations(stage) for stage in self.stages
    )

  def step_operations(self, stage: Stage) -> float:
    """Floating-point operations of a step, see `operations`."""
    return stage.program.operations(*self._shapes()) / self.steps_per_call

  def length_of(self, stage: Stage) -> int:
    """The number of steps in a stage."""
    return self._end_of(stage) - stage.first

  def _end_of(self, stage):
    """The number of steps taken after the last one of a stage."""
    later = [other.first for other in self.stages if other.first > stage.first]
    return min([*later, self.num_steps])

  def _stages_from(self, step):
    """The stages of the steps that are left after `step`."""
    return [stage for stage in self.stages if self._end_of(stage) > step]

  def _shapes(self):
    state, data = self.with_pool(self.state), self.batches.shapes(self.steps_per_call)
    return state, self.layout.replicated_int(0), data, *self.frozen

  def init(self):
    """Returns a new state, placed."""
    return self.with_pool(self.init_program(self._placed_seed()))

  def _placed_seed(self):
    return self.layout.replicate(np.asarray(self.seed, np.int32))

  def with_pool(self, state):
    """Returns a state that was saved with the pool that the step expects."""
    if not self.init_pool:
      return state
    return dataclasses.replace(state, pool=self.init_pool())

  def without_pool(self, state):
    """Returns what of a state is saved."""
    return dataclasses.replace(state, pool=()) if self.init_pool else state

  def is_finite(self, state) -> bool:
    """Whether no number of a state, as it is saved, is NaN or infinite."""
    return bool(self.finite_program(state))

  def compile(self, state, step: int) -> None:
    """Waits until the call that takes steps from `step` on, and its save, is compiled.

    Args:
      state: at `step`, placed.
    """
    for stage in self._stages_from(step):
      stage.program.compile(state, *self.inputs(step, 0))
    self.finite_program.compile(self.without_pool(state))

  def peak_bytes(self, step: int) -> int:
    """Memory of a call on each device, the most from `step` on; see `compile`."""
    return max(stage.program.peak_bytes for stage in self._stages_from(step))

  def call_length(self, step: int) -> int:
    """Steps that the call from `step` on takes.

    Calls end at multiples of `steps_per_call`, wherever training resumes, and so where
    lines, evaluations and saves are due; and where a stage ends.
    """
    left = self._end_of(self._stages_from(step)[0]) - step
    return min(self.steps_per_call - step % self.steps_per_call, left)

  def take(self, state, step: int, count: int):
    """Takes steps within one call of the program.

    Args:
      state: at `step`; donated.
      step: the number of steps taken so far.
      count: how many to take, at most `call_length(step)`.

    Returns:
      `(state, metrics)`; metrics have a leading axis, of which `count` elements count.
    """
    program = self._stages_from(step)[0].program
    return program(state, *self.inputs(step, count))

  def inputs(self, step: int, count: int) -> tuple:
    """What the call that takes `count` steps from `step` on takes next to the state."""
    first = step - step % self.steps_per_call
    data = self.batches(first, self.steps_per_call)
    return (self.layout.replicated_int(count), data, *self.frozen)


def make_training(
  session: Session,
  step: Callable,
  *,
  init: Callable,
  seed: int | tuple[int, ...],
  batches: BatchSource,
  cadence: Cadence,
  init_pool: Callable | None = None,
  draw_ahead: DrawAhead | None = None,
  last_step: tuple[int, Callable] | None = None,
) -> Training:
  """Returns the `Training` of a step; its arguments are the attributes there.

  Args:
    step: `Stage.step` of the first stage.
    init: `Training.init_function`.
    last_step: `(number, step)` of a last stage, from that number of steps on; or None.
  """
  layout, num_steps = session.layout, steps_per_call(session, cadence)
  draw_ahead = draw_ahead if num_steps > 1 else None
  stages = tuple(
    Stage(first, step, Program(repeat_step(step, num_steps, draw_ahead), layout))
    for first, step in filter(None, ((0, step), last_step))
  )
  return Training(
    session=session,
    init_function=init,
    stages=stages,
    init_program=Program(init, layout.with_jit, donate=(), runs_once=True),
    finite_program=Program(all_finite, layout, donate=(), runs_once=True),
    state=layout.replicated_shapes(jax.eval_shape(init, np.asarray(seed, np.int32))),
    seed=seed,
    batches=batches,
    cadence=cadence,
    steps_per_call=num_steps,
    init_pool=init_pool,
    draw_ahead=draw_ahead,
  )


def all_finite(tree: Any) -> jax.Array:
  """Whether no number of a tree of arrays is NaN or infinite: a bool scalar."""
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def make_batches(
  session: Session, split: Split, plan: plans.BatchPlan, *, substeps: int = 1
) -> BatchSource:
  """Returns the source of batches that `data.placement` names.

  Args:
    split, plan, substeps: see `BatchSource`.
  """
  kind = HostBatches if session.config.data.placement == 'host' else DeviceBatches
  seed = config_lib.seed_of(session.config, 'data')
  return kind(split, plan, session.layout, seed, substeps)


def steps_per_call(session: Session, cadence: Cadence) -> int:
  """Steps that a call takes: what the config says, or a constant of the platform.

  Calls end where lines, evaluations and saves are due, so it divides their cadences, and
  any other length is a shorter call of the same program.
  """
  config = session.config
  if config.steps_per_call:
    return min(config.steps_per_call, cadence.num_steps)
  if config.data.placement == 'host':
    return 1
  if session.layout.on_cpu and not cadence.scans_on_cpu:
    return 1
  cadences = (cadence.log_every, cadence.eval_every, cadence.save_every)
  every = math.gcd(*(steps for steps in cadences if steps < cadence.num_steps))
  most = min(_STEPS_PER_CALL, cadence.num_steps)
  return max(n for n in range(1, most + 1) if every % n == 0)
