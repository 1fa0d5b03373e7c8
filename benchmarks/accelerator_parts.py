"""What `benchmarks.accelerator` measures in separate processes.

    python -m benchmarks.accelerator_parts --part=step --json=FILE

Each part writes the JSON file again after every group, so that what was measured when its
time is up is kept.
"""

import time

_BEGAN = time.perf_counter()

import collections  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from benchmarks import noise, timing  # noqa: E402
from gan_aug_jax.config import validation  # noqa: E402
from gan_aug_jax.training import devices  # noqa: E402

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
RATIOS = flags.DEFINE_list('ratios', ['0.2', '0.5'], 'Above 0.')
LARGE = flags.DEFINE_integer('large', 1024, 'The larger batch.')
CALLS = flags.DEFINE_list('calls', ['1', '10', '50'], 'Steps per call.')
SIDE = flags.DEFINE_integer('side', 32, 'Of the images, in pixels.')
STEPS = flags.DEFINE_integer('steps', 200, 'Least number of steps of a timed run.')
TRACE = flags.DEFINE_string('trace', 'profile', 'Directory for the trace.')
PART = flags.DEFINE_string('part', 'step', 'Which part to run.')

# A list replaces XLA's own, which older versions have without the last two.
_BUFFERS = 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION'
_OPTIONS = {
  'as compiled by default': {},
  'deterministic': {'xla_gpu_deterministic_ops': True},
  'no command buffers': {'xla_gpu_enable_command_buffer': ''},
  'no Triton products': {'xla_gpu_enable_triton_gemm': False},
  'double-buffered loops': {'xla_gpu_enable_while_loop_double_buffering': True},
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
    from gan_aug_jax.experiment import dry_run
    from gan_aug_jax.training import workdir

    fields, config = dict(fields), CONFIG.value.copy_and_resolve_references()
    of_gan = fields.pop('part', '') == 'gan'
    if steps_per_call := fields.get('steps_per_call'):
      fields['log.every_steps'] = steps_per_call
    config.update_from_flattened_dict(fields)
    validation.validate(config)
    layout = self.layout(config, options)
    session = workdir.Session(config, pathlib.Path('unused'), layout, quiet=True)
    dataset = noise.make_dataset((SIDE.value, SIDE.value, 3))
    with _precision(config):
      if of_gan:
        return timing.compile_calls(dry_run.generator_step(session, dataset))
      arm = 'augmented_classical'
      return timing.compile_calls(
        dry_run.arm_step(session, dataset, arm, num_steps=10_000)
      )


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

  first = {'mix.ratio': float(RATIOS.value[0])}
  groups = {
    'by ratio': by_ratio(),
    f'by ratio, batch {LARGE.value}': by_ratio(**{'classifier.batch_size': LARGE.value}),
    'the GAN': {
      'its step': {'part': 'gan'},
      'in bfloat16': {'part': 'gan', 'precision': 'bfloat16'},
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
      'of one flat array': first | {'classifier.optimizer': 'benchmarks.flat_sgd:make'},
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


def run_options():
  """Yields the results of the part 'options', after each option: one may end the process.

  Each is timed in turn with the first.
  """
  import jax

  bench, groups, refused = Bench(), {}, {}
  steps = {'the fused step': {'mix.ratio': float(RATIOS.value[0])}}
  steps['the GAN'] = {'part': 'gan'}
  for title, fields in steps.items():
    base, rows, first = next(iter(_OPTIONS)), groups.setdefault(title, {}), None
    for name, options in _OPTIONS.items():
      try:
        calls = bench.calls({'steps_per_call': bench.per_call} | fields, options)
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
  """Yields microseconds per step by kernel, longest first, from a trace of two calls."""
  import jax

  bench = Bench()
  fields = {'steps_per_call': bench.per_call, 'mix.ratio': float(RATIOS.value[0])}
  calls, trace = bench.calls(fields), pathlib.Path(TRACE.value)
  jax.block_until_ready([calls.take() for _ in range(3)])
  with jax.profiler.trace(trace):
    jax.block_until_ready([calls.take() for _ in range(2)])
  file = max(trace.rglob('*.xplane.pb'), key=os.path.getmtime)
  seconds, counts = collections.Counter(), collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
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
  total = 1e6 * sum(seconds.values()) / steps
  yield {**bench.where, 'us': total, 'kernels': kernels, 'trace': str(file)}


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
