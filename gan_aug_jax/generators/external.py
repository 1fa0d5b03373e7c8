"""An external generator, which an arm draws from in the GAN's place under every policy.

`generator.family='module:name'` names a `Generator`, or a function of the run's dataset
that trains or reads one. It states the training images that it saw by their fingerprint;
with any other fingerprint, or none, it counts as foreign.

Its variables are kept in gan/own.npz, so that a resumed run draws from the ones that it
began with even if the function trains again. Its code is not kept: a few images are, and
those that it draws now are compared with them.
"""

import dataclasses
import functools
import io
import json
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import external
from gan_aug_jax.data.datasets import Dataset
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.generators import generator as generator_lib, samples
from gan_aug_jax.generators.frozen import FrozenGenerator, on_first_process
from gan_aug_jax.generators.generator import Generator
from gan_aug_jax.step import rng, sampling
from gan_aug_jax.step.device_data import to_pixels
from gan_aug_jax.training import files
from gan_aug_jax.training.files import read_result

# How much a draw may differ on another machine, for images in [-1, 1].
_TOLERANCE = 0.05


def load(session, dataset) -> FrozenGenerator:
  """Makes or reads the external generator and checks it; writes nothing.

  Args:
    session, dataset: the run's; the user's function does not get the test split.

  Returns:
    The same on every process.

  Raises:
    ConfigError: if it cannot be drawn from, or is foreign and that is not allowed.
    CheckpointError: if it is not the one that the run began with.
  """
  began, named = time.perf_counter(), session.config.generator.family
  generator = _make_on_all(named, dataset, session.trusts_code)
  foreign = generator.trained_on != dataset.fingerprint
  if foreign and not session.config.generator.allow_foreign:
    raise ConfigError(
      f'generator.family={named!r} has trained_on={generator.trained_on!r} and may '
      'have seen some of the test split; if it saw only the training images of this run, '
      f'set trained_on to {dataset.fingerprint!r}, or else give '
      '--config.generator.allow_foreign=True, which the report will mention.'
    )
  clipped = lambda *inputs: jnp.clip(generator.sample(*inputs), -1, 1)
  sample = lambda *inputs: jax.lax.stop_gradient(clipped(*inputs))
  return FrozenGenerator(
    sampling.for_candidates(sample),
    session.layout.replicate(_variables(session, generator, sample, dataset)),
    directory=session.path('gan'),
    info={
      'fingerprint': dataset.fingerprint,
      'own': named,
      'name': generator.name,
      'trained_on': generator.trained_on,
      'foreign': foreign,
      'train_seconds': time.perf_counter() - began,
    },
  )


def load_and_keep(session, dataset) -> FrozenGenerator:
  """Like `load`, and the first time writes own.npz, result.json, samples.png."""
  generator, path = load(session, dataset), session.path('gan', 'own.npz')
  before = read_result(path.with_name('result.json'))
  if before and path.exists():
    seconds = {'train_seconds': before.get('train_seconds', 0.0)}  # of the first time
    return dataclasses.replace(generator, info=generator.info | seconds)

  def write():
    variables = jax.device_get(generator.variables)
    drawn = _draw(generator.sample, variables, dataset, 8)
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(variables))}
    content = io.BytesIO()
    np.savez(content, **leaves, drawn=drawn[:, 0])
    files.write_atomically(path, content.getvalue())
    picture = samples.next_to_real(dataset, {'generated': np.asarray(to_pixels(drawn))})
    files.write_atomically(path.with_name('samples.png'), picture)
    content = json.dumps(generator.info, indent=1)
    files.write_atomically(path.with_name('result.json'), content)

  on_first_process(write)
  return generator


def _make_on_all(named, dataset, trusted):
  """The user's `Generator`; an error on one process is one on all."""
  generator = error = None
  try:
    generator = _make(named, dataset, trusted)
  except ConfigError as caught:
    error = caught
  worked = multihost_utils.process_allgather(np.int32(error is None))
  if error or not np.all(worked):
    raise error or ConfigError(f'generator.family={named!r} failed on another process.')
  return generator


def _make(named, dataset, trusted):
  generator = external.load('generator.family', named, trusted=trusted)
  if not isinstance(generator, Generator):
    empty = dataset.test.rows(slice(0, 0))
    visible = dataclasses.replace(dataset, test=empty, held_out_real=None)
    generator = _call(generator, named, _Cached(dataset.fingerprint, visible))
  _check(generator, named, dataset)
  return generator


@dataclasses.dataclass(frozen=True)
class _Cached:
  """A dataset by its fingerprint, so that runs on the same images share a generator."""

  fingerprint: str
  dataset: Dataset = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=8)  # the seeds of an ablation
def _call(make, named, cached):
  with external.running(f'generator.family={named!r}'):
    generator = make(cached.dataset)
  if not isinstance(generator, Generator):
    raise ConfigError(
      f'generator.family={named!r} must be a gan_aug_jax.Generator, or a function of '
      f'the dataset that returns one; it returned {type(generator).__name__}.'
    )
  return generator


def _check(generator, named, dataset):
  """Checks shapes and classes, and the values of one image of each class."""
  shape, names = tuple(generator.image_shape), tuple(generator.class_names)
  numbers = tuple(map(str, range(dataset.num_classes)))
  if shape != dataset.image_shape or names not in (dataset.class_names, numbers):
    raise ConfigError(
      f'generator.family={named!r} draws {shape} of the classes {", ".join(names)}; '
      f'{dataset.name!r} has {dataset.image_shape} of {", ".join(dataset.class_names)}: '
      'sizes, and the order of the classes, must agree.'
    )
  generator_lib.check_sample(generator)
  images = _draw(generator.sample, generator.variables, dataset, 1)
  largest = float(np.max(np.abs(images)))
  if not largest <= 1.01:  # nor is NaN
    raise ConfigError(
      f'generator.family={named!r} draws values as large as {largest:.3g}; images must '
      'be in [-1, 1].'
    )


def _draw(sample, variables, dataset, count):
  """Images [num_classes, count, H, W, C], drawn on a device of this process."""
  numbers = jnp.arange(dataset.num_classes * count)
  keys = rng.example_keys(rng.stream_key(0, 'show'), numbers)
  images = np.asarray(jax.jit(sample)(jax.device_get(variables), keys, numbers // count))
  return images.reshape(dataset.num_classes, count, *images.shape[1:])


def _variables(session, generator, sample, dataset):
  """The variables that the run began with, or else the generator's; on the host."""
  variables = jax.tree.map(np.asarray, jax.device_get(generator.variables))
  path = session.path('gan', 'own.npz')
  if path.exists():
    variables, drawn = _read(path, variables)
    # As when it was written: the first of eight.
    now = _draw(sample, variables, dataset, 8)[:, 0]
    if drawn.shape != now.shape or np.max(np.abs(drawn - now)) > _TOLERANCE:
      raise _another(path)
  if jax.process_count() > 1:
    variables = multihost_utils.broadcast_one_to_all(variables)
  return variables


def _read(path, like):
  """The variables, of the shapes of `like`, and the images in own.npz."""
  try:
    saved = files.read_arrays(path)
  except (OSError, ValueError):
    raise CheckpointError(
      f'{str(path)!r} is damaged; move {str(path.parent)!r} away and run again.'
    ) from None
  leaves, structure = jax.tree.flatten(like)
  shapes = {str(i): leaf.shape for i, leaf in enumerate(leaves)}
  drawn = saved.pop('drawn', None)
  if drawn is None or {name: x.shape for name, x in saved.items()} != shapes:
    raise _another(path)
  # NumPy writes types that it does not know, such as bfloat16, as bytes.
  leaves = [saved[str(i)].view(leaf.dtype) for i, leaf in enumerate(leaves)]
  return jax.tree.unflatten(structure, leaves), drawn


def _another(path):
  return CheckpointError(
    f'The run began with another external generator (see {str(path)!r}): its code or the '
    'shapes of its variables have changed since; give another --workdir.'
  )
