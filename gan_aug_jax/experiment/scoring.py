"""What the generators of a run are worth, between a floor and a ceiling, into score/.

Scores are of features of an extractor of our own, trained on the whole training split,
and so compare between runs on one dataset and with nothing published. The reference are
real images of the training split that the run's generators did not train on; the test
split is not read. Nothing here is for choosing by: see `candidates` for that.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import DataError
from gan_aug_jax.evaluation import evaluators, fidelity, figures, metrics, probe
from gan_aug_jax.experiment import runs
from gan_aug_jax.generators import gan_training
from gan_aug_jax.step import device_data, rng, sampling
from gan_aug_jax.training import devices, files, workdir

_NOISE, _REAL = 'noise', 'real training images'
_SEED = 1  # of what is drawn: what candidates are chosen by is drawn with 0


def score_generators(session, run):
  """Scores every generator that the workdir's arms draw from.

  Args:
    session: the run's.
    run: content of its config.json.

  Returns:
    The content of score/scores.json; 'rows' are {name: scores}.

  Raises:
    CheckpointError, DataError: if the generators or the data are not there.
  """
  began = time.perf_counter()
  dataset = runs.load_data(session.config)
  workdir.check_data(session, run, dataset)
  generator = gan_training.load_generator(session, dataset.facts)
  whole, held_out = _reference(session, dataset)
  extractor = probe.train_extractor(
    session,
    whole,
    whole.val,
    num_steps=session.config.score.extractor_steps,
    directory=pathlib.Path(devices.cache_directory(), 'extractors'),
  )
  embed = functools.partial(
    probe.make_embed(session, dataset.num_classes), extractor.variables
  )
  train = embed(dataset.train)[0]
  judge = _make_judge(session, dataset, held_out, embed, train)
  splits, rows = _splits(session, dataset, generator, len(held_out)), {}
  for name, (split, sample, variables) in splits.items():
    rows[name] = judge(split, sample, variables, is_train=name == _REAL)
  result = {
    'dataset': dataset.name,
    'num_train': len(dataset.train),
    'num_held_out': len(held_out),
    'num_generated': len(held_out),
    # Where there is no label budget, that is the validation split.
    'held_out_chose': session.config.gan.select == 'cas' and whole is dataset,
    'extractor': {
      'accuracy': extractor.accuracy,
      'hash': extractor.hash,
      'trained_on': whole.fingerprint,
    },
    'config': session.config.score.to_dict(),
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


def _reference(session, dataset):
  """The dataset with all its labels, and its images that the run did not train on."""
  config = session.config.copy_and_resolve_references()
  config.data.per_class, config.data.imbalance = 0, 1.0
  config.data.train_on_val, config.sampler.source = False, 'generator'
  limited = session.config.data != config.data
  whole = runs.load_data(config) if limited else dataset
  seen = {image.tobytes() for image in dataset.train.images}
  pool = datasets.Split(
    np.concatenate([whole.train.images, whole.val.images]),
    np.concatenate([whole.train.labels, whole.val.labels]),
  )
  unseen = [i for i, image in enumerate(pool.images) if image.tobytes() not in seen]
  seed = config_lib.seed_of(config, 'data')
  held_out = pool.rows(np.array(unseen, int)).some(config.score.num_samples, seed)
  least = max(config.score.neighbours + 1, dataset.num_classes)
  if len(held_out) < least:
    raise DataError(
      f'{len(held_out)} images of {dataset.name!r} are left that the generators did not '
      f'train on; to score needs {least}: raise data.val_fraction, or lower '
      'score.neighbours.'
    )
  return whole, held_out


def _splits(session, dataset, generator, count):
  """{name: (split, sample, variables)} of what is scored; no sampler for real images."""
  info, num_classes = dataset.facts, dataset.num_classes
  one = gan_training.make_sampler(session, info)
  draw = probe.Draw(session, one, num_classes)
  splits = {_REAL: (dataset.train.some(count, 0), None, None)}
  for name, variables in generator.members.items():
    splits[name] = (draw(variables, count, _SEED), one, variables)
  if len(generator.members) > 1:
    drawn = probe.Draw(session, generator.sample, num_classes)
    together = drawn(generator.variables, count, _SEED)
    splits['all together'] = (together, generator.sample, generator.variables)
  noise = functools.partial(_noise, shape=dataset.image_shape)
  splits[_NOISE] = (probe.Draw(session, noise, num_classes)({}, count), noise, {})
  return splits


def _noise(_, keys, labels, shape):
  """Uniform noise in the place of a generator's images."""
  del labels
  return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1, maxval=1))(keys)


def _make_judge(session, dataset, held_out, embed, train):
  """Returns `judge(split, sample, variables, is_train) -> scores` of some images."""
  config, num_classes = session.config.score, dataset.num_classes
  evaluate = evaluators.Evaluator(
    session, probe.build_probe(session, num_classes), num_classes
  )
  real, _ = embed(held_out)
  manifold = functools.partial(
    fidelity.manifold_scores, k=config.neighbours, layout=session.layout
  )
  # One program for every generator of the run.
  trainer = functools.cache(
    lambda sample: probe.Trainer(
      session, dataset, num_steps=config.cas_steps, sample=sample, variant=1
    )
  )

  def judge(split, sample, variables, is_train):
    features, predictions = embed(split)
    copies = None
    if not is_train:
      copies = fidelity.memorisation(features, train, real, layout=session.layout)
    cas = evaluate(trainer(sample)(variables), held_out)
    by_class = functools.partial(
      fidelity.by_class,
      real=real,
      real_labels=held_out.labels,
      generated=features,
      generated_labels=split.labels,
      num_classes=num_classes,
    )
    hits = predictions == split.labels
    return {
      'count': len(split),
      'frechet': fidelity.frechet_distance(real, features),
      'kernel': fidelity.kernel_distance(real, features, layout=session.layout),
      **manifold(real, features),
      'cas': cas['accuracy'],
      'gan_test': float(np.mean(hits)),
      'copies': copies,
      'per_class': {
        'frechet': by_class(fidelity.frechet_distance),
        'manifold': by_class(manifold),
        'cas': metrics.per_class(cas['confusion'])['recall'].tolist(),
        'gan_test': _hits_by_class(hits, split.labels, num_classes),
      },
    }

  return judge


def _hits_by_class(hits, labels, num_classes):
  """The share of hits of each class, None where it has no image."""
  counts = np.bincount(labels, minlength=num_classes)
  right = np.bincount(labels, hits, minlength=num_classes)
  return [float(r / n) if n else None for r, n in zip(right, counts, strict=True)]


def _draw_pictures(session, dataset, generator, embed, train):
  """score/grid.png, neighbours.png and interpolation.png, of the first generator."""
  info, num_classes = dataset.facts, dataset.num_classes
  variables = next(iter(generator.members.values()))
  sample = gan_training.make_sampler(session, info)
  grid = probe.Draw(session, sample, num_classes).by_class(variables, 10)
  firsts = datasets.Split(grid[:, 0], np.arange(num_classes, dtype=np.int32))
  features, _ = embed(firsts)
  count = min(5, len(train))
  _, nearest = fidelity.nearest(features, train, count, layout=session.layout)
  panels = {
    'grid': {'generated': grid},
    'neighbours': {
      'generated': firsts.images[:, None],
      'nearest training images': dataset.train.images[nearest],
    },
    'interpolation': {
      'from one latent to another': _interpolate(session, info, variables)
    },
  }
  for name, images in panels.items():
    picture = figures.grid(dataset.class_names, images)
    files.write_atomically(session.path('score', f'{name}.png'), picture)


def _interpolate(session, info, variables, count=10):
  """Images between two latents of each class: uint8 [classes, count, H, W, C]."""
  num_classes = info.num_classes
  keys = rng.example_keys(rng.stream_key(0, 'show', step=1), jnp.arange(2))
  first, last = sampling.draw_latents(keys, session.config.gan.latent_dim)
  # Along an arc, so that the latents between are as long as those that were trained on.
  angle = jnp.linspace(0, jnp.pi / 2, count)[:, None]
  latents = jnp.tile(jnp.cos(angle) * first + jnp.sin(angle) * last, (num_classes, 1))
  labels = jnp.repeat(jnp.arange(num_classes), count)
  render = jax.jit(gan_training.make_render(session, info))
  images = render(jax.device_get(variables), latents, labels)
  pixels = np.asarray(device_data.to_pixels(images))
  return pixels.reshape(num_classes, count, *pixels.shape[1:])
