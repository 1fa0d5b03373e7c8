"""Does it depend on the classifier?

python -m gan_aug_jax ablate --config=configs/ablations/classifier.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  grid = {'classifier.arch': ('mlp', 'cnn', 'resnet')}
  return base.add_ablation(config, grid=grid)
