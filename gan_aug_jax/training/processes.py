"""The processes of a run: what they agree on, and what only the first one does."""

from collections.abc import Callable

import jax
from jax.experimental import multihost_utils
import numpy as np


def all_agree(flag: bool) -> bool:
  """Whether a flag is set on every process; all of them must ask."""
  return bool(np.all(multihost_utils.process_allgather(np.int32(flag))))


def on_first(action: Callable[[], None]) -> None:
  """Changes files on process 0, while the others wait to read them."""
  if jax.process_index() == 0:
    action()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('on the first process')
