"""What synthesis adds to a training step, fused and in other ways.

    python -m benchmarks.overhead --config=configs/cifar10.py

First table: the fused step at each ratio, for every generator, classifier and batch
size named, each with the first of the others. Second table, at each ratio with the
first of each: the fused step as a run takes it; where a call takes several steps (on an
accelerator, or of an MLP for images of an MLP), also without drawing ahead, and one
step per call; two programs (sample, then train); the same with the images passing
through NumPy on the host; images that are reused for eight steps; images drawn once in
advance; and the sampler and the classifier alone. The last five take one step per call.
Operations and bytes (of the compiled program) are given as shares of what a large matrix
product and a large copy reach in the same run.

The rows of a table are interleaved in one process, in runs of eight steps or a whole
call; relative times are medians over the rounds. Images are random and networks
untrained, which does not change the times.
"""

import json
import tempfile

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import timing
from gan_aug_jax.config import validation

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
ARM = flags.DEFINE_enum(
  'arm', 'augmented_classical', ['augmented', 'augmented_classical'], 'Arm to time.'
)
RATIOS = flags.DEFINE_list('ratios', ['0.1', '0.2', '0.35', '0.5', '0.75'], 'Above 0.')
GANS = flags.DEFINE_list('gans', ['dcgan', 'mlp', 'sngan', 'resnet'], 'Generators.')
CLASSIFIERS = flags.DEFINE_list('classifiers', ['cnn', 'mlp', 'resnet'], 'Classifiers.')
BATCHES = flags.DEFINE_list('batches', ['128', '32', '512'], 'Batch sizes.')
CHANNELS = flags.DEFINE_integer('channels', 3, 'Of the images.')

_REAL = 'real only'
_STEPS = 8  # of a run, and for which images are reused


def set_fields(config, **fields):
  """Returns a validated copy of a config with some fields changed."""
  config = config.copy_and_resolve_references()
  names = {'gan': 'gan.arch', 'classifier': 'classifier.arch', 'ratio': 'mix.ratio'}
  names |= {'batch': 'classifier.batch_size', 'refresh': 'cache.refresh_steps'}
  names |= {'offline': 'cache.images_per_class', 'per_call': 'steps_per_call'}
  names |= {'draw_ahead': 'mix.draw_ahead_mib'}
  config.update_from_flattened_dict({names[k]: v for k, v in fields.items()})
  validation.validate(config)
  return config


class Bench:
  """Builds programs for one layout of devices."""

  def __init__(self, layout, directory):
    self.layout, self.directory = layout, directory
    self.programs = {}

  def inputs(self, config):
    """The session and the dataset."""
    from benchmarks import dry_run

    return dry_run.on_noise(
      config, self.layout, directory=self.directory, channels=CHANNELS.value
    )

  def fused(self, name, config):
    """Returns a timed run of fused steps."""
    from benchmarks import dry_run

    dry = dry_run.arm_step(*self.inputs(config), ARM.value)
    calls = timing.compile_calls(dry)
    self.programs[name] = _cost(
      calls.program.compiled, dry.operations(), calls.compile_seconds
    )
    if calls.steps_per_call > 1:
      del self.programs[name]['bytes']  # XLA counts those of a loop once
    return calls.run(_STEPS)

  def apart(self, config):
    """Returns {name: timed run} of the sampler and the classifier as two programs."""
    import jax

    from benchmarks import dry_run
    from gan_aug_jax.experiment import arms, schedule
    from gan_aug_jax.generators import synthetic_source
    from gan_aug_jax.step import programs, rng, sharding
    from gan_aug_jax.step.synthesis import FrozenModels, Networks

    layout, (session, dataset) = self.layout, self.inputs(config)
    generator = dry_run.untrained_generator(session, dataset)
    source = synthetic_source.build_source(session, dataset, generator)
    frozen = synthetic_source.load_variables(session, dataset, generator).frozen
    plan = schedule.plan_batches(config, 10_000, synthetic=True)
    synthesize = synthetic_source.build_synthesis(
      session, dataset, source, plan=plan, model=None
    )

    def sample(state, frozen):
      keys = rng.step_keys(state.seed, state.step)
      slot = layout.positions(plan.total)[
        :, : layout.slots_per_device(plan.num_synthetic)
      ]
      return sharding.flatten(synthesize(keys, slot, state, frozen).images)[:, None]

    # The classifier's program is the fused step with a sampler that returns its argument.
    networks = Networks(lambda variables, keys, labels: variables)
    given = synthetic_source.SyntheticSource(networks, FrozenModels())
    training = arms.set_up(session, dataset, ARM.value, given, num_steps=10_000)
    place = layout.replicate
    state = training.init()
    arguments = (state, frozen)
    sampler = programs.Program(sample, layout, donate=())
    made = sampler(*arguments)
    step, batches = training.stages[0].step, training.batches
    program = programs.Program(step, layout)
    number = 0

    def train(images):
      nonlocal state, number
      state, metrics = program(state, batches(number, 1), FrozenModels(generator=images))
      number += 1
      return metrics

    draw = lambda: sampler(state, frozen)
    through_host = lambda: train(place(np.array(jax.device_get(draw()))))
    takes = {
      'two programs': lambda: train(draw()),
      'through the host': through_host,
      'sampler alone': draw,
      'classifier alone': lambda: train(made),
    }
    operations = sampler.operations(*arguments)
    self.programs['sampler alone'] = _cost(sampler.compiled, operations, 0.0)
    return {name: timing.repeat(take, _STEPS) for name, take in takes.items()}


def _cost(compiled, operations, compile_seconds):
  analysis = compiled.cost_analysis() or {}
  return {
    'operations': operations,
    'bytes': analysis.get('bytes accessed', 0.0),
    'compile_s': compile_seconds,
  }


def make_ceilings():
  """Returns runs of a large matrix product and a large copy, and the work of a step."""
  import jax
  import jax.numpy as jnp

  matrix, block = jnp.ones((2048, 2048)), jnp.ones(2**25)
  product = jax.jit(lambda x: x @ x)
  copy = jax.jit(lambda x: x + 1)
  takes = {
    'matrix product': timing.repeat(lambda: product(matrix), 4),
    'copy': timing.repeat(lambda: copy(block), 4),
  }
  return takes, {'matrix product': 2 * 2048**3, 'copy': 2 * block.nbytes}


def time_ratios(bench, config, label):
  """Times the fused step at each ratio; returns rows of the first table."""
  takes = {_REAL: bench.fused((label, _REAL), set_fields(config, ratio=0.0))}
  for ratio in RATIOS.value:
    takes[ratio] = bench.fused((label, ratio), set_fields(config, ratio=float(ratio)))
  rows = timing.compare(timing.interleave(takes, timing.ROUNDS.value), _REAL)
  real = bench.programs[label, _REAL]['operations']
  for name, row in rows.items():
    row |= bench.programs[label, name]
    row['operations_ratio'] = row['operations'] / real
  return rows


def time_ways(bench, config):
  """Times other ways to the same batch; returns rows of the second table, and rates."""
  ways = {
    _REAL: {'ratio': 0.0},
    'fused': {},
    'drawn in each step': {'draw_ahead': 0},
    'one step per call': {'per_call': 1},
    'pool of 8 steps': {'refresh': _STEPS},
    'drawn in advance': {'offline': 200},
  }
  mlps = config.classifier.arch == config.gan.arch == 'mlp'
  if bench.layout.on_cpu and config.steps_per_call < 2 and not mlps:
    del ways['drawn in each step'], ways['one step per call']  # that is 'fused'
  takes = {
    name: bench.fused(name, set_fields(config, **fields)) for name, fields in ways.items()
  }
  takes |= bench.apart(config)
  ceilings, work = make_ceilings()
  seconds = timing.interleave(takes | ceilings, timing.ROUNDS.value)
  rows = timing.compare(seconds, _REAL)
  rates = {name: work[name] / (1e-3 * rows.pop(name)['ms']) for name in ceilings}
  hosted = seconds['through the host'] / seconds['fused']
  rows['through the host']['to_fused'] = float(np.median(hosted))
  for name in bench.programs.keys() & rows.keys():
    rows[name] |= bench.programs[name]
    if 'pool' in name:
      continue  # its operations are those of a step that draws
    # As shares of what the device was measured to reach.
    taken = 1e-3 * rows[name]['ms']
    rows[name]['of_product'] = rows[name]['operations'] / taken / rates['matrix product']
    if 'bytes' in rows[name]:
      rows[name]['of_copy'] = rows[name]['bytes'] / taken / rates['copy']
  return rows, rates


def print_ratios(results):
  table = []
  for label, rows in results.items():
    for name, row in rows.items():
      table.append(
        [
          *label.split(', '),
          name,
          timing.per_step(row),
          timing.added(row),
          f'{100 * row["operations_ratio"] - 100:+.1f} %',
        ]
      )
  headings = ['GAN', 'classifier', 'batch', 'ratio', 'per step', 'added']
  timing.print_table([*headings, 'operations added'], table)


def print_ways(results):
  table = []
  for ratio, (rows, _) in results.items():
    for name, row in rows.items():
      table.append(
        [
          ratio,
          name,
          timing.per_step(row),
          '' if 'alone' in name else timing.added(row),
          f'{100 * row["of_product"]:.0f} %' if 'of_product' in row else '',
          f'{100 * row["of_copy"]:.0f} %' if 'of_copy' in row else '',
        ]
      )
  headings = ['ratio', 'way', 'per step', 'added', 'of matrix product']
  timing.print_table([*headings, 'of copy'], table)
  for ratio, (rows, rates) in results.items():
    fused = rows['fused']
    reached = [f'{100 * fused["of_product"]:.0f} % of the product']
    if 'of_copy' in fused:
      reached.append(f'{100 * fused["of_copy"]:.0f} % of the copy')
    print(
      f'ratio {ratio}: a matrix product reaches {rates["matrix product"] / 1e9:.0f} '
      f'GFLOP/s, a copy {rates["copy"] / 1e9:.1f} GB/s; the fused step reaches '
      f'{" and ".join(reached)}. Through the host: '
      f'{rows["through the host"]["to_fused"]:.3f} times the fused step.'
    )


def draw(results):
  """Returns a function that plots the added time, and the added operations."""

  def onto(ax):
    for label, rows in results.items():
      if not label.endswith(f', {CLASSIFIERS.value[0]}, {BATCHES.value[0]}'):
        continue  # other classifiers would need other axes
      ratios = [0.0, *map(float, RATIOS.value)]
      added = [100 * (row['ratio'] - 1) for row in rows.values()]
      (line,) = ax.plot(ratios, added, marker='o', label=label)
      predicted = [100 * (row['operations_ratio'] - 1) for row in rows.values()]
      ax.plot(ratios, predicted, linestyle=':', color=line.get_color())
    ax.set_xlabel('synthetic ratio')
    ax.set_ylabel('added to a step, %')
    ax.set_title('Time (lines) and operations (dotted)')
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)

  return onto


def main(_):
  base = CONFIG.value
  layout, where = timing.start(base)
  scratch = tempfile.TemporaryDirectory()  # for images drawn in advance
  bench = Bench(layout, scratch.name)
  gans, names, batches = GANS.value, CLASSIFIERS.value, list(map(int, BATCHES.value))
  settings = [(gan, names[0], batches[0]) for gan in gans]
  settings += [(gans[0], name, batches[0]) for name in names[1:]]
  settings += [(gans[0], names[0], batch) for batch in batches[1:]]
  by_ratio = {}
  for gan, name, batch in settings:
    config = set_fields(base, gan=gan, classifier=name, batch=batch)
    label = f'{gan}, {name}, {batch}'
    by_ratio[label] = time_ratios(bench, config, label)
  print_ratios(by_ratio)
  by_way = {}
  gan, name, batch = settings[0]
  for ratio in RATIOS.value:
    config = set_fields(base, gan=gan, classifier=name, batch=batch, ratio=float(ratio))
    by_way[ratio] = time_ways(bench, config)
  print_ways(by_way)
  config = json.loads(base.to_json_best_effort())
  result = {**where, 'config': config, 'by_ratio': by_ratio, 'by_way': by_way}
  timing.finish(result, draw(by_ratio))


if __name__ == '__main__':
  app.run(main)
