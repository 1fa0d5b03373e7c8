"""Do images from a flow help, on the seeds that confirmed the GAN?

    python -m gan_aug_jax ablate --workdir=... \\
        --config=configs/evidence/flow_confirm.py:cifar10,250

The flow of configs/ablations/gan_quality.py takes the place of the GAN in
configs/evidence/gan_confirm.py, with the same seeds, the same 3,000 steps of the
classifier and the longest of its controls. The argument is that of gan_quality.py.
"""

from gan_aug_jax import config as base

_QUALITY = base.load_file('configs/ablations/gan_quality.py')
_SEEDS = base.load_file('configs/evidence/gan_confirm.py').get_config().ablation.seeds


def get_config(data='cifar10,250'):
  flow = _QUALITY.get_config(data).ablation.arms['flow']
  return base.add_ablation(
    _QUALITY.of_data(data),
    seeds=tuple(_SEEDS),
    arms={'flow': flow},
    controls={'steps=4500': {'classifier.num_steps': 4500}},
  )
