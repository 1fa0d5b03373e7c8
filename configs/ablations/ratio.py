"""At which ratio do synthetic images help? MNIST, 50 images a class, five seeds.

    python -m gan_aug_jax ablate --config=configs/ablations/ratio.py --workdir=runs/ratio
    python -m gan_aug_jax ablate --config=configs/ablations/ratio.py:0.2,0.8 --workdir=...

The argument lists the ratios; 0 is the control, which is always there.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_MNIST5K = runpy.run_path(str(pathlib.Path(__file__).parent.parent / 'mnist5k.py'))


def get_config(ratios='0.1,0.2,0.35,0.5'):
  config = _MNIST5K['get_config']()
  config.duration = ''
  config.data.per_class = 50
  config.gan.num_steps = 1500
  config.gan.select_steps = 100
  config.classifier.batch_size = 64
  config.classifier.num_steps = 800
  numbers = [float(ratio) for ratio in ratios.split(',')]
  arms = {f'ratio={ratio:g}': {'mix.ratio': ratio} for ratio in numbers}
  return base.add_ablation(config, arms=arms)
