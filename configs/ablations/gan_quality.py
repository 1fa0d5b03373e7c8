"""How long must the GAN train? Images from one training, after more and more steps.

    python -m gan_aug_jax ablate --config=configs/ablations/gan_quality.py --workdir=...
    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/ablations/gan_quality.py:cifar10,250

Without an argument: 50 embedded digits per class. Given NAME,IMAGES, it uses the GAN of
configs/recipes/gan.py; NAME,IMAGES,TIMES also makes the rarest class TIMES times rarer
than the most common. The warps of configs/recipes/low_data.py and a flow (as in
configs/flow.py) are arms, too, and so are other ways to mix in the images of the longest
training. There are about as many controls: longer training and other recipes. With an
argument only validation images are used; without one, the test split is.
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')
_WARPS = base.load_file('configs/recipes/low_data.py').get_config().generator.family


def get_config(data=''):
  if data:
    return _of_recipe(data)
  config = _SCARCE.get_config()
  arms = _lengths(config, 100, 300, 1000, 3000)
  controls = _SCARCE.controls(len(arms) - 2)
  return base.add_ablation(config, arms=arms, controls=controls)


def of_data(data):
  """The recipe with a GAN for NAME,IMAGES or NAME,IMAGES,TIMES."""
  name, images, times = (*data.split(','), '', '')[:3]
  if data.count(',') > 2 or (times and not times.isdecimal()):
    raise base.ConfigError(
      'The argument must be NAME,IMAGES or NAME,IMAGES,TIMES, such as '
      f"cifar10,500,50, not '{data}'."
    )
  config = base.load_file('configs/recipes/gan.py').get_config(f'{name},{images}')
  if times:
    config.data.imbalance = float(times)
  return config


def _of_recipe(data):
  config = of_data(data)
  config.data.test_on = 'val'
  more = round(config.classifier.num_steps * (1 + config.mix.ratio))
  flow = {'generator.family': 'flow', 'generator.num_steps': 3000}
  flow |= {'generator.learning_rate': 1e-3, 'cache.refresh_steps': 10}
  flow |= {'flow.crop_padding': 2, 'flow.flip': config.augment.flip}
  others = {'warps': {'generator.family': _WARPS}, 'flow': flow}
  lengths = _lengths(config, 1000, 5000, 10_000, 20_000)
  # Other ways to use the images of the longest training.
  mixtures = {
    'weight=0.3': {'mix.weight': 0.3},
    'labels=teacher': {'targets.kind': 'teacher'},
    'candidates=4': {'filter.candidates': 4},
    'stop=0.7': {'mix.stop_fraction': 0.7},
  }
  balance = {}
  if config.data.imbalance > 1:
    mixtures['classes=train'] = {'mix.classes': 'train'}
    balance['adjusted'] = {'classifier.logit_adjustment': 1.0}
  mixtures = {name: lengths['gan=20000'] | own for name, own in mixtures.items()}
  return base.add_ablation(
    config,
    seeds=(3, 4),
    arms=lengths | others | mixtures,
    controls={
      'longer': {'classifier.num_steps': more},
      'twice': {'classifier.num_steps': 2 * config.classifier.num_steps},
      'cutmix': {'augment.mixup': 0.0, 'augment.cutmix': 1.0},
      'no_mixup': {'augment.mixup': 0.0},
      'no_color': {'augment.color': 0.0},
      'lr=0.05': {'classifier.learning_rate': 0.05},
      'smoothing': {'classifier.label_smoothing': 0.1},
      'weight_decay': {'classifier.weight_decay': 5e-4},
      **balance,
    },
    oracles=('train_copies', 'held_out'),
  )


def _lengths(config, *lengths):
  """Lets the GAN train for the longest; the arms draw from its checkpoints."""
  config.generator.num_steps = lengths[-1]
  config.generator.save_every_steps = lengths[0]
  config.generator.select = 'last'
  return {f'gan={n}': {'generator.checkpoints': (f'step:{n}',)} for n in lengths}
