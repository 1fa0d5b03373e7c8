"""At which ratio do synthetic images help? MNIST, 50 images per class, five seeds.

    python -m gan_aug_jax ablate --config=configs/ablations/ratio.py --workdir=...
    python -m gan_aug_jax ablate --config=configs/ablations/ratio.py:0.2,0.8 --workdir=...

The argument lists the ratios; 0 is the control, which is always there. Further controls
(cutout, mixup, ...) give real images alone as many trials.
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config(ratios='0.1,0.2,0.35,0.5'):
  config = _SCARCE.get_config()
  try:
    numbers = [float(ratio) for ratio in ratios.split(',')]
  except ValueError:
    raise base.ConfigError(
      f'configs/ablations/ratio.py:{ratios} must list ratios, such as ratio.py:0.1,0.5.'
    ) from None
  arms = {f'ratio={ratio:g}': {'mix.ratio': ratio} for ratio in numbers}
  controls = _SCARCE.controls(len(arms) - 2)
  return base.add_ablation(config, arms=arms, controls=controls)
