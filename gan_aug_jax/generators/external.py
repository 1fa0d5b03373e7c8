"""A generator from outside the package, which `generator.family='module:name'` names.

It is a function declared with `family.generator`, or a `Generator`, and becomes a
`Family` like those of the package: `families` asks for it here, and nothing else does.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib, external
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.generators.family import Family, Setting
from gan_aug_jax.generators.generator import as_if_from_0_to_1, Generator
from gan_aug_jax.step import device_data, rng, sampling
from gan_aug_jax.training import files

# How much a draw may differ on another machine, for images in [-1, 1].
_TOLERANCE = 0.05


@functools.lru_cache(maxsize=16)  # a run asks again and again, an ablation for each seed
def build(
  named: str, setting: Setting, args: tuple[str, ...], *, trusted: bool
) -> Family:
  """Builds the generator 'module:name', and traces it; trains and reads nothing.

  Args:
    named: `generator.family`.
    args: `generator.args`.
    trusted: see `gan_aug_jax.external.load`.

  Raises:
    ConfigError: if it cannot be imported or called, or is not what it should be.
  """
  found = external.load('generator.family', named, trusted=trusted)
  arguments = config_lib.parse_arguments(args)
  if not isinstance(found, Generator) and not getattr(found, 'is_generator', False):
    raise ConfigError(
      f'generator.family={named!r} must be a function declared with '
      '@gan_aug_jax.generator, or a gan_aug_jax.Generator.'
    )
  # Traced under `jit`, as `pmap` needs its axis.
  with_jit = dataclasses.replace(setting, layout=setting.layout.with_jit)
  _trace(named, _call(named, found, with_jit, arguments), setting)
  return _call(named, found, setting, arguments)


def _call(named, found, setting, arguments):
  """The `Family` that the user's function, or a `Generator`, gives."""
  made = found
  if not isinstance(found, Generator):
    with calling(named):
      made = found(setting, **arguments)
  if isinstance(made, Generator):
    return _family_of(named, made, setting)
  if not isinstance(made, Family):
    raise ConfigError(
      f'generator.family={named!r} must return a gan_aug_jax.Family or Generator; it '
      f'returned {type(made).__name__}.'
    )
  return made


def calling(named: str) -> contextlib.AbstractContextManager:
  """Turns what the user's code raises into one sentence, see `external.running`."""
  return external.running(f'generator.family={named!r}')


def _family_of(named, generator, setting):
  """The `Family` of a frozen `Generator`."""
  shape, names = tuple(generator.image_shape), tuple(generator.class_names)
  facts, numbers = setting.info, tuple(map(str, range(setting.num_classes)))
  if shape != facts.image_shape or names not in (facts.class_names, numbers):
    raise ConfigError(
      f'generator.family={named!r} draws {shape} of the classes {", ".join(names)}; the '
      f'data have {facts.image_shape} of {", ".join(facts.class_names)}: sizes, and the '
      'order of the classes, must agree.'
    )
  leaves, structure = jax.tree.flatten_with_path(generator.variables)
  # `fit` returns dicts; with six digits they keep the order of the leaves.
  numbered = {
    f'{i:06} {jax.tree_util.keystr(path, simple=True, separator="/")}': leaf
    for i, (path, leaf) in enumerate(leaves)
  }

  def sample(variables, keys, labels):
    variables = jax.tree.unflatten(structure, jax.tree.leaves(variables))
    return generator.sample(variables, keys, labels)

  return Family(
    title=generator.name,
    sample=sample,
    fit=lambda dataset, *, seed, directory: numbered,
    trained_on=generator.trained_on,
  )


def _trace(named, family, setting):
  """Traces a step and a draw, so that what cannot work fails before it is trained."""
  if family.fit:
    return
  with calling(named):
    state = jax.eval_shape(family.init, np.int32(0))
    after, metrics = jax.eval_shape(family.step, state, _data(setting))
    if not isinstance(metrics, dict):
      raise TypeError('its step must return (state, {name: scalar})')
    if taken := {'step', 'step_ms'} & set(metrics):
      raise TypeError(f'{min(taken)!r} is taken; call the metric of its step otherwise')
    if family.last_step:
      last, _ = jax.eval_shape(family.last_step[1], state, _data(setting))
    networks = jax.eval_shape(family.freeze, state)
    kept = ['generator'] + ['discriminator'] * bool(family.discriminator_logits)
    if lacking := set(kept) - set(networks):
      raise TypeError(f'its freeze must return {{{min(lacking)!r}: variables}}, too')
    images = sampling.trace_two(family.make_sampler(), networks['generator'])
    _check_images(named, images, (2, *setting.image_shape))
    if family.measure:
      number = np.int32(0)
      measured = jax.eval_shape(family.measure, networks['generator'], number, number)
    if family.discriminator_logits:
      one_each = jax.ShapeDtypeStruct((2, 1, *images.shape[1:]), images.dtype)
      judged = networks['discriminator'], one_each, np.zeros(2, np.int32)
      jax.eval_shape(family.discriminator_logits, *judged)
  _check_same(named, 'step', state, after)
  if family.last_step:
    _check_same(named, 'last_step', state, last)
  if family.measure:
    _check_same(named, 'measure', networks['generator'], measured)
  wrong = [name for name, value in metrics.items() if value.shape]
  if wrong:
    raise ConfigError(
      f'The metric {wrong[0]!r} of generator.family={named!r} has the shape '
      f'{list(metrics[wrong[0]].shape)}; metrics must be scalars.'
    )


def _check_same(named, function, before, after):
  describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  if describe(before) != describe(after):
    raise ConfigError(
      f'The {function} of generator.family={named!r} changes the names, shapes or types '
      'of what it gets; it must return the same.'
    )


def _check_images(named, images, shape):
  if images.shape != shape or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ConfigError(
      f'Images of generator.family={named!r} are {images.dtype}{list(images.shape)}; '
      f'they must be float {list(shape)}.'
    )


def _data(setting):
  """Black images, two of each class, such as a step gets."""
  labels = np.repeat(np.arange(setting.num_classes, dtype=np.int32), 2)
  black = device_data.arrange(
    np.zeros((len(labels), *setting.image_shape), np.uint8), labels
  )
  return dataclasses.replace(black, order=labels, start=np.int32(0))


def check_drawing(named: str, family: Family, variables, *, facts, path) -> None:
  """Checks what a generator draws, the first time, and that it draws the same later.

  Args:
    named: `generator.family`.
    path: of an .npz file with one image a class, as first drawn, written if missing; or
      None while the generator is in training.

  Raises:
    ConfigError: if values are of another scale, or images depend on their batch.
    CheckpointError: if the generator's code has changed, so that it draws others.
  """
  variables, labels = jax.device_get(variables), np.arange(facts.num_classes)
  keys = rng.example_keys(rng.stream_key(0, 'show'), jnp.arange(facts.num_classes))
  sample = jax.jit(family.make_sampler(clips=False))
  with calling(named):
    drawn = np.asarray(sample(variables, keys, labels), np.float32)
    alone = np.asarray(sample(variables, keys[-1:], labels[-1:]), np.float32)
  _check_images(named, drawn, (facts.num_classes, *facts.image_shape))
  # A flow may draw values outside of the range, which are clipped, but few.
  size = float(np.mean(np.abs(drawn)))
  if not size <= 1:  # nor is NaN
    raise ConfigError(
      f'generator.family={named!r} draws values whose mean size is {size:.3g}; images '
      'must be in [-1, 1].'
    )
  # Once it is trained it may draw bright images only, as its data may be.
  if not path and (found := as_if_from_0_to_1(drawn)):
    raise ConfigError(
      f'generator.family={named!r} draws values {found}; images must be in [-1, 1]: '
      'return 2 * images - 1.'
    )
  if np.max(np.abs(drawn[-1] - alone[0])) > _TOLERANCE:
    raise ConfigError(
      f'Images of generator.family={named!r} depend on the others of their batch; a '
      'network must draw in inference mode, with the statistics of its training.'
    )
  if path:
    _compare(named, drawn, path)


def _compare(named, drawn, path):
  """Compares images with those that were drawn first, or keeps them."""
  if path.exists():
    before = _read(path)
    if before.shape != drawn.shape or np.max(np.abs(before - drawn)) > _TOLERANCE:
      raise CheckpointError(
        f'generator.family={named!r} draws other images than when {str(path)!r} was '
        'written: its code has changed since, or it was made again and differs; give '
        'another --workdir.'
      )
  elif jax.process_index() == 0:
    files.write_arrays(path, images=drawn)


def _read(path):
  try:
    return files.read_arrays(path)['images']
  except (OSError, ValueError, KeyError):
    raise CheckpointError(
      f'{str(path)!r} is damaged; move it away, and it is written again.'
    ) from None
