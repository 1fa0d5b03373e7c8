"""What could any generator give, and where does that end? Real images in its place.

python -m gan_aug_jax ablate --config=configs/ablations/oracles.py:mnist --workdir=...

The argument is the name of the data. This starts from configs/recipes/low_data.py as
it was before the search. A small VAE, which trains in seconds, is compared with the floor
and the ceiling.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k'):
  config = base.load_file('configs/recipes/low_data.py').before_search(f'{data},10')
  return base.add_ablation(
    config,
    arms={'vae': {'generator.family': 'gan_aug_jax.generators.vae:train'}},
    grid={'data.label_budget': (10, 25, 100)},
    oracles=('train_copies', 'held_out'),
  )
