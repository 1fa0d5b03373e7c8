"""Real examples that stay on the host: what each step takes is sent to the devices.

For sets that are larger than a device's memory. The steps, the order of the examples and
so the numbers are those of `device_data.make_feed`; each process reads only its own
devices' part. grain reads ahead in threads. What a step takes is a function of (seed,
step), so there is nothing to save, and a resumed run is exact.
"""

import functools

import jax
import numpy as np

from gan_aug_jax.step import device_data, mixing, sharding
from gan_aug_jax.step.device_data import StreamedData

_WINDOWS_AHEAD = 4


class HostStream:
  """The stream of a set on the host; `stream(step, num_steps) -> StreamedData`."""

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    plan: mixing.BatchPlan,
    layout: sharding.Layout,
    substeps: int = 1,
  ):
    """Prepares a stream; reads nothing yet.

    Args:
      images: uint8 [N, H, W, C]; N at least 1.
      labels: int32 [N].
      seed: of the order.
      plan: whose positions are filled.
      layout: where the step runs.
      substeps: batches that a step takes, each by the plan.
    """
    self._images, self._labels = images, labels
    self._plan, self._layout, self._substeps = plan, layout, substeps
    self._order = functools.lru_cache(4)(
      lambda epoch: device_data.epoch_order(seed, epoch, len(labels))
    )
    self._steps, self._windows, self._data = range(0), None, None

  def __call__(self, step: int, num_steps: int) -> StreamedData:
    """The examples of the steps from `step` on, on the devices of their positions."""
    if step in self._steps and len(self._steps) == num_steps:
      return self._data  # of a call that took only some of its steps
    if step != self._steps.stop or len(self._steps) != num_steps:
      self._windows = self._read_ahead(step, num_steps)
    self._steps = range(step, step + num_steps)
    images, labels = map(self._layout.deal, next(self._windows))
    self._data = StreamedData(images, labels, self._layout.place(np.int32(step)))
    return self._data

  def shapes(self, num_steps: int) -> StreamedData:
    """The shapes of what a call of that many steps takes."""
    layout = self._layout
    groups = (layout.num_devices, 1) if layout.axis_name else (layout.num_devices,)
    lead = (*groups, num_steps, self._substeps, layout.share(self._plan.total))
    sharded = functools.partial(jax.ShapeDtypeStruct, sharding=layout.by_device)
    return StreamedData(
      images=sharded((*lead, *self._images.shape[1:]), np.uint8),
      labels=sharded(lead, np.int32),
      start=layout.shapes(np.int32(0)),
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
    plan, substeps = self._plan, self._substeps
    position = self._layout.local_positions(plan.total)
    batches = np.arange(step * substeps, (step + num_steps) * substeps)
    first = [int(plan.real_before(b)) - int(plan.first_real_at(b)) for b in batches]
    places = np.asarray(first, np.int64)[None, :, None] + position[:, None]
    rows = self._rows(places).reshape(len(position), num_steps, substeps, -1)
    return self._images[rows], self._labels[rows].astype(np.int32)

  def _rows(self, places):
    """The rows of the set at some places of the stream."""
    epochs, places = np.divmod(np.maximum(places, 0), len(self._labels))
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
      rows[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
    return rows
