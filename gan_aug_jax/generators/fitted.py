"""A generator that is made at once, not in steps: `Family.fit`, and the file it leaves.

GENERATOR/variables.npz holds its arrays and their paths, so that nothing else has to know
their shapes.
"""

import dataclasses
import io
import json
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.data.datasets import Dataset
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators.external import calling
from gan_aug_jax.generators.family import Family
from gan_aug_jax.training import files, processes, signals
from gan_aug_jax.training.checkpoint import UnreadableGenerator

_MOST_BYTES = 2**34


def fit(named: str, family: Family, dataset: Dataset, seed: int, directory) -> None:
  """Makes a generator and keeps its variables; the first of several processes does.

  Args:
    named: `generator.family`.
    family: with a `fit`.
    dataset: the data; the test split is withheld.

  Raises:
    ConfigError: if that fails on any process.
  """
  error = None
  if jax.process_index() == 0:
    visible = dataclasses.replace(
      dataset, test=dataset.test.rows(slice(0, 0)), held_out_real=None
    )
    directory.mkdir(parents=True, exist_ok=True)
    try:
      with calling(named):
        variables = family.fit(visible, seed=seed, directory=directory)
        signals.check()  # it may catch a KeyboardInterrupt and return what it has
        content = _pack(variables)
      files.write_atomically(directory / 'variables.npz', content)
    except ConfigError as caught:
      error = caught
  if not processes.all_agree(error is None):
    raise error or ConfigError(f'generator.family={named!r} failed on another process.')


def _pack(variables):
  """The bytes of an .npz file of arrays in nested dicts."""
  if not isinstance(variables, dict):
    raise TypeError('fit must return arrays in nested dicts')
  flat = traverse_util.flatten_dict(jax.device_get(variables), keep_empty_nodes=True)
  arrays, paths = [], []
  for path, value in flat.items():
    if not all(isinstance(name, str) for name in path):
      raise TypeError(f'fit must return dicts whose keys are strings, not {path!r}')
    empty = value is traverse_util.empty_node
    stacks = isinstance(value, list | tuple)  # NumPy would make one array of them
    arrays.append(np.zeros(0) if empty or stacks else np.asarray(value))
    paths.append([path, empty])
    if stacks or arrays[-1].dtype == object:
      name = '/'.join(paths[-1][0])
      raise TypeError(f'fit must return arrays in nested dicts, and {name!r} is none')
  content = io.BytesIO()
  np.savez(content, *arrays, paths=json.dumps(paths))
  return content.getvalue()


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Reads the variables of a generator.

  Raises:
    UnreadableGenerator: if they are missing or damaged.
  """
  path = directory / 'variables.npz'
  try:
    flat = files.read_arrays(path, _MOST_BYTES)
  except (OSError, ValueError):
    raise UnreadableGenerator(
      f'{str(path)!r} is missing or damaged; run or train-generator with the same '
      '--config and --workdir makes it again.'
    ) from None
  # NumPy writes types that it does not know as bytes.
  known = lambda x: x.view(jnp.bfloat16) if x.dtype.str == '|V2' else x
  is_new = 'paths' in flat and flat['paths'].dtype.kind == 'U'
  if not is_new:  # of an older version
    return traverse_util.unflatten_dict(jax.tree.map(known, flat), sep='/')
  arrays = {}
  for i, (path, empty) in enumerate(json.loads(str(flat['paths']))):
    arrays[tuple(path)] = traverse_util.empty_node if empty else known(flat[f'arr_{i}'])
  return traverse_util.unflatten_dict(arrays)
