"""Generative data augmentation for image classifiers, fused into the training step.

For your own training loop: `load_generator`, `from_function`, `make_mixer`,
`load_program`, `fingerprint` and the class `Generator`. For your own generator:
`generator`, `from_loss` and the class `Family`. They are imported when first used, so
that `import gan_aug_jax` does not wait for JAX.
"""

import importlib

__version__ = '0.1.0'

_MODULES = {
  'Family': 'generators.family',
  'Generator': 'generators.generator',
  'fingerprint': 'generators.generator',
  'from_function': 'generators.generator',
  'from_loss': 'generators.family',
  'generator': 'generators.family',
  'load_generator': 'generators.portable',
  'load_program': 'generators.portable',
  'make_mixer': 'mixer',
}
__all__ = list(_MODULES)


def __getattr__(name):
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__():
  return sorted([*globals(), *_MODULES])
