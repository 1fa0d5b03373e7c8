"""What an ablation compares: arms, their controls, and the config of each cell.

A cell is one classifier: an arm at a point of the grid, trained with one seed. Nothing
here is run; `cells.py` does that.
"""

import dataclasses
import itertools
import re

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import schedule

CONTROLS = ('real_only', 'real_classical')
TREATMENT = 'augmented_classical'
PLACEBOS = ('noise', 'mislabelled')
# What differs between an arm and its control must be synthesis, and nothing else.
_OF_ARMS = ('arms', 'mix.', 'sampler.', 'gan.', 'augment.on')
_OF_ARMS += ('classifier.budget', 'classifier.batch_norm')
_OF_CONTROLS = ('arms', 'classifier.', 'augment.', 'data.train_on_val')
# Fields that a real-only classifier does not hang on.
_OF_SYNTHESIS = ('mix.', 'sampler.', 'gan.')


@dataclasses.dataclass(frozen=True)
class Arm:
  """An arm at a point of the grid, to be trained with every seed.

  Attributes:
    setting: the point of the grid, 'per_class=25', or '' without a grid.
    name: of the arm; unique in its setting.
    role: 'treatment'; 'placebo'; 'bound'; 'control'; 'matched', a control that is there
      to take as many steps, say, as one of the others; or 'all_labels', one that trains
      on validation images, too, by which it cannot be chosen.
    fields: {dotted field: value}, what differs from the ablation's base config.
    key: names what is trained. Settings that differ in nothing that a control hangs on
      share it.
    same_steps: of a treatment, placebo or bound, the control that takes as many steps.
    same_exposure: the control that sees as many real images, or '' where that is not
      known in advance.
    same_compute: the control that has as many operations, the GAN's included; or ''.
  """

  setting: str
  name: str
  role: str
  fields: dict
  key: str
  same_steps: str = ''
  same_exposure: str = ''
  same_compute: str = ''


def config_of(base, arm, seed):
  """The config of a cell.

  Args:
    base: from `config.base_of`.
    arm: an `Arm`.
    seed: of the cell.
  """
  return _with(base, {**arm.fields, 'seed': seed, 'duration': ''})


def arms_of(config, size_of, operations_of):
  """The arms of an ablation, controls first in each setting.

  Args:
    config: with its ablation.
    size_of: `config -> int`, the training images of a config without ablation.
    operations_of: `(config, control) -> {'gan', 'step', 'real_step'}`, operations of a
      GAN's training, and of a step of the config's arm and of its control; asked only
      where `ablation.equal_compute`.

  Raises:
    ConfigError: if a field, an arm or a combination of them cannot work.
  """
  _validate(config)
  base, spec = config_lib.base_of(config), config.ablation
  arms = []
  for setting, point in _settings(spec.grid):
    arms += _Setting(base, spec, setting, point, size_of).arms(operations_of)
  for arm in arms:
    config = _valid(base, arm.fields)
    if spec.vmap_seeds and config_lib.draws_synthetic(config):
      _check_together(config)
  return arms


def _settings(grid):
  """(name, fields) of every point of the grid."""
  for values in itertools.product(*grid.values()):
    point = dict(zip(grid, values, strict=True))
    yield _name_of(point, grid), point


def _name_of(point, grid):
  """'per_class=25'; the whole field where its last part is not enough."""
  short = [field.rpartition('.')[2] for field in grid]
  return ','.join(
    f'{last if short.count(last := field.rpartition(".")[2]) == 1 else field}={value}'
    for field, value in point.items()
  )


class _Setting:
  """Gathers the arms of one point of the grid; controls are made as they are needed."""

  def __init__(self, base, spec, setting, point, size_of):
    self.base, self.spec, self.setting, self.point = base, spec, setting, point
    self.of_real = {f: v for f, v in point.items() if not f.startswith(_OF_SYNTHESIS)}
    self.controls, self.steps = {}, {}
    example = _valid(base, {**self.of_real, 'arms': (spec.control,)})
    self.size = size_of(example)
    self.normal = schedule.num_steps_of_arm(example, self.size, synthetic=False)

  def arms(self, operations_of):
    """All of them; see `arms_of`."""
    for kind in CONTROLS:
      self._control(kind, self.normal)
    for name, fields in self.spec.controls.items():
      role = 'control'
      if fields.get('data.train_on_val'):
        role = 'all_labels'
        if 'classifier.num_epochs' not in fields:
          fields = {'classifier.num_steps': self.normal, **fields}
      self._add_control(name, role, {'arms': (self.spec.control,), **fields})
    wanted = self.spec.arms or {TREATMENT: {}}
    arms = [
      self._arm(name, 'treatment', fields, operations_of)
      for name, fields in wanted.items()
    ]
    for role, names in (('placebo', self.spec.placebos), ('bound', self.spec.bounds)):
      for name in names:
        arms.append(self._arm(name, role, {'sampler.source': name}, operations_of))
    return [*self.controls.values(), *arms]

  def _add_control(self, name, role, fields):
    fields = {**self.of_real, **fields}
    prefix = _name_of(self.of_real, self.spec.grid)
    key = ','.join(filter(None, (prefix, name)))
    self.controls[name] = Arm(self.setting, name, role, fields, key)

  def _control(self, kind, num_steps):
    """Name of the control of a kind and so many steps."""
    if num_steps == self.normal:
      name, role, fields = kind, 'control', {}
    else:
      name, role = f'{kind}_{num_steps}_steps', 'matched'
      fields = {'classifier.num_steps': num_steps}
    if name not in self.controls:
      self._add_control(name, role, {'arms': (kind,), **fields})
    return name

  def _arm(self, name, role, fields, operations_of):
    fields = {'arms': (TREATMENT,), **self.point, **fields}
    config = _valid(self.base, fields)
    draws = config_lib.draws_synthetic(config)
    # Without classical augmentation, what it is compared with has none either.
    kind = self.spec.control if config.arms == (TREATMENT,) else 'real_only'
    num_steps = schedule.num_steps_of_arm(config, self.size, synthetic=draws)
    plan = schedule.plan_batches(config, num_steps, synthetic=draws)
    matched = {'same_steps': self._control(kind, num_steps)}
    exposure = round(int(plan.real_before(num_steps)) / config.classifier.batch_size)
    if exposure and not _shows_uncounted(config):
      matched['same_exposure'] = self._control(kind, exposure)
    if self.spec.equal_compute and role == 'treatment' and draws:
      _check_countable(name, config)
      needed = operations_of(config, kind)
      total = needed['gan'] + num_steps * needed['step']
      longer = self._control(kind, round(total / needed['real_step']))
      matched['same_compute'] = longer
    key = ','.join(filter(None, (self.setting, name)))
    return Arm(self.setting, name, role, fields, key, **matched)


def _shows_uncounted(config):
  """Whether real images are shown that are not of the stream: substitutes, partners."""
  sampler, augment = config.sampler, config.augment
  if sampler.source in config_lib.BOUNDS:
    return True
  substitutes = sampler.min_confidence > 0 and sampler.on_reject == 'real'
  return substitutes or augment.mixup > 0 or augment.cutmix > 0


def _check_countable(name, config):
  """Refuses equal operations where steps of the GAN and the classifier are not all."""
  sampler = config.sampler
  others = {
    'sampler.labels': sampler.labels == 'teacher',
    'sampler.candidates': sampler.candidates > 1 and sampler.score in ('teacher', 'hard'),
    'sampler.min_confidence': sampler.min_confidence > 0,
    'sampler.offline': sampler.offline > 0,
    'sampler.checkpoints': len(sampler.checkpoints) > 0,
    'sampler.generator': bool(sampler.generator),
  }
  for field, given in others.items():
    if given:
      raise ConfigError(
        'ablation.equal_compute counts the steps of the GAN and the classifier; '
        f'{name!r} takes others by {field}.'
      )


def _check_together(config):
  """Refuses what does not go with seeds in one program."""
  if config.sampler.refresh_every > 1:
    raise ConfigError('ablation.vmap_seeds does not go with sampler.refresh_every.')
  if config.sampler.checkpoints:
    raise ConfigError('ablation.vmap_seeds does not go with sampler.checkpoints.')
  if config.data.placement == 'host':
    raise ConfigError("ablation.vmap_seeds does not go with data.placement='host'.")


def _with(base, fields):
  config = base.copy_and_resolve_references()
  config.update_from_flattened_dict(fields)
  return config


def _valid(base, fields):
  config = _with(base, fields)
  validation.validate(config)
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
  _validate_seeds(base, spec.seeds)
  if spec.control not in CONTROLS:
    raise ConfigError(f'ablation.control={spec.control!r} must be one of {CONTROLS}.')
  if not set(spec.placebos) <= set(PLACEBOS):
    raise ConfigError(f'ablation.placebos={spec.placebos!r} must be some of {PLACEBOS}.')
  if not set(spec.bounds) <= set(config_lib.BOUNDS):
    raise ConfigError(
      f'ablation.bounds={spec.bounds!r} must be some of {config_lib.BOUNDS}.'
    )
  _validate_elsewhere(base, spec)
  _validate_grid(base, spec.grid)
  _validate_arms(base, spec)


def _validate_seeds(base, seeds):
  whole = all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
  if not seeds or not whole or len(set(seeds)) < len(seeds):
    raise ConfigError(
      f'ablation.seeds={seeds!r} must be whole numbers of at least 0, each once, such as '
      '(0, 1, 2).'
    )
  for part in ('data', 'gan', 'classifier'):
    if base[part].seed != -1:
      raise ConfigError(
        f'{part}.seed={base[part].seed} would be the same under every one of '
        'ablation.seeds, which then says too little of chance; leave it at -1.'
      )


# Fields that make an arm or a control what it is, with where they belong.
_ELSEWHERE = {
  'sampler.source': 'ablation.placebos and ablation.bounds',
  'data.train_on_val': 'ablation.controls',
}


def _validate_elsewhere(base, spec):
  """Refuses what would pass a bound, or a control with more labels, off as another."""
  here, default = config_lib.flatten(base), config_lib.flatten(config_lib.default())
  changed = [(spec.grid, 'ablation.grid')]
  changed += [(fields, f'ablation.arms[{name!r}]') for name, fields in spec.arms.items()]
  for field, belongs in _ELSEWHERE.items():
    places = [where for fields, where in changed if field in fields]
    places += ['the base config'] if here[field] != default[field] else []
    if places:
      raise ConfigError(f'{field} is set in {places[0]}; it belongs to {belongs}.')


def _validate_grid(base, grid):
  for field, values in grid.items():
    if field == 'arms' or field.endswith('seed'):
      raise ConfigError(f'ablation.grid has {field}; see ablation.seeds and .arms.')
    if not isinstance(values, tuple | list) or not values:
      raise ConfigError(f'ablation.grid[{field!r}]={values!r} must be a tuple of values.')
    if any(value in values[:i] for i, value in enumerate(values)):
      raise ConfigError(f'ablation.grid[{field!r}]={values!r} has a value twice.')
    for value in values:
      _check_field(base, field, value, 'ablation.grid')


def _validate_arms(base, spec):
  groups = (('arms', _OF_ARMS, 'augmented'), ('controls', _OF_CONTROLS, 'real'))
  for group, allowed, kind in groups:
    taken = {
      *CONTROLS,
      *spec.placebos,
      *spec.bounds,
      *(spec.arms if group == 'controls' else ()),
    }
    for name, fields in spec[group].items():
      where = f'ablation.{group}[{name!r}]'
      if not re.fullmatch(r'[\w.+=-]{1,60}', name):
        raise ConfigError(f'{where}: a name has letters, digits and _.+=- only.')
      if name in taken:
        raise ConfigError(f'{where}: there is another arm of that name.')
      for field, value in fields.items():
        _check_field(base, field, value, where)
        if not field.startswith(allowed) or field.endswith('seed'):
          raise ConfigError(
            f'{where} changes {field}, in which what it is compared with would differ, '
            'too; put it into the base config or into ablation.grid.'
          )
      chosen = fields.get('arms', (f'{kind}_',))
      if len(chosen) != 1 or not chosen[0].startswith(kind):
        raise ConfigError(
          f'{where}: arms={chosen!r} must be one of those of config.ARMS that begin with '
          f'{kind!r}.'
        )


def _check_field(base, field, value, where):
  if field not in config_lib.flatten(base):
    raise ConfigError(f'{where}: there is no config field {field!r}.')
  try:
    _with(base, {field: value})
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{where}: {field}={value!r} does not fit: {error}') from None
