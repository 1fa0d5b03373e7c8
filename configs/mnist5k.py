"""First look: 5,000 embedded MNIST images, a small SNGAN, a CNN in four arms.

python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/first
"""

from gan_aug_jax import config as base


def get_config():
  config = base.default()
  config.expected_duration = 'about 6 minutes on 2 CPU cores'
  config.data.name = 'mnist5k'
  config.data.val_fraction = 1 / 7  # 3,000 / 500 / 1,500
  config.gan.arch = 'sngan'
  config.gan.loss = 'hinge'
  config.gan.width = 32
  config.generator.num_steps = 1500
  config.generator.learning_rate = 4e-4
  config.classifier.num_epochs = 12
  config.classifier.learning_rate = 0.04
  config.classifier.schedule = 'cosine'
  config.augment.crop_padding = 2
  config.augment.flip = False  # a mirrored digit is no digit
  return config
