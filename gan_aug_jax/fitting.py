"""Fits one network pair or classifier in a directory of the run, or goes on fitting it.

The GAN and every arm pass through here; what is theirs is handed in.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax import (
  checkpoint,
  config as config_lib,
  loop,
  progress,
  realdata,
  sharding,
  signals,
  streaming,
  tensorboard,
)
from gan_aug_jax.errors import CheckpointError


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
  *,
  step,
  state,
  num_steps,
  feed,
  fingerprint,
  evaluate=None,
  selection=None,
  generator_shapes=None,
  pool=None,
  cycle=1,
):
  """Trains to the last step from wherever the directory's checkpoints are.

  Args:
    session: the run's.
    directory: of checkpoints/ and metrics.jsonl.
    name: shown beside the progress.
    step: `(state, *inputs) -> (state, metrics)`.
    state: the initial state, on the host.
    num_steps: length of training.
    feed: `(step, num_steps) -> inputs` of a call that takes those steps.
    fingerprint: of the training images, kept with the state.
    evaluate: `(step, state) -> {name: float}`, or None.
    selection: a `Selection` of generators, in the place of `evaluate`: it considers the
      state wherever a save is due, and what it keeps is saved with the state.
    generator_shapes: shapes of the variables of a generator that it keeps.
    pool: placed arrays for `state.pool`, which are not saved, or None for none.
    cycle: steps after which they are made anew: only then is a state saved.

  Returns:
    A `Fitted`.

  Raises:
    signals.Interrupted, NonFiniteError: see `loop.train`.
    CheckpointError: if what is there was trained on other images, or cannot be read.
  """
  directory.mkdir(parents=True, exist_ok=True)
  cadence = cadence_of(session, num_steps, cycle)
  if selection:
    cadence = dataclasses.replace(cadence, eval_every=cadence.save_every)
    evaluate = selection.consider
  state = session.layout.place(state)
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
    save, shapes = checkpoints.save, None
    if selection:
      save = _save_selection(checkpoints, selection)
      shapes = lambda host: dict.fromkeys(
        selection.names(host['selection']), generator_shapes
      )
    if restored := checkpoints.restore(state, shapes):
      state, host, kept = restored
      if selection:
        selection.resume(host['selection'], kept)
    if pool is not None:
      state, save = dataclasses.replace(state, pool=pool), _save_without_pool(save)
    if host['fingerprint'] != fingerprint:
      raise CheckpointError(
        f'The training in {str(directory)!r} was begun on other images; give another '
        '--workdir.'
      )
    start = host['step']
    programs, inputs = {}, None
    if start < num_steps:
      programs, inputs = _programs(session, step, state, host, cadence, feed)
    with progress.Progress(name, num_steps, start=start, quiet=quiet) as display:
      display.say(f'{name}: {_describe(host, start)}')
      state, host = loop.train(
        programs=programs,
        state=state,
        host=host,
        feed=inputs,
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


def cadence_of(session, num_steps, cycle=1):
  """The `loop.Cadence` that a config asks for, saves at multiples of `cycle`."""
  log = session.config.log
  return loop.make_cadence(
    num_steps,
    log_every=log.every_steps,
    eval_every=log.eval_every_steps,
    save_every=log.save_every_steps,
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


def _programs(session, step, state, host, cadence, feed):
  """Compiles the step for one and for several steps a call, those that are needed.

  Notes in `host` the steps a call, the seconds of compilation and the peak memory.

  Returns:
    `(programs, inputs)`, see `loop.train`.
  """
  began, start = time.perf_counter(), host['step']
  candidates = _candidates(session, cadence, host['steps_per_call'])
  # One window for all of them, or they would be programs of different shapes.
  inputs = lambda at: feed(at, max(candidates))
  compiled = {}

  def program(length):
    if length not in compiled:
      repeated = sharding.repeat_step(step, length)
      arguments = (state, *inputs(start))
      compiled[length] = sharding.compile_step(repeated, session.layout, *arguments)
    return compiled[length]

  def seconds_a_step(length):
    """Of 100 steps on a copy of the state, which the program takes for itself."""
    call, copy = program(length), jax.tree.map(jnp.copy, state)
    copy, _ = jax.block_until_ready(call(copy, *inputs(start)))
    since, calls = time.perf_counter(), -(-100 // length)
    for _ in range(calls):
      copy, metrics = call(copy, *inputs(start))
    jax.block_until_ready(metrics)
    return (time.perf_counter() - since) / (calls * length)

  per_call = choose_steps_per_call(candidates, seconds_a_step)
  single = start % per_call or cadence.num_steps % per_call
  programs = {n: program(n) for n in {per_call, 1 if single else per_call}}
  host['steps_per_call'] = per_call
  host['compile_seconds'] += time.perf_counter() - began
  host['peak_bytes'] = programs[per_call].peak_bytes
  return programs, inputs


def _candidates(session, cadence, chosen):
  """Numbers of steps a call to choose from; `chosen` is what a checkpoint says, or 0."""
  if session.config.steps_per_call:
    return [min(session.config.steps_per_call, cadence.num_steps)]
  if session.layout.on_cpu or session.config.data.placement == 'host':
    return [1]
  if chosen:
    return [chosen]
  every = (cadence.log_every, cadence.eval_every, cadence.save_every)
  fitting = [n for n in (10, 50) if not any(steps % n for steps in every)]
  return [1, *(n for n in fitting if n <= cadence.num_steps)]


def choose_steps_per_call(candidates, seconds_a_step):
  """Picks the fastest of some numbers of steps a call; the same one on every process.

  Args:
    candidates: numbers of steps.
    seconds_a_step: `n -> seconds` that measures one of them.
  """
  if len(candidates) == 1:
    return candidates[0]
  seconds = {n: seconds_a_step(n) for n in candidates}
  fastest = min(seconds, key=seconds.get)
  return int(multihost_utils.broadcast_one_to_all(np.int32(fastest)))


def make_feed(session, dataset, plan, *extra, substeps=1):
  """Returns the feed of a step over the training split.

  Args:
    session: the run's.
    dataset: the data.
    plan: the `BatchPlan` of the batches.
    *extra: further inputs, the same for every step.
    substeps: batches that a step takes.

  Returns:
    `feed(step, num_steps) -> (data of realdata, *extra)`.
  """
  layout, train = session.layout, dataset.train
  seed = config_lib.seed_of(session.config, 'data')
  if session.config.data.placement == 'host':
    stream = streaming.make_feed(
      train.images, train.labels, seed=seed, plan=plan, layout=layout, substeps=substeps
    )
    return lambda step, num_steps: (stream(step, num_steps), *extra)
  window = realdata.make_feed(train.images, train.labels, seed=seed, place=layout.place)
  count = max(1, substeps * plan.num_real)

  def feed(step, num_steps):
    first = int(plan.real_before(step * substeps))
    return window(first, num_steps * count), *extra

  return feed
