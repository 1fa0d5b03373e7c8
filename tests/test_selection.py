"""Which generators are kept, and drawing from several of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config
from gan_aug_jax.generators import candidates
from gan_aug_jax.generators.selection import Selection
from gan_aug_jax.step import rng, sampling, sharding
from gan_aug_jax.training.workdir import Session
from tests import tiny

SCORES = {
  10: {'cas': 0.5, 'cas_loss': 2.0, 'frechet': 9.0},
  20: {'cas': 0.7, 'cas_loss': 1.5, 'frechet': 3.0},
  30: {'cas': 0.7, 'cas_loss': 1.1, 'frechet': 5.0},
  40: {'cas': 0.6, 'cas_loss': 0.9, 'frechet': 3.0},
}


def _select(by, steps=(), after=0):
  return Selection(
    by,
    freeze=lambda state: {'params': state},
    score=lambda step, variables: SCORES[step],
    steps=steps,
    after=after,
  )


def test_an_earlier_stage_has_no_candidate_but_the_steps_that_are_named():
  """A flow before reflow may score better with the evaluations of another sampler."""
  selection, again = _select('cas', (20,), after=30), _select('cas', (20,), after=30)
  for step in (10, 20, 30):
    assert selection.consider(step, f'state {step}') == {}
  assert selection.kept == {'step20': {'params': 'state 20'}} and not selection.history
  record = json.loads(json.dumps(selection.record()))
  assert [*again.kept_shapes(record)] == ['step20']
  again.resume(record, selection.kept)
  assert again.consider(40, 'state 40') == SCORES[40]
  assert again.chosen['step'] == 40 and sorted(again.kept) == ['chosen', 'step20']


@pytest.mark.parametrize('at_once', [7, 10_000])
def test_a_replay_of_any_training_images_is_memorised(
  at_once, toy, tmp_path, monkeypatch
):
  """Wherever in the training split they are: it is compared in blocks."""
  monkeypatch.setattr(candidates, '_AT_ONCE', at_once)
  session = Session(config.default(), tmp_path, tiny.layout('jit', 1), quiet=True)
  session.config.generator.select = 'last'
  score = candidates.Scores(session, tmp_path, toy, draw=None)
  assert score({}, toy.train, is_only=True)['memorised'] == 1
  noise = np.random.default_rng(0).integers(0, 256, toy.train.images.shape, np.uint8)
  drawn = dataclasses.replace(toy.train, images=noise)
  assert score({}, drawn, is_only=True)['memorised'] < 0.2


def test_frechet_compares_with_as_many_real_images_of_each_class(toy):
  """Or a generator that ignores the label and draws common classes would be closest."""
  rare = np.r_[
    np.flatnonzero(toy.train.labels != 1), np.flatnonzero(toy.train.labels == 1)[:2]
  ]
  split = toy.train.rows(rare)
  balanced = candidates._balanced(split, 30, toy.num_classes)
  assert np.bincount(balanced.labels).tolist() == [10] * toy.num_classes
  known = {(x.tobytes(), y) for x, y in zip(split.images, split.labels, strict=True)}
  pairs = zip(balanced.images, balanced.labels, strict=True)
  assert {(x.tobytes(), y) for x, y in pairs} <= known


@pytest.mark.parametrize(('by', 'best'), [('cas', 30), ('frechet', 20), ('last', 40)])
def test_the_most_useful_is_kept_and_all_are_recorded(by, best):
  selection = _select(by, steps=(10, 40))
  for step in SCORES:
    selection.consider(step, f'state {step}')
  assert selection.chosen['step'] == best
  assert selection.kept == {
    'chosen': {'params': f'state {best}'},
    'step10': {'params': 'state 10'},
    'step40': {'params': 'state 40'},
  }
  assert selection.history == [{'step': step, **SCORES[step]} for step in SCORES]


@pytest.mark.parametrize('by', ['cas', 'frechet', 'last'])
@pytest.mark.parametrize('stop', [0, 1, 2, 3, 4])
def test_resumed_selection_equals_an_uninterrupted_one(by, stop):
  whole, first, second = (_select(by, steps=(10,)) for _ in range(3))
  for step in SCORES:
    whole.consider(step, step)
  for step in list(SCORES)[:stop]:
    first.consider(step, step)
  record = json.loads(json.dumps(first.record()))
  assert [*first.kept_shapes(record)] == sorted(first.kept)
  second.resume(record, first.kept)
  for step in list(SCORES)[stop:]:
    second.consider(step, step)
  assert (second.kept, second.history) == (whole.kept, whole.history)


def test_a_discriminator_that_wins_for_long_and_a_collapse_are_reported():
  def rows(*accuracies):
    return [
      {'step': 10 * (i + 1), 'real_accuracy': real, 'fake_accuracy': fake}
      for i, (real, fake) in enumerate(accuracies)
    ]

  def warnings(found, diversity=1.0, step=100):
    return candidates.warnings(found, [{'step': step, 'diversity': diversity}], 100)

  wins, balanced = (1.0, 0.995), (1.0, 0.9)
  (warning,) = warnings(rows(balanced, wins, wins, wins))
  assert 'won outright since step 20' in warning
  (warning,) = warnings(rows(wins, wins, wins, balanced))  # it has recovered
  assert 'won outright from step 10 to step 30' in warning
  assert not warnings(rows(balanced, balanced, wins, wins))  # not for a fifth of the run
  between = [{'step': 15, 'cas': 0.5}]  # a line of scores alone is no defeat
  lines = rows(balanced, wins, wins, wins)
  assert len(warnings(lines[:2] + between + lines[2:])) == 1
  (warning,) = warnings([], diversity=0.1)
  assert 'at step 100 the images of a class differ 0.10 times' in warning
  assert not warnings([], diversity=0.1, step=20)  # early images are all alike
  # A generator of the user's may have a metric of this name, and not the other one.
  assert not warnings([{'step': 50, 'real_accuracy': 1.0}])


def test_a_collapse_after_the_chosen_checkpoint_is_reported():
  def warnings(*diversities, chosen_step):
    history = [
      {'step': 25 * (i + 1), 'diversity': diversity}
      for i, diversity in enumerate(diversities)
    ]
    return candidates.warnings([], history, 100, chosen_step=chosen_step)

  (warning,) = warnings(0.9, 0.8, 0.2, 0.1, chosen_step=25)
  assert 'at 2 checkpoints from step 75 to 100' in warning and 'differ 0.10' in warning
  assert warning.endswith('may have collapsed (chosen: step 25).')
  (warning,) = warnings(0.1, 0.8, 0.9, 0.9, chosen_step=25)  # early, but it was chosen
  assert warning.startswith('at step 25 ') and 'chosen:' not in warning
  assert not warnings(0.1, 0.8, 0.9, 0.9, chosen_step=50)
  assert not warnings(0.9, 0.9, 0.9, 0.9, chosen_step=50)


def _members(count):
  """Generators that paint their own number, and what is drawn from each."""
  variables = {'params': {'number': jnp.arange(count, dtype=jnp.float32)}}

  def sample(variables, keys, labels):
    noise = jax.vmap(lambda key: jax.random.uniform(key, (2, 2, 1)))(keys)
    return variables['params']['number'] + 0.1 * labels[:, None, None, None] + 0 * noise

  return sample, variables


@pytest.mark.parametrize('num_members', [2, 3, 4])
@pytest.mark.parametrize(
  ('backend', 'num_devices'), [('jit', 1), ('jit', 2), ('jit', 3), ('pmap', 4)]
)
def test_position_p_is_drawn_from_generator_p_mod_g(backend, num_devices, num_members):
  where = tiny.layout(backend, num_devices)
  sample, variables = _members(num_members)
  together = sampling.make_ensemble(sample, num_members, where)

  def draw(variables):
    position = where.positions(14)
    keys = sharding.flatten(rng.example_keys(rng.stream_key(0, 'latent'), position))
    labels = sharding.flatten(position % 3)
    images = together(variables, keys, labels)
    return where.all_gather(images)

  program = tiny.compile_step(draw, where, where.replicate(variables), donate=())
  painted = np.asarray(program(where.replicate(variables)))[:14, 0, 0, 0]
  position = np.arange(14)
  np.testing.assert_allclose(painted, position % num_members + 0.1 * (position % 3))


def test_each_device_runs_generators_on_its_share_only():
  where, calls = tiny.layout('jit', 4), []
  sample, variables = _members(2)

  def counting(variables, keys, labels):
    calls.append(len(labels))
    return sample(variables, keys, labels)

  together = sampling.make_ensemble(counting, 2, where)
  keys = jax.random.split(jax.random.key(0), 12)
  jax.jit(together).lower(variables, keys, jnp.zeros(12, jnp.int32))
  assert sum(calls) == 12 / 4  # the other devices run the same program
