"""The commands of `python -m gan_aug_jax`, also installed as `gan-aug-jax`."""

import os
import pathlib
import re
import sys

import gan_aug_jax
from gan_aug_jax import config as config_lib, logs
from gan_aug_jax.cli import parsing
from gan_aug_jax.config import validation
from gan_aug_jax.errors import AblationError, ConfigError, MachineError, UserError
from gan_aug_jax.training import signals

_HELP = """\
gan_aug_jax: does generative augmentation help your classifier, and what does it cost?

usage: python -m gan_aug_jax COMMAND --workdir=DIR [--config=FILE] [--config.FIELD=VALUE]

  run               train the GAN, then every arm; write results.json and report.html
  train-gan         train the GAN only
  train-classifier  train the arms with the GAN that the workdir holds
  evaluate          evaluate the workdir's trained classifiers again, on val and test
  sample            draw a grid of images by class from the workdir's generator
  score             score the workdir's generators; write score/
  predict           label the images in --images=FILE_OR_FOLDER with the classifier of the
                    best arm (or --arm=NAME); write predictions.csv (or --output=FILE.csv)
  export            write the workdir's generator as files that stand by themselves, into
                    WORKDIR/export (or --output=DIR)
  report            make the workdir's report.html again
  ablate            train every arm of an ablation with every seed, and report; with
                    --dry-run list the cells and how long they take, with --shard=i/n
                    train every n-th, with --collect report on what is there

A config is a Python file, see configs/. Any of its fields can be changed on the command
line, and all of them stand in gan_aug_jax/config.py. Commands that train go on from what
the workdir holds; those from evaluate to report, and ablate --collect, need only
--workdir.

  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/first
  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/half \\
      --config.mix.ratio=0.5 --config.data.per_class=50
  python -m gan_aug_jax run --config=configs/mlp.py:updated --workdir=runs/mlp
  python -m gan_aug_jax sample --workdir=runs/first --seed=7
  python -m gan_aug_jax predict --workdir=runs/first --images=photos
  python -m gan_aug_jax ablate --config=configs/ablations/ratio.py --workdir=runs/ratio

Tuples are written --config.arms="('real_only','augmented')".

Dependencies are quiet; --verbose shows what they log.

Exit codes: 0 done, 1 a defect of ours (--debug shows where), 2 usage, 3 data or
environment, 75 stopped by a signal with the state saved (run the same command to go on).
"""


def main(argv=None):
  """Runs a command and returns its exit code."""
  ends, argv = argv is None, list(sys.argv if argv is None else argv)
  try:
    with signals.watched(), logs.shown('--verbose' in argv, to_the_end=ends):
      _dispatch(argv)
  except Exception as error:
    if '--debug' in argv:
      sys.excepthook = sys.__excepthook__  # which `logs` keeps quiet
      raise
    user_error = _of_user(error)
    if user_error:
      print(f'gan_aug_jax: {user_error}', file=sys.stderr)
      return user_error.exit_code
    print(
      f'gan_aug_jax: {parsing.explain(error)} ({type(error).__name__}; this is a defect '
      'of ours or of the machine: --debug shows where.)',
      file=sys.stderr,
    )
    return 1
  return 0


def _of_user(error):
  """The error, or what the machine refused as one that a user can mend; or None."""
  if isinstance(error, UserError):
    return error
  if isinstance(error, BrokenPipeError):
    # Or Python would say on its way out that it cannot write what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return MachineError(
      'Nobody reads the output any more; run the same command to go on.'
    )
  if isinstance(error, OSError) and error.strerror:
    where = f' {error.filename!r}' if error.filename else ''
    return MachineError(
      f'The machine refused{where} ({error.strerror}); what was finished is kept: mend '
      'that and run the same command again.'
    )
  exhausted = type(error).__name__ == 'JaxRuntimeError' and 'EXHAUSTED' in str(error)
  if exhausted or isinstance(error, MemoryError):
    return MachineError(
      'The memory is too small for this; lower the batch sizes, data.image_size or the '
      'width of the models.'
    )
  return None


def _dispatch(argv):
  command = argv[1] if len(argv) > 1 else '--help'
  if command == '--version':
    print(gan_aug_jax.__version__)
    return
  if command in ('--help', '-h', '-help', 'help') or '--help' in argv:
    print(_HELP)
    return
  if command not in parsing.COMMANDS:
    raise ConfigError(
      f'There is no command {command!r}; choose one of {", ".join(parsing.COMMANDS)}.'
    )
  flags = parsing.parse(command, [argv[0], *argv[2:]])
  if command in parsing.TRAINING:
    _train(command, flags)
  else:
    others = {'evaluate': _evaluate, 'sample': _sample, 'score': _score}
    others |= {'predict': _predict, 'export': _export}
    others |= {'report': _report, 'ablate': _ablate}
    others[command](flags)


def _start(config, workdir, *, trains_gan=None):
  """Validates, starts JAX, and returns the `Session`."""
  validation.validate(config, trains_gan=trains_gan)
  # Imported late: a usage error must not wait for JAX, nor JAX start before it is set up.
  from gan_aug_jax.training import devices

  found = devices.start(config)
  from gan_aug_jax.step import sharding
  from gan_aug_jax.training import workdir as workdir_lib

  layout = sharding.make_layout(config.backend, found)
  return workdir_lib.Session(config, pathlib.Path(workdir), layout)


def _train(command, flags):
  config = flags.config
  only_gan = command == 'train-gan'
  if only_gan and config.sampler.generator:
    raise ConfigError(
      f'sampler.generator={config.sampler.generator!r} takes the place of the GAN; use '
      'run, or leave it out.'
    )
  session = _start(config, flags.workdir, trains_gan=only_gan or None)
  from gan_aug_jax.experiment import runs
  from gan_aug_jax.step import programs
  from gan_aug_jax.training import workdir

  dataset = runs.load_data(config)
  signals.check()
  workdir.claim(session, dataset)
  print(runs.describe(session, dataset, only_gan=only_gan), flush=True)
  run = runs.Run(session, dataset, arms=not only_gan)
  trains_gan = command != 'train-classifier'
  with programs.ahead():
    run.start(gan=trains_gan)
    generator = run.load_or_train_generator(train=trains_gan)
    results = None if only_gan else run.train_arms(generator)
  signals.check()
  if only_gan:
    print(f'Samples: {session.path("gan", "samples.png")}')
  else:
    _show(session, results)


def _show(session, results):
  import jax

  from gan_aug_jax.report import run_report
  from gan_aug_jax.training import workdir

  if jax.process_index() == 0:
    run_report.print_table(results)
    run = workdir.read_json(session.path('config.json'))
    print(f'Report: {run_report.render(session.workdir, run, results)}')


def _reopen(flags):
  """The session and config.json of a finished run."""
  from gan_aug_jax.training import workdir

  run = workdir.read_run(flags.workdir)
  config, here = config_lib.from_dict(run['config']), config_lib.default()
  # Where it was trained is not where it is looked at.
  for field in ('platform', 'num_cpu_devices', 'distributed'):
    config[field] = here[field]
  config.log.tensorboard = False
  own = config.data.name.partition(':')[0] in ('folder', 'npz', 'huggingface')
  if not own and not os.path.isdir(config.data.data_dir):
    config.data.data_dir = ''  # TFDS_DATA_DIR may say where it is now
  return _start(config, flags.workdir), run


def _evaluate(flags):
  session, run = _reopen(flags)
  from gan_aug_jax.experiment import arms, runs
  from gan_aug_jax.report import run_report
  from gan_aug_jax.training import workdir

  dataset = runs.load_data(session.config)
  workdir.check_data(session, run, dataset)
  scores = arms.evaluate_arms(session, dataset)
  run_report.print_scores(scores)
  missing = [arm for arm in session.config.arms if arm not in scores]
  if missing:
    print(f'Not trained yet: {", ".join(missing)}.')


def _sample(flags):
  session, run = _reopen(flags)
  from gan_aug_jax.generators import gan_training

  print(f'Samples: {gan_training.write_samples(session, run["data"], flags.seed)}')


def _score(flags):
  session, run = _reopen(flags)
  from gan_aug_jax.experiment import scoring
  from gan_aug_jax.report import run_report

  run_report.print_generators(scoring.score_generators(session, run))
  print(f'Pictures: {session.path("score")}')


def _predict(flags):
  if not flags.images:
    raise ConfigError('--images is missing; name an image or a folder of images.')
  session, run = _reopen(flags)
  from gan_aug_jax.data import image_files
  from gan_aug_jax.experiment import predict

  arm, accuracy, count = predict.choose_arm(session, flags.arm)
  output = flags.output or session.path('predictions.csv')
  labelled, bad = predict.label_images(
    session, run['data'], flags.images, arm=arm, output=output
  )
  best = '' if flags.arm else f', the best of {count}'
  print(
    f'Labelled {labelled:,} images by the classifier of {arm!r}{best} '
    f'({accuracy:.2%} of the validation images): {output}'
  )
  if bad:
    print(f'Left out: {image_files.describe_bad(bad, labelled + len(bad))}.')


def _export(flags):
  session, run = _reopen(flags)
  from gan_aug_jax.generators import export

  for path in export.export(session, run['data'], flags.output):
    print(f'Exported: {path} (and .stablehlo, .json beside it)')


def _report(flags):
  from gan_aug_jax.report import run_report
  from gan_aug_jax.training import workdir

  directory = pathlib.Path(flags.workdir)
  run, path = workdir.read_run(directory), directory / 'results.json'
  results = workdir.read_json(path, 'arms', 'gan', 'versions')
  with workdir.reading(path):
    print(f'Report: {run_report.render(directory, run, results)}')


def _ablate(flags):
  directory = pathlib.Path(flags.workdir)
  if flags.collect:
    _show_ablation(directory)
    return
  first, step = _parse_shard(flags.shard)
  config = flags.config
  base = config_lib.base_of(config)
  if base.distributed.auto or base.distributed.coordinator:
    raise ConfigError(
      'ablate runs each cell in one process; give each of several a part by --shard=i/n.'
    )
  layout = _start(base, directory, trains_gan=True).layout
  from gan_aug_jax.experiment import cells, estimate, workers
  from gan_aug_jax.report import ablation_report

  plan = cells.make_plan(config, directory, layout)
  signals.check()
  if flags.dry_run:
    ablation_report.print_plan(plan.cells, estimate.estimate(plan))
    return
  plan.write()
  print(plan.describe(), flush=True)
  failures = workers.run(plan.units()[first::step], directory, layout)
  signals.check()
  over = plan.is_over()
  if over and len(failures) < len(plan.cells):
    _show_ablation(directory)
  elif not over:
    print(
      'This part is over; ablate --collect --workdir=... reports on all that is there.'
    )
  if failures:
    raise AblationError(
      f'{len(failures)} of {len(plan.cells)} cells failed, the first one: '
      f'{next(iter(failures.values()))}'
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


def _show_ablation(directory):
  from gan_aug_jax.report import ablation_report
  from gan_aug_jax.training import workdir

  with workdir.reading(directory / 'ablation.json'):
    summary, path = ablation_report.write(directory)
  ablation_report.print_summary(summary)
  print(f'Report: {path}')
