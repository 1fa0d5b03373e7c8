"""Code of the user's own, named as 'module:name'."""

import sys

import pytest

from gan_aug_jax import external
from gan_aug_jax.errors import ConfigError


@pytest.fixture
def project(tmp_path, monkeypatch):
  """Returns `write(file, source)`, of modules that can be imported."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  before = set(sys.modules)

  def write(file, source):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)

  yield write
  for name in set(sys.modules) - before:
    del sys.modules[name]


def test_a_fingerprint_covers_what_is_imported_from_nearby_and_nothing_else(project):
  project('its_net.py', 'from its_parts import a\nimport numpy, its_other\nNet = a.Net')
  project('its_parts/__init__.py', '')
  project('its_parts/a.py', 'from . import b\nfrom .b import WIDTH\nclass Net: ...')
  project('its_parts/b.py', 'WIDTH = 3')
  project('its_other.py', '')
  project('unrelated.py', '')
  external.load('classifier.arch', 'its_net:Net', trusted=True)
  first = external.fingerprint('its_net:Net')
  assert len(first) == 16
  project('unrelated.py', 'changed = 1')
  assert external.fingerprint('its_net:Net') == first
  seen = {first}
  for file in ('its_net.py', 'its_parts/b.py', 'its_other.py', 'its_parts/__init__.py'):
    project(file, '# changed' if 'net' not in file else 'import its_parts.a, its_other')
    seen.add(external.fingerprint('its_net:Net'))
  assert len(seen) == 5


def test_a_fingerprint_leaves_this_package_out_wherever_it_is(project):
  project('its_own.py', 'from gan_aug_jax.models import layers')
  first = external.fingerprint('its_own:x')
  project('gan_aug_jax/models/layers.py', '# a checkout next to the file')
  assert external.fingerprint('its_own:x') == first


def test_a_fingerprint_follows_a_linked_package(project, tmp_path):
  project('its_real/net.py', 'from its_link import helper')
  project('its_real/helper.py', '')
  (tmp_path / 'its_link').symlink_to('its_real')
  first = external.fingerprint('its_link.net:Net')
  project('its_real/helper.py', '# changed')
  assert external.fingerprint('its_link.net:Net') != first


def test_a_fingerprint_does_not_depend_on_what_has_run(project):
  project('its_lazy.py', 'def make():\n  import its_late\n  return its_late.X')
  project('its_late.py', 'X = 1')
  make = external.load('classifier.arch', 'its_lazy:make', trusted=True)
  before = external.fingerprint('its_lazy:make')
  assert make() == 1 and external.fingerprint('its_lazy:make') == before
  project('its_late.py', 'X = 2')
  assert external.fingerprint('its_lazy:make') != before


def test_a_fingerprint_imports_nothing(project):
  project('its_evil/__init__.py', 'raise KeyboardInterrupt')
  project('its_evil/net.py', 'raise KeyboardInterrupt')
  first = external.fingerprint('its_evil.net:Net')
  project('its_evil/net.py', '# changed')
  assert len(first) == 16 and external.fingerprint('its_evil.net:Net') != first
  last = external.fingerprint('its_evil.net:Net')
  project('its_evil/__init__.py', '# changed')
  assert external.fingerprint('its_evil.net:Net') != last
  assert external.fingerprint('its_evil.no_such_module:x') == 'unknown'
  assert external.fingerprint('its_evil.net.Net:x') == 'unknown'
  project('its_space/deep/net.py', 'raise KeyboardInterrupt')  # no packages
  assert len(external.fingerprint('its_space.deep.net:Net')) == 16
  project('its_evil/net.py', 'not Python')
  assert len(external.fingerprint('its_evil.net:Net')) == 16


def test_what_cannot_be_imported_is_one_sentence(project):
  project('broken.py', 'raise SystemExit(3)')
  for name, why in (
    ('no_such_module:x', "No module named 'no_such_module'"),
    ('sys:no_such_name', 'no_such_name'),
    ('broken:x', 'SystemExit'),
  ):
    with pytest.raises(ConfigError, match=why) as caught:
      external.load('classifier.arch', name, trusted=True)
    assert str(caught.value).startswith(f'classifier.arch={name!r} cannot be imported')


def test_without_trust_nothing_is_imported(project):
  project('evil.py', 'raise KeyboardInterrupt')
  with pytest.raises(ConfigError, match='--trust-code'):
    external.load('classifier.arch', 'evil:x', trusted=False)
