"""With how many labels does the recipe for scarce labels stop helping?

python -m gan_aug_jax ablate --config=configs/ablations/curve.py:mnist --workdir=...

The argument is the name of the data, or NAME,IMAGES,... with the images per class. The
recipe, configs/recipes/low_data.py, is compared with two oracles: the training images
shown again, and real images that nobody has seen.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,14,28,56'):
  name, *sizes = data.split(',')
  sizes = sizes or (10, 25, 100)
  # The recipe refuses an argument that is not a size.
  configs = [
    base.load_file('configs/recipes/low_data.py').get_config(f'{name},{size}')
    for size in sizes
  ]
  return base.add_ablation(
    configs[0],
    arms={'low_data': {}},
    grid={'data.label_budget': tuple(config.data.label_budget for config in configs)},
    oracles=('train_copies', 'held_out'),
  )
