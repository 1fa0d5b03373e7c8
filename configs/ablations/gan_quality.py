"""How good must the generator be? The same GAN, trained for longer and longer.

python -m gan_aug_jax ablate --config=configs/ablations/gan_quality.py --workdir=...
"""

from gan_aug_jax import config as base

_SCARCE = base.load_file('configs/scarce.py')


def get_config():
  config = _SCARCE.get_config()
  config.generator.select = 'last'
  lengths = (100, 300, 1000, 3000)
  arms = {f'gan={steps}': {'generator.num_steps': steps} for steps in lengths}
  controls = _SCARCE.controls(len(arms) - 2)
  return base.add_ablation(config, arms=arms, controls=controls)
