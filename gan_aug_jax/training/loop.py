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
import statistics
import time
import uuid
import zipfile
import zlib

import jax
import numpy as np

from gan_aug_jax.errors import NonFiniteError
from gan_aug_jax.training.signals import Interrupted


@dataclasses.dataclass(frozen=True)
class Cadence:
  """How long to train and how often to do what, in steps; each a multiple of the call."""

  num_steps: int
  log_every: int
  eval_every: int
  save_every: int


def make_cadence(num_steps, *, log_every, eval_every, save_every, saves=5, cycle=1):
  """Fills automatic cadences in, as multiples of `log_every`.

  Args:
    num_steps: length of training.
    log_every: steps between lines.
    eval_every: steps between evaluations; 0: about 20 a run.
    save_every: steps between saves; 0: about `saves` a run.
    saves: how many they are to be where that is automatic.
    cycle: of which automatic saves are a multiple, too.
  """

  def automatic(times, unit):
    return max(1, num_steps // times // unit) * unit

  both = math.lcm(log_every, cycle)
  return Cadence(
    num_steps,
    log_every,
    eval_every or automatic(20, log_every),
    save_every
    or automatic(saves, both if cycle == 1 or both <= num_steps // saves else cycle),
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
      with _naming(self._path), open(self._path, 'a') as file:
        file.write(json.dumps({'step': step, **scalars}) + '\n')


def read_metrics(path):
  """Reads JSON lines up to the first that is not whole: a list of dicts."""
  rows = []
  with contextlib.suppress(FileNotFoundError, ValueError), open(path) as file:
    for line in file:
      rows.append(json.loads(line))
  return rows


def write_atomically(path, content):
  """Writes text (as UTF-8) or bytes to a temporary file and renames it.

  Raises:
    OSError: naming the file; what was there before is there still.
  """
  path = pathlib.Path(path)
  content = content.encode() if isinstance(content, str) else content
  # A name of one's own: several processes, of several machines, may write one file.
  temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with _naming(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  except BaseException:  # a signal, too
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise


def read_arrays(path, most_bytes=2**30):
  """Reads an .npz file of a run: {name: array}.

  Args:
    path: of the file.
    most_bytes: that its arrays may have; a small file may claim to hold any number.

  Raises:
    OSError, ValueError: if it is missing, damaged, too large or holds Python objects.
  """
  try:
    with zipfile.ZipFile(path) as file:
      size = sum(member.file_size for member in file.infolist())
    if size > most_bytes:
      raise ValueError(f'{size:,} bytes are too many')
    with np.load(path, allow_pickle=False) as saved:
      return dict(saved)
  except (EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(str(error)) from None


@contextlib.contextmanager
def _naming(path):
  """Names the file in an error of writing it, which of a full disk does not."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno, error.strerror or str(error), str(path)) from None


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
  take: Callable,
  state,
  host,
  cadence: Cadence,
  save: Callable,
  metrics_file,
  progress,
  stopped: Callable,
  tracer: Tracer,
  evaluate: Callable | None = None,
  cycle: int = 1,
):
  """Trains from where the state is to the last step.

  Args:
    take: `(state, step, count) -> (state, metrics)`, which takes `count` steps from
      `step` on; metrics have a leading axis, whose first `count` elements are read.
    state: pytree, donated.
    host: from `new_host` or a checkpoint; `steps_per_call` is the most that a call takes.
    cadence: see `Cadence`.
    save: `(step, *, state, host)`, which must copy what it keeps.
    metrics_file: a `MetricsFile`.
    progress: a `Progress`.
    stopped: from `signals.deferred`.
    tracer: a `Tracer`.
    evaluate: `(step, state) -> {name: float}`, or None.
    cycle: after a signal, the state is saved at a multiple of that many steps.

  Returns:
    `(state, host)`; the last step is not saved here, so that the caller can save what
    comes of it in the same atomic checkpoint.

  Raises:
    NonFiniteError: at a line or save with a metric that is NaN or infinite; the
      checkpoint before stays.
    Interrupted: after a signal before the last step, with the state saved.
  """
  step, pending, per_call = host['step'], host['pending'], host['steps_per_call']
  began, since, caught = time.perf_counter(), step, None
  with tracer:
    while step < cadence.num_steps:
      # Calls end at multiples, wherever a run goes on from, and so at lines and saves.
      count = min(per_call - step % per_call, cadence.num_steps - step)
      with tracer.annotate(step, step + count, state):
        state, metrics = take(state, step, count)
      pending.append((metrics, count))
      step += count
      log, evaluation, saving = (
        step % every == 0 or step == cadence.num_steps
        for every in (cadence.log_every, cadence.eval_every, cadence.save_every)
      )
      due = log or evaluation or saving
      caught = caught or stopped(due)
      ending = caught and step % cycle == 0
      if not (due or ending):
        continue
      pending = host['pending'] = _fetch(pending)
      seconds = time.perf_counter() - began
      host['step'] = step
      host['train_seconds'] += seconds
      row = _mean(pending)
      _check_finite(row, step)
      if log:
        progress.update(step, _note(row))
        row['step_ms'] = 1e3 * seconds / (step - since)
        pending = host['pending'] = []
      else:
        row = {}
      if evaluation and evaluate:
        eval_began = time.perf_counter()
        scores = evaluate(step, state)
        _check_finite(scores, step)
        row |= scores
        host['eval_seconds'] += time.perf_counter() - eval_began
      if row:
        metrics_file.write_scalars(step, row)
      if (saving or ending) and step < cadence.num_steps:
        # A copy: it is written in the background, and the list grows on.
        save(step, state=state, host={**host, 'pending': list(pending)})
      if ending and step < cadence.num_steps:
        raise Interrupted(
          f'Stopped at step {step} of {cadence.num_steps} by {caught}; the state is '
          'saved: run the same command to go on.'
        )
      # Timed anew from here on, so that the above does not count as training.
      began, since = time.perf_counter(), step
  return state, host


def _fetch(pending):
  """Brings metrics to the host: a list of {name: [float]}, one dict a call."""

  def fetch(call):
    if isinstance(call, dict):  # of a checkpoint
      return call
    metrics, count = call
    rows = {name: np.asarray(x, np.float64) for name, x in metrics.items()}
    return {name: row[:count].tolist() for name, row in rows.items()}

  return [fetch(call) for call in pending]


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
      f'{bad[0]} is {row[bad[0]]} at step {step}; the checkpoint before is kept. Lower '
      'the learning rate or change the seed, in another --workdir.'
    )


def _note(row):
  losses = [(name, value) for name, value in row.items() if name.endswith('loss')]
  return ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in losses)


def median_step_ms(rows):
  """Median over the lines of a metrics file, or NaN where none was timed."""
  times = [row['step_ms'] for row in rows if 'step_ms' in row]
  return statistics.median(times) if times else math.nan
