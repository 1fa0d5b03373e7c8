"""The host loop and checkpoints: resume, cadence, damage, non-finite losses, signals."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config
from gan_aug_jax.errors import CheckpointError, MachineError, NonFiniteError
from gan_aug_jax.generators import generator
from gan_aug_jax.step import sharding
from gan_aug_jax.training import checkpoint, files, loop, signals, spec, workdir

WHERE = sharding.make_layout('jit', jax.devices()[:1])


def _init(seed):
  return {'x': 0.3 + 0 * seed.astype(jnp.float32), 'step': 0 * seed}


def _step(state, scale):
  """A chaotic map: any difference would grow."""
  x = 3.9 * state['x'] * (1 - state['x'])
  return {'x': x, 'step': state['step'] + 1}, {'loss': x * scale}


def _other_step(state, scale):
  x = 3.7 * state['x'] * (1 - state['x'])
  return {'x': x, 'step': state['step'] + 1}, {'loss': 2 * x * scale}


class _Scales:
  """A source of one number a step; `stop(step)` may raise instead."""

  fingerprint, first = 'images', None

  def __init__(self, stop, bad_at):
    self._stop, self._bad_at = stop, bad_at

  def __call__(self, step, num_steps):
    assert num_steps == 1
    self.first = step if self.first is None else self.first
    if self._stop:
      self._stop(step)
    return WHERE.replicate(np.float32(np.nan if step == self._bad_at else 1))


class _Monitor(loop.Monitor):
  def consider(self, step, state):
    return {'val': float(state['x'])}


def _train(
  directory,
  *,
  step=_step,
  last_step=None,
  num_steps=100,
  stop=None,
  bad_at=None,
  log_every=10,
  save_every=7,
):
  """Returns the last state and the step that training began or resumed at.

  `stop(step)` is called before each step and may raise.
  """
  training = spec.make_training(
    workdir.Session(config.default(), directory, WHERE, quiet=True),
    step,
    init=_init,
    seed=0,
    batches=_Scales(stop, bad_at),
    cadence=spec.Cadence(num_steps, log_every, 20, save_every),
    last_step=last_step,
  )
  trained = loop.train(training, directory, 'test', _Monitor())
  return jax.device_get(trained.state), training.batches.first


def _rows(directory):
  rows = files.read_metrics(directory / 'metrics.jsonl')
  return [{k: v for k, v in row.items() if k != 'step_ms'} for row in rows]


class Crash(Exception):
  pass


def _crash_at(*steps):
  pending = list(steps)

  def stop(step):
    if pending and step == pending[0]:
      pending.pop(0)
      raise Crash

  return stop


@pytest.mark.parametrize('last_step', [None, (53, _other_step)], ids=['one', 'two'])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, last_step):
  """Crashes fall between a save and a line of metrics, whose mean must not suffer.

  And in the first and the last of two stages.
  """
  expected, _ = _train(tmp_path / 'whole', last_step=last_step)
  assert (expected['x'] == _train(tmp_path / 'other')[0]['x']) == (last_step is None)
  stop = _crash_at(5, 18, 55, 99)
  starts = []
  while True:
    try:
      state, start = _train(tmp_path / 'broken', stop=stop, last_step=last_step)
      break
    except Crash:
      starts.append(True)
  assert len(starts) == 4 and start == 98
  assert state['x'] == expected['x'] and state['step'] == 100
  assert _rows(tmp_path / 'broken') == _rows(tmp_path / 'whole')
  assert [row['step'] for row in _rows(tmp_path / 'whole')] == list(range(10, 101, 10))


def test_a_line_is_fetched_while_the_next_call_runs(tmp_path, monkeypatch):
  """Unless a save is due, too, or every line would leave the device idle."""
  events, get = [], loop._fetch
  monkeypatch.setattr(loop, '_fetch', lambda calls: events.append('get') or get(calls))
  _train(tmp_path, num_steps=6, log_every=1, save_every=4, stop=events.append)
  # Step 0 is asked for twice, the first time to compile; step 4 ends in a save.
  expected = [0, 0, 1, 'get', 2, 'get', 3, 'get', 'get', 4, 5, 'get', 'get']
  assert events[: len(expected)] == expected
  assert [row['step'] for row in _rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_half_written_line_is_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(
    '{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 2.0}\n{"step": 30, "lo'
  )
  file = files.MetricsFile(path, after_step=20)
  file.write_scalars(30, {'loss': 3.0})
  assert [row['loss'] for row in files.read_metrics(path)] == [1.0, 2.0, 3.0]
  path.write_text('{"step": 10}\nnull\n{"step": 30}\n')
  assert files.read_metrics(path) == [{'step': 10}]


def test_json_of_any_depth_is_damaged_and_no_crash(tmp_path):
  path = tmp_path / 'result.json'
  path.write_text('[' * 200_000)
  assert files.read_json_or_none(path) is None


@pytest.mark.parametrize('damage', ['truncate', 'remove'])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, caplog):
  with pytest.raises(Crash):
    _train(tmp_path, stop=_crash_at(40))  # saved at 28 and 35
  newest = tmp_path / 'checkpoints' / '35'
  files = [path for path in newest.rglob('*') if path.is_file()]
  for path in files:
    if damage == 'truncate':
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif 'state' in path.parts:
      path.unlink()
  state, start = _train(tmp_path)
  assert start == 28
  assert 'Checkpoint 35' in caplog.text and 'going back' in caplog.text
  expected, _ = _train(tmp_path.parent / f'{tmp_path.name}-whole')
  assert state['x'] == expected['x']


def test_non_finite_metric_stops_and_keeps_the_checkpoint(tmp_path):
  with pytest.raises(NonFiniteError, match=r'loss is nan at step 37'):
    _train(tmp_path, bad_at=36)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    template = WHERE.replicate({'x': np.float32(0), 'step': np.int32(0)})
    state, progress, _ = checkpoints.restore(template)
  assert progress['step'] == 35 and np.isfinite(state['x'])


def test_non_finite_state_is_never_saved(tmp_path):
  """Saves fall between the lines that are checked."""
  with pytest.raises(NonFiniteError, match=r'loss is nan at step 13'):
    _train(tmp_path, bad_at=12, log_every=50)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    template = WHERE.replicate({'x': np.float32(0), 'step': np.int32(0)})
    _, progress, _ = checkpoints.restore(template)
  assert progress['step'] == 7


def test_state_with_nan_is_never_saved_even_if_its_metrics_are_finite(tmp_path):
  """As after the last step of a call, whose metrics are those of the state before."""

  def step(state, scale):
    return {'x': state['x'] * scale, 'step': state['step'] + 1}, {'loss': jnp.float32(1)}

  with pytest.raises(NonFiniteError, match=r'NaN or infinite numbers at step 14'):
    _train(tmp_path, step=step, bad_at=13)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    template = WHERE.replicate({'x': np.float32(0), 'step': np.int32(0)})
    state, progress, _ = checkpoints.restore(template)
  assert progress['step'] == 7 and np.isfinite(state['x'])


@pytest.mark.parametrize(
  ('error', 'is_damage'),
  [
    (MemoryError(), False),
    (OSError(errno.EACCES, os.strerror(errno.EACCES)), False),
    (ValueError(f'reading: {os.strerror(errno.EMFILE)}'), False),
    (ValueError(f'reading: {os.strerror(errno.EIO)}'), True),
    (RuntimeError('RESOURCE_EXHAUSTED: out of memory'), False),
    (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), True),
    (ValueError('not a zarr array'), True),
  ],
)
def test_what_the_machine_refuses_to_read_is_not_taken_for_damaged(error, is_damage):
  """Or a finished generator would be trained again."""

  def read():
    raise error

  if is_damage:
    assert checkpoint._attempt(read) is None
  else:
    with pytest.raises(MachineError, match='it may be whole'):
      checkpoint._attempt(read)


def test_a_save_that_was_cut_off_is_as_if_it_had_not_begun(tmp_path):
  """What a kill leaves while orbax writes: a directory that is not renamed yet."""
  expected, _ = _train(tmp_path / 'whole')
  workdir = tmp_path / 'killed'
  with pytest.raises(Crash):
    _train(workdir, stop=_crash_at(40))  # saved at 28 and 35
  begun = workdir / 'checkpoints' / '42.orbax-checkpoint-tmp'
  shutil.copytree(workdir / 'checkpoints' / '35', begun)
  for path in begun.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  state, start = _train(workdir)
  assert start == 35 and state['x'] == expected['x']
  names = sorted(path.name for path in (workdir / 'checkpoints').iterdir())
  assert names[-1] == '98' and not [name for name in names if 'damaged' in name]


def test_checkpoints_of_another_model_are_kept_and_named(tmp_path):
  with pytest.raises(Crash):
    _train(tmp_path, stop=_crash_at(40))
  before = sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    other = WHERE.replicate({'weights': np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match='can be read'):
      checkpoints.restore(other)
    with pytest.raises(CheckpointError, match='Checkpoint 99'):
      checkpoints.restore_step(99, other)
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == before


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_at_the_next_step(tmp_path, number):
  def stop(step):
    if step == 12:
      os.kill(os.getpid(), number)

  with pytest.raises(signals.Interrupted, match=r'step 13 of 100') as caught:
    _train(tmp_path, stop=stop)
  assert caught.value.exit_code == 75
  state, start = _train(tmp_path)
  assert start == 13
  expected, _ = _train(tmp_path.parent / f'{tmp_path.name}-whole')
  assert state['x'] == expected['x']
  assert _rows(tmp_path) == _rows(tmp_path.parent / f'{tmp_path.name}-whole')


def test_interruption_whose_save_failed_does_not_say_that_it_is_saved(
  tmp_path, monkeypatch
):
  """Orbax writes in the background, and tells on closing."""

  def close(_):
    raise OSError('no space')

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'close', close)
  with pytest.raises(CheckpointError, match='cannot be written'):
    _train(
      tmp_path, stop=lambda step: step == 12 and os.kill(os.getpid(), signal.SIGTERM)
    )


def test_automatic_cadences_are_multiples_of_the_lines():
  fields = config.default()
  fields.log.every_steps = 60
  assert spec.make_cadence(fields, 'generator', 1000) == spec.Cadence(1000, 60, 60, 180)
  fields.log.eval_every_steps = 5
  assert spec.make_cadence(fields, 'generator', 20) == spec.Cadence(20, 60, 5, 60)
  # A state is saved where a call ends, and where images are drawn anew.
  fields.log.every_steps = fields.log.eval_every_steps = fields.steps_per_call = 50
  assert spec.make_cadence(fields, 'classifier', 600, cycle=30).save_every == 150
  # And shares what it can with the lines, or a call would take few steps.
  fields.steps_per_call = 0
  assert spec.make_cadence(fields, 'classifier', 700, cycle=8).save_every == 120
  assert spec.make_cadence(fields, 'classifier', 5000, cycle=8).save_every == 1000


def test_signal_is_not_reported_as_an_error_of_the_code_that_it_stops():
  def sample(variables, key, labels):
    os.kill(os.getpid(), signal.SIGTERM)
    return jnp.zeros((len(labels), 4, 4, 1))

  with signals.watched(), pytest.raises(signals.Interrupted):
    generator.from_function(sample, {}, image_shape=(4, 4, 1), num_classes=2)


def test_signal_whose_raise_was_lost_still_stops():
  """Python drops what is raised in a callback of the garbage collector."""
  with signals.watched():
    with contextlib.suppress(signals.Interrupted):
      os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(signals.Interrupted, match='SIGTERM'):
      signals.check()
    with pytest.raises(signals.Interrupted), signals.deferred():
      pass
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  with signals.deferred() as stopped:  # by itself, as in a notebook
    assert stopped(True) is None


_FIXED = {'generator.save_every_steps': 100}


@pytest.mark.parametrize(
  ('trained', 'before', 'change', 'allowed'),
  [
    ((), {}, {'gan.width': 8}, True),
    (('generator',), {}, {'log.every_steps': 10}, False),  # checkpoints would move, too
    (('generator',), _FIXED, {'log.every_steps': 10}, True),
    (('generator',), {}, {'generator.save_every_steps': 100}, False),
    (('generator',), {}, {'log.eval_every_steps': 10}, True),
    (
      ('generator', 'result', 'generator-seed1'),
      {},
      {'generator.save_every_steps': 100},
      False,
    ),
    (('generator', 'result', 'arms'), {}, {'generator.save_every_steps': 100}, True),
    # The user's own files, and the teacher of arms that have no generator.
    (('generator', 'result', 'generator-files'), {}, {'log.every_steps': 10}, True),
    (('arms', 'generator/teacher'), {}, {'log.every_steps': 10}, True),
    (('generator', 'result', 'arms'), {}, {'log.every_steps': 10}, True),
    (('generator', 'result', 'arms'), {}, {'classifier.learning_rate': 1.0}, False),
    (('arms',), {'arms': ('real_only',)}, {'arms': ('augmented', 'real_only')}, True),
    (('arms',), {'arms': ('real_only',)}, {'arms': ('augmented',)}, False),
  ],
)
def test_a_workdir_takes_harmless_changes(tmp_path, trained, before, change, allowed):
  for part in trained:
    if part == 'result':
      (tmp_path / 'generator' / 'result.json').write_text('{}')
    elif part in ('generator', 'generator-seed1'):
      (tmp_path / part / 'checkpoints').mkdir(parents=True)
    else:
      (tmp_path / part).mkdir(parents=True)
  fields = config.default()
  fields.update_from_flattened_dict(before)
  saved = json.dumps({'config': fields.to_dict(), 'data': {}})
  (tmp_path / 'config.json').write_text(saved)
  fields.update_from_flattened_dict(change)
  session = workdir.Session(fields, tmp_path, WHERE)
  with (
    contextlib.nullcontext()
    if allowed
    else pytest.raises(CheckpointError, match=re.escape(next(iter(change))))
  ):
    workdir.check_config(session)
  if trained:  # the names of cells and GANs depend on these
    with pytest.raises(CheckpointError):
      workdir.check_config(session, grows=False)
