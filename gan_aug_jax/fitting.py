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
)


@dataclasses.dataclass(frozen=True)
class Fitted:
  """What came of it.

  Attributes:
    state: the state after the last step.
    host: steps and seconds, see `loop.new_host`.
    frozen: what `freeze` made of the state, or None.
    rows: the lines of metrics.jsonl.
  """

  state: object
  host: dict
  frozen: dict | None
  rows: list


def fit(
  session,
  directory,
  name,
  *,
  step,
  state,
  num_steps,
  count,
  feed,
  evaluate,
  freeze=None,
  evaluate_at_saves=False,
):
  """Trains to the last step from wherever the directory's checkpoints are.

  Args:
    session: the run's.
    directory: of checkpoints/ and metrics.jsonl.
    name: shown beside the progress.
    step: `(state, *inputs) -> (state, metrics)`.
    state: the initial state, on the host.
    num_steps: length of training.
    count: real examples that a step takes.
    feed: `(first, count) -> inputs`, the inputs of a call that takes `count` elements of
      the stream of real examples from `first` on.
    evaluate: `(step, state) -> {name: float}`.
    freeze: `state -> variables` to save with the last step as the frozen generator.
    evaluate_at_saves: evaluate when saving, rather than at its own cadence.

  Returns:
    A `Fitted`.

  Raises:
    loop.Interrupted, NonFiniteError: see `loop.train`.
  """
  directory.mkdir(parents=True, exist_ok=True)
  cadence = _cadence(session.config, num_steps)
  if evaluate_at_saves:
    cadence = dataclasses.replace(cadence, eval_every=cadence.save_every)
  state, host = session.layout.place(state), loop.new_host()
  writes = jax.process_index() == 0
  quiet = session.quiet or not writes
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    restored = checkpoints.restore(state)
    if restored:
      state, host = restored
    start = host['step']
    programs, inputs = {}, None
    if start < num_steps:
      programs, inputs = _programs(session, step, state, host, cadence, count, feed)
    path = directory / 'metrics.jsonl'
    with progress.Progress(name, num_steps, start=start, quiet=quiet) as display:
      display.say(f'{name}: {_describe(host, start)}')
      state, host = loop.train(
        programs=programs,
        state=state,
        host=host,
        feed=inputs,
        cadence=cadence,
        checkpoints=checkpoints,
        metrics_file=loop.MetricsFile(path, after_step=start, active=writes),
        progress=display,
        evaluate=evaluate,
        tracer=loop.Tracer(session.config.profile.steps, directory / 'profile'),
      )
    frozen = freeze(state) if freeze else None
    checkpoints.save(num_steps, state=state, host=host, generator=frozen)
  return Fitted(state, host, frozen, loop.read_metrics(path))


def _describe(host, start):
  parts = [f'going on from step {start}'] if start else []
  parts.append(f'compiled in {host["compile_seconds"]:.1f} s')
  parts.append(f'steps a call: {host["steps_per_call"]}')
  parts.append(f'memory a device: {host["peak_bytes"] / 2**20:.1f} MiB')
  return ', '.join(parts)


def _cadence(config, num_steps):
  log = config.log
  return loop.make_cadence(
    num_steps,
    log_every=log.every_steps,
    eval_every=log.eval_every_steps,
    save_every=log.save_every_steps,
    steps_per_call=config.steps_per_call or 1,
  )


def _programs(session, step, state, host, cadence, count, feed):
  """Compiles the step for one and for several steps a call.

  Notes in `host` the steps a call, the seconds of compilation and the peak memory.

  Returns:
    `(programs, inputs)`, see `loop.train`.
  """
  began = time.perf_counter()
  compiled = {}

  def program(length):
    if length not in compiled:
      repeated = sharding.repeat_step(step, length)
      arguments = (state, *feed(host['step'] * count, length * count))
      compiled[length] = sharding.compile_step(repeated, session.layout, *arguments)
    return compiled[length]

  def seconds_a_step(length):
    """Of 100 steps on a copy of the state, which the program takes for itself."""
    call, copy = program(length), jax.tree.map(jnp.copy, state)
    arguments = feed(host['step'] * count, length * count)
    copy, _ = jax.block_until_ready(call(copy, *arguments))
    since, calls = time.perf_counter(), -(-100 // length)
    for _ in range(calls):
      copy, metrics = call(copy, *arguments)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - since) / (calls * length)

  per_call = session.config.steps_per_call or host['steps_per_call']
  if not per_call:
    on_cpu = session.layout.mesh.devices.flat[0].platform == 'cpu'
    candidates = [1] if on_cpu else _candidates(cadence)
    per_call = choose_steps_per_call(candidates, seconds_a_step)
  host['steps_per_call'] = per_call
  programs = {length: program(length) for length in {1, per_call}}
  host['compile_seconds'] += time.perf_counter() - began
  host['peak_bytes'] = programs[per_call].peak_bytes
  return programs, lambda at: feed(at * count, per_call * count)


def _candidates(cadence):
  every = (cadence.log_every, cadence.eval_every, cadence.save_every)
  return [n for n in (1, 5, 10, 25, 50) if not any(steps % n for steps in every)]


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


def make_feed(session, dataset, *extra):
  """Returns `feed(first, count) -> (RealData, *extra)` over the training split."""
  feed = realdata.make_feed(
    dataset.train.images,
    dataset.train.labels,
    seed=config_lib.seed_of(session.config, 'data'),
    place=session.layout.place,
  )
  return lambda first, count: (feed(first, count), *extra)
