"""Trains and scores the GANs of configs/generators.py in turn, and prints a table.

    python -m benchmarks.generators --variants=mnist500-dcgan,mnist500-sngan-diffaug \\
        --workdir=runs/generators

Arguments after `--` go to train-generator, such as
`-- --config.generator.num_steps=300`. Finished work in the workdir is not repeated: a
generator that is there must be of the same config. `--grids` names a directory to copy
the grids to.
"""

import itertools
import json
import pathlib
import shutil
import subprocess
import sys

from absl import app, flags

_ALL = [
  f'{data}-{arch}{extra}'
  for data in ('mnist500', 'cifar5000')
  for arch, extra in itertools.product(('dcgan', 'sngan', 'resnet'), ('', '-diffaug'))
]
VARIANTS = flags.DEFINE_list('variants', _ALL, 'From configs/generators.py.')
WORKDIR = flags.DEFINE_string('workdir', 'runs/generators', 'Directory of the runs.')
GRIDS = flags.DEFINE_string('grids', '', 'Directory to copy the sample grids to.')

COLUMNS = (
  ('Fréchet', '{:.2f}', 'frechet'),
  ('precision', '{:.3f}', 'precision'),
  ('recall', '{:.3f}', 'recall'),
  ('CAS', '{:.2%}', 'cas'),
  ('GAN-test', '{:.2%}', 'gan_test'),
)


def command(*arguments):
  """Runs a command of the package with its output shown; exits if it fails."""
  process = subprocess.run([sys.executable, '-m', 'gan_aug_jax', *arguments])
  if process.returncode:
    sys.exit(process.returncode)


def is_scored(workdir):
  """Whether the scores are of the generator and the config that are there."""
  scores = workdir / 'score' / 'scores.json'
  made = (workdir / 'config.json', workdir / 'generator' / 'result.json')
  written = lambda path: path.stat().st_mtime
  return scores.exists() and written(scores) > max(map(written, made))


def finish(variant, extra):
  """Trains and scores a variant if needed; returns [result of the GAN, scores]."""
  workdir = pathlib.Path(WORKDIR.value, variant)
  here = f'--workdir={workdir}'
  # What is finished is only checked to be of this config.
  command('train-generator', f'--config=configs/generators.py:{variant}', here, *extra)
  if not is_scored(workdir):
    command('score', here)
  if GRIDS.value:
    pathlib.Path(GRIDS.value).mkdir(parents=True, exist_ok=True)
    shutil.copy(
      workdir / 'score' / 'grid.png', pathlib.Path(GRIDS.value, f'{variant}.png')
    )
  paths = (workdir / 'generator' / 'result.json', workdir / 'score' / 'scores.json')
  return [json.loads(path.read_text()) for path in paths]


def print_row(name, scores, *rest):
  cells = [template.format(scores[field]) for _, template, field in COLUMNS]
  cells = [cell.replace('%', ' %') for cell in cells]
  print(f'| {" | ".join([name, *cells, *rest])} |', flush=True)


def main(argv):
  headings = ['images', *(heading for heading, _, _ in COLUMNS)]
  headings += ['step kept', 'parameters']
  finished = {variant: finish(variant, argv[1:]) for variant in VARIANTS.value}
  print(f'| {" | ".join(headings)} |\n|{"---|" * len(headings)}')
  bounds = {}
  for variant, (gan, scores) in finished.items():
    data, _, name = variant.partition('-')
    for bound in ('real training images', 'noise'):
      bounds[f'{data}: {bound}'] = scores['rows'][bound]
    (row,) = [scores['rows'][member] for member in scores['rows'] if 'seed' in member]
    params = gan['num_params'] + gan['num_discriminator_params']
    print_row(f'{data}: {name}', row, f'{gan["chosen_step"]:,}', f'{params:,}')
  for name, row in bounds.items():
    print_row(name, row, '', '')


if __name__ == '__main__':
  app.run(main)
