"""Pictures of what generators draw."""

import pathlib

import numpy as np

from gan_aug_jax.evaluation import figures
from gan_aug_jax.evaluation.image_sampler import ImageSampler
from gan_aug_jax.generators import frozen
from gan_aug_jax.training import files


def is_drawn(path: pathlib.Path, options: str) -> bool:
  """Whether `write_next_to_real` has written a picture with these options."""
  try:
    saved = files.read_arrays(path.with_suffix('.npz'))
  except (OSError, ValueError):
    return False
  return path.exists() and saved.get('options', options) == options


def write_next_to_real(path: pathlib.Path, dataset, drawn, options: str) -> None:
  """Writes a picture of the first training images of each class, next to drawn ones.

  A few of the drawn images are written next to it, as 'drawn' in an npz archive.

  Args:
    drawn: {title: images uint8 [num_classes, N, H, W, C]}.
  """
  train, shape = dataset.train, (8, *dataset.image_shape)
  first = [train.images[train.labels == c][:8] for c in range(dataset.num_classes)]
  # Where a class has fewer, they are repeated.
  real = np.stack([np.resize(images, shape) for images in first])
  by_class = next(iter(drawn.values()))[:, :2]
  few = by_class.swapaxes(0, 1).reshape(-1, *by_class.shape[2:])
  files.write_arrays(path.with_suffix('.npz'), drawn=few, options=options)
  files.write_atomically(path, figures.grid(dataset.class_names, {'real': real, **drawn}))


def write_samples(session, facts, seed) -> pathlib.Path:
  """Draws ten images of each class from each of a run's generators: samples-SEED.png.

  Args:
    facts: `DataFacts` of the run's images.

  Raises:
    CheckpointError: see `frozen.load_generator`.
  """
  generator = frozen.load_generator(session, facts)
  draw = ImageSampler(session, generator.family.make_sampler(), facts.num_classes)
  drawn = {m.name: draw.by_class(m.variables, 10, seed) for m in generator.members}
  path = session.path(f'samples-{seed}.png')
  files.write_atomically(path, figures.grid(facts.class_names, drawn))
  return path
