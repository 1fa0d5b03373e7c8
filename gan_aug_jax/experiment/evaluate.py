"""Evaluates the finished arms of a run again."""

import jax
import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import arms, recipe, schedule
from gan_aug_jax.step import classifier_state
from gan_aug_jax.training import checkpoint


def finished_arms(session, name='') -> dict[str, dict]:
  """Returns {arm: its result.json} of the finished arms of a workdir.

  Args:
    name: of an arm that must be among them; empty if any will do.

  Raises:
    CheckpointError: if that arm, or every arm, is not finished.
  """
  results = {
    arm: result
    for arm in session.config.arms
    if (result := arms.finished_result(session.path('arms', arm)))
  }
  if not results or (name and name not in results):
    which = f'finished classifier {name!r}' if name else 'finished classifier'
    raise CheckpointError(
      f'There is no {which} in {str(session.workdir)!r}; start run or train-classifier, '
      'or start it again.'
    )
  return results


def restore_arm(session, name, facts: DataFacts) -> classifier_state.ClassifierState:
  """Reads the state of a finished arm's classifier, and places it.

  Raises:
    CheckpointError: if the checkpoint cannot be read, or is of other images.
  """
  config, model = session.config, recipe.build_model(session, facts)
  synthetic = config_lib.is_augmented(config, name)
  num_steps = schedule.num_steps_of_arm(config, facts.num_train, synthetic=synthetic)
  optimizer = recipe.make_optimizer(session, num_steps)
  init = recipe.make_init(
    session, model, optimizer, facts.image_shape, synthetic=synthetic
  )
  state = session.layout.replicated_shapes(jax.eval_shape(init, np.int32(0)))
  with checkpoint.Checkpoints(session.path('arms', name, 'checkpoints')) as checkpoints:
    restored, record = checkpoints.restore_step(num_steps, state)
  arms.check_images(session.path('arms', name), record, facts)
  return restored


def evaluate_arms(session, dataset) -> dict:
  """Evaluates the finished arms of a workdir again.

  Args:
    dataset: the data that its arms were trained on.

  Returns:
    {arm: {split: scores}}, with scores as an `evaluators.Evaluator` gives them. The
    splits are 'val' and, except in a search, 'test'.

  Raises:
    CheckpointError: if no arm is finished, or if a checkpoint cannot be read or is of
      other images.
  """
  model = recipe.build_model(session, dataset.facts)
  splits = {'val': dataset.val}
  if session.config.data.test_on == 'test':
    splits['test'] = dataset.test
  evaluate = evaluators.Evaluator(session, model, largest=max(map(len, splits.values())))
  scores = {}
  for name, result in finished_arms(session).items():
    arms.check_images(session.path('arms', name), result, dataset.facts)
    state = restore_arm(session, name, dataset.facts)
    scores[name] = {
      split: evaluate(state.evaluated, rows) for split, rows in splits.items()
    }
  return scores
