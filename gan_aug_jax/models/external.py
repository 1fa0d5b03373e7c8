"""Your own network as a classifier, with the interface of those in `classifiers`.

It is a linen module, or a pair of pure functions:

    init(key, images) -> (params, state)
    apply(params, state, images) -> (logits, state)

`state` is any pytree of numeric arrays: batch statistics, counters, or () for none.
Images are [B, H, W, C] in [-1, 1]. In place of logits [B, num_classes] there may be a
tuple that begins with them, or a dict with 'logits'; the rest is dropped.

The module's `__call__`, or `apply`, gets those of these parameters that it names:

    train, training, is_training           bool
    deterministic, use_running_average     bool, the opposite
    keys                    key array [B], one per example; None in evaluation
    valid_mask, synthetic   bool [B], see `classifiers`; None in evaluation
    key                     of a pair: one key for the batch; None in evaluation

Without `keys`, random numbers such as dropout's depend on the number of devices and on
the backend. Without `valid_mask`, batch statistics include positions without an example:
where the batch does not divide among the devices, and where a filter dropped an image.
Under `pmap` they are those of a device, and their running values are averaged.
"""

from collections.abc import Callable
import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import external
from gan_aug_jax.errors import ConfigError

Tree = Any

_NUMBERS = (jax.Array, np.ndarray, np.generic, int, float)


@dataclasses.dataclass(frozen=True)
class ExternalClassifier:
  """Your own network, called the way that the linen modules of `classifiers` are.

  Attributes:
    described: the code, for messages.
    num_classes: number of classes.
    init_function: `(key, images) -> (params, state)`.
    apply_function: `(params, state, images, **options) -> (output, state)`.
    options: names of the options that it takes, see above.
    axis_name: mapped axis of the devices, or None.
  """

  described: str
  num_classes: int
  init_function: Callable
  apply_function: Callable
  options: frozenset[str]
  axis_name: str | None = None

  def init(self, key: jax.Array, images: jax.Array, *, train: bool) -> dict[str, Tree]:
    """Returns {'params', 'batch_stats'}; the latter is all that is not a parameter.

    Args:
      images: float [B, H, W, C].
      train: passed on to a network that takes it.
    """
    del train

    def start(images):
      params, state = self.init_function(key, images)
      check_arrays((params, state), f'{self.described} has variables')
      # Python's numbers would change their type in the first step.
      strong = lambda x: jnp.asarray(x, jnp.result_type(x))
      return jax.tree.map(strong, {'params': params, 'batch_stats': state})

    if not self.axis_name:
      return start(images)
    # It may sum over the devices, as in a step; here over one.
    mapped = jax.vmap(start, axis_name=self.axis_name, axis_size=1)
    return jax.tree.map(lambda x: x[0], mapped(images[None]))

  def apply(self, variables, images, *, train, mutable=(), keys=None, **masks):
    """Returns logits; with `mutable`, also {'batch_stats'} as they are after the step.

    Args:
      variables: from `init`.
      images: float [B, H, W, C] in [-1, 1].
      train: whether dropout and batch statistics are those of training.
      mutable: collections that the step updates.
      keys: of the examples [B], for dropout.
      **masks: of the examples; a network of the user takes none.
    """
    state, given = variables['batch_stats'], {'keys': keys, **masks}
    given |= dict.fromkeys(_TRAIN, train) | dict.fromkeys(_EVALUATE, not train)
    # Under pmap, the key of this device's first example.
    given['key'] = None if keys is None else keys[0]
    options = {name: given.get(name) for name in self.options}
    output, updated = self.apply_function(variables['params'], state, images, **options)
    logits = output[0] if isinstance(output, tuple | list) else output
    logits = logits['logits'] if isinstance(logits, dict) else logits
    if not mutable:
      return logits
    return logits, {'batch_stats': self._keep_type(updated, state)}

  def _keep_type(self, updated, state):
    """The state after a step: of the same types, and the same on all devices."""
    if _shapes(updated) != _shapes(state):
      raise ConfigError(
        f'{self.described} changes the structure or the shapes of its state in a step; '
        "return what is not kept next to the logits, or sow it into 'intermediates'."
      )

    def keep(new, old):
      new = jnp.asarray(new)
      if self.axis_name and jnp.issubdtype(new.dtype, jnp.floating):
        new = jax.lax.pmean(new, self.axis_name)
      return new.astype(old.dtype)

    return jax.tree.map(keep, updated, state)


def _shapes(tree):
  leaves, structure = jax.tree.flatten(tree)
  return structure, [jnp.shape(x) for x in leaves]


def check_arrays(tree: Tree, what: str) -> None:
  """Checks that a tree can be trained with and saved.

  Args:
    what: begins the sentence "... that are not numbers".

  Raises:
    ConfigError: if a leaf is not a numeric array.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = getattr(leaf, 'dtype', np.float32)
    extended = jnp.issubdtype(dtype, jax.dtypes.extended)
    if extended or not isinstance(leaf, _NUMBERS):
      kind = dtype if extended else type(leaf).__name__
      raise ConfigError(
        f'{what} that are not numbers ({kind} at {jax.tree_util.keystr(path)[:60]!r}); '
        'they must be a pytree of numeric arrays, or they cannot be saved.'
      )


def build_external(
  named: Any,
  described: str,
  *,
  num_classes: int,
  image_shape: tuple[int, int, int],
  dtype: jnp.dtype = jnp.float32,
  axis_name: str | None = None,
  arguments: dict[str, Any] | None = None,
) -> ExternalClassifier:
  """Builds a classifier from your own network, and checks it by its shapes.

  Args:
    named: a linen module, a pair of pure functions, or a function (a module's class, for
      example) that returns one of them and takes those of the arguments below that it
      names.
    described: the code, as in "classifier.arch='net:Net'".
    num_classes: number of classes.
    image_shape: (H, W, C).
    dtype: type to compute in.
    axis_name: mapped axis of the devices, or None.
    arguments: further ones of the function.

  Raises:
    ConfigError: if it fails, or does not return what it must.
  """
  options = {'num_classes': num_classes, 'image_shape': image_shape}
  options |= {'dtype': dtype, 'axis_name': axis_name}
  with external.running(described):
    if arguments and _is_network(named):
      raise TypeError('classifier.args needs a function, and this is a module or a pair')
    if callable(named) and not _is_network(named):
      taken = _named_by(named)
      options = {name: x for name, x in options.items() if name in taken}
      named = named(**options | (arguments or {}))
    if not _is_network(named):
      raise ConfigError(
        f'{described} must be a linen module, a pair of functions (init, apply), or a '
        f'function that returns one of them; it gave {type(named).__name__}.'
      )
    functions = _of_linen(named) if isinstance(named, nn.Module) else _of_pair(*named)
    model = ExternalClassifier(described, num_classes, *functions, axis_name)
    _check(model, image_shape)
  return model


def _is_network(named):
  pair = isinstance(named, tuple) and len(named) == 2 and all(map(callable, named))
  return isinstance(named, nn.Module) or pair


def _named_by(function):
  return frozenset(inspect.signature(function).parameters)


# Argument names that a network may use.
_TRAIN = ('train', 'training', 'is_training')
_EVALUATE = ('deterministic', 'use_running_average')
_OF_EXAMPLES = ('keys', 'valid_mask', 'synthetic')
_OPTIONS = {*_TRAIN, *_EVALUATE, *_OF_EXAMPLES}


def _of_linen(module):
  options = _named_by(module.__call__) & _OPTIONS

  def init(key, images):
    given = {name: name in _EVALUATE for name in options}
    given |= dict.fromkeys(options & {*_OF_EXAMPLES})
    variables = dict(module.init(key, images, **given))
    return variables.pop('params', {}), variables

  def apply(params, state, images, key, **options):
    variables = {'params': params, **state}
    if key is None:
      return module.apply(variables, images, **options), state
    streams = dict(zip(('params', 'dropout'), jax.random.split(key), strict=True))
    return module.apply(variables, images, **options, rngs=streams, mutable=list(state))

  return init, apply, options | {'key'}


def _of_pair(init, apply):
  return init, apply, _named_by(apply) & (_OPTIONS | {'key'})


def _check(model, image_shape):
  """Traces a step and an evaluation of two images."""

  def trace(images):
    keys = jax.random.split(jax.random.key(0, impl='threefry2x32'), 2)
    variables = model.init(keys[0], images[:1], train=False)
    masks = {'valid_mask': jnp.ones(2, bool), 'synthetic': jnp.zeros(2, bool)}
    step = {'train': True, 'keys': keys, 'mutable': ['batch_stats'], **masks}
    trained, _ = model.apply(variables, images, **step)
    return trained, model.apply(variables, images, train=False)

  images, trace_one = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), trace
  if model.axis_name:
    images = jax.ShapeDtypeStruct((1, *images.shape), images.dtype)
    trace_one = jax.vmap(trace, axis_name=model.axis_name)
  for logits in jax.eval_shape(trace_one, images):
    shape, expected = logits.shape[-2:], (2, model.num_classes)
    if logits.ndim - bool(model.axis_name) == 2 and shape[0] == 2 and shape != expected:
      raise ConfigError(
        f'{model.described} has outputs for {shape[1]} classes, and the data have '
        f'{model.num_classes}; let it take num_classes.'
      )
    if shape != expected or not jnp.issubdtype(logits.dtype, jnp.floating):
      raise ConfigError(
        f'{model.described} returned {logits.dtype}{list(logits.shape)} for two images; '
        f'it must return logits, float{list(expected)}.'
      )
