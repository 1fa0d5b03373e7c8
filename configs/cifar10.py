"""The experiment on CIFAR-10: DCGAN, 200 epochs; CNN, 50 epochs; 20 % synthetic.

    python -m gan_aug_jax run --config=configs/cifar10.py --workdir=runs/cifar10

Made for an accelerator. A few hundred steps of it on a CPU:

    python -m gan_aug_jax run --config=configs/cifar10.py --workdir=runs/cifar10-short \\
        --config.generator.num_steps=300 --config.classifier.num_steps=300
"""

from gan_aug_jax import config as base


def get_config():
  config = base.default()
  config.data.name = 'cifar10'
  config.gan.arch = 'dcgan'
  config.generator.num_epochs = 200
  config.generator.batch_size = 64
  config.generator.learning_rate = 2e-4
  config.gan.beta1 = 0.5
  config.classifier.arch = 'cnn'
  config.classifier.num_epochs = 50
  config.classifier.batch_size = 128
  config.classifier.optimizer = 'sgd'
  config.classifier.learning_rate = 1e-3
  config.classifier.momentum = 0.9
  config.mix.ratio = 0.2
  return config
