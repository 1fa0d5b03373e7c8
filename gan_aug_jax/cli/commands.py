"""The commands of `python -m gan_aug_jax`, each a function of its flags.

Importing this module must not start JAX: `_start` does, as the config says.
"""

import dataclasses
import functools
import os
import pathlib
import re

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.config.fields import CLASSIFIER, GENERATOR
from gan_aug_jax.data import folder, image_files
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import AblationError, ConfigError
from gan_aug_jax.experiment import (
  cells,
  estimate,
  evaluate,
  predict,
  runs,
  scoring,
  workers,
)
from gan_aug_jax.generators import export, frozen as frozen_lib, samples
from gan_aug_jax.report import ablation_report, run_report, run_sentences, tables
from gan_aug_jax.step import programs, sharding
from gan_aug_jax.training import (
  devices,
  files,
  locks,
  progress,
  signals,
  workdir as workdir_lib,
)
from gan_aug_jax.training.progress import format_count


def _start(config, workdir):
  """Starts JAX and returns the `Session` of a valid config."""
  found = devices.start(config)
  options = devices.compiler_options(config, found)
  layout = sharding.make_layout(config.backend, found, options)
  return workdir_lib.Session(config, pathlib.Path(workdir), layout)


def _refuse_inside_data(config, path):
  """Refuses output that the next run would read as images."""
  if config.data.name == 'folder' and config.data.data_dir:
    folder.refuse_inside(config.data.data_dir, path)


def _check_new_directory(config, path):
  """Refuses a new directory that the next run would take for a class without images."""
  if path and not os.path.isdir(path):
    _refuse_inside_data(config, path)


def _reopen(flags, *, needs=GENERATOR):
  """The session and config.json of a run that nobody is training.

  Args:
    needs: whose code must be what it was: that of the generator, or of the classifiers.
  """
  locks.check_idle(pathlib.Path(flags.workdir))
  run = workdir_lib.read_run(flags.workdir)
  config, here = config_lib.from_dict(run['config']), config_lib.default()
  # It may have been trained on another machine.
  for field in ('platform', 'num_cpu_devices', 'distributed'):
    config[field] = here[field]
  config.log.tensorboard = False
  own = config.data.name.partition(':')[0] in ('folder', 'npz', 'huggingface')
  if not own and not os.path.isdir(config.data.data_dir):
    config.data.data_dir = ''  # TFDS_DATA_DIR may say where it is now
  validation.validate(config)
  session = _start(config, flags.workdir)
  trusted = 'trust-code' in flags and flags['trust-code'].value
  session = dataclasses.replace(session, trusts_code=trusted)
  workdir_lib.check_code(session, run, {needs})
  return session, run


def _train(flags, *, generator, classifiers):
  """Trains what is not trained yet: the generator, the arms, or both."""
  config = flags.config
  _refuse_inside_data(config, flags.workdir)
  session = _start(config, flags.workdir)
  trains = ['classifier'] if classifiers else []
  if generator and (config_lib.needs_generator(config) or not classifiers):
    trains.append('generator')
  devices.check_batches(config, session.layout.num_devices, trains)
  if not generator and config_lib.needs_generator(config):
    frozen_lib.check_trained(session)
  with progress.waiting(f'reading {config.data.name}', quiet=session.is_silent):
    dataset = runs.load_data(config)
  signals.check()
  if 'dry-run' in flags and flags['dry-run'].value:
    workdir_lib.check(session, dataset)
    _print_plan(runs.Run(session, dataset, arms=classifiers))
    waiting = 'counting operations and timing two steps'
    with progress.waiting(waiting, quiet=session.is_silent):
      estimated = estimate.of_run(session, dataset)
    if not session.is_silent:
      tables.print_estimate(estimated)
    return
  with locks.owned(session.workdir):
    workdir_lib.claim(session, dataset)
    run = runs.Run(session, dataset, arms=classifiers)
    _print_plan(run)
    with programs.ahead():
      with progress.waiting('preparing', quiet=session.is_silent):
        work = run.work(generator=generator)
      run.start(generator=generator)
      with progress.whole(work):
        frozen = run.load_or_train_generator(train=generator)
        results = run.train_arms(frozen) if classifiers else None
    signals.check()
    if session.is_silent:
      return
    if not classifiers:
      tables.print_warnings(run_sentences.of_generator(frozen.info))
      print(f'Samples: {session.generator_path("samples.png")}')
    else:
      findings = run_report.findings(session.workdir, results['arms'])
      tables.print_results(results, findings.values())
      about = files.read_json(session.path('config.json'))
      print(f'Report: {run_report.render(session.workdir, about, results)}')


def _print_plan(run):
  """Says what a run will do, on the first of several processes."""
  if not run.session.is_silent:
    tables.print_lines(runs.describe(run).splitlines())


def _evaluate(flags):
  session, run = _reopen(flags, needs=CLASSIFIER)
  dataset = runs.load_data(session.config)
  workdir_lib.check_data(session, run, dataset)
  scores = evaluate.evaluate_arms(session, dataset)
  tables.print_evaluations(scores)
  missing = [arm for arm in session.config.arms if arm not in scores]
  if missing:
    print(f'Not trained yet: {", ".join(missing)}.')


def _sample(flags):
  session, run = _reopen(flags)
  facts = DataFacts.from_json(run['data'])
  print(f'Samples: {samples.write_samples(session, facts, flags.seed)}')


def _score(flags):
  session, run = _reopen(flags)
  tables.print_scores(scoring.score_generators(session, run))
  print(f'Pictures: {session.path("score")}')


def _predict(flags):
  if not flags.images:
    raise ConfigError('--images is missing; name an image or a folder of images.')
  session, run = _reopen(flags, needs=CLASSIFIER)
  arm, chosen = predict.choose_arm(session, flags.arm)
  output = flags.output or session.path('predictions.csv')
  _check_new_directory(session.config, os.path.dirname(output))
  labelled, bad = predict.label_images(
    session, DataFacts.from_json(run['data']), flags.images, arm=arm, output=output
  )
  print(f'Classified {format_count(labelled, "image")} with {arm!r}{chosen}: {output}')
  if bad:
    print(f'Skipped: {image_files.describe_bad(bad, labelled + len(bad))}.')


def _export(flags):
  session, run = _reopen(flags)
  _check_new_directory(session.config, flags.output)
  for path in export.export(session, DataFacts.from_json(run['data']), flags.output):
    print(f'Exported: {path} (and the .stablehlo and .json files next to it)')


def _report(flags):
  directory = pathlib.Path(flags.workdir)
  locks.check_idle(directory)
  run, results = workdir_lib.read_run(directory), workdir_lib.read_results(directory)
  with files.reading(directory / 'results.json'):
    print(f'Report: {run_report.render(directory, run, results)}')


def _ablate(flags):
  directory = pathlib.Path(flags.workdir)
  if flags.collect:
    _report_ablation(directory)
    return
  part, num_parts = _parse_shard(flags.shard)
  config = flags.config
  base = config_lib.base_of(config)
  _refuse_inside_data(base, directory)
  if base.distributed.auto or base.distributed.coordinator:
    raise ConfigError(
      'ablate runs each cell in one process; give each process a part with --shard=i/n.'
    )
  layout = _start(base, directory).layout
  with progress.waiting('planning'):
    plan = cells.make_plan(config, directory, layout)
  for cell in plan.cells:  # a grid may read other folders
    _refuse_inside_data(cell.config, directory)
  signals.check()
  if flags['dry-run'].value:
    with progress.waiting('timing two steps'):
      estimated = estimate.of_ablation(plan)
    tables.print_plan(plan.cells, estimated)
    return
  plan.write()
  tables.print_lines([plan.describe()])
  failures = workers.run(plan.units()[part::num_parts], directory, layout)
  signals.check()
  if not plan.is_over():
    print('This part is done; `ablate --collect --workdir=...` reports what is finished.')
  elif len(failures) < len(plan.cells):
    _report_ablation(directory)
  if failures:
    raise AblationError(
      f'{len(failures)} of {len(plan.cells)} cells failed; fix the cause and run the '
      f'same command again. The first one: {next(iter(failures.values()))}'
    )


def _parse_shard(text):
  """(i, n) of 'i/n'."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise ConfigError(
      f'--shard={text} must be i/n with i from 0 to n - 1, such as 0/4 for the first of '
      'four.'
    )
  return int(match[1]), int(match[2])


def _report_ablation(directory):
  with files.reading(directory / 'ablation.json'):
    summary, path = ablation_report.write(directory)
  tables.print_summary(summary)
  print(f'Report: {path}')


COMMANDS = {
  'run': functools.partial(_train, generator=True, classifiers=True),
  'train-generator': functools.partial(_train, generator=True, classifiers=False),
  'train-classifier': functools.partial(_train, generator=False, classifiers=True),
  'evaluate': _evaluate,
  'sample': _sample,
  'score': _score,
  'predict': _predict,
  'export': _export,
  'report': _report,
  'ablate': _ablate,
}
