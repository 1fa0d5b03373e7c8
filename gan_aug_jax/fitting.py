"""Fits one network pair or classifier in a directory of the run, or goes on fitting it.

The GAN and every arm pass through here; what is theirs is handed in.
"""

import dataclasses
import time

import jax

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
  per_call = session.config.steps_per_call or 1
  cadence = _cadence(session.config.log, num_steps, per_call)
  if evaluate_at_saves:
    cadence = dataclasses.replace(cadence, eval_every=cadence.save_every)
  state, host = session.layout.place(state), loop.new_host()
  writes = jax.process_index() == 0
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    restored = checkpoints.restore(state)
    if restored:
      state, host = restored
    start = host['step']
    inputs = lambda at: feed(at * count, count * per_call)
    programs = {}
    if start < num_steps:
      programs, seconds = _compile(session, step, per_call, state, *inputs(start))
      host['compile_seconds'] += seconds
    path = directory / 'metrics.jsonl'
    quiet = session.quiet or not writes
    with progress.Progress(name, num_steps, start=start, quiet=quiet) as display:
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
      )
    frozen = freeze(state) if freeze else None
    checkpoints.save(num_steps, state=state, host=host, generator=frozen)
  return Fitted(state, host, frozen, loop.read_metrics(path))


def _compile(session, step, per_call, *args):
  """Compiles the step for one and for `per_call` steps a call, and takes the time."""
  began = time.perf_counter()
  programs = {
    length: sharding.compile_step(
      sharding.repeat_step(step, length), session.layout, *args
    )
    for length in {1, per_call}
  }
  return programs, time.perf_counter() - began


def _cadence(log, num_steps, per_call):
  return loop.make_cadence(
    num_steps,
    steps_per_call=per_call,
    log_every=log.every_steps,
    eval_every=log.eval_every_steps,
    save_every=log.save_every_steps,
  )


def make_feed(session, dataset, *extra):
  """Returns `feed(first, count) -> (RealData, *extra)` over the training split."""
  feed = realdata.make_feed(
    dataset.train.images,
    dataset.train.labels,
    seed=config_lib.seed_of(session.config, 'data'),
    place=session.layout.place,
  )
  return lambda first, count: (feed(first, count), *extra)
