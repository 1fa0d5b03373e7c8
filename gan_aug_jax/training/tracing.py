"""Traces of some steps of a training, for TensorBoard or Perfetto.

clu's `periodic_actions.Profile` needs TensorFlow, and bounds a trace by the time that
passes on the host, which runs ahead of the devices.
"""

import contextlib
import pathlib

import jax


class Tracer:
  """Traces the steps of a training that are asked for; a context manager."""

  def __init__(self, steps: str, directory: pathlib.Path):
    """Prepares a trace.

    Args:
      steps: 'first:last', or empty for none.
    """
    first, _, last = steps.partition(':')
    self._steps = range(int(first), int(last) + 1) if steps else range(0)
    self._directory, self._tracing = directory, False
    self._taken = range(0)

  def __enter__(self):
    return self

  def __exit__(self, error, *_):
    if self._tracing:
      self._stop()
    elif self._steps and self._taken and not (error or self._asks_for(self._taken)):
      print(
        f'No trace in {self._directory}: steps {self._taken.start} to '
        f'{self._taken.stop - 1} were taken, and profile.steps asks for '
        f'{self._steps.start} to {self._steps.stop - 1}.',
        flush=True,
      )

  def _asks_for(self, steps):
    return steps.start < self._steps.stop and steps.stop > self._steps.start

  def _stop(self):
    jax.profiler.stop_trace()
    self._tracing = False
    print(
      f'Trace: {self._directory}; open it with tensorboard --logdir={self._directory} '
      '(pip install tensorboard xprof), or its .trace.json.gz at ui.perfetto.dev.',
      flush=True,
    )

  def annotate(self, step: int, stop: int, state) -> contextlib.AbstractContextManager:
    """A context for the call that takes steps `step` to `stop - 1` from `state`.

    Args:
      state: before the call; a trace begins and ends when it is computed.
    """
    self._taken = range(self._taken.start if self._taken else step, stop)
    inside = self._asks_for(range(step, stop))
    if inside != self._tracing:
      jax.block_until_ready(state)  # or work of other steps would be in the trace
      if inside:
        jax.profiler.start_trace(self._directory)
        self._tracing = True
      else:
        self._stop()
    return jax.profiler.StepTraceAnnotation('train', step_num=step)
