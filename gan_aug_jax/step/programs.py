"""Compiled programs: each is compiled once per process, in a thread, before it is needed.

What a run will execute is known as soon as the shape of its data is. On an accelerator
`Program.start` lowers and compiles in a thread, where XLA releases the interpreter's
lock; a call waits for that, or compiles itself. Programs with the same text are compiled
once, so that the arms of a run and the cells of an ablation share them.
"""

from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import hashlib
import os
import threading
import time
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.step import operations
from gan_aug_jax.step.sharding import Layout

# XLA's options for a CPU program that runs once: an initialisation compiles four to six
# times as fast.
_RUNS_ONCE = {
  'xla_cpu_use_fusion_emitters': False,
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
# How many programs a process keeps; an ablation of many arms may have more.
_MOST_KEPT = 64

_threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), 'compile')
_waiting = set()  # futures of `_threads`
_kept = {}  # future of a `jax.stages.Compiled` by what identifies it
_lock = threading.Lock()


class Program:
  """A function of arrays on a layout's devices, compiled once for one shape of arguments.

  Arguments of another shape, type or placement raise: nothing is ever recompiled
  silently.
  """

  def __init__(
    self,
    function: Callable,
    layout: Layout,
    *,
    donate: tuple[int, ...] = (0,),
    runs_once: bool = False,
  ):
    """Prepares a program; compiles nothing yet.

    Args:
      function: of pytrees to pytrees: `(state, ...) -> (state, ...)` if the state is
        donated. The program gets its name.
      donate: positions of the arguments whose buffers the results may reuse.
      runs_once: whether fast compilation matters more than fast execution.
    """
    self._function, self._layout, self._donate = function, layout, donate
    self._runs_once, self._future = runs_once, None

  def start(self, *arguments: Any) -> None:
    """Compiles in a thread, for arguments like these: placed arrays, or their shapes.

    On a CPU it does nothing: XLA compiles with all cores there, which would slow down
    steps that run meanwhile and distort their times. Nor does it under `pmap` in several
    processes, which can only lower for arrays.
    """
    if self._future is None and self._takes_shapes and not self._layout.on_cpu:
      self._future = _threads.submit(self._compile, arguments)
      _waiting.add(self._future)
      self._future.add_done_callback(_waiting.discard)

  @property
  def _takes_shapes(self):
    return not self._layout.axis_name or jax.process_count() == 1

  def operations(self, *arguments: Any) -> float:
    """Floating-point operations of a call on all devices, see `operations.count`.

    Args:
      *arguments: see `start`.

    Returns:
      The number; 0 where a program cannot be traced for shapes.
    """
    if not self._takes_shapes:
      return 0.0
    mapped, *leading = _map_step(self._function, self._layout, arguments, self._donate)
    return operations.count(jax.make_jaxpr(mapped)(*leading, *arguments).jaxpr)

  def unoptimized(self) -> 'Program':
    """The same program, to be compiled sooner on a CPU and to run slower."""
    other = copy.copy(self)
    other._future, other._runs_once = None, True
    return other

  @property
  def is_compiled(self) -> bool:
    future = self._future
    return future is not None and future.done() and not future.cancelled()

  def compile(self, *arguments: Any) -> float:
    """Compiles, or waits until it is compiled; see `start`.

    Returns:
      The seconds that this took.
    """
    began = time.perf_counter()
    # If it is still queued, compile it here instead of waiting for those before it.
    if self._future is None or self._future.cancel():
      self._future = concurrent.futures.Future()
      self._future.set_result(self._compile(arguments))
    self._future.result()
    return time.perf_counter() - began

  def __call__(self, *arguments: Any) -> Any:
    if not self.is_compiled:
      self.compile(*arguments)
    return self.compiled(*_leading(self._layout), *arguments)

  def _compile(self, arguments):
    lowered = lower_step(self._function, self._layout, *arguments, donate=self._donate)
    return _compile_once(lowered, self._layout, self._runs_once)

  @property
  def compiled(self) -> jax.stages.Compiled:
    """The `jax.stages.Compiled`; under `pmap` its first argument is a dummy."""
    return self._future.result()

  @property
  def peak_bytes(self) -> int:
    """Bytes that a call needs on each device: arguments, results and temporaries."""
    memory = self.compiled.memory_analysis()
    return (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )


@contextlib.contextmanager
def ahead() -> Iterator[None]:
  """On exit, cancels compilations that `Program.start` queued and that have not begun.

  Otherwise a process that an error or a signal ends early would wait for all of them.
  """
  try:
    yield
  finally:
    for future in list(_waiting):
      future.cancel()


def lower_step(
  step: Callable, layout: Layout, *args: Any, donate: tuple[int, ...] = (0,)
) -> jax.stages.Lowered:
  """Lowers a step for the layout's backend.

  Args:
    step: function of pytrees to pytrees: `(state, ...) -> (state, ...)` if the state is
      donated.
    *args: its arguments, placed, or their shapes from `Layout.replicated_shapes`. Arrays
      from `Layout.shard_rows` stay on their devices, also in the state that is returned;
      all others are replicated.
    donate: positions of the arguments whose buffers the results may reuse.

  Returns:
    The lowered step. Under `pmap` its first argument is a dummy array with one element
    per device: `pmap` has to map something.
  """
  mapped, *leading = _map_step(step, layout, args, donate)
  return mapped.lower(*leading, *args)


def _map_step(step, layout, args, donate):
  """Returns the step under the layout's backend, and what it takes before `args`."""
  shared = [jax.tree.map(layout.is_sharded, arg) for arg in args]
  if not layout.axis_name:
    placed = jax.tree.map(
      lambda share: layout.sharded if share else layout.replicated, shared
    )
    outputs = (placed[0], layout.replicated) if donate else layout.replicated
    return (jax.jit(step, donate_argnums=donate, out_shardings=outputs),)
  axes = jax.tree.map(lambda share: 0 if share else None, shared)
  mapped = jax.pmap(
    _named(lambda _, *rest: step(*rest), step),
    axis_name=layout.axis_name,
    in_axes=(0, *axes),
    out_axes=(axes[0], None) if donate else None,
    devices=list(layout.mesh.devices.flat),
    donate_argnums=tuple(i + 1 for i in donate),
  )
  return mapped, np.arange(layout.num_local_devices, dtype=np.int32)


@functools.lru_cache
def _leading(layout):
  """What a compiled program takes before the function's own arguments."""
  if not layout.axis_name:
    return ()
  local = np.arange(layout.num_local_devices, dtype=np.int32)
  return (jax.make_array_from_process_local_data(layout.sharded, local),)


def _compile_once(lowered, layout, runs_once):
  """Compiles a lowered program, unless one with the same text was compiled before."""
  key = _identity(lowered, layout), runs_once
  with _lock:
    future, ours = _kept.get(key), key not in _kept
    if ours:
      future = _kept[key] = concurrent.futures.Future()
      while len(_kept) > _MOST_KEPT:
        del _kept[next(iter(_kept))]
  if ours:
    try:
      options, preferences = layout.compiler_options, _preferences(layout, runs_once)
      future.set_result(_compile_with(lowered, dict(options), preferences))
    except BaseException as error:  # even a signal: others wait for the result
      with _lock:
        _kept.pop(key, None)
      future.set_exception(error)
  return future.result()


def _identity(lowered, layout):
  """What two lowered programs must share to be the same."""
  digest = hashlib.sha256(lowered.as_text().encode())
  # Arrays that a function closes over are in the text, or in newer JAX kept next to it.
  for constant in getattr(lowered._lowering, 'const_args', ()):
    digest.update(np.ascontiguousarray(constant))
  devices = tuple(device.id for device in layout.mesh.devices.flat)
  where = devices, layout.backend, layout.compiler_options
  return digest.digest(), lowered.in_tree, lowered.out_tree, where


# XLA has two implementations of convolutions on a CPU. Its default is YNNPACK's, with
# which a training step of the CNN took twice as long as with Eigen's (docs/results.md,
# "Where the time of a step goes on a CPU"). These are the operations left to YNNPACK.
_ON_CPU = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}


def _preferences(layout, runs_once):
  """Our own options for a program, except those that the user's XLA_FLAGS set."""
  options = {}
  if layout.on_cpu:
    options = _ON_CPU | (_RUNS_ONCE if runs_once else {})
  flags = os.environ.get('XLA_FLAGS', '')
  return {name: value for name, value in options.items() if name not in flags}


def _compile_with(lowered, options, preferences):
  """Compiles with XLA's options, and with those of the preferences that this XLA has."""
  try:
    return lowered.compile(compiler_options=options | preferences)
  except jax.errors.JaxRuntimeError as error:
    known = {name: x for name, x in preferences.items() if name not in str(error)}
    if known == preferences:
      raise
  return _compile_with(lowered, options, known)


@dataclasses.dataclass(frozen=True)
class DrawAhead:
  """What the steps of a call can draw together, before the first of them.

  Attributes:
    draw: `(state, num_steps, *inputs) -> drawn`, for the steps from `state` on; of the
      state it may read only what is known of all these steps, such as seed and number.
    max_bytes: of the largest array that it computes, on each device.
  """

  draw: Callable
  max_bytes: int

  def chunk_length(self, state: Any, num_steps: int, *inputs: Any) -> int:
    """Returns the most steps to draw for at once: a divisor of `num_steps`.

    Args:
      state, *inputs: of the step, traced; nothing is computed.
    """
    for chunk in range(num_steps, 1, -1):
      if num_steps % chunk == 0:
        draw = lambda state, *inputs, chunk=chunk: self.draw(state, chunk, *inputs)
        if largest_array(draw, state, *inputs) <= self.max_bytes:
          return chunk
    return 1


def largest_array(function: Callable, *inputs: Any) -> int:
  """Returns the bytes of the largest array that a function computes on a device.

  Args:
    function: to trace; nothing is computed.
    *inputs: of it, arrays or their shapes.
  """
  return _largest_in(jax.make_jaxpr(function)(*inputs).jaxpr)


def _largest_in(jaxpr):
  sizes = [0]
  for equation in jaxpr.eqns:
    inner = jax.extend.core.jaxprs_in_params(equation.params)
    sizes += map(_largest_in, inner)
    # What it returns has the size of all shares; each was counted inside.
    if equation.primitive.name != 'shard_map':
      sizes += (x.aval.size * x.aval.dtype.itemsize for x in equation.outvars)
  return max(sizes)


def repeat_step(
  step: Callable, num_steps: int, draw_ahead: DrawAhead | None = None
) -> Callable:
  """Returns the function that takes up to `num_steps` steps in one call.

  Args:
    step: `(state, *inputs) -> (state, metrics)`.
    num_steps: steps per call. A single one is not scanned: XLA on CPU runs a convolution
      inside a loop some 15 times slower than outside.
    draw_ahead: what a call of several steps draws outside of the loop over them; the step
      then takes it as a last input. Chunks of a call are drawn one after the other if
      all of it is too large.

  Returns:
    `(state, count, *inputs) -> (state, metrics)` of the first `count` of those steps, an
    int32 scalar. The metrics have a leading axis [num_steps] and are undefined from
    `count` on. So a shorter last call needs no other program.
  """
  if num_steps == 1:

    def once(state, count, *inputs):
      del count
      state, metrics = step(state, *inputs)
      return state, jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)

    return _named(once, step)

  def scan(state, numbers, count, *inputs):
    def body(before, number):
      after, metrics = step(before, *inputs)
      # A select is fused into the update; with a loop of unknown length a GPU would have
      # to ask its host at every turn.
      keep = lambda new, old: jnp.where(number < count, new, old)
      return jax.tree.map(keep, after, before), metrics

    return jax.lax.scan(body, state, numbers)

  def scanned(state, count, *inputs):
    numbers = jnp.arange(num_steps, dtype=jnp.int32)
    if not draw_ahead:
      return scan(state, numbers, count, *inputs)
    length = draw_ahead.chunk_length(state, num_steps, *inputs)

    def take_chunk(state, numbers):
      drawn = draw_ahead.draw(state, length, *inputs)
      return scan(state, numbers, count, *inputs, drawn)

    if length == num_steps:
      return take_chunk(state, numbers)
    state, metrics = jax.lax.scan(take_chunk, state, numbers.reshape(-1, length))
    return state, jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), metrics)

  return _named(scanned, step)


def _named(function, like):
  """Gives a function the name of another, under which a profile shows its program."""
  function.__name__ = getattr(like, '__name__', function.__name__)
  return function
