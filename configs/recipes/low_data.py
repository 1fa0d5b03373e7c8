"""Scarce labels: one recipe for all datasets, except that digits are not mirrored.

    python -m gan_aug_jax run --config=configs/recipes/low_data.py:mnist,25 --workdir=...
    python -m gan_aug_jax run --config=configs/recipes/low_data.py:folder,0 \\
        --config.data.data_dir=DIR --workdir=...

The argument is the dataset's name and the images per class, validation included (0 for
all). It needs no trained generator: real images are shown again, warped and recoloured
the way two images of a class differ (gan_aug_jax.generators.warps), on top of the batch
and more of the rarer classes. With 100 photographs per class it gains more if the
classifier takes 3,000 steps; with 250 it gains only then, and configs/recipes/gan.py
gains more. How it was chosen and how much it helps: docs/results/evidence.md.
"""

from gan_aug_jax import config as base

DIGITS = ('mnist', 'mnist5k', 'svhn_cropped')


def get_config(data='mnist5k,50'):
  config = before_search(data)
  config.classifier.num_steps = 1500
  config.augment.mixup = 0.2
  config.augment.color = 0.3
  config.mix.mode = 'add'
  config.mix.ratio = 0.5
  config.mix.classes = 'balance'
  config.generator.family = 'gan_aug_jax.generators.warps:train_colors'
  return config


def of_first_search(data):
  """The recipe that configs/evidence/confirm.py tests."""
  config = before_search(data)
  config.augment.mixup = 0.2
  config.mix.mode = 'add'
  config.mix.ratio = 0.5
  config.mix.weight = 0.3
  config.generator.family = 'gan_aug_jax.generators.warps:train'
  return config


def before_search(data):
  """Where evidence/search.py and ablations/oracles.py start: a GAN's images at 20 %."""
  name, _, per_class = data.rpartition(',')
  if not name or not per_class.isdecimal():
    raise base.ConfigError(
      f"The argument of a recipe must be NAME,IMAGES, such as cifar10,250, not '{data}'; "
      '0 images per class means all.'
    )
  config = base.default()
  config.data.name, config.data.label_budget = name, int(per_class)
  config.data.val_fraction = 0.2
  config.gan.arch = 'dcgan'
  config.gan.diffaug = ('translation', 'cutout')
  config.gan.width = 32
  config.generator.num_steps = 1000
  config.generator.learning_rate = 4e-4
  config.generator.select_steps = 100
  config.generator.save_every_steps = 500  # two generators to choose from
  config.classifier.features = (16, 32, 64)
  config.classifier.num_steps = 1000
  config.classifier.batch_size = 64
  config.classifier.learning_rate = 0.02
  config.classifier.schedule = 'cosine'
  config.augment.crop_padding = 2
  config.augment.cutout = 8
  config.augment.flip = name not in DIGITS  # a mirrored digit is no digit
  config.mix.ratio = 0.2
  config.cache.refresh_steps = 4
  return config
