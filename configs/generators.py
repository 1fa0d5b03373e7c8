"""GANs on few images, to compare: the table in docs/results.md.

    python -m gan_aug_jax train-generator --workdir=runs/sngan \\
        --config=configs/generators.py:mnist500-sngan-diffaug
    python -m gan_aug_jax score --workdir=runs/sngan

The argument names the data (mnist500: 50 images per class, cifar5000: 500, cifar: all)
and the architecture; -diffaug augments what the discriminator sees. `python -m
benchmarks.generators` trains and scores all of them.
"""

from gan_aug_jax import config as base

DATA = {'mnist500': ('mnist', 50), 'cifar5000': ('cifar10', 500), 'cifar': ('cifar10', 0)}
ARCHS = ('dcgan', 'sngan', 'resnet')


def get_config(variant='mnist500-dcgan'):
  data, arch, *diffaug = variant.split('-')
  if data not in DATA or arch not in ARCHS or diffaug not in ([], ['diffaug']):
    raise base.ConfigError(
      f'configs/generators.py has no variant {variant!r}; write DATA-ARCH or '
      f'DATA-ARCH-diffaug, DATA of {", ".join(DATA)} and ARCH of {", ".join(ARCHS)}.'
    )
  config = base.default()
  config.gan.upsampling = 'subpixel'  # as in docs/results.md
  config.data.name, config.data.label_budget = DATA[data]
  config.gan.arch = arch
  config.gan.width = 24 if arch == 'resnet' else 32
  config.generator.num_steps = 2000
  config.generator.learning_rate = 4e-4
  config.gan.loss = 'non_saturating' if arch == 'dcgan' else 'hinge'
  config.generator.select_steps = 150
  config.score.cas_steps = 400
  is_mnist = data == 'mnist500'
  if diffaug:
    # Colour has no meaning in black on white, and a mirrored digit is no digit.
    grey, colour = ('translation', 'cutout'), ('color', 'translation', 'cutout', 'flip')
    config.gan.diffaug = grey if is_mnist else colour
  config.augment.crop_padding = 2
  config.augment.flip = not is_mnist
  config.classifier.learning_rate = 0.02
  config.classifier.schedule = 'cosine'
  return config
