"""Pictures of what generators draw."""

import io
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
    path: of the PNG.
    dataset: the data.
    drawn: {title: images uint8 [num_classes, N, H, W, C]}.
    options: of the sampler, a text.
  """
  train, shape = dataset.train, (8, *dataset.image_shape)
  first = [train.images[train.labels == c][:8] for c in range(dataset.num_classes)]
  # Where a class has fewer, they are repeated.
  real = np.stack([np.resize(images, shape) for images in first])
  by_class = next(iter(drawn.values()))[:, :2]
  few, content = by_class.swapaxes(0, 1).reshape(-1, *by_class.shape[2:]), io.BytesIO()
  np.savez_compressed(content, drawn=few, options=options)
  files.write_atomically(path.with_suffix('.npz'), content.getvalue())
  files.write_atomically(path, figures.grid(dataset.class_names, {'real': real, **drawn}))


def write_samples(session, info, seed, per_class=10) -> pathlib.Path:
  """Draws images of each class from each generator of a run, into samples-SEED.png.

  Args:
    session: the run's.
    info: the 'data' of config.json.
    seed: of the draw.
    per_class: images a class, of each generator.

  Returns:
    The picture's path.

  Raises:
    CheckpointError: see `frozen.load_generator`.
  """
  generator = frozen.load_generator(session, info)
  draw = ImageSampler(session, generator.family.make_sampler(), info.num_classes)
  drawn = {m.name: draw.by_class(m.variables, per_class, seed) for m in generator.members}
  path = session.path(f'samples-{seed}.png')
  files.write_atomically(path, figures.grid(info.class_names, drawn))
  return path
