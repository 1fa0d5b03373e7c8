"""Checkpoints on disk; the only module that imports orbax.

A checkpoint is one atomic save of items: 'state', the arrays a run needs to go on;
'host', what the loop keeps beside them (JSON); and, of a GAN, 'generators', the frozen
variables that are kept by name, which are restored without the rest.
"""

import contextlib
import errno
import gc
import itertools
import logging
import os
import pathlib
import time

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from gan_aug_jax import logs
from gan_aug_jax.errors import CheckpointError, UserError

_LOG = logging.getLogger('gan_aug_jax')


class UnreadableGenerator(CheckpointError):
  """A frozen generator that is missing, damaged or of another model."""


class Checkpoints:
  """The checkpoints of one training, the newest two of them kept."""

  def __init__(self, directory):
    """Opens a directory, made when missing.

    Raises:
      CheckpointError: if it cannot be written.
    """
    # orbax logs every save, and what it finds damaged, at levels that absl prints.
    logs.hide(logging.CRITICAL)
    self.directory = pathlib.Path(directory).absolute()
    try:
      options = ocp.CheckpointManagerOptions(max_to_keep=2)
      self._manager = ocp.CheckpointManager(self.directory, options=options)
    except OSError as error:
      raise CheckpointError(
        f'{str(directory)!r} cannot be written ({error.strerror}); choose another '
        '--workdir.'
      ) from None

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      with self._writing():
        self._manager.close()
    except CheckpointError:
      if kind is None:  # or the first of two errors would be lost
        raise

  def save(self, step, *, state, host, generators=None):
    """Saves in the background; a save of the same step is not repeated.

    Args:
      step: the step that the state has taken.
      state: pytree of arrays, the same on every process.
      host: JSON-serialisable dict.
      generators: {name: variables} of frozen generators, when there are any.
    """
    if step == self._manager.latest_step():
      return
    items = {'state': ocp.args.StandardSave(state), 'host': ocp.args.JsonSave(host)}
    if generators:
      items['generators'] = ocp.args.StandardSave(generators)
    with self._writing():
      self._manager.save(step, args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _writing(self):
    """Says in a sentence why a save failed, that one or the one before it."""
    try:
      yield
    except UserError:  # a signal
      raise
    except Exception as error:  # orbax and tensorstore raise many kinds
      _settle()
      raise CheckpointError(
        f'A checkpoint cannot be written to {str(self.directory)!r} ({_reason(error)}); '
        'the one before is kept: mend that and run the same command to go on.'
      ) from error

  def restore(self, state, generators=None):
    """Restores the newest checkpoint that can be read, all of it.

    Damaged ones after it are set aside, with a warning.

    Args:
      state: pytree of placed arrays, like the saved one.
      generators: `host -> {name: shapes}`, the generators that must have been saved with
        it, or None for none.

    Returns:
      `(state, host, {name: variables})`, or None where there is no checkpoint.

    Raises:
      CheckpointError: if there are checkpoints and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for i, step in enumerate(steps):
      restored = self._read(step, state, generators)
      if restored:
        for damaged in steps[:i]:
          self.set_aside(damaged)
        return restored
    if steps:
      raise CheckpointError(
        f'No checkpoint in {str(self.directory)!r} can be read: they are damaged, or of '
        f'another model or version; move {str(self.directory.parent)!r} away to train '
        'anew.'
      )
    return None

  def restore_step(self, step, state):
    """Restores the state of one step; see `restore`.

    Raises:
      CheckpointError: if it is missing or cannot be read.
    """
    restored = self._read(step, state)
    if not restored:
      raise CheckpointError(
        f'Checkpoint {step} in {str(self.directory)!r} is missing or damaged; move '
        f'{str(self.directory.parent)!r} away and run again.'
      )
    return restored[0]

  def _read(self, step, state, generators=None):
    """What `restore` returns, or None unless every process can read it."""
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    sharding = jax.tree.leaves(state)[0].sharding
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), host=ocp.args.JsonRestore()
    )

    def read():
      restored = self._manager.restore(step, args=items)
      shapes = generators(restored.host) if generators else {}
      kept = self._read_generators(step, shapes, sharding) if shapes else {}
      return restored.state, restored.host, kept

    result = _attempt(read)
    if jax.process_count() > 1:
      read = multihost_utils.process_allgather(np.int32(result is not None))
      result = result if np.all(read) else None
    return result

  def _read_generators(self, step, shapes, sharding):
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    items = ocp.args.Composite(generators=ocp.args.StandardRestore(abstract))
    return self._manager.restore(step, args=items).generators

  def restore_generators(self, step, shapes, sharding):
    """The frozen generators of one step.

    Args:
      step: of the checkpoint.
      shapes: {name: pytree of shapes and types}, of all that were saved.
      sharding: where to put the arrays.

    Raises:
      UnreadableGenerator: if they cannot be read.
    """
    generators = _attempt(lambda: self._read_generators(step, shapes, sharding))
    if generators is None:
      raise UnreadableGenerator(
        f'The generators of checkpoint {step} in {str(self.directory)!r} are missing or '
        'damaged; run or train-gan with the same --config and --workdir mends it.'
      )
    return generators

  def set_aside(self, step):
    """Renames a checkpoint that cannot be read, with a warning."""
    names = (f'{step}.damaged{n or ""}' for n in itertools.count())
    target = next(path for n in names if not (path := self.directory / n).exists())
    if jax.process_index() == 0 and (self.directory / str(step)).exists():
      os.replace(self.directory / str(step), target)
      _LOG.warning(
        'Checkpoint %d in %s cannot be read; going back to the one before. It is kept as '
        '%s.',
        step,
        self.directory,
        target.name,
      )
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('set aside')
    self._manager.reload()


def _attempt(read):
  """What `read` returns, or None where orbax cannot read, which logs why."""
  try:
    return read()
  except UserError:  # a signal
    raise
  except Exception as error:  # orbax raises many kinds on damaged files
    _LOG.info('A checkpoint cannot be read: %s', _reason(error))
  _settle()
  return None


def _settle():
  """Lets tasks that orbax gave up end now, and not in the middle of what comes next."""
  gc.collect()
  time.sleep(0.2)


def _reason(error):
  """What the machine said, or else the first line, cut to what a sentence holds."""
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
    if os.strerror(number) in str(error):
      return os.strerror(number)
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
