"""Trains the generators of a run, and chooses which of them are kept."""

import dataclasses
import functools
import json
import logging
import math
import time

from clu import parameter_overview
import jax

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.evaluation import figures
from gan_aug_jax.evaluation.image_sampler import ImageSampler, stack_by_class
from gan_aug_jax.generators import candidates, families, fitted, frozen, samples
from gan_aug_jax.generators.family import Family
from gan_aug_jax.generators.freezing import Freeze
from gan_aug_jax.generators.selection import Selection
from gan_aug_jax.step import plans
from gan_aug_jax.training import (
  checkpoint,
  files,
  loop,
  processes,
  progress,
  spec,
  tensorboard,
)
from gan_aug_jax.training.progress import format_count

_LOG = logging.getLogger('gan_aug_jax')
_KEPT = (*loop.SECONDS, 'steps_per_call', 'peak_bytes')


class GeneratorTraining:
  """The training of a run's generators.

  Attributes:
    family: the `Family` that they are of.
    num_steps: length of a training; 0 if the generator is made at once.
    num_candidates: the number of checkpoints that it chooses from.
  """

  def __init__(self, session, dataset):
    """Prepares the programs, which are compiled when they are used or by `start`.

    Args:
      session, dataset: the run's; the test split is not read.

    Raises:
      ConfigError: see `check`.
    """
    self._session, self._dataset = session, dataset
    self._trainings = frozen.trainings_of(session)
    self.family, self._cadence = check(session, dataset)
    self.num_steps = self.num_candidates = 0
    if self._cadence:
      self.num_steps, every = self._cadence.num_steps, self._cadence.save_every
      self.num_candidates = math.ceil(self.num_steps / every) - self._after // every
    self._has_choice = self.num_candidates > 1
    self._freeze = Freeze(session, self.family)
    sample = self.family.make_sampler()
    self._draw = ImageSampler(session, sample, dataset.num_classes)
    self._said = set()  # warnings, each said once

  @property
  def _after(self):
    """Last step of an earlier stage, whose checkpoints are not candidates."""
    return self.family.last_step[0] if self.family.last_step else 0

  @functools.cached_property
  def training(self) -> spec.Training:
    """That of the first seed; the others' differ only in their seeds."""
    session, family = self._session, self.family
    batch_size = session.config.generator.batch_size
    plan = plans.plan_batch(batch_size, ratio=0.0, mode='replace')
    return spec.make_training(
      session,
      family.step,
      last_step=family.last_step,
      init=family.init,
      seed=self._trainings[0].seed,
      batches=spec.make_batches(
        session, self._dataset.train, plan, substeps=family.substeps
      ),
      cadence=self._cadence,
    )

  @functools.cached_property
  def _scores(self):
    directory = self._trainings[0].directory
    return candidates.Scores(self._session, directory, self._dataset, self._draw)

  def describe(self) -> str:
    """Such as '1 generator (sngan GAN, 1,500 steps, the best of 2 checkpoints)'."""
    what = self.family.title
    if not self.family.fit:
      what += f', {format_count(self.num_steps, "step")}'
      best = 'last' if self._session.config.generator.select == 'last' else 'best'
      what += f', the {best} of {self.num_candidates} checkpoints' * self._has_choice
    return f'{format_count(len(self._trainings), "generator")} ({what})'

  def start(self) -> None:
    """Compiles in threads what is needed, unless every generator is trained already."""
    if not self.num_left or self.family.fit:
      return
    shapes = self.family.shapes()['generator']
    generator = self._session.layout.replicated_shapes(shapes)
    self.training.start()
    self._freeze.start(generator)
    self._draw.start(generator)
    if self._has_choice:
      self._scores.start()

  def operations(self) -> float:
    """Of the trainings that are left, with the choice of a checkpoint; compiles nothing.

    See `spec.Training.operations`.
    """
    left = self.num_left if self.num_steps else 0
    if not left:
      return 0.0
    each = self.training.operations()
    if self._has_choice:
      generator = self._session.layout.replicated_shapes(
        self.family.shapes()['generator']
      )
      each += self.num_candidates * self._scores.operations(generator)
    return left * each

  @property
  def num_left(self) -> int:
    """How many are not trained yet."""
    return sum(not training.read_result() for training in self._trainings)

  def train(self) -> frozen.FrozenGenerator:
    """Trains each that is not finished, from where it stopped, and loads them all."""
    for training in self._trainings:
      if not self._is_finished(training):
        make = self._fit if self.family.fit else self._train
        content = json.dumps(make(training), indent=1)
        path = training.directory / 'result.json'
        write = functools.partial(files.write_atomically, path, content)
        processes.on_first(write)
    generator = frozen.load_generator(self._session, self._dataset.facts)
    self._write_samples(generator.members)
    return generator

  def _is_finished(self, training):
    """Whether one is trained and can be read; sets a damaged checkpoint aside."""
    if not (result := training.read_result()):
      return False
    try:
      frozen.load_networks(training, self.family, self._dataset.facts)
    except checkpoint.UnreadableGenerator:
      if not self.family.fit:
        with checkpoint.Checkpoints(training.directory / 'checkpoints') as checkpoints:
          checkpoints.set_aside(result['num_steps'])
      processes.on_first(lambda: _forget(training.directory))
      return False
    return True

  def _train(self, seed_training):
    """Trains a generator in steps; returns the content of its result.json."""
    config, directory = seed_training.session.config, seed_training.directory
    if not directory.exists():
      self._check_untrained()
    selection = Selection(
      config.generator.select,
      functools.partial(self._freeze, seed=seed_training.seed),
      functools.partial(self._score_and_show, directory),
      steps=filter(None, seed_training.steps),
      after=self._after,
      shapes=self.family.shapes(),
    )
    training = dataclasses.replace(
      self.training, session=seed_training.session, seed=seed_training.seed
    )
    trained = loop.train(training, directory, directory.name, selection)
    if config.log.tensorboard and jax.process_index() == 0:
      pictures = sorted((directory / 'samples').glob('[0-9]*.png'))
      tensorboard.write_samples(directory / 'tensorboard', pictures)
    networks = self.family.shapes()
    number_of = {name: _count_params(tree) for name, tree in networks.items()}
    chosen_step = selection.chosen['step']
    return {
      **self._about(seed_training, self.num_steps),
      'num_params': number_of['generator'],
      'num_discriminator_params': number_of.get('discriminator', 0),
      'select': config.generator.select,
      'chosen_step': chosen_step,
      'candidates': selection.history,
      'kept': sorted(selection.kept),
      'networks': list(networks),  # of each that is kept
      'warnings': candidates.warnings(
        trained.rows, selection.history, self.num_steps, chosen_step=chosen_step
      ),
      **{name: getattr(trained.progress, name) for name in _KEPT},
      'step_ms_median': files.median_step_ms(trained.rows),
    }

  def _check_untrained(self):
    """Checks what an external generator draws before it is trained, perhaps for long."""
    variables = lambda: self.family.freeze(self.training.init())['generator']
    families.check_drawing(
      self._session, self.family, variables, facts=self._dataset.facts, directory=None
    )

  def _fit(self, seed_training):
    """Makes a generator at once; returns the content of its result.json."""
    began, named = time.perf_counter(), seed_training.session.config.generator.family
    making = f'making the generator: {self.family.title}'
    with progress.waiting(making, quiet=self._session.is_silent):
      fitted.fit(
        named, self.family, self._dataset, seed_training.seed, seed_training.directory
      )
    return {
      **self._about(seed_training, 0),
      'chosen_step': 0,
      'kept': ['chosen'],
      'networks': ['generator'],
      'warnings': [],
      **dict.fromkeys(_KEPT, 0),
      'train_seconds': time.perf_counter() - began,
    }

  def _about(self, seed_training, num_steps):
    family, facts = self.family, self._dataset.facts
    return {
      'fingerprint': facts.fingerprint,
      'family': seed_training.session.config.generator.family,
      'title': family.title,
      'foreign': families.is_foreign(family, facts),
      'trained_on': family.trained_on if family.fit else facts.fingerprint,
      'seed': seed_training.seed,
      'num_steps': num_steps,
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
    for warning in candidates.warnings(rows, [last], self.num_steps):
      if (directory, warning) not in self._said:
        _LOG.warning('%s: %s', directory.name, warning)
      self._said.add((directory, warning))
    return scores

  def _write_samples(self, members):
    """Writes samples.png, unless this sampler's is there: draws next to real images."""
    path = self._session.generator_path('samples.png')
    options = json.dumps(families.drawing_arguments_of(self._session.config))
    is_drawn = samples.is_drawn(path, options)
    if processes.all_agree(is_drawn):  # or all of them draw
      return
    drawn = {
      'generated' if len(members) == 1 else m.name: self._draw.by_class(m.variables, 8)
      for m in members
    }
    if jax.process_index() == 0:
      samples.write_next_to_real(path, self._dataset, drawn, options)


def _forget(directory):
  """Removes what is said of a generator that is made again.

  Not drawn.npz, by which another one is refused: arms may have drawn from the first.
  """
  for name in ('result.json', 'samples.npz', 'samples.png'):
    (directory / name).unlink(missing_ok=True)


def _count_params(variables):
  """The number of a network's variables that are trained."""
  is_linen = isinstance(variables, dict) and 'params' in variables
  leaves = jax.tree.leaves(variables['params'] if is_linen else variables)
  # clu knows nested dicts only.
  numbered = {str(i): leaf for i, leaf in enumerate(leaves)}
  return int(parameter_overview.count_parameters(numbered))


def check(session, dataset) -> tuple[Family, spec.Cadence | None]:
  """Checks that a generator can be trained as the config says; trains nothing.

  Returns:
    Its family, and when it is logged and saved; None if it is made at once.

  Raises:
    ConfigError: if `generator.checkpoints` names a step at which nothing is saved, or
      see `families.build_family`.
  """
  config, family = session.config, families.build_family(session, dataset.facts)
  if family.fit:
    return family, None
  num_steps = config_lib.num_steps_of(config, 'generator', len(dataset.train))
  # A candidate for each thousand steps, five at most: each takes as long as some hundreds
  # of steps, as it is frozen, drawn from, and used to train a probe.
  saves = min(max(num_steps // 1000, 1), 5)
  cadence = spec.make_cadence(config, 'generator', num_steps, saves=saves)
  every = cadence.save_every
  for _, step in config_lib.members_of(config):
    if step > num_steps or (step % every and step != num_steps):
      raise ConfigError(
        f'generator.checkpoints names step {step}, but it is saved at multiples of '
        f'{every} (see generator.save_every_steps) and at {num_steps}; name one of these.'
      )
  return family, dataclasses.replace(cadence, eval_every=every)
