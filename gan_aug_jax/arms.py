"""The arms of a run: classifiers trained with and without synthesis into arms/NAME/."""

from collections.abc import Callable
import dataclasses
import io
import json
import time

import jax
import numpy as np

from gan_aug_jax import (
  augment,
  checkpoint,
  classifier,
  config as config_lib,
  evaluation,
  fitting,
  loop,
  metrics,
  pictures,
  policies,
  synthesis,
  tensorboard,
)
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.models import classifiers
from gan_aug_jax.workdir import describe_devices, read_result, versions


def train_arm(session, dataset, name, prepare, evaluator):
  """Trains one arm, or goes on, or finds it finished; evaluates it once.

  Args:
    session: the run's.
    dataset: the data.
    name: one of `config.ARMS`.
    prepare: gives the `policies.Source` that it draws from, when it draws.
    evaluator: from `make_evaluator`.

  Returns:
    The arm's dict of results.json.
  """
  directory = session.path('arms', name)
  if result := finished_result(directory):
    return result
  _, evaluate = evaluator
  training = make_training(session, dataset, name, prepare, evaluator)
  plan, cycle = training.plan, training.cycle
  # Compiled here, so that it counts as compilation and not as evaluation.
  began = time.perf_counter()
  variables = session.layout.place(training.state.variables)
  evaluate(variables, dataset.val.rows(slice(0, 1)))
  compile_seconds = time.perf_counter() - began
  fitted = fitting.fit(
    session,
    directory,
    name,
    step=training.step,
    state=training.state,
    num_steps=training.num_steps,
    feed=training.feed,
    fingerprint=dataset.fingerprint,
    evaluate=lambda _, state: validate(evaluate, state, dataset),
    pool=make_pool(session, dataset, plan) if cycle > 1 else None,
    cycle=cycle,
  )
  fitted.host['compile_seconds'] += compile_seconds
  return finish_arm(session, dataset, name, training, fitted, evaluate)


def finished_result(directory):
  """The result.json of an arm that is finished, or None."""
  result = read_result(directory / 'result.json')
  # One of an older version has no source.
  finished = result and 'source' in result and (directory / 'predictions.npz').exists()
  return result if finished else None


@dataclasses.dataclass(frozen=True)
class Training:
  """What an arm trains with.

  Attributes:
    plan: the `BatchPlan`.
    step: the fused step.
    state: the initial state, on the host.
    feed: `(step, num_steps) -> inputs`, see `fitting.make_feed`.
    num_steps: length of training.
    cycle: steps that a pool lasts.
    source: the `policies.Source` that is drawn from, or None.
  """

  plan: object
  step: Callable
  state: classifier.ClassifierState
  feed: Callable
  num_steps: int
  cycle: int
  source: object


def make_training(session, dataset, name, prepare, evaluator):
  """Returns the `Training` of an arm; arguments as `train_arm`."""
  config = session.config
  synthetic = config_lib.is_augmented(config, name)
  num_steps = policies.num_steps_of_arm(config, len(dataset.train), synthetic=synthetic)
  source = prepare() if synthetic else None
  plan, step, state = make_step(session, dataset, name, source, evaluator[0], num_steps)
  feed = fitting.make_feed(session, dataset, plan, source.frozen if source else {})
  cycle = config.sampler.refresh_every if synthetic else 1
  return Training(plan, step, state, feed, num_steps, cycle, source)


def validate(evaluate, state, dataset):
  """What a line of metrics.jsonl says of a state on validation images."""
  scores = evaluate(state.variables, dataset.val)
  rates = _acceptance(state, dataset)
  return {
    'val_loss': scores['loss'],
    'val_accuracy': scores['accuracy'],
    **{f'acceptance/{class_name}': rate for class_name, rate in rates.items()},
  }


def finish_arm(session, dataset, name, training, fitted, evaluate):
  """Evaluates a trained arm, the test split this once, and writes what came of it.

  Args:
    session: the run's.
    dataset: the data.
    name: of the arm.
    training: its `Training`.
    fitted: the `fitting.Fitted`.
    evaluate: from `make_evaluator`.

  Returns:
    The arm's dict of results.json.
  """
  state, source = fitted.state, training.source
  splits = {'train': dataset.train, 'val': dataset.val, 'eval': dataset.test}
  scores = {prefix: evaluate(state.variables, split) for prefix, split in splits.items()}
  result = _arm_result(session, scores, dataset, training.plan, fitted)
  result['acceptance'] = _acceptance(state, dataset)
  result['source'] = source.info if source else {}
  if jax.process_index() == 0:
    directory = session.path('arms', name)
    _write_predictions(directory / 'predictions.npz', scores, dataset)
    if session.config.log.tensorboard:
      confusion = {name: result['confusion_matrix']}
      picture = pictures.confusion_matrices(dataset.class_names, confusion)
      tensorboard.write_result(directory / 'tensorboard', session.config, result, picture)
    loop.write_atomically(directory / 'result.json', json.dumps(result, indent=1))
  return result


def make_step(session, dataset, name, source, model, num_steps):
  """Returns the plan, the fused step and the initial state of one arm.

  Args:
    session: the run's.
    dataset: the data.
    name: of the arm.
    source: the `policies.Source` to draw from, or None to draw nothing.
    model: the classifier.
    num_steps: of the training.
  """
  config = session.config
  classical = config_lib.ARMS[name][1]
  plan, weight = policies.make_plan(config, num_steps, synthetic=source is not None)
  synthesize, memory = None, ()
  if source:
    synthesize = policies.make_synthesize(session, dataset, source, plan, model)
    memory = policies.memory_of(config)
  compose = classifier.make_compose(
    layout=session.layout,
    plan=plan,
    synthesize=synthesize,
    augmentation=_augmentation(config.augment) if classical else _NO_AUGMENTATION,
    num_classes=dataset.num_classes,
    weight=weight,
    on_reject=config.sampler.on_reject if config.sampler.min_confidence else 'drop',
    dtype=session.image_dtype('classifier'),
  )
  optimizer = _optimizer(session, num_steps)
  step = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=session.layout, plan=plan, compose=compose
  )
  return plan, step, _init_classifier(session, dataset, model, optimizer, memory)


_NO_AUGMENTATION = classifier.Augmentation()


def _augmentation(config):
  return classifier.Augmentation(
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
  if 'asked' not in state.policy:
    return {}
  asked, accepted = (np.asarray(state.policy[name]) for name in ('asked', 'accepted'))
  rates = zip(dataset.class_names, asked, accepted, strict=True)
  return {name: float(n / all_) for name, all_, n in rates if all_}


def _optimizer(session, num_steps):
  config = session.config.classifier
  return classifier.make_optimizer(
    config.optimizer,
    learning_rate=config.learning_rate,
    num_steps=num_steps,
    schedule=config.schedule,
    momentum=config.momentum,
    weight_decay=config.weight_decay,
  )


def _init_classifier(session, dataset, model, optimizer, memory=()):
  return classifier.init_classifier(
    model,
    optimizer,
    seed=config_lib.seed_of(session.config, 'classifier'),
    image_shape=dataset.image_shape,
    policy=memory,
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
    'eval_steps_per_second': -(-len(dataset.test) // evaluation.BATCH) / test['seconds'],
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


def make_evaluator(session, num_classes):
  """Returns the classifier and its evaluation of a split, see `evaluation`."""
  config = session.config.classifier
  model = classifiers.build_classifier(
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
  return model, evaluation.make_evaluate(session, model, num_classes)


def restore_arm(session, name, model, *, num_train, image_shape):
  """Reads the classifier of a finished arm.

  Args:
    session: the run's.
    name: of the arm.
    model: from `make_evaluator`.
    num_train: images of the training set.
    image_shape: (H, W, C).

  Returns:
    Its `ClassifierState`, placed.

  Raises:
    CheckpointError: if the checkpoint cannot be read.
  """
  config = session.config
  synthetic = config_lib.is_augmented(config, name)
  num_steps = policies.num_steps_of_arm(config, num_train, synthetic=synthetic)
  state = classifier.init_classifier(
    model,
    _optimizer(session, num_steps),
    seed=config_lib.seed_of(config, 'classifier'),
    image_shape=image_shape,
    policy=policies.memory_of(config) if synthetic else (),
  )
  with checkpoint.Checkpoints(session.path('arms', name, 'checkpoints')) as checkpoints:
    return checkpoints.restore_step(num_steps, session.layout.place(state))


def evaluate_arms(session, dataset):
  """Evaluates the workdir's finished arms again.

  Returns:
    {arm: {split: scores}} for the splits 'val' and, but in a search, 'test'; scores as
    `make_evaluator`.

  Raises:
    CheckpointError: if no arm is finished, or a checkpoint cannot be read.
  """
  model, evaluate = make_evaluator(session, dataset.num_classes)
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
      model,
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
