"""Do the warps still help a classifier that trains for twice as long?

    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/evidence/longer_confirm.py:cifar10,100

configs/evidence/second_confirm.py with 3,000 steps instead of 1,500, and controls that
are longer in proportion; the seeds are the same.
"""

from gan_aug_jax import config as base


def get_config(data='cifar10,100'):
  config = base.load_file('configs/recipes/low_data.py').get_config(data)
  config.classifier.num_steps *= 2
  confirm = base.load_file('configs/evidence/confirm.py').confirm
  return confirm(config, seeds=(20, 21, 22, 23, 24))
