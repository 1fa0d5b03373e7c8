"""The GAN of a run: trained into gan/, frozen, loaded, drawn from."""

import dataclasses
import functools
import json

from clu import parameter_overview
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax import (
  checkpoint,
  config as config_lib,
  fitting,
  gan,
  loop,
  losses,
  pictures,
  rng,
  sampler,
)
from gan_aug_jax.checkpoint import UnreadableGenerator
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.models import discriminators, generators
from gan_aug_jax.workdir import describe_data, read_result


@dataclasses.dataclass(frozen=True)
class FrozenGenerator:
  """A generator to draw from.

  Attributes:
    sample: `(variables, keys [B], labels [B]) -> images`, see `sampler`.
    variables: its variables, on the devices.
    info: what it was trained on and how long: fingerprint, steps, seconds.
  """

  sample: object
  variables: dict
  info: dict


def train_gan(session, dataset):
  """Trains the GAN, or goes on, or finds it finished.

  Args:
    session: the run's.
    dataset: what to train on; only its training split is read.

  Returns:
    The `FrozenGenerator`.
  """
  directory, info = session.path('gan'), describe_data(dataset)
  finished = read_result(directory / 'result.json')
  if finished:
    try:
      generator = _load_generator(session, info)
    except UnreadableGenerator:
      with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
        checkpoints.set_aside(finished['num_steps'])
    else:
      _write_samples(session, dataset, generator)
      return generator
  config = session.config.gan
  seed = config_lib.seed_of(session.config, 'gan')
  num_steps = config_lib.num_steps_of(session.config, 'gan', len(dataset.train))
  plain = _build_generator(session, info)
  freeze = gan.make_freeze(
    plain, latent_dim=config.latent_dim, num_classes=dataset.num_classes
  )
  sample = make_sampler(session, info)
  draw = _make_grid_sampler(dataset.num_classes, sample)

  def frozen(state):
    local = jax.tree.map(np.asarray, (state.ema, state.generator_stats))
    return session.layout.place(freeze(*local, seed))

  def write_grid(step, state):
    grid = draw(frozen(state), 8)
    if jax.process_index() == 0:
      picture = pictures.sample_grid(dataset.class_names, grid)
      loop.write_atomically(directory / 'samples' / f'{step:07d}.png', picture)
    return {}

  step, state = make_step(session, dataset)
  fitted = fitting.fit(
    session,
    directory,
    'GAN',
    step=step,
    state=state,
    num_steps=num_steps,
    count=config.batch_size,
    feed=fitting.make_feed(session, dataset),
    fingerprint=dataset.fingerprint,
    evaluate=write_grid,
    evaluate_at_saves=True,
    freeze=frozen,
  )
  variables = fitted.frozen
  result = {
    'fingerprint': dataset.fingerprint,
    'arch': config.arch,
    'seed': seed,
    'num_steps': num_steps,
    'num_params': int(parameter_overview.count_parameters(variables['params'])),
    'train_seconds': fitted.host['train_seconds'],
    'compile_seconds': fitted.host['compile_seconds'],
    'eval_seconds': fitted.host['eval_seconds'],
    'steps_per_call': fitted.host['steps_per_call'],
    'peak_bytes': fitted.host['peak_bytes'],
    'step_ms_median': loop.median_step_ms(fitted.rows),
  }
  generator = FrozenGenerator(sample, variables, result)
  _write_samples(session, dataset, generator)
  if jax.process_index() == 0:
    loop.write_atomically(directory / 'result.json', json.dumps(result, indent=1))
  return generator


def _write_samples(session, dataset, generator):
  """gan/samples.png, unless it is there: real images and the generator's first draws."""
  path = session.path('gan', 'samples.png')
  if path.exists() or jax.process_index():
    return
  draw = _make_grid_sampler(dataset.num_classes, generator.sample)
  grid = draw(generator.variables, 8)
  picture = pictures.sample_grid(dataset.class_names, grid, _real_examples(dataset, 8))
  loop.write_atomically(path, picture)


def _real_examples(dataset, count):
  """The first `count` training images of each class: uint8 [classes, count, H, W, C]."""
  train = dataset.train
  shape = (count, *dataset.image_shape)
  chosen = [train.images[train.labels == c][:count] for c in range(dataset.num_classes)]
  return np.stack([np.resize(images, shape) for images in chosen])


def make_step(session, dataset):
  """Returns the GAN's step and initial state."""
  config, info = session.config.gan, describe_data(dataset)
  generator = _build_generator(session, info, axis_name=session.layout.axis_name)
  discriminator = discriminators.build_discriminator(
    config.arch,
    num_classes=dataset.num_classes,
    width=config.width,
    dtype=session.dtype('gan'),
  )
  adam = optax.adam(config.learning_rate, config.beta1, config.beta2)
  discriminator_loss, generator_loss = losses.make_gan_losses(
    config.loss, real_label=config.real_label
  )
  step = gan.make_gan_step(
    generator=generator,
    discriminator=discriminator,
    generator_tx=adam,
    discriminator_tx=adam,
    discriminator_loss=discriminator_loss,
    generator_loss=generator_loss,
    layout=session.layout,
    batch_size=config.batch_size,
    latent_dim=config.latent_dim,
    ema_decay=config.ema_decay,
    dtype=session.image_dtype('gan'),
  )
  state = gan.init_gan(
    generator,
    discriminator,
    generator_tx=adam,
    discriminator_tx=adam,
    seed=config_lib.seed_of(session.config, 'gan'),
    latent_dim=config.latent_dim,
  )
  return step, state


def _build_generator(session, info, *, part='gan', axis_name=None):
  config = session.config
  return generators.build_generator(
    config.gan.arch,
    image_shape=tuple(info['image_shape']),
    num_classes=len(info['class_names']),
    width=config.gan.width,
    axis_name=axis_name,
    dtype=session.dtype(part),
  )


def load_generator(session, dataset):
  """Loads the frozen generator of a working directory.

  Args:
    session: the run's.
    dataset: the `Dataset` it was trained on.

  Raises:
    CheckpointError: if there is no finished GAN, or it was trained on other images.
  """
  return _load_generator(session, describe_data(dataset))


def _load_generator(session, info):
  directory = session.path('gan')
  result = read_result(directory / 'result.json')
  if not result:
    raise CheckpointError(
      f'There is no trained generator in {str(session.workdir)!r}; run train-gan with '
      'the same --config and --workdir first, or set --config.mix.ratio=0.'
    )
  if result['fingerprint'] != info['fingerprint']:
    raise CheckpointError(
      f'The generator in {str(session.workdir)!r} was trained on other images and may '
      'have seen some of the test split; train one in another --workdir.'
    )
  config = session.config.gan
  generator = _build_generator(session, info)  # of the type it was saved in
  shapes = jax.eval_shape(
    functools.partial(generator.init, train=False),
    rng.stream_key(0, 'gan_init'),
    jax.ShapeDtypeStruct((1, config.latent_dim), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  variables = {name: shapes.get(name, {}) for name in ('params', 'batch_stats')}
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    variables = checkpoints.restore_generator(variables, session.layout.replicated)
  return FrozenGenerator(make_sampler(session, info), variables, result)


def make_sampler(session, info):
  """Returns the config's `sample(variables, keys, labels)`, see `sampler`.

  Args:
    session: the run's.
    info: {'image_shape', 'class_names'}, see `workdir.describe_data`.
  """
  generator = _build_generator(session, info, part='sampler')
  return sampler.make_sampler(generator, session.config.gan.latent_dim)


def write_samples(session, info, seed, per_class=10):
  """Draws a grid of images by class into samples-SEED.png.

  Args:
    session: the run's.
    info: the 'data' of config.json.
    seed: of the draw.
    per_class: images a class.

  Returns:
    The path of the picture.
  """
  generator = _load_generator(session, info)
  draw = _make_grid_sampler(len(info['class_names']), generator.sample)
  path = session.path(f'samples-{seed}.png')
  images = draw(generator.variables, per_class, seed)
  loop.write_atomically(path, pictures.sample_grid(info['class_names'], images))
  return path


def _make_grid_sampler(num_classes, sample):
  """Returns `draw(variables, n, seed=0) -> images uint8 [classes, n, H, W, C]`."""
  draw = jax.jit(sample)

  def grid(variables, n, seed=0):
    numbers = jnp.arange(num_classes * n)
    keys = rng.example_keys(rng.stream_key(seed, 'show'), numbers)
    # On this process's own device, whatever the run is spread over.
    images = np.asarray(draw(jax.device_get(variables), keys, numbers // n), np.float64)
    images = np.rint((images + 1) * 127.5).astype(np.uint8)
    return images.reshape(num_classes, n, *images.shape[1:])

  return grid
