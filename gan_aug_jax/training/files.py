"""The files of a run: written atomically, and read without trust in what they hold."""

from collections.abc import Iterator
import contextlib
import io
import json
import math
import os
import pathlib
import statistics
from typing import Any
import uuid
import zipfile
import zlib

import numpy as np

from gan_aug_jax.errors import CheckpointError, UserError, WriteError


def write_atomically(path, content: str | bytes) -> None:
  """Writes text (as UTF-8) or bytes to a temporary file and renames it.

  Args:
    path: of the file; missing folders are made.

  Raises:
    WriteError: if that fails; what was there before is still there.
  """
  path = pathlib.Path(path)
  content = content.encode() if isinstance(content, str) else content
  # A unique name: several processes, on several machines, may write one file.
  temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with _writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  except BaseException:  # a signal, too
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise


@contextlib.contextmanager
def _writing(path):
  try:
    yield
  except OSError as error:  # that of a full disk does not name the file
    raise WriteError(error.errno, error.strerror or str(error), str(path)) from None


def write_arrays(path, **arrays: np.ndarray) -> None:
  """Writes an .npz file, for `read_arrays`; see `write_atomically`."""
  content = io.BytesIO()
  np.savez_compressed(content, **arrays)
  write_atomically(path, content.getvalue())


def read_arrays(path, most_bytes: int = 2**30) -> dict[str, np.ndarray]:
  """Reads an .npz file of a run.

  Args:
    most_bytes: limit on the size of its arrays; a small file may claim to hold anything.

  Raises:
    OSError, ValueError: if it is missing, damaged, too large or holds Python objects.
  """
  try:
    with zipfile.ZipFile(path) as file:
      size = sum(member.file_size for member in file.infolist())
    if size > most_bytes:
      raise ValueError(f'{size:,} bytes are too many')
    with np.load(path, allow_pickle=False) as saved:
      return dict(saved)
  except (EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(str(error)) from None


def read_json_or_none(path) -> dict[str, Any] | None:
  """Returns the JSON object in a file, or None if it is missing or damaged."""
  try:
    content = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError, RecursionError):
    return None
  return content if isinstance(content, dict) else None


def read_json(path, *keys: str) -> dict[str, Any]:
  """Reads a JSON object of a run.

  Args:
    *keys: that it must have.

  Raises:
    CheckpointError: if it is missing (then the run is not finished), not JSON, or lacks
      a key.
  """
  path = pathlib.Path(path)
  kind = 'ablation' if path.name == 'ablation.json' else 'run'
  if not path.parent.exists():
    raise CheckpointError(
      f'There is no {str(path.parent)!r}; --workdir must name an existing {kind}.'
    )
  if path.name == 'config.json' and path.with_name('ablation.json').exists():
    raise CheckpointError(
      f'{str(path.parent)!r} holds an ablation: use ablate --collect, or name one of its '
      'cells/NAME or generators/NAME.'
    )
  if not path.exists():
    raise CheckpointError(
      f'There is no {path.name} in {str(path.parent)!r}: either that holds no {kind}, or '
      f'the {kind} is not finished; the command that started it finishes it.'
    )
  content = read_json_or_none(path)
  if content is None or not set(keys) <= set(content):
    raise CheckpointError(
      f'{str(path)!r} is damaged; move that file away and run again: it makes a new one '
      'from what is there.'
    )
  return content


@contextlib.contextmanager
def reading(path) -> Iterator[None]:
  """Turns the errors that the content of a damaged file causes into one sentence.

  Raises:
    CheckpointError: naming the file.
  """
  try:
    yield
  except UserError:
    raise
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
    raise CheckpointError(
      f'What {str(path)!r} says cannot be used ({type(error).__name__}): it is damaged '
      'or of another version, and starting again without it writes a new one; or this '
      'is a bug, which --debug shows.'
    ) from error


class MetricsFile:
  """Metrics as JSON lines, one a step; written like clu's metric writers."""

  def __init__(self, path, *, after_step: int):
    """Opens a file and drops the lines after a step, and a half-written last one.

    Args:
      after_step: step of the checkpoint that training resumes from.
    """
    self._path = pathlib.Path(path)
    rows = [row for row in read_metrics(path) if row['step'] <= after_step]
    write_atomically(path, ''.join(json.dumps(row) + '\n' for row in rows))

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    with _writing(self._path), open(self._path, 'a') as file:
      file.write(json.dumps({'step': step, **scalars}) + '\n')


def read_metrics(path) -> list[dict[str, float]]:
  """Reads JSON lines up to the first that is incomplete, or of no step."""
  rows = []
  with contextlib.suppress(FileNotFoundError, ValueError), open(path) as file:
    for line in file:
      row = json.loads(line)
      if not isinstance(row, dict) or 'step' not in row:
        break
      rows.append(row)
  return rows


def median_step_ms(rows: list[dict[str, float]]) -> float:
  """Median step time over the lines of a metrics file, in ms; NaN if none was timed."""
  times = [row['step_ms'] for row in rows if 'step_ms' in row]
  return statistics.median(times) if times else math.nan
