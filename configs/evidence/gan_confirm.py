"""Does a GAN of 20,000 steps help a classifier that trains for long enough to use it?

    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/evidence/gan_confirm.py:cifar10,250

The GAN of configs/ablations/gan_quality.py, whose argument this takes, compared with the
warps in its place. With its images a classifier is still underfitted after the recipe's
1,500 steps; with real images alone it has gained what it can after 2,250 or so. So the
arms take 3,000 steps, and the controls as many, fewer, and more. The five seeds are new,
and the test split decides.
"""

from gan_aug_jax import config as base

_QUALITY = base.load_file('configs/ablations/gan_quality.py')
_RECIPE = base.load_file('configs/recipes/low_data.py')


def get_config(data='cifar10,250'):
  config = base.base_of(_QUALITY.get_config(data))
  config.data.test_on = 'test'
  config.classifier.num_steps = 3000
  return base.add_ablation(
    config,
    seeds=(6, 7, 8, 9, 10),
    arms={
      'gan': {},
      'warps': {'generator.family': _RECIPE.get_config().generator.family},
    },
    controls={
      f'steps={number}': {'classifier.num_steps': number} for number in (2250, 4500)
    },
    oracles=('train_copies', 'held_out'),
  )
