"""The arms of a run: classifiers trained with and without synthesis into arms/NAME/."""

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
  mixing,
)
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.models import classifiers
from gan_aug_jax.workdir import describe_devices, read_result, versions


def train_arm(session, dataset, name, generator, evaluator):
  """Trains one arm, or goes on, or finds it finished; evaluates it once.

  Args:
    session: the run's.
    dataset: the data.
    name: one of `config.ARMS`.
    generator: a `FrozenGenerator`, or None for arms that draw nothing.
    evaluator: from `make_evaluator`.

  Returns:
    The arm's dict of results.json.
  """
  directory = session.path('arms', name)
  finished = directory / 'result.json'
  result = read_result(finished)
  if result and (directory / 'predictions.npz').exists():
    return result
  model, evaluate = evaluator
  config = session.config
  num_steps = config_lib.num_steps_of(config, 'classifier', len(dataset.train))
  plan, step, state = make_step(session, dataset, name, generator, model, num_steps)
  inputs = generator.variables if plan.num_synthetic else {}
  # Compiled here, so that it counts as compilation and not as evaluation.
  began = time.perf_counter()
  evaluate(session.layout.place(state.variables), dataset.val.rows(slice(0, 1)))
  compile_seconds = time.perf_counter() - began

  def validate(_, state):
    scores = evaluate(state.variables, dataset.val)
    return {'val_loss': scores['loss'], 'val_accuracy': scores['accuracy']}

  fitted = fitting.fit(
    session,
    directory,
    name,
    step=step,
    state=state,
    num_steps=num_steps,
    count=plan.num_real,
    feed=fitting.make_feed(session, dataset, inputs),
    fingerprint=dataset.fingerprint,
    evaluate=validate,
  )
  state = fitted.state
  splits = {'train': dataset.train, 'val': dataset.val, 'eval': dataset.test}
  scores = {prefix: evaluate(state.variables, split) for prefix, split in splits.items()}
  result = _arm_result(session, scores, dataset, plan, fitted)
  result['compile_seconds'] += compile_seconds
  if jax.process_index() == 0:
    _write_predictions(directory / 'predictions.npz', scores, dataset)
    loop.write_atomically(finished, json.dumps(result, indent=1))
  return result


def make_step(session, dataset, name, generator, model, num_steps):
  """Returns the plan, the fused step and the initial state of one arm."""
  config = session.config
  synthetic, classical = config_lib.ARMS[name]
  plan = mixing.plan_batch(
    config.classifier.batch_size,
    ratio=config.mix.ratio if synthetic else 0.0,
    mode=config.mix.mode,
  )
  compose = classifier.make_compose(
    layout=session.layout,
    plan=plan,
    sample=generator.sample if generator else None,
    augment=augment.make_augment(
      crop=config.augment.crop if classical else 0,
      flip=config.augment.flip and classical,
    ),
    num_classes=dataset.num_classes,
    dtype=session.image_dtype('classifier'),
  )
  optimizer = _optimizer(session, num_steps)
  step = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=session.layout, plan=plan, compose=compose
  )
  return plan, step, _init_classifier(session, dataset, model, optimizer)


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


def _init_classifier(session, dataset, model, optimizer):
  return classifier.init_classifier(
    model,
    optimizer,
    seed=config_lib.seed_of(session.config, 'classifier'),
    image_shape=dataset.image_shape,
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
  measured = [row['synthetic_ratio'] for row in rows if 'synthetic_ratio' in row]
  return result | {
    'eval_runtime': test['seconds'],
    'eval_samples_per_second': len(dataset.test) / test['seconds'],
    'eval_steps_per_second': -(-len(dataset.test) // evaluation.BATCH) / test['seconds'],
    'epoch': host['step'] * plan.num_real / len(dataset.train),
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
    # What the weights in the step really gave, not what was asked for.
    'effective_ratio': float(np.mean(measured)),
  }


def _write_predictions(path, scores, dataset):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    path,
    test_predictions=scores['eval']['predictions'],
    test_labels=dataset.test.labels,
    val_predictions=scores['val']['predictions'],
    val_labels=dataset.val.labels,
  )


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
  )
  return model, evaluation.make_evaluate(session, model, num_classes)


def evaluate_arms(session, dataset):
  """Evaluates the workdir's finished arms again.

  Returns:
    {arm: {split: scores}} for the splits 'val' and 'test', scores as `make_evaluator`.

  Raises:
    CheckpointError: if no arm is finished, or a checkpoint cannot be read.
  """
  model, evaluate = make_evaluator(session, dataset.num_classes)
  splits = {'val': dataset.val, 'test': dataset.test}
  scores = {}
  for name in session.config.arms:
    directory = session.path('arms', name)
    if not read_result(directory / 'result.json'):
      continue
    num_steps = config_lib.num_steps_of(session.config, 'classifier', len(dataset.train))
    optimizer = _optimizer(session, num_steps)
    state = _init_classifier(session, dataset, model, optimizer)
    with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
      state = checkpoints.restore_step(num_steps, session.layout.place(state))
    scores[name] = {
      split: evaluate(state.variables, rows) for split, rows in splits.items()
    }
  if not scores:
    raise CheckpointError(
      f'There is no trained classifier in {str(session.workdir)!r}; run or '
      'train-classifier first.'
    )
  return scores
