"""Scores a run's generators, next to noise and real images, into score/.

Features are those of our own extractor, trained on the whole training split, so scores
compare between runs on one dataset and with nothing published. Generated images are
compared with real ones of the training split that the generators did not train on; the
test split is not read. Never choose a generator by these scores: `candidates` has those
for choosing.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data.splits import Split
from gan_aug_jax.errors import DataError
from gan_aug_jax.evaluation import evaluators, fidelity, figures, metrics, probe
from gan_aug_jax.evaluation.image_sampler import ImageSampler
from gan_aug_jax.experiment import runs
from gan_aug_jax.generators import families, frozen
from gan_aug_jax.step import device_data, rng, sampling
from gan_aug_jax.training import devices, files, workdir
from gan_aug_jax.training.progress import format_count, waiting

_NOISE, _REAL = 'noise', 'real training images'
_SEED = 1  # of the images that are scored; candidates are chosen by those of seed 0


def score_generators(session, run: dict) -> dict:
  """Scores every generator that the workdir's arms draw from.

  Args:
    run: content of its config.json.

  Returns:
    The content of score/scores.json; 'rows' are {name: scores}.

  Raises:
    CheckpointError, DataError: if the generators or the data are not there.
  """
  began, config, cache = time.perf_counter(), session.config, devices.cache_directory()
  dataset = runs.load_data(config)
  workdir.check_data(session, run, dataset)
  generator = frozen.load_generator(session, dataset.facts)
  whole, held_out, held_out_chose = _hold_out(session, dataset)
  with waiting('training the feature extractor on real images'):
    extractor = probe.train_extractor(
      session,
      whole,
      whole.val,
      num_steps=config.score.extractor_steps,
      directory=cache and pathlib.Path(cache, 'extractors'),
    )
  embed = functools.partial(
    probe.make_embed(session, dataset.num_classes), extractor.variables
  )
  train = embed(dataset.train).features
  with waiting(f'drawing {format_count(len(held_out), "image")} of each kind'):
    sources = _draw_sources(session, dataset, generator, len(held_out))
  rows = _score_sources(session, dataset, sources, held_out, embed, train)
  result = {
    'dataset': dataset.name,
    'num_train': len(dataset.train),
    'num_held_out': len(held_out),
    'num_generated': len(held_out),
    'held_out_counts': held_out.class_counts(dataset.num_classes).tolist(),
    'held_out_chose': config.generator.select == 'cas' and held_out_chose,
    'extractor': {
      'accuracy': extractor.accuracy,
      'hash': extractor.hash,
      'trained_on': whole.fingerprint,
    },
    'config': config.score.to_dict(),
    'drawing': families.drawing_arguments_of(config),
    'class_names': dataset.class_names,
    'rows': rows,
    'seconds': time.perf_counter() - began,
    'versions': workdir.versions(),
    'device': workdir.describe_devices(session.layout),
  }
  _draw_pictures(session, dataset, generator, embed, train)
  files.write_atomically(
    session.path('score', 'scores.json'), json.dumps(result, indent=1)
  )
  return result


def _hold_out(session, dataset):
  """Finds images that the run did not train on, nor validate with if there are enough.

  Returns:
    The dataset with all its labels, the images, and whether the run validated with some.
  """
  config = session.config.copy_and_resolve_references()
  config.data.label_budget, config.data.imbalance = 0, 1.0
  config.data.train_on_val, config.mix.source = False, 'generator'
  limited = session.config.data != config.data
  whole = runs.load_data(config) if limited else dataset
  trained, validated = (
    {image.tobytes() for image in split.images} for split in (dataset.train, dataset.val)
  )
  pool = Split(
    np.concatenate([whole.train.images, whole.val.images]),
    np.concatenate([whole.train.labels, whole.val.labels]),
  )
  images = [image.tobytes() for image in pool.images]
  unseen = [i for i, image in enumerate(images) if image not in trained]
  unused = [i for i in unseen if images[i] not in validated]
  is_enough = len(unused) >= min(config.score.num_samples, len(unseen))
  seed = config_lib.seed_of(config, 'data')
  held_out = pool.rows(np.array(unused if is_enough else unseen, int))
  held_out = held_out.some(config.score.num_samples, seed)
  least = max(config.score.neighbours + 1, dataset.num_classes)
  if len(held_out) < least:
    raise DataError(
      f'Scoring needs {least} images of {dataset.name!r} that the generators did not '
      f'train on, and there are {len(held_out)}: raise data.val_fraction, or lower '
      'score.neighbours.'
    )
  if len(dataset.train) <= config.score.neighbours:
    raise DataError(
      f'Scoring needs {config.score.neighbours + 1} training images, and there are '
      f'{len(dataset.train)}: lower score.neighbours.'
    )
  return whole, held_out, not is_enough


def _draw_sources(session, dataset, generator, count):
  """{name: `Split`}: real images, each generator's, those of all together, and noise."""
  family, num_classes = generator.family, dataset.num_classes
  drawn_by = functools.partial(ImageSampler, session, num_classes=num_classes)
  draw = drawn_by(family.make_sampler())
  sources = {_REAL: dataset.train.some(count, 0)}
  sources |= {m.name: draw(m.variables, count, _SEED) for m in generator.members}
  if len(generator.members) > 1:
    sample_all = frozen.of_members(session, family.make_sampler())
    draw_all = drawn_by(sample_all, num_generators=len(generator.members))
    sources['all together'] = draw_all(generator.variables, count, _SEED)
  draw_noise = drawn_by(sampling.make_noise_sampler(dataset.image_shape))
  return sources | {_NOISE: draw_noise({}, count)}


def _score_sources(session, dataset, sources, held_out, embed, train):
  """{name: scores}; `train` are features of the training images."""
  config, num_classes = session.config.score, dataset.num_classes
  model = probe.build_probe(session, num_classes)
  evaluate = evaluators.Evaluator(session, model, largest=len(held_out))
  train_probe, train_on_real = (
    probe.Trainer(session, dataset, num_steps=config.cas_steps, sample=sample, variant=1)
    for sample in (sampling.make_pool_sampler(), None)
  )

  def trained_on(name, images):
    if name == _REAL:
      return train_on_real()
    pool = sampling.group_by_class(images.images, images.labels, num_classes)
    return train_probe(session.layout.replicate(pool))

  real, rows = embed(held_out), {}
  for name, images in sources.items():
    with waiting(f'scoring {name}'):
      rows[name] = _score(
        embed(images),
        real,
        train=None if name == _REAL else train,
        cas=evaluate(trained_on(name, images), held_out),
        neighbours=config.neighbours,
        num_classes=num_classes,
      )
  return rows


def _score(generated, real, *, train, cas, neighbours, num_classes):
  """A row of score/scores.json.

  Args:
    generated: `probe.Embedding` of the images to score.
    real: `probe.Embedding` of the held-out images.
    train: features of the training images, or None to look for no copies of them.
    cas: evaluation, on the held-out images, of a probe trained on images like these.
    neighbours: k of precision, recall, density and coverage.
  """
  features, labels = generated.features, generated.labels
  manifold = functools.partial(fidelity.manifold_scores, k=neighbours)
  by_class = lambda score: fidelity.by_class(
    score, real.features, real.labels, features, labels, num_classes
  )
  correct = generated.predictions == labels
  copies = None
  if train is not None:
    copies = fidelity.memorisation(features, train, real.features)
  return {
    'count': len(labels),
    'frechet': fidelity.frechet_distance(real.features, features),
    'kernel': fidelity.kernel_distance(real.features, features),
    **manifold(real.features, features),
    'cas': cas['accuracy'],
    'gan_test': float(np.mean(correct)),
    'copies': copies,
    'per_class': {
      'frechet': by_class(fidelity.frechet_distance),
      'manifold': by_class(manifold),
      'cas': metrics.per_class(cas['confusion'])['recall'].tolist(),
      'gan_test': _share_by_class(correct, labels, num_classes),
    },
  }


def _share_by_class(correct, labels, num_classes):
  """The share of correct images of each class, None for a class without an image."""
  groups = [correct[labels == label] for label in range(num_classes)]
  return [float(group.mean()) if len(group) else None for group in groups]


def _draw_pictures(session, dataset, generator, embed, train):
  """Writes pictures of the first generator into score/."""
  num_classes, family = dataset.num_classes, generator.family
  variables, sample = generator.members[0].variables, family.make_sampler()
  grid = ImageSampler(session, sample, num_classes).by_class(variables, 10)
  firsts = Split(grid[:, 0], np.arange(num_classes, dtype=np.int32))
  _, nearest = fidelity.nearest(embed(firsts).features, train, min(5, len(train)))
  panels = {
    'grid': {'generated': grid},
    'neighbours': {
      'generated': firsts.images[:, None],
      'nearest training images': dataset.train.images[nearest],
    },
  }
  if family.render:
    between = _interpolate(family, variables, num_classes)
    panels['interpolation'] = {'from one latent to another': between}
  for name, images in panels.items():
    picture = figures.grid(dataset.class_names, images)
    files.write_atomically(session.path('score', f'{name}.png'), picture)


def _interpolate(family, variables, num_classes, count=10):
  """Images between two latents of each class: uint8 [classes, count, H, W, C]."""
  keys = rng.example_keys(rng.stream_key(0, 'show', step=1), jnp.arange(2))
  first, last = sampling.draw_latents(keys, family.latent_shape)
  # Along an arc, so that the latents between are as long as those of the training.
  angle = jnp.linspace(0, jnp.pi / 2, count).reshape(-1, *(1,) * first.ndim)
  arc = jnp.cos(angle) * first + jnp.sin(angle) * last
  latents = jnp.tile(arc, (num_classes, *(1,) * first.ndim))
  labels = jnp.repeat(jnp.arange(num_classes), count)
  images = jax.jit(family.render)(jax.device_get(variables), latents, labels)
  pixels = np.asarray(device_data.to_pixels(jnp.clip(images, -1, 1)))
  return pixels.reshape(num_classes, count, *pixels.shape[1:])
