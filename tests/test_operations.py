"""Operations are those that XLA counts on a CPU, and of a loop those of every turn."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import dry_run
from gan_aug_jax import config as config_lib
from gan_aug_jax.step import operations
from gan_aug_jax.step.programs import Program
from tests import tiny

NHWC = ('NHWC', 'HWIO', 'NHWC')
IMAGES, KERNEL = jnp.zeros((4, 9, 8, 6)), jnp.zeros((3, 4, 6, 10))


def _count(function, *arguments):
  return operations.count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count_by_xla(function, *arguments):
  return jax.jit(function).lower(*arguments).cost_analysis()['flops']


@pytest.mark.parametrize(
  'options',
  [
    {'window_strides': (1, 1), 'padding': 'SAME'},
    {'window_strides': (2, 1), 'padding': 'VALID'},
    {
      'window_strides': (1, 1),
      'padding': ((2, 1), (0, 3)),
      'lhs_dilation': (2, 3),  # as a transposed convolution has it
      'rhs_dilation': (1, 2),
    },
    {'window_strides': (1, 1), 'padding': 'SAME', 'feature_group_count': 2},
  ],
)
def test_a_convolution_and_its_gradients_have_as_many_as_xla_counts(options):
  kernel = KERNEL[:, :, : 6 // options.get('feature_group_count', 1)]

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **options)

  gradients = jax.grad(lambda x, kernel: convolve(x, kernel).sum(), (0, 1))
  for function in (convolve, gradients):
    assert _count(function, IMAGES, kernel) == _count_by_xla(function, IMAGES, kernel) > 0


def test_a_product_has_two_a_pair_and_what_nobody_needs_has_none():
  a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 6))
  assert _count(lambda a, b: jnp.einsum('bij,bjk->bik', a, b), a, b) == 2 * 3 * 4 * 5 * 6
  assert _count(lambda a, b: (jnp.einsum('bij,bjk->bik', a, b), a.T)[1], a, b) == 0
  inside = jax.jit(lambda a, b: (jnp.einsum('bij,bjk->bik', a, b), a.T))
  assert _count(lambda a, b: inside(a, b)[1], a, b) == 0


def test_all_turns_of_a_loop_count_and_the_costliest_branch():
  x = jnp.zeros((8, 8))
  turn = lambda x, _: (x @ x, None)
  assert _count(lambda x: jax.lax.scan(turn, x, None, 5)[0], x) == 5 * 2 * 8**3
  branches = (lambda x: x @ x, lambda x: x @ x @ x, lambda x: x)
  assert _count(lambda i, x: jax.lax.switch(i, branches, x), 0, x) == 2 * 2 * 8**3


@pytest.mark.parametrize(
  ('backend', 'num_devices'), [('jit', 4), ('pmap', 1), ('pmap', 4)]
)
def test_the_operations_of_all_devices_are_counted(backend, num_devices, toy):
  def of(backend, num_devices):
    where = tiny.layout(backend, num_devices)
    step, state, _, models, _ = tiny.fused_ahead(where, ratio=1 / 3)
    arguments = tiny.put(where, state), tiny.feed(where.replicate, toy)(0, 1)
    return Program(step, where).operations(*arguments, where.replicate(models))

  assert of(backend, num_devices) == pytest.approx(of('jit', 1), rel=0.05)


@pytest.mark.slow  # lowers whole steps
@pytest.mark.parametrize('file', ['cifar10', 'mlp', 'flow', 'recipes/gan'])
def test_a_step_has_nearly_as_many_as_xla_counts(file):
  config = config_lib.load_file(f'configs/{file}.py').get_config()
  channels = 3 if file in ('cifar10', 'recipes/gan') else 1
  where = tiny.layout('jit', 1)
  inputs = dry_run.on_noise(config, where, channels=channels, per_class=20)
  steps = [dry_run.generator_step(*inputs)]
  for arm in ('real_only', 'augmented'):
    steps.append(dry_run.arm_step(*inputs, arm, num_steps=100))
  for dry in steps:
    by_xla = dry.lower_step().cost_analysis()['flops']
    assert dry.operations() == pytest.approx(by_xla, rel=0.02)
