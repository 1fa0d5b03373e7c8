"""Compiled programs: each is compiled once in a process, ahead of its use, in threads.

What a run will execute is known as soon as the shape of its data is. On an accelerator
`Program.start` lowers and compiles in a thread, where XLA releases the interpreter's
lock; a call waits for that, or compiles there and then. Programs with the same text are
one program, so that the arms of a run and the cells of an ablation share what they have
in common.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

# What XLA needs to compile a program for a CPU that runs once: an initialisation compiles
# four to six times as fast.
_RUNS_ONCE = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
# Most programs that a process keeps; an ablation of many arms may have more.
_MOST_KEPT = 64

_threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), 'compile')
_waiting = set()  # futures of `_threads`
_kept = {}  # future of a `jax.stages.Compiled` by what identifies it
_lock = threading.Lock()


class Program:
  """A function of arrays on a layout's devices, compiled once for one shape of arguments.

  Arguments of another shape, type or placement raise: nothing is ever compiled a second
  time behind the user's back.
  """

  def __init__(self, function, layout, *, donate=(0,), runs_once=False):
    """Prepares a program; compiles nothing yet.

    Args:
      function: of pytrees to pytrees: `(state, ...) -> (state, ...)` where the state is
        donated. Its name is the program's.
      layout: where it runs.
      donate: positions of the arguments whose buffers the results may take.
      runs_once: whether it is cheaper to compile it fast than to run it fast.
    """
    self._function, self._layout, self._donate = function, layout, donate
    self._runs_once, self._future = runs_once, None

  def start(self, *arguments):
    """Compiles in a thread, for arguments like these: placed arrays, or their shapes.

    On a CPU it does not: XLA compiles with all cores there, and a step that is computed
    beside it is slow, and its time no measure. Nor under `pmap` in several processes,
    which lowers for arrays only.
    """
    local = not self._layout.axis_name or jax.process_count() == 1
    if self._future is None and local and not self._layout.on_cpu:
      self._future = _threads.submit(self._compile, arguments)
      _waiting.add(self._future)
      self._future.add_done_callback(_waiting.discard)

  @property
  def is_compiled(self):
    future = self._future
    return future is not None and future.done() and not future.cancelled()

  def compile(self, *arguments):
    """Compiles, or waits until it is compiled; see `start`.

    Returns:
      The seconds that this took.
    """
    began = time.perf_counter()
    # One that is in the queue still is compiled here, and not after all before it.
    if self._future is None or self._future.cancel():
      self._future = concurrent.futures.Future()
      self._future.set_result(self._compile(arguments))
    self._future.result()
    return time.perf_counter() - began

  def __call__(self, *arguments):
    if not self.is_compiled:
      self.compile(*arguments)
    return self.compiled(*_leading(self._layout), *arguments)

  def _compile(self, arguments):
    lowered = lower_step(self._function, self._layout, *arguments, donate=self._donate)
    return _compile_once(lowered, self._layout, self._runs_once)

  @property
  def compiled(self):
    """The `jax.stages.Compiled`; under `pmap` its first argument is a dummy."""
    return self._future.result()

  @property
  def peak_bytes(self):
    """Memory that a call needs on each device: arguments, results and temporaries."""
    memory = self.compiled.memory_analysis()
    return (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )


def compile_step(step, layout, *args, donate=(0,)):
  """Returns the `Program` of a step, compiled for arguments placed by the layout."""
  program = Program(step, layout, donate=donate)
  program.compile(*args)
  return program


@contextlib.contextmanager
def ahead():
  """Gives up at its end what `start` was asked for and has not begun.

  Or a process that ends early, of an error or a signal, would compile all of it first.
  """
  try:
    yield
  finally:
    for future in list(_waiting):
      future.cancel()


def lower_step(step, layout, *args, donate=(0,)):
  """Lowers a step for the layout's backend.

  Args:
    step: function of pytrees to pytrees: `(state, ...) -> (state, ...)` where the state
      is donated.
    layout: where it runs.
    *args: its arguments, placed, or their shapes from `Layout.shapes`. What the layout
      has put on each device by itself (`Layout.deal`) stays there, in the state that
      comes back too; all else is replicated.
    donate: positions of the arguments whose buffers the results may take.

  Returns:
    A `jax.stages.Lowered`. Under `pmap` its first argument is a dummy array with an
    element a device: `pmap` has to map something.
  """
  shared = [jax.tree.map(layout.is_share, arg) for arg in args]
  if not layout.axis_name:
    placed = jax.tree.map(
      lambda share: layout.by_device if share else layout.replicated, shared
    )
    outputs = (placed[0], layout.replicated) if donate else layout.replicated
    jitted = jax.jit(step, donate_argnums=donate, out_shardings=outputs)
    return jitted.lower(*args)
  axes = jax.tree.map(lambda share: 0 if share else None, shared)

  mapped = jax.pmap(
    _named(lambda _, *rest: step(*rest), step),
    axis_name=layout.axis_name,
    in_axes=(0, *axes),
    out_axes=(axes[0], None) if donate else None,
    devices=list(layout.mesh.devices.flat),
    donate_argnums=tuple(i + 1 for i in donate),
  )
  return mapped.lower(np.arange(layout.num_local_devices, dtype=np.int32), *args)


@functools.lru_cache
def _leading(layout):
  """Arguments that a compiled program takes before the function's own."""
  if not layout.axis_name:
    return ()
  local = np.arange(layout.num_local_devices, dtype=np.int32)
  return (jax.make_array_from_process_local_data(layout.by_device, local),)


def _compile_once(lowered, layout, runs_once):
  """Compiles a lowered program, unless one with the same text is there already."""
  key = _identity(lowered, layout), runs_once
  with _lock:
    future, ours = _kept.get(key), key not in _kept
    if ours:
      future = _kept[key] = concurrent.futures.Future()
      while len(_kept) > _MOST_KEPT:
        del _kept[next(iter(_kept))]
  if ours:
    try:
      options = _cpu_options(runs_once) if layout.on_cpu else {}
      future.set_result(_compile_with(lowered, options))
    except BaseException as error:  # a signal, too: others wait for it
      with _lock:
        _kept.pop(key, None)
      future.set_exception(error)
  return future.result()


def _identity(lowered, layout):
  """What makes two lowered programs the same one."""
  digest = hashlib.sha256(lowered.as_text().encode())
  # Arrays that a function closes over stand in the text, or in newer JAX beside it.
  for constant in getattr(lowered._lowering, 'const_args', ()):
    digest.update(np.ascontiguousarray(constant))
  devices = tuple(device.id for device in layout.mesh.devices.flat)
  return digest.digest(), lowered.in_tree, lowered.out_tree, devices, layout.backend


def _cpu_options(runs_once):
  """Options of XLA for a CPU, but for those that the user's XLA_FLAGS set.

  It has two kinds of convolution. By default it takes YNNPACK's, with which a training
  step of the CNN took twice as long as with Eigen's (docs/results.md, "Where the time of
  a step goes on a CPU").
  """
  kinds = 'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE'  # what YNNPACK is left
  options = {'xla_cpu_experimental_ynn_fusion_type': kinds}
  options |= _RUNS_ONCE if runs_once else {}
  flags = os.environ.get('XLA_FLAGS', '')
  return {name: value for name, value in options.items() if name not in flags}


def _compile_with(lowered, options):
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:  # of a version without such an option
    if not options or 'option' not in str(error):
      raise
    return lowered.compile()


def repeat_step(step, num_steps):
  """Returns the function that takes up to `num_steps` steps in one call.

  Args:
    step: `(state, *inputs) -> (state, metrics)`.
    num_steps: steps a call. One is not scanned: XLA on CPU runs a convolution inside a
      loop some 15 times slower than outside.

  Returns:
    `(state, count, *inputs) -> (state, metrics)`, of the first `count` of those steps,
    an int32 scalar; the metrics have a leading axis [num_steps], and those from `count`
    on mean nothing. So a last call that is shorter needs no program of its own.
  """
  if num_steps == 1:

    def once(state, count, *inputs):
      del count
      state, metrics = step(state, *inputs)
      return state, jax.tree.map(lambda x: x[None], metrics)

    return _named(once, step)

  def scanned(state, count, *inputs):
    def body(before, number):
      after, metrics = step(before, *inputs)
      # A select is fused into the update; a loop of unknown length would have a GPU ask
      # its host at every turn.
      keep = lambda new, old: jnp.where(number < count, new, old)
      return jax.tree.map(keep, after, before), metrics

    return jax.lax.scan(body, state, jnp.arange(num_steps, dtype=jnp.int32))

  return _named(scanned, step)


def _named(function, like):
  """Gives a function the name of another, by which a profile shows its program."""
  function.__name__ = getattr(like, '__name__', function.__name__)
  return function
