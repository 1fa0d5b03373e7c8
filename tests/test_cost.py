"""What a step costs as XLA counts it: nothing here is timed."""

import collections
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import dry_run
from configs import cifar10
from gan_aug_jax.step import sharding
from tests import tiny

_ROOT = pathlib.Path(__file__).parent.parent


# Four steps of a real config take seconds to lower.
SLOW = pytest.mark.slow


@pytest.fixture(scope='module')
def lowered():
  """{ratio: the lowered step of configs/cifar10.py on one device}."""
  layout = sharding.make_layout('jit', jax.devices()[:1])
  steps = {}
  for ratio in (0.0, 0.25, 0.5, 0.75):
    config = cifar10.get_config()
    config.mix.ratio = ratio
    inputs = dry_run.on_noise(config, layout, per_class=20)
    dry = dry_run.arm_step(*inputs, 'augmented_classical', num_steps=100)
    steps[ratio] = dry.lower_step()
  return steps


def _count(step):
  return collections.Counter(re.findall(r'stablehlo\.(\w+)', step.as_text()))


def _custom_calls(step):
  return set(re.findall(r'custom_call @(\w+)', step.as_text()))


@SLOW
def test_synthesis_costs_a_forward_pass_of_the_generator_an_image(lowered):
  operations = {r: step.cost_analysis()['flops'] for r, step in lowered.items()}
  # By sub-pixel: 2 x 2 taps at each corner of the pixels of maps of side 4, 8, 16.
  seen = {side: 4 * (side + 1) ** 2 for side in (4, 8, 16)}
  layers = {4: (256, 512), 8: (128, 256), 16: (64, 12)}
  of_image = 2 * 110 * 4096 + sum(
    2 * seen[side] * a * b for side, (a, b) in layers.items()
  )
  for ratio in (0.25, 0.5, 0.75):
    added = (operations[ratio] - operations[0.0]) / (128 * ratio)
    # Latents, normalisation and the choice of positions are a few per cent of it. A
    # gradient through the generator, or images that are thrown away, would double it.
    assert of_image < added < 1.05 * of_image


@SLOW
def test_bytes_grow_in_proportion_to_the_ratio(lowered):
  touched = {r: step.cost_analysis()['bytes accessed'] for r, step in lowered.items()}
  # The generator's parameters are read once, whatever the ratio.
  one, other = touched[0.5] - touched[0.25], touched[0.75] - touched[0.5]
  assert one > 0 and one == pytest.approx(other, rel=0.01)


@SLOW
def test_each_convolution_is_in_the_step_once(lowered):
  # Forward, for the weights, and for what is below all but the first.
  assert _count(lowered[0.0])['convolution'] == 3 + 3 + 2
  for ratio in (0.25, 0.5, 0.75):
    assert _count(lowered[ratio])['convolution'] == 3 + 3 + 2 + 3


@SLOW
def test_synthesis_adds_no_lookup_and_no_transfer(lowered):
  real = _count(lowered[0.0])
  assert real['gather'] > 0  # of the real examples, or this test would see nothing
  for ratio in (0.25, 0.5, 0.75):
    mixed = _count(lowered[ratio])
    for name in ('gather', 'scatter', 'sort', 'dynamic_gather'):
      assert mixed[name] == real[name], name
    # A callback, or a transfer, is one of these on a CPU.
    assert _custom_calls(lowered[ratio]) <= _custom_calls(lowered[0.0])


@pytest.fixture
def optimized():
  """Compiles as a user does."""
  before = os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1'
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


def test_convolutions_are_not_left_to_the_slower_library(optimized):
  layout = sharding.make_layout('jit', jax.devices()[:1])

  def convolve(x, weights):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, weights, (1, 1), 'SAME', dimension_numbers=numbers
    )

  arguments = layout.replicate(
    (np.ones((16, 16, 16, 32), np.float32), np.ones((3, 3, 32, 64), np.float32))
  )
  if 'ynn' not in jax.jit(convolve).lower(*arguments).compile().as_text():
    pytest.skip('XLA takes no such library here')
  program = tiny.compile_step(convolve, layout, *arguments, donate=())
  assert 'ynn' not in program.compiled.as_text()


@pytest.mark.skipif(not importlib.util.find_spec('torch'), reason='PyTorch is missing')
def test_networks_of_the_comparison_with_pytorch_compute_the_same():
  command = [sys.executable, '-m', 'benchmarks.vs_torch', '--worker=check']
  command += ['--config.platform=cpu']
  output = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True).stdout
  gaps = json.loads(output.splitlines()[-1])
  assert len(gaps) == 6 and max(gaps.values()) < 1e-4, gaps
