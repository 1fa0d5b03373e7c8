"""Which recipe for scarce labels? By validation images alone.

python -m gan_aug_jax ablate --config=configs/ablations/search.py:mnist,25 --workdir=...

The argument is that of configs/recipes/low_data.py. This starts from what that was before
the search. Real images alone have as many trials as synthesis. The test split is not
looked at.
"""

import pathlib
import runpy

from gan_aug_jax import config as base

_RECIPE = pathlib.Path(__file__).parent.parent / 'recipes' / 'low_data.py'


def get_config(data='mnist5k,50'):
  config = runpy.run_path(str(_RECIPE))['before_search'](data)
  config.data.test_on = 'val'
  arms = {
    'gan': {},
    'light': {'mix.mode': 'add', 'mix.ratio': 0.5, 'mix.weight': 0.3},
    'taught': {'sampler.labels': 'teacher', 'mix.ratio': 0.5},
    'vae': {'sampler.generator': 'examples.vae:train'},
    'warped': {'sampler.generator': 'examples.deformations:train'},
    'warped_half': {
      'sampler.generator': 'examples.deformations:train',
      'mix.ratio': 0.5,
    },
    'untrained_half': {
      'sampler.generator': 'examples.deformations:untrained',
      'mix.ratio': 0.5,
    },
  }
  controls = {
    'crop_alone': {'augment.cutout': 0},
    'mixup': {'augment.mixup': 0.2},
    'cutmix': {'augment.cutmix': 1.0},
    'weight_decay': {'classifier.weight_decay': 1e-3},
    'dropout': {'classifier.dropout': 0.5},
  }
  return base.add_ablation(config, seeds=(0, 1), arms=arms, controls=controls)
