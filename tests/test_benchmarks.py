"""What the benchmarks refuse, and the command for an accelerator host, rehearsed."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from benchmarks import accelerator, flat_updates, generators, timing
from tests import tiny

_ROOT = pathlib.Path(__file__).parent.parent
# Writes a result as a part does, then ends as its last argument says.
_PART = """
import json, pathlib, subprocess, sys, time
rows = {'a': {'ms': 0.5, 'quartiles': [0.4, 0.6], 'added_ms': 0.0, 'ratio': 1.0}}
pathlib.Path(sys.argv[1]).write_text(json.dumps({'groups': {'by ratio': rows}}))
if sys.argv[2] == 'hangs':
  subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])
sys.exit(sys.argv[2])
"""


def _part(name, out, end):
  part = accelerator.Part(name, out, [])
  return accelerator.Part(
    name, out, [[sys.executable, '-c', _PART, str(part.output()), end]]
  )


def test_parts_that_hang_fail_or_cannot_run_lose_nothing(tmp_path):
  parts = [_part('options', tmp_path, 'hangs'), _part('step', tmp_path, 'out of memory')]
  # What comes after it in a part is of no use, and must not hide why.
  parts[0] = dataclasses.replace(parts[0], commands=2 * parts[0].commands)
  parts += [accelerator.Part('torch', tmp_path, [], 'torch is missing')]
  accelerator.run_all(parts, tmp_path, 8)
  done = json.loads((tmp_path / 'results.json').read_text())['parts']
  assert done['options']['why'] == 'stopped after 2 s'
  assert len(done['options']['results']) == 1
  assert done['step']['why'] == 'exit code 1'
  assert done['step']['said'] == ['out of memory']
  assert done['torch']['why'] == 'torch is missing'
  table = (tmp_path / 'table.md').read_text()
  assert table.count('500 µs (400 to 600)') == 2 and 'torch is missing' in table


@pytest.mark.parametrize(
  ('benchmark', 'field', 'default'),
  [
    ('layers', "gan.upsampling='subpixel'", "'transposed'"),
    ('vs_torch', 'gan.r1=1.0', '0.0'),
    ('vs_torch', 'filter.candidates=2', '1'),
  ],
)
def test_what_a_benchmark_would_leave_out_is_refused(benchmark, field, default):
  argument = f'--config.{field}'.replace("'", '')
  command = [sys.executable, '-m', f'benchmarks.{benchmark}', argument]
  done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.startswith(f'{field} is not ') and done.stderr.count('\n') == 1
  assert done.stderr.endswith(f'; leave it at {default}.\n')


def test_an_empty_cache_is_empty_whatever_the_environment_names(monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'full')
  code = 'from gan_aug_jax import config; from gan_aug_jax.training import devices; '
  code += 'devices.start(config.default()); import jax; '
  code += 'print(jax.config.jax_compilation_cache_dir)'
  environment = timing.environment_with_cache(tmp_path)
  command = [sys.executable, '-c', code]
  used = subprocess.check_output(command, cwd=_ROOT, env=environment, text=True)
  assert used.startswith(str(tmp_path))


def test_scores_are_kept_until_the_generator_or_its_config_changes(tmp_path):
  config, generator, scores = 'config.json', 'generator/result.json', 'score/scores.json'

  def is_scored_after(*written):
    for name in written:
      path = tmp_path / name
      path.parent.mkdir(exist_ok=True)
      path.touch()
      os.utime(path, (next(seconds),) * 2)
    return generators.is_scored(tmp_path)

  seconds = itertools.count()
  assert not is_scored_after(config, generator)
  assert is_scored_after(scores)
  assert not is_scored_after(config)
  assert is_scored_after(scores)
  assert not is_scored_after(generator)


def test_a_flat_update_gives_the_same_bits():
  rate, ends = optax.linear_schedule(0.3, 0.1, 3), []
  start = {'a': np.float32([[0.1, -0.7], [2.3, 0.4]]), 'b': {'c': np.float32([1.9])}}
  for tx in (optax.sgd(rate, 0.9), flat_updates.make_sgd(rate, 3)):
    params, state = start, tx.init(start)
    for _ in range(3):
      grads = jax.tree.map(lambda x: 0.3 * x - 0.1, params)
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    ends.append(params)
  assert tiny.difference(*ends) == 0 and tiny.difference(start, ends[0]) > 0.1


# The command with a single part, which writes a result and its process id, and hangs.
_COMMAND = """
import pathlib, sys
from benchmarks import accelerator
path, part, end = pathlib.Path(sys.argv[1].partition('=')[2], 'pid'), {!r}, {!r}
code = f'import os, pathlib; pathlib.Path({{str(path)!r}}).write_text(str(os.getpid()))'
def list_parts(out, scratch):
  output = accelerator.Part('step', scratch, []).output()
  command = [sys.executable, '-c', code + part, str(output), end]
  return [accelerator.Part('step', scratch, [command])]
accelerator.list_parts, accelerator._EVERY = list_parts, 0.2
accelerator.app.run(accelerator.main)
""".format(_PART, 'hangs')


def test_a_part_ends_with_the_command_and_its_results_are_kept(tmp_path):
  """It has its own session, so it would go on, on the device of whoever comes next."""
  command = [sys.executable, '-c', _COMMAND, f'--out={tmp_path}']
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
  table = tmp_path / 'table.md'
  while not (table.exists() and '500 µs' in table.read_text()):
    assert process.poll() is None
    time.sleep(0.1)
  process.terminate()
  printed, _ = process.communicate(timeout=60)
  assert process.returncode != 0 and printed.endswith(table.read_text() + '\n')
  assert '## step (unfinished)' in printed
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / 'pid').read_text()), 0)


@pytest.mark.release  # processes of its own that compile a dozen steps
def test_the_parts_measure_on_a_cpu(tmp_path):
  tiny = ['--rounds=1', '--steps=2', '--ratios=0.5', '--large=16', '--calls=1,2']
  tiny += ['--config.data.image_size=8', '--config.steps_per_call=2']
  tiny += ['--config.classifier.batch_size=8', '--config.classifier.features=(4,4)']
  tiny += ['--config.gan.width=8', '--config.generator.batch_size=8']
  command = [sys.executable, '-m', 'benchmarks.accelerator', f'--out={tmp_path}', *tiny]
  command += ['--minutes=20', '--parts=startup,step,options,profile,ablation']
  subprocess.run(command, cwd=_ROOT, check=True)
  done = json.loads((tmp_path / 'results.json').read_text())['parts']
  assert not any(done[name]['why'] for name in ('startup', 'step', 'options', 'profile'))
  assert done['ablation']['why'] == 'no --data'
  first, again = (result['seconds'] for result in done['startup']['results'])
  assert list(first.values()) == sorted(first.values()) and first.keys() == again.keys()
  groups = done['step']['results'][0]['groups']
  assert len(groups) == 6 and len(groups['by ratio']) == 4 and len(groups['the GAN']) == 3
  assert all(row['ms'] > 0 for rows in groups.values() for row in rows.values())
  assert not done['options']['results'][0]['refused']
  files = {path.name for path in tmp_path.iterdir() if path.is_file()}  # to be fetched
  assert files == {'results.json', 'table.md', 'step.xplane.pb.gz', 'GAN.xplane.pb.gz'}
