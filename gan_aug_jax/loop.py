"""The host loop: cadence, evaluation, saving, writing, resuming, the non-finite check.

It knows nothing of GANs and classifiers: programs, feeds and evaluators are handed in.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import statistics
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax.errors import ConfigError, NonFiniteError, UserError


class Interrupted(UserError):
  """SIGTERM or Ctrl-C; the state is saved."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


@dataclasses.dataclass(frozen=True)
class Cadence:
  """How long to train and how often to do what, in steps; each a multiple of the call."""

  num_steps: int
  log_every: int
  eval_every: int
  save_every: int


def make_cadence(num_steps, *, log_every, eval_every, save_every, steps_per_call=1):
  """Fills automatic cadences in.

  Args:
    num_steps: length of training.
    log_every: steps between lines.
    eval_every: steps between evaluations; 0: about 20 a run, a multiple of `log_every`.
    save_every: steps between saves; 0: about 5 a run, a multiple of `log_every`.
    steps_per_call: what each must be a multiple of.

  Raises:
    ConfigError: if a cadence falls inside a call of `steps_per_call` steps.
  """
  asked = {'every_steps': log_every, 'eval_every_steps': eval_every}
  for name, every in (asked | {'save_every_steps': save_every}).items():
    if every % steps_per_call:
      raise ConfigError(
        f'log.{name}={every} must be a multiple of steps_per_call={steps_per_call}.'
      )

  def automatic(times):
    return max(1, num_steps // times // log_every) * log_every

  return Cadence(
    num_steps, log_every, eval_every or automatic(20), save_every or automatic(5)
  )


class MetricsFile:
  """JSON lines, one a step, with the signature of clu's metric writers."""

  def __init__(self, path, *, after_step, active=True):
    """Opens a file and drops the lines after a step, and a half-written last one.

    Args:
      path: of the file.
      after_step: step of the checkpoint that the run goes on from.
      active: False on processes that write nothing.
    """
    self._path, self._active = pathlib.Path(path), active
    if active:
      rows = [row for row in read_metrics(path) if row['step'] <= after_step]
      write_atomically(path, ''.join(json.dumps(row) + '\n' for row in rows))

  def write_scalars(self, step, scalars):
    if self._active:
      with open(self._path, 'a') as file:
        file.write(json.dumps({'step': step, **scalars}) + '\n')


def read_metrics(path):
  """Reads JSON lines up to the first that is not whole: a list of dicts."""
  rows = []
  with contextlib.suppress(FileNotFoundError, ValueError), open(path) as file:
    for line in file:
      rows.append(json.loads(line))
  return rows


def write_atomically(path, content):
  """Writes text or bytes to a temporary file and renames it."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  binary = isinstance(content, bytes)
  with open(temporary, 'wb' if binary else 'w') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


@contextlib.contextmanager
def _stop_signals():
  """Yields `stopped(step)`: the name of the signal to stop for, or None.

  SIGTERM and SIGINT no longer end the process meanwhile. Of several processes, all stop
  at one step: JAX's coordination service passes a SIGTERM on and agrees on the step.
  """
  if jax.process_count() > 1:
    agreed = multihost_utils.reached_preemption_sync_point
    yield lambda step: 'SIGTERM' if agreed(step) else None
    return
  caught = []
  handlers = {}
  with contextlib.suppress(ValueError):  # not the main thread: leave them alone
    for number in (signal.SIGTERM, signal.SIGINT):
      handlers[number] = signal.signal(number, lambda n, _: caught.append(n))
  try:
    yield lambda step: signal.Signals(caught[0]).name if caught else None
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


class Tracer:
  """Traces some steps of a training with jax.profiler; a context manager."""

  def __init__(self, steps, directory=None):
    """Prepares a trace.

    Args:
      steps: 'first:last', or empty for none.
      directory: where the trace goes.
    """
    first, _, last = steps.partition(':')
    self._steps = range(int(first), int(last) + 1) if steps else range(0)
    self._directory, self._tracing = directory, False

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._tracing:
      jax.profiler.stop_trace()
      self._tracing = False

  def annotate(self, step, stop, state):
    """A context for the call that takes steps `step` to `stop - 1` from `state`."""
    inside = step < self._steps.stop and stop > self._steps.start
    if inside != self._tracing:
      jax.block_until_ready(state)  # or work of other steps would be in the trace
      if inside:
        jax.profiler.start_trace(self._directory)
        self._tracing = True
      else:
        self.__exit__()
    return jax.profiler.StepTraceAnnotation('train', step_num=step)


def new_host():
  """What the loop keeps beside the state; it is saved with it."""
  return {
    'step': 0,
    'train_seconds': 0.0,
    'compile_seconds': 0.0,
    'eval_seconds': 0.0,
    'steps_per_call': 0,  # as chosen
    'peak_bytes': 0,  # of a call, on each device
    'pending': [],  # metrics of the steps since the last line
  }


def train(
  *,
  programs: dict[int, Callable],
  state,
  host,
  feed: Callable,
  cadence: Cadence,
  checkpoints,
  metrics_file,
  progress,
  evaluate: Callable | None = None,
  tracer=None,
):
  """Trains from where the state is to the last step.

  Args:
    programs: {steps in a call: `(state, *inputs) -> (state, metrics)`}, metrics with a
      leading axis of that length; the longest that fits is called.
    state: pytree, donated.
    host: from `new_host` or a checkpoint.
    feed: `step -> inputs`.
    cadence: see `Cadence`.
    checkpoints: a `Checkpoints`.
    metrics_file: a `MetricsFile`.
    progress: a `Progress`.
    evaluate: `(step, state) -> {name: float}`, or None.
    tracer: a `Tracer`, or None.

  Returns:
    `(state, host)`; the last step is not saved here, so that the caller can save what
    comes of it in the same atomic checkpoint.

  Raises:
    NonFiniteError: at a line with a metric that is NaN or infinite; the checkpoint
      before stays.
    Interrupted: after SIGTERM or Ctrl-C, with the state saved.
  """
  step, pending = host['step'], host['pending']
  began, since = time.perf_counter(), step
  tracer = tracer or Tracer('')
  with _stop_signals() as stopped, tracer:
    while step < cadence.num_steps:
      length = max(n for n in programs if n <= cadence.num_steps - step)
      with tracer.annotate(step, step + length, state):
        state, metrics = programs[length](state, *feed(step))
      pending.append(metrics)
      step += length
      caught = stopped(step)
      due = [
        step % every == 0 or step == cadence.num_steps
        for every in (cadence.log_every, cadence.eval_every, cadence.save_every)
      ]
      if not (any(due) or caught):
        continue
      log, evaluation, save = due
      pending = host['pending'] = _fetch(pending)
      seconds = time.perf_counter() - began
      host['step'] = step
      host['train_seconds'] += seconds
      row = {}
      if log:
        row = _mean(pending)
        _check_finite(row, step)
        progress.update(step, _note(row))
        row['step_ms'] = 1e3 * seconds / (step - since)
        pending = host['pending'] = []
      if evaluation and evaluate:
        eval_began = time.perf_counter()
        row |= evaluate(step, state)
        host['eval_seconds'] += time.perf_counter() - eval_began
      if row:
        metrics_file.write_scalars(step, row)
      if (save or caught) and step < cadence.num_steps:
        # A copy: it is written in the background, and the list grows on.
        checkpoints.save(step, state=state, host={**host, 'pending': list(pending)})
      if caught and step < cadence.num_steps:
        raise Interrupted(
          f'Stopped at step {step} of {cadence.num_steps} by '
          f'{caught}; the state is saved: run the same command '
          'to go on.'
        )
      # Timed anew from here on, so that the above does not count as training.
      began, since = time.perf_counter(), step
  return state, host


def _fetch(pending):
  """Brings metrics to the host: a list of {name: [float]}, one dict a call."""
  return jax.tree.map(
    lambda x: x if isinstance(x, float) else np.asarray(x, np.float64).tolist(), pending
  )


def _mean(pending):
  names = pending[0]
  return {
    name: statistics.fmean([value for call in pending for value in call[name]])
    for name in names
  }


def _check_finite(row, step):
  bad = [name for name, value in row.items() if not math.isfinite(value)]
  if bad:
    raise NonFiniteError(
      f'{bad[0]} is {row[bad[0]]} at step {step}; the last checkpoint is kept: lower the '
      'learning rate, or change the seed.'
    )


def _note(row):
  losses = [(name, value) for name, value in row.items() if name.endswith('loss')]
  return ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in losses)


def median_step_ms(rows):
  """Median over the lines of a metrics file, or NaN where none was timed."""
  times = [row['step_ms'] for row in rows if 'step_ms' in row]
  return statistics.median(times) if times else math.nan
