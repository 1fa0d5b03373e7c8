"""Which recipe for scarce labels? By validation images alone.

python -m gan_aug_jax ablate --config=configs/evidence/search.py:mnist,25 --workdir=...

The argument is that of configs/recipes/low_data.py. This starts from that recipe as it
was before the search. Real images alone have as many trials as synthesis. The test split
is not looked at.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  config = base.load_file('configs/recipes/low_data.py').before_search(data)
  config.data.test_on = 'val'
  arms = {
    'gan': {},
    'light': {'mix.mode': 'add', 'mix.ratio': 0.5, 'mix.weight': 0.3},
    'taught': {'targets.kind': 'teacher', 'mix.ratio': 0.5},
    'vae': {'generator.family': 'gan_aug_jax.generators.vae:train'},
    'warped': {'generator.family': 'gan_aug_jax.generators.warps:train'},
    'warped_half': {
      'generator.family': 'gan_aug_jax.generators.warps:train',
      'mix.ratio': 0.5,
    },
    'untrained_half': {
      'generator.family': 'gan_aug_jax.generators.warps:untrained',
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
