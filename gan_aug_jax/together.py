"""Trains one arm with several seeds in one program: small classifiers leave it room.

The step of each seed is the one that it would take alone, under `vmap`; only the state,
the real images and what is frozen differ. What comes of a seed is written where a run of
it alone would have written it.
"""

import dataclasses
import functools
import hashlib

import jax
import numpy as np

from gan_aug_jax import arms, checkpoint, fitting, policies


@dataclasses.dataclass(frozen=True)
class Member:
  """One seed: its session, its dataset, and the generator that it draws from, or None."""

  session: object
  dataset: object
  generator: object


def train(members, name, directory):
  """Trains an arm of several runs that differ in nothing but their seeds.

  Args:
    members: list of `Member`.
    name: of the arm.
    directory: where their common checkpoints are kept.

  Raises:
    As `arms.train_arm`. A member whose loss is not finite ends the training of all.
  """
  first = members[0]
  evaluator = arms.make_evaluator(first.session, first.dataset.num_classes)
  evaluate = evaluator[1]
  trainings = [_training(member, name, evaluator) for member in members]
  shared = trainings[0]
  num_members, place = range(len(members)), first.session.layout.place
  fingerprints = ''.join(member.dataset.fingerprint for member in members)

  def validate(_, state):
    states = jax.device_get(state)
    return {
      f'{i}/{field}': value
      for i in num_members
      for field, value in arms.validate(
        evaluate, place(_take(states, i)), members[i].dataset
      ).items()
    }

  fitted = fitting.fit(
    dataclasses.replace(first.session, workdir=directory),
    directory,
    f'{name} x {len(members)}',
    step=make_step(shared.step, len(members)),
    state=_stack([training.state for training in trainings]),
    num_steps=shared.num_steps,
    feed=stack_feeds([training.feed for training in trainings], place),
    fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
    evaluate=validate,
  )
  fitted = dataclasses.replace(fitted, state=jax.device_get(fitted.state))
  for i, (member, training) in enumerate(zip(members, trainings, strict=True)):
    alone = _of_member(member, fitted, i, len(members))
    _finish(member, name, training, alone, evaluate)


def _training(member, name, evaluator):
  prepare = functools.partial(
    policies.prepare, member.session, member.dataset, member.generator
  )
  return arms.make_training(member.session, member.dataset, name, prepare, evaluator)


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


def stack_feeds(feeds, place):
  """Returns the feed of several members, stacked anew only when a window is renewed.

  Args:
    feeds: of each.
    place: puts host arrays on the devices.
  """
  held, stacked = [], None

  def feed(step, num_steps):
    nonlocal held, stacked
    parts = [each(step, num_steps) for each in feeds]
    data = [part[0] for part in parts]
    if not held or any(new is not old for new, old in zip(data, held, strict=True)):
      # Frozen variables last, the real data with its window does not.
      rest = stacked[1:] if stacked else place(_stack([part[1:] for part in parts]))
      held, stacked = data, (place(_stack(data)), *rest)
    return stacked

  return feed


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


def _finish(member, name, training, fitted, evaluate):
  """Writes the files of a run that was trained alone."""
  session, directory = member.session, member.session.path('arms', name)
  directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    checkpoints.save(training.num_steps, state=fitted.state, host=fitted.host)
  file = fitting.make_metrics_file(session, directory, after_step=-1)
  for row in fitted.rows:
    file.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})
  arms.finish_arm(session, member.dataset, name, training, fitted, evaluate)
