"""What must hold on an accelerator, and can only be seen on one.

    pytest -m accelerator

runs on whatever devices JAX finds, and is skipped where that is a CPU alone, unless
`GAN_AUG_JAX_REHEARSE` is set. Sums are in full float32 here, so that programs can be
compared that add in different orders: what is left is rounding, 1e-7, which a ReLU or a
maximum can enlarge from step to step.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax.config import default
from gan_aug_jax.step import programs, sharding
from gan_aug_jax.training import devices
from tests import tiny

ON_CPU = jax.devices()[0].platform == 'cpu'
pytestmark = [
  pytest.mark.accelerator,
  pytest.mark.skipif(
    ON_CPU and not os.environ.get('GAN_AUG_JAX_REHEARSE'), reason='needs an accelerator'
  ),
]
NUM_DEVICES = min(len(jax.devices()), 2 if ON_CPU else 8)
BATCH = 12 * NUM_DEVICES
STEPS, PER_CALL = 8, 4
TOLERANCE = 2e-3  # as in test_engine.py, for as many steps in float32


@pytest.fixture(autouse=True, scope='module')
def as_users_compile():
  """Undoes the suite's way to compile fast, which no accelerator should be judged by."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, before and ON_CPU)
  yield
  jax.config.update(name, before)


@pytest.fixture(autouse=True)
def in_full_precision():
  with jax.default_matmul_precision('highest'):
    yield


def _fused(toy, *, backend='jit', per_call=1, num_devices=NUM_DEVICES, **options):
  """The state and the metrics after `STEPS` fused steps."""
  options = {'batch_size': BATCH, 'ratio': 0.25, 'crop': 2, 'max_bytes': 0} | options
  where = tiny.layout(backend, num_devices)
  step, state, plan, frozen, ahead = tiny.fused_ahead(where, **options)
  return tiny.run(
    where,
    step,
    state,
    toy,
    count=plan.num_real,
    num_steps=STEPS,
    extra=(frozen,),
    per_call=per_call,
    draw_ahead=ahead,
  )


def _call(where, toy, *, per_call=PER_CALL, **options):
  """The program of a call, its first state, and what else it takes."""
  options = {'batch_size': BATCH, 'ratio': 0.25} | options
  step, state, plan, frozen, ahead = tiny.fused_ahead(where, **options)
  data = tiny.feed(where.replicate, toy)(0, plan.num_real * per_call * 4)
  state, frozen = where.replicate((state, frozen))
  inputs = where.replicated_int(per_call), data, frozen
  call = programs.repeat_step(step, per_call, ahead)
  return tiny.compile_step(call, where, state, *inputs), state, inputs


def test_memory_is_what_the_compiler_says(toy):
  """First in this file: a device counts its peak from the start of the process."""
  device, where = jax.devices()[0], tiny.layout('jit', 1)
  if 'peak_bytes_in_use' not in (device.memory_stats() or {}):
    pytest.skip('this device does not count its memory')
  program, state, inputs = _call(where, toy, batch_size=2048, ratio=0.5, per_call=16)
  before = device.memory_stats()['bytes_in_use']
  jax.block_until_ready(program(state, *inputs))
  used = device.memory_stats()['peak_bytes_in_use'] - before
  # The arguments were there before. Allocators round up, and XLA keeps some for itself.
  temporary = program.compiled.memory_analysis().temp_size_in_bytes
  assert 2**20 < 0.9 * temporary < used < 1.1 * program.peak_bytes + 2**26


@pytest.fixture(scope='module')
def singly(toy):
  """One step per call, each drawing for itself, on all devices under `jit`."""
  with jax.default_matmul_precision('highest'):
    return _fused(toy)


@pytest.mark.parametrize(
  'options',
  [
    pytest.param({'per_call': PER_CALL}, id='scanned'),
    pytest.param({'per_call': PER_CALL, 'max_bytes': 2**28}, id='drawn-ahead'),
    pytest.param({'per_call': PER_CALL, 'max_bytes': 2**13}, id='drawn-in-chunks'),
    pytest.param({'backend': 'pmap'}, id='pmap'),
    pytest.param({'num_devices': 1}, id='one-device'),
  ],
)
def test_steps_do_not_depend_on_how_they_are_run(toy, singly, options):
  state, metrics = _fused(toy, **options)
  assert np.ptp(metrics['loss']) > 0.01  # it did train
  assert tiny.difference(singly, (state, metrics)) < TOLERANCE


@pytest.mark.parametrize(
  'options', [{'per_call': PER_CALL}, {'backend': 'pmap'}], ids=['scanned', 'pmap']
)
def test_the_gan_does_not_depend_on_how_it_is_run(toy, options):
  def run(backend='jit', per_call=1):
    where = tiny.layout(backend, NUM_DEVICES)
    step, state = tiny.gan_step(where, batch_size=BATCH, r1=1.0, r2=1.0)
    return tiny.run(
      where, step, state, toy, count=BATCH, num_steps=STEPS, per_call=per_call
    )

  assert tiny.difference(run(), run(**options)) < TOLERANCE


def test_a_run_that_resumes_ends_with_the_same_bits(toy):
  """With `deterministic=True`: a GPU's fastest kernels add in any order."""
  config = default()
  config.deterministic = True
  found = jax.devices()[:NUM_DEVICES]
  where = sharding.make_layout('jit', found, devices.compiler_options(config, found))
  ends = []
  for resumes in (False, True):
    programs._kept.clear()  # a process that resumes compiles anew
    program, state, inputs = _call(where, toy)
    for number in range(4):
      if resumes and number == 2:
        state = where.replicate(jax.device_get(state))
        programs._kept.clear()
        program = _call(where, toy)[0]
      state, _ = program(state, *inputs)
    ends.append(jax.device_get(state))
  assert tiny.difference(*ends) == 0


@pytest.mark.parametrize('backend', ['jit', 'pmap'])
def test_a_call_transfers_nothing(toy, backend):
  where = tiny.layout(backend, NUM_DEVICES)
  program, state, inputs = _call(where, toy)
  state, _ = program(state, *inputs)
  with jax.transfer_guard('disallow'):
    for _ in range(3):
      state, metrics = program(state, *inputs)
    jax.block_until_ready((state, metrics))
  assert int(jax.device_get(state.step)) == 4 * PER_CALL


def test_bfloat16_trains_as_float32_does(toy, singly):
  _, metrics = _fused(toy, dtype=jnp.float32, compute=jnp.bfloat16)
  losses = np.mean(metrics['loss']), np.mean(singly[1]['loss'])
  assert np.isfinite(metrics['loss']).all() and abs(losses[0] - losses[1]) < 0.03
