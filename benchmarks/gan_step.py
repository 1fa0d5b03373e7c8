"""What a GAN training step costs, by architecture, DiffAugment and upsampling.

    python -m benchmarks.gan_step --variants=mnist500-dcgan,mnist500-sngan \\
        --upsamplings=transposed,subpixel,nearest

Times the whole step of each, interleaved in one process, on random images. The variants
are those of configs/generators.py.
"""

from absl import app, flags

from benchmarks import timing
from configs import generators as configs
from gan_aug_jax.config import validation

VARIANTS = flags.DEFINE_list(
  'variants', ['mnist500-dcgan'], 'From configs/generators.py.'
)
UPSAMPLINGS = flags.DEFINE_list('upsamplings', ['transposed'], 'See gan.upsampling.')
WIDTH = flags.DEFINE_integer('width', 0, "Of the networks; 0 keeps the variant's.")


def prepare(config, layout):
  """Returns (run, compile seconds); `run()` takes two steps, returns seconds per step."""
  from benchmarks import dry_run

  channels = 1 if config.data.name == 'mnist' else 3
  inputs = dry_run.on_noise(config, layout, channels=channels)
  calls = timing.compile_calls(dry_run.generator_step(*inputs))
  return calls.run(2), calls.compile_seconds


def main(_):
  arms = {}
  for variant in VARIANTS.value:
    for upsampling in UPSAMPLINGS.value:
      config = configs.get_config(variant)
      config.gan.width = WIDTH.value or config.gan.width
      config.gan.upsampling = upsampling
      validation.validate(config, trains_generator=True)
      arms[f'{variant} {upsampling}'] = config
  layout, where = timing.start(next(iter(arms.values())))
  steps = {name: prepare(config, layout) for name, config in arms.items()}
  seconds = timing.interleave(
    {k: run for k, (run, _) in steps.items()}, timing.ROUNDS.value
  )
  rows = timing.compare(seconds, next(iter(steps)))
  for name, row in rows.items():
    row['compile_s'] = steps[name][1]
  table = [
    [
      name,
      timing.per_step(row),
      f'{row["ratio"]:.2f}',
      f'{row["compile_s"]:.1f}',
    ]
    for name, row in rows.items()
  ]
  timing.print_table(['GAN', 'per step', 'to the first', 'compilation, s'], table)
  timing.finish({**where, 'width': WIDTH.value, 'steps': rows}, timing.draw_bars(rows))


if __name__ == '__main__':
  app.run(main)
