"""Trains one arm with several seeds in one program: small classifiers leave it room.

The step of each seed is the one that it would take alone, under `vmap`; only the state,
the real images and what is frozen differ. What comes of a seed is written where a run of
it alone would have written it.
"""

import dataclasses
import hashlib

import jax
import numpy as np

from gan_aug_jax.experiment.arms import validate
from gan_aug_jax.generators import synthetic_source
from gan_aug_jax.training import checkpoint, fitting


@dataclasses.dataclass(frozen=True)
class Member:
  """One seed: its `runs.Run` of one arm, and what that draws from, or None."""

  run: object
  generator: object

  @property
  def arm(self):
    return self.run.arms[0]

  @property
  def session(self):
    return self.arm.session

  @property
  def dataset(self):
    return self.arm.dataset


def train(members, directory):
  """Trains an arm of several runs that differ in nothing but their seeds.

  Args:
    members: list of `Member`.
    directory: where their common checkpoints are kept.

  Raises:
    As `Arm.train`. A member whose loss is not finite ends the training of all.
  """
  first, count = members[0], len(members)
  session, name, evaluate = first.session, first.arm.name, first.arm.evaluator
  prepared = [
    synthetic_source.load_variables(member.session, member.dataset, member.generator)
    if member.arm.is_augmented
    else synthetic_source.SourceVariables()
    for member in members
  ]
  planned = [member.arm.plan_training(member.generator) for member in members]
  frozen = _stack([one.frozen for one in prepared])
  fingerprints = ''.join(member.dataset.fingerprint for member in members)

  def validate_each(_, state):
    states, place = jax.device_get(state), session.layout.place
    return {
      f'{i}/{field}': value
      for i, member in enumerate(members)
      for field, value in validate(
        evaluate, place(_take(states, i)), member.dataset
      ).items()
    }

  fitted = fitting.fit(
    dataclasses.replace(session, workdir=directory),
    directory,
    f'{name} x {count}',
    make_training([training for _, _, training in planned]),
    extra=(session.layout.place(frozen),),
    fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
    evaluate=validate_each,
  )
  fitted = dataclasses.replace(fitted, state=jax.device_get(fitted.state))
  for i, (member, (_, plan, _)) in enumerate(zip(members, planned, strict=True)):
    _finish(member, plan, prepared[i], _of_member(member, fitted, i, count))


def make_training(trainings):
  """Returns the `fitting.Training` of several that differ in nothing but their seeds."""
  first, count = trainings[0], len(trainings)
  return fitting.make_training(
    first.session,
    make_step(first.step_function, count),
    init=jax.vmap(first.init_function),
    seed=tuple(training.seed for training in trainings),
    feed=StackedFeed([training.feed for training in trainings], first.layout),
    cadence=first.cadence,
  )


def make_step(step, num_members):
  """Returns the step of several members: `(states, *inputs) -> (states, metrics)`.

  Args:
    step: of one.
    num_members: length of the leading axis of the states and inputs.

  Returns:
    A function whose metrics are named 'NUMBER/NAME'.
  """

  def together(states, *inputs):
    states, metrics = jax.vmap(step)(states, *inputs)
    return states, {
      f'{i}/{name}': values[i]
      for name, values in metrics.items()
      for i in range(num_members)
    }

  return together


class StackedFeed:
  """The feeds of several members, stacked anew only when a window is renewed."""

  def __init__(self, feeds, layout):
    """Prepares a feed.

    Args:
      feeds: the `fitting.Feed` of each.
      layout: where their steps run.
    """
    self._feeds, self._place = feeds, layout.place
    self._layout, self._held, self._stacked = layout, [], None

  def __call__(self, step, num_steps):
    data = [feed(step, num_steps) for feed in self._feeds]
    windows = [window for (window,) in data]
    known = len(self._held) == len(windows)
    if not known or any(x is not y for x, y in zip(windows, self._held, strict=True)):
      self._held, self._stacked = windows, self._place(_stack(data))
    return self._stacked

  def shapes(self, num_steps):
    """The shapes of what a call of that many steps takes."""
    count = len(self._feeds)
    stacked = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
    shapes = self._feeds[0].shapes(num_steps)
    return self._layout.shapes(jax.tree.map(stacked, shapes))


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))


def _take(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _of_member(member, fitted, i, num_members):
  """The `Fitted` of one member: its share of what the training took."""
  session = member.session
  host = {
    **fitted.host,
    'fingerprint': member.dataset.fingerprint,
    'config': session.config.to_dict(),
  }
  for name in ('train_seconds', 'compile_seconds', 'eval_seconds', 'peak_bytes'):
    host[name] = host[name] / num_members
  rows = []
  for row in fitted.rows:
    mine = {'step': row['step']}
    mine |= {k.removeprefix(f'{i}/'): v for k, v in row.items() if k.startswith(f'{i}/')}
    if 'step_ms' in row:
      mine['step_ms'] = row['step_ms'] / num_members
    rows.append(mine)
  return fitting.Fitted(session.layout.place(_take(fitted.state, i)), host, rows)


def _finish(member, plan, prepared, fitted):
  """Writes the files of a run that was trained alone."""
  session, directory = member.session, member.arm.directory
  directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    checkpoints.save(fitted.host['step'], state=fitted.state, host=fitted.host)
  file = fitting.make_metrics_file(session, directory, after_step=-1)
  for row in fitted.rows:
    file.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})
  member.arm.finish(plan, prepared, fitted)
