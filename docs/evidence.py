"""Draws the figures of the evidence and of its record from the raw files.

    python docs/evidence.py

Each point of evidence.svg is a mean over the seeds of one ablation: test accuracy of an
arm minus that of the control that validation images choose, in points, with a 95 %
interval by paired t. The record has the plots of the ablations' own reports.
"""

import json
import pathlib

import matplotlib

matplotlib.use('agg')
from matplotlib import pyplot as plt

from gan_aug_jax.evaluation.statistics import paired_t
from gan_aug_jax.report import ablation_figures

DOCS = pathlib.Path(__file__).parent
GAN, VAE, FLOW = 'GAN of 1,500 steps', 'VAE', 'flow of 3,000 steps'
WARPS, REAL = 'real images, warped (the recipe)', 'unseen real images (ceiling)'
COLORS = {GAN: '#b2182b', VAE: '#7b3294', FLOW: '#2166ac'}
COLORS |= {WARPS: '#1b7837', REAL: '#555555'}
LONG_GAN, LONG_FLOW = 'GAN of 20,000 steps, longer', 'flow of 3,000 steps, longer'
LONG_WARPS, LONG_REAL = 'warped, longer', 'unseen, longer'
COLORS |= {LONG_GAN: COLORS[GAN], LONG_WARPS: COLORS[WARPS], LONG_REAL: COLORS[REAL]}
COLORS[LONG_FLOW] = COLORS[FLOW]

_BOUNDS = tuple(('evidence/bounds-mnist', f'per_class={n}', n) for n in (10, 25, 100))
_CONFIRM, _CURVE = 'evidence/second-confirm', 'evidence/second-curve'
_CIFAR10 = [
  (f'{_CONFIRM}-cifar10{of}', '', n) for of, n in (('-50', 50), ('-100', 100), ('', 250))
]
# Of the record: ablations at one point, and along a grid of these images per class.
ANSWERS = ('confirm-mnist', 'confirm-cifar10', 'confirm-tail')
ANSWERS += tuple(f'second-{name}' for name in ANSWERS)
CURVES = dict.fromkeys(
  ('bounds-mnist', 'curve-mnist', 'second-curve-mnist'), (10, 25, 100)
)
CURVES['second-curve-cifar10'] = (50, 100, 250, 500)
# Of classifiers that trained for twice as long, to the right of the others' points.
_LONG = (('evidence/gan-confirm-cifar10-250', '', 285),)
_LONGER = (('evidence/longer-confirm-cifar10-100', '', 114),)
_LONG_OF_FLOW = (('evidence/flow-confirm-cifar10-250', '', 285),)
_MNIST = [(f'{_CURVE}-mnist', f'per_class={n}', n) for n in (10, 100)]

# Ablations along the length of a GAN's training, each with the scores of one GAN.
LENGTHS = (
  (
    'evidence/gan-length-cifar10-250',
    '250 per class',
    'classifiers of 1,500 steps, one seed',
  ),
  ('evidence/gan-tail', 'long tail', 'classifiers of 3,000 steps, five seeds'),
  ('evidence/gan-digits', '25 digits per class', 'classifiers of 3,000 steps, one seed'),
)

# dataset, generator, arm, [(raw file, setting, images per class)]
LINES = (
  (
    'CIFAR-10',
    WARPS,
    'low_data',
    (*_CIFAR10, (f'{_CURVE}-cifar10', 'per_class=500', 500)),
  ),
  ('CIFAR-10', FLOW, 'flow', (('evidence/flow-cifar10-250', '', 250),)),
  ('CIFAR-10', REAL, 'unseen', (('evidence/beyond-own-labels', '', 250),)),
  ('CIFAR-10', LONG_GAN, 'gan', _LONG),
  ('CIFAR-10', LONG_WARPS, 'warps', _LONG),
  ('CIFAR-10', LONG_WARPS, 'low_data', _LONGER),
  ('CIFAR-10', LONG_REAL, 'held_out', _LONG),
  ('CIFAR-10', LONG_FLOW, 'flow', _LONG_OF_FLOW),
  ('MNIST', WARPS, 'low_data', (_MNIST[0], (f'{_CONFIRM}-mnist', '', 25), _MNIST[1])),
  ('MNIST', VAE, 'vae', _BOUNDS),
  ('MNIST', REAL, 'unseen', _BOUNDS),
  ('MNIST', GAN, 'ratio=0.35', (('ratio', '', 50),)),
)


def difference(path, setting, arm):
  """The paired differences of an arm and the best control by validation, in points.

  Args:
    path: of an ablation's raw files, below docs/results.
    setting: the name of a setting of its grid, or ''.
    arm: the name of an arm.
  """
  (found,) = (s for s in _settings(path) if s['name'] == setting)
  arms = {a['name']: a for a in found['arms']}
  controls = [a for a in found['arms'] if a['role'] == 'control']
  best = max(controls, key=lambda a: a['val_recall'])
  accuracy, base = arms[arm]['accuracy'], best['accuracy']
  return paired_t([100 * (accuracy[seed] - base[seed]) for seed in accuracy])


def draw_lengths():
  """Returns the figure of usefulness by the length of the GAN's training."""
  figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout='constrained')
  axes = axes.flatten()
  for (path, label, _), line in zip(LENGTHS, ('-', '--', ':'), strict=True):
    rows = json.loads((DOCS / 'results' / path / 'scores.json').read_text())['rows']
    cas = {n: 100 * _of_step(rows, n)['cas'] for n in _gan_arms(path)}
    axes[0].plot(
      [*cas], [*cas.values()], line, marker='o', color=COLORS[GAN], label=label
    )
    real = 100 * rows['real training images']['cas']
    axes[0].axhline(real, color=COLORS[REAL], linestyle=line)
  axes[0].set_title('classifiers trained on these images alone', loc='left', fontsize=10)
  axes[0].set_ylabel('CAS, %')
  for panel, (path, label, trained) in zip(axes[1:], LENGTHS, strict=True):
    gans = _gan_arms(path)
    arms = {arm['name']: arm for arm in _settings(path)[0]['arms']}
    _points(panel, [*gans], [*gans.values()], GAN, 'the GAN')
    _points(panel, [1.15 * max(gans)], [arms['warps']], WARPS, 'warps')
    if 'flow' in arms:
      _points(panel, [1.15 * max(gans)], [arms['flow']], FLOW, 'flow, 3,000')
    ceiling = 100 * arms['held_out']['difference']['mean']
    if ceiling < 10:
      panel.axhline(ceiling, color=COLORS[REAL], linestyle='--')
    panel.axhline(0, color='black', linewidth=0.8)
    panel.set_title(f'{label}: {trained}', loc='left', fontsize=10)
    panel.set_ylabel('points over the control at equal steps')
  for panel in axes:
    panel.set_xscale('log')
    panel.set_xticks([*gans], [f'{number:,}' for number in gans])
    panel.minorticks_off()
    panel.set_xlabel("steps of the GAN's training")
    panel.legend(frameon=False, fontsize=9, loc='lower right')
    panel.spines[['top', 'right']].set_visible(False)
  axes[0].legend(frameon=False, fontsize=9, loc='center right', bbox_to_anchor=(1, 0.65))
  return figure


def _gan_arms(path):
  """{steps: arm} of the lengths of one training; the last is the chosen generator."""
  arms = {arm['name']: arm for arm in _settings(path)[0]['arms']}
  gans = {int(name[4:]): arm for name, arm in arms.items() if name.startswith('gan=')}
  return gans | ({20_000: arms['gan']} if 'gan' in arms else {})


def _of_step(scores, number):
  """The scores of the generator of a step."""
  (name,) = (name for name in scores if name.endswith(f', step {number}'))
  return scores[name]


def _points(panel, x, rows, kind, label):
  """Differences with intervals over the seeds, or of one seed over the test images."""
  found = [row['difference'] for row in rows]
  mean = [100 * row['mean'] for row in found]
  over = '' if found[0].get('low') is not None else 'resampled_'
  reach = [
    [100 * (row['mean'] - row[f'{over}low']) for row in found],
    [100 * (row[f'{over}high'] - row['mean']) for row in found],
  ]
  panel.errorbar(x, mean, reach, marker='o', capsize=3, color=COLORS[kind], label=label)


def _settings(path):
  summary = json.loads((DOCS / 'results' / path / 'summary.json').read_text())
  for row in (row for setting in summary['settings'] for row in setting['arms']):
    row['role'] = row['role'].replace('bound', 'oracle')  # its older name
  return summary['settings']


def draw_record():
  """Returns {name: PNG bytes} of the plots in the record."""
  found = {
    name: ablation_figures.answer(_settings(f'evidence/{name}')[0]) for name in ANSWERS
  }
  for name, sizes in CURVES.items():
    settings = _settings(f'evidence/{name}')
    curves = ablation_figures.draw_curve(settings, 'data.label_budget', sizes)
    found |= {f'{name}-{arm.removeprefix("curve ")}': png for arm, png in curves.items()}
  return found


def draw():
  """Returns the figure of the summary."""
  plt.rcParams.update({'font.size': 10, 'svg.hashsalt': 'evidence'})
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout='constrained')
  for panel, name in zip(axes, ('MNIST', 'CIFAR-10'), strict=True):
    sizes, shown = set(), set()
    for dataset, generator, arm, points in LINES:
      if dataset != name:
        continue
      is_longer = generator.endswith('longer')
      x = [size for *_, size in points]
      found = [difference(path, setting, arm) for path, setting, _ in points]
      mean = [point['mean'] for point in found]
      reach = [point['mean'] - point['low'] for point in found]
      panel.errorbar(
        x,
        mean,
        reach,
        marker='s' if is_longer else 'o',
        capsize=3,
        color=COLORS[generator],
        linestyle='--' if generator == REAL else '-',
        label=None if generator in shown else generator,
      )
      shown.add(generator)
      sizes |= set() if is_longer else set(x)
    panel.axhline(0, color='black', linewidth=0.8)
    panel.set_xscale('log')
    panel.set_xticks(sorted(sizes), [str(size) for size in sorted(sizes)])
    panel.minorticks_off()
    panel.set_title(name, loc='left')
    panel.set_xlabel('images per class')
    panel.legend(frameon=False, fontsize=9)
    panel.spines[['top', 'right']].set_visible(False)
  axes[0].set_ylabel('points over the best control')
  axes[0].set_ylim(top=11.5)
  return figure


if __name__ == '__main__':
  for name, figure in (('evidence', draw()), ('gan-length', draw_lengths())):
    figure.savefig(DOCS / 'images' / f'{name}.svg', metadata={'Date': None})
  for name, png in draw_record().items():
    (DOCS / 'images' / f'{name}.png').write_bytes(png)
