"""A run's place on disk, and what its parts share.

WORKDIR/
  config.json    the whole config, versions, fingerprint of the data
  gan/           checkpoints/, metrics.jsonl, samples/, samples.png, result.json
  arms/NAME/     checkpoints/, metrics.jsonl, predictions.npz, result.json
  results.json  report.html
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform

import jax
import jax.numpy as jnp

import gan_aug_jax
from gan_aug_jax import config as config_lib, loop, sharding
from gan_aug_jax.errors import CheckpointError

# Fields that change where a run is, not what it is; and those that only arms hang on.
_MAY_DIFFER = ('platform', 'num_cpu_devices', 'data.data_dir', 'duration')
_MAY_DIFFER += ('compilation_cache', 'distributed.', 'profile.')
_ARM_FIELDS = ('arms', 'classifier.', 'mix.', 'augment.')


@dataclasses.dataclass(frozen=True)
class Session:
  """What the parts of a run share.

  Attributes:
    config: validated config.
    workdir: pathlib.Path of the run.
    layout: where steps run.
    quiet: no progress on the terminal.
  """

  config: object
  workdir: pathlib.Path
  layout: sharding.Layout
  quiet: bool = False

  def dtype(self, part):
    """The type that 'gan', 'sampler' or 'classifier' computes in."""
    return jnp.dtype(config_lib.precision_of(self.config, part))

  def image_dtype(self, part):
    """The type of images and losses beside that: float32 or wider."""
    return jnp.promote_types(self.dtype(part), jnp.float32)

  def path(self, *parts):
    return self.workdir.joinpath(*parts)


def describe_data(dataset):
  """What config.json keeps of a dataset."""
  return {
    'fingerprint': dataset.fingerprint,
    'class_names': dataset.class_names,
    'image_shape': dataset.image_shape,
    'num_train': len(dataset.train),
    'num_val': len(dataset.val),
    'num_test': len(dataset.test),
  }


def claim(session, dataset):
  """Writes config.json, or checks that the one there is of the same run.

  Raises:
    CheckpointError: naming the fields that differ, when training of another config was
      begun there; or when the training images are others.
  """
  path = session.path('config.json')
  fields = json.loads(json.dumps(config_lib.flatten(session.config)))
  if path.exists():
    saved = read_json(path)
    arms_begun = session.path('arms').exists()
    before = config_lib.flatten(config_lib.from_dict(saved['config']))
    before = json.loads(json.dumps(before))
    differing = [
      f'{field} ({before[field]!r} there, {value!r} now)'
      for field, value in fields.items()
      if before[field] != value
      and not field.startswith(_MAY_DIFFER)
      and (arms_begun or not field.startswith(_ARM_FIELDS))
    ]
    if differing:
      raise CheckpointError(
        f'{str(session.workdir)!r} holds a run of another config, {"; ".join(differing)};'
        ' give another --workdir, or the same config.'
      )
    if saved['data']['fingerprint'] != dataset.fingerprint:
      raise CheckpointError(
        f'{str(session.workdir)!r} holds a run on other training images of '
        f'{dataset.name!r}; give another --workdir.'
      )
  if jax.process_index() == 0:
    content = {
      'config': session.config.to_dict(),
      'data': describe_data(dataset),
      'versions': versions(),
      'device': describe_devices(session.layout),
    }
    try:
      loop.write_atomically(path, json.dumps(content, indent=1))
    except OSError as error:
      raise CheckpointError(
        f'The workdir {str(session.workdir)!r} cannot be written ({error.strerror}); '
        'choose another --workdir.'
      ) from None


def read_json(path):
  """Reads a JSON file of a run.

  Raises:
    CheckpointError: if it is missing or not JSON.
  """
  try:
    return json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError):
    raise CheckpointError(
      f'{str(path)!r} is missing or damaged; give the --workdir of a run.'
    ) from None


def versions():
  """Versions of what the numbers depend on."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
  return {
    'gan_aug_jax': gan_aug_jax.__version__,
    'python': platform.python_version(),
    **{package: importlib.metadata.version(package) for package in packages},
  }


def describe_devices(layout):
  """'2 x cpu, jit', say."""
  device = layout.mesh.devices.flat[0]
  kind = device.device_kind.removesuffix('_device')
  return f'{layout.num_devices} x {kind}, {layout.backend}'
