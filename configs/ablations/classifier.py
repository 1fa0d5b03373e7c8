"""Does it depend on the classifier?

python -m gan_aug_jax ablate --config=configs/ablations/classifier.py --workdir=...
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_SCARCE = runpy.run_path(str(pathlib.Path(__file__).parent.parent / 'scarce.py'))


def get_config():
  config = _SCARCE['get_config']()
  grid = {'classifier.arch': ('mlp', 'cnn', 'resnet')}
  return base.add_ablation(config, grid=grid)
