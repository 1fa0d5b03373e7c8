"""The experiment that the project was made for, in full: which proportion of images?

    python -m gan_aug_jax ablate --config=configs/ablations/full.py:cifar10 --workdir=...

The argument names a config of the experiment: cifar10, mnist, mlp-original or
mlp-updated, and optionally parts of it, such as cifar10,plain or cifar10,plain,0.2:
`plain` is without classical augmentation, `classical` with it; the MLP has no classical
augmentation. The ratios are 0.1, 0.2, 0.35 and 0.5, unless some are named. The controls
have real images alone (ratio 0) at equal steps, equal exposure and equal operations. The
cells of a seed share one GAN.

Made for an accelerator. The GAN takes 20,000 steps; --config.generator.num_steps=0 gives
it the 200 epochs of configs/cifar10.py (140,625 steps). Several processes can share the
cells, each every n-th, and the report is collected later. If they share a GPU, set
XLA_PYTHON_CLIENT_PREALLOCATE=false, or the first one takes most of its memory:

    python -m gan_aug_jax ablate --workdir=W --config=configs/ablations/full.py:cifar10 \\
        --shard=0/5
    python -m gan_aug_jax ablate --workdir=W --collect
"""

from gan_aug_jax import config as base

NAMES = ('cifar10', 'mnist', 'mlp-original', 'mlp-updated')
PARTS = ('plain', 'classical')
RATIOS = (0.1, 0.2, 0.35, 0.5)


def get_config(argument='cifar10'):
  name, *chosen = argument.split(',')
  parts = [part for part in PARTS if part in chosen]
  ratios = [ratio for ratio in RATIOS if f'{ratio:g}' in chosen]
  if name not in NAMES or len(chosen) > len(parts) + len(ratios):
    raise base.ConfigError(
      f'configs/ablations/full.py has no experiment {argument!r}; choose one of '
      f'{", ".join(NAMES)}, optionally followed by ,plain or ,classical and by ratios '
      f'out of {", ".join(f"{ratio:g}" for ratio in RATIOS)}, such as cifar10,plain,0.2.'
    )
  file, *version = name.split('-')
  config = base.load_file(f'configs/{file}.py').get_config(*version)
  config.generator.num_steps = 20_000
  arms = {}
  for part in parts or (PARTS if config.classifier.arch == 'cnn' else PARTS[:1]):
    kind = {'plain': 'augmented', 'classical': 'augmented_classical'}[part]
    suffix = '+classical' if part == 'classical' else ''
    arms |= {
      f'ratio={r:g}{suffix}': {'arms': (kind,), 'mix.ratio': r} for r in ratios or RATIOS
    }
  return base.add_ablation(config, arms=arms, equal_compute=True)
