"""What the second search left out: another classifier, a GAN, several GANs at once.

python -m gan_aug_jax ablate --workdir=W \\
    --config=configs/evidence/third_search.py:cifar10,250

The argument is that of configs/recipes/low_data.py. Its warped images are compared with
those of a GAN, and with those of two generators at once: the GAN's checkpoints after half
of its training and after all of it. Only validation images decide; the test split is not
looked at.
"""

from gan_aug_jax import config as base


def get_config(data='mnist5k,50'):
  config = base.load_file('configs/recipes/low_data.py').get_config(data)
  config.data.test_on = 'val'
  return base.add_ablation(
    config,
    seeds=(3,),
    arms={
      'low_data': {},
      'gan': {'generator.family': 'gan'},
      'gans': {
        'generator.family': 'gan',
        'generator.checkpoints': ('step:500', 'step:1000'),
      },
    },
    controls={'half_as_many_again': {'classifier.num_steps': 2250}},
    grid={'classifier.arch': ('cnn', 'resnet')},
  )
