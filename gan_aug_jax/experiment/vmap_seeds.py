"""Trains one arm with several seeds in one program, where small classifiers leave room.

Each seed takes the step that it would take alone, under `vmap`; only the state, the real
images and the frozen models differ. The files of a seed are written where a run of that
seed alone would have written them.
"""

import dataclasses
import hashlib

import jax
import numpy as np

from gan_aug_jax.experiment import runs as runs_lib
from gan_aug_jax.experiment.arms import validate
from gan_aug_jax.generators import gan_training, synthetic_source
from gan_aug_jax.training import checkpoint, fitting


@dataclasses.dataclass(frozen=True)
class SeedRun:
  """One seed: its run of one arm, and the generator that it draws from, or None."""

  run: runs_lib.Run
  generator: gan_training.FrozenGenerator | None

  @property
  def arm(self):
    return self.run.arms[0]

  @property
  def dataset(self):
    return self.run.dataset

  def prepare(self):
    if not self.arm.is_augmented:
      return synthetic_source.NOTHING
    return synthetic_source.prepare(self.run.session, self.dataset, self.generator)


def train(seed_runs, directory) -> None:
  """Trains an arm of several runs that differ only in their seeds.

  Args:
    seed_runs: list of `SeedRun`.
    directory: of the checkpoints that they share.

  Raises:
    As `fitting.fit`. A non-finite loss of one seed ends the training of all.
  """
  count, arm = len(seed_runs), seed_runs[0].arm
  session, place = arm.session, arm.session.layout.place
  prepared = [one.prepare() for one in seed_runs]
  trainings = [one.arm.setup(one.generator).training for one in seed_runs]
  fingerprints = ''.join(one.dataset.fingerprint for one in seed_runs)

  def validate_each(_, states):
    states = jax.device_get(states)
    return {
      f'{i}/{field}': value
      for i, one in enumerate(seed_runs)
      for field, value in validate(
        arm.evaluator, place(_take(states, i)), one.dataset
      ).items()
    }

  fitted = fitting.fit(
    dataclasses.replace(session, workdir=directory),
    directory,
    f'{arm.name} x {count}',
    _vmap_training(trainings),
    extra=(place(_stack([one.frozen for one in prepared])),),
    fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
    evaluate=validate_each,
  )
  fitted = dataclasses.replace(fitted, state=jax.device_get(fitted.state))
  for i, one in enumerate(seed_runs):
    _finish(one.arm, prepared[i], _fitted_seed(one, fitted, i, count))


def _vmap_training(trainings):
  """Joins `fitting.Training`s that differ only in their seeds into one."""
  first = trainings[0]
  return fitting.make_training(
    first.session,
    vmap_step(first.step_function, len(trainings)),
    init=jax.vmap(first.init_function),
    seed=tuple(training.seed for training in trainings),
    feed=StackedFeed([training.feed for training in trainings], first.layout),
    cadence=first.cadence,
  )


def vmap_step(step, num_seeds):
  """Returns the step of several seeds: `(states, *inputs) -> (states, metrics)`.

  Args:
    step: of one seed.
    num_seeds: length of the leading axis of the states and inputs.

  Returns:
    A function whose metrics are named 'NUMBER/NAME'.
  """

  def vmapped(states, *inputs):
    states, metrics = jax.vmap(step)(states, *inputs)
    return states, {
      f'{i}/{name}': values[i]
      for name, values in metrics.items()
      for i in range(num_seeds)
    }

  return vmapped


class StackedFeed:
  """The feeds of several seeds; stacks their windows again only when one changes."""

  def __init__(self, feeds, layout):
    """Takes the feeds.

    Args:
      feeds: the `fitting.Feed` of each seed.
      layout: where the step runs.
    """
    self._feeds, self._layout = feeds, layout
    self._windows, self._stacked = [None] * len(feeds), None

  def __call__(self, step, num_steps):
    data = [feed(step, num_steps) for feed in self._feeds]
    windows = [window for (window,) in data]
    if any(x is not y for x, y in zip(windows, self._windows, strict=True)):
      self._windows, self._stacked = windows, self._layout.place(_stack(data))
    return self._stacked


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))


def _take(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _fitted_seed(seed_run, fitted, i, num_seeds):
  """The `Fitted` of one seed, with an equal share of the time and memory."""
  session = seed_run.run.session
  host = {
    **fitted.host,
    'fingerprint': seed_run.dataset.fingerprint,
    'config': session.config.to_dict(),
  }
  for name in ('train_seconds', 'compile_seconds', 'eval_seconds', 'peak_bytes'):
    host[name] = host[name] / num_seeds
  rows = []
  for row in fitted.rows:
    mine = {'step': row['step']}
    mine |= {k.removeprefix(f'{i}/'): v for k, v in row.items() if k.startswith(f'{i}/')}
    if 'step_ms' in row:
      mine['step_ms'] = row['step_ms'] / num_seeds
    rows.append(mine)
  return fitting.Fitted(session.layout.place(_take(fitted.state, i)), host, rows)


def _finish(arm, prepared, fitted):
  """Writes the files of an arm as if it had been trained alone."""
  arm.directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(arm.directory / 'checkpoints') as checkpoints:
    checkpoints.save(fitted.host['step'], state=fitted.state, host=fitted.host)
  file = fitting.make_metrics_file(arm.session, arm.directory, after_step=-1)
  for row in fitted.rows:
    file.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})
  arm.finish(prepared, fitted)
