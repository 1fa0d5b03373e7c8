"""Starts JAX as a config says; the first thing that a command does."""

from collections.abc import Sequence
import contextlib
import ctypes
import hashlib
import os
import platform
import socket

from gan_aug_jax.config import uses_float64
from gan_aug_jax.errors import ConfigError, UserError

# Enough for the programs of some hundred configs; the least recently used go first.
_MOST_CACHE_BYTES = 2**31


# JAX's own switches, from its environment, that change numbers or what a program may do.
_PINNED = {
  'jax_default_prng_impl': 'threefry2x32',
  'jax_threefry_partitionable': True,
  'jax_enable_custom_prng': False,
  'jax_legacy_prng_key': 'allow',
  'jax_random_seed_offset': 0,
  'jax_default_matmul_precision': None,
  'jax_default_device': None,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_numpy_rank_promotion': 'allow',
  'jax_transfer_guard': 'allow',
  'jax_disable_jit': False,
  'jax_debug_nans': False,
  'jax_debug_infs': False,
  'jax_debug_key_reuse': False,
  'jax_check_tracer_leaks': False,
}


class DeviceError(UserError):
  """A platform or a number of devices that this machine does not have."""


def start(config) -> list:
  """Configures JAX and returns the devices to run on.

  Must come before the first use of JAX. A CPU host is one device, unless the config sets
  `num_cpu_devices`.

  Args:
    config: a validated config.

  Returns:
    A list of devices.

  Raises:
    DeviceError: if the config's platform is absent; there is no silent fallback.
  """
  num_cpu_devices = config.num_cpu_devices or 1
  if num_cpu_devices > 1:
    # XLA sizes its CPU thread pool by NPROC. With as few threads as devices, collectives
    # wait for each other forever; with more threads than cores one device is slower.
    os.environ.setdefault('NPROC', str(max(4 * num_cpu_devices, os.cpu_count() or 1)))
  if config.platform in ('', 'cpu'):
    keep_freed_memory()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  import jax

  if config.platform:
    platforms = {'gpu': 'cuda'}.get(config.platform, config.platform)
    jax.config.update('jax_platforms', platforms)
  for name, value in _PINNED.items():
    jax.config.update(name, value)
  jax.config.update('jax_enable_x64', uses_float64(config))
  if config.matmul_precision == 'highest':
    jax.config.update('jax_default_matmul_precision', 'highest')
  if config.compilation_cache:
    _keep_compiled_programs(jax)
  # Too late where JAX runs already, as in a test or a notebook.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', num_cpu_devices)
  _join_processes(jax, config.distributed)
  devices = _find(jax, config.platform)
  if devices[0].platform == 'cpu' and jax.process_count() == 1:
    if len(devices) < config.num_cpu_devices:
      raise DeviceError(
        f'num_cpu_devices={config.num_cpu_devices} was asked for, but JAX already runs '
        f'with {len(devices)}; set it before JAX is first used.'
      )
    devices = devices[:num_cpu_devices]
  return devices


def check_batches(config, num_devices: int, parts: Sequence[str]) -> None:
  """Checks that batches can be divided among the devices.

  Args:
    parts: what is trained, 'generator' or 'classifier'.

  Raises:
    ConfigError: if one cannot.
  """
  for part in parts:
    batch_size = config[part].batch_size
    if batch_size % num_devices:
      raise ConfigError(
        f'{part}.batch_size={batch_size} must be a multiple of the {num_devices} devices.'
      )


def compiler_options(config, devices: list) -> dict:
  """XLA's options for the programs of a run, see `sharding.Layout.compiler_options`.

  Args:
    config: a validated config.
    devices: from `start`.
  """
  if config.deterministic and devices[0].platform == 'gpu':
    # Leaves out kernels that add in any order, and does not choose among the others by
    # their speed, which differs from one compilation to the next.
    return {'xla_gpu_deterministic_ops': True}
  return {}


def keep_freed_memory() -> None:
  """Makes the C library keep large freed blocks, if it is glibc.

  XLA on CPU allocates the temporaries of every call anew. By default such large blocks
  come from the kernel and go back to it, and clearing each page at its first touch takes
  a fifth of a training step.
  """
  most = 2**31 - 1
  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, and M_ARENA_MAX, because the arenas of
  # threads hold 64 MiB at most and leave larger blocks to the kernel.
  options = {-1: most, -3: most, -8: 1}
  with contextlib.suppress(OSError, AttributeError, TypeError):
    libc = ctypes.CDLL(None)
    for option, value in options.items():
      libc.mallopt(option, value)


def _find(jax, asked):
  """All devices, of the config's platform if it names one."""
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # it asserts without CUDA's plugin
    lines = str(error).strip().splitlines()
    if not asked:
      reason = f': {lines[0].removesuffix(".")}' if lines else ''
      if platforms := jax.config.jax_platforms:
        reason = f' of JAX_PLATFORMS={platforms}; unset it to use what there is'
      raise DeviceError(f'JAX finds no device{reason}.') from None
    devices = []
  if not devices or (asked and devices[0].platform != asked):
    raise DeviceError(
      f'platform={asked!r} was asked for, but JAX finds no such device; install this '
      "package's extra 'cuda' or 'tpu', or leave --config.platform out."
    )
  return devices


def cache_directory() -> str | None:
  """The folder of the user's cache for what other runs can reuse; None without a home."""
  for place in (os.environ.get('XDG_CACHE_HOME', ''), '~/.cache'):
    place = os.path.expanduser(place)
    if os.path.isabs(place):  # the XDG specification has others ignored
      return os.path.join(place, 'gan_aug_jax')
  return None


def _keep_compiled_programs(jax):
  """Persistent compilation cache, unless JAX_COMPILATION_CACHE_DIR names one already."""
  if named := jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(named))
    return
  if not (home := cache_directory()):
    return
  # A program compiled for one kind of CPU may use instructions that another lacks.
  kind = platform.machine() + platform.processor()
  with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
    kind += next((line for line in file if line.startswith('flags')), '')
  kind = hashlib.sha256(kind.encode()).hexdigest()[:8]
  directory = os.path.join(home, f'programs-{kind}')
  with contextlib.suppress(OSError):
    os.makedirs(directory, exist_ok=True)
    if not os.access(directory, os.W_OK):
      return
    jax.config.update('jax_compilation_cache_dir', directory)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
    jax.config.update('jax_compilation_cache_max_size', _MOST_CACHE_BYTES)
    # The results of autotuning a GPU's kernels go to a folder inside, unless the user's
    # XLA_FLAGS, which JAX would override, name another.
    flag = 'xla_gpu_per_fusion_autotune_cache_dir'
    kept = '' if flag in os.environ.get('XLA_FLAGS', '') else flag
    jax.config.update('jax_persistent_cache_enable_xla_caches', kept)


def _join_processes(jax, distributed):
  """Joins the other processes of the run, if there are any."""
  if not (distributed.auto or distributed.coordinator):
    return
  # The only collectives between processes that JAX has on CPU hosts.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  arguments = {}
  if distributed.coordinator:
    if distributed.process_id == 0:
      _check_port(distributed.coordinator)
    arguments = {
      'coordinator_address': distributed.coordinator,
      'num_processes': distributed.num_processes,
      'process_id': distributed.process_id,
    }
  try:
    jax.distributed.initialize(**arguments)
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0].removesuffix('.')
    raise DeviceError(
      f'The processes of the run cannot be joined ({reason}); give each the same '
      '--config.distributed.coordinator=host:port and num_processes, and its process_id.'
    ) from None


def _check_port(coordinator):
  """Refuses a port that is in use, at which JAX would crash without a message."""
  port = int(coordinator.rpartition(':')[2])
  try:
    with socket.socket(socket.AF_INET) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(('', port))
  except (OSError, OverflowError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise DeviceError(
      f'Port {port} of distributed.coordinator={coordinator!r} is not available '
      f'({reason}); give all processes another one.'
    ) from None
