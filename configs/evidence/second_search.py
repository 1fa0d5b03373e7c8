"""Which recipe, if training longer is one of the trials? By validation images alone.

python -m gan_aug_jax ablate --workdir=W \\
    --config=configs/evidence/second_search.py:mnist,25

The argument is NAME,IMAGES as for configs/recipes/low_data.py, or NAME,IMAGES,TIMES,
which makes the rarest class TIMES times rarer than the most common one. Both sides
train 50 % longer than in the first search, with its augmentation. One trial of real
images alone takes 50 % more steps than that, which is what images on top cost. The test
split is not looked at.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  name, images, times = (*data.split(','), '', '')[:3]
  if data.count(',') > 2 or (times and not times.isdecimal()):
    raise base.ConfigError(
      f'configs/evidence/second_search.py:{data} must be NAME,IMAGES or '
      'NAME,IMAGES,TIMES, such as second_search.py:cifar10,500,50.'
    )
  config = base.load_file('configs/recipes/low_data.py').before_search(f'{name},{images}')
  config.data.test_on = 'val'
  config.classifier.num_steps = 1500
  config.augment.mixup = 0.2
  config.mix.mode, config.mix.ratio = 'add', 0.5
  config.generator.family = 'gan_aug_jax.generators.warps:train'
  arms = {
    'light': {'mix.weight': 0.3},
    'full': {},
    'half': {'mix.mode': 'replace'},
    'colored': {'generator.family': 'gan_aug_jax.generators.warps:train_colors'},
  }
  controls = {
    'half_as_many_again': {'classifier.num_steps': 2250},
    'color': {'augment.color': 0.3},
  }
  oracles = ()
  if times:
    config.data.imbalance = float(times)
    config.mix.classes = 'balance'
    arms['uniform'] = {'mix.classes': 'uniform'}
    controls['dropout'] = {'classifier.dropout': 0.5}
    oracles = ('train_copies',)  # rare images shown more often, and not warped
  return base.add_ablation(
    config, seeds=(3, 4), arms=arms, controls=controls, oracles=oracles
  )
