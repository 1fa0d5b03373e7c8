"""Few labels: 50 MNIST images per class, a small SNGAN and CNN. Ablations start here.

python -m gan_aug_jax run --config=configs/scarce.py --workdir=runs/scarce
"""

import pathlib
import runpy

_MNIST5K = runpy.run_path(str(pathlib.Path(__file__).with_name('mnist5k.py')))


def get_config():
  config = _MNIST5K['get_config']()
  config.duration = 'about 5 minutes on 2 CPU cores'
  config.data.per_class = 50  # validation included
  config.gan.num_steps = 1500
  config.gan.select_steps = 100
  config.classifier.batch_size = 64
  config.classifier.num_steps = 800
  return config


def controls(number):
  """Up to `number` further recipes for real images alone, to match the arms' trials."""
  recipes = {
    'cutout': {'augment.cutout': 8},
    'mixup': {'augment.mixup': 0.2},
    'cutmix': {'augment.cutmix': 1.0},
    'weight_decay': {'classifier.weight_decay': 1e-3},
    'higher_rate': {'classifier.learning_rate': 0.04},
  }
  return dict(list(recipes.items())[: max(number, 0)])
