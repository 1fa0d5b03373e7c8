"""Where a step runs: the devices, and how a global batch is dealt to them.

A step is written once, on arrays [groups, share, ...]. Under `jit` there is one group a
device and the first axis is sharded over the mesh; under `pmap` each device sees its one
group. Position p of a batch lives on device p mod n, so a property of the first S
positions is spread evenly over the devices. Sums over examples go through `Layout.sum`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
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
    return jax.lax.with_sharding_constraint(x, self.by_device)

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

  def loop(self, body, carry, xs):
    """`jax.lax.scan`, unrolled on a CPU, where convolutions in a loop are slow.

    On an accelerator a longer loop makes no larger program.

    Returns:
      `(carry, ys)`, a list of what each turn gives.
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

  @property
  def on_jit(self):
    """The same devices, for a program that is the same under either backend."""
    return dataclasses.replace(self, backend='jit')

  def scalar(self, value):
    """A whole number on every device: int32, kept for each value, so never donate it."""
    return _scalar(self, value)

  def shapes(self, tree):
    """The shapes and types of arrays, of a tree of either, as `place` puts them."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree
    )

  def place_shares(self, shape, dtype):
    """Zeros [share, ...] for each device's own group, which a step may carry along."""
    return self.deal(np.zeros((self.num_local_devices, *shape), dtype))

  def deal(self, x):
    """Puts x [local devices, ...] on this process's devices, a row on each."""
    x = x[:, None] if self.axis_name else x
    return jax.make_array_from_process_local_data(self.by_device, x)

  def is_share(self, x):
    """Whether an array comes from `deal`."""
    return getattr(x, 'sharding', None) == self.by_device

  @property
  def by_device(self):
    """The sharding of arrays [local devices, ...], a row on each device."""
    return NamedSharding(self.mesh, PartitionSpec(_AXIS))


@functools.lru_cache(maxsize=256)
def _scalar(layout, value):
  return layout.place(np.int32(value))


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
