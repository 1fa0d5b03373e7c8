"""What `benchmarks.accelerator` measures in separate processes.

    python -m benchmarks.accelerator_parts --part=step --json=FILE

Each part writes the JSON file again after every group, so that what was measured when its
time is up is kept.
"""

import time

_BEGAN = time.perf_counter()

import collections  # noqa: E402
import contextlib  # noqa: E402
import gzip  # noqa: E402
import pathlib  # noqa: E402
import tempfile  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from benchmarks import timing  # noqa: E402
from gan_aug_jax.config import validation  # noqa: E402
from gan_aug_jax.training import devices  # noqa: E402

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
RATIOS = flags.DEFINE_list('ratios', ['0.2', '0.5'], 'Above 0.')
LARGE = flags.DEFINE_integer('large', 1024, 'The larger batch.')
CALLS = flags.DEFINE_list('calls', ['1', '10', '50'], 'Steps per call.')
STEPS = flags.DEFINE_integer('steps', 200, 'Least number of steps of a timed run.')
TRACES = flags.DEFINE_string('traces', '.', 'Directory for the traces of the profile.')
PART = flags.DEFINE_string('part', 'step', 'Which part to run.')

# A list replaces XLA's own, which older versions have without the last two.
_BUFFERS = 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION'
_OPTIONS = {
  'as compiled by default': {},
  'command buffers of convolutions, too': {
    'xla_gpu_enable_command_buffer': f'{_BUFFERS},CONVOLUTION'
  },
  'and of loops': {
    'xla_gpu_enable_command_buffer': f'{_BUFFERS},CONVOLUTION,CONDITIONAL,WHILE'
  },
  'and of unrolled loops': {
    'xla_gpu_enable_command_buffer': f'{_BUFFERS},CONVOLUTION,CONDITIONAL,WHILE',
    'xla_gpu_command_buffer_unroll_loops': True,
  },
  'no command buffers': {'xla_gpu_enable_command_buffer': ''},
  'deterministic': {'xla_gpu_deterministic_ops': True},
  'double-buffered loops': {'xla_gpu_enable_while_loop_double_buffering': True},
  'channels first': {'xla_gpu_force_conv_nchw': True},
  'channels last': {'xla_gpu_force_conv_nhwc': True},
  'no Triton products': {'xla_gpu_enable_triton_gemm': False},
}


class Bench:
  """Builds fused steps on one device."""

  def __init__(self):
    base = CONFIG.value
    validation.validate(base)
    self.devices = devices.start(base)[:1]
    self.per_call = base.steps_per_call
    if self.devices[0].platform != 'cpu':
      self.per_call = self.per_call or 50
    self.where = timing.describe(self.layout(base))

  def layout(self, config, options=None):
    from gan_aug_jax.step import sharding

    options = devices.compiler_options(config, self.devices) | (options or {})
    return sharding.make_layout(config.backend, self.devices, options)

  def calls(self, fields, options=None):
    """The compiled `Calls` of the step of a config with some fields changed.

    Args:
      fields: {dotted name: value}; 'part': 'gan' for the step of the GAN.
      options: XLA's.
    """
    from benchmarks import dry_run

    fields, config = dict(fields), CONFIG.value.copy_and_resolve_references()
    of_gan = fields.pop('part', '') == 'gan'
    if steps_per_call := fields.get('steps_per_call'):
      fields['log.every_steps'] = steps_per_call
    config.update_from_flattened_dict(fields)
    validation.validate(config)
    inputs = dry_run.on_noise(config, self.layout(config, options))
    with _precision(config):
      if of_gan:
        return timing.compile_calls(dry_run.generator_step(*inputs))
      return timing.compile_calls(dry_run.arm_step(*inputs, 'augmented_classical'))


def _precision(config):
  import jax

  if config.matmul_precision == 'default':
    return contextlib.nullcontext()
  return jax.default_matmul_precision(config.matmul_precision)


def list_groups(per_call):
  """{title: {name: config fields}}, in order of importance.

  The rows of a group are timed in turn, and compared with its first one.

  Args:
    per_call: steps per call; draws ahead only if there are several.
  """

  def by_ratio(**fields):
    rows = {'real images alone': {'mix.ratio': 0.0}}
    for ratio in map(float, RATIOS.value):
      rows[f'{100 * ratio:.0f} % synthetic'] = {'mix.ratio': ratio}
      if per_call > 1:
        in_step = {'mix.ratio': ratio, 'mix.draw_ahead_mib': 0}
        rows[f'{100 * ratio:.0f} %, composed in each step'] = in_step
    if per_call > 1:
      rows['real, composed in each step'] = {'mix.ratio': 0.0, 'mix.draw_ahead_mib': 0}
    return {name: row | fields for name, row in rows.items()}

  first, flat = {'mix.ratio': float(RATIOS.value[0])}, 'benchmarks.flat_updates'
  flat_gan = {'generator.family': f'{flat}:build_gan'}
  flat_gan['generator.args'] = tuple(f'{k}={v}' for k, v in CONFIG.value.gan.items())
  groups = {
    'by ratio': by_ratio(),
    f'by ratio, batch {LARGE.value}': by_ratio(**{'classifier.batch_size': LARGE.value}),
    'the GAN': {
      'its step': {'part': 'gan'},
      'in bfloat16': {'part': 'gan', 'precision': 'bfloat16'},
      'with flat updates': {'part': 'gan', **flat_gan},
    },
    'by steps per call': {
      f'{count} per call': first | {'steps_per_call': int(count)} for count in CALLS.value
    },
    'by precision': {
      'float32': first,
      'bfloat16': first | {'precision': 'bfloat16'},
      'bfloat16 in the sampler': first | {'generator.precision': 'bfloat16'},
      'highest': first | {'matmul_precision': 'highest'},
    },
    'by update': {
      'of each array': first,
      'of one flat array': first | {'classifier.optimizer': f'{flat}:make_sgd'},
    },
  }
  return {
    title: {name: {'steps_per_call': per_call} | row for name, row in rows.items()}
    for title, rows in groups.items()
  }


def run_step():
  """Yields the results of the part 'step', after each group."""
  bench, groups = Bench(), {}
  for title, rows in list_groups(bench.per_call).items():
    runs = {name: bench.calls(fields).run(STEPS.value) for name, fields in rows.items()}
    seconds = timing.interleave(runs, timing.ROUNDS.value)
    groups[title] = timing.compare(seconds, next(iter(rows)))
    yield {**bench.where, 'steps per call': bench.per_call, 'groups': groups}


def list_steps(per_call):
  """{title: config fields} of the two steps, as a run takes them.

  Args:
    per_call: steps per call.
  """
  usual = {'steps_per_call': per_call}
  fused = usual | {'mix.ratio': float(RATIOS.value[0])}
  return {'the fused step': fused, 'the GAN': usual | {'part': 'gan'}}


def run_options():
  """Yields the results of the part 'options', after each option: one may end the process.

  Each is timed in turn with the first.
  """
  import jax

  bench, groups, refused = Bench(), {}, {}
  for title, fields in list_steps(bench.per_call).items():
    base, rows, first = next(iter(_OPTIONS)), groups.setdefault(title, {}), None
    for name, options in _OPTIONS.items():
      try:
        calls = bench.calls(fields, options)
        jax.block_until_ready(calls.take())
      except jax.errors.JaxRuntimeError as error:  # an XLA without such an option
        refused[name] = str(error).splitlines()[0]
        continue
      first = first or calls
      runs = {base: first.run(STEPS.value), name: calls.run(STEPS.value)}
      seconds = timing.interleave(runs, timing.ROUNDS.value)
      rows[name] = timing.compare(seconds, base)[name]
      yield {**bench.where, 'groups': groups, 'refused': refused}


def run_startup():
  """Yields the seconds from the start of the process to each milestone."""
  import jax

  from gan_aug_jax.experiment import runs  # noqa: F401  all that a run imports

  seconds = {'imported': time.perf_counter() - _BEGAN}
  bench = Bench()
  jax.block_until_ready(jax.numpy.ones(1) + 1)
  seconds['device ready'] = time.perf_counter() - _BEGAN
  for name, fields in {'fused step': {}, "GAN's step": {'part': 'gan'}}.items():
    calls = bench.calls({'steps_per_call': bench.per_call} | fields)
    seconds[f'{name} compiled'] = time.perf_counter() - _BEGAN
    jax.block_until_ready(calls.take())
    seconds[f'{name} taken'] = time.perf_counter() - _BEGAN
    yield {**bench.where, 'seconds': seconds}


def run_profile():
  """Yields what the kernels of each step take, after each."""
  bench, steps = Bench(), {}
  for title, fields in list_steps(bench.per_call).items():
    trace = pathlib.Path(TRACES.value, f'{title.split()[-1]}.xplane.pb.gz')
    steps[title] = _profile(bench.calls(fields), trace)
    yield {**bench.where, 'steps': steps}


def _profile(calls, path):
  """Microseconds per step by kernel, longest first, from a trace of two calls.

  Args:
    calls: the compiled `Calls`.
    path: for the trace.
  """
  import jax

  jax.block_until_ready([calls.take() for _ in range(3)])
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory):
      jax.block_until_ready([calls.take() for _ in range(2)])
    (file,) = pathlib.Path(directory).rglob('*.xplane.pb')
    trace = file.read_bytes()
  path.write_bytes(gzip.compress(trace))
  seconds, counts = collections.Counter(), collections.Counter()
  for plane in jax.profiler.ProfileData.from_serialized_xspace(trace).planes:
    lines = plane.lines if plane.name.startswith('/device:') else []
    for line in lines:
      # The kernels of a GPU, or the operations of a TPU.
      if line.name.startswith('Stream') or line.name == 'XLA Ops':
        for event in line.events:
          seconds[event.name] += 1e-9 * event.duration_ns
          counts[event.name] += 1
  steps = 2 * calls.steps_per_call
  kernels = {
    name: {'us': 1e6 * total / steps, 'count': counts[name] / steps}
    for name, total in seconds.most_common(40)
  }
  total = {'us': sum(seconds.values()), 'count': counts.total()}
  total['us'] *= 1e6
  return {name: x / steps for name, x in total.items()} | {'kernels': kernels}


PARTS = {
  'startup': run_startup,
  'step': run_step,
  'options': run_options,
  'profile': run_profile,
}


def main(_):
  for result in PARTS[PART.value]():
    timing.finish(result)


if __name__ == '__main__':
  app.run(main)
