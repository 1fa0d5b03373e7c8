"""Where a step runs: the devices, and how a global batch is dealt to them.

A step is written once, on arrays [groups, share, ...]. Under `jit` there is one group a
device and the first axis is sharded over the mesh; under `pmap` each device sees its one
group. Position p of a batch lives on device p mod n, so a property of the first S
positions is spread evenly over the devices. Sums over examples go through `Layout.sum`.
"""

import dataclasses

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp
import numpy as np

_AXIS = 'data'


@dataclasses.dataclass(frozen=True)
class Layout:
  """The devices of a run and the backend that spreads a step over them.

  Attributes:
    mesh: one-dimensional mesh over the devices.
    backend: 'jit' or 'pmap'.
  """

  mesh: Mesh
  backend: str

  @property
  def num_devices(self):
    return self.mesh.size

  @property
  def num_local_devices(self):
    return len(self.mesh.local_devices)

  @property
  def on_cpu(self):
    return self.mesh.devices.flat[0].platform == 'cpu'

  @property
  def axis_name(self):
    """Name of the mapped axis inside the step, or None under `jit`."""
    return _AXIS if self.backend == 'pmap' else None

  @property
  def replicated(self):
    return NamedSharding(self.mesh, PartitionSpec())

  def share(self, count):
    """Slots that each device needs to hold `count` positions."""
    return -(-count // self.num_devices)

  def positions(self, total):
    """Global batch positions by device: int32 [groups, share(total)].

    Where `total` does not divide, the last slots hold positions >= total: spare slots,
    whose weight must be 0.
    """
    slots = self.num_devices * jnp.arange(self.share(total), dtype=jnp.int32)
    if self.axis_name:
      return jax.lax.axis_index(_AXIS).astype(jnp.int32)[None, None] + slots[None]
    devices = jnp.arange(self.num_devices, dtype=jnp.int32)
    return self.shard(devices[:, None] + slots[None])

  def local_positions(self, total):
    """The positions of this process's own devices: int64 [local devices, share]."""
    owner = [device.process_index for device in self.mesh.devices.flat]
    devices = np.flatnonzero(np.equal(owner, jax.process_index()))
    slots = self.num_devices * np.arange(self.share(total))
    return devices[:, None] + slots

  def shard(self, x):
    """Keeps the groups of [groups, share, ...] on their devices."""
    if self.axis_name:
      return x
    return jax.lax.with_sharding_constraint(x, self._by_device)

  def per_device(self, function):
    """Makes a function run on each device's share by itself.

    Args:
      function: of a replicated tree and then arrays whose first axis is the flattened
        [groups, share]; inside it, `device_index` tells the devices apart.
    """
    if self.axis_name:
      return function

    def spread(replicated, *arrays):
      data = PartitionSpec(_AXIS)
      specs = (PartitionSpec(), *(data for _ in arrays))
      mapped = jax.shard_map(
        function, mesh=self.mesh, in_specs=specs, out_specs=data, check_vma=False
      )
      return mapped(replicated, *arrays)

    return spread

  def device_index(self):
    """The device's place in the mesh, where each runs by itself."""
    return jax.lax.axis_index(_AXIS)

  def sum(self, tree):
    """Adds sums over one's own examples up over the devices."""
    return jax.lax.psum(tree, _AXIS) if self.axis_name else tree

  def gather(self, x):
    """Restores batch order on every device: [groups, share, ...] to [total, ...].

    For evaluation; a training step has no use for it.
    """
    if self.axis_name:
      x = jax.lax.all_gather(x[0], _AXIS)
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

  def place(self, tree):
    """Puts host arrays on every device; the same on every process."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x)),
      tree,
    )

  def place_shares(self, shape, dtype):
    """Zeros [share, ...] for each device's own group, which a step may carry along."""
    return self.deal(np.zeros((self.num_local_devices, *shape), dtype))

  def deal(self, x):
    """Puts x [local devices, ...] on this process's devices, a row on each."""
    x = x[:, None] if self.axis_name else x
    return jax.make_array_from_process_local_data(self._by_device, x)

  def is_share(self, x):
    """Whether an array comes from `deal`."""
    return getattr(x, 'sharding', None) == self._by_device

  @property
  def _by_device(self):
    return NamedSharding(self.mesh, PartitionSpec(_AXIS))


def flatten(x):
  """Joins groups and shares to a batch: [groups, share, ...] to [groups * share, ...]."""
  return x.reshape(-1, *x.shape[2:])


def make_layout(backend, devices=None):
  """Returns the `Layout` of a backend over devices (default: all).

  Raises:
    ValueError: if the backend is unknown.
  """
  if backend not in ('jit', 'pmap'):
    raise ValueError(f"The backend must be 'jit' or 'pmap', not {backend!r}.")
  devices = jax.devices() if devices is None else devices
  # `make_mesh` would give Explicit axes, under which mixing real and synthetic raises.
  mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
  return Layout(mesh, backend)


def lower_step(step, layout, *args, donate=(0,)):
  """Lowers a step for the layout's backend.

  Args:
    step: function of pytrees to pytrees: `(state, ...) -> (state, ...)` where the state
      is donated.
    layout: where it runs.
    *args: its arguments, placed, or their shapes. What the layout has put on each device
      by itself (`Layout.deal`) stays there, in the state that comes back too; all
      else is replicated.
    donate: positions of the arguments whose buffers the results may take.

  Returns:
    A `jax.stages.Lowered`. Under `pmap` its first argument is a dummy array with an
    element a device: `pmap` has to map something.
  """
  shared = [jax.tree.map(layout.is_share, arg) for arg in args]
  if not layout.axis_name:
    placed = jax.tree.map(
      lambda share: layout._by_device if share else layout.replicated, shared
    )
    outputs = (placed[0], layout.replicated) if donate else layout.replicated
    jitted = jax.jit(step, donate_argnums=donate, out_shardings=outputs)
    return jitted.lower(*args)
  axes = jax.tree.map(lambda share: 0 if share else None, shared)
  mapped = jax.pmap(
    lambda _, *rest: step(*rest),
    axis_name=_AXIS,
    in_axes=(0, *axes),
    out_axes=(axes[0], None) if donate else None,
    devices=list(layout.mesh.devices.flat),
    donate_argnums=tuple(i + 1 for i in donate),
  )
  return mapped.lower(np.arange(layout.num_local_devices, dtype=np.int32), *args)


def compile_step(step, layout, *args, donate=(0,)):
  """Compiles a step once, ahead of time, for arguments placed by the layout.

  Args and donate: as `lower_step`.

  Returns:
    A `Program`. Arguments of another shape or placement raise: nothing is
    ever compiled a second time behind the user's back.
  """
  lowered = lower_step(step, layout, *args, donate=donate)
  compiled = _compile_for_cpu(lowered) if layout.on_cpu else lowered.compile()
  return Program(compiled, _pmap_dummy(layout) if layout.axis_name else ())


def _compile_for_cpu(lowered):
  """Compiles with the faster of XLA's two kinds of convolution on CPU, Eigen's.

  By default it takes YNNPACK's: a training step of the CNN took twice as long
  (docs/results.md, "Where the time of a step goes on a CPU").
  """
  kinds = 'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE'  # what YNNPACK is left
  try:
    options = {'xla_cpu_experimental_ynn_fusion_type': kinds}
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # of a version without that option
    return lowered.compile()


def _pmap_dummy(layout):
  local = np.arange(layout.num_local_devices, dtype=np.int32)
  return (jax.make_array_from_process_local_data(layout._by_device, local),)


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step, called with the step's own arguments.

  Attributes:
    compiled: a `jax.stages.Compiled`.
    leading: arguments that it takes before the step's.
  """

  compiled: jax.stages.Compiled
  leading: tuple

  def __call__(self, *args):
    return self.compiled(*self.leading, *args)

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


def repeat_step(step, num_steps):
  """Returns the function that takes `num_steps` steps in one call.

  Args:
    step: `(state, *inputs) -> (state, metrics)`.
    num_steps: steps a call. One is not scanned: XLA on CPU runs a convolution inside a
      loop some 15 times slower than outside.

  Returns:
    `(state, *inputs) -> (state, metrics)`, the metrics with a leading axis [num_steps].
  """
  if num_steps == 1:

    def once(state, *inputs):
      state, metrics = step(state, *inputs)
      return state, jax.tree.map(lambda x: x[None], metrics)

    return once

  def scanned(state, *inputs):
    body = lambda state, _: step(state, *inputs)
    return jax.lax.scan(body, state, None, length=num_steps)

  return scanned
