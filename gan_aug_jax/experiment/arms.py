"""The arms of a run: classifiers trained with and without synthesis into arms/NAME/."""

import functools
import io
import json

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError, ConfigError
from gan_aug_jax.evaluation import evaluators, figures, metrics
from gan_aug_jax.generators import synthetic_source
from gan_aug_jax.models import classifiers
from gan_aug_jax.step import augment, batches, classifier, classifier_state, synthesis
from gan_aug_jax.training import checkpoint, fitting, loop, tensorboard
from gan_aug_jax.training.workdir import describe_devices, read_result, versions


class Arm:
  """One arm: what its training takes, and the training itself."""

  def __init__(self, session, dataset, name, evaluator):
    """Prepares the programs, which are compiled when they are used, or by `start`.

    Args:
      session: the run's.
      dataset: the data.
      name: one of `config.ARMS`.
      evaluator: the `evaluators.Evaluator` of `build_model`.
    """
    self.session, self.dataset, self.name = session, dataset, name
    self.evaluator = evaluator
    self.is_augmented = config_lib.is_augmented(session.config, name)
    self._made = None

  @property
  def directory(self):
    return self.session.path('arms', self.name)

  def plan_training(self, generator=None):
    """The `Source` to draw from (or None), the `BatchPlan` and the `fitting.Training`.

    Args:
      generator: a `FrozenGenerator`, where the user's own takes the GAN's place.
    """
    if self._made is None:
      source = None
      if self.is_augmented:
        source = synthetic_source.make_source(self.session, self.dataset, generator)
      self._made = source, *make_training(self.session, self.dataset, self.name, source)
    return self._made

  def start(self):
    """Compiles in threads what is needed to train an arm that is not finished."""
    own = self.is_augmented and self.session.config.sampler.generator
    if finished_result(self.directory) or own:
      return
    source, _, training = self.plan_training()
    training.start(source.shapes if source else synthesis.FrozenModels())
    variables = self.session.layout.shapes(training.state.variables)
    self.evaluator.start(variables, self.dataset.image_shape)

  def train(self, generator, prepare):
    """Trains, or goes on, or finds the arm finished; evaluates it once.

    Args:
      generator: the `FrozenGenerator`, or None.
      prepare: gives the `synthetic_source.Prepared`, when it draws.

    Returns:
      The arm's dict of results.json.
    """
    if result := finished_result(self.directory):
      return result
    _, plan, training = self.plan_training(generator)
    prepared = prepare() if self.is_augmented else synthetic_source.NOTHING
    # Waited for here, so that it counts as compilation and not as evaluation.
    variables = self.session.layout.shapes(training.state.variables)
    compile_seconds = self.evaluator.compile(variables, self.dataset.image_shape)
    fitted = fitting.fit(
      self.session,
      self.directory,
      self.name,
      training,
      extra=(prepared.frozen,),
      fingerprint=self.dataset.fingerprint,
      evaluate=lambda _, state: validate(self.evaluator, state, self.dataset),
    )
    fitted.host['compile_seconds'] += compile_seconds
    return self.finish(plan, prepared, fitted)

  def finish(self, plan, prepared, fitted):
    """Evaluates a trained arm, the test split this once, and writes what came of it.

    Args:
      plan: its `BatchPlan`.
      prepared: the `synthetic_source.Prepared` that it drew from.
      fitted: the `fitting.Fitted`.

    Returns:
      The arm's dict of results.json.
    """
    session, dataset, state = self.session, self.dataset, fitted.state
    splits = {'train': dataset.train, 'val': dataset.val, 'eval': dataset.test}
    scores = {
      prefix: self.evaluator(state.variables, split) for prefix, split in splits.items()
    }
    result = _arm_result(session, scores, dataset, plan, fitted)
    result['acceptance'] = _acceptance(state, dataset)
    result['source'] = prepared.info
    if jax.process_index() == 0:
      _write_predictions(self.directory / 'predictions.npz', scores, dataset)
      if session.config.log.tensorboard:
        confusion = {self.name: result['confusion_matrix']}
        picture = figures.confusion_matrices(dataset.class_names, confusion)
        events = self.directory / 'tensorboard'
        tensorboard.write_result(events, session.config, result, picture)
      content = json.dumps(result, indent=1)
      loop.write_atomically(self.directory / 'result.json', content)
    return result


def finished_result(directory):
  """The result.json of an arm that is finished, or None."""
  result = read_result(directory / 'result.json')
  # One of an older version has no source.
  finished = result and 'source' in result and (directory / 'predictions.npz').exists()
  return result if finished else None


def make_training(session, dataset, name, source, *, num_steps=None):
  """Returns the `BatchPlan` and the `fitting.Training` of an arm.

  Args:
    session: the run's.
    dataset: the data.
    name: of the arm.
    source: the `synthetic_source.Source`, or None to draw nothing.
    num_steps: of the training, which schedules depend on; None for the config's.
  """
  config, synthetic = session.config, source is not None
  num_steps = num_steps or synthetic_source.num_steps_of_arm(
    config, len(dataset.train), synthetic=synthetic
  )
  plan, step, init = make_step(session, dataset, name, source, num_steps)
  cycle = config.sampler.refresh_every if synthetic else 1
  pool = functools.partial(make_pool, session, dataset, plan) if cycle > 1 else None
  training = fitting.make_training(
    session,
    step,
    init=init,
    seed=config_lib.seed_of(config, 'classifier'),
    feed=fitting.Feed(session, dataset.train, plan),
    cadence=fitting.cadence_of(session, num_steps, cycle=cycle),
    make_pool=pool,
    cycle=cycle,
  )
  return plan, training


def validate(evaluate, state, dataset):
  """What a line of metrics.jsonl says of a state on validation images."""
  scores = evaluate(state.variables, dataset.val)
  rates = _acceptance(state, dataset)
  return {
    'val_loss': scores['loss'],
    'val_accuracy': scores['accuracy'],
    **{f'acceptance/{class_name}': rate for class_name, rate in rates.items()},
  }


def make_step(session, dataset, name, source, num_steps):
  """Returns the plan, the fused step and the `init` (`seed -> state`) of one arm.

  Args:
    session: the run's.
    dataset: the data.
    name: of the arm.
    source: the `synthetic_source.Source` to draw from, or None to draw nothing.
    num_steps: of the training.
  """
  config, model = session.config, build_model(session, dataset.num_classes)
  classical = config_lib.ARMS[name][1]
  plan, weight = synthetic_source.make_plan(
    config, num_steps, synthetic=source is not None
  )
  synthesize, class_stats = None, ()
  if source:
    synthesize = synthetic_source.make_synthesize(session, dataset, source, plan, model)
    class_stats = synthetic_source.class_stats_of(config)
  compose = batches.make_compose(
    layout=session.layout,
    plan=plan,
    synthesize=synthesize,
    augmentation=_augmentation(config.augment) if classical else _NO_AUGMENTATION,
    num_classes=dataset.num_classes,
    weight=weight,
    on_reject=config.sampler.on_reject if config.sampler.min_confidence else 'drop',
    label_smoothing=config.classifier.label_smoothing,
    dtype=session.image_dtype('classifier'),
  )
  optimizer = make_optimizer(config, num_steps)
  step = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=session.layout, plan=plan, compose=compose
  )
  init = functools.partial(
    classifier_state.init_classifier,
    model=model,
    optimizer=optimizer,
    image_shape=dataset.image_shape,
    class_stats=class_stats,
  )
  return plan, step, init


_NO_AUGMENTATION = batches.Augmentation()


def _augmentation(config):
  return batches.Augmentation(
    transform=augment.make_augment(
      crop=config.crop, flip=config.flip, color=config.color, cutout=config.cutout
    ),
    mix=augment.make_mix(mixup=config.mixup, cutmix=config.cutmix),
    partner=config.partner,
    on=config.on,
  )


def make_pool(session, dataset, plan):
  """The empty pool of an arm whose synthetic images last for several steps."""
  return synthesis.init_pool(
    session.layout,
    plan,
    image_shape=dataset.image_shape,
    num_classes=dataset.num_classes,
    dtype=session.image_dtype('classifier'),
  )


def _acceptance(state, dataset):
  """{class name: share of its synthetic images that the filter accepted}."""
  if 'asked' not in state.class_stats:
    return {}
  stats = {name: np.asarray(x) for name, x in state.class_stats.items()}
  rates = zip(dataset.class_names, stats['asked'], stats['accepted'], strict=True)
  return {name: float(n / all_) for name, all_, n in rates if all_}


def make_optimizer(config, num_steps):
  """Returns the optimizer of the config's classifier.

  Args:
    config: the config.
    num_steps: of the training.

  Raises:
    ConfigError: if the warm-up leaves no step.
  """
  config = config.classifier
  if config.warmup_steps and config.warmup_steps >= num_steps:
    raise ConfigError(
      f'classifier.warmup_steps={config.warmup_steps} must be below the {num_steps} '
      'steps of the training; lower it, or train longer.'
    )
  return classifier.make_optimizer(
    config.optimizer,
    learning_rate=config.learning_rate,
    num_steps=num_steps,
    schedule=config.schedule,
    warmup_steps=config.warmup_steps,
    momentum=config.momentum,
    nesterov=config.nesterov,
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )


def _arm_result(session, scores, dataset, plan, fitted):
  host, rows = fitted.host, fitted.rows
  test = scores['eval']
  names = ('loss', *metrics.summarize(test['confusion']))
  result = {
    f'{prefix}_{name}': scores[prefix][name]
    for prefix in ('eval', 'val')
    for name in names
  }
  train_accuracy = scores['train']['accuracy']
  mean = lambda name: float(np.mean([row[name] for row in rows if name in row]))
  return result | {
    'eval_runtime': test['seconds'],
    'eval_samples_per_second': len(dataset.test) / test['seconds'],
    'eval_steps_per_second': -(-len(dataset.test) // evaluators.BATCH) / test['seconds'],
    'epoch': int(plan.real_before(host['step'])) / len(dataset.train),
    'num_steps': host['step'],
    'confusion_matrix': test['confusion'].tolist(),
    'val_confusion_matrix': scores['val']['confusion'].tolist(),
    'per_class': {
      name: values.tolist()
      for name, values in metrics.per_class(test['confusion']).items()
    },
    'train_accuracy': train_accuracy,
    'generalization_gap': metrics.generalization_gap(
      train_accuracy, scores['val']['accuracy']
    ),
    'train_seconds': host['train_seconds'],
    'compile_seconds': host['compile_seconds'],
    'eval_seconds': host['eval_seconds']
    + scores['train']['seconds']
    + scores['val']['seconds'],
    'versions': versions(),
    'device': describe_devices(session.layout),
    'steps_per_call': host['steps_per_call'],
    'peak_bytes': host['peak_bytes'],
    'step_ms_median': loop.median_step_ms(rows),
    # What the classifier was given, not what was asked for.
    'effective_ratio': mean('synthetic_ratio'),
    'asked_ratio': mean('asked_ratio'),
  }


def _write_predictions(path, scores, dataset):
  content = io.BytesIO()
  np.savez_compressed(
    content,
    test_predictions=scores['eval']['predictions'],
    test_labels=dataset.test.labels,
    val_predictions=scores['val']['predictions'],
    val_labels=dataset.val.labels,
  )
  loop.write_atomically(path, content.getvalue())


def build_model(session, num_classes):
  """The linen module of the config's classifier."""
  config = session.config.classifier
  return classifiers.build_classifier(
    config.arch,
    num_classes=num_classes,
    dropout=config.dropout,
    features=config.features,
    hidden=config.hidden,
    dtype=session.dtype('classifier'),
    axis_name=session.layout.axis_name,
    blocks=config.blocks,
    batch_norm=config.batch_norm,
  )


def make_evaluator(session, num_classes):
  """The `evaluators.Evaluator` of the config's classifier."""
  model = build_model(session, num_classes)
  return evaluators.Evaluator(session, model, num_classes)


def restore_arm(session, name, *, num_classes, num_train, image_shape):
  """Reads the classifier of a finished arm.

  Args:
    session: the run's.
    name: of the arm.
    num_classes: number of classes.
    num_train: images of the training set.
    image_shape: (H, W, C).

  Returns:
    Its `ClassifierState`, placed.

  Raises:
    CheckpointError: if the checkpoint cannot be read.
  """
  config = session.config
  synthetic = config_lib.is_augmented(config, name)
  num_steps = synthetic_source.num_steps_of_arm(config, num_train, synthetic=synthetic)
  init = functools.partial(
    classifier_state.init_classifier,
    model=build_model(session, num_classes),
    optimizer=make_optimizer(config, num_steps),
    image_shape=image_shape,
    class_stats=synthetic_source.class_stats_of(config) if synthetic else (),
  )
  state = session.layout.shapes(jax.eval_shape(init, np.int32(0)))
  with checkpoint.Checkpoints(session.path('arms', name, 'checkpoints')) as checkpoints:
    return checkpoints.restore_step(num_steps, state)


def evaluate_arms(session, dataset):
  """Evaluates the workdir's finished arms again.

  Returns:
    {arm: {split: scores}} for the splits 'val' and, but in a search, 'test'; scores as
    `make_evaluator`.

  Raises:
    CheckpointError: if no arm is finished, or a checkpoint cannot be read.
  """
  evaluate = make_evaluator(session, dataset.num_classes)
  splits = {'val': dataset.val}
  if session.config.data.test_on == 'test':
    splits['test'] = dataset.test
  scores = {}
  for name in session.config.arms:
    if not read_result(session.path('arms', name, 'result.json')):
      continue
    state = restore_arm(
      session,
      name,
      num_classes=dataset.num_classes,
      num_train=len(dataset.train),
      image_shape=dataset.image_shape,
    )
    scores[name] = {
      split: evaluate(state.variables, rows) for split, rows in splits.items()
    }
  if not scores:
    raise CheckpointError(
      f'There is no trained classifier in {str(session.workdir)!r}; run or '
      'train-classifier first.'
    )
  return scores
