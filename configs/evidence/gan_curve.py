"""How long must the GAN train, if the classifier trains for 3,000 steps?

    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/evidence/gan_curve.py:cifar10,500,50

The ablation of gan_confirm.py, with the same argument, and three more arms: their images
are those of the same GAN after 1,000, 5,000 and 10,000 of its steps.
"""

from gan_aug_jax import config as base

_CONFIRM = base.load_file('configs/evidence/gan_confirm.py')
STEPS = (1000, 5000, 10_000)


def get_config(data='cifar10,500,50'):
  config = _CONFIRM.get_config(data)
  earlier = {f'gan={n}': {'generator.checkpoints': (f'step:{n}',)} for n in STEPS}
  config.ablation.arms = earlier | dict(config.ablation.arms)
  return config
