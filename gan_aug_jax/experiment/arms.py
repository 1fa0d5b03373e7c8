"""The arms of a run: classifiers trained with and without synthetic images."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data.datasets import Dataset
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.evaluation import evaluators, figures, metrics
from gan_aug_jax.experiment import batch_picture, recipe, schedule
from gan_aug_jax.generators import synthetic_source
from gan_aug_jax.step import batches, classifier, synthesis
from gan_aug_jax.training import files, loop, progress, spec, tensorboard
from gan_aug_jax.training.workdir import describe_devices, SPLITS, versions


class Arm:
  """One arm of a run, trained into arms/NAME/.

  Attributes:
    session, dataset: the run's.
    name: one of `config.ARMS`.
    evaluator: the `evaluators.Evaluator` of the classifier.
    is_augmented: whether it draws synthetic images.
    directory: where its files are.
  """

  def __init__(self, session, dataset, name, evaluator):
    self.session, self.dataset, self.name = session, dataset, name
    self.evaluator = evaluator
    self.is_augmented = config_lib.is_augmented(session.config, name)
    self.directory = session.path('arms', name)
    self._training = None

  def training(self, generator=None) -> spec.Training:
    """Returns the arm's `Training`, made at the first call, with shapes of its generator.

    It needs the `FrozenGenerator` unless `synthetic_source.is_known`.
    """
    if self._training is None:
      source = None
      if self.is_augmented:
        source = synthetic_source.build_source(self.session, self.dataset, generator)
      self._training = set_up(self.session, self.dataset, self.name, source)
    return self._training

  def start(self) -> None:
    """Compiles the arm's programs in threads, unless it is finished."""
    if training := self.training_ahead():
      self._start(training)

  def _start(self, training):
    training.start()
    self.evaluator.start(training.state.evaluated, self.dataset.image_shape)

  def operations(self) -> float:
    """Of its training, see `spec.Training.operations`; 0 as long as that is unknown."""
    training = self.training_ahead()
    return training.operations() if training else 0.0

  def training_ahead(self) -> spec.Training | None:
    """Its `training`; None if finished or not known yet."""
    if finished_result(self.directory):
      return None
    if self.is_augmented and not synthetic_source.is_known(self.session, self.dataset):
      return None
    return self.training()

  def train(self, generator, source_variables) -> dict:
    """Trains the arm, or resumes it, and evaluates it.

    Args:
      generator: the `FrozenGenerator`, or None.
      source_variables: the `SourceVariables` that it draws from.

    Returns:
      The arm's entry in results.json.
    """
    training = self.training(generator)
    self._start(training)  # if it could not be done before its generator was there
    # Compiled here, so that it counts as compilation and not as evaluation.
    compile_seconds = self.evaluator.compile(
      training.state.evaluated, self.dataset.image_shape
    )
    trained = loop.train(
      training.with_frozen(source_variables.frozen),
      self.directory,
      self.name,
      Validation(self.evaluator, self.dataset),
    )
    trained.progress.compile_seconds += compile_seconds
    return self.finish(generator, source_variables, trained)

  def finish(self, generator, source_variables, trained) -> dict:
    """Evaluates a trained arm and writes its results; the only use of the test split.

    Args:
      generator: the `FrozenGenerator`, or None.
      source_variables: the `SourceVariables` that it drew from.
      trained: the `loop.Trained`.

    Returns:
      The arm's entry in results.json.
    """
    session, dataset, state = self.session, self.dataset, trained.state
    if jax.process_index() == 0:
      batch_picture.write(self, generator, source_variables)
    splits = {'train': dataset.train, 'val': dataset.val, 'eval': dataset.test}
    with progress.waiting(f'{self.name}: evaluating', quiet=session.is_silent):
      scores = {
        prefix: self.evaluator(state.evaluated, split) for prefix, split in splits.items()
      }
    result = _arm_result(session, scores, dataset, self._training.batches.plan, trained)
    result['acceptance'] = _acceptance(state, dataset)
    result['source'] = source_variables.info
    if jax.process_index() == 0:
      _write_predictions(self.directory / 'predictions.npz', scores, dataset)
      if session.config.log.tensorboard:
        matrix = result['confusion_matrix']
        picture = figures.confusion_matrix(self.name, dataset.class_names, matrix)
        events = self.directory / 'tensorboard'
        tensorboard.write_result(events, session.config, result, picture)
      content = json.dumps(result, indent=1)
      files.write_atomically(self.directory / 'result.json', content)
    return result


def finished_result(directory) -> dict | None:
  """The result.json of a finished arm, or None."""
  result = files.read_json_or_none(directory / 'result.json')
  # Older versions wrote no source.
  finished = result and 'source' in result and (directory / 'predictions.npz').exists()
  return result if finished else None


def check_images(directory, record, facts: DataFacts) -> None:
  """Checks that an arm was trained, and evaluated, on these images.

  Args:
    record: its result.json, or what was saved with its checkpoint.

  Raises:
    CheckpointError: if one of the fingerprints in the record is another.
  """
  for field, kind in SPLITS.items():
    if record.get(field) not in (None, '', getattr(facts, field)):
      raise CheckpointError(
        f'The classifier in {str(directory)!r} belongs to other {kind} images than the '
        'ones that are read now; move it away to train it anew, or give another '
        '--workdir.'
      )


def set_up(session, dataset, name, source, *, num_steps=None) -> spec.Training:
  """Makes the `Training` of an arm: the fused step, its state and its real images.

  Its frozen inputs are shapes. Nothing is trained or compiled.

  Args:
    name: of the arm, one of `config.ARMS`.
    source: the `SyntheticSource`, or None for an arm without synthetic images.
    num_steps: of the training, which schedules depend on; None for the config's.
  """
  config, synthetic = session.config, source is not None
  num_steps = num_steps or schedule.num_steps_of_arm(
    config, len(dataset.train), synthetic=synthetic
  )
  plan = schedule.plan_batches(config, num_steps, synthetic=synthetic)
  if synthetic:
    _check_members(config, plan)
  model = recipe.build_model(session, dataset.facts)
  optimizer = recipe.make_optimizer(session, num_steps)
  cycle = config.cache.refresh_steps if synthetic else 1
  max_bytes = config_lib.draw_ahead_bytes(config)
  synthesize = draw_synthetic = init_pool = None
  class_probs_at = lambda state: None
  if synthetic:
    synthesize = synthetic_source.build_synthesis(
      session, dataset, source, plan=plan, model=model
    )
    class_probs_at = synthesize.class_probs_at
    if max_bytes:
      draw_synthetic = synthesis.make_draw_synthetic(
        synthesize, layout=session.layout, plan=plan, refresh_steps=cycle
      )
  cadence = spec.make_cadence(
    config,
    'classifier',
    num_steps,
    cycle=cycle,
    scans_on_cpu=synthetic == bool(draw_synthetic) and _has_no_convolution(config),
  )
  if spec.steps_per_call(session, cadence) == 1:
    draw_synthetic = None
  if cycle > 1 and not draw_synthetic:
    init_pool = functools.partial(
      synthesis.init_pool, synthesize, session.layout, plan, dataset.image_shape
    )
    synthesize = synthesis.make_pooled(synthesize, cycle, session.layout)
  weight = schedule.make_weight(config, num_steps)
  compose = batches.make_compose(
    layout=session.layout,
    plan=plan,
    synthesize=synthesize,
    augmentation=recipe.make_augmentation(session, name, dataset.image_shape),
    num_classes=dataset.num_classes,
    weight=weight,
    on_reject=config.filter.on_reject if config.filter.min_confidence else 'drop',
    label_smoothing=config.classifier.label_smoothing,
    dtype=session.image_dtype('classifier'),
  )
  draw_ahead = batches.make_compose_ahead(
    compose,
    layout=session.layout,
    plan=plan,
    max_bytes=max_bytes,
    draw_synthetic=draw_synthetic,
  )
  step = classifier.make_fused_step(
    model=model,
    optimizer=optimizer,
    layout=session.layout,
    plan=plan,
    compose=compose,
    ema_decay=config.classifier.ema_decay,
    logit_shift=recipe.make_logit_shift(
      config, dataset, plan, weight=weight, class_probs_at=class_probs_at
    ),
  )
  init = recipe.make_init(
    session, model, optimizer, dataset.image_shape, synthetic=synthetic
  )
  training = spec.make_training(
    session,
    step,
    init=init,
    seed=config_lib.seed_of(config, 'classifier'),
    batches=spec.make_batches(session, dataset.train, plan),
    cadence=cadence,
    init_pool=init_pool,
    draw_ahead=draw_ahead,
  )
  return training.with_frozen(source.shapes if source else synthesis.FrozenModels())


def _check_members(config, plan):
  """Refuses generators that would never be drawn from: they take turns by position."""
  count = len(config_lib.members_of(config))
  if plan.num_synthetic < count and config.mix.source == 'generator':
    raise ConfigError(
      f'generator.checkpoints names {count} generators for {plan.num_synthetic} '
      'synthetic images a batch; name fewer, or raise mix.ratio or '
      'classifier.batch_size.'
    )


def _has_no_convolution(config):
  """Of an arm and its control alike, drawn ahead or not: chunks are drawn in a loop."""
  archs = (config.classifier.arch, config.generator.family, config.gan.arch)
  return archs == ('mlp', 'gan', 'mlp') and not config_lib.asks_teacher(config)


@dataclasses.dataclass(frozen=True)
class Validation(loop.Monitor):
  """Scores a classifier on validation images while it trains."""

  evaluator: evaluators.Evaluator
  dataset: Dataset

  def consider(self, step, state) -> dict[str, float]:
    del step
    return validate(self.evaluator, state, self.dataset)


def validate(evaluate, state, dataset) -> dict:
  """Scores a state on the validation images: {name: float} for metrics.jsonl.

  Args:
    evaluate: the `evaluators.Evaluator`.
    state: a `ClassifierState`, placed.
  """
  scores = evaluate(state.evaluated, dataset.val)
  rates = _acceptance(state, dataset)
  return {
    'val_loss': scores['loss'],
    'val_accuracy': scores['accuracy'],
    **{f'acceptance/{class_name}': rate for class_name, rate in rates.items()},
  }


def _acceptance(state, dataset):
  """{class name: share of its synthetic images that the filter accepted}."""
  if 'asked' not in state.class_stats:
    return {}
  stats = {name: np.asarray(x) for name, x in state.class_stats.items()}
  rates = zip(dataset.class_names, stats['asked'], stats['accepted'], strict=True)
  return {name: float(n / total) for name, total, n in rates if total}


def _arm_result(session, scores, dataset, plan, trained):
  progress, rows = trained.progress, trained.rows
  train, val, test = (scores[prefix] for prefix in ('train', 'val', 'eval'))
  num_test, seconds = len(dataset.test), test['seconds']
  per_class = metrics.per_class(test['confusion'])
  result = {
    f'{prefix}_{name}': scores[prefix][name]
    for prefix in ('eval', 'val')
    for name in ('loss', *metrics.summarize(test['confusion']))
  }
  return result | {
    'eval_runtime': seconds,
    'eval_samples_per_second': num_test / seconds,
    'eval_steps_per_second': test['calls'] / seconds,
    'epoch': int(plan.real_before(progress.step)) / len(dataset.train),
    'num_steps': progress.step,
    'confusion_matrix': test['confusion'].tolist(),
    'val_confusion_matrix': val['confusion'].tolist(),
    'per_class': {name: values.tolist() for name, values in per_class.items()},
    'train_accuracy': train['accuracy'],
    'generalization_gap': train['accuracy'] - val['accuracy'],
    'train_seconds': progress.train_seconds,
    'compile_seconds': progress.compile_seconds,
    'eval_seconds': progress.eval_seconds + train['seconds'] + val['seconds'],
    'versions': versions() | session.code(),
    'device': describe_devices(session.layout),
    **{field: getattr(dataset.facts, field) for field in SPLITS},
    'steps_per_call': progress.steps_per_call,
    'peak_bytes': progress.peak_bytes,
    'step_ms_median': files.median_step_ms(rows),
    # What the classifier was given, which may differ from the config's ratio.
    'effective_ratio': _mean_over_steps(rows, 'synthetic_ratio'),
    'asked_ratio': _mean_over_steps(rows, 'asked_ratio'),
  }


def _mean_over_steps(rows, name):
  """Of a metric whose rows are means over the steps since the row before; or NaN."""
  rows = [row for row in rows if name in row]
  if not rows:
    return math.nan
  num_steps = np.diff([0, *(row['step'] for row in rows)])
  return float(np.average([row[name] for row in rows], weights=num_steps))


def _write_predictions(path, scores, dataset):
  files.write_arrays(
    path,
    test_predictions=scores['eval']['predictions'],
    test_labels=dataset.test.labels,
    val_predictions=scores['val']['predictions'],
    val_labels=dataset.val.labels,
  )
