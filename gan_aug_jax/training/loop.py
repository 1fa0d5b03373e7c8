"""Trains one thing in one directory: the host loop, from a step program to a saved state.

The generators and every arm pass through `train`. It knows nothing of either: what is
trained is a `spec.Training`, what scores it on the way a `Monitor`.
"""

import dataclasses
import math
import pathlib
import statistics
import time
from typing import Any, ClassVar

import jax
import numpy as np

from gan_aug_jax.errors import CheckpointError, NonFiniteError
from gan_aug_jax.training import files, signals, tensorboard
from gan_aug_jax.training.checkpoint import Checkpoints
from gan_aug_jax.training.progress import ProgressBar, waiting
from gan_aug_jax.training.spec import Cadence, Training
from gan_aug_jax.training.tracing import Tracer

_KEPT = (
  'nothing that bad is saved. Lower the learning rate or change the seed, in another '
  '--workdir.'
)
# What a result says of its time.
SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds')


@dataclasses.dataclass
class TrainProgress:
  """What the loop knows about a training, and saves with its state as JSON.

  Attributes:
    step: steps taken.
    train_seconds: spent in steps.
    compile_seconds: spent waiting for compilation.
    eval_seconds: spent in the monitor.
    steps_per_call: see `Training`.
    peak_bytes: memory of a call, on each device.
    pending: metrics of the calls since the last line: {name: [a float a step]}; of those
      still on the devices, `(metrics, count)`.
    fingerprint: of the training images.
  """

  step: int = 0
  train_seconds: float = 0.0
  compile_seconds: float = 0.0
  eval_seconds: float = 0.0
  steps_per_call: int = 0
  peak_bytes: int = 0
  pending: list = dataclasses.field(default_factory=list)
  fingerprint: str = ''

  @classmethod
  def from_json(cls, saved: dict[str, Any]) -> 'TrainProgress':
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: saved[name] for name in names & set(saved)})

  def to_json(self) -> dict[str, Any]:
    """A deep copy, as it is written in the background."""
    return dataclasses.asdict(self)


class Monitor:
  """Watches a training; this one does nothing.

  Attributes:
    task: what the terminal says of an evaluation that takes long; '' for nothing.
    kept: {name: variables} of generators to save with the state.
  """

  task: str = ''
  kept: ClassVar[dict[str, Any]] = {}

  def consider(self, step: int, state) -> dict[str, float]:
    """Scores a state wherever `Cadence.eval_every` is due; for the line of metrics.

    Args:
      state: at that step, placed.
    """
    del step, state
    return {}

  def record(self) -> dict[str, Any]:
    """What to save with the state in addition to `kept`: fields of a JSON object."""
    return {}

  def kept_shapes(self, record: dict[str, Any]) -> dict[str, Any]:
    """Shapes of what was `kept` when `record` was saved."""
    del record
    return {}

  def resume(self, record: dict[str, Any], kept: dict[str, Any]) -> None:
    """Takes back what was saved.

    Args:
      record: the JSON object.
      kept: the arrays, as `kept` was.
    """


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a training gives.

  Attributes:
    state: after the last step.
    progress: its `TrainProgress`.
    rows: the lines of metrics.jsonl.
  """

  state: Any
  progress: TrainProgress
  rows: list[dict[str, float]]


def train(
  training: Training, directory: pathlib.Path, name: str, monitor: Monitor | None = None
) -> Trained:
  """Trains to the last step from wherever the directory's checkpoints are.

  Args:
    directory: of checkpoints/ and metrics.jsonl.
    name: shown with the progress.
    monitor: scores states; None for a `Monitor` that does not.

  Raises:
    NonFiniteError: at a line or save with a metric, or a save with a state, that is NaN
      or infinite; the previous checkpoint stays.
    signals.Interrupted: after a signal, with the state saved.
    CheckpointError: if what is there was trained on other images, or cannot be read.
  """
  cadence, monitor = training.cadence, monitor or Monitor()
  directory.mkdir(parents=True, exist_ok=True)
  with (
    Checkpoints(directory / 'checkpoints') as checkpoints,
    signals.deferred(_awaited(cadence)) as stopped,
  ):
    state, progress = _restore(training, directory, checkpoints, monitor)
    writers = make_writers(training.session, directory, after_step=progress.step)
    start = progress.step
    silent = training.session.is_silent
    with waiting(f'{name}: compiling', quiet=silent):
      state = _begin(training, state, progress)
    with (
      ProgressBar(name, cadence.num_steps, start=start, quiet=silent) as bar,
      _make_tracer(training, directory) as tracer,
    ):
      bar.say(f'{name}: {_describe(progress)}')
      lines, caught = _Lines(progress, writers, bar), None
      while progress.step < cadence.num_steps:
        count = training.call_length(progress.step)
        with tracer.annotate(progress.step, progress.step + count, state):
          state, metrics = training.take(state, progress.step, count)
        progress.pending.append((metrics, count))
        progress.step += count
        step = progress.step
        bar.advance(step)
        lines.write_late()
        log, evaluate, save = cadence.due(step)
        due = log or evaluate or save
        caught = caught or stopped(due)
        ending = caught and step % cadence.cycle == 0
        if not (due or ending):
          continue
        if not (evaluate or save or ending):
          lines.postpone(step)
          continue
        row = lines.read(progress.pending, step)
        if log:
          progress.pending = []
        else:
          row = {}
        if evaluate:
          row |= _consider(monitor, state, progress, cadence, bar)
        lines.write(step, row)
        if save or ending:
          _save(checkpoints, training, state, progress, monitor)
        if ending and step < cadence.num_steps:
          raise signals.Interrupted(
            f'Stopped at step {step} of {cadence.num_steps} by {caught}; the state is '
            'saved: run the same command to continue.'
          )
        lines.start(step)  # so that the above does not count as training
    if caught := stopped(True):
      raise signals.Interrupted(
        f'Stopped by {caught} when {name} was trained and saved; run the same command to '
        'continue.'
      )
  return Trained(state, progress, files.read_metrics(directory / 'metrics.jsonl'))


class _Lines:
  """The lines of metrics: means over the steps since the line before.

  Those that only report are written while the next call runs; to wait for each would
  leave an accelerator idle.
  """

  def __init__(self, progress, writers, bar):
    self._progress, self._writers, self._bar = progress, writers, bar
    self._late = None  # (step, calls), of which the last may still be running
    self.start(progress.step)

  def start(self, step):
    """Begins to time the steps after this one."""
    self._began, self._since = time.perf_counter(), step

  def read(self, calls, step):
    """Waits for calls, up to this step; keeps their metrics in place and returns a line.

    Raises:
      NonFiniteError: if a metric of a step is NaN or infinite.
    """
    _fetch(calls)
    seconds = time.perf_counter() - self._began
    self._progress.train_seconds += seconds
    _check_metrics(calls, step)
    line = {name: statistics.fmean(_values(calls, name)) for name in calls[0]}
    self._bar.update(step, _note(line))
    line['step_ms'] = 1e3 * seconds / (step - self._since)
    self.start(step)
    return line

  def write(self, step, line):
    for writer in self._writers if line else ():
      writer.write_scalars(step, line)

  def postpone(self, step):
    """Leaves the line of this step for `write_late`."""
    self._late, self._progress.pending = (step, self._progress.pending), []

  def write_late(self):
    """Writes the line that was postponed, if any."""
    if self._late:
      (step, calls), self._late = self._late, None
      self.write(step, self.read(calls, step))


def _fetch(calls):
  """Replaces metrics on the devices by lists of floats, all in one transfer."""
  waiting = [i for i, call in enumerate(calls) if not isinstance(call, dict)]
  fetched = jax.device_get([calls[i] for i in waiting])
  for i, (metrics, count) in zip(waiting, fetched, strict=True):
    rows = {name: np.asarray(x, np.float64) for name, x in metrics.items()}
    calls[i] = {name: row[:count].tolist() for name, row in rows.items()}


def _values(calls, name):
  """A metric of every step."""
  return [value for call in calls for value in call[name]]


def _awaited(cadence):
  """What a signal waits for; completes "waiting for ..."."""
  if jax.process_count() > 1:
    return 'the next line of metrics, at which all processes save their state'
  if cadence.cycle > 1:
    return f'the next multiple of {cadence.cycle} steps, to save the state'
  return 'the step in progress, to save the state'


def _restore(training, directory, checkpoints, monitor):
  """The state that was saved last, or None, and its progress."""
  fingerprint = training.batches.fingerprint
  state, progress = None, TrainProgress(fingerprint=fingerprint)
  if restored := checkpoints.restore(training.state, monitor.kept_shapes):
    state, record, kept = restored
    progress = TrainProgress.from_json(record)
    if progress.fingerprint != fingerprint:
      raise CheckpointError(
        f'The training in {str(directory)!r} was begun on other images; give another '
        '--workdir.'
      )
    monitor.resume(record, kept)
  progress.steps_per_call = training.steps_per_call
  return state, progress


def _save(checkpoints, training, state, progress, monitor):
  state, step = training.without_pool(state), progress.step
  if not training.is_finite(state):  # the metrics are those of the state before
    raise NonFiniteError(f'The state has NaN or infinite numbers at step {step}; {_KEPT}')
  checkpoints.save(
    step,
    state=state,
    progress=progress.to_json() | monitor.record(),
    generators=monitor.kept,
  )


def _begin(training, state, progress):
  """Returns the state to train from, new or restored, once its step is compiled."""
  if state is not None and progress.step >= training.num_steps:
    return state
  began = time.perf_counter()
  state = training.init() if state is None else training.with_pool(state)
  training.compile(state, progress.step)
  progress.compile_seconds += time.perf_counter() - began
  progress.peak_bytes = training.peak_bytes(progress.step)
  return state


def _consider(monitor, state, progress, cadence: Cadence, bar):
  """The monitor's scores of a state, which must be finite."""
  began = time.perf_counter()
  at, last = (-(-n // cadence.eval_every) for n in (progress.step, cadence.num_steps))
  with bar.waiting(monitor.task and f'{monitor.task}, {at} of {last}'):
    scores = monitor.consider(progress.step, state)
  _check_finite(scores, progress.step)
  progress.eval_seconds += time.perf_counter() - began
  return scores


def make_writers(session, directory: pathlib.Path, *, after_step: int) -> list:
  """Returns the writers of metrics, as clu's: metrics.jsonl, and event files on request.

  Args:
    after_step: step of the checkpoint that training resumes from; later lines are
      dropped.

  Returns:
    A list; empty on all processes but the first. clu's `MultiWriter` would need
    TensorFlow even where no event files are written.
  """
  if jax.process_index() > 0:
    return []
  writers = [files.MetricsFile(directory / 'metrics.jsonl', after_step=after_step)]
  if session.config.log.tensorboard:
    writers.append(tensorboard.make_writer(directory / 'tensorboard'))
  return writers


def _make_tracer(training, directory):
  process = f'process-{jax.process_index()}'
  return Tracer(training.session.config.profile.steps, directory / 'profile' / process)


def _describe(progress):
  parts = [f'resumed at step {progress.step}'] if progress.step else []
  parts.append(f'compiled in {progress.compile_seconds:.1f} s')
  parts.append(f'steps per call: {progress.steps_per_call}')
  parts.append(f'memory per device: {progress.peak_bytes / 2**20:.1f} MiB')
  return ', '.join(parts)


def _check_finite(row, step):
  bad = [name for name, value in row.items() if not math.isfinite(value)]
  if bad:
    raise NonFiniteError(f'{bad[0]} is {row[bad[0]]} at step {step}; {_KEPT}')


def _check_metrics(pending, step):
  """Checks the metrics of each step since the last line; the last was number `step`."""
  for name in pending[0]:
    values = _values(pending, name)
    if all(map(math.isfinite, values)):
      continue
    for number, value in enumerate(values, step - len(values) + 1):
      if number == 1 and not math.isfinite(value):
        raise NonFiniteError(
          f'{name} is {value} in the first step: the network gives that with its initial '
          'parameters, so correct it, or its input.'
        )
      _check_finite({name: value}, number)


def _note(row):
  losses = [(name, value) for name, value in row.items() if name.endswith('loss')]
  return ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in losses)
