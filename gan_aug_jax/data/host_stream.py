"""Real examples that stay on the host: what each step takes is sent to the devices.

For sets that are larger than a device's memory. The steps, the order of the examples and
so the numbers are those of `device_data.make_feed`; each process reads only its own
devices' part. grain reads ahead in threads. What a step takes is a function of (seed,
step), so there is nothing to save, and a resumed run goes on exactly.
"""

import functools

import jax
import numpy as np

from gan_aug_jax.step import device_data

_WINDOWS_AHEAD = 4


def make_feed(images, labels, *, seed, plan, layout, substeps=1):
  """Returns the feed of `StreamedBatches`.

  Args:
    images: uint8 [N, H, W, C], on the host; N at least 1.
    labels: int32 [N].
    seed: of the order.
    plan: the `BatchPlan` whose positions are filled.
    layout: where the step runs.
    substeps: batches that a step takes, each by the plan.

  Returns:
    `feed(step, num_steps) -> StreamedBatches` of the steps from `step` on.
  """
  order = functools.lru_cache(4)(
    lambda epoch: device_data.epoch_order(seed, epoch, len(labels))
  )

  def rows_of(elements):
    """The rows of the set at some places of the stream."""
    epochs, places = np.divmod(np.maximum(elements, 0), len(labels))
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
      rows[epochs == epoch] = order(int(epoch))[places[epochs == epoch]]
    return rows

  def read(step, num_steps):
    """Images and labels [local devices, num_steps, substeps, share, ...]."""
    # Slots without a real example get some other one; they are masked in the step.
    position = layout.local_positions(plan.total)
    batches = np.arange(step * substeps, (step + num_steps) * substeps)
    first = [int(plan.real_before(b)) - int(plan.first_real_at(b)) for b in batches]
    elements = np.asarray(first, np.int64)[None, :, None] + position[:, None]
    rows = rows_of(elements).reshape(len(position), num_steps, substeps, -1)
    return images[rows], labels[rows].astype(np.int32)

  window, windows, data = range(0), None, None

  def feed(step, num_steps):
    nonlocal window, windows, data
    if step in window and len(window) == num_steps:
      return data  # of a call that took some of its steps
    if step != window.stop or len(window) != num_steps:
      windows = _read_ahead(read, step, num_steps)
    window = range(step, step + num_steps)
    arrays = [layout.deal(x) for x in next(windows)]
    data = device_data.StreamedBatches(*arrays, layout.place(np.int32(step)))
    return data

  return feed


def shapes(image_shape, num_steps, plan, layout, substeps=1):
  """The shapes of a `StreamedBatches` of that many steps, as `make_feed` gives them."""
  groups = (layout.num_devices, 1) if layout.axis_name else (layout.num_devices,)
  lead = (*groups, num_steps, substeps, layout.share(plan.total))
  sharded = functools.partial(jax.ShapeDtypeStruct, sharding=layout.by_device)
  return device_data.StreamedBatches(
    images=sharded((*lead, *image_shape), np.uint8),
    labels=sharded(lead, np.int32),
    start=layout.shapes(np.int32(0)),
  )


def _read_ahead(read, step, num_steps):
  """Iterates over `read(step, num_steps)` and what follows it, some windows ahead."""
  import grain  # late: it takes a second, and only this needs it

  windows = grain.MapDataset.range(2**31 // num_steps)
  windows = windows.map(lambda number: read(step + number * num_steps, num_steps))
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=_WINDOWS_AHEAD)
  return iter(windows.to_iter_dataset(options))
