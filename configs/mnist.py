"""The experiment on MNIST: DCGAN, 200 epochs; CNN, 50 epochs; 20 % synthetic.

    python -m gan_aug_jax run --config=configs/mnist.py --workdir=runs/mnist

Made for an accelerator; on a CPU set --config.generator.num_steps and
--config.classifier.num_steps.
"""

from gan_aug_jax import config as base


def get_config():
  config = base.default()
  config.data.name = 'mnist'
  config.gan.arch = 'dcgan'
  config.generator.num_epochs = 200
  config.classifier.arch = 'cnn'
  config.classifier.num_epochs = 50
  config.mix.ratio = 0.2
  config.augment.crop_padding = 2
  config.augment.flip = False  # a mirrored digit is no digit
  return config
