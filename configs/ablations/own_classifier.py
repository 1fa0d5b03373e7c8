"""Does it help your own classifier? 50 embedded digits per class, two seeds.

    python -m gan_aug_jax ablate --config=configs/ablations/own_classifier.py \\
        --config.classifier.arch=examples.networks.resnet:ResNet --workdir=...

Real images, warped the way two images of a class differ, take the place of a generator
that would have to be trained. To draw from a GAN, add `--config.generator.family=gan`.
Two seeds show that everything works. For a verdict, take at least five and all the steps
that your network needs:

    --config.ablation.seeds="(0,1,2,3,4)" --config.classifier.num_steps=N
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  config.expected_duration = ''
  config.generator.family = 'gan_aug_jax.generators.warps:train'
  config.classifier.optimizer = 'adam'
  config.classifier.learning_rate = 1e-3
  config.classifier.num_steps = 100
  config.mix.ratio = 0.25
  return base.add_ablation(config, seeds=(0, 1))
