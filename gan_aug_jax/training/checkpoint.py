"""Checkpoints on disk; the only module that imports orbax.

A checkpoint is one atomic save of items: 'state', the arrays that training resumes from;
'host', what the loop knows beyond them (JSON); and, of a generator, 'generators', frozen
variables by name, which can be restored alone.

orbax could keep the best steps by itself (`best_fn`, `preservation_policy`), but whole
steps with their states; here the newest checkpoint holds every generator that is kept, so
that two are enough, and one may be damaged.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import itertools
import logging
import os
import pathlib
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

from gan_aug_jax import logs
from gan_aug_jax.errors import CheckpointError, MachineError
from gan_aug_jax.training import processes

_LOG = logging.getLogger('gan_aug_jax')

# What keeps a process from reading files that may be whole. A bad disk (EIO) does not.
_OF_MACHINE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnreadableGenerator(CheckpointError):
  """A frozen generator that is missing, damaged or of another model."""


class Checkpoints:
  """The checkpoints of one training, of which the newest two are kept."""

  def __init__(self, directory: pathlib.Path):
    """Opens a directory, and makes it if it is missing.

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
      # Of two errors the first counts; an interruption says that the state is saved.
      if kind is None or not issubclass(kind, Exception):
        raise

  def save(
    self,
    step: int,
    *,
    state: Any,
    progress: dict[str, Any],
    generators: dict[str, Any] | None = None,
  ) -> None:
    """Saves in the background; a step that is saved already is skipped.

    Args:
      state: pytree of arrays, the same on every process; copied before this returns.
      progress: JSON-serialisable dict, which must not change afterwards.
      generators: {name: variables} of frozen generators, if there are any.

    Raises:
      CheckpointError: if this save, or the one before it, failed.
    """
    if step == self._manager.latest_step():
      return
    items = {'state': ocp.args.StandardSave(state), 'host': ocp.args.JsonSave(progress)}
    if generators:
      items['generators'] = ocp.args.StandardSave(generators)
    with self._writing():
      self._manager.save(step, args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax and tensorstore raise many kinds
      _settle()
      raise CheckpointError(
        f'A checkpoint cannot be written to {str(self.directory)!r} ({_reason(error)}); '
        'the previous one is kept: fix that and run the same command to continue.'
      ) from error

  def restore(
    self,
    state: Any,
    generators: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
  ) -> tuple[Any, dict[str, Any], dict[str, Any]] | None:
    """Restores the newest checkpoint that can be read completely.

    Newer ones, which are damaged, are set aside with a warning.

    Args:
      state: pytree of placed arrays, or of their shapes, like the saved one.
      generators: `progress -> {name: shapes}`, those that must have been saved with
        it, or None for none.

    Returns:
      `(state, progress, {name: variables})`, or None if there is no checkpoint.

    Raises:
      CheckpointError: if there are checkpoints and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for i, step in enumerate(steps):
      if restored := self._read(step, state, generators):
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

  def restore_step(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
    """Restores `(state, progress)` of one step.

    Args:
      state: see `restore`.

    Raises:
      CheckpointError: if it is missing or cannot be read.
    """
    restored = self._read(step, state)
    if not restored:
      raise CheckpointError(
        f'Checkpoint {step} in {str(self.directory)!r} is missing or damaged; move '
        f'{str(self.directory.parent)!r} away and run again.'
      )
    return restored[:2]

  def _read(self, step, state, generators=None):
    """What `restore` returns, or None unless every process can read it."""
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(_shapes(state)), host=ocp.args.JsonRestore()
    )

    def read():
      restored = self._manager.restore(step, args=items)
      shapes = generators(restored.host) if generators else {}
      sharding = jax.tree.leaves(state)[0].sharding
      kept = self._read_generators(step, shapes, sharding) if shapes else {}
      return restored.state, restored.host, kept

    result = _attempt(read)
    return result if processes.all_agree(result is not None) else None

  def _read_generators(self, step, shapes, sharding):
    args = ocp.args.StandardRestore(_shapes(shapes, sharding))
    return self._manager.restore(
      step, args=ocp.args.Composite(generators=args)
    ).generators

  def restore_generators(
    self, step: int, shapes: dict[str, Any], sharding: jax.sharding.Sharding
  ) -> dict[str, Any]:
    """Restores the frozen generators of one step.

    Args:
      shapes: {name: pytree of shapes and types}, of all that were saved.

    Raises:
      UnreadableGenerator: if they cannot be read.
    """
    generators = _attempt(lambda: self._read_generators(step, shapes, sharding))
    if generators is None:
      raise UnreadableGenerator(
        f'The generators of checkpoint {step} in {str(self.directory)!r} are missing or '
        'damaged; run or train-generator with the same --config and --workdir makes '
        'them again.'
      )
    return generators

  def set_aside(self, step: int) -> None:
    """Renames a checkpoint that cannot be read, with a warning."""
    damaged = self.directory / str(step)
    names = (f'{step}.damaged{n or ""}' for n in itertools.count())
    target = next(path for n in names if not (path := self.directory / n).exists())

    def rename():
      if damaged.exists():
        os.replace(damaged, target)
        _LOG.warning(
          'Checkpoint %d in %s cannot be read; going back to the previous one. It is '
          'kept as %s.',
          step,
          self.directory,
          target.name,
        )

    processes.on_first(rename)
    self._manager.reload()


def _shapes(tree, sharding=None):
  """Shapes and types, placed like the arrays of the tree or by a sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding),
    tree,
  )


def _attempt(read):
  """What `read` returns, or None if orbax cannot read; the log says why."""
  try:
    return read()
  except Exception as error:  # orbax raises many kinds on damaged files
    # Of several processes all go on, or none does.
    if _is_of_machine(error) and jax.process_count() == 1:
      raise MachineError(
        f'A checkpoint cannot be read now ({_reason(error)}); it may be whole, so fix '
        'that and run the same command again.'
      ) from error
    _LOG.info('A checkpoint cannot be read: %s', _reason(error))
  _settle()
  return None


def _settle():
  """Lets tasks that orbax gave up end now, and not in the middle of what comes next."""
  gc.collect()
  time.sleep(0.2)


def _is_of_machine(error):
  """Whether files may be whole, and the machine refuses to read them now."""
  words = ['RESOURCE_EXHAUSTED', *map(os.strerror, _OF_MACHINE)]
  return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _reason(error):
  """The operating system's words if it refused, else the first line, cut short."""
  full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
  for number in (*full, *_OF_MACHINE):
    if os.strerror(number) in str(error):
      return os.strerror(number)
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
