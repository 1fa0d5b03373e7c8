"""Does the recipe of the second search help? On the test split, once, with five seeds.

python -m gan_aug_jax ablate --workdir=W \\
    --config=configs/evidence/second_confirm.py:mnist,25

The argument is that of configs/recipes/low_data.py. Arm and controls have its
augmentation and its length of training. Controls and oracles are those of confirm.py.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  config = base.load_file('configs/recipes/low_data.py').get_config(data)
  confirm = base.load_file('configs/evidence/confirm.py').confirm
  return confirm(config, seeds=(20, 21, 22, 23, 24))  # which nothing has seen
