"""Flow matching in the GAN's place, on any dataset by name.

    python -m gan_aug_jax run --config=configs/flow.py:mnist --workdir=runs/flow \\
        --config.data.label_budget=50

This is sized for two CPU cores: half of its steps took 15 minutes of a shared core, and
docs/results.md has what they gave. For a GPU append `,gpu`: a network 16 times as large,
in bfloat16, on four times the batch. That was not measured yet.

    python -m gan_aug_jax run --config=configs/flow.py:cifar10,gpu --workdir=runs/flow-gpu
"""

from gan_aug_jax import config as base

_DIGITS = base.load_file('configs/recipes/low_data.py').DIGITS


def get_config(variant='mnist5k'):
  name, _, size = variant.partition(',')
  if size not in ('', 'gpu'):
    raise base.ConfigError(
      f'configs/flow.py has no size {size!r}; write NAME for two CPU cores, or NAME,gpu.'
    )
  config = base.default()
  config.data.name = name
  config.generator.family = 'flow'
  config.generator.num_steps = 3000
  config.generator.learning_rate = 1e-3
  config.flow.crop_padding = config.augment.crop_padding = 2
  config.flow.flip = config.augment.flip = name not in _DIGITS
  config.classifier.learning_rate = 0.02
  config.classifier.schedule = 'cosine'
  # An image costs several evaluations: on a CPU it is kept for some steps.
  config.cache.refresh_steps = 10
  if size == 'gpu':
    config.generator.num_steps = 20_000
    config.generator.batch_size = 256
    config.generator.learning_rate = 5e-4
    config.generator.train_precision = 'bfloat16'
    config.flow.width = 128
    config.flow.evaluations = 8
    config.cache.refresh_steps = 1
  return config
