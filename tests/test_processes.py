"""Runs in processes of their own: killed, preempted, and spread over two of them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

# Each starts processes of its own; `test_loop` guards resuming and signals in this one.
pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from gan_aug_jax import config as base

def get_config():
  config = base.default()
  config.arms = ('augmented_classical',)
  config.data.image_size, config.data.label_budget, config.data.val_fraction = 8, 14, 0.25
  config.generator.num_steps, config.generator.batch_size = 150, 8
  config.gan.arch, config.gan.width, config.gan.latent_dim = 'mlp', 8, 4
  config.classifier.num_steps, config.classifier.batch_size = 150, 8
  config.classifier.features, config.classifier.hidden = (4, 4), (8,)
  config.classifier.dropout, config.mix.ratio = 0.2, 0.4
  config.augment.crop_padding = 1
  config.filter.candidates, config.filter.min_confidence = 2, 0.2
  config.filter.teacher_steps, config.mix.classes = 20, 'feedback'
  config.cache.refresh_steps = 5
  config.generator.select_steps, config.score.width, config.score.num_samples = 3, 4, 60
  config.score.extractor_steps = 20
  config.log.every_steps = 10
  config.generator.save_every_steps = config.classifier.save_every_steps = 30
  return config
"""


@pytest.fixture(scope='module')
def launch(tmp_path_factory):
  """Returns `launch(workdir, *flags)`, which starts a run and returns its process."""
  directory = tmp_path_factory.mktemp('processes')
  config = directory / 'tiny.py'
  config.write_text(CONFIG)
  environment = {k: v for k, v in os.environ.items() if k != 'NPROC'}

  def start(workdir, *flags):
    command = [sys.executable, '-m', 'gan_aug_jax', 'run', f'--config={config}']
    return subprocess.Popen(
      [*command, f'--workdir={workdir}', *flags],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  return start


def _finish(*processes, code=0):
  outputs = [process.communicate(timeout=600)[0] for process in processes]
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == code, output
  return outputs


def _parameters(directory):
  """The newest checkpoint's step and its state, whatever devices it was saved on."""
  step = max(
    int(p.name) for p in (directory / 'checkpoints').iterdir() if p.name.isdigit()
  )
  path = directory / 'checkpoints' / str(step) / 'state'
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with jax.enable_x64(True), ocp.StandardCheckpointer() as checkpointer:
    abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
      checkpointer.metadata(path).item_metadata.tree,
    )
    return step, jax.device_get(checkpointer.restore(path, abstract))


def _rows(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k != 'step_ms'} for line in lines]


def _assert_same_run(mine, whole, *, tolerance=0.0):
  for part in ('generator', 'arms/augmented_classical'):
    (step, ours), (last, theirs) = _parameters(mine / part), _parameters(whole / part)
    assert step == last
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    a, b = _rows(mine / part), _rows(whole / part)
    assert [row['step'] for row in a] == [row['step'] for row in b]
    for x, y in zip(a, b, strict=True):
      assert x == pytest.approx(y, rel=0, abs=tolerance)
  results = [json.loads((run / 'results.json').read_text()) for run in (mine, whole)]
  chosen = [result['generator'] for result in results]
  assert chosen[0]['chosen_step'] == chosen[1]['chosen_step']
  for a, b in zip(chosen[0]['candidates'], chosen[1]['candidates'], strict=True):
    assert a == pytest.approx(b, rel=0, abs=tolerance)
  results = [result['arms']['augmented_classical'] for result in results]
  assert results[0]['eval_loss'] == pytest.approx(results[1]['eval_loss'], abs=tolerance)
  assert results[0]['confusion_matrix'] == results[1]['confusion_matrix']


def _lines(part, count):
  def reached(workdir):
    path = workdir / part / 'metrics.jsonl'
    return path.exists() and path.read_text().count('\n') >= count

  return reached


def _saving(part, step):
  """While orbax has the checkpoint of a step, or a later one, half-written."""

  def reached(workdir):
    names = (
      os.listdir(folder) if (folder := workdir / part / 'checkpoints').exists() else []
    )
    return any('tmp' in name and int(name.split('.')[0]) >= step for name in names)

  return reached


ARM = 'arms/augmented_classical'
MOMENTS = {
  'before anything': (signal.SIGKILL, lambda workdir: (workdir / 'config.json').exists()),
  'early in the GAN': (signal.SIGTERM, _lines('generator', 2)),
  'saving the finished GAN': (signal.SIGKILL, _saving('generator', 150)),
  'early in the arm': (signal.SIGTERM, _lines(ARM, 2)),
  'saving the arm': (signal.SIGKILL, _saving(ARM, 75)),
}


def test_killed_or_preempted_at_any_moment_it_ends_as_uninterrupted(launch, tmp_path):
  _finish(launch(tmp_path / 'whole'))
  workdir, killed = tmp_path / 'run', []
  for name, (kind, reached) in MOMENTS.items():
    process = launch(workdir)
    while process.poll() is None and not reached(workdir):
      time.sleep(0.001)
    process.send_signal(kind)
    if kind == signal.SIGTERM:
      (output,) = _finish(process, code=75)
      assert 'by SIGTERM; the state is saved' in output and 'Traceback' not in output
      continue
    process.communicate()
    if process.returncode == -signal.SIGKILL:
      killed.append(name)
  (output,) = _finish(launch(workdir))
  assert len(killed) >= 2, killed  # a save of milliseconds may be over before the kill
  assert 'Traceback' not in output
  _assert_same_run(workdir, tmp_path / 'whole')


def test_a_second_run_is_refused_until_the_first_ends(launch, tmp_path):
  workdir = tmp_path / 'run'
  first = launch(workdir)
  while first.poll() is None and not (workdir / 'config.json').exists():
    time.sleep(0.01)
  config = (workdir / 'config.json').read_bytes()
  (said,) = _finish(launch(workdir, '--config.seed=1'), code=3)
  assert f'is in use by process {first.pid} on {socket.gethostname()}, since' in said
  assert (workdir / 'config.json').read_bytes() == config
  first.kill()  # which takes the lock with it
  first.communicate()
  third = launch(workdir)
  owner = workdir / 'run.owner'
  while third.poll() is None and f'"process": {third.pid},' not in owner.read_text():
    time.sleep(0.01)
  third.send_signal(signal.SIGTERM)
  (said,) = _finish(third, code=75)
  assert 'gan_aug_jax: SIGTERM: waiting for' in said
  assert not owner.exists()


def _free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _launch_pair(launch, workdir, *flags):
  shared = [
    f'--config.distributed.coordinator=127.0.0.1:{_free_port()}',
    '--config.distributed.num_processes=2',
    '--config.num_cpu_devices=2',
    '--config.platform=cpu',
  ]
  return [
    launch(workdir, *flags, *shared, f'--config.distributed.process_id={i}')
    for i in range(2)
  ]


SHORT = ['--config.precision=float64', '--config.generator.num_steps=40']
SHORT += ['--config.classifier.num_steps=40']
SHORT += [f'--config.{part}.save_every_steps=20' for part in ('generator', 'classifier')]


def _stop_one(launch, workdir, *flags):
  """A SIGTERM that reaches one process only stops both, at the same step."""
  pair, reached = _launch_pair(launch, workdir, *flags), _lines('generator', 1)
  while all(process.poll() is None for process in pair) and not reached(workdir):
    time.sleep(0.001)
  pair[1].send_signal(signal.SIGTERM)
  outputs = _finish(*pair, code=75)
  assert len({output.split('Stopped at step ')[1].split()[0] for output in outputs}) == 1


@pytest.mark.parametrize(
  ('backend', 'options'),
  [
    ('jit', []),
    pytest.param(
      'pmap',
      ['generator.select=frechet', 'filter.on_reject=drop'],
      marks=pytest.mark.release,
    ),
  ],
)
def test_two_processes_of_two_devices_equal_one_of_four(
  launch, tmp_path, backend, options
):
  flags = [*SHORT, f'--config.backend={backend}', *(f'--config.{o}' for o in options)]
  _finish(launch(tmp_path / 'one', *flags, '--config.num_cpu_devices=4'))
  if backend == 'jit':
    _stop_one(launch, tmp_path / 'two', *flags)
  else:
    flags += ['--config.data.placement=host']  # each process reads its own part
  first, second = _finish(*_launch_pair(launch, tmp_path / 'two', *flags))
  assert 'Report' in first and 'Report' not in second  # process 0 alone writes
  _assert_same_run(tmp_path / 'two', tmp_path / 'one', tolerance=1e-9)
