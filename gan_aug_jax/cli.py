"""The commands of `python -m gan_aug_jax`, also installed as `gan-aug-jax`."""

import contextlib
import pathlib
import signal
import sys
import warnings

from absl import flags
from ml_collections import config_flags

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError, UserError

_HELP = """\
gan_aug_jax: does generative augmentation help your classifier, and what does it cost?

usage: python -m gan_aug_jax COMMAND --workdir=DIR [--config=FILE] [--config.FIELD=VALUE]

  run               train the GAN, then every arm; write results.json and report.html
  train-gan         train the GAN only
  train-classifier  train the arms with the GAN that the workdir holds
  evaluate          evaluate the workdir's trained classifiers again, on val and test
  sample            draw a grid of images by class from the workdir's generator
  report            make the workdir's report.html again

A config is a Python file, see configs/. Any of its fields can be changed on the command
line, and all of them stand in gan_aug_jax/config.py. Commands that train go on from what
the workdir holds; the last three need only --workdir.

  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/first
  python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/half \\
      --config.mix.ratio=0.5 --config.data.per_class=50
  python -m gan_aug_jax run --config=configs/mlp.py:updated --workdir=runs/mlp
  python -m gan_aug_jax sample --workdir=runs/first --seed=7

Exit codes: 0 done, 2 usage, 3 data or environment, 75 stopped by a signal with the state
saved (run the same command to go on).
"""

_TRAINING = ('run', 'train-gan', 'train-classifier')
_LATER = ('evaluate', 'sample', 'report')


def main(argv=None):
  """Runs a command and returns its exit code."""
  argv = list(sys.argv if argv is None else argv)
  warnings.filterwarnings('ignore')
  try:
    _dispatch(argv)
  except (UserError, KeyboardInterrupt) as error:
    if '--debug' in argv:
      raise
    if isinstance(error, KeyboardInterrupt):
      error = _interrupted()
    print(f'gan_aug_jax: {error}', file=sys.stderr)
    return error.exit_code
  return 0


def _interrupted():
  from gan_aug_jax import signals

  return signals.Interrupted('Stopped by Ctrl-C; run the same command to go on.')


def _dispatch(argv):
  command = argv[1] if len(argv) > 1 else '--help'
  if command in ('--help', '-h', '-help', 'help') or '--help' in argv:
    print(_HELP)
    return
  if command not in _TRAINING + _LATER:
    raise ConfigError(
      f'There is no command {command!r}; choose one of {", ".join(_TRAINING + _LATER)}.'
    )
  options = _parse(command, [argv[0], *argv[2:]])
  if command in _TRAINING:
    _train(command, options)
  else:
    {'evaluate': _evaluate, 'sample': _sample, 'report': _report}[command](options)


def _parse(command, argv):
  """Parses flags: an absl FlagValues with workdir, config, seed and debug."""
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'Directory of the run.', flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the samples to draw.', flag_values=values)
  flags.DEFINE_bool('debug', False, 'Show tracebacks.', flag_values=values)
  argv = [_find_config(arg) for arg in _join_config(argv)]
  config_flags.DEFINE_config_file(
    'config', None, 'Config file.', flag_values=values, sys_argv=argv
  )
  try:
    rest = values(argv)[1:]
  except UserError:
    raise
  except Exception as error:  # absl and ml_collections raise many kinds
    raise ConfigError(_explain(error)) from None
  if rest:
    raise ConfigError(f'{rest[0]!r} is not a flag; flags are written --name=value.')
  if not values.workdir:
    raise ConfigError('--workdir is missing; name a directory, such as runs/first.')
  if command in _TRAINING and values.config is None:
    raise ConfigError('--config is missing; name a file, such as configs/mnist5k.py.')
  if command in _LATER and values.config is not None:
    raise ConfigError(f'{command} takes its config from --workdir; leave --config out.')
  return values


def _join_config(argv):
  """Writes `--config FILE` as `--config=FILE`."""
  for i, arg in enumerate(argv[:-1]):
    if arg in ('--config', '-config'):
      return [*argv[:i], f'--config={argv[i + 1]}', *argv[i + 2 :]]
  return argv


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


def _explain(error):
  """The last line of what a parser raised, as a sentence."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  text = lines[-1] if lines else type(error).__name__
  return text if text.endswith(('.', '?')) else f'{text}.'


def _start(config, workdir, *, trains_gan=None):
  """Validates, starts JAX, and returns the `Session`."""
  config_lib.validate(config, trains_gan=trains_gan)
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
  from gan_aug_jax import experiment, gan_training, signals, workdir

  with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGTERM, signals.raise_interrupted)
  dataset = experiment.load_data(config)
  workdir.claim(session, dataset)
  print(experiment.announce(session, dataset), flush=True)
  generator = None
  if only_gan:
    gan_training.train_gan(session, dataset)
    print(f'Samples: {session.path("gan", "samples.png")}')
    return
  if config_lib.needs_generator(config):
    if command == 'run':
      generator = gan_training.train_gan(session, dataset)
    else:
      generator = gan_training.load_generator(session, dataset)
  results = experiment.train_arms(session, dataset, generator)
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

  run = workdir.read_json(pathlib.Path(options.workdir, 'config.json'))
  config, here = config_lib.from_dict(run['config']), config_lib.default()
  # Where it was trained is not where it is looked at.
  for field in ('platform', 'num_cpu_devices', 'distributed'):
    config[field] = here[field]
  return _start(config, options.workdir), run


def _evaluate(options):
  session, run = _reopen(options)
  from gan_aug_jax import arms, experiment, report, workdir

  dataset = experiment.load_data(session.config)
  workdir.check_data(session, run, dataset)
  scores = arms.evaluate_arms(session, dataset)
  report.print_scores(scores)


def _sample(options):
  session, run = _reopen(options)
  from gan_aug_jax import gan_training

  print(f'Samples: {gan_training.write_samples(session, run["data"], options.seed)}')


def _report(options):
  from gan_aug_jax import report, workdir

  directory = pathlib.Path(options.workdir)
  run = workdir.read_json(directory / 'config.json')
  results = workdir.read_json(directory / 'results.json')
  print(f'Report: {report.render(directory, run, results)}')
