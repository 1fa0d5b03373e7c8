"""The real examples that a training's calls take: from the devices, or from the host.

Both kinds give the same examples in the same order, a function of (seed, step):
`source(step, num_steps) -> data`, what a call takes that makes those steps;
`source.shapes(num_steps)`, its shapes, known before anything is placed; and
`source.fingerprint`, of the images and labels.
"""

import functools
from typing import Any, Protocol

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import host_stream
from gan_aug_jax.data.splits import Split
from gan_aug_jax.step import device_data, mixing, sharding


class BatchSource(Protocol):
  """Where the calls of a step program take their examples from."""

  fingerprint: str

  def __call__(self, step: int, num_steps: int) -> Any: ...

  def shapes(self, num_steps: int) -> Any: ...


def make_batch_source(
  session, split: Split, plan: mixing.BatchPlan, *, substeps: int = 1
) -> BatchSource:
  """Returns the source that `data.placement` names; places nothing yet.

  Args:
    session: the run's.
    split: the examples.
    plan: of the batches.
    substeps: batches that a step takes.
  """
  make = _HostBatches if session.config.data.placement == 'host' else _DeviceBatches
  seed = config_lib.seed_of(session.config, 'data')
  return make(split, seed=seed, plan=plan, layout=session.layout, substeps=substeps)


class _HostBatches(host_stream.HostStream):
  """Sends each call its examples."""

  def __init__(self, split, **options):
    super().__init__(split.images, split.labels, **options)
    self._split = split

  @property
  def fingerprint(self):
    return self._split.fingerprint


class _DeviceBatches:
  """Holds all examples on the devices, and the order in which calls take them."""

  def __init__(self, split, *, seed, plan, layout, substeps):
    self._split, self._seed, self._layout = split, seed, layout
    self._plan, self._substeps = plan, substeps
    # The most real examples that a step takes; a window holds at least one.
    self._count = max(1, substeps * plan.num_real)

  @property
  def fingerprint(self):
    return self._split.fingerprint

  @functools.cached_property
  def _window(self):
    examples = _on_devices(self._split, self._layout)
    return device_data.make_feed(examples, seed=self._seed, place=self._layout.place)

  def __call__(self, step, num_steps):
    first = int(self._plan.real_before(step * self._substeps))
    return self._window(first, num_steps * self._count)

  def shapes(self, num_steps):
    images, labels = self._split.images, self._split.labels
    int32 = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    data = device_data.RealData(
      images=images,
      labels=int32(len(labels)),
      by_class=int32(len(labels)),
      class_starts=int32(int(labels.max()) + 2),
      order=int32(device_data.window_length(len(labels), num_steps * self._count)),
      start=int32(),
    )
    return self._layout.shapes(data)


@functools.lru_cache(maxsize=2)  # a run's training images, and those of a probe
def _on_devices(split: Split, layout: sharding.Layout):
  return layout.place(device_data.arrange(split.images, split.labels))
