"""200 to 400 photographs per class: images of a GAN, on top of the batch.

    python -m gan_aug_jax run --config=configs/recipes/gan.py:folder,0 \\
        --config.data.data_dir=DIR --workdir=...

Takes the argument of configs/recipes/low_data.py, and replaces its warps with a GAN,
whose settings are those that StudioGAN found to work on few images (hinge loss, betas
0.5 and 0.999, several discriminator updates, DiffAugment). Both trainings are long: a
GAN of 1,000 steps hurt, and with half the classifier's steps the images did not help
(one seed). Rare classes are shown more often, which helps only if the test images are
balanced. How much it helps, and what it costs: docs/results/evidence.md.
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/recipes/low_data.py')


def get_config(data='cifar10,250'):
  config = _SCARCE.get_config(data)
  config.generator.family = 'gan'
  config.generator.num_steps, config.generator.learning_rate = 20_000, 2e-4
  config.generator.save_every_steps, config.generator.select = 1000, 'last'
  config.gan.arch, config.gan.loss, config.gan.d_steps = 'sngan', 'hinge', 2
  if config.augment.flip:  # colour and mirroring mean nothing to digits
    config.gan.diffaug = ('color', 'translation', 'cutout', 'flip')
  config.classifier.num_steps = 3000
  return config
