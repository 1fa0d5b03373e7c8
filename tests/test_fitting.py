"""Steps a call, precision and traces."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.step import device_data, plans
from gan_aug_jax.training import loop, spec, tracing, workdir
from tests import tiny

_COUNT = 8


def _make_training(session, toy, num_steps, last_from=None):
  """Of a step that counts the real examples it takes; a hundredfold in a last stage."""

  def step(state, data, times=1):
    place = state['step'] * _COUNT + jnp.arange(_COUNT)
    _, labels = device_data.gather_stream(data, place)
    rows = data.order[place - data.start]
    return {
      'step': state['step'] + 1,
      'seen': state['seen'].at[rows].add(times),
    }, {'loss': jnp.mean(labels.astype(jnp.float32))}

  def init(seed):
    return {'step': seed * 0, 'seen': jnp.zeros(len(toy.train), jnp.int32)}

  plan = plans.plan_batch(_COUNT, ratio=0.0, mode='replace')
  return spec.make_training(
    session,
    step,
    init=init,
    seed=0,
    batches=spec.make_batches(session, toy.train, plan),
    cadence=spec.make_cadence(session.config, 'classifier', num_steps),
    last_step=last_from and (last_from, functools.partial(step, times=100)),
  )


@pytest.mark.parametrize(
  ('per_call', 'num_steps'), [(1, 45), (5, 45), (10, 45), (10, 40), (50, 20)]
)
def test_any_steps_a_call_take_the_same_examples(toy, tmp_path, per_call, num_steps):
  """Small sets, lengths that do not divide, a stage that begins within a call."""
  config = config_lib.default()
  config.steps_per_call = per_call
  validation.validate(config)
  session = workdir.Session(config, tmp_path, tiny.layout('jit', 1), quiet=True)
  training = _make_training(session, toy, num_steps, last_from=17)
  trained = loop.train(training, tmp_path, 'test')
  assert int(trained.state['step']) == num_steps
  taken = num_steps * _COUNT
  orders = [device_data.epoch_order(0, epoch, len(toy.train)) for epoch in range(20)]
  rows = np.concatenate(orders)[:taken]
  weights = np.where(np.arange(taken) < 17 * _COUNT, 1, 100)
  expected = np.bincount(rows, weights, minlength=len(toy.train))
  np.testing.assert_array_equal(trained.state['seen'], expected)


@pytest.mark.parametrize('backend', ['jit', 'pmap'])
@pytest.mark.parametrize('placement', ['device', 'host'])
def test_shapes_of_batches_are_those_of_a_call(toy, tmp_path, placement, backend):
  config = config_lib.default()
  config.data.placement = placement
  session = workdir.Session(config, tmp_path, tiny.layout(backend, 2), quiet=True)
  plan = plans.plan_batch(_COUNT, ratio=0.25, mode='replace')
  batches = spec.make_batches(session, toy.train, plan, substeps=2)
  about = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)
  assert about(batches.shapes(3)) == about(batches(6, 3))


def test_training_begun_on_other_images_is_refused(toy, tmp_path):
  layout = tiny.layout('jit', 1)
  session = workdir.Session(config_lib.default(), tmp_path, layout, quiet=True)
  other = dataclasses.replace(toy, train=toy.train.rows(slice(None, None, -1)))
  train = lambda data: loop.train(_make_training(session, data, 3), tmp_path, 'x')
  train(toy)
  train(toy)
  with pytest.raises(CheckpointError, match='other images'):
    train(other)


@pytest.mark.slow  # the GAN in bfloat16 is in the next test
def test_bfloat16_computes_low_and_keeps_float32(toy):
  """Parameters, statistics and losses stay float32, and training goes the same way."""
  where = tiny.layout('jit', 1)
  losses = {}
  for dtype in (jnp.float32, jnp.bfloat16):
    step, state, plan, generator = tiny.fused(
      where, dtype=jnp.float32, compute=dtype, arch='resnet', crop=0
    )
    state, metrics = tiny.run(
      where, step, state, toy, count=plan.num_real, num_steps=50, extra=(generator,)
    )
    floats = [x for x in jax.tree.leaves(state) if np.issubdtype(x.dtype, np.inexact)]
    assert {x.dtype for x in floats} == {np.dtype(np.float32)}
    losses[dtype] = metrics['loss']
  assert losses[jnp.float32][-10:].mean() < losses[jnp.float32][:10].mean() - 0.05
  difference = np.abs(losses[jnp.bfloat16] - losses[jnp.float32])
  assert 0 < difference.mean() < 0.03  # three bfloat16 roundings of a loss about 1


def test_bfloat16_gan_keeps_float32_and_samples_alike(toy):
  where = tiny.layout('jit', 2)
  step, state = tiny.gan_step(where, compute=jnp.bfloat16)
  state, metrics = tiny.run(where, step, state, toy, count=12, num_steps=10)
  for leaf in jax.tree.leaves(state):
    assert leaf.dtype in (np.float32, np.int32)
  assert all(np.isfinite(values).all() for values in metrics.values())
  keys, labels = jax.random.split(jax.random.key(0), 64), jnp.arange(64) % tiny.CLASSES
  sample, variables = tiny.frozen_generator()
  low = tiny.frozen_generator(compute=jnp.bfloat16)[0]
  exact, rounded = sample(variables, keys, labels), low(variables, keys, labels)
  assert rounded.dtype == jnp.bfloat16
  # A pixel is of 256 levels, 1/128 apart; bfloat16 near 1 has steps of 1/128 to 1/256.
  error = float(jnp.sqrt(jnp.mean((exact - rounded.astype(jnp.float32)) ** 2)))
  assert error < 1 / 64 and float(jnp.std(exact)) > 0.1


def test_trace_holds_the_asked_steps_only(tmp_path, capsys):
  step = jax.jit(lambda x: x + 1)
  x = jnp.zeros(())
  with tracing.Tracer('3:4', tmp_path) as tracer:
    traced = []
    for at in range(8):
      with tracer.annotate(at, at + 1, x):
        x = step(x)
      traced.append(tracer._tracing)
  assert traced == [at in (3, 4) for at in range(8)]
  said = f'Trace: {tmp_path}; open it with tensorboard'
  assert capsys.readouterr().out.startswith(said)
  assert [path for path in tmp_path.rglob('*') if path.suffix in ('.pb', '.gz')]


def test_peak_memory_counts_state_and_data_once(toy):
  where = tiny.layout('jit', 1)
  step, state, plan, generator = tiny.fused(where)
  args = where.replicate(
    (state, tiny.feed(lambda x: x, toy)(0, plan.num_real), generator)
  )
  program = tiny.compile_step(step, where, *args)
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(args))
  assert held <= program.peak_bytes < 50 * held
