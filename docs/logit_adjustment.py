"""Would shifted logits do as well as synthetic images, on a long tail?

    python docs/logit_adjustment.py W FILE

W is the workdir of a finished ablation on a long tail, such as that of
configs/evidence/gan_curve.py:cifar10,500,50. From the logits of each classifier on the
test split it subtracts the log of the share of each class among the examples that the
classifier was trained on (post-hoc logit adjustment with tau = 1, Menon et al. 2021,
arXiv 2007.07314, section 4.1). It trains nothing. Prints means over the seeds, and paired
differences from the best arm of real images alone, adjusted; writes the accuracies to
FILE, such as docs/results/evidence/gan-tail/adjusted.json.
"""

import functools
import json
import pathlib
import sys

import numpy as np

from gan_aug_jax import config as config_lib
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.evaluation.statistics import paired_t
from gan_aug_jax.experiment import cells, evaluate, recipe, schedule
from gan_aug_jax.step import class_labels, sharding
from gan_aug_jax.training import workdir as workdir_lib

REAL = ('real_classical', 'steps=2250', 'steps=4500', 'lr=0.05')
ARMS = (*REAL, 'train_copies', 'warps', 'flow', 'gan', 'held_out')


def shown_shares(config, counts):
  """The share of each class among the examples that an arm is trained on."""
  synthetic = config_lib.is_augmented(config, config.arms[0])
  plan = schedule.plan_batches(config, config.classifier.num_steps, synthetic=synthetic)
  class_probs = None
  if synthetic:
    class_probs = class_labels.class_distribution(config.mix.classes, counts, plan)
  return class_labels.label_prior(counts, plan, 0, class_probs=class_probs)


def accuracies(directory):
  """Test accuracy of a cell in percent, as it is and with adjusted logits."""
  saved = workdir_lib.read_run(directory)
  config = config_lib.from_dict(saved['config'])
  if config.classifier.logit_adjustment:
    raise SystemExit(f'The logits of {directory} were adjusted in training.')
  session = workdir_lib.Session(
    config, directory, sharding.make_layout('jit'), quiet=True
  )
  dataset = cells.load_data(config)
  (arm,) = config.arms
  state = evaluate.restore_arm(session, arm, dataset.facts)
  apply = functools.partial(recipe.build_model(session, dataset.facts).apply, train=False)
  classify = evaluators.make_batched(
    session.layout, apply, dtype=session.image_dtype('classifier')
  )
  logits = np.asarray(classify(state.evaluated, dataset.test.images), np.float64)
  counts = dataset.train.class_counts(dataset.num_classes)
  shift = np.log(shown_shares(config, counts))
  right = lambda x: 100 * np.mean(x.argmax(-1) == dataset.test.labels)
  return right(logits), right(logits - shift)


def main(workdir, file):
  found = {}
  for path in sorted(pathlib.Path(workdir, 'cells').iterdir()):
    name, _, seed = path.name.rpartition(',seed=')
    if name in ARMS:
      found.setdefault(name, {})[seed] = accuracies(path)
  keys = ('as_is', 'adjusted')
  content = {
    name: {seed: dict(zip(keys, pair, strict=True)) for seed, pair in rows.items()}
    for name, rows in found.items()
  }
  pathlib.Path(file).write_text(json.dumps(content, indent=1) + '\n')
  mean = {name: np.mean([*rows.values()], axis=0) for name, rows in found.items()}
  best = max(set(REAL) & set(mean), key=lambda name: mean[name][1])
  print(f'arm, accuracy, adjusted, difference from {best} adjusted: as is, adjusted')
  for name in (arm for arm in ARMS if arm in found):
    rows, base = found[name], found[best]
    texts = [f'{name:15} {mean[name][0]:.2f} % {mean[name][1]:.2f} %']
    for i in range(2 if name != best else 1):
      paired = paired_t([rows[seed][i] - base[seed][1] for seed in sorted(rows)])
      texts.append('{mean:+.2f} ({low:+.2f} to {high:+.2f})'.format_map(paired))
    print('  '.join(texts))


if __name__ == '__main__':
  main(*sys.argv[1:])
