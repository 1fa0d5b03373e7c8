"""Draws docs/images/front.png: real and synthetic images, and what they gave.

    python -m gan_aug_jax train-generator --workdir=runs/warps \\
        --config=configs/recipes/low_data.py:cifar10,50
    python -m gan_aug_jax export --workdir=runs/warps
    python -m gan_aug_jax train-generator --workdir=runs/gan \\
        --config=configs/recipes/gan.py:cifar10,250 --config.seed=30
    python -m gan_aug_jax export --workdir=runs/gan
    python docs/front.py runs/warps runs/gan

The images are the first ones of their classes, real and drawn; the gains are those of
docs/evidence.py.
"""

import pathlib
import sys

import evidence
from matplotlib import pyplot as plt
import numpy as np

import gan_aug_jax
from gan_aug_jax import data

ROWS, COLUMNS = 4, 5  # of images in a block
BLOCKS = (
  ('50 per class', 'warped and recoloured', {'per_class': 50, 'seed': 0}),
  ('250 per class', 'from a GAN', {'per_class': 250, 'seed': 30}),
)
# (label, raw files, setting, arm); with a star, classifiers of 3,000 steps, not 1,500
GAINS = (
  ('warped: CIFAR-10, 50 per class', 'second-confirm-cifar10-50', '', 'low_data'),
  ('warped: CIFAR-10, 100 per class', 'second-confirm-cifar10-100', '', 'low_data'),
  ('warped: CIFAR-10, 250 per class', 'second-confirm-cifar10', '', 'low_data'),
  ('warped*: CIFAR-10, 250 per class', 'gan-confirm-cifar10-250', '', 'warps'),
  ('GAN*: CIFAR-10, 250 per class', 'gan-confirm-cifar10-250', '', 'gan'),
  ('warped: MNIST, 10 per class', 'second-curve-mnist', 'per_class=10', 'low_data'),
  ('warped: MNIST, 25 per class', 'second-confirm-mnist', '', 'low_data'),
  ('GAN: MNIST, 50 per class', '../ratio', '', 'ratio=0.35'),
)
GOOD, BAD = '#1b7837', '#b2182b'


def blocks(source, workdir):
  """Real and drawn images [ROWS, COLUMNS, H, W, C] in [0, 1], a class in each row."""
  images = data.load_dataset('cifar10', **source, image_size=32, val_fraction=0.2).train
  real = [images.images[images.labels == c][:COLUMNS] for c in range(ROWS)]
  program = pathlib.Path(workdir) / 'export' / 'generator.stablehlo'
  drawn = gan_aug_jax.load_program(program)(0, np.repeat(np.arange(ROWS), COLUMNS))
  shape = (ROWS, COLUMNS, *drawn.shape[1:])
  return np.stack(real) / 255, np.clip(np.asarray(drawn) / 2 + 0.5, 0, 1).reshape(shape)


def show(panel, images, title):
  """Images in a grid with white gaps."""
  padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
  tiled = padded.swapaxes(1, 2).reshape(ROWS * 34, COLUMNS * 34, -1)
  panel.imshow(tiled, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
  panel.set_title(title, fontsize=9, loc='left', pad=3)
  panel.set_axis_off()


def show_gains(panel):
  """A row with an interval for each of `GAINS`."""
  for y, (_, path, setting, arm) in enumerate(reversed(GAINS)):
    found = evidence.difference(f'evidence/{path}', setting, arm)
    helps = found['low'] > 0
    color, side = (GOOD, 1) if helps else (BAD, -1)
    panel.plot([found['low'], found['high']], [y, y], color=color, linewidth=2)
    panel.plot(found['mean'], y, 'o', color=color)
    text = f'{found["mean"]:+.2f}'.replace('-', '\N{MINUS SIGN}')
    panel.annotate(
      text,
      (found['high' if helps else 'low'], y),
      (6 * side, 0),
      color=color,
      fontsize=9,
      ha='left' if helps else 'right',
      textcoords='offset points',
      va='center',
    )
  panel.axvline(0, color='black', linewidth=0.8)
  panel.set_yticks(range(len(GAINS)), [label for label, *_ in reversed(GAINS)])
  panel.set_xlim(-4.9, 4.9)
  panel.set_xlabel('points over the best control', fontsize=9)
  panel.tick_params(labelsize=9, left=False)
  panel.spines[['top', 'right', 'left']].set_visible(False)


def draw(workdirs):
  """Returns the figure."""
  figure = plt.figure(figsize=(8.3, 3.1), dpi=200, layout='constrained')
  grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.6))
  for row, ((name, kind, source), workdir) in enumerate(
    zip(BLOCKS, workdirs, strict=True)
  ):
    real, drawn = blocks(source, workdir)
    show(figure.add_subplot(grid[row, 0]), real, f'CIFAR-10, {name}')
    show(figure.add_subplot(grid[row, 1]), drawn, kind)
  show_gains(figure.add_subplot(grid[:, 2]))
  return figure


if __name__ == '__main__':
  draw(sys.argv[1:]).savefig(evidence.DOCS / 'images' / 'front.png')
