"""Eight virtual CPU devices, asked for before JAX starts, and tiny shared fixtures."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ['NPROC'] = '32'  # more threads than devices, or collectives deadlock
# One cache for every process of this run of the suite, and never the user's.
if 'GAN_AUG_JAX_TEST_CACHE' not in os.environ:
  os.environ['GAN_AUG_JAX_TEST_CACHE'] = tempfile.mkdtemp(prefix='gan-aug-jax-tests-')
  atexit.register(shutil.rmtree, os.environ['GAN_AUG_JAX_TEST_CACHE'], True)
os.environ['XDG_CACHE_HOME'] = os.environ['GAN_AUG_JAX_TEST_CACHE']
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.environ['GAN_AUG_JAX_TEST_CACHE'] + '/xla'
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.05'
# Most of the time of tiny models is compilation; real runs optimize. XLA's older way to
# compile fusions takes a third of the time of its newer one; later releases of XLA have
# lost it and end the process at a flag they do not know.
optimized = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') == '0'
if not optimized and importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_use_fusion_emitters=false'
  )

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.devices()  # now, or a run in the first test would start JAX with fewer

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from gan_aug_jax.data import datasets  # noqa: E402
from gan_aug_jax.evaluation import figures  # noqa: E402


def make_dataset(num_classes=3, per_class=12, size=8, channels=1, seed=0):
  """Noisy images whose class shows in their brightness: separable by anything."""
  rng = np.random.default_rng(seed)

  def split(count):
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), count)
    level = 40 + 160 * labels / max(num_classes - 1, 1)
    noise = rng.normal(0, 20, (len(labels), size, size, channels))
    images = np.clip(level[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    return datasets.Split(images, labels)

  names = tuple('abcdefghij'[:num_classes])
  return datasets.Dataset('toy', names, split(per_class), split(4), split(6))


def pytest_collection_modifyitems(items):
  """Puts the slowest files first, so that the last tests are short for every worker."""
  slowest = ('test_processes.py', 'test_run.py', 'test_ablation.py')
  items.sort(key=lambda item: item.path.name not in slowest)


@pytest.fixture(scope='session')
def toy():
  return make_dataset()


@pytest.fixture
def no_pictures(monkeypatch):
  """Draws no figure: the dozen of a report take 2 to 4 CPU seconds."""
  monkeypatch.setattr(figures, '_png', lambda figure: b'no picture')
