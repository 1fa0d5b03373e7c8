"""Does a GAN of 20,000 steps help a classifier that trains for long enough to use it?

    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/evidence/gan_confirm.py:cifar10,250

The argument is that of configs/ablations/gan_quality.py. The recipe with a GAN is
compared with the warps in its place. In the search (docs/results/evidence-record.md, "At
twice the steps of the classifier"; one seed) a classifier with the GAN's images gained
from training for 3,000 steps instead of 1,500; without them it gained nothing after
2,250. So the controls take as many steps, fewer, and more. The five seeds are new, and
the test split decides.
"""

from gan_aug_jax import config as base

_QUALITY = base.load_file('configs/ablations/gan_quality.py')
_WARPS = base.load_file('configs/recipes/low_data.py').get_config().generator.family


def get_config(data='cifar10,250'):
  return base.add_ablation(
    _QUALITY.of_data(data),
    seeds=(30, 31, 32, 33, 34),  # which no search has seen
    arms={'gan': {}, 'warps': {'generator.family': _WARPS}},
    controls={
      'steps=2250': {'classifier.num_steps': 2250},
      'steps=4500': {'classifier.num_steps': 4500},
      'lr=0.05': {'classifier.learning_rate': 0.05},
    },
    oracles=('train_copies', 'held_out'),
  )
