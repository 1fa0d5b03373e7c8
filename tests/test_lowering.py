"""All steps lower for accelerators that are not here: one device and eight."""

import re

import jax
import pytest

from gan_aug_jax.step import programs
from gan_aug_jax.step.synthesis import SampleFilter
from tests import tiny
from tests.test_engine import DIFFAUG, PAIRED, SNGAN


def _export(step, where, per_call, platform, *args, draw_ahead=None):
  jitted = jax.jit(
    programs.repeat_step(step, per_call, draw_ahead),
    donate_argnums=0,
    out_shardings=where.replicated,
  )
  state, *inputs = where.replicate(args)
  count = where.replicated_int(per_call)
  return jax.export.export(jitted, platforms=[platform])(state, count, *inputs)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
# On 8 devices, scanned, is what a pod runs.
@pytest.mark.parametrize(
  ('num_devices', 'per_call'), [(8, 5), pytest.param(1, 1, marks=pytest.mark.slow)]
)
@pytest.mark.slow  # no fast test lowers for a TPU or a GPU
def test_steps_lower_for(toy, platform, num_devices, per_call):
  where = tiny.layout('jit', num_devices)
  assert where.num_devices == num_devices
  step, state, plan, generator, draw_ahead = tiny.fused_ahead(
    where,
    ratio=0.4,
    mode='add',
    batch_size=16,
    arch='resnet',
    batch_norm='split',
    # Scanned steps draw ahead what does not depend on the classifier.
    sample_filter=SampleFilter(2, 'hard' if per_call == 1 else 'teacher', 0.3),
    on_reject='real',
    frozen='dcgan' if per_call == 1 else 'flow',
  )
  data = tiny.feed(lambda tree: tree, toy)(0, plan.num_real * per_call)
  assert bool(draw_ahead) == (per_call > 1)
  args = state, data, generator
  fused = _export(step, where, per_call, platform, *args, draw_ahead=draw_ahead)
  resnet = {**PAIRED, 'arch': 'resnet', 'diffaug': DIFFAUG}
  options = SNGAN if per_call == 1 else resnet
  step, state = tiny.gan_step(where, batch_size=16, **options)
  data = tiny.feed(lambda tree: tree, toy)(0, 32 * per_call)
  gan = _export(step, where, per_call, platform, state, data)
  step, state = tiny.flow_step(where, batch_size=16)
  flow = _export(step, where, per_call, platform, state, data)
  for exported in (fused, gan, flow):
    assert exported.platforms == (platform,) and exported.nr_devices == num_devices
    text = exported.mlir_module()
    assert 'stablehlo.convolution' in text
    assert ('stablehlo.while' in text) == (per_call > 1)
    targets = set(re.findall(r'custom_call @(\w+)', text))
    assert targets <= {'Sharding', 'cu_threefry2x32_ffi', 'annotate_device_placement'}
