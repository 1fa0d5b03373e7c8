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

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._tracing:
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
    inside = step < self._steps.stop and stop > self._steps.start
    if inside != self._tracing:
      jax.block_until_ready(state)  # or work of other steps would be in the trace
      if inside:
        jax.profiler.start_trace(self._directory)
        self._tracing = True
      else:
        self.__exit__()
    return jax.profiler.StepTraceAnnotation('train', step_num=step)
