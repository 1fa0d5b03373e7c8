"""Real examples from the host give the steps of those on the device, and in parts."""

import jax
import numpy as np
import pytest

from gan_aug_jax.data.batches import HostBatches
from gan_aug_jax.step import plans, programs
from tests import tiny


def _stream(where, toy, plan, **options):
  return HostBatches(toy.train, plan, where, seed=0, **options)


def _run(where, step, state, feed, extra=(), *, num_steps=9, per_call=1, ahead=None):
  state, extra = tiny.put(where, state), where.replicate(extra)
  repeated = programs.repeat_step(step, per_call, ahead)
  count = where.replicated_int(per_call)
  inputs = lambda at: (count, feed(at, per_call), *extra)
  program = tiny.compile_step(repeated, where, state, *inputs(0))
  tiny.assert_only_all_reduces(program)
  losses = []
  for at in range(0, num_steps, per_call):
    state, metrics = program(state, *inputs(at))
    losses.append(jax.device_get(metrics))
  rows = {name: np.concatenate([row[name] for row in losses]) for name in losses[0]}
  return jax.device_get(state), rows


@pytest.mark.slow  # what a stream holds is in the fast tests
@pytest.mark.parametrize(
  ('backend', 'options'),
  [
    ('jit', {'ratio': 0.4, 'ramp': plans.Ramp('linear', 1, 8), 'arch': 'resnet'}),
    # 12 and 5 positions on 4 devices.
    ('pmap', {'ratio': 0.4, 'mode': 'add'}),
  ],
)
def test_fused_steps_take_the_same_examples_in_the_same_places(toy, backend, options):
  where = tiny.layout(backend)
  step, _, plan, frozen = tiny.fused(where, **options)
  begin = lambda: tiny.fused(where, **options)[1]
  usual = {'count': plan.num_real, 'num_steps': 9, 'extra': (frozen,)}
  expected = tiny.run(where, step, begin(), toy, place=plan.real_before, **usual)
  streamed = _run(where, step, begin(), _stream(where, toy, plan), (frozen,))
  assert tiny.difference(streamed, expected) < 1e-5
  calls = {'per_call': 3, 'ahead': tiny.fused_ahead(where, **options)[-1]}
  several = _run(where, step, begin(), _stream(where, toy, plan), (frozen,), **calls)
  assert tiny.difference(several, expected) < 1e-5


@pytest.mark.slow  # of the other step, what the test before guards
def test_gan_steps_of_two_updates_take_the_same_examples(toy):
  where = tiny.layout('jit', 2)
  step, state = tiny.gan_step(where, d_steps=2)
  plan = plans.plan_batch(12, ratio=0.0, mode='replace')
  expected = tiny.run(where, step, state, toy, count=24, num_steps=4)
  feed = _stream(where, toy, plan, substeps=2)
  assert tiny.difference(_run(where, step, state, feed, num_steps=4), expected) < 1e-5


def test_a_feed_begins_anywhere(toy):
  """What a resumed run takes, and one that goes back, as if nothing had been read."""
  where = tiny.layout('jit', 2)
  plan = plans.plan_batch(10, ratio=0.25, mode='replace')
  feed = _stream(where, toy, plan)
  whole = [jax.device_get(feed(step, 1)) for step in range(12)]
  again = _stream(where, toy, plan)
  for step in (7, 8, 2, 11):
    for mine, theirs in zip(
      jax.tree.leaves(jax.device_get(again(step, 1))),
      jax.tree.leaves(whole[step]),
      strict=True,
    ):
      np.testing.assert_array_equal(mine, theirs)
