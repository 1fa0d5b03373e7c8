"""A run's working directory, and what its parts share.

WORKDIR/
  config.json    the whole config, versions, facts about the data
  generator/     checkpoints/, metrics.jsonl, samples/, samples.png, samples.npz,
                 result.json, and teacher/ and offline-*.npz if the config needs them;
                 variables.npz of a generator that is made at once, drawn.npz of an
                 external one
  generator-seedN/  the same, of a further generator
  arms/NAME/     checkpoints/, metrics.jsonl, predictions.npz, result.json, batch.png
  score/         scores.json, grid.png, neighbours.png, interpolation.png
  results.json  report.html
"""

from collections.abc import Container
import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import gan_aug_jax
from gan_aug_jax import config as config_lib, external
from gan_aug_jax.config.fields import (
  CADENCE,
  CLASSIFIER,
  FIELDS,
  GENERATOR,
  NOTHING,
  OF_ARMS,
)
from gan_aug_jax.data.datasets import Dataset
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.step import sharding
from gan_aug_jax.training import files

# {field of `DataFacts`: which images it is the hash of}
SPLITS = {
  'fingerprint': 'training',
  'val_fingerprint': 'validation',
  'test_fingerprint': 'test',
}


@dataclasses.dataclass(frozen=True)
class Session:
  """What the parts of a run share.

  Attributes:
    config: validated config.
    workdir: pathlib.Path of the run.
    layout: where steps run.
    quiet: no progress on the terminal.
    trusts_code: whether what the config names as 'module:name' may be imported.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  layout: sharding.Layout
  quiet: bool = False
  trusts_code: bool = True

  @property
  def is_silent(self) -> bool:
    """Whether this process shows no progress."""
    return self.quiet or jax.process_index() > 0

  def dtype(self, part: str) -> jnp.dtype:
    """See `config.precision_of`."""
    return jnp.dtype(config_lib.precision_of(self.config, part))

  def image_dtype(self, part: str) -> jnp.dtype:
    """The type of its images and losses: float32 or wider."""
    return jnp.promote_types(self.dtype(part), jnp.float32)

  def path(self, *parts) -> pathlib.Path:
    return self.workdir.joinpath(*parts)

  def generator_path(self, *parts) -> pathlib.Path:
    """Of the first generator's directory, and of what is in it."""
    return generator_directory(self.workdir).joinpath(*parts)

  def load_code(self, field: str) -> Any:
    """Imports what a field of the config names as 'module:name'.

    Raises:
      ConfigError: see `external.load`.
    """
    name = config_lib.flatten(self.config)[field]
    return external.load(field, name, trusted=self.trusts_code)

  def code(self, affecting: Container[str] = (GENERATOR, CLASSIFIER)) -> dict[str, str]:
    """{'module:name': `external.fingerprint`} of the user's code; imports nothing.

    Args:
      affecting: what the fields that name it affect, see `fields.Field`.
    """
    return {
      name: external.fingerprint(name)
      for field, name in config_lib.own_code_of(self.config).items()
      if FIELDS[field].affects in affecting
    }


def generator_directory(workdir: pathlib.Path) -> pathlib.Path:
  """Where the first generator of a run is; older versions called it gan/."""
  old = workdir / 'gan'
  return old if old.exists() else workdir / 'generator'


def check(session: Session, dataset: Dataset) -> dict[str, Any] | None:
  """Returns the config.json that is there, of the same run, or None.

  Raises:
    CheckpointError: if an ablation is there; see also `check_config` and `check_data`.
  """
  if session.path('ablation.json').exists():
    raise CheckpointError(
      f'{str(session.workdir)!r} holds an ablation; give a run another --workdir.'
    )
  if saved := check_config(session):
    check_data(session, saved, dataset)
  return saved


def claim(session: Session, dataset: Dataset) -> None:
  """Writes config.json, unless the same run's is there.

  Args:
    dataset: the data, whose fingerprint is recorded.

  Raises:
    CheckpointError: see `check`.
    WriteError: if it cannot be written.
  """
  saved, code = check(session, dataset), session.code()
  if saved:
    same_code = code.items() <= saved.get('versions', {}).items()
    if same_code and _plain(session.config) == _plain(saved['config']):
      return
  content = {
    'config': session.config.to_dict(),
    'data': dataset.facts.to_json(),
    'versions': versions() | code,
    'device': describe_devices(session.layout),
  }
  if jax.process_index() == 0:
    files.write_atomically(session.path('config.json'), json.dumps(content, indent=1))


def check_config(session: Session, *, grows: bool = True) -> dict[str, Any] | None:
  """Returns the config.json that is there, or None.

  Args:
    grows: whether arms may be added and cadences may change; the names of an ablation's
      cells and generators depend on both.

  Raises:
    CheckpointError: naming the fields that differ, if something was trained there with
      another config; or if the file is damaged.
  """
  path = session.path('config.json')
  if not path.exists():
    return None
  saved = files.read_json(path, 'config', 'data')
  with files.reading(path):
    fields, before = _plain(session.config), _plain(saved['config'])
  may_differ = _may_differ(session, grows)
  fixed = [
    f'{name} ({before[name]!r} there, {fields[name]!r} now)'
    for name in fields
    if fields[name] != before[name]
    and FIELDS[name].affects not in may_differ
    and not (grows and _grows(name, fields, before))
  ]
  if fixed:
    raise CheckpointError(
      f'{str(session.workdir)!r} holds a run of another config, {"; ".join(fixed)}; give '
      'another --workdir, or the same config.'
    )
  check_code(session, saved, {GENERATOR, CLASSIFIER} - may_differ)
  return saved


def check_code(session: Session, saved: dict[str, Any], affecting: set[str]) -> None:
  """Checks that the user's own code is what a run was trained with.

  Args:
    saved: content of config.json.
    affecting: what the code must affect to be checked, see `Session.code`; that of a
      generator that no arm draws from is not.

  Raises:
    CheckpointError: if its source has changed, or is not found.
  """
  before = saved.get('versions', {})
  if not (
    config_lib.needs_generator(session.config) or session.generator_path().exists()
  ):
    affecting = affecting - {GENERATOR}
  for name, now in session.code(affecting).items():
    if now == 'unknown' != before.get(name, now):
      raise CheckpointError(
        f'The source of {name!r}, which the run in {str(session.workdir)!r} was made '
        'with, is not found from here; run the command in its directory, or add that to '
        'PYTHONPATH.'
      )
    if before.get(name, now) != now:
      raise CheckpointError(
        f'The source of {name!r} has changed since the run in {str(session.workdir)!r} '
        f'began ({before[name]} there, {now} now); restore it, or give another --workdir.'
      )


def _grows(name, fields, before):
  """Whether a change adds arms, or lines without other checkpoints."""
  if name == 'arms':
    return set(before['arms']) <= set(fields['arms'])
  # The automatic cadence of checkpoints is a multiple of that of lines.
  every_save = [values['generator.save_every_steps'] for values in (fields, before)]
  is_fixed = all(every_save) and len(set(every_save)) == 1
  return name == 'log.eval_every_steps' or (name == 'log.every_steps' and is_fixed)


def _may_differ(session, grows):
  """What fields may affect that differ: what is not trained in the workdir yet."""
  first, arms_begun = session.generator_path(), session.path('arms').exists()
  if not (first.exists() or arms_begun):
    return {field.affects for field in FIELDS.values()}
  # The probes that choose a generator depend on some of the arms' fields, too.
  trained = [
    path
    for path in (first, *session.workdir.glob(f'{first.name}-seed*'))
    if (path / 'checkpoints').exists() or (path / 'variables.npz').exists()
  ]
  finished = all(
    files.read_json_or_none(path / 'result.json') is not None for path in trained
  )
  cadence = {CADENCE} if finished and grows else set()
  of_arms = OF_ARMS if finished and trained and not arms_begun else set()
  return {NOTHING} | cadence | of_arms


def _plain(config):
  """{field: value} as in JSON, of a config or of a saved one."""
  if not hasattr(config, 'to_dict'):
    config = config_lib.from_dict(config)
  return json.loads(json.dumps(config_lib.flatten(config)))


def fixed_fields(config) -> dict[str, Any]:
  """Returns {field: value} of the fields that the trained models depend on."""
  fields = _plain(config).items()
  return {name: value for name, value in fields if FIELDS[name].affects != NOTHING}


def check_data(session: Session, saved: dict[str, Any], dataset: Dataset) -> None:
  """Checks that a run's config.json describes these images and classes.

  Args:
    saved: content of config.json.

  Raises:
    CheckpointError: if something was trained or evaluated there on others.
  """
  with files.reading(session.path('config.json')):
    before, now = DataFacts.from_json(saved['data']), dataset.facts
  begun = session.generator_path().exists() or session.path('arms').exists()
  kinds = {field: f'{split} images' for field, split in SPLITS.items()}
  for field, kind in (kinds | {'class_names': 'classes'}).items():
    if begun and getattr(before, field) not in (None, getattr(now, field)):
      raise CheckpointError(
        f'{str(session.workdir)!r} was run with different {kind} than {dataset.name!r} '
        'has now; give another --workdir.'
      )


def read_run(directory) -> dict[str, Any]:
  """Reads the config.json of a run; its config and `DataFacts` are whole.

  Raises:
    CheckpointError: if it is missing, damaged or of another version.
  """
  path = pathlib.Path(directory, 'config.json')
  run = files.read_json(path, 'config', 'data')
  with files.reading(path):
    size = config_lib.from_dict(run['config']).data.image_size
    shape = DataFacts.from_json(run['data']).image_shape
    if shape not in ((size, size, 1), (size, size, 3)):
      raise ValueError(f'images of shape {shape}')
  return run


def read_results(directory: pathlib.Path) -> dict[str, Any]:
  """Reads the results.json of a run.

  Raises:
    CheckpointError: if it is missing or damaged.
  """
  path = pathlib.Path(directory, 'results.json')
  results = files.read_json(path, 'arms', 'versions')
  with files.reading(path):
    if 'generator' not in results:  # of an older version
      old = results.pop('gan')
      names = {'family': old.get('own', 'gan'), 'title': f'{old.get("arch", "")} GAN'}
      results['generator'] = old and names | old
  return results


def read_predictions(directory: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads what a finished arm predicted: (classes, labels) of the test images, int [N].

  Raises:
    CheckpointError: if they are missing or damaged.
  """
  path = directory / 'predictions.npz'
  result = files.read_json_or_none(directory / 'result.json') or {}
  try:
    saved = files.read_arrays(path)
    predictions, labels = saved['test_predictions'], saved['test_labels']
    count = np.sum(result.get('confusion_matrix', 0)) or len(labels)
    if not predictions.shape == labels.shape == (count,):
      raise ValueError
    return predictions, labels
  except (OSError, ValueError, KeyError, TypeError):
    raise CheckpointError(
      f'{str(path)!r} is missing or damaged; move it away and run again: the checkpoint '
      'has what is needed to write a new one.'
    ) from None


@functools.cache
def _commit():
  """{'commit': of this source}, marked if it was changed; {} outside of git."""
  source = pathlib.Path(gan_aug_jax.__file__).parent

  def git(*arguments):
    command = ['git', '-C', str(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

  try:
    # Or it is the commit of a repository that happens to be around the package.
    git('ls-files', '--error-unmatch', '__init__.py')
    changed = '+changes' if git('status', '--porcelain', '.').strip() else ''
    return {'commit': git('rev-parse', '--short', 'HEAD').strip() + changed}
  except (OSError, subprocess.CalledProcessError):
    return {}


def versions() -> dict[str, str]:
  """Returns the versions of what the numbers depend on."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
  return {
    'gan_aug_jax': gan_aug_jax.__version__,
    **_commit(),
    'python': platform.python_version(),
    **{package: importlib.metadata.version(package) for package in packages},
  }


def describe_devices(layout: sharding.Layout) -> str:
  """Returns '2 x cpu, jit', for example."""
  device = layout.mesh.devices.flat[0]
  kind = device.device_kind.removesuffix('_device')
  return f'{layout.num_devices} x {kind}, {layout.backend}'
