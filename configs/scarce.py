"""Few labels: 50 MNIST images per class, a small SNGAN and CNN. Ablations start here.

python -m gan_aug_jax run --config=configs/scarce.py --workdir=runs/scarce
"""

from gan_aug_jax import config as base

_MNIST5K = base.load_file('configs/mnist5k.py')


def get_config():
  config = _MNIST5K.get_config()
  config.expected_duration = 'about 5 minutes on 2 CPU cores'
  config.data.label_budget = 50  # validation included
  config.generator.num_steps = 1500
  config.generator.select_steps = 100
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
    'higher_rate': {'classifier.learning_rate': 0.08},
  }
  return dict(list(recipes.items())[: max(number, 0)])
