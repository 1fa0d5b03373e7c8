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
from gan_aug_jax.training import checkpoint, loop, spec


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
  prepared = [
    synthetic_source.load_variables(member.session, member.dataset, member.generator)
    if member.arm.is_augmented
    else synthetic_source.SourceVariables()
    for member in members
  ]
  planned = [member.arm.plan_training(member.generator) for member in members]
  frozen = _stack([one.frozen for one in prepared])
  training = make_training([training for _, _, training in planned])
  trained = loop.train(
    training.with_frozen(first.session.layout.place(frozen)),
    directory,
    f'{first.arm.name} x {count}',
    _Validations(members),
  )
  trained = dataclasses.replace(trained, state=jax.device_get(trained.state))
  for i, (member, (_, plan, _)) in enumerate(zip(members, planned, strict=True)):
    _finish(member, plan, prepared[i], _of_member(member, trained, i, count))


@dataclasses.dataclass(frozen=True)
class _Validations(loop.Monitor):
  """Validates each member, all by the first one's compiled evaluator."""

  members: list[Member]

  def consider(self, step, state):
    del step
    states, scores, first = jax.device_get(state), {}, self.members[0]
    for i, member in enumerate(self.members):
      one = first.session.layout.place(_take(states, i))
      found = validate(first.arm.evaluator, one, member.dataset)
      scores |= {f'{i}/{field}': value for field, value in found.items()}
    return scores


def make_training(trainings):
  """Returns the `spec.Training` of several that differ in nothing but their seeds."""
  first, count = trainings[0], len(trainings)
  return spec.make_training(
    first.session,
    make_step(first.step_function, count),
    init=jax.vmap(first.init_function),
    seed=tuple(training.seed for training in trainings),
    batches=StackedBatches([training.batches for training in trainings], first.layout),
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


class StackedBatches:
  """The batches of several members, stacked anew only when a window is renewed."""

  def __init__(self, sources, layout):
    """Prepares a source.

    Args:
      sources: the `BatchSource` of each.
      layout: where their steps run.
    """
    self._sources, self._layout = sources, layout
    self._held, self._stacked = [None] * len(sources), None

  @property
  def fingerprint(self):
    joined = ''.join(source.fingerprint for source in self._sources)
    return hashlib.sha256(joined.encode()).hexdigest()

  def __call__(self, step, num_steps):
    windows = [source(step, num_steps) for source in self._sources]
    if any(x is not y for x, y in zip(windows, self._held, strict=True)):
      self._held, self._stacked = windows, self._layout.place(_stack(windows))
    return self._stacked

  def shapes(self, num_steps):
    """The shapes of what a call of that many steps takes."""
    count = len(self._sources)
    stacked = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
    shapes = self._sources[0].shapes(num_steps)
    return self._layout.shapes(jax.tree.map(stacked, shapes))


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))


def _take(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _of_member(member, trained, i, num_members):
  """The `Trained` of one member: its share of what the training took."""
  session = member.session
  shared = ('train_seconds', 'compile_seconds', 'eval_seconds', 'peak_bytes')
  progress = dataclasses.replace(
    trained.progress,
    fingerprint=member.dataset.fingerprint,
    config=session.config.to_dict(),
    **{name: getattr(trained.progress, name) / num_members for name in shared},
  )
  rows = []
  for row in trained.rows:
    mine = {'step': row['step']}
    mine |= {k.removeprefix(f'{i}/'): v for k, v in row.items() if k.startswith(f'{i}/')}
    if 'step_ms' in row:
      mine['step_ms'] = row['step_ms'] / num_members
    rows.append(mine)
  return loop.Trained(session.layout.place(_take(trained.state, i)), progress, rows)


def _finish(member, plan, prepared, trained):
  """Writes the files of a run that was trained alone."""
  session, directory = member.session, member.arm.directory
  directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    checkpoints.save(
      trained.progress.step, state=trained.state, host=trained.progress.to_json()
    )
  writers = loop.make_writers(session, directory, after_step=-1)
  for row in trained.rows:
    for writer in writers:
      writer.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})
  member.arm.finish(plan, prepared, trained)
