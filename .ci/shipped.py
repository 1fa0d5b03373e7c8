"""Takes two steps of each config in the installed package, from an empty directory.

Networks and images are tiny, and random images stand in for the datasets. Of an ablation
its first arm is taken. This is the config file of the runs as well: its argument is the
config to cut down. `shipped.py 0/2` takes the first half of them, `1/2` the second:
neighbours have most programs in common, and a process compiles each once.
"""

import importlib.metadata
import os
import pathlib
import sys
import tempfile

# Almost all of the time is compilation.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # see tests/conftest.py
  os.environ['XLA_FLAGS'] = '--xla_cpu_use_fusion_emitters=false'

import numpy as np

import gan_aug_jax
from gan_aug_jax import cli, config as base
from gan_aug_jax.generators import warps

warps.STEPS = 2  # of 100, which take long without optimizations
PACKAGE = pathlib.Path(gan_aug_jax.__file__).parent
SMALL = {
  'compilation_cache': False,
  'arms': ('augmented',),
  'data.image_size': 16,
  'generator.num_steps': 2,
  'generator.batch_size': 8,
  'generator.select': 'last',
  'generator.checkpoints': (),
  'gan.width': 8,
  'gan.latent_dim': 4,
  'flow.width': 8,
  'classifier.num_steps': 2,
  'classifier.warmup_steps': 0,
  'classifier.batch_size': 8,
  'classifier.features': (4, 4),
  'classifier.hidden': (8,),
  'mix.ratio': 0.5,
  'augment.cutout': 4,
}


def get_config(file):
  config = base.load_file(file).get_config()
  if 'ablation' in config:
    arm = next(iter(config.ablation.arms.values()), {})
    config = base.base_of(config)
    config.update_from_flattened_dict(dict(arm))
  config.update_from_flattened_dict(SMALL)
  config.data.label_budget = min(config.data.label_budget or 5, 5)
  if file != 'configs/mnist5k.py':  # the others need not read its images again
    channels = 3 if config.data.name.startswith('cifar') else 1
    config.data.name, config.data.data_dir = 'npz', _write_images(channels)
  return config


def _write_images(channels):
  path, rng = pathlib.Path(f'images-{channels}.npz'), np.random.default_rng(0)
  labels = np.arange(200) % 10
  images = rng.integers(0, 256, (200, 28, 28, channels), np.uint8)
  arrays = {'train_images': images, 'train_labels': labels}
  np.savez(path, **arrays, test_images=images[::-1] // 2, test_labels=labels[::-1])
  return str(path)


def list_configs(directory):
  return {str(path.relative_to(directory)) for path in directory.glob('configs/**/*.py')}


def main():
  files = list_configs(PACKAGE)
  if differ := files ^ list_configs(pathlib.Path(__file__).parent.parent):
    sys.exit(
      f'Only one of {PACKAGE} and this checkout has {", ".join(sorted(differ))}; install '
      'the wheel of this checkout.'
    )
  share, shares = map(int, (sys.argv[1] if sys.argv[1:] else '0/1').split('/'))
  os.chdir(tempfile.mkdtemp())
  first, end = (n * len(files) // shares for n in (share, share + 1))
  for i, file in [*enumerate(sorted(files))][first:end]:
    print(f'{file} ({i + 1} of {len(files)})', flush=True)
    code = cli.main(['', 'run', f'--config={__file__}:{file}', f'--workdir={i}'])
    if code:
      sys.exit(f'{file} ended with exit code {code}.')


if __name__ == '__main__':
  main()
