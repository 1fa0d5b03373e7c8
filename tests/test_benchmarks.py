"""The command that measures everything on a fresh accelerator host, rehearsed."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import accelerator

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
  parts = [_part('step', tmp_path, 'hangs'), _part('options', tmp_path, 'out of memory')]
  parts += [accelerator.Part('torch', tmp_path, [], 'torch is missing')]
  accelerator.run_all(parts, tmp_path, 8)
  done = json.loads((tmp_path / 'results.json').read_text())['parts']
  assert done['step']['why'] == 'stopped after 2 s' and len(done['step']['results']) == 1
  assert done['options']['why'] == 'exit code 1'
  assert done['options']['said'] == ['out of memory']
  assert done['torch']['why'] == 'torch is missing'
  table = (tmp_path / 'table.md').read_text()
  assert table.count('500 µs (400 to 600)') == 2 and 'torch is missing' in table


@pytest.mark.release  # processes of its own that compile a dozen steps
def test_the_parts_measure_on_a_cpu(tmp_path):
  tiny = ['--rounds=1', '--steps=2', '--ratios=0.5', '--large=16', '--calls=1,2']
  tiny += ['--side=8', '--config.data.image_size=8', '--config.steps_per_call=2']
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
  assert len(groups) == 6 and len(groups['by ratio']) == 4
  assert all(row['ms'] > 0 for rows in groups.values() for row in rows.values())
  assert not done['options']['results'][0]['refused']
