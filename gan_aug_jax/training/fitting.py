"""Fits one network pair or classifier in a directory of the run, or goes on fitting it.

The GAN and every arm pass through here; what is theirs is handed in.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import host_stream
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.step import device_data
from gan_aug_jax.step.programs import Program, repeat_step
from gan_aug_jax.training import checkpoint, loop, progress, signals, tensorboard, workdir

# On an accelerator, whose host takes longer to start a step than small networks take to
# compute it; a constant, so that every training of a config runs the same program.
_STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class Training:
  """What a training takes, known before anything is trained.

  Attributes:
    session: the run's.
    init_function: `seed -> state`, of arrays.
    step_function: `(state, *inputs) -> (state, metrics)`.
    init_program: the program of `init_function`.
    step: the program of `per_call` steps, see `programs.repeat_step`.
    state: shapes of the state, as placed.
    seed: of the state; of several in one program, one each.
    feed: a `Feed`.
    cadence: the `loop.Cadence`.
    per_call: steps that a call takes.
    make_pool: `() -> arrays` for `state.pool`, which are not saved; or None for none.
    cycle: steps after which they are made anew: only then is a state saved.
  """

  session: workdir.Session
  init_function: Callable
  step_function: Callable
  init_program: Program
  step: Program
  state: Any
  seed: int | tuple[int, ...]
  feed: 'Feed'
  cadence: loop.Cadence
  per_call: int
  make_pool: Callable | None = None
  cycle: int = 1

  @property
  def num_steps(self):
    return self.cadence.num_steps

  @property
  def layout(self):
    return self.session.layout

  def start(self, *extra):
    """Compiles in threads; `extra` are shapes of further inputs of the step."""
    self.init_program.start(self._seed())
    state = self.state
    if self.make_pool:
      placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
      state = dataclasses.replace(state, pool=jax.tree.map(placed, self.make_pool()))
    count = self.layout.scalar(0)
    self.step.start(state, count, *self.feed.shapes(self.per_call), *extra)

  def init(self):
    """A new state, placed, without its pool."""
    return self.init_program(self._seed())

  def _seed(self):
    return self.layout.place(np.asarray(self.seed, np.int32))

  def compile(self, state, step, *extra):
    """Waits until the call that takes steps from `step` on is compiled."""
    inputs = self.feed(step - step % self.per_call, self.per_call)
    self.step.compile(state, self.layout.scalar(0), *inputs, *extra)

  def take(self, state, step, count, *extra):
    """Takes `count` steps from `step` on, within one call of the program."""
    inputs = self.feed(step - step % self.per_call, self.per_call)
    return self.step(state, self.layout.scalar(count), *inputs, *extra)


def make_training(session, step, *, init, seed, feed, cadence, **pool):
  """Returns the `Training` of a step.

  Args:
    session: the run's.
    step: `(state, *inputs) -> (state, metrics)`.
    init: `seed -> state`, of arrays.
    seed: of the state.
    feed: a `Feed`.
    cadence: the `loop.Cadence`.
    **pool: see `Training`.
  """
  layout = session.layout
  per_call = steps_per_call(session, cadence)
  return Training(
    session=session,
    init_function=init,
    step_function=step,
    init_program=Program(init, layout.on_jit, donate=(), runs_once=True),
    step=Program(repeat_step(step, per_call), layout),
    state=layout.shapes(jax.eval_shape(init, np.asarray(seed, np.int32))),
    seed=seed,
    feed=feed,
    cadence=cadence,
    per_call=per_call,
    **pool,
  )


@dataclasses.dataclass(frozen=True)
class Fitted:
  """What came of it.

  Attributes:
    state: the state after the last step.
    host: steps and seconds, see `loop.new_host`.
    rows: the lines of metrics.jsonl.
  """

  state: object
  host: dict
  rows: list


def fit(
  session,
  directory,
  name,
  training,
  *,
  extra=(),
  fingerprint,
  evaluate=None,
  selection=None,
  generator_shapes=None,
):
  """Trains to the last step from wherever the directory's checkpoints are.

  Args:
    session: the run's.
    directory: of checkpoints/ and metrics.jsonl.
    name: shown beside the progress.
    training: a `Training`.
    extra: further inputs of its step, the same for every step.
    fingerprint: of the training images, kept with the state.
    evaluate: `(step, state) -> {name: float}`, or None.
    selection: a `Selection` of generators, in the place of `evaluate`: it considers the
      state wherever a save is due, and what it keeps is saved with the state.
    generator_shapes: shapes of the variables of a generator that it keeps.

  Returns:
    A `Fitted`.

  Raises:
    signals.Interrupted, NonFiniteError: see `loop.train`.
    CheckpointError: if what is there was trained on other images, or cannot be read.
  """
  directory.mkdir(parents=True, exist_ok=True)
  num_steps, cadence, cycle = training.num_steps, training.cadence, training.cycle
  if selection:
    cadence = dataclasses.replace(cadence, eval_every=cadence.save_every)
  host = loop.new_host() | {
    'fingerprint': fingerprint,
    'config': session.config.to_dict(),
  }
  writes = jax.process_index() == 0
  quiet = session.quiet or not writes
  with (
    checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints,
    signals.deferred() as stopped,
  ):
    save, shapes, state = checkpoints.save, None, None
    if selection:
      save = _save_selection(checkpoints, selection)
      shapes = lambda host: dict.fromkeys(
        selection.names(host['selection']), generator_shapes
      )
    if restored := checkpoints.restore(training.state, shapes):
      state, host, kept = restored
      if selection:
        selection.resume(host['selection'], kept)
    if host['fingerprint'] != fingerprint:
      raise CheckpointError(
        f'The training in {str(directory)!r} was begun on other images; give another '
        '--workdir.'
      )
    start = host['step']
    host['steps_per_call'] = training.per_call
    if training.make_pool:
      save = _save_without_pool(save)
    if state is None or start < num_steps:
      state = _begin(training, state, host, extra)
    with progress.Progress(name, num_steps, start=start, quiet=quiet) as display:
      display.say(f'{name}: {_describe(host, start)}')
      if selection:
        evaluate = _choose(selection, cadence, display)
      state, host = loop.train(
        take=lambda state, step, count: training.take(state, step, count, *extra),
        state=state,
        host=host,
        cadence=cadence,
        save=save,
        metrics_file=make_metrics_file(session, directory, start),
        progress=display,
        stopped=stopped,
        tracer=_tracer(session, directory),
        evaluate=evaluate,
        cycle=cycle,
      )
    save(num_steps, state=state, host=host)
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} when {name} was trained and saved; run the same command to '
        'go on.'
      )
  return Fitted(state, host, loop.read_metrics(directory / 'metrics.jsonl'))


def _choose(selection, cadence, display):
  """Returns the `evaluate` that considers a candidate, and says which of how many."""
  count = math.ceil(cadence.num_steps / cadence.save_every)

  def choose(step, state):
    number = math.ceil(step / cadence.save_every)
    display.say(f'{display.name}: choosing a checkpoint, {number} of {count}')
    return selection.consider(step, state)

  return choose


def _begin(training, state, host, extra):
  """The state to train from, `state` or a new one; waits until its step is compiled.

  Notes in `host` the seconds that this took, and the step's peak memory.
  """
  began = time.perf_counter()
  state = training.init() if state is None else state
  if training.make_pool:
    state = dataclasses.replace(state, pool=training.make_pool())
  training.compile(state, host['step'], *extra)
  host['compile_seconds'] += time.perf_counter() - began
  host['peak_bytes'] = training.step.peak_bytes
  return state


def make_metrics_file(session, directory, after_step):
  """The writer of a training's metrics.jsonl, and of event files where asked."""
  writes = jax.process_index() == 0
  path = directory / 'metrics.jsonl'
  file = loop.MetricsFile(path, after_step=after_step, active=writes)
  if writes and session.config.log.tensorboard:
    return tensorboard.Tee(file, tensorboard.make_writer(directory / 'tensorboard'))
  return file


def _save_selection(checkpoints, selection):
  """Returns the `save` of checkpoints that hold a selection."""

  def save(step, *, state, host):
    host = {**host, 'selection': list(selection.history)}
    checkpoints.save(step, state=state, host=host, generators=selection.kept)

  return save


def _save_without_pool(save):
  """Returns a `save` of states whose pool is about to be made anew."""

  def save_rest(step, *, state, host):
    save(step, state=dataclasses.replace(state, pool=()), host=host)

  return save_rest


def cadence_of(session, num_steps, *, saves=5, cycle=1):
  """The `loop.Cadence` that a config asks for; `saves` and `cycle` as `make_cadence`."""
  log = session.config.log
  return loop.make_cadence(
    num_steps,
    log_every=log.every_steps,
    eval_every=log.eval_every_steps,
    save_every=log.save_every_steps,
    saves=saves,
    cycle=cycle,
  )


def _describe(host, start):
  parts = [f'going on from step {start}'] if start else []
  parts.append(f'compiled in {host["compile_seconds"]:.1f} s')
  parts.append(f'steps a call: {host["steps_per_call"]}')
  parts.append(f'memory a device: {host["peak_bytes"] / 2**20:.1f} MiB')
  return ', '.join(parts)


def _tracer(session, directory):
  process = f'process-{jax.process_index()}'
  return loop.Tracer(session.config.profile.steps, directory / 'profile' / process)


def steps_per_call(session, cadence):
  """Steps that a call takes: what the config says, or a constant of the platform.

  Calls end where lines, evaluations and saves are due, so it divides their cadences, and
  any other length is a shorter call of the same program.
  """
  config = session.config
  if config.steps_per_call:
    return min(config.steps_per_call, cadence.num_steps)
  if session.layout.on_cpu or config.data.placement == 'host':
    return 1
  cadences = (cadence.log_every, cadence.eval_every, cadence.save_every)
  every = math.gcd(*(steps for steps in cadences if steps < cadence.num_steps))
  most = min(_STEPS_PER_CALL, cadence.num_steps)
  return max(n for n in range(1, most + 1) if every % n == 0)


class Feed:
  """The real examples that a training's calls take, from the device or the host."""

  def __init__(self, session, split, plan, *, substeps=1):
    """Prepares a feed; nothing is placed before the first call.

    Args:
      session: the run's.
      split: the `Split` to take from.
      plan: the `BatchPlan` of the batches.
      substeps: batches that a step takes.
    """
    self._layout, self._split, self._plan = session.layout, split, plan
    self._seed = config_lib.seed_of(session.config, 'data')
    self._substeps, self._take = substeps, None
    self._on_host = session.config.data.placement == 'host'

  def __call__(self, step, num_steps):
    """The inputs of a call that takes steps from `step` on, a tuple of one."""
    if self._take is None:
      self._take = self._stream() if self._on_host else self._window()
    return (self._take(step, num_steps),)

  def _stream(self):
    images, labels = self._split.images, self._split.labels
    return host_stream.make_feed(
      images,
      labels,
      seed=self._seed,
      plan=self._plan,
      layout=self._layout,
      substeps=self._substeps,
    )

  def _window(self):
    layout, examples = self._layout, _on_devices(self._split, self._layout)
    window = device_data.make_feed(examples, seed=self._seed, place=layout.place)

    def take(step, num_steps):
      first = int(self._plan.real_before(step * self._substeps))
      return window(first, num_steps * self._count)

    return take

  @property
  def _count(self):
    """The most real examples that a step takes; a window holds one at least."""
    return max(1, self._substeps * self._plan.num_real)

  def shapes(self, num_steps):
    """The shapes of what a call of that many steps takes."""
    split, layout = self._split, self._layout
    if self._on_host:
      return (
        host_stream.shapes(
          split.images.shape[1:], num_steps, self._plan, layout, self._substeps
        ),
      )
    examples = device_data.arrange(split.images, split.labels)
    length = device_data.window_length(len(split), num_steps * self._count)
    order, start = np.broadcast_to(np.int32(0), length), np.int32(0)
    return (layout.shapes(dataclasses.replace(examples, order=order, start=start)),)


@functools.lru_cache(maxsize=2)  # a run's training images, and those of a probe
def _on_devices(split, layout):
  return layout.place(device_data.arrange(split.images, split.labels))
