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
from gan_aug_jax.experiment.arms import finished_result, validate
from gan_aug_jax.generators.frozen import FrozenGenerator
from gan_aug_jax.step import programs
from gan_aug_jax.training import checkpoint, loop, spec


@dataclasses.dataclass(frozen=True)
class SeedRun:
  """One seed: its run of one arm, and the generator that it draws from, or None."""

  run: runs_lib.Run
  generator: FrozenGenerator | None

  @property
  def arm(self):
    return self.run.arms[0]

  @property
  def dataset(self):
    return self.run.dataset


def train(seed_runs, directory) -> None:
  """Trains an arm of several runs that differ only in their seeds.

  Args:
    seed_runs: list of `SeedRun`.
    directory: of the checkpoints that they share.

  Raises:
    As `loop.train`. A non-finite loss of one seed ends the training of all.
  """
  count, arm = len(seed_runs), seed_runs[0].arm
  source_variables = [one.run.load_variables(one.arm, one.generator) for one in seed_runs]
  trainings = [one.arm.training(one.generator) for one in seed_runs]
  frozen = arm.session.layout.replicate(_stack([one.frozen for one in source_variables]))
  training = vmap_training(trainings).with_frozen(frozen)
  name = f'{arm.name} x {count}'
  trained = loop.train(training, directory, name, _Validations(seed_runs))
  trained = dataclasses.replace(trained, state=jax.device_get(trained.state))
  for i, one in enumerate(seed_runs):
    if not finished_result(one.arm.directory):  # before an interruption
      _finish(one, source_variables[i], _trained_seed(one, trained, i, count))


@dataclasses.dataclass(frozen=True)
class _Validations(loop.Monitor):
  """Validates each seed, all with the evaluator that the first one compiled."""

  seed_runs: list[SeedRun]

  def consider(self, step, state) -> dict[str, float]:
    del step
    scores, first = {}, self.seed_runs[0].arm
    # Without what no evaluation reads, as all of it goes through the host.
    states = jax.device_get(state.replace(opt_state=(), pool=()))
    for i, one in enumerate(self.seed_runs):
      placed = first.session.layout.replicate(_take(states, i))
      found = validate(first.evaluator, placed, one.dataset)
      scores |= {f'{i}/{field}': value for field, value in found.items()}
    return scores


def vmap_training(trainings: list[spec.Training]) -> spec.Training:
  """Joins trainings that differ only in their seeds into one."""
  first = trainings[0]
  (stage,) = first.stages
  return spec.make_training(
    first.session,
    vmap_step(stage.step, len(trainings)),
    init=jax.vmap(first.init_function),
    seed=tuple(training.seed for training in trainings),
    batches=StackedBatches([training.batches for training in trainings], first.layout),
    cadence=first.cadence,
    draw_ahead=first.draw_ahead and vmap_draw_ahead(first.draw_ahead),
  )


def vmap_step(step, num_seeds):
  """Returns the step of several seeds: `(states, *inputs) -> (states, metrics)`.

  Args:
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


def vmap_draw_ahead(draw_ahead: programs.DrawAhead) -> programs.DrawAhead:
  """Returns what draws ahead for several seeds, from that of one."""

  def draw(states, num_steps, *inputs):
    draw_one = lambda state, *inputs: draw_ahead.draw(state, num_steps, *inputs)
    return jax.vmap(draw_one)(states, *inputs)

  return dataclasses.replace(draw_ahead, draw=draw)


class StackedBatches:
  """The batches of several seeds; stacks again only what has changed since the last call.

  That is the order and its place, about once an epoch; the images are stacked once.
  """

  def __init__(self, sources, layout):
    """Takes the sources.

    Args:
      sources: the `BatchSource` of each seed.
    """
    self._sources, self._layout = sources, layout
    self._held = {}  # number of a leaf: (the arrays of all seeds, stacked)

  @property
  def fingerprint(self) -> str:
    joined = ''.join(source.fingerprint for source in self._sources)
    return hashlib.sha256(joined.encode()).hexdigest()

  def __call__(self, step, num_steps):
    windows = [source(step, num_steps) for source in self._sources]
    leaves = list(zip(*map(jax.tree.leaves, windows), strict=True))
    for i, arrays in enumerate(leaves):
      before, _ = self._held.get(i, ([None] * len(arrays), None))
      if any(x is not y for x, y in zip(arrays, before, strict=True)):
        self._held[i] = arrays, self._layout.replicate(_stack(arrays))
    stacked = [self._held[i][1] for i in range(len(leaves))]
    return jax.tree.unflatten(jax.tree.structure(windows[0]), stacked)


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))


def _take(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _trained_seed(seed_run, trained, i, num_seeds):
  """The `Trained` of one seed, with an equal share of the time and memory."""
  layout = seed_run.run.session.layout
  shared = (*loop.SECONDS, 'peak_bytes')
  progress = dataclasses.replace(
    trained.progress,
    fingerprint=seed_run.dataset.fingerprint,
    **{name: getattr(trained.progress, name) / num_seeds for name in shared},
  )
  rows = []
  for row in trained.rows:
    mine = {'step': row['step']}
    mine |= {k.removeprefix(f'{i}/'): v for k, v in row.items() if k.startswith(f'{i}/')}
    if 'step_ms' in row:
      mine['step_ms'] = row['step_ms'] / num_seeds
    rows.append(mine)
  return loop.Trained(layout.replicate(_take(trained.state, i)), progress, rows)


def _finish(seed_run, source_variables, trained):
  """Writes the files of an arm as if it had been trained alone."""
  arm = seed_run.arm
  arm.directory.mkdir(parents=True, exist_ok=True)
  progress = trained.progress
  with checkpoint.Checkpoints(arm.directory / 'checkpoints') as checkpoints:
    checkpoints.save(progress.step, state=trained.state, progress=progress.to_json())
  writers = loop.make_writers(arm.session, arm.directory, after_step=-1)
  for row in trained.rows:
    for writer in writers:
      writer.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})
  arm.finish(seed_run.generator, source_variables, trained)
