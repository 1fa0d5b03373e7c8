"""A whole run: data, generators, arms, results.

Every function here resumes from what a workdir holds, and repeats nothing that is done.
"""

import dataclasses
import functools
import json

import jax

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import arms as arms_lib, recipe, schedule
from gan_aug_jax.generators import frozen, synthetic_source
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.training import files, loop, progress
from gan_aug_jax.training.progress import format_count
from gan_aug_jax.training.workdir import describe_devices


def load_data(config) -> datasets.Dataset:
  """Loads the dataset of a config; see `datasets.load_dataset`."""
  data = config.data
  held_out = config.mix.source == 'held_out' and config_lib.draws_synthetic(config)
  return datasets.load_dataset(
    data.name,
    image_size=data.image_size,
    seed=config_lib.seed_of(config, 'data'),
    val_fraction=data.val_fraction,
    per_class=data.label_budget,
    imbalance=data.imbalance,
    imbalance_shape=data.imbalance_shape,
    data_dir=data.data_dir,
    on_corrupt=data.on_corrupt,
    train_on_val=data.train_on_val,
    test_on=data.test_on,
    with_held_out_real=held_out,
  )


class Run:
  """What a run trains: the generators, unless the config needs none, and the arms.

  Attributes:
    session, dataset: the run's.
    generator: the `GeneratorTraining`, or None where none is needed.
    arms: list of `arms.Arm`.
  """

  def __init__(self, session, dataset, *, arms=True, generator_session=None):
    """Plans a run; trains and compiles nothing.

    Args:
      generator_session: of the generators, if they are kept elsewhere than the arms.

    Raises:
      ConfigError: see `generator_training`.
    """
    config = session.config
    self.session, self.dataset, self.generator = session, dataset, None
    self._generator_session = generator_session or session
    self._variables = None
    if config_lib.needs_generator(config) or not arms:
      self.generator = GeneratorTraining(self._generator_session, dataset)
    model = recipe.build_model(session, dataset.facts)
    largest = max(map(len, (dataset.train, dataset.val, dataset.test)))
    evaluator = evaluators.Evaluator(session, model, largest=largest)
    names = config.arms if arms else ()
    self.arms = [arms_lib.Arm(session, dataset, name, evaluator) for name in names]

  def start(self, *, generator=True) -> None:
    """Compiles in threads what is not trained yet, in order of use; see `work`."""
    if self.generator and generator:
      self.generator.start()
    for arm in self.arms:
      arm.start()

  def work(self, *, generator=True) -> dict[str, float]:
    """Operations of each training that is left, by name, for `progress.whole`.

    Args:
      generator: whether the generator is to be trained.
    """
    work = {}
    if self.generator and generator and (operations := self.generator.operations()):
      work['generator'] = operations
    arms = [arm for arm in self.arms if not arms_lib.finished_result(arm.directory)]
    work |= {arm.name: arm.operations() for arm in arms}
    # Of one that is made at once, and of its arms, nothing is known before.
    return {name: operations or max(work.values()) for name, operations in work.items()}

  def load_or_train_generator(self, *, train=True) -> frozen.FrozenGenerator | None:
    """The generator that the arms draw from, or None; with `train`, finished first.

    Raises:
      CheckpointError: see `frozen.load_generator`.
    """
    if not self.generator:
      return None
    session, own = self._generator_session, self.session.config.generator.checkpoints
    if train:
      with progress.part('generator'):
        generator = self.generator.train()
      if session.config.generator.checkpoints == own:
        return generator
    # Those that share its training may draw from other checkpoints of it.
    config = session.config.copy_and_resolve_references()
    config.generator.checkpoints = own
    session = dataclasses.replace(session, config=config)
    return frozen.load_generator(session, self.dataset.facts)

  def load_variables(self, arm, generator) -> synthetic_source.SourceVariables:
    """What an arm draws from; loaded once for all arms.

    Args:
      generator: the `FrozenGenerator`, or None.
    """
    if not arm.is_augmented:
      return synthetic_source.SourceVariables()
    if not self._variables:
      session = self.session
      with progress.waiting('preparing the synthetic images', quiet=session.is_silent):
        self._variables = synthetic_source.load_variables(
          session, self.dataset, generator
        )
    return self._variables

  def train_arms(self, generator) -> dict:
    """Trains every arm with a loaded generator; writes and returns results.json."""
    session, dataset = self.session, self.dataset
    trained = {}
    for arm in self.arms:
      result = arms_lib.finished_result(arm.directory)
      if result:
        arms_lib.check_images(arm.directory, result, dataset.facts)
      else:
        with progress.part(arm.name):
          result = arm.train(generator, self.load_variables(arm, generator))
      trained[arm.name] = result
    results = _results(session, dataset, generator, trained)
    if jax.process_index() == 0:
      files.write_atomically(session.path('results.json'), json.dumps(results, indent=1))
    return results


def describe(run: Run) -> str:
  """Says what a run will do."""
  session, dataset, config = run.session, run.dataset, run.session.config
  trained = [run.generator.describe()] if run.generator else []
  if run.arms:
    steps_of = functools.partial(schedule.num_steps_of_arm, config, len(dataset.train))
    steps = sorted({steps_of(synthetic=arm.is_augmented) for arm in run.arms})
    each = ' or '.join(f'{number:,}' for number in steps)
    count = format_count(len(run.arms), 'classifier')
    trained.append(f'{count} ({config.classifier.arch}, {each} steps each)')
  sizes = (
    f'{len(dataset.train):,} training, {len(dataset.val):,} validation and '
    f'{len(dataset.test):,} test images'
  )
  skipped = f' Files skipped: {len(dataset.skipped):,}.' if dataset.skipped else ''
  notes = f' Expect {config.expected_duration}.' if config.expected_duration else ''
  if config.steps_per_call > 1 and session.layout.on_cpu:
    notes += (
      ' On a CPU, several steps per call are slow where there are convolutions: set '
      'steps_per_call=1.'
    )
  return (
    f'{dataset.name}: {sizes}.{skipped}\n'
    f'To train: {" and ".join(trained)}, on {describe_devices(session.layout)}.{notes}'
  )


def _results(session, dataset, generator, trained):
  """The content of results.json; `trained` has the result of each arm."""
  first = trained[session.config.arms[0]]
  info = generator.info if generator else {}
  seconds = sum(
    part.get(name, 0)
    for part in (info, *trained.values())
    for name in (*loop.SECONDS, 'eval_runtime')
  )
  # The arms share one source; read back after an interruption it takes no time.
  seconds += max(arm['source'].get('seconds', 0) for arm in trained.values())
  counts = dataset.train.class_counts(dataset.num_classes)
  return {
    'dataset': dataset.name,
    'num_skipped': len(dataset.skipped),
    'data_notes': list(dataset.notes),
    'test_on': session.config.data.test_on,
    'train_on_val': session.config.data.train_on_val,
    'seed': session.config.seed,
    'train_counts': counts.tolist(),
    'logit_adjustment': session.config.classifier.logit_adjustment,
    # Of the training, perhaps on another machine.
    'versions': first['versions'],
    'device': first['device'],
    'generator': info,
    'total_seconds': seconds,
    'arms': trained,
  }
