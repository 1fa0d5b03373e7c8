"""What a user sees: quiet on stderr, plain lines in a pipe, and where to look last."""

import contextlib
import io
import json
import logging
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest

from gan_aug_jax import cli, logs
from gan_aug_jax.generators import candidates
from gan_aug_jax.report import tables
from gan_aug_jax.training import progress
from tests.test_bad_input import CONFIG, original  # noqa: F401  a fixture

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def copy(original, tmp_path):  # noqa: F811
  return shutil.copytree(original.done, tmp_path / 'copy')


def test_the_last_line_says_where_the_report_is(original, copy, capfd):  # noqa: F811
  for command in ('run', 'report'):
    flags = [f'--config={original.config}'] if command == 'run' else []
    assert cli.main(['gan_aug_jax', command, *flags, f'--workdir={copy}']) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == f'Report: {copy / "report.html"}'
    assert captured.err == ''


def test_what_went_wrong_in_the_gan_is_said_first(original, copy, capfd):  # noqa: F811
  path = copy / 'generator' / 'result.json'
  result = json.loads(path.read_text())
  path.write_text(json.dumps(result | {'warnings': ['it <collapsed>.']}))
  (copy / 'results.json').unlink()
  flags = [f'--config={original.config}', f'--workdir={copy}']
  assert cli.main(['gan_aug_jax', 'run', *flags]) == 0
  described, rest = capfd.readouterr().out.split(
    "The generator's training: it <collapsed>.\n"
  )
  assert 'test accuracy' in rest and 'test accuracy' not in described
  page = (copy / 'report.html').read_text()
  warning = page.index(
    '<p class="warning">The generator&#39;s training: it &lt;collapsed'
  )
  assert page.index('</style>') < warning < page.index('augmented vs. real_only')


@pytest.mark.slow  # a whole run
def test_a_gan_that_collapses_after_the_chosen_checkpoint_is_reported(
  original,  # noqa: F811
  tmp_path,
  monkeypatch,
  capfd,
):
  scores = iter(
    {'diversity': diversity, 'cas': cas, 'cas_loss': 1.0}
    for diversity, cas in ((0.9, 0.8), (0.1, 0.5), (0.2, 0.5), (0.05, 0.5))
  )
  monkeypatch.setattr(candidates.Scores, '__call__', lambda *_, **__: next(scores))
  flags = [f'--config={original.config}', f'--workdir={tmp_path / "w"}']
  flags += ['--config.generator.select=cas', '--config.generator.save_every_steps=1']
  assert cli.main(['gan_aug_jax', 'train-generator', *flags]) == 0
  result = json.loads((tmp_path / 'w' / 'generator' / 'result.json').read_text())
  (warning,) = result['warnings']
  assert result['chosen_step'] == 1
  assert warning.startswith('at 3 checkpoints from step 2 to 4 the images of a class')
  assert f"The generator's training: {warning}\nSamples: " in capfd.readouterr().out


def _start(file, workdir, *flags):
  """A run in a fresh process and session, with its output in a file, as under nohup."""
  command = [sys.executable, '-m', 'gan_aug_jax', 'run', f'--config={file}']
  with open(workdir.with_suffix('.log'), 'w') as log:
    return subprocess.Popen(
      ['nohup', *command, f'--workdir={workdir}', *flags],
      cwd=ROOT,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )


@pytest.mark.slow  # processes that run and wait
def test_a_run_under_nohup_is_quiet_stops_by_ctrl_c_and_goes_on(
  original,  # noqa: F811
  tmp_path,
):
  """Hung up, interrupted, and started again: plain lines, and nothing on stderr."""
  file, workdir = tmp_path / 'long.py', tmp_path / 'run'
  file.write_text(CONFIG.format(npz=str(original.npz)))
  flags = ["--config.arms=('real_only',)", '--config.classifier.num_steps=3000']
  flags += ['--config.log.every_steps=50']
  process = _start(file, workdir, *flags)
  lines = workdir / 'arms' / 'real_only' / 'metrics.jsonl'
  while process.poll() is None and not (lines.exists() and lines.stat().st_size):
    time.sleep(0.01)
  process.send_signal(signal.SIGHUP)
  process.send_signal(signal.SIGINT)
  said = process.communicate(timeout=120)[1]
  assert process.returncode == 75, said
  waits, stopped = said.splitlines()
  assert waits == (
    'gan_aug_jax: SIGINT: waiting for the step in progress, to save the state.'
  )
  assert stopped.startswith('gan_aug_jax: Stopped at step') and 'by SIGINT' in stopped
  assert 'run the same command to continue' in stopped
  process = _start(file, workdir, *flags, '--verbose')
  said = process.communicate(timeout=120)[1]
  assert process.returncode == 0, said
  assert 'absl: ' in said  # what orbax does, as it was asked for
  shown = workdir.with_suffix('.log').read_text()
  assert 'resumed at step' in shown and '\r' not in shown and '\x1b' not in shown
  assert shown.splitlines()[-1] == f'Report: {workdir / "report.html"}'


@pytest.mark.slow
def test_a_terminal_that_closes_saves(original, tmp_path):  # noqa: F811
  file, workdir = tmp_path / 'long.py', tmp_path / 'run'
  file.write_text(CONFIG.format(npz=str(original.npz)))
  flags = ["--config.arms=('real_only',)", '--config.classifier.num_steps=300000']
  flags += ['--config.log.every_steps=50', '--config.classifier.save_every_steps=300000']
  command = [sys.executable, '-m', 'gan_aug_jax', 'run', f'--config={file}']
  terminal, inside = pty.openpty()
  process = subprocess.Popen(
    ['setsid', '--ctty', *command, f'--workdir={workdir}', *flags],
    cwd=ROOT,
    stdin=inside,
    stdout=inside,
    stderr=inside,
    # The suite itself may run under nohup.
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
  )
  os.close(inside)
  lines = workdir / 'arms' / 'real_only' / 'metrics.jsonl'
  while process.poll() is None and not (lines.exists() and lines.stat().st_size):
    time.sleep(0.01)
  os.close(terminal)
  assert process.wait(timeout=120) == 75
  saved = list(lines.with_name('checkpoints').iterdir())
  assert len(saved) == 1 and 0 < int(saved[0].name) < 300000


def test_a_reader_that_leaves_is_no_traceback(copy):
  command = [sys.executable, '-m', 'gan_aug_jax', 'report', f'--workdir={copy}']
  read, write = os.pipe()
  os.close(read)
  process = subprocess.run(
    command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT
  )
  os.close(write)
  closed = 'gan_aug_jax: The output was closed early; run the same command again.\n'
  assert (process.returncode, process.stderr) in [(0, ''), (3, closed)]


def test_usage_errors_do_not_wait_for_jax_and_importing_the_commands_does_not_start_it():
  code = """
import sys
from gan_aug_jax import cli
assert cli.main(['gan_aug_jax', 'run']) == 2 and 'jax' not in sys.modules
import gan_aug_jax.cli.commands
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


class _Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize('columns', [80, 160])
def test_the_table_fits_the_terminal(copy, columns, monkeypatch):
  monkeypatch.setenv('COLUMNS', str(columns))
  results, screen = json.loads((copy / 'results.json').read_text()), _Terminal()
  with contextlib.redirect_stdout(screen):
    tables.print_results(results)
  shown = re.sub(r'\x1b\[[\d;]*m', '', screen.getvalue())
  rows = [line for line in shown.splitlines() if '\u2502' in line]
  assert all(len(line) <= columns for line in rows)
  # None of a row's cells goes on in the next one, and no table is wider than seven.
  assert len(rows) == len(results['arms']) and '%' in rows[0]
  assert all(line.count('\u2502') <= 8 for line in rows)


def _log_all():
  for name in ('absl', 'jax._src.x', 'orbax', 'tensorflow_datasets', 'gan_aug_jax'):
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
      logging.getLogger(name).log(level, '%s %d', name, level)
  warnings.warn('deprecated', DeprecationWarning, stacklevel=1)


@pytest.mark.parametrize('verbose', [False, True])
def test_dependencies_are_quiet_unless_they_are_asked_for(verbose, capsys):
  levels = [logging.getLogger(name).level for name in ('', 'absl', 'gan_aug_jax')]
  with logs.shown(verbose), warnings.catch_warnings(record=True) as caught:
    _log_all()
  shown = capsys.readouterr().err.splitlines()
  assert 'gan_aug_jax: gan_aug_jax 30' in shown
  assert ('jax._src.x: jax._src.x 30' in shown) == verbose
  assert ('orbax: orbax 20' in shown) == verbose
  assert 'tensorflow_datasets: tensorflow_datasets 40' in shown
  assert bool(caught) == verbose
  after = [logging.getLogger(name).level for name in ('', 'absl', 'gan_aug_jax')]
  assert after == levels  # and the next command in this process begins anew


def test_the_time_left_of_a_run_counts_the_parts_to_come(monkeypatch, capsys):
  clock = [0.0]
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: clock[0])
  with progress.whole({'first': 1.0, 'second': 3.0}):
    for name, seconds in (('first', 20), ('second', 60)):
      with progress.part(name), progress.ProgressBar(name, 10) as bar:
        for step in range(1, 11):
          clock[0] += seconds / 10
          bar.advance(step)
          bar.update(step)
  lines = capsys.readouterr().out.splitlines()
  assert '(part 1 of 2, about 1 min 00 s left)' in lines[1]  # 20 s, of a quarter of it
  assert lines[-1].endswith('0 s left (part 2 of 2, about 0 s left)')


def test_finished_cells_are_counted_and_an_interrupted_one_is_not():
  with progress.whole({'x': 1.0, 'y': 1.0, 'gan': 5.0}, counted=('x', 'y')):
    with progress.part('x'), progress.part('gan'):
      pass
    with pytest.raises(KeyError), progress.part('y'):
      raise KeyError
    assert progress._whole.describe() == '1 of 2 cells finished'
    assert set(progress._whole.work) == {'y'}
