"""Does the recipe of the first search help? On the test split, once, with five seeds.

python -m gan_aug_jax ablate --config=configs/evidence/confirm.py:mnist,25 --workdir=...

The argument is that of configs/recipes/low_data.py. Arm and controls have its
augmentation. One control takes the same number of steps; one takes 50 % more, since the
arm's batches have 50 % more images; one is also trained on the validation images.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  config = base.load_file('configs/recipes/low_data.py').of_first_search(data)
  return confirm(config, seeds=(10, 11, 12, 13, 14))  # not those of the search


def confirm(config, seeds):
  more = round(config.classifier.num_steps * (1 + config.mix.ratio))  # of mode 'add'
  # Without a budget there is no image beyond it.
  oracles = ('train_copies', 'held_out')[: 2 if config.data.label_budget else 1]
  return base.add_ablation(
    config,
    seeds=seeds,
    arms={'low_data': {}},
    controls={
      'half_as_many_again': {'classifier.num_steps': more},
      'all_labels': {'data.train_on_val': True},
    },
    oracles=oracles,
  )
