"""The first look at the proportion of synthetic images, before ablations/full.py.

python -m gan_aug_jax ablate --workdir=... --config=configs/evidence/proportion.py:mnist

The argument names a config of the experiment: cifar10, mnist, mlp-original or
mlp-updated. The arms have no classical augmentation; for the CNN one at 20 % has it,
too. Ratios may follow, as in proportion.py:cifar10,0.2,0.5:
then each is tried without and with it. Made for an accelerator: on a CPU set
--config.generator.num_steps and --config.classifier.num_epochs.
"""

from gan_aug_jax import config as base

NAMES = ('cifar10', 'mnist', 'mlp-original', 'mlp-updated')
RATIOS = (0.1, 0.2, 0.35, 0.5)


def get_config(argument='cifar10'):
  name, *ratios = argument.split(',')
  if name not in NAMES:
    raise base.ConfigError(
      f'configs/evidence/proportion.py has no experiment {name!r}; choose one of '
      f'{", ".join(NAMES)}.'
    )
  file, *version = name.split('-')
  config = base.load_file(f'configs/{file}.py').get_config(*version)
  try:
    plain = list(map(float, ratios or RATIOS))
  except ValueError:
    raise base.ConfigError(
      f'configs/evidence/proportion.py:{argument} must list ratios after the name, such '
      'as proportion.py:cifar10,0.2,0.5.'
    ) from None
  arms = {
    f'ratio={ratio:g}': {'arms': ('augmented',), 'mix.ratio': ratio} for ratio in plain
  }
  if config.classifier.arch == 'cnn':
    for ratio in plain if ratios else (0.2,):
      arms[f'ratio={ratio:g}+classical'] = {'mix.ratio': ratio}
  return base.add_ablation(config, arms=arms)
