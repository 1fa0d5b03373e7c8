"""The commands of `python -m gan_aug_jax`, also installed as `gan-aug-jax`."""

import difflib
import os
import pathlib
import re
import runpy
import sys
import traceback
import warnings

from absl import flags
import ml_collections
from ml_collections import config_flags

import gan_aug_jax
from gan_aug_jax import config as config_lib, signals, validation
from gan_aug_jax.errors import AblationError, ConfigError, UserError

_HELP = """\
gan_aug_jax: does generative augmentation help your classifier, and what does it cost?

usage: python -m gan_aug_jax COMMAND --workdir=DIR [--config=FILE] [--config.FIELD=VALUE]

  run               train the GAN, then every arm; write results.json and report.html
  train-gan         train the GAN only
  train-classifier  train the arms with the GAN that the workdir holds
  evaluate          evaluate the workdir's trained classifiers again, on val and test
  sample            draw a grid of images by class from the workdir's generator
  score             score the workdir's generators; write score/
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
  python -m gan_aug_jax ablate --config=configs/ablations/ratio.py --workdir=runs/ratio

Tuples are written --config.arms="('real_only','augmented')".

Exit codes: 0 done, 1 a defect of ours (--debug shows where), 2 usage, 3 data or
environment, 75 stopped by a signal with the state saved (run the same command to go on).
"""

_TRAINING = ('run', 'train-gan', 'train-classifier')
_LATER = ('evaluate', 'sample', 'score', 'report')
_COMMANDS = (*_TRAINING, *_LATER, 'ablate')


def main(argv=None):
  """Runs a command and returns its exit code."""
  argv = list(sys.argv if argv is None else argv)
  warnings.filterwarnings('ignore')
  try:
    with signals.watched():
      _dispatch(argv)
  except Exception as error:
    if '--debug' in argv:
      raise
    if isinstance(error, UserError):
      print(f'gan_aug_jax: {error}', file=sys.stderr)
      return error.exit_code
    print(
      f'gan_aug_jax: {_explain(error)} ({type(error).__name__}; this is a defect of ours '
      'or of the machine: --debug shows where.)',
      file=sys.stderr,
    )
    return 1
  return 0


def _dispatch(argv):
  command = argv[1] if len(argv) > 1 else '--help'
  if command == '--version':
    print(gan_aug_jax.__version__)
    return
  if command in ('--help', '-h', '-help', 'help') or '--help' in argv:
    print(_HELP)
    return
  if command not in _COMMANDS:
    raise ConfigError(
      f'There is no command {command!r}; choose one of {", ".join(_COMMANDS)}.'
    )
  options = _parse(command, [argv[0], *argv[2:]])
  if command in _TRAINING:
    _train(command, options)
  else:
    others = {'evaluate': _evaluate, 'sample': _sample, 'score': _score}
    others |= {'report': _report, 'ablate': _ablate}
    others[command](options)


def _parse(command, argv):
  """Parses flags: an absl FlagValues with workdir, config, seed and debug."""
  argv = [re.sub('^--?dry-run', '--dry_run', arg) for arg in _join_config(argv)]
  _check_flags(command, argv)
  argv = [_find_config(arg) for arg in argv]
  paths = [arg for arg in argv if re.match(r'--?config=', arg)]
  file = paths[-1].partition('=')[2].partition(':')[0] if paths else None
  if file:
    _check_config_file(file)
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'Directory of the run.', flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the samples to draw.', flag_values=values)
  flags.DEFINE_bool('debug', False, 'Show tracebacks.', flag_values=values)
  if command == 'ablate':
    flags.DEFINE_string('shard', '0/1', 'Every n-th cell from i on.', flag_values=values)
    flags.DEFINE_bool('dry_run', False, 'List the cells only.', flag_values=values)
    flags.DEFINE_bool('collect', False, 'Report only.', flag_values=values)
  config_flags.DEFINE_config_file(
    'config', None, 'Config file.', flag_values=values, sys_argv=argv
  )
  try:
    rest = values(argv)[1:]
    config = values.config
  except UserError:
    raise
  except Exception as error:  # absl and ml_collections raise many kinds
    raise ConfigError(_explain(error, file)) from error
  if rest:
    raise ConfigError(f'{rest[0]!r} is not a flag; flags are written --name=value.')
  if not values.workdir:
    raise ConfigError('--workdir is missing; name a directory, such as runs/first.')
  if values.seed < 0:
    raise ConfigError(f'--seed={values.seed} must be at least 0.')
  if paths and not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(
      f'get_config() of the config file returned {type(config).__name__}; it must return '
      'a config that starts from gan_aug_jax.config.default().'
    )
  for field in config.get('ablation', {}).get('grid', {}) if paths else ():
    if any(arg.lstrip('-').startswith(f'config.{field}=') for arg in argv):
      raise ConfigError(
        f'--config.{field} would change nothing: ablation.grid of the config file sets '
        f'{field}.'
      )
  if any(arg.startswith('--config.') for arg in argv) and config:
    config.duration = ''  # which was that of the config as it stands
  return values


def _check_flags(command, argv):
  """Refuses what absl and ml_collections would refuse with less help."""
  fields = config_lib.flatten(config_lib.default())
  has_config = any(re.match(r'--?config=', arg) for arg in argv)
  needs_config, example = command in _TRAINING, 'mnist5k'
  if command == 'ablate':
    fields |= {f'ablation.{name}': value for name, value in config_lib.ablation().items()}
    needs_config, example = '--collect' not in argv, 'ablations/ratio'
  if needs_config and not has_config:
    raise ConfigError(f'--config is missing; name a file, such as configs/{example}.py.')
  if not needs_config and any(re.match(r'--?config[=.]', arg) for arg in argv):
    raise ConfigError(f'{command} takes its config from --workdir; leave --config out.')
  for arg in argv[1:]:
    name = arg.lstrip('-').partition('=')[0]
    if name in fields and name != 'seed':
      raise ConfigError(f'--{name} is a field of the config: write --config.{name}.')
    if name == 'seed' and command != 'sample':
      raise ConfigError('--seed belongs to sample; a run has --config.seed.')
    if not name.startswith('config.'):
      continue
    field = name.removeprefix('config.')
    if isinstance(fields.get(field), dict):
      raise ConfigError(f'{field} is a dict; change it in the config file.')
    if any(known.startswith(f'{field}.') for known in fields):
      raise ConfigError(f'{field} is a group of fields; set one, as in --{name}.NAME.')
    if field not in fields:
      close = difflib.get_close_matches(field, fields, n=1)
      hint = f'did you mean {close[0]}?' if close else 'see gan_aug_jax/config.py.'
      raise ConfigError(f'There is no config field {field!r}; {hint}')


def _join_config(argv):
  """Writes `--config FILE` as `--config=FILE`, and puts it before changes of fields."""
  for i, arg in enumerate(argv[:-1]):
    if arg in ('--config', '-config'):
      argv = [*argv[:i], f'--config={argv[i + 1]}', *argv[i + 2 :]]
      break
  is_file = lambda arg: bool(re.match(r'--?config=', arg))
  return [argv[0], *sorted(argv[1:], key=lambda arg: not is_file(arg))]


def _find_config(arg):
  """Lets --config name a shipped config from any directory."""
  name, _, value = arg.partition('=')
  if name not in ('--config', '-config'):
    return arg
  file, colon, variant = value.partition(':')
  package = pathlib.Path(__file__).resolve().parent
  for root in (pathlib.Path(), package.parent, package):
    if (root / file).is_file():
      return f'{name}={root / file}{colon}{variant}'
  raise ConfigError(f'There is no config file {file!r}; see configs/ for those shipped.')


def _check_config_file(file):
  """Runs a config file by itself, where errors can still be told from others.

  Raises:
    ConfigError: if it cannot be run, or has no get_config.
  """
  try:
    content = runpy.run_path(file)
  except SyntaxError as error:
    raise ConfigError(f'In {file}, line {error.lineno}: {error.msg}.') from None
  except Exception as error:
    raise ConfigError(_explain(error, file)) from error
  if not callable(content.get('get_config')):
    raise ConfigError(f'{file} has no get_config(); see configs/ for examples.')


def _explain(error, file=None):
  """What a parser or a config file raised, as a sentence."""
  text = ' '.join(str(part) for part in error.args) or type(error).__name__
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  text = re.sub(r'^[\w.]+(Error|Exception): ', '', lines[-1])
  inside = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if file and frame.filename == file
  ]
  if inside:
    text = f'In {file}, line {inside[-1]}: {text}'
  return text if text.endswith(('.', '?')) else f'{text}.'


def _start(config, workdir, *, trains_gan=None):
  """Validates, starts JAX, and returns the `Session`."""
  validation.validate(config, trains_gan=trains_gan)
  # Imported late: a usage error must not wait for JAX, nor JAX start before it is set up.
  from gan_aug_jax import devices

  found = devices.start(config)
  from gan_aug_jax import sharding, workdir as workdir_lib

  layout = sharding.make_layout(config.backend, found)
  return workdir_lib.Session(config, pathlib.Path(workdir), layout)


def _train(command, options):
  config = options.config
  only_gan = command == 'train-gan'
  session = _start(config, options.workdir, trains_gan=only_gan or None)
  from gan_aug_jax import experiment, gan_training, workdir

  dataset = experiment.load_data(config)
  signals.check()
  workdir.claim(session, dataset)
  print(experiment.announce(session, dataset, only_gan=only_gan), flush=True)
  generator = None
  if only_gan:
    gan_training.train_gan(session, dataset)
    print(f'Samples: {session.path("gan", "samples.png")}')
    return
  if config_lib.needs_generator(config):
    if command == 'run':
      generator = gan_training.train_gan(session, dataset)
    else:
      info = workdir.describe_data(dataset)
      generator = gan_training.load_generator(session, info)
  results = experiment.train_arms(session, dataset, generator)
  signals.check()
  _show(session, results)


def _show(session, results):
  import jax

  from gan_aug_jax import report, workdir

  if jax.process_index() == 0:
    report.print_table(results)
    run = workdir.read_json(session.path('config.json'))
    print(f'Report: {report.render(session.workdir, run, results)}')


def _reopen(options):
  """The session and config.json of a finished run."""
  from gan_aug_jax import workdir

  run = workdir.read_json(pathlib.Path(options.workdir, 'config.json'), 'config', 'data')
  config, here = config_lib.from_dict(run['config']), config_lib.default()
  # Where it was trained is not where it is looked at.
  for field in ('platform', 'num_cpu_devices', 'distributed'):
    config[field] = here[field]
  config.log.tensorboard = False
  if config.data.data_dir and not os.path.isdir(config.data.data_dir):
    config.data.data_dir = ''  # TFDS_DATA_DIR may say where it is now
  return _start(config, options.workdir), run


def _evaluate(options):
  session, run = _reopen(options)
  from gan_aug_jax import arms, experiment, report, workdir

  dataset = experiment.load_data(session.config)
  workdir.check_data(session, run, dataset)
  scores = arms.evaluate_arms(session, dataset)
  report.print_scores(scores)
  missing = [arm for arm in session.config.arms if arm not in scores]
  if missing:
    print(f'Not trained yet: {", ".join(missing)}.')


def _sample(options):
  session, run = _reopen(options)
  from gan_aug_jax import gan_training

  print(f'Samples: {gan_training.write_samples(session, run["data"], options.seed)}')


def _score(options):
  session, run = _reopen(options)
  from gan_aug_jax import report, scoring

  report.print_generators(scoring.score_generators(session, run))
  print(f'Pictures: {session.path("score")}')


def _report(options):
  from gan_aug_jax import report, workdir

  directory = pathlib.Path(options.workdir)
  run = workdir.read_json(directory / 'config.json', 'config', 'data')
  results = workdir.read_json(directory / 'results.json', 'arms', 'gan', 'versions')
  print(f'Report: {report.render(directory, run, results)}')


def _ablate(options):
  directory = pathlib.Path(options.workdir)
  if options.collect:
    _show_ablation(directory)
    return
  first, step = _parse_shard(options.shard)
  config = options.config
  base = config_lib.base_of(config)
  if base.distributed.auto or base.distributed.coordinator:
    raise ConfigError(
      'ablate runs each cell in one process; give each of several a part by --shard=i/n.'
    )
  layout = _start(base, directory, trains_gan=True).layout
  from gan_aug_jax import ablation_report, cells as cells_lib

  arms, cells = cells_lib.plan(config, directory, layout)
  signals.check()
  if options.dry_run:
    ablation_report.print_plan(cells, *cells_lib.estimate(cells, directory, layout))
    return
  cells_lib.write_plan(config, arms, cells, directory, layout)
  print(cells_lib.announce(config, cells, directory, layout), flush=True)
  units = cells_lib.units_of(cells, config.ablation.vmap_seeds)
  failures = cells_lib.run(units[first::step], directory, layout)
  signals.check()
  over = cells_lib.are_over(directory, cells)
  if over and len(failures) < len(cells):
    _show_ablation(directory)
  elif not over:
    print(
      'This part is over; ablate --collect --workdir=... reports on all that is there.'
    )
  if failures:
    raise AblationError(
      f'{len(failures)} of {len(cells)} cells failed, the first one: '
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
  from gan_aug_jax import ablation_report

  summary, path = ablation_report.write(directory)
  ablation_report.print_summary(summary)
  print(f'Report: {path}')
