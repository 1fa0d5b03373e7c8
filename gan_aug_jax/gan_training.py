"""The GANs of a run: trained into gan/, chosen, frozen, loaded, drawn from."""

from collections.abc import Callable
import copy
import dataclasses
import functools
import json
import logging
import pathlib

from clu import parameter_overview
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax import (
  augment,
  candidates,
  checkpoint,
  config as config_lib,
  fitting,
  gan,
  loop,
  losses,
  mixing,
  pictures,
  realdata,
  rng,
  sampler,
  tensorboard,
)
from gan_aug_jax.checkpoint import UnreadableGenerator
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.models import discriminators, generators
from gan_aug_jax.selection import Selection
from gan_aug_jax.workdir import describe_data, read_result

_LOG = logging.getLogger('gan_aug_jax')
_SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds')


@dataclasses.dataclass(frozen=True)
class FrozenGenerator:
  """What the fused step draws from: one generator, or several stacked.

  Attributes:
    sample: `(variables, keys [B, ...], labels [B]) -> images`, see `sampler`.
    variables: of one, or stacked, on the devices.
    members: {name: variables} of each.
    info: what it was trained on and how long: fingerprint, steps, seconds, selection.
    discriminator: the variables of the discriminator, or of several stacked.
    directory: where it was read from, and what hangs on it is kept.
  """

  sample: Callable
  variables: dict
  members: dict = dataclasses.field(default_factory=dict)
  info: dict = dataclasses.field(default_factory=dict)
  discriminator: dict = dataclasses.field(default_factory=dict)
  directory: pathlib.Path = pathlib.Path()


@dataclasses.dataclass(frozen=True)
class _Training:
  """One GAN of the run: its session, with the seed set; its directory; the steps kept."""

  session: object
  directory: object
  steps: tuple


def _trainings(session):
  """The GANs that are drawn from; the first one is in gan/, the others in gan-seedN/."""
  steps = {}
  for seed, step in config_lib.members_of(session.config):
    steps.setdefault(seed, []).append(step)
  trainings = []
  for seed, wanted in steps.items():
    config = copy.deepcopy(session.config)
    config.gan.seed = seed
    directory = session.path(f'gan-seed{seed}' if trainings else 'gan')
    one = dataclasses.replace(session, config=config)
    trainings.append(_Training(one, directory, tuple(filter(None, wanted))))
  return trainings


def train_gan(session, dataset):
  """Trains every GAN that is drawn from, or goes on, or finds it finished.

  Args:
    session: the run's.
    dataset: what to train on; its test split is not read.

  Returns:
    The `FrozenGenerator`.

  Raises:
    ConfigError: if `sampler.checkpoints` asks for a step that is not saved.
  """
  _check_steps(session, dataset)
  for training in _trainings(session):
    _train(training, dataset)
  generator = load_generator(session, describe_data(dataset))
  _write_samples(session, dataset, generator)
  return generator


def _check_steps(session, dataset):
  num_steps = config_lib.num_steps_of(session.config, 'gan', len(dataset.train))
  every = fitting.cadence_of(session, num_steps).save_every
  for _, step in config_lib.members_of(session.config):
    if step > num_steps or (step % every and step != num_steps):
      raise ConfigError(
        f'sampler.checkpoints asks for step {step}, at which the GAN is not saved; it is '
        f'at multiples of {every} (see log.save_every_steps) and at {num_steps}.'
      )


def _train(training, dataset):
  """Trains one GAN into its directory, unless it is finished and can be read."""
  session, directory = training.session, training.directory
  info = describe_data(dataset)
  if finished := _read_result(directory):
    try:
      _load(training, info)
    except UnreadableGenerator:
      with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
        checkpoints.set_aside(finished['num_steps'])
      finish_on_all(lambda: (directory / 'result.json').unlink(missing_ok=True))
    else:
      return
  config = session.config
  num_steps = config_lib.num_steps_of(config, 'gan', len(dataset.train))
  selection = _make_selection(training, dataset, num_steps)
  step, state = make_step(session, dataset)
  fitted = fitting.fit(
    session,
    directory,
    'GAN' if directory.name == 'gan' else directory.name,
    step=step,
    state=state,
    num_steps=num_steps,
    feed=make_feed(session, dataset),
    fingerprint=dataset.fingerprint,
    selection=selection,
    generator_shapes=_shapes(session, info),
  )
  result = {
    'fingerprint': dataset.fingerprint,
    'arch': config.gan.arch,
    'seed': config_lib.seed_of(config, 'gan'),
    'num_steps': num_steps,
    'num_params': int(parameter_overview.count_parameters(state.generator)),
    'num_discriminator_params': int(
      parameter_overview.count_parameters(state.discriminator)
    ),
    'select': config.gan.select,
    'chosen_step': selection.chosen['step'],
    'candidates': selection.history,
    'kept': sorted(selection.kept),
    'networks': ['generator', 'discriminator'],  # of each that is kept
    'warnings': candidates.warnings(fitted.rows, selection.chosen, num_steps),
    **{name: fitted.host[name] for name in (*_SECONDS, 'steps_per_call', 'peak_bytes')},
    'step_ms_median': loop.median_step_ms(fitted.rows),
  }
  if config.log.tensorboard and jax.process_index() == 0:
    samples = sorted((directory / 'samples').glob('*.png'))
    tensorboard.write_samples(directory / 'tensorboard', samples)
  content = json.dumps(result, indent=1)
  finish_on_all(lambda: loop.write_atomically(directory / 'result.json', content))


def finish_on_all(action):
  """Does something on process 0 while the others wait for it, as they read it next."""
  if jax.process_index() == 0:
    action()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('gan result')


def _read_result(directory):
  """A GAN's result.json, or None where it is missing, damaged or of an older version."""
  result = read_result(directory / 'result.json')
  needed = {'fingerprint', 'num_steps', 'seed', 'chosen_step', 'kept', 'networks'}
  return result if result and needed <= set(result) else None


def _make_selection(training, dataset, num_steps):
  """Returns the `Selection` of one training; it draws a grid of each candidate too."""
  session, directory = training.session, training.directory
  config, num_classes = session.config, dataset.num_classes
  info = describe_data(dataset)
  measure = gan.make_freeze(
    _build_generator(session, info),
    latent_dim=config.gan.latent_dim,
    num_classes=num_classes,
  )
  sample = make_sampler(session, info)
  scores = candidates.make_scores(session, directory, dataset, sample)
  draw = _make_grid_sampler(session, info)

  def freeze(state):
    local = jax.tree.map(np.asarray, (state.ema, state.generator_stats))
    frozen = measure(*local, config_lib.seed_of(config, 'gan'))
    judge = {'params': state.discriminator, 'spectral': state.discriminator_stats}
    # Copies: the step takes the state's own buffers for itself.
    kept = {'generator': frozen, 'discriminator': jax.tree.map(np.asarray, judge)}
    return session.layout.place(kept)

  def score(step, kept):
    variables = kept['generator']
    if jax.process_index() == 0:
      picture = pictures.grid(dataset.class_names, {'generated': draw(variables, 8)})
      loop.write_atomically(directory / 'samples' / f'{step:07d}.png', picture)
    found = scores(variables)
    rows = loop.read_metrics(directory / 'metrics.jsonl')
    for warning in candidates.warnings(rows, {'step': step, **found}, num_steps):
      _LOG.warning('%s: %s', directory.name, warning)
    return found

  return Selection(config.gan.select, freeze, score, training.steps)


def _write_samples(session, dataset, generator):
  """gan/samples.png, unless it is there: real images and the generators' first draws."""
  path = session.path('gan', 'samples.png')
  if path.exists() or jax.process_index():
    return
  draw = _make_grid_sampler(session, describe_data(dataset))
  panels = {'real': real_examples(dataset, 8)}
  for name, variables in generator.members.items():
    panels['generated' if len(generator.members) == 1 else name] = draw(variables, 8)
  loop.write_atomically(path, pictures.grid(dataset.class_names, panels))


def real_examples(dataset, count):
  """The first `count` training images of each class: uint8 [classes, count, H, W, C]."""
  train = dataset.train
  shape = (count, *dataset.image_shape)
  chosen = [train.images[train.labels == c][:count] for c in range(dataset.num_classes)]
  return np.stack([np.resize(images, shape) for images in chosen])


def make_step(session, dataset):
  """Returns the GAN's step and initial state."""
  config, info = session.config.gan, describe_data(dataset)
  generator = _build_generator(session, info, axis_name=session.layout.axis_name)
  discriminator = _build_discriminator(session, info)
  rates = (config.learning_rate, config.discriminator_learning_rate)
  generator_tx, discriminator_tx = (
    optax.adam(rate or config.learning_rate, config.beta1, config.beta2) for rate in rates
  )
  critic = gan.make_critic(
    discriminator=discriminator,
    loss=losses.make_gan_loss(config.loss, real_label=config.real_label),
    batch_size=config.batch_size,
    diffaug=augment.make_diffaug(config.diffaug) if config.diffaug else None,
    regularisation=gan.Regularisation(config.r1, config.r2, config.lecam),
  )
  step = gan.make_gan_step(
    generator=generator,
    critic=critic,
    generator_tx=generator_tx,
    discriminator_tx=discriminator_tx,
    layout=session.layout,
    batch_size=config.batch_size,
    latent_dim=config.latent_dim,
    ema_decay=config.ema_decay,
    d_steps=config.d_steps,
    dtype=session.image_dtype('gan'),
  )
  state = gan.init_gan(
    generator,
    discriminator,
    generator_tx=generator_tx,
    discriminator_tx=discriminator_tx,
    seed=config_lib.seed_of(session.config, 'gan'),
    latent_dim=config.latent_dim,
  )
  return step, state


def make_feed(session, dataset):
  """Returns the feed of the GAN's step, see `fitting.make_feed`."""
  config = session.config.gan
  plan = mixing.plan_batch(config.batch_size, ratio=0.0, mode='replace')
  return fitting.make_feed(session, dataset, plan, substeps=config.d_steps)


def _build_generator(session, info, *, part='gan', axis_name=None):
  config = session.config
  return generators.build_generator(
    config.gan.arch,
    image_shape=tuple(info['image_shape']),
    num_classes=len(info['class_names']),
    width=config.gan.width,
    axis_name=axis_name,
    dtype=session.dtype(part),
    upsampling=config.gan.upsampling,
  )


def _build_discriminator(session, info, *, part='gan'):
  config = session.config.gan
  return discriminators.build_discriminator(
    config.arch,
    num_classes=len(info['class_names']),
    width=config.width,
    dtype=session.dtype(part),
  )


def load_generator(session, info):
  """Loads the frozen generators of a working directory.

  Args:
    session: the run's.
    info: {'fingerprint', 'image_shape', 'class_names'} of what they were trained on, see
      `workdir.describe_data`.

  Returns:
    The `FrozenGenerator`.

  Raises:
    CheckpointError: if one is not finished, or was trained on other images; or where
      the user's own generator took the GAN's place, see `own_generator`.
  """
  if own := session.config.sampler.generator:
    # Naming a module, a workdir's config must not make a later command run its code.
    raise CheckpointError(
      f'The run in {str(session.workdir)!r} drew from a generator of your own, {own!r}, '
      'and trained no GAN; its samples are in gan/samples.png.'
    )
  members, infos = {}, []
  for training in _trainings(session):
    kept, result = _load(training, info)
    infos.append(result)
    for seed, step in config_lib.members_of(session.config):
      if seed == result['seed']:
        name = f'seed {seed}, step {step or result["chosen_step"]}'
        members[name] = kept[f'step{step}' if step else 'chosen']
  seconds = {name: sum(result[name] for result in infos) for name in _SECONDS}
  warnings = [
    warning if len(infos) == 1 else f'seed {result["seed"]}: {warning}'
    for result in infos
    for warning in result['warnings']
  ]
  about = infos[0] | seconds | {'members': list(members), 'warnings': warnings}
  generators = {name: kept['generator'] for name, kept in members.items()}
  if len(members) == 1:
    (kept,) = members.values()
  else:
    stacked = jax.tree.map(lambda *x: np.stack(x), *jax.device_get([*members.values()]))
    kept = session.layout.place(stacked)
  sample = make_sampler(session, info, len(members))
  return FrozenGenerator(
    sample,
    kept['generator'],
    generators,
    about,
    kept['discriminator'],
    session.path('gan'),
  )


def _load(training, info):
  """The kept generators {name: variables} of one training, and its result.json."""
  session, directory = training.session, training.directory
  result = _read_result(directory)
  if not result:
    raise CheckpointError(
      f'There is no trained generator in {str(directory)!r}; run train-gan with the same '
      '--config and --workdir first, or set --config.mix.ratio=0.'
    )
  if result['fingerprint'] != info['fingerprint']:
    raise CheckpointError(
      f'The generator in {str(directory)!r} was trained on other images and may have '
      'seen some of the test split; train one in another --workdir.'
    )
  shapes = dict.fromkeys(result['kept'], _shapes(session, info))
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    replicated = session.layout.replicated
    return checkpoints.restore_generators(result['num_steps'], shapes, replicated), result


def _shapes(session, info):
  """Shapes of a generator's variables, of the type that they are saved in."""
  number = jax.ShapeDtypeStruct((1,), jnp.int32)
  latent = jax.ShapeDtypeStruct((1, session.config.gan.latent_dim), jnp.float32)
  image = jax.ShapeDtypeStruct((1, *info['image_shape']), jnp.float32)

  def shapes(model, collections, *inputs):
    init = functools.partial(model.init, train=False)
    found = jax.eval_shape(init, rng.stream_key(0, 'gan_init'), *inputs, number)
    return {name: found.get(name, {}) for name in collections}

  generator, judge = _build_generator(session, info), _build_discriminator(session, info)
  return {
    'generator': shapes(generator, ('params', 'batch_stats'), latent),
    'discriminator': shapes(judge, ('params', 'spectral'), image),
  }


def make_sampler(session, info, num_members=1, **latents):
  """Returns the config's `sample(variables, keys, labels)`.

  Args:
    session: the run's.
    info: {'image_shape', 'class_names'}, see `workdir.describe_data`.
    num_members: of generators; above 1 their variables are stacked.
    **latents: see `sampler.draw_latents`.
  """
  generator = _build_generator(session, info, part='sampler')
  sample = sampler.make_sampler(generator, session.config.gan.latent_dim, **latents)
  return _of_members(session, sample, num_members)


def make_judge(session, info, num_members=1):
  """Returns the discriminators' `judge(variables, images, labels)`, see `sampler`."""
  discriminator = _build_discriminator(session, info, part='sampler')
  return _of_members(session, sampler.make_judge(discriminator), num_members)


def _of_members(session, function, num_members):
  if num_members == 1:
    return function
  return sampler.make_ensemble(function, num_members, session.layout)


def make_render(session, info):
  """Returns the config's `render(variables, latents, labels)`, see `sampler`."""
  return sampler.make_render(_build_generator(session, info, part='sampler'))


def write_samples(session, info, seed, per_class=10):
  """Draws a grid of images by class into samples-SEED.png.

  Args:
    session: the run's.
    info: the 'data' of config.json.
    seed: of the draw.
    per_class: images a class, of each generator.

  Returns:
    The path of the picture.
  """
  generator = load_generator(session, info)
  draw = _make_grid_sampler(session, info)
  path = session.path(f'samples-{seed}.png')
  panels = {
    name: draw(variables, per_class, seed)
    for name, variables in generator.members.items()
  }
  loop.write_atomically(path, pictures.grid(info['class_names'], panels))
  return path


@functools.cache
def _compiled_sampler(generator, latent_dim):
  return jax.jit(sampler.make_sampler(generator, latent_dim))


def _make_grid_sampler(session, info):
  """Returns `draw(variables, n, seed=0) -> images uint8 [classes, n, H, W, C]`."""
  generator = _build_generator(session, info, part='sampler')
  draw = _compiled_sampler(generator, session.config.gan.latent_dim)
  num_classes = len(info['class_names'])

  def grid(variables, n, seed=0):
    numbers = jnp.arange(num_classes * n)
    keys = rng.example_keys(rng.stream_key(seed, 'show'), numbers)
    # On this process's own device, whatever the run is spread over.
    images = draw(jax.device_get(variables), keys, numbers // n)
    images = np.asarray(realdata.to_pixels(images))
    return images.reshape(num_classes, n, *images.shape[1:])

  return grid
