"""Runs the cells of an ablation, each once, however many workers share the workdir.

WORKDIR/
  ablation.json       the config, the arms and the seeds
  cells/NAME/         a run of one arm: config.json, arms/, results.json; or failed.json
  gans/FINGERPRINT/   the GANs that cells share: config.json, gan/
  locks/              what a worker is at; given up with its process, however that ends
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import tempfile
import time

import filelock

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import CheckpointError, UserError
from gan_aug_jax.experiment import ablation, arms as arms_lib, dry_run, runs, vmap_seeds
from gan_aug_jax.generators import gan_training
from gan_aug_jax.step import programs
from gan_aug_jax.training import loop, signals, workdir as workdir_lib
from gan_aug_jax.training.workdir import read_result, Session

_WAIT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Cell:
  """One classifier to train.

  Attributes:
    name: unique in the ablation, and of its directory.
    arm: an `ablation.Arm`.
    seed: of everything random.
    config: of its run.
    gan: name of the GAN that it draws from, a fingerprint of what one hangs on; or ''.
    gan_config: of that, or None.
  """

  name: str
  arm: ablation.Arm
  seed: int
  config: object
  gan: str = ''
  gan_config: object = None

  @property
  def kind(self):
    """What `config.ARMS` calls its arm."""
    return self.config.arms[0]


def list_cells(config, arms):
  """The cells of an ablation, seed by seed, so that whole seeds are finished first.

  Args:
    config: with its ablation.
    arms: from `ablation.arms_of`.
  """
  base, cells = config_lib.base_of(config), []
  distinct = {arm.key: arm for arm in reversed(arms)}
  for seed in config.ablation.seeds:
    for arm in reversed(distinct.values()):
      of_cell = ablation.config_of(base, arm, seed)
      name = re.sub(r'[^\w.,+=-]+', '-', f'{arm.key},seed={seed}')
      gan = _gan_of(base, of_cell) if config_lib.needs_generator(of_cell) else ()
      cells.append(Cell(name, arm, seed, of_cell, *gan))
  return cells


def _gan_of(base, config):
  """Name and config of a cell's GAN; what arms may change is as in the base."""
  shared = config.copy_and_resolve_references()
  fields = config_lib.flatten(base)
  of_arms = {f: v for f, v in fields.items() if f.startswith(workdir_lib.ARM_FIELDS)}
  seeds = {f'{part}.seed': config_lib.seed_of(config, part) for part in ('data', 'gan')}
  # The probes that choose a checkpoint have the GAN's seed: they belong to it.
  seeds |= {'classifier.seed': seeds['gan.seed'], 'seed': 0}
  shared.update_from_flattened_dict({**of_arms, **seeds})
  hangs_on = workdir_lib.fixed_fields(shared)
  # Of no matter to a GAN; and so that those of older ablations keep their names.
  del hangs_on['data.test_on']
  if not hangs_on['data.train_on_val']:
    del hangs_on['data.train_on_val']
  content = json.dumps(hangs_on, sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16], shared


@functools.lru_cache(maxsize=8)  # seeds that train in one program need theirs at once
def _load(fields):
  config = config_lib.default()
  config.update_from_flattened_dict(dict(fields))
  return runs.load_data(config)


def load_data(config):
  """As `runs.load_data`, and keeps the last ones."""
  fields = {f: v for f, v in config_lib.flatten(config).items() if f.startswith('data.')}
  fields['data.seed'] = config_lib.seed_of(config, 'data')
  if config.sampler.source == 'unseen':  # which asks for more images
    fields |= {'sampler.source': 'unseen', 'arms': config.arms}
  return _load(tuple(fields.items()))


def plan(config, workdir, layout):
  """The arms and cells of an ablation, checked against what the workdir holds.

  Args:
    config: with its ablation.
    workdir: pathlib.Path.
    layout: where cells will run.

  Returns:
    (list of `ablation.Arm`, list of `Cell`).

  Raises:
    ConfigError: see `ablation.arms_of`.
    CheckpointError: if a cell of another config is there.
  """

  def operations_of(config, control):
    # As if a pool were drawn in each step: the control gets more, and not less.
    config = config.copy_and_resolve_references()
    config.sampler.refresh_every = 1
    session = Session(config, workdir, layout, quiet=True)
    return _operations(session, control)

  if (workdir / 'config.json').exists():
    raise CheckpointError(
      f'{str(workdir)!r} holds a run; give an ablation another --workdir.'
    )
  size_of = lambda config: len(load_data(config).train)
  arms = ablation.arms_of(config, size_of, operations_of)
  cells = list_cells(config, arms)
  unseen = {
    cell.arm.setting: cell for cell in cells if cell.config.sampler.source == 'unseen'
  }
  for cell in unseen.values():
    load_data(cell.config)  # which fails here, before anything is trained, or never
  for cell in cells:
    workdir_lib.check_config(Session(cell.config, workdir / 'cells' / cell.name, layout))
  return arms, cells


def _operations(session, control):
  """Operations of a GAN's training and of an arm's steps, see `ablation.arms_of`."""
  dataset, config = load_data(session.config), session.config
  gan = dry_run.rehearse_gan(session, dataset)
  length = 1000 + config.classifier.warmup_steps  # of no effect on a step's operations
  fused, real = (
    dry_run.rehearse_arm(session, dataset, name, num_steps=length).operations()
    for name in (config.arms[0], control)
  )
  num_steps = config_lib.num_steps_of(config, 'gan', len(dataset.train))
  return {'gan': num_steps * gan.operations(), 'step': fused, 'real_step': real}


def write_plan(config, arms, cells, workdir, layout):
  """Writes ablation.json, what a report needs to know of cells that are not there yet."""
  content = {
    'config': config_lib.base_of(config).to_dict(),
    'ablation': config.ablation.to_dict(),
    'arms': [dataclasses.asdict(arm) for arm in arms],
    'cells': [
      {'name': cell.name, 'arm': cell.arm.key, 'seed': cell.seed}
      | {'kind': cell.kind, 'gan': cell.gan}
      for cell in cells
    ],
    'versions': workdir_lib.versions(),
    'device': workdir_lib.describe_devices(layout),
  }
  workdir_lib.write(workdir / 'ablation.json', json.dumps(content, indent=1))


def announce(config, cells, workdir, layout):
  """A paragraph on what an ablation will do."""
  done = sum(is_finished(workdir, _about(cell)) for cell in cells)
  gans = len({cell.gan for cell in cells if cell.gan})
  text = (
    f'{len(cells)} cells, {done} of them finished, and {gans} GANs; on '
    f'{workdir_lib.describe_devices(layout)}.'
  )
  if config.ablation.vmap_seeds and layout.on_cpu:
    text += (
      ' Seeds in one program are several times slower on a CPU, whose convolutions do '
      'one network at a time best: ablation.vmap_seeds=False is faster.'
    )
  return text


def units_of(cells, together):
  """Groups cells to what is trained at a time: each alone, or all seeds of an arm."""
  units = {}
  for cell in cells:
    units.setdefault(cell.arm.key if together else cell.name, []).append(cell)
  return list(units.values())


def run(units, workdir, layout, say=print):
  """Runs cells until each is finished or failed, here or by another worker.

  Args:
    units: from `units_of`, all of them or those of a shard.
    workdir: pathlib.Path.
    layout: where they run.
    say: prints a line.

  Returns:
    {name: why} of the cells that failed.

  Raises:
    signals.Interrupted: with the state saved.
  """
  waiting, idle, broken = collections.deque(units), 0, {}
  while waiting:
    unit = waiting.popleft()
    if _attempt(unit, workdir, layout, broken, say):
      idle = 0
      continue
    # Another worker is at it, or at its GAN.
    waiting.append(unit)
    idle += 1
    if idle >= len(waiting):
      time.sleep(_WAIT_SECONDS)
      signals.check()
      idle = 0
  failures = {cell.name: failure(workdir, cell.name) for unit in units for cell in unit}
  return {name: why for name, why in failures.items() if why}


def is_finished(workdir, cell):
  """Whether the results of a cell, or of its dict in ablation.json, are there."""
  directory, kind = workdir / 'cells' / cell['name'], cell['kind']
  results = read_result(directory / 'results.json')
  written = (directory / 'arms' / kind / 'predictions.npz').exists()
  return bool(written and results and kind in results.get('arms', {}))


def are_over(workdir, cells):
  """Whether every cell is finished or failed."""
  return all(
    is_finished(workdir, _about(cell)) or failure(workdir, cell.name) for cell in cells
  )


def failure(workdir, name):
  """Why a cell failed, or ''."""
  return (read_result(_failure_path(workdir, name)) or {}).get('why', '')


def _failure_path(workdir, name):
  return workdir / 'cells' / name / 'failed.json'


def _about(cell):
  return {'name': cell.name, 'kind': cell.kind}


def _attempt(unit, workdir, layout, broken, say):
  """Runs what is left of a unit; False where another worker holds a part of it."""
  left = lambda: [cell for cell in unit if not is_finished(workdir, _about(cell))]
  with contextlib.ExitStack() as claims:
    for cell in left():
      if not claims.enter_context(_claim(workdir / 'locks' / f'{cell.name}.lock')):
        return False
    members, waits = [], False
    for cell in left():  # others may have finished some before they were ours
      _failure_path(workdir, cell.name).unlink(missing_ok=True)
      with _noted(workdir, cell):
        member = _member(cell, workdir, layout, broken)
        if member is None:
          waits = True
        else:
          members.append((cell, member))
    if not waits:
      _train(members, workdir, say)
    return not waits


def _member(cell, workdir, layout, broken):
  """The `vmap_seeds.Member` of a cell; None while another worker trains its GAN."""
  session = Session(cell.config, workdir / 'cells' / cell.name, layout)
  dataset, generator, gan = load_data(cell.config), None, None
  workdir_lib.claim(session, dataset)
  if cell.gan_config is not None:
    gan = Session(cell.gan_config, workdir / 'gans' / cell.gan, layout)
  run = runs.Run(session, dataset, gan_session=gan)
  if gan:
    generator = _generator(cell, workdir, run, gan, broken)
    if generator is None:
      return None
  return vmap_seeds.Member(run, generator)


def _train(members, workdir, say):
  """Trains cells in one program, if they are several, and then what is left alone."""
  for cell, _ in members:
    say(f'Cell {cell.name}')
  left = [
    (cell, member)
    for cell, member in members
    if not arms_lib.finished_result(member.arm.directory)
  ]
  if len(left) > 1 and len({len(member.arm.dataset.train) for _, member in left}) == 1:
    names = json.dumps([cell.name for cell, _ in left])
    directory = workdir / 'together' / hashlib.sha256(names.encode()).hexdigest()[:16]
    try:
      vmap_seeds.train([member for _, member in left], directory)
    except signals.Interrupted:
      raise
    except Exception as error:  # of one of them, or memory that is short for all
      signals.check()
      say(f'Together they failed ({error}); each is trained alone.')
  for cell, member in members:
    with _noted(workdir, cell):
      member.run.train_arms(member.generator)


@contextlib.contextmanager
def _noted(workdir, cell):
  """Notes what befalls a cell, so that the others go on."""
  try:
    yield
  except signals.Interrupted:
    raise
  except Exception as error:
    signals.check()  # a signal may come as another exception
    kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
    content = json.dumps({'why': f'{kind}{error}'})
    loop.write_atomically(_failure_path(workdir, cell.name), content)


def _generator(cell, workdir, run, session, broken):
  """The cell's generator, trained here if it is missing; None while another trains it."""
  if cell.gan in broken:
    raise CheckpointError(broken[cell.gan])
  if session.path('gan', 'result.json').exists():
    with contextlib.suppress(CheckpointError):
      return run.obtain_generator(train=False)
  with _claim(workdir / 'locks' / f'gan-{cell.gan}.lock') as ours:
    if not ours:
      return None
    workdir_lib.claim(session, run.dataset)
    try:
      with programs.ahead():
        run.start()
        return run.obtain_generator()
    except signals.Interrupted:
      raise
    except Exception as error:  # it would befall every cell that draws from it
      signals.check()
      broken[cell.gan] = f'Its generator ({cell.gan}) failed: {error}'
      raise CheckpointError(broken[cell.gan]) from error


@contextlib.contextmanager
def _claim(path):
  """Yields whether something is ours to do: a lock that goes with the process."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    yield False
    return
  except (OSError, NotImplementedError) as error:
    raise CheckpointError(
      f'{str(path.parent)!r} is on a file system without locks ({error}); choose another '
      '--workdir.'
    ) from None
  try:
    yield True
  finally:
    lock.release()


def estimate(cells, workdir, layout, num_steps=10):
  """Seconds that cells and GANs that are not finished will train, by a few steps of each.

  Args:
    cells: from `plan`.
    workdir: pathlib.Path.
    layout: where they will run.
    num_steps: to measure of each kind of step.

  Returns:
    ({cell name: seconds}, {GAN name: seconds}), the choice of checkpoints included,
    without compilation and evaluation.
  """
  measured, seconds, gans = {}, {}, {}

  def once(key, make):
    if key not in measured:
      measured[key] = make().seconds(num_steps)
    return measured[key]

  with tempfile.TemporaryDirectory() as scratch:
    for cell in cells:
      if is_finished(workdir, _about(cell)):
        continue
      dataset, config = load_data(cell.config), cell.config.copy_and_resolve_references()
      steps = runs.num_steps_of(config, dataset, cell.kind)
      config.sampler.teacher_steps = 1
      session = Session(config, pathlib.Path(scratch), layout, quiet=True)
      fields = {**cell.arm.fields, 'classifier.num_steps': 0}
      each = once(
        json.dumps(fields, sort_keys=True),
        functools.partial(
          dry_run.rehearse_arm, session, dataset, cell.kind, num_steps=steps
        ),
      )
      seconds[cell.name] = steps * each
      if cell.gan and cell.gan not in gans:
        if (
          cell.gan_config.sampler.generator
          or (workdir / 'gans' / cell.gan / 'gan' / 'result.json').exists()
        ):
          continue
        of_gan = dataclasses.replace(session, config=cell.gan_config)
        fields = config_lib.flatten(cell.gan_config)
        key = tuple(item for item in fields.items() if not item[0].endswith('seed'))
        each = once(key, functools.partial(dry_run.rehearse_gan, of_gan, dataset))
        steps = config_lib.num_steps_of(cell.gan_config, 'gan', len(dataset.train))
        count = gan_training.num_candidates(of_gan, steps)
        if count > 1 and ('candidate', key) not in measured:
          measured['candidate', key] = dry_run.candidate_seconds(of_gan, dataset)
        gans[cell.gan] = steps * each + count * measured.get(('candidate', key), 0)
  return seconds, gans
