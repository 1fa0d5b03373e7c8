"""Trains the cells of an ablation, each once, however many workers share the workdir.

A worker locks the directory of each cell and generator that it trains, see
`training.locks`.
"""

import collections
import contextlib
import json
import os
import time

from gan_aug_jax.config.fields import GENERATOR
from gan_aug_jax.errors import CheckpointError, UserError
from gan_aug_jax.experiment import (
  arms as arms_lib,
  cells as cells_lib,
  estimate,
  runs,
  vmap_seeds,
)
from gan_aug_jax.step import programs
from gan_aug_jax.training import files, locks, progress, signals, workdir as workdir_lib
from gan_aug_jax.training.workdir import Session

_WAIT_SECONDS = 2.0


def run(units, workdir, layout) -> dict[str, str]:
  """Trains cells until each is finished or failed, here or by another worker.

  Args:
    units: from `cells.Plan.units`, all of them or those of a shard.

  Returns:
    {name: why} of the cells that failed.

  Raises:
    signals.Interrupted: with the state saved.
  """
  worker = Worker(workdir, layout)
  cells = [cell for unit in units for cell in unit if not cell.is_finished(workdir)]
  with progress.waiting('counting operations'):
    work = estimate.work_of(cells, workdir, layout)
  with progress.whole(work, counted=[cell.name for cell in cells]):
    _train_all(worker, units)
  names = [cell.name for unit in units for cell in unit]
  return {name: why for name in names if (why := cells_lib.failure(workdir, name))}


def _train_all(worker, units):
  waiting, num_held = collections.deque(units), 0
  while waiting:
    unit = waiting.popleft()
    if worker.train(unit):
      progress.finished(*(cell.name for cell in unit))
      num_held = 0
      continue
    waiting.append(unit)
    num_held += 1
    if num_held >= len(waiting):  # other workers hold all that is left
      time.sleep(_WAIT_SECONDS)
      signals.check()
      num_held = 0


class Worker:
  """Trains units of cells that no other worker is training."""

  def __init__(self, workdir, layout):
    self._workdir, self._layout = workdir, layout
    # Failures of earlier commands, which this one tries again. Those of other workers
    # that run at the same time are left alone.
    failed = workdir.glob('*/*/failed.json')
    self._failed_before = {path.parent: _stamp(path.parent) for path in failed}

  def train(self, unit) -> bool:
    """Trains what is left of a unit.

    Returns:
      Whether it is done. If not, another worker holds one of its cells or generators.
    """
    with contextlib.ExitStack() as stack:
      locked = self._unfinished(unit)
      for cell in locked:
        if not stack.enter_context(locks.try_lock(cell.directory(self._workdir))):
          return False
      ready = []
      # Looked up again: others may have finished some before the locks were ours.
      for cell in self._unfinished(locked):
        directory = cell.directory(self._workdir)
        (directory / 'failed.json').unlink(missing_ok=True)
        with _failure_written(directory):
          ready.append((cell, self._prepare(cell)))
      if any(seed_run is None for _, seed_run in ready):
        return False
      self._train_cells(ready)
      return True

  def _unfinished(self, unit):
    """The cells that are neither finished nor failed since this command began."""
    return [
      cell
      for cell in unit
      if not cell.is_finished(self._workdir)
      and not self._has_failed(cell.directory(self._workdir))
    ]

  def _has_failed(self, directory):
    """Whether a cell or generator has failed since this command began."""
    return _stamp(directory) not in (None, self._failed_before.get(directory))

  def _prepare(self, cell):
    """The `SeedRun` of a cell, or None while another worker trains its generator."""
    directory = cells_lib.generator_workdir(self._workdir, cell.generator)
    if cell.lacks_generator(self._workdir, self._layout):
      with locks.try_lock(directory) as is_free:
        if not is_free:  # said before anything is loaded, as it is asked often
          return None
    session = Session(cell.config, cell.directory(self._workdir), self._layout)
    dataset = cells_lib.load_data(cell.config)
    workdir_lib.claim(session, dataset)
    if not cell.generator:
      return vmap_seeds.SeedRun(runs.Run(session, dataset), None)
    of_generator = Session(cell.generator_config, directory, self._layout)
    run = runs.Run(session, dataset, generator_session=of_generator)
    generator = self._load_or_train_generator(cell.generator, of_generator, run)
    return vmap_seeds.SeedRun(run, generator) if generator else None

  def _load_or_train_generator(self, name, session, run):
    """The generator of a cell, or None while another worker trains it."""
    # A finished one is not claimed again.
    saved = files.read_json_or_none(session.path('config.json')) or {}
    workdir_lib.check_code(session, saved, {GENERATOR})
    written = ('result.json', 'samples.npz')
    if all(session.generator_path(name).exists() for name in written):
      with contextlib.suppress(CheckpointError):
        return run.load_or_train_generator(train=False)
    with locks.try_lock(session.workdir) as is_ours:
      if not is_ours:
        return None
      if not self._has_failed(session.workdir):
        session.path('failed.json').unlink(missing_ok=True)
        with programs.ahead(), progress.part(name):
          with _failure_written(session.workdir):
            workdir_lib.claim(session, run.dataset)
            run.generator.start()
          if not self._has_failed(session.workdir):
            run.start(generator=False)  # the arm: if that fails, it is the cell's failure
            with _failure_written(session.workdir):
              return run.load_or_train_generator()
      failed = files.read_json_or_none(session.path('failed.json')) or {}
      why = failed.get('why', 'unknown')
      raise CheckpointError(f'Its generator ({name}) failed: {why}')

  def _train_cells(self, ready):
    """Trains pairs of a cell and its `SeedRun`, in one program if there are several."""
    names, seed_runs = [cell.name for cell, _ in ready], [one for _, one in ready]
    for name in names:
      progress.say(f'Cell {name}')
    with programs.ahead(), progress.part(*names):
      self._train_together(names, seed_runs)
      for cell, seed_run in ready:
        with _failure_written(cell.directory(self._workdir)):
          seed_run.run.train_arms(seed_run.generator)

  def _train_together(self, names, seed_runs):
    """Trains cells that differ only in their seeds, if there are several, as one."""
    is_left = not all(arms_lib.finished_result(one.arm.directory) for one in seed_runs)
    sizes = {len(seed_run.dataset.train) for seed_run in seed_runs}
    if is_left and len(seed_runs) > 1 and len(sizes) == 1:
      # Also of those whose arm is finished: the name stays if this was interrupted.
      directory = self._workdir / 'together' / cells_lib.fingerprint(names)
      try:
        vmap_seeds.train(seed_runs, directory)
      except Exception as error:  # one of them failed, or memory is short for all
        signals.check()
        progress.say(
          f'The seeds failed in one program ({error}); training them one by one.'
        )


def _stamp(directory):
  """Tells one failed.json from the next one; None where there is none."""
  try:
    status = os.stat(directory / 'failed.json')
  except OSError:
    return None
  return status.st_mtime_ns, status.st_ino


@contextlib.contextmanager
def _failure_written(directory):
  """Writes why a cell or generator failed, so that the others can continue."""
  try:
    yield
  except Exception as error:
    signals.check()  # a signal may come as another exception
    kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
    content = json.dumps({'why': f'{kind}{error}'})
    files.write_atomically(directory / 'failed.json', content)
