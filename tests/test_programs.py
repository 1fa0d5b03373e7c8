"""Programs: compiled once in a process, ahead of use; shorter calls of one program."""

import concurrent.futures
import dataclasses
import pathlib
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax.config import default
from gan_aug_jax.experiment import arms
from gan_aug_jax.generators import synthetic_source
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.step import classifier, programs, sharding
from gan_aug_jax.step.programs import Program
from gan_aug_jax.step.synthesis import FrozenModels, Networks
from gan_aug_jax.training import spec
from gan_aug_jax.training.workdir import Session
from tests import tiny


@pytest.fixture
def compiled(monkeypatch):
  """The names of what XLA compiles, in order."""
  names, real = [], programs._compile_with

  def compile_with(lowered, *options):
    names.append(lowered.as_text().split('@')[1].split()[0])
    return real(lowered, *options)

  monkeypatch.setattr(programs, '_compile_with', compile_with)
  return names


@pytest.fixture
def accelerator(monkeypatch):
  """Takes the CPU for an accelerator."""
  monkeypatch.setattr(sharding.Layout, 'on_cpu', False)


@pytest.mark.parametrize('backend', ['jit', 'pmap'])
def test_programs_with_the_same_text_are_compiled_once(compiled, backend):
  where = tiny.layout(backend, 2)
  unusual = 7.123 + (backend == 'pmap')

  def make(constant, table):
    # Made anew each time, as the arms and cells of a process do.
    return lambda x: {'y': x * constant + jnp.asarray(table)[1]}

  x = where.replicate(np.float32(2))
  tables = np.float32([1, 2]), np.float32([1, 3])
  first, again = (
    Program(make(unusual, tables[0]), where, donate=())(x)['y'] for _ in range(2)
  )
  assert len(compiled) == 1 and float(first) == float(again)
  # Neither another number, nor other numbers in a table, nor another tree is the same.
  other = Program(make(unusual, tables[1]), where, donate=())(x)['y']
  assert float(other) == pytest.approx(float(first) + 1) and len(compiled) == 2
  renamed = Program(lambda x: [make(unusual, tables[0])(x)['y']], where, donate=())(x)
  assert isinstance(renamed, list)
  elsewhere = tiny.layout(backend, 1)
  y = Program(make(unusual, tables[0]), elsewhere, donate=())(
    elsewhere.replicate(np.float32(2))
  )
  assert y['y'].sharding.device_set == set(elsewhere.mesh.devices.flat)


def test_what_is_started_is_compiled_beside_its_user(compiled, accelerator):
  where, threads = tiny.layout('jit', 1), []

  def double(x):
    threads.append(threading.current_thread())
    return 2.125 * x

  program = Program(double, where, donate=())
  program.start(where.replicated_shapes(np.zeros(3, np.float32)))
  program.compile(where.replicate(np.zeros(3, np.float32)))
  np.testing.assert_array_equal(program(where.replicate(np.ones(3, np.float32))), 2.125)
  assert len(compiled) == 1 and len(threads) == 1
  with pytest.raises(TypeError):  # not compiled behind the user's back
    program(where.replicate(np.ones(4, np.float32)))


@pytest.mark.parametrize('per_call', [1, 2])
def test_a_metric_may_be_a_number_of_python(per_call):
  step = lambda state: (state + 1, {'loss': 0.5})
  state, metrics = jax.jit(programs.repeat_step(step, per_call))(0, per_call)
  assert state == per_call
  np.testing.assert_array_equal(metrics['loss'], [0.5] * per_call)


def test_operations_of_a_loop_are_those_of_all_its_turns(monkeypatch, toy):
  """The discriminator's updates are one on an accelerator; XLA counts one turn."""
  fields, counted = default(), []
  tiny_gan = {'gan.arch': 'mlp', 'gan.width': 8, 'gan.d_steps': 5}
  fields.update_from_flattened_dict(tiny_gan | {'generator.num_steps': 10})
  for on_cpu in (True, False):
    monkeypatch.setattr(sharding.Layout, 'on_cpu', on_cpu)
    session = Session(fields, pathlib.Path('unused'), tiny.layout(num_devices=1))
    counted.append(GeneratorTraining(session, toy).training.operations())
  assert counted[0] == counted[1] > 0


def test_what_is_needed_now_does_not_wait_in_the_queue(accelerator, monkeypatch):
  """And what nobody needs any more is given up."""
  threads = concurrent.futures.ThreadPoolExecutor(1)
  monkeypatch.setattr(programs, '_threads', threads)
  go, where = threading.Event(), tiny.layout('jit', 1)
  x = where.replicate(np.float32(1))

  def slow(x):
    go.wait(60)
    return x + 1

  def unwanted(x):
    raise AssertionError('it was traced')

  with programs.ahead():
    first = Program(slow, where, donate=())
    second = Program(lambda x: x + 3.5, where, donate=())
    for program in (first, second, Program(unwanted, where, donate=())):
      program.start(x)
    assert float(second(x)) == 4.5  # while the only thread is busy
  go.set()
  assert float(first(x)) == 2
  threads.shutdown()


def test_an_error_of_a_thread_reaches_the_user(accelerator):
  where = tiny.layout('jit', 1)

  def wrong(x):
    raise ValueError('no such shape')

  x = where.replicate(np.float32(1))
  with pytest.raises(ValueError, match='no such shape'):
    program = Program(wrong, where, donate=())
    program.start(x)
    program(x)


def test_flags_of_the_user_are_kept(monkeypatch):
  where = tiny.layout('jit', 1)
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=1')
  assert 'xla_backend_optimization_level' not in programs._preferences(where, True)
  assert programs._preferences(where, True)
  flag = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT'
  monkeypatch.setenv('XLA_FLAGS', flag)
  assert programs._preferences(where, False) == {}


def test_an_option_of_a_layout_is_compiled_with_or_refused(compiled):
  double = lambda x: 2 * x + 0.123
  plain = tiny.layout('jit', 1)
  for options in ({}, {'xla_cpu_enable_fast_min_max': True}):  # of another program
    where = sharding.make_layout('jit', jax.devices()[:1], options)
    Program(double, where, donate=())(plain.replicate(np.float32(1)))
  assert len(compiled) == 2
  unknown = sharding.make_layout('jit', jax.devices()[:1], {'xla_gpu_no_such': True})
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_gpu_no_such'):
    Program(double, unknown, donate=())(plain.replicate(np.float32(1)))


def test_a_preference_that_this_xla_lacks_costs_no_other(monkeypatch):
  """Newer releases lost an option of ours; without the rest, compiling takes long."""
  asked, compile_with = [], jax.stages.Lowered.compile

  def record(lowered, compiler_options):
    asked.append(compiler_options)
    return compile_with(lowered, compiler_options)

  monkeypatch.setattr(jax.stages.Lowered, 'compile', record)
  monkeypatch.setitem(programs._RUNS_ONCE, 'xla_cpu_no_such', True)
  where = tiny.layout('jit', 1)
  program = Program(lambda x: 3 * x + 0.456, where, donate=(), runs_once=True)
  program(where.replicate(np.float32(1)))
  first, *_, last = asked
  assert 'xla_cpu_no_such' in first and 'xla_cpu_no_such' not in last
  assert last['xla_backend_optimization_level'] == 0


def test_steps_a_call_are_a_constant_that_divides_the_cadences(monkeypatch, tmp_path):
  config = default()
  session = Session(config, tmp_path, tiny.layout('jit', 1))
  steps = lambda *cadence: spec.steps_per_call(session, spec.Cadence(*cadence))
  assert steps(1000, 50, 100, 200) == 1  # on a CPU
  assert steps(1000, 50, 100, 200, 1, True) == 50  # without convolutions
  monkeypatch.setattr(sharding.Layout, 'on_cpu', False)
  assert steps(1000, 50, 100, 200) == 50
  assert steps(1000, 20, 100, 200) == 20
  assert steps(1000, 60, 60, 180) == 30
  assert steps(997, 997, 997, 997) == 50  # nothing is due before the end
  assert steps(20, 50, 100, 200) == 20
  config.steps_per_call = 5
  assert steps(1000, 50, 100, 200) == 5
  config.steps_per_call, config.data.placement = 0, 'host'
  assert steps(1000, 50, 100, 200) == 1


MLP = {'classifier.arch': 'mlp', 'gan.arch': 'mlp'}


@pytest.mark.parametrize(
  ('fields', 'drawn', 'per_call'),
  [
    ({}, False, 1),
    (MLP, False, 50),
    (MLP, True, 50),
    (MLP | {'cache.refresh_steps': 4}, True, 50),
    (MLP | {'gan.arch': 'dcgan'}, False, 1),  # as the arm that it is compared with
    (MLP | {'gan.arch': 'dcgan'}, True, 1),
    (MLP | {'targets.kind': 'teacher'}, True, 1),
    (MLP | {'mix.draw_ahead_mib': 0}, True, 1),
    (MLP | {'mix.classes': 'feedback'}, True, 1),
    (MLP | {'data.placement': 'host'}, True, 1),
  ],
)
def test_on_a_cpu_only_loops_without_convolutions_are_scanned(
  fields, drawn, per_call, toy, tmp_path
):
  config = default()
  config.update_from_flattened_dict(fields)
  config.mix.ratio, config.log.every_steps = 0.5, 50
  session = Session(config, tmp_path, tiny.layout('jit', 1))
  source = synthetic_source.SyntheticSource(Networks(None), FrozenModels())
  name = 'augmented' if drawn else 'real_only'
  training = arms.set_up(session, toy, name, source if drawn else None, num_steps=1000)
  assert training.steps_per_call == per_call


def _logit_shift(name, fields, dataset, directory, monkeypatch):
  """What `arms.set_up` gives the fused step of an arm with tau = 2."""
  config = default()
  config.update_from_flattened_dict(MLP | {'classifier.logit_adjustment': 2.0} | fields)
  session = Session(config, directory, tiny.layout('jit', 1))
  source = synthetic_source.SyntheticSource(Networks(None), FrozenModels())
  made, make = {}, classifier.make_fused_step
  spy = lambda **options: made.update(options) or make(**options)
  monkeypatch.setattr(classifier, 'make_fused_step', spy)
  source = source if name == 'augmented' else None
  arms.set_up(session, dataset, name, source, num_steps=11)
  return made['logit_shift']


def test_logits_are_adjusted_by_the_shares_that_an_arm_is_trained_on(
  toy, tmp_path, monkeypatch
):
  train = toy.train.rows([*range(6), *range(12, 15), 24])  # 6, 3 and 1 of each class
  dataset = dataclasses.replace(toy, train=train)
  fields = {'mix.ratio': 0.5, 'mix.weight': 0.5, 'mix.weight_schedule': 'linear'}
  fields |= {'mix.classes': 'feedback', 'classifier.label_smoothing': 0.1}
  fields |= {'targets.kind': 'smoothed', 'targets.smoothing': 0.3}
  shift_of = lambda name: _logit_shift(name, fields, dataset, tmp_path, monkeypatch)
  losses = {'class_loss': jnp.array([0.0, 1.0, 3.0])}
  state = types.SimpleNamespace(step=jnp.int32(5), class_stats=losses)
  real = 0.9 * np.array([0.6, 0.3, 0.1]) + 0.1 / 3
  np.testing.assert_allclose(shift_of('real_only')(state), 2 * np.log(real), rtol=1e-5)
  drawn = 0.9 * np.array([0, 0.25, 0.75]) + 0.1 / 3  # see `feedback_distribution`
  synthetic = 0.7 * drawn + 0.3 / 3
  shares = (real + 0.25 * synthetic) / 1.25  # half of the steps, half of the weight
  np.testing.assert_allclose(shift_of('augmented')(state), 2 * np.log(shares), rtol=1e-5)
