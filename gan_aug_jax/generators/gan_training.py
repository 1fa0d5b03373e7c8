"""The GANs of a run: trained into gan/, chosen, frozen, loaded, drawn from."""

from collections.abc import Callable
import copy
import dataclasses
import functools
import json
import logging
import math
import pathlib

from clu import parameter_overview
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.evaluation import figures, probe
from gan_aug_jax.generators import candidates
from gan_aug_jax.generators.selection import Selection
from gan_aug_jax.models import discriminators, generators
from gan_aug_jax.step import augment, gan, losses, plans, rng, sampling
from gan_aug_jax.step.programs import Program, repeat_step
from gan_aug_jax.training import checkpoint, fitting, loop, tensorboard
from gan_aug_jax.training.checkpoint import UnreadableGenerator
from gan_aug_jax.training.workdir import describe_data, read_result

_LOG = logging.getLogger('gan_aug_jax')
_SECONDS = ('train_seconds', 'compile_seconds', 'eval_seconds')
_KEPT = (*_SECONDS, 'steps_per_call', 'peak_bytes')


@dataclasses.dataclass(frozen=True)
class FrozenGenerator:
  """What the fused step draws from: one generator, or several stacked.

  Attributes:
    sample: `(variables, keys [B, ...], labels [B]) -> images`, see `sampling`.
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
class _Member:
  """One GAN of the run: its session, with the seed set; its directory; the steps kept."""

  session: object
  directory: object
  steps: tuple


def _members(session):
  """The GANs that are drawn from; the first one is in gan/, the others in gan-seedN/."""
  steps = {}
  for seed, step in config_lib.members_of(session.config):
    steps.setdefault(seed, []).append(step)
  members = []
  for seed, wanted in steps.items():
    config = copy.deepcopy(session.config)
    config.gan.seed = seed
    directory = session.path(f'gan-seed{seed}' if members else 'gan')
    one = dataclasses.replace(session, config=config)
    members.append(_Member(one, directory, tuple(filter(None, wanted))))
  return members


class GanTraining:
  """The GANs of a run: what their training takes, and the training itself."""

  def __init__(self, session, dataset):
    """Prepares the programs, which are compiled when they are used, or by `start`.

    Args:
      session: the run's.
      dataset: what to train on; its test split is not read.

    Raises:
      ConfigError: if `sampler.checkpoints` asks for a step that is not saved.
    """
    self._session, self._dataset = session, dataset
    self._info = describe_data(dataset)
    self._members = _members(session)
    num_steps = config_lib.num_steps_of(session.config, 'gan', len(dataset.train))
    self._cadence = cadence_of(session, num_steps)
    self._num_candidates = num_candidates(session, num_steps)
    _check_steps(session.config, self._cadence)

  @functools.cached_property
  def training(self):
    """The `fitting.Training` of the first GAN; the others' differ in their seeds."""
    step, init = make_step(self._session, self._info)
    return fitting.make_training(
      self._session,
      step,
      init=init,
      seed=config_lib.seed_of(self._session.config, 'gan'),
      feed=make_feed(self._session, self._dataset),
      cadence=self._cadence,
    )

  @functools.cached_property
  def _freeze(self):
    return Freeze(self._session, self._info)

  @functools.cached_property
  def _draw(self):
    sample = make_sampler(self._session, self._info)
    return probe.Draw(self._session, sample, self._dataset.num_classes)

  @functools.cached_property
  def _scores(self):
    return candidates.Scores(
      self._session,
      self._members[0].directory,
      self._dataset,
      make_sampler(self._session, self._info),
      self._draw,
    )

  def start(self):
    """Compiles in threads what is needed to train what is not finished."""
    if all(_read_result(member.directory) for member in self._members):
      return
    shapes = _shapes(self._session, self._info)
    variables = self._session.layout.shapes(shapes['generator'])
    self.training.start()
    self._freeze.start(variables)
    self._draw.start(variables)
    if self._num_candidates > 1:
      self._scores.start(variables)

  def train(self):
    """Trains every GAN that is drawn from, or goes on, or finds it finished.

    Returns:
      The `FrozenGenerator`.
    """
    for member in self._members:
      self._train(member)
    generator = load_generator(self._session, self._info)
    self._write_samples(generator)
    return generator

  def _train(self, member):
    """Trains one GAN into its directory, unless it is finished and can be read."""
    session, directory, dataset = member.session, member.directory, self._dataset
    if finished := _read_result(directory):
      try:
        _load(member, self._info)
      except UnreadableGenerator:
        with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
          checkpoints.set_aside(finished['num_steps'])
        finish_on_all(lambda: (directory / 'result.json').unlink(missing_ok=True))
      else:
        return
    config, num_steps = session.config, self._cadence.num_steps
    seed = config_lib.seed_of(config, 'gan')
    selection = Selection(
      config.gan.select,
      functools.partial(self._freeze, seed=seed),
      functools.partial(self._score, directory),
      member.steps,
    )
    training = dataclasses.replace(self.training, seed=seed)
    fitted = fitting.fit(
      session,
      directory,
      'GAN' if directory.name == 'gan' else directory.name,
      training,
      fingerprint=dataset.fingerprint,
      selection=selection,
      generator_shapes=_shapes(session, self._info),
    )
    state = fitted.state
    result = {
      'fingerprint': dataset.fingerprint,
      'arch': config.gan.arch,
      'seed': seed,
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
      **{name: fitted.host[name] for name in _KEPT},
      'step_ms_median': loop.median_step_ms(fitted.rows),
    }
    if config.log.tensorboard and jax.process_index() == 0:
      samples = sorted((directory / 'samples').glob('*.png'))
      tensorboard.write_samples(directory / 'tensorboard', samples)
    content = json.dumps(result, indent=1)
    finish_on_all(lambda: loop.write_atomically(directory / 'result.json', content))

  def _score(self, directory, step, kept):
    """Scores a candidate, and draws a grid of it."""
    variables, dataset = kept['generator'], self._dataset
    drawn = self._draw(variables, 50 * dataset.num_classes)
    if jax.process_index() == 0:
      images = probe.group(drawn, dataset.num_classes)[:, :8]
      picture = figures.grid(dataset.class_names, {'generated': images})
      loop.write_atomically(directory / 'samples' / f'{step:07d}.png', picture)
    found = self._scores(variables, drawn, is_only=self._num_candidates == 1)
    rows = loop.read_metrics(directory / 'metrics.jsonl')
    last, num_steps = {'step': step, **found}, self._cadence.num_steps
    for warning in candidates.warnings(rows, last, num_steps):
      _LOG.warning('%s: %s', directory.name, warning)
    return found

  def consider(self, state):
    """Does what is done for a candidate, and writes nothing.

    Returns:
      The seconds of it in which a probe was trained.
    """
    variables = self._freeze(state, 0)['generator']
    self._scores(variables, self._draw(variables, 50 * self._dataset.num_classes))
    return self._scores.probe_seconds

  def _write_samples(self, generator):
    """gan/samples.png, unless it is there: real images and first draws."""
    path, dataset = self._session.path('gan', 'samples.png'), self._dataset
    # All processes draw or none does.
    if np.all(multihost_utils.process_allgather(np.int32(path.exists()))):
      return
    panels = {'real': real_examples(dataset, 8)}
    for name, variables in generator.members.items():
      drawn = self._draw.by_class(variables, 8)
      panels['generated' if len(generator.members) == 1 else name] = drawn
    if jax.process_index() == 0:
      loop.write_atomically(path, figures.grid(dataset.class_names, panels))


class Freeze:
  """Makes a frozen generator of a state: `freeze(state, seed) -> variables`, placed."""

  _BATCHES = 64  # of what was there before, as many updates at 0.9 leave 0.1 %

  def __init__(self, session, info):
    """Prepares the program, which is compiled at the first call, or by `start`."""
    self._layout = layout = session.layout
    measure = gan.make_measure(
      _build_generator(session, info),
      latent_dim=session.config.gan.latent_dim,
      num_classes=len(info['class_names']),
    )
    self._per_call = 1 if layout.on_cpu else self._BATCHES
    repeated = repeat_step(measure, self._per_call)
    self._program = Program(repeated, layout.on_jit, donate=())

  def start(self, variables):
    """Compiles in a thread, for a generator's variables or shapes like these."""
    scalar = self._layout.scalar(0)
    state = (variables['batch_stats'], scalar)
    self._program.start(state, scalar, variables['params'], scalar)

  def __call__(self, state, seed):
    place, scalar = self._layout.place, self._layout.scalar
    # Copies: the step takes the state's own buffers for itself.
    params, stats, discriminator = jax.tree.map(
      np.asarray,
      (
        state.ema,
        state.generator_stats,
        {'params': state.discriminator, 'spectral': state.discriminator_stats},
      ),
    )
    params, measured = place(params), (place(stats), scalar(0))
    for _ in range(0, self._BATCHES if stats else 0, self._per_call):
      measured, _ = self._program(measured, scalar(self._per_call), params, scalar(seed))
    generator = {'params': params, 'batch_stats': measured[0]}
    return {'generator': generator, 'discriminator': place(discriminator)}


def cadence_of(session, num_steps):
  """The `loop.Cadence` of a GAN: a candidate for each thousand steps, five at most.

  Each takes as long as some hundreds of steps: freezing, drawing, training a probe.
  """
  return fitting.cadence_of(session, num_steps, saves=min(max(num_steps // 1000, 1), 5))


def num_candidates(session, num_steps):
  """Generators that the training of a GAN of that many steps chooses from."""
  return math.ceil(num_steps / cadence_of(session, num_steps).save_every)


def _check_steps(config, cadence):
  num_steps, every = cadence.num_steps, cadence.save_every
  for _, step in config_lib.members_of(config):
    if step > num_steps or (step % every and step != num_steps):
      raise ConfigError(
        f'sampler.checkpoints asks for step {step}, at which the GAN is not saved; it is '
        f'at multiples of {every} (see log.save_every_steps) and at {num_steps}.'
      )


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


def real_examples(dataset, count):
  """The first `count` training images of each class: uint8 [classes, count, H, W, C]."""
  train = dataset.train
  shape = (count, *dataset.image_shape)
  chosen = [train.images[train.labels == c][:count] for c in range(dataset.num_classes)]
  return np.stack([np.resize(images, shape) for images in chosen])


def make_step(session, info):
  """Returns the GAN's step and its `init`, `seed -> state`.

  Args:
    session: the run's.
    info: {'image_shape', 'class_names'}, see `workdir.describe_data`.
  """
  config = session.config.gan
  generator = _build_generator(session, info, axis_name=session.layout.axis_name)
  discriminator = _build_discriminator(session, info)
  rates = (config.learning_rate, config.discriminator_learning_rate)
  generator_tx, discriminator_tx = (
    optax.adam(rate or config.learning_rate, config.beta1, config.beta2) for rate in rates
  )
  gan_losses = gan.GanLosses(
    discriminator=discriminator,
    loss=losses.make_gan_loss(config.loss, real_label=config.real_label),
    batch_size=config.batch_size,
    diffaug=augment.make_diffaug(config.diffaug) if config.diffaug else None,
    regularisation=gan.Regularisation(config.r1, config.r2, config.lecam),
  )
  step = gan.make_gan_step(
    generator=generator,
    gan_losses=gan_losses,
    generator_tx=generator_tx,
    discriminator_tx=discriminator_tx,
    layout=session.layout,
    latent_dim=config.latent_dim,
    ema_decay=config.ema_decay,
    d_steps=config.d_steps,
    dtype=session.image_dtype('gan'),
  )
  init = functools.partial(
    gan.init_gan,
    generator=generator,
    discriminator=discriminator,
    generator_tx=generator_tx,
    discriminator_tx=discriminator_tx,
    latent_dim=config.latent_dim,
  )
  return step, init


def make_feed(session, dataset):
  """Returns the `fitting.Feed` of the GAN's step."""
  config = session.config.gan
  plan = plans.plan_batch(config.batch_size, ratio=0.0, mode='replace')
  return fitting.Feed(session, dataset.train, plan, substeps=config.d_steps)


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
      the user's own generator took the GAN's place, see `external`.
  """
  if own := session.config.sampler.generator:
    # Naming a module, a workdir's config must not make a later command run its code.
    raise CheckpointError(
      f'The run in {str(session.workdir)!r} drew from a generator of your own, {own!r}, '
      'and trained no GAN; its samples are in gan/samples.png.'
    )
  members, infos = {}, []
  for member in _members(session):
    kept, result = _load(member, info)
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


def _load(member, info):
  """The kept generators {name: variables} of one GAN, and its result.json."""
  session, directory = member.session, member.directory
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


def shapes_of(session, info):
  """The shapes of the variables that arms draw from: of one GAN, or of several stacked.

  Args:
    session: the run's.
    info: {'image_shape', 'class_names'}, see `workdir.describe_data`.

  Returns:
    {'generator', 'discriminator'}.
  """
  num_members, shapes = len(config_lib.members_of(session.config)), _shapes(session, info)
  if num_members == 1:
    return shapes
  stacked = lambda x: jax.ShapeDtypeStruct((num_members, *x.shape), x.dtype)
  return jax.tree.map(stacked, shapes)


def _shapes(session, info):
  """Shapes of a generator's variables, of the type that they are saved in."""
  number = jax.ShapeDtypeStruct((1,), jnp.int32)
  latent = jax.ShapeDtypeStruct((1, session.config.gan.latent_dim), jnp.float32)
  image = jax.ShapeDtypeStruct((1, *info['image_shape']), jnp.float32)

  def shapes(model, collections, *inputs):
    key = lambda: rng.stream_key(0, 'gan_init')
    init = lambda *inputs: model.init(key(), *inputs, train=False)
    found = jax.eval_shape(init, *inputs, number)
    return {name: found.get(name, {}) for name in collections}

  generator = _build_generator(session, info)
  discriminator = _build_discriminator(session, info)
  return {
    'generator': shapes(generator, ('params', 'batch_stats'), latent),
    'discriminator': shapes(discriminator, ('params', 'spectral'), image),
  }


def make_sampler(session, info, num_members=1, **latents):
  """Returns the config's `sample(variables, keys, labels)`.

  Args:
    session: the run's.
    info: {'image_shape', 'class_names'}, see `workdir.describe_data`.
    num_members: of generators; above 1 their variables are stacked.
    **latents: see `sampling.draw_latents`.
  """
  generator = _build_generator(session, info, part='sampler')
  sample = sampling.make_sampler(generator, session.config.gan.latent_dim, **latents)
  return _of_members(session, sample, num_members)


def make_discriminator_logits(session, info, num_members=1):
  """Like `sampling.make_discriminator_logits`, of the config's discriminators."""
  discriminator = _build_discriminator(session, info, part='sampler')
  logits_of = sampling.make_discriminator_logits(discriminator)
  return _of_members(session, logits_of, num_members)


def _of_members(session, function, num_members):
  if num_members == 1:
    return function
  return sampling.make_ensemble(function, num_members, session.layout)


def make_render(session, info):
  """Returns the config's `render(variables, latents, labels)`, see `sampling`."""
  return sampling.make_render(_build_generator(session, info, part='sampler'))


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
  draw = probe.Draw(session, make_sampler(session, info), len(info['class_names']))
  path = session.path(f'samples-{seed}.png')
  panels = {
    name: draw.by_class(variables, per_class, seed)
    for name, variables in generator.members.items()
  }
  loop.write_atomically(path, figures.grid(info['class_names'], panels))
  return path
