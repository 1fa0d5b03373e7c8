"""The first look at the proportion of synthetic images, before ablations/full.py.

python -m gan_aug_jax ablate --workdir=... --config=configs/evidence/proportion.py:mnist

The argument names a config of the experiment: cifar10, mnist, mlp-original or
mlp-updated. Like the experiment it has no classical augmentation; for the CNN there is
also an arm at 20 % that has it. Made for an accelerator: on a CPU set
--config.generator.num_steps and --config.classifier.num_epochs.
"""

from gan_aug_jax import config as base

NAMES = ('cifar10', 'mnist', 'mlp-original', 'mlp-updated')


def get_config(name='cifar10'):
  if name not in NAMES:
    raise base.ConfigError(
      f'configs/evidence/proportion.py has no experiment {name!r}; choose one of '
      f'{", ".join(NAMES)}.'
    )
  file, *version = name.split('-')
  config = base.load_file(f'configs/{file}.py').get_config(*version)
  arms = {
    f'ratio={ratio:g}': {'arms': ('augmented',), 'mix.ratio': ratio}
    for ratio in (0.1, 0.2, 0.35, 0.5)
  }
  if config.classifier.arch == 'cnn':
    arms['ratio=0.2+classical'] = {'mix.ratio': 0.2}
  return base.add_ablation(config, arms=arms)
