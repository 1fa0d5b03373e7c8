"""What an ablation compares: arms, their controls, and the config of each cell.

A cell is one classifier: an arm at a point of the grid, trained with one seed. Nothing
here is run; `cells.py` does that.
"""

import dataclasses
import itertools
import re

from gan_aug_jax import config as config_lib, policies, validation
from gan_aug_jax.errors import ConfigError

CONTROLS = ('real_only', 'real_classical')
TREATMENT = 'augmented_classical'
PLACEBOS = ('noise', 'mislabelled')
# What an arm may change: the controls would have to change with it otherwise.
_OF_ARMS = ('arms', 'mix.', 'sampler.', 'gan.', 'augment.')
_OF_ARMS += ('classifier.budget', 'classifier.batch_norm')
_OF_CONTROLS = ('arms', 'classifier.', 'augment.')
# Fields that a real-only classifier does not hang on.
_OF_SYNTHESIS = ('mix.', 'sampler.', 'gan.')


@dataclasses.dataclass(frozen=True)
class Arm:
  """An arm at a point of the grid, to be trained with every seed.

  Attributes:
    setting: the point of the grid, 'per_class=25', or '' without a grid.
    name: of the arm; unique in its setting.
    role: 'treatment', 'control' or 'placebo'.
    fields: {dotted field: value}, what differs from the ablation's base config.
    same_steps: of a treatment or placebo, the control that takes as many steps.
    same_exposure: the control that sees as many real images.
    same_compute: the control that has as many operations, the GAN's included; or ''.
  """

  setting: str
  name: str
  role: str
  fields: dict
  same_steps: str = ''
  same_exposure: str = ''
  same_compute: str = ''

  def cell(self, seed):
    """The name of its cell of a seed."""
    return ','.join(filter(None, (self.setting, self.name, f'seed={seed}')))


def config_of(base, arm, seed):
  """The config of a cell.

  Args:
    base: from `config.base_of`.
    arm: an `Arm`.
    seed: of the cell.
  """
  config = base.copy_and_resolve_references()
  config.update_from_flattened_dict({**arm.fields, 'seed': seed, 'duration': ''})
  return config


def arms_of(config, size_of, operations_of):
  """The arms of an ablation, controls first in each setting.

  Args:
    config: with its ablation.
    size_of: `config -> int`, the training images of a config without ablation.
    operations_of: `config -> {'gan', 'step', 'real_step'}`, operations of a GAN's
      training, and of a step of the classifier with and without synthesis; asked only
      where `ablation.equal_compute`.

  Raises:
    ConfigError: if a field, an arm or a combination of them cannot work.
  """
  _validate(config)
  base, spec = config_lib.base_of(config), config.ablation
  arms = []
  for setting, point in _settings(spec.grid):
    arms += _arms_of_setting(base, spec, setting, point, size_of, operations_of)
  return arms


def _settings(grid):
  """(name, fields) of every point of the grid."""
  short = {field: field.rpartition('.')[2] for field in grid}
  for values in itertools.product(*grid.values()):
    point = dict(zip(grid, values, strict=True))
    yield ','.join(f'{short[field]}={value}' for field, value in point.items()), point


def _arms_of_setting(base, spec, setting, point, size_of, operations_of):
  controls, treatments = {}, []
  of_real = {f: v for f, v in point.items() if not f.startswith(_OF_SYNTHESIS)}

  def control(kind, num_steps):
    """Name of the control of that many steps, made where it is missing."""
    for name, arm in controls.items():
      if arm.fields['arms'] == (kind,) and steps[name] == num_steps:
        return name
    name = kind if kind not in controls else f'{kind}_{num_steps}_steps'
    fields = {**of_real, 'arms': (kind,)}
    if num_steps != normal:
      fields['classifier.num_steps'] = num_steps
    controls[name], steps[name] = Arm(setting, name, 'control', fields), num_steps
    return name

  example = _with(base, {**of_real, 'arms': (spec.control,)})
  size, steps = size_of(example), {}
  normal = policies.num_steps_of_arm(example, size, synthetic=False)
  for kind in CONTROLS:
    control(kind, normal)
  for name, fields in spec.controls.items():
    fields = {**of_real, 'arms': (spec.control,), **fields}
    controls[name] = Arm(setting, name, 'control', fields)
    steps[name] = 0  # it never stands in for one of the others
  arms = spec.arms or {TREATMENT: {}}
  wanted = {name: (fields, 'treatment') for name, fields in arms.items()}
  wanted |= {name: ({'sampler.source': name}, 'placebo') for name in spec.placebos}
  for name, (fields, role) in wanted.items():
    fields = {'arms': (TREATMENT,), **point, **fields}
    config = _with(base, fields)
    num_steps = policies.num_steps_of_arm(config, size, synthetic=True)
    plan, _ = policies.make_plan(config, num_steps, synthetic=True)
    exposure = round(int(plan.real_before(num_steps)) / config.classifier.batch_size)
    compute = ''
    if spec.equal_compute and role == 'treatment':
      needed = operations_of(config)
      total = needed['gan'] + num_steps * needed['step']
      compute = control(spec.control, round(total / needed['real_step']))
    treatments.append(
      Arm(
        setting,
        name,
        role,
        fields,
        same_steps=control(spec.control, num_steps),
        same_exposure=control(spec.control, max(1, exposure)),
        same_compute=compute,
      )
    )
  return [*controls.values(), *treatments]


def _with(base, fields):
  config = base.copy_and_resolve_references()
  config.update_from_flattened_dict(fields)
  return config


def _validate(config):
  """Refuses what cannot work before anything is computed."""
  if 'ablation' not in config:
    raise ConfigError(
      'The config has no ablation; start from one in configs/ablations/, or set '
      'config.ablation = gan_aug_jax.config.ablation().'
    )
  base, spec = config_lib.base_of(config), config.ablation
  unknown = set(spec) - set(config_lib.ablation())
  if unknown:
    raise ConfigError(f'There is no config field ablation.{min(unknown)}.')
  _validate_seeds(spec.seeds)
  if spec.control not in CONTROLS:
    raise ConfigError(f'ablation.control={spec.control!r} must be one of {CONTROLS}.')
  if not set(spec.placebos) <= set(PLACEBOS):
    raise ConfigError(f'ablation.placebos={spec.placebos!r} must be some of {PLACEBOS}.')
  if spec.vmap_seeds and base.sampler.checkpoints:
    raise ConfigError(
      'ablation.vmap_seeds needs one generator; unset sampler.checkpoints.'
    )
  _validate_names(spec)
  for _, point in _settings(spec.grid):
    for name, fields in {'': {}, **spec.arms, **spec.controls}.items():
      where = f'ablation.{"arms" if name in spec.arms else "controls"}[{name!r}]'
      changed = _checked(base, {**point, **fields}, where if name else 'ablation.grid')
      validation.validate(changed)
      if spec.vmap_seeds and changed.sampler.refresh_every > 1:
        raise ConfigError('ablation.vmap_seeds does not go with sampler.refresh_every.')


def _validate_seeds(seeds):
  whole = all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
  if not seeds or not whole or len(set(seeds)) < len(seeds):
    raise ConfigError(
      f'ablation.seeds={seeds!r} must be whole numbers of at least 0, each once, such as '
      '(0, 1, 2).'
    )


def _validate_names(spec):
  for group, allowed in (('arms', _OF_ARMS), ('controls', _OF_CONTROLS)):
    for name, fields in spec[group].items():
      where = f'ablation.{group}[{name!r}]'
      if not re.fullmatch(r'[\w.+=-]{1,60}', name):
        raise ConfigError(f'{where}: a name has letters, digits and _.+=- only.')
      taken = {*CONTROLS, *spec.placebos, *(spec.arms if group == 'controls' else ())}
      if name in taken:
        raise ConfigError(f'{where}: there is another arm of that name.')
      for field in fields:
        if not field.startswith(allowed):
          raise ConfigError(
            f'{where} changes {field}, which its control would not; put it into the base '
            'config or into ablation.grid.'
          )
  for field, values in spec.grid.items():
    if field == 'seed' or field.endswith('.seed') or field == 'arms':
      raise ConfigError(
        f'ablation.grid has {field}; see ablation.seeds and .arms instead.'
      )
    if not isinstance(values, tuple | list) or not values:
      raise ConfigError(f'ablation.grid[{field!r}]={values!r} must be a tuple of values.')


def _checked(base, fields, where):
  """The config with some fields changed, or a ConfigError that says where."""
  known = config_lib.flatten(base)
  for field, value in fields.items():
    if field not in known:
      raise ConfigError(f'{where}: there is no config field {field!r}.')
    try:
      _with(base, {field: value})
    except (TypeError, ValueError) as error:
      raise ConfigError(f'{where}: {field}={value!r} does not fit: {error}') from None
  return _with(base, fields)
