"""Images that are drawn once before the arms, and kept: augmentation offline."""

import hashlib
import json
import math

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation.image_sampler import ImageSampler
from gan_aug_jax.generators import families
from gan_aug_jax.training import files, processes


def draw_once(session, dataset, sample, variables, directory) -> np.ndarray:
  """Draws `cache.images_per_class` images of each class, or reads those drawn before.

  Args:
    sample: `(variables, keys, labels) -> images`.
    directory: where the images are kept, under a hash of all that they depend on.

  Returns:
    uint8 [num_classes, count, H, W, C].
  """
  config, count = session.config, session.config.cache.images_per_class
  seed = config_lib.seed_of(config, 'classifier') ^ 2**29
  depends = config.latents.to_dict() | {'count': count}
  depends |= {'source': config.mix.source, 'seed': seed}
  # Its sampler's options: cells that differ in them share a generator.
  depends |= {'family': config.generator.family}
  depends |= {'arguments': families.drawing_arguments_of(config)}
  digest = hashlib.sha256(json.dumps(depends).encode())
  for leaf in jax.tree.leaves(jax.device_get(variables)):
    digest.update(np.ascontiguousarray(leaf))
  path = directory / f'offline-{digest.hexdigest()[:16]}.npz'
  images = _read(path, (dataset.num_classes, count, *dataset.image_shape))
  if not processes.all_agree(images is not None):  # all of them draw, or none does
    number = len(config_lib.members_of(session.config))
    draw = ImageSampler(session, sample, dataset.num_classes, num_generators=number)
    images = draw.by_class(variables, count, seed)
    if jax.process_index() == 0:
      files.write_arrays(path, images=images)
  return images


def _read(path, shape):
  """The images in a file, or None where it is missing, damaged or of another shape."""
  try:
    images = files.read_arrays(path, math.prod(shape) + 2**16)['images']
  except (OSError, ValueError, KeyError):
    return None
  return images if images.shape == shape and images.dtype == np.uint8 else None
