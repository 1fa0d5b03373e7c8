"""Which of the search's finalists? By validation, with the best control's augmentation.

python -m gan_aug_jax ablate --workdir=W --config=configs/evidence/finalists.py:mnist,25

The argument is that of configs/recipes/low_data.py. MixUp was the search's best control,
so both sides have it. Warped images were its best generator, and showing them on top of
the real ones at a low weight was its best mixture. The test split is not looked at.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  config = base.base_of(base.load_file('configs/evidence/search.py').get_config(data))
  config.augment.mixup = 0.2
  warped = {'generator.family': 'gan_aug_jax.generators.warps:train'}
  more = {'mix.mode': 'add', 'mix.ratio': 0.5}
  arms = {
    'warped': warped,
    'warped_more': warped | more,
    'warped_light': warped | more | {'mix.weight': 0.3},
  }
  # Added after the search: what images on top cost.
  controls = {'half_as_many_again': {'classifier.num_steps': 1500}}
  return base.add_ablation(config, seeds=(0, 1), arms=arms, controls=controls)
