"""The MLP classifier on MNIST in two versions, with the MLP GAN.

    python -m gan_aug_jax run --config=configs/mlp.py:original --workdir=runs/mlp-original
    python -m gan_aug_jax run --config=configs/mlp.py:updated --workdir=runs/mlp-updated

original: no dropout, learning rate 1e-3, batch 32.
updated: dropout 0.5 after each hidden layer, learning rate 5e-4, batch 64.
"""

from gan_aug_jax import config as base

_VERSIONS = {
  'original': {'dropout': 0.0, 'learning_rate': 1e-3, 'batch_size': 32},
  'updated': {'dropout': 0.5, 'learning_rate': 5e-4, 'batch_size': 64},
}


def get_config(version='original'):
  if version not in _VERSIONS:
    raise base.ConfigError(
      f'configs/mlp.py has no version {version!r}; choose one of {", ".join(_VERSIONS)}.'
    )
  config = base.default()
  config.data.name = 'mnist'
  config.data.image_size = 28
  config.gan.arch = 'mlp'
  config.gan.width = 256
  config.classifier.arch = 'mlp'
  config.classifier.hidden = (128, 64)
  config.classifier.update(_VERSIONS[version])
  config.arms = ('real_only', 'augmented')
  config.augment.crop_padding = 2
  config.augment.flip = False  # a mirrored digit is no digit
  return config
