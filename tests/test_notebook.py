"""The notebook runs from top to bottom, at tiny size."""

import json

import matplotlib
import pytest

from tests.test_docs import ROOT

NOTEBOOK = json.loads((ROOT / 'examples' / 'quickstart.ipynb').read_text())


def test_stored_outputs_are_small():
  assert sum(len(json.dumps(cell.get('outputs', []))) for cell in NOTEBOOK['cells']) < 2e5


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
  matplotlib.use('agg')
  monkeypatch.chdir(ROOT)
  codes = [''.join(c['source']) for c in NOTEBOOK['cells'] if c['cell_type'] == 'code']
  codes[0] = f'GAN_STEPS, CLASSIFIER_STEPS, WORKDIR = 3, 11, {str(tmp_path / "w")!r}'
  codes[2] = codes[2].replace('*flags', "*flags, '--config.gan.width=8'")
  names = {}
  for code in codes:
    exec(code, names)
  assert [len(curve) for curve in names['curves'].values()] == [2, 2]
  assert len(names['images']) == 40
