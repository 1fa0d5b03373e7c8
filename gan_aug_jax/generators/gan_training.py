"""Trains the GANs of a run, and chooses which of their generators are kept."""

import dataclasses
import functools
import json
import logging
import math

from clu import parameter_overview
import jax
from jax.experimental import multihost_utils
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.evaluation import figures
from gan_aug_jax.evaluation.image_sampler import ImageSampler, stack_by_class
from gan_aug_jax.generators import build, candidates, frozen, samples
from gan_aug_jax.generators.freezing import Freeze
from gan_aug_jax.generators.selection import Selection
from gan_aug_jax.step import gan as gan_lib, plans
from gan_aug_jax.training import checkpoint, files, loop, spec, tensorboard

_LOG = logging.getLogger('gan_aug_jax')
_KEPT = ('train_seconds', 'compile_seconds', 'eval_seconds', 'steps_per_call')
_KEPT += ('peak_bytes',)


class GanTraining:
  """The training of a run's GANs."""

  def __init__(self, session, dataset):
    """Prepares the programs, which are compiled when they are used or by `start`.

    Args:
      session, dataset: the run's; the test split is not read.

    Raises:
      ConfigError: if `generator.checkpoints` names a step at which nothing is saved.
    """
    self._session, self._dataset = session, dataset
    self._info, self._gans = dataset.facts, frozen.gans_of(session)
    self._num_steps = config_lib.num_steps_of(
      session.config, 'generator', len(dataset.train)
    )
    self._has_choice = num_candidates(session, self._num_steps) > 1
    _check_steps(session.config, _cadence_of(session, self._num_steps))
    self._freeze = Freeze(session, self._info)
    self._sample = build.make_sampler(session, self._info)
    self._draw = ImageSampler(session, self._sample, dataset.num_classes)
    self._said = set()  # warnings, each said once

  @functools.cached_property
  def training(self) -> spec.Training:
    """The first GAN's; the others' differ only in their seeds."""
    session, config = self._session, self._session.config
    step, init = build.make_step(session, self._info)
    plan = plans.plan_batch(config.generator.batch_size, ratio=0.0, mode='replace')
    return spec.make_training(
      session,
      step,
      init=init,
      seed=self._gans[0].seed,
      batches=spec.make_batches(
        session, self._dataset.train, plan, substeps=config.gan.d_steps
      ),
      cadence=_cadence_of(session, self._num_steps),
    )

  @functools.cached_property
  def _scores(self):
    directory = self._gans[0].directory
    return candidates.Scores(
      self._session, directory, self._dataset, self._sample, self._draw
    )

  def start(self) -> None:
    """Compiles in threads what is needed, unless every GAN is trained already."""
    if all(gan.read_result() for gan in self._gans):
      return
    shapes = build.network_shapes(self._session, self._info)
    generator = self._session.layout.replicated_shapes(shapes['generator'])
    self.training.start()
    self._freeze.start(generator)
    self._draw.start(generator)
    if self._has_choice:
      self._scores.start(generator)

  def operations(self) -> float:
    """Of the trainings that are left, see `spec.Training.operations`."""
    left = sum(not gan.read_result() for gan in self._gans)
    return left and left * self.training.operations()

  def train(self) -> frozen.FrozenGenerator:
    """Trains each GAN that is not finished, from where it stopped, and loads them all."""
    for gan in self._gans:
      if not self._is_finished(gan):
        self._train(gan)
    generator = frozen.load_generator(self._session, self._info)
    self._write_samples(generator.members)
    return generator

  def _is_finished(self, gan):
    """Whether a GAN is trained and can be read; sets a damaged checkpoint aside."""
    if not (result := gan.read_result()):
      return False
    try:
      frozen.load_networks(gan, self._info)
    except checkpoint.UnreadableGenerator:
      with checkpoint.Checkpoints(gan.directory / 'checkpoints') as checkpoints:
        checkpoints.set_aside(result['num_steps'])
      path = gan.directory / 'result.json'
      frozen.on_first_process(lambda: path.unlink(missing_ok=True))
      return False
    return True

  def _train(self, gan):
    directory = gan.directory
    selection = Selection(
      gan.session.config.generator.select,
      self._freeze,
      functools.partial(self._score_and_show, directory),
      steps=filter(None, gan.steps),
      shapes=build.network_shapes(gan.session, self._info),
    )
    training = dataclasses.replace(self.training, session=gan.session, seed=gan.seed)
    name = 'GAN' if directory.name == 'gan' else directory.name
    trained = loop.train(training, directory, name, selection)
    if gan.session.config.log.tensorboard and jax.process_index() == 0:
      pictures = sorted((directory / 'samples').glob('*.png'))
      tensorboard.write_samples(directory / 'tensorboard', pictures)
    content = json.dumps(self._result(gan, selection, trained), indent=1)
    path = directory / 'result.json'
    frozen.on_first_process(lambda: files.write_atomically(path, content))

  def _result(self, gan, selection, trained):
    """The content of result.json."""
    config, count = gan.session.config, parameter_overview.count_parameters
    return {
      'fingerprint': self._dataset.fingerprint,
      'arch': config.gan.arch,
      'seed': gan.seed,
      'num_steps': self._num_steps,
      'num_params': int(count(trained.state.generator)),
      'num_discriminator_params': int(count(trained.state.discriminator)),
      'select': config.generator.select,
      'chosen_step': selection.chosen['step'],
      'candidates': selection.history,
      'kept': sorted(selection.kept),
      'networks': ['generator', 'discriminator'],  # of each that is kept
      'warnings': candidates.warnings(
        trained.rows,
        selection.history,
        self._num_steps,
        chosen_step=selection.chosen['step'],
      ),
      **{name: getattr(trained.progress, name) for name in _KEPT},
      'step_ms_median': files.median_step_ms(trained.rows),
    }

  def _score(self, generator, *, is_only):
    """The scores of a candidate, and the images that they are of."""
    drawn = self._draw(generator, 50 * self._dataset.num_classes)
    return self._scores(generator, drawn, is_only=is_only), drawn

  def _score_and_show(self, directory, step, networks):
    """Scores the candidate of a step, draws a picture of it, and warns."""
    names = self._dataset.class_names
    scores, drawn = self._score(networks['generator'], is_only=not self._has_choice)
    if jax.process_index() == 0:
      images = stack_by_class(drawn, len(names))[:, :8]
      picture = figures.grid(names, {'generated': images})
      files.write_atomically(directory / 'samples' / f'{step:07d}.png', picture)
    rows, last = files.read_metrics(directory / 'metrics.jsonl'), {'step': step, **scores}
    for warning in candidates.warnings(rows, [last], self._num_steps):
      if (directory, warning) not in self._said:
        _LOG.warning('%s: %s', directory.name, warning)
      self._said.add((directory, warning))
    return scores

  def rehearse_choice(self, state: gan_lib.GanState) -> float:
    """Freezes and scores a state's generator, to be timed; writes nothing.

    Returns:
      The seconds of it in which a probe was trained.
    """
    self._score(self._freeze(state)['generator'], is_only=False)
    return self._scores.probe_seconds

  def _write_samples(self, members):
    """Writes gan/samples.png, unless it is there: first draws next to real images."""
    path = self._session.path('gan', 'samples.png')
    # All processes draw or none does.
    if np.all(multihost_utils.process_allgather(np.int32(path.exists()))):
      return
    drawn = {
      'generated' if len(members) == 1 else m.name: self._draw.by_class(m.variables, 8)
      for m in members
    }
    if jax.process_index() == 0:
      files.write_atomically(path, samples.next_to_real(self._dataset, drawn))


def _cadence_of(session, num_steps):
  """The `spec.Cadence` of a GAN: a candidate for each thousand steps, five at most.

  Each takes as long as some hundreds of steps: freezing, drawing, training a probe.
  """
  saves = min(max(num_steps // 1000, 1), 5)
  cadence = spec.make_cadence(session.config, 'generator', num_steps, saves=saves)
  return dataclasses.replace(cadence, eval_every=cadence.save_every)


def num_candidates(session, num_steps) -> int:
  """The number of generators that a GAN's training of `num_steps` chooses from."""
  return math.ceil(num_steps / _cadence_of(session, num_steps).save_every)


def _check_steps(config, cadence):
  num_steps, every = cadence.num_steps, cadence.save_every
  for _, step in config_lib.members_of(config):
    if step > num_steps or (step % every and step != num_steps):
      raise ConfigError(
        f'generator.checkpoints names step {step}, but the GAN is saved at multiples of '
        f'{every} (see generator.save_every_steps) and at {num_steps}; name one of these.'
      )
