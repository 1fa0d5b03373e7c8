"""Where a step runs: the devices, and how a global batch is split over them.

A step is written once, on arrays [groups, share, ...]. Under `jit` there is one group per
device and the first axis is sharded over the mesh; under `pmap` each device sees only its
own group. Position p of a batch is on device p mod n, so a property of the first S
positions is spread evenly over the devices. Sums over examples go through `Layout.sum`.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

_AXIS = 'data'
Tree = Any


@dataclasses.dataclass(frozen=True)
class Layout:
  """The devices of a run and the backend that spreads a step over them.

  Attributes:
    mesh: one-dimensional mesh over the devices.
    backend: 'jit' or 'pmap'.
    compiler_options: pairs (name, value) of XLA's options for programs that run there.
  """

  mesh: Mesh
  backend: str
  compiler_options: tuple[tuple[str, Any], ...] = ()

  @property
  def num_devices(self) -> int:
    return self.mesh.size

  @property
  def num_local_devices(self) -> int:
    return len(self.mesh.local_devices)

  @property
  def on_cpu(self) -> bool:
    return self.mesh.devices.flat[0].platform == 'cpu'

  @property
  def axis_name(self) -> str | None:
    """Name of the mapped axis inside the step, or None under `jit`."""
    return _AXIS if self.backend == 'pmap' else None

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def slots_per_device(self, count: int) -> int:
    """Slots that each device needs for `count` positions."""
    return -(-count // self.num_devices)

  def positions(self, total: int) -> jax.Array:
    """Global batch positions by device: int32 [groups, slots_per_device(total)].

    If `total` is not a multiple of the devices, the last slots hold positions >= total:
    spare slots, whose weight must be 0.
    """
    slots = self.num_devices * jnp.arange(self.slots_per_device(total), dtype=jnp.int32)
    if self.axis_name:
      return jax.lax.axis_index(_AXIS).astype(jnp.int32)[None, None] + slots[None]
    devices = jnp.arange(self.num_devices, dtype=jnp.int32)
    return self.constrain(devices[:, None] + slots[None])

  def local_positions(self, total: int) -> np.ndarray:
    """The positions of this process's own devices: int64 [local devices, share]."""
    owner = [device.process_index for device in self.mesh.devices.flat]
    devices = np.flatnonzero(np.equal(owner, jax.process_index()))
    slots = self.num_devices * np.arange(self.slots_per_device(total))
    return devices[:, None] + slots

  def constrain(self, x: jax.Array) -> jax.Array:
    """Keeps the groups of [groups, share, ...] on their devices."""
    if self.axis_name:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharded)

  def map_devices(self, function: Callable) -> Callable:
    """Makes a function run on each device's share separately.

    Args:
      function: of a replicated tree, and of arrays whose first axis is the groups, or
        the flattened [groups, share]; inside it, `device_index` tells the devices apart.
        It may use such functions itself.
    """
    if self.axis_name:
      return function

    def spread(replicated, *arrays):
      if _AXIS in jax.sharding.get_abstract_mesh().manual_axes:
        return function(replicated, *arrays)  # on one device's share already
      data = PartitionSpec(_AXIS)
      specs = (PartitionSpec(), *(data for _ in arrays))
      mapped = jax.shard_map(
        function, mesh=self.mesh, in_specs=specs, out_specs=data, check_vma=False
      )
      return mapped(replicated, *arrays)

    return spread

  def device_index(self) -> jax.Array:
    """The device's place in the mesh, inside `pmap` or `map_devices`."""
    return jax.lax.axis_index(_AXIS)

  def sum(self, tree: Tree) -> Tree:
    """Sums over the devices what each has summed over its own examples."""
    return jax.lax.psum(tree, _AXIS) if self.axis_name else tree

  def scan(self, body: Callable, carry: Tree, xs: Tree) -> tuple[Tree, list]:
    """`jax.lax.scan`, unrolled on a CPU, where convolutions in a loop are slow.

    On an accelerator a loop keeps the program small.

    Args:
      body: `(carry, x) -> (carry, y)`.
      xs: tree of arrays with a leading axis, an element per turn.

    Returns:
      `(carry, ys)`, with a list of what each turn returned.
    """
    turns = range(len(jax.tree.leaves(xs)[0]))
    at = lambda tree, turn: jax.tree.map(lambda x: x[turn], tree)
    if len(turns) > 1 and not self.on_cpu:
      carry, stacked = jax.lax.scan(body, carry, xs)
      return carry, [at(stacked, turn) for turn in turns]
    ys = []
    for turn in turns:  # `unroll` would leave a loop of one turn
      carry, y = body(carry, at(xs, turn))
      ys.append(y)
    return carry, ys

  def all_gather(self, x: jax.Array) -> jax.Array:
    """Restores batch order on every device, spare slots last.

    Args:
      x: flattened slots [groups * share, ...].

    Returns:
      [num_devices * share, ...].

    For evaluation only: it communicates, which a training step must not.
    """
    if self.axis_name:
      x = jax.lax.all_gather(x, _AXIS)
    else:
      x = x.reshape(self.num_devices, -1, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

  def replicate(self, tree: Tree) -> Tree:
    """Copies host arrays, the same on every process, to every device."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x)),
      tree,
    )

  @property
  def with_jit(self) -> 'Layout':
    """The same devices under `jit`, for programs that do not depend on the backend."""
    return dataclasses.replace(self, backend='jit')

  def replicated_int(self, value: int) -> jax.Array:
    """An int32 scalar on every device. It is cached, so never donate it."""
    return _replicated_int(self, value)

  def replicated_shapes(self, tree: Tree) -> Tree:
    """The `jax.ShapeDtypeStruct` of each array of a tree as `replicate` would put it."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree
    )

  def shard_rows(self, x: np.ndarray) -> jax.Array:
    """Puts x [local devices, ...] on this process's devices, one row on each."""
    x = x[:, None] if self.axis_name else x
    return jax.make_array_from_process_local_data(self.sharded, x)

  def is_sharded(self, x: Any) -> bool:
    """Whether an array comes from `shard_rows`."""
    return getattr(x, 'sharding', None) == self.sharded

  @property
  def sharded(self) -> NamedSharding:
    """The sharding of arrays [local devices, ...], one row on each device."""
    return NamedSharding(self.mesh, PartitionSpec(_AXIS))


@functools.lru_cache(maxsize=256)
def _replicated_int(layout, value):
  return layout.replicate(np.int32(value))


def flatten(x: jax.Array) -> jax.Array:
  """Joins groups and shares to a batch: [groups, share, ...] to [groups * share, ...]."""
  return x.reshape(-1, *x.shape[2:])


def make_layout(
  backend: str, devices: list | None = None, compiler_options: dict | None = None
) -> Layout:
  """Returns the `Layout` of a backend over some devices.

  Args:
    backend: 'jit' or 'pmap'.
    devices: in the order of the mesh; None for all.
    compiler_options: XLA's options {name: value} for programs that run there.

  Raises:
    ValueError: if the backend is unknown.
  """
  if backend not in ('jit', 'pmap'):
    raise ValueError(f"The backend must be 'jit' or 'pmap', not {backend!r}.")
  devices = jax.devices() if devices is None else devices
  # `make_mesh` would give Explicit axes, under which mixing real and synthetic raises.
  mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
  return Layout(mesh, backend, tuple((compiler_options or {}).items()))
