"""What each policy of sampling and mixing adds to a training step.

    python -m benchmarks.policies --config=configs/cifar10.py

Times the fused step under every policy, interleaved in one process, and compares it with
plain mixing at the config's ratio. The cost of some policies varies from step to step,
so runs of 16 steps are timed, a multiple of every refresh interval. The table has the
median in milliseconds per step, its quartiles, and the median ratio to the plain run of
the same round. Operations are those of a step that draws. Images are random and networks
untrained, which does not change the times.
"""

import json
import pathlib
import tempfile

from absl import app, flags
from ml_collections import config_flags

from benchmarks import timing
from gan_aug_jax.config import validation

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
CHANNELS = flags.DEFINE_integer('channels', 3, 'Of the images.')
ONLY = flags.DEFINE_list('only', [], 'Only policies whose name contains one of these.')

_PLAIN = 'plain'
_CYCLE = 16
_RESNET = {'classifier.arch': 'resnet'}


def _flow(evaluations, **more):
  return {'generator.family': 'flow', 'flow.evaluations': evaluations, **more}


def _best_of(count, score, **more):
  return {'filter.candidates': count, 'filter.score_by': score, **more}


POLICIES = {
  _PLAIN: {},
  'real only': {'mix.ratio': 0.0},
  'random, 2': _best_of(2, 'random'),
  'random, 4': _best_of(4, 'random'),
  'teacher, threshold': _best_of(1, 'teacher', **{'filter.min_confidence': 0.5}),
  'teacher, 2': _best_of(2, 'teacher'),
  'teacher, 4': _best_of(4, 'teacher'),
  'discriminator, 2': _best_of(2, 'discriminator'),
  'discriminator, 4': _best_of(4, 'discriminator'),
  'hard, 2': _best_of(2, 'hard'),
  'hard, 4': _best_of(4, 'hard'),
  'refresh 4': {'cache.refresh_steps': 4},
  'refresh 16': {'cache.refresh_steps': 16},
  'teacher, 4, refresh 4': _best_of(4, 'teacher', **{'cache.refresh_steps': 4}),
  'teacher, 4, refresh 16': _best_of(4, 'teacher', **{'cache.refresh_steps': 16}),
  'drawn beforehand': {'cache.images_per_class': 200},
  'flow, 1': _flow(1),
  'flow, 2': _flow(2),
  'flow, 4': _flow(4),
  'flow, 8': _flow(8),
  'flow, 4, refresh 16': _flow(4, **{'cache.refresh_steps': 16}),
  'wide latents': {'latents.std': 1.5},
  'truncated, interpolated': {'latents.truncation': 2.0, 'latents.interpolation': 0.5},
  'teacher labels': {'targets.kind': 'teacher'},
  'smoothed labels': {'targets.kind': 'smoothed'},
  'inverse classes': {'mix.classes': 'inverse'},
  'feedback classes': {'mix.classes': 'feedback'},
  'linear ratio': {'mix.ratio_schedule': 'linear'},
  'linear weight': {'mix.weight_schedule': 'linear'},
  'add': {'mix.mode': 'add'},
  'colour, cutout': {'augment.color': 0.4, 'augment.cutout': 8},
  'mixup': {'augment.mixup': 0.2},
  'cutmix': {'augment.cutmix': 1.0},
  'resnet, shared': _RESNET,
  'resnet, split': {**_RESNET, 'classifier.batch_norm': 'split'},
  'resnet, real_only': {**_RESNET, 'classifier.batch_norm': 'real_only'},
}


def prepare(config, layout, directory):
  """Returns (run, compile seconds, operations of a step).

  `run()` takes 16 steps and returns seconds per step.
  """
  from benchmarks import dry_run

  inputs = dry_run.on_noise(config, layout, directory=directory, channels=CHANNELS.value)
  # In the middle, where a schedule is neither off nor at its end.
  dry = dry_run.arm_step(*inputs, 'augmented_classical', at=5_000)
  operations = dry.operations()
  calls = timing.compile_calls(dry)
  return calls.run(_CYCLE), calls.compile_seconds, operations


def main(_):
  first = CONFIG.value
  layout, where = timing.start(first)
  steps = {}
  scratch = tempfile.TemporaryDirectory()  # for teachers and images generated beforehand
  chosen = [n for n in POLICIES if not ONLY.value or any(x in n for x in ONLY.value)]
  chosen = {_PLAIN, *chosen, *map(_base, chosen)}
  for name, fields in POLICIES.items():
    if name not in chosen:
      continue
    config = first.copy_and_resolve_references()
    config.filter.teacher_steps = 1
    config.update_from_flattened_dict(fields)
    validation.validate(config)
    directory = pathlib.Path(scratch.name, str(len(steps)))
    steps[name] = prepare(config, layout, directory)
  seconds = timing.interleave(
    {name: run for name, (run, *_) in steps.items()}, timing.ROUNDS.value, warm=1
  )
  rows, table = {}, []
  for name, (_, compile_s, operations) in steps.items():
    row = rows[name] = timing.compare(seconds, _base(name))[name]
    row |= {'to': _base(name), 'compile_s': compile_s, 'operations': operations}
    times = timing.per_step(row)
    relative = f'{row["ratio"]:.2f} x {row["to"]}'
    table.append([name, times, relative, f'{operations / 1e9:.3g}'])
  timing.print_table(['policy', 'per step', 'relative', 'GFLOP'], table)
  config = json.loads(first.to_json_best_effort())
  timing.finish({**where, 'config': config, 'steps': rows}, timing.draw_bars(rows))


def _base(name):
  return 'resnet, shared' if name.startswith('resnet') else _PLAIN


if __name__ == '__main__':
  app.run(main)
