"""The real examples that the calls of a step program take, from the devices or the host.

Both kinds give the same examples in the same order, a function of (seed, step): there is
nothing to save, and a resumed run is exact. See `device_data` for that order. A set that
is larger than a device's memory stays on the host, and each process sends its devices
their own part of each step; grain reads ahead in threads.
"""

import dataclasses
import functools

import jax
import numpy as np

from gan_aug_jax.data.splits import Split
from gan_aug_jax.step import device_data, plans, sharding
from gan_aug_jax.step.device_data import DeviceDataset, StreamedBatches

_WINDOWS_AHEAD = 4


@dataclasses.dataclass(eq=False)
class BatchSource:
  """`source(step, num_steps) -> data` for a call that takes the steps from `step` on.

  Attributes:
    split: the examples, at least one. Nothing is placed or read before the first call.
    plan: whose positions are filled.
    layout: where the step runs.
    seed: of the order.
    substeps: batches that a step takes, each by the plan.
  """

  split: Split
  plan: plans.BatchPlan
  layout: sharding.Layout
  seed: int
  substeps: int = 1

  @property
  def fingerprint(self) -> str:
    """Of the images and labels."""
    return self.split.fingerprint

  def __call__(self, step: int, num_steps: int) -> DeviceDataset | StreamedBatches:
    raise NotImplementedError

  def shapes(self, num_steps: int) -> DeviceDataset | StreamedBatches:
    """The shapes of what a call of that many steps takes."""
    raise NotImplementedError


class DeviceBatches(BatchSource):
  """All examples on the devices, and a window of their order for each call."""

  @functools.cached_property
  def _window(self):
    examples = _on_devices(self.split, self.layout)
    return device_data.make_feed(examples, seed=self.seed, place=self.layout.replicate)

  def __call__(self, step: int, num_steps: int) -> DeviceDataset:
    first = int(self.plan.real_before(step * self.substeps))
    return self._window(first, self._count(num_steps))

  def shapes(self, num_steps: int) -> DeviceDataset:
    images, labels = self.split.images, self.split.labels
    int32 = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    data = DeviceDataset(
      images=images,
      labels=int32(len(labels)),
      by_class=int32(len(labels)),
      class_starts=int32(int(labels.max()) + 2),
      order=int32(device_data.window_length(len(labels), self._count(num_steps))),
      start=int32(),
    )
    return self.layout.replicated_shapes(data)

  def _count(self, num_steps):
    """The most real examples that a call takes; a window holds at least one a step."""
    return num_steps * max(1, self.substeps * self.plan.num_real)


@functools.lru_cache(maxsize=2)  # a run's training images, and those of a probe
def _on_devices(split, layout):
  return layout.replicate(device_data.arrange(split.images, split.labels))


class HostBatches(BatchSource):
  """The examples of each call, sent to the devices of their positions."""

  _steps, _windows, _data = range(0), None, None

  def __call__(self, step: int, num_steps: int) -> StreamedBatches:
    if step in self._steps and len(self._steps) == num_steps:
      return self._data  # of a call that took only some of its steps
    if step != self._steps.stop or len(self._steps) != num_steps:
      self._windows = self._read_ahead(step, num_steps)
    self._steps = range(step, step + num_steps)
    images, labels = map(self.layout.shard_rows, next(self._windows))
    self._data = StreamedBatches(images, labels, self.layout.replicate(np.int32(step)))
    return self._data

  def shapes(self, num_steps: int) -> StreamedBatches:
    layout = self.layout
    groups = (layout.num_devices, 1) if layout.axis_name else (layout.num_devices,)
    lead = (*groups, num_steps, self.substeps, layout.slots_per_device(self.plan.total))
    sharded = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharded)
    return StreamedBatches(
      images=sharded((*lead, *self.split.images.shape[1:]), np.uint8),
      labels=sharded(lead, np.int32),
      start=layout.replicated_shapes(np.int32(0)),
    )

  def _read_ahead(self, step, num_steps):
    """Iterates over `_read(step, num_steps)` and what follows it, some windows ahead."""
    import grain  # late: it takes a second, and only this needs it

    windows = grain.MapDataset.range(2**31 // num_steps)
    windows = windows.map(lambda i: self._read(step + i * num_steps, num_steps))
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=_WINDOWS_AHEAD)
    return iter(windows.to_iter_dataset(options))

  def _read(self, step, num_steps):
    """Images and labels [local devices, num_steps, substeps, share, ...]."""
    # Slots without a real example get some other one; they are masked in the step.
    plan, substeps = self.plan, self.substeps
    position = self.layout.local_positions(plan.total)
    batches = np.arange(step * substeps, (step + num_steps) * substeps)
    first = [int(plan.real_before(b)) - int(plan.first_real_at(b)) for b in batches]
    places = np.asarray(first, np.int64)[None, :, None] + position[:, None]
    rows = self._rows(places).reshape(len(position), num_steps, substeps, -1)
    return self.split.images[rows], self.split.labels[rows].astype(np.int32)

  def _rows(self, places):
    """The rows of the set at some places of the stream."""
    epochs, places = np.divmod(np.maximum(places, 0), len(self.split))
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
      rows[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
    return rows

  @functools.cached_property
  def _order(self):
    order = lambda epoch: device_data.epoch_order(self.seed, epoch, len(self.split))
    return functools.lru_cache(4)(order)
