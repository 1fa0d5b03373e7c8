"""What an ablation compares: its arms, their controls, and the config of each.

An arm is trained with every seed; each training is a cell, see `cells.py`.
"""

import dataclasses
import itertools
import math
import re

import ml_collections

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.config.fields import CLASSIFIER, FIELDS, OF_GENERATORS
from gan_aug_jax.config.suggestions import no_such_field
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import schedule

# {control: the arm that differs from it in synthesis alone}
AUGMENTED = {'real_only': 'augmented', 'real_classical': 'augmented_classical'}
CONTROLS = tuple(AUGMENTED)
# An arm and its control must differ only in synthesis: in what affects it alone, and in
# what happens to the synthetic images of a batch.
_IN_ARMS = ('arms', 'augment.apply_to', 'classifier.budget', 'classifier.batch_norm')


@dataclasses.dataclass(frozen=True)
class PlannedArm:
  """An arm at a point of the grid, to be trained with every seed.

  Attributes:
    setting: the point of the grid, 'per_class=25', or '' without a grid.
    name: of the arm; unique in its setting.
    role: 'treatment', 'negative_control', 'oracle' or 'control'; 'matched', a control
      added to match the number of steps, say, of another arm; or 'all_labels', a
      control that also trains on validation images, and so cannot be chosen by them.
    fields: {dotted field: value}, what differs from the ablation's base config.
    key: names what is trained. Settings that differ in nothing that a control depends on
      share it.
    same_steps: of an arm that is no control, the control that takes as many steps.
    same_exposure: the control that sees as many real images, or '' where that number is
      not known in advance.
    same_compute: the control that takes at least as many operations, with the
      generator's; or ''.
  """

  setting: str
  name: str
  role: str
  fields: dict
  key: str
  same_steps: str = ''
  same_exposure: str = ''
  same_compute: str = ''


def config_of(base, arm, seed) -> ml_collections.ConfigDict:
  """The config of a cell.

  Args:
    base: from `config.base_of`.
    arm: a `PlannedArm`.
  """
  return _with(base, {**arm.fields, 'seed': seed, 'expected_duration': ''})


def list_arms(config, costs) -> list[PlannedArm]:
  """The arms of an ablation, controls first in each setting.

  Args:
    costs: has `num_train(config)`, the number of training images, and
      `operations(config, control)`, the floating-point operations of the generator's
      training, of a step of the config's arm and of a step of the control. The latter is
      only called with `ablation.equal_compute`.

  Raises:
    ConfigError: if a field, an arm or a combination of them cannot work.
  """
  _validate(config)
  base, spec = config_lib.base_of(config), config.ablation
  arms = []
  for values in itertools.product(*spec.grid.values()):
    point = dict(zip(spec.grid, values, strict=True))
    arms += _Setting(base, spec, point, costs).arms()
  for arm in arms:
    config = _valid(base, arm.fields)
    if config_lib.uses_float64(config) != config_lib.uses_float64(base):
      raise ConfigError(
        f'The arm {arm.key!r} and the base of the ablation must both compute in float64, '
        'or neither: a process allows it for all cells or for none; run two ablations.'
      )
    if spec.vmap_seeds and config_lib.draws_synthetic(config):
      _check_vmap_seeds(config)
  return arms


class _Setting:
  """A point of the grid."""

  def __init__(self, base, spec, point, costs):
    self.base, self.spec, self.point, self.costs = base, spec, point, costs
    self.name = _name_of(point, spec.grid)
    self.real = {f: v for f, v in point.items() if FIELDS[f].affects not in OF_GENERATORS}
    config = _valid(base, {**self.real, 'arms': (spec.control,)})
    self.num_train = costs.num_train(config)
    self.num_steps = schedule.num_steps_of_arm(config, self.num_train, synthetic=False)

  def arms(self):
    """All arms, controls first."""
    spec, arms = self.spec, []
    usual = [self.control(kind, self.num_steps) for kind in CONTROLS]
    controls = {arm.name: arm for arm in (*usual, *self.further_controls())}
    usual_arm = AUGMENTED[spec.control]
    wanted = [('treatment', *arm) for arm in (spec.arms or {usual_arm: {}}).items()]
    wanted += [
      ('negative_control', name, {'mix.source': name}) for name in spec.negative_controls
    ]
    wanted += [('oracle', name, {'mix.source': name}) for name in spec.oracles]
    for role, name, fields in wanted:
      fields = {'arms': (usual_arm,), **self.point, **fields}
      matched = self.match(fields)
      if spec.equal_compute and role == 'treatment':
        matched |= self.match_compute(name, fields)
      for control in matched.values():
        controls.setdefault(control.name, control)
      names = {equal: control.name for equal, control in matched.items()}
      arms.append(
        PlannedArm(self.name, name, role, fields, _join(self.name, name), **names)
      )
    return [*controls.values(), *arms]

  def control(self, kind, num_steps):
    """The control of a kind, one of `CONTROLS`, that takes `num_steps` steps."""
    if num_steps == self.num_steps:
      return self._control(kind, 'control', {'arms': (kind,)})
    fields = {'arms': (kind,), 'classifier.num_steps': num_steps}
    return self._control(f'{kind}_{num_steps}_steps', 'matched', fields)

  def further_controls(self):
    """Yields the controls that the config lists."""
    for name, fields in self.spec.controls.items():
      role = 'control'
      if fields.get('data.train_on_val'):
        role = 'all_labels'
        if 'classifier.num_epochs' not in fields:
          fields = {'classifier.num_steps': self.num_steps, **fields}
      yield self._control(name, role, {'arms': (self.spec.control,), **fields})

  def _control(self, name, role, fields):
    fields = {**self.real, **fields}
    try:
      config = _valid(self.base, fields)
      schedule.num_steps_of_arm(config, self.num_train, synthetic=False)
    except ConfigError as error:
      raise ConfigError(f'The control {name!r}: {error}') from None
    key = _join(_name_of(self.real, self.spec.grid), name)
    return PlannedArm(self.name, name, role, fields, key)

  def match(self, fields):
    """The controls of an arm: {field of `PlannedArm`, such as 'same_steps': control}.

    Args:
      fields: {dotted field: value} that the arm sets.
    """
    config, kind, num_steps = self._describe(fields)
    draws = config_lib.draws_synthetic(config)
    plan = schedule.plan_batches(config, num_steps, synthetic=draws)
    matched = {'same_steps': self.control(kind, num_steps)}
    exposure = round(int(plan.real_before(num_steps)) / config.classifier.batch_size)
    if exposure and not _shows_uncounted(config):
      matched['same_exposure'] = self.control(kind, exposure)
    return matched

  def match_compute(self, name, fields):
    """As `match`, the control with at least the operations of an arm and its generator.

    Lengths are powers of 1.1, so that arms of nearly equal operations share a control,
    whichever other arms there are. Empty if the arm draws nothing.
    """
    config, kind, num_steps = self._describe(fields)
    if not config_lib.draws_synthetic(config):
      return {}
    _check_countable(name, config)
    generator, step, control_step = self.costs.operations(config, kind)
    least = (generator + num_steps * step) / control_step
    power = math.ceil(math.log(least) / math.log(1.1))
    return {'same_compute': self.control(kind, math.ceil(1.1**power))}

  def _describe(self, fields):
    """An arm's config, the kind of its control, and its number of steps."""
    config = _valid(self.base, fields)
    draws = config_lib.draws_synthetic(config)
    (kind,) = (kind for kind in CONTROLS if config.arms == (AUGMENTED[kind],))
    num_steps = schedule.num_steps_of_arm(config, self.num_train, synthetic=draws)
    return config, kind, num_steps


def _name_of(point, grid):
  """'per_class=25'; the whole field where its last part is not unique."""
  short = [field.rpartition('.')[2] for field in grid]
  return ','.join(
    f'{last if short.count(last := field.rpartition(".")[2]) == 1 else field}={value}'
    for field, value in point.items()
  )


def _join(*names):
  return ','.join(filter(None, names))


def _shows_uncounted(config):
  """Whether it shows real images outside the plan: substitutes, partners, oracles."""
  filter_, augment = config.filter, config.augment
  if config.mix.source in config_lib.ORACLES:
    return True
  substitutes = filter_.min_confidence > 0 and filter_.on_reject == 'real'
  return substitutes or augment.mixup > 0 or augment.cutmix > 0


def _check_countable(name, config):
  """Refuses equal operations where other networks are trained or run, too."""
  filter_, generator = config.filter, config.generator
  others = {
    'targets.kind': config.targets.kind == 'teacher',
    'filter.candidates': filter_.candidates > 1
    and filter_.score_by in ('teacher', 'hard'),
    'filter.min_confidence': filter_.min_confidence > 0,
    'cache.images_per_class': config.cache.images_per_class > 0,
    'generator.checkpoints': generator.checkpoints,
  }
  for field in filter(others.get, others):
    raise ConfigError(
      'ablation.equal_compute counts the steps of the generator and the classifier only; '
      f'{name!r} needs others because of {field}.'
    )


def _check_vmap_seeds(config):
  """Refuses what seeds in one program cannot do."""
  others = {
    'cache.refresh_steps': config.cache.refresh_steps > 1,
    'generator.checkpoints': config.generator.checkpoints,
    "data.placement='host'": config.data.placement == 'host',
  }
  for field in filter(others.get, others):
    raise ConfigError(
      f'ablation.vmap_seeds cannot be combined with {field}; drop one of them.'
    )


def _with(base, fields):
  config = base.copy_and_resolve_references()
  config.update_from_flattened_dict(fields)
  return config


def _valid(base, fields):
  config = _with(base, fields)
  validation.validate(config)
  return config


def _validate(config):
  """Refuses what cannot work, before anything is computed."""
  if 'ablation' not in config:
    raise ConfigError(
      'The config has no ablation; start from one in configs/ablations/, or set '
      'config.ablation = gan_aug_jax.config.ablation().'
    )
  base, spec = config_lib.base_of(config), config.ablation
  unknown = set(spec) - set(config_lib.ablation())
  if unknown:
    known = [f'ablation.{name}' for name in config_lib.ablation()]
    raise ConfigError(no_such_field(f'ablation.{min(unknown)}', known))
  _validate_seeds(base, spec.seeds)
  if spec.control not in CONTROLS:
    raise ConfigError(f'ablation.control={spec.control!r} must be one of {CONTROLS}.')
  kinds = {'negative_controls': config_lib.NEGATIVE_CONTROLS}
  kinds |= {'oracles': config_lib.ORACLES}
  for field, known in kinds.items():
    if not set(spec[field]) <= set(known):
      raise ConfigError(f'ablation.{field}={spec[field]!r} must be some of {known}.')
  _validate_elsewhere(base, spec)
  _validate_grid(base, spec.grid)
  _validate_arms(base, spec)


def _validate_seeds(base, seeds):
  whole = all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
  if not seeds or not whole or len(set(seeds)) < len(seeds):
    raise ConfigError(
      f'ablation.seeds={seeds!r} must be distinct whole numbers from 0 up, such as '
      '(0, 1, 2).'
    )
  for part in ('generator', 'classifier'):
    if base[part].seed != -1:
      raise ConfigError(
        f'{part}.seed={base[part].seed} would be the same for all of ablation.seeds, '
        'which would then understate chance; leave it at -1.'
      )


# Fields that decide what an arm or a control is, and where they are set.
_ELSEWHERE = {
  'mix.source': 'ablation.negative_controls and ablation.oracles',
  'data.train_on_val': 'ablation.controls',
}


def _validate_elsewhere(base, spec):
  """Refuses oracles, and controls with more labels, that would pass as something else."""
  here, default = config_lib.flatten(base), config_lib.flatten(config_lib.default())
  changed = [(spec.grid, 'ablation.grid')]
  changed += [(fields, f'ablation.arms[{name!r}]') for name, fields in spec.arms.items()]
  for field, belongs in _ELSEWHERE.items():
    places = [where for fields, where in changed if field in fields]
    places += ['the base config'] if here[field] != default[field] else []
    if places:
      raise ConfigError(f'{field} is set in {places[0]}; it belongs in {belongs}.')


# What JAX is started with, once for all cells.
_OF_THE_PROCESS = ('backend', 'platform', 'num_cpu_devices', 'compilation_cache')
_OF_THE_PROCESS += ('matmul_precision', 'deterministic')


def _validate_grid(base, grid):
  for field, values in grid.items():
    if field in _OF_THE_PROCESS:
      raise ConfigError(
        f'ablation.grid has {field}, which is the same for all of a process; run an '
        'ablation for each value.'
      )
    if field == 'arms' or field.endswith('seed'):
      raise ConfigError(
        f'ablation.grid has {field}; set ablation.seeds or ablation.arms instead.'
      )
    if not isinstance(values, tuple | list) or not values:
      raise ConfigError(f'ablation.grid[{field!r}]={values!r} must be a tuple of values.')
    if any(value in values[:i] for i, value in enumerate(values)):
      raise ConfigError(
        f'ablation.grid[{field!r}]={values!r} has a value twice; drop one.'
      )
    for value in values:
      _check_field(base, field, value, 'ablation.grid')
  validation.check_epochs(base, grid, 'ablation.grid')


def _validate_arms(base, spec):
  groups = (
    ('arms', _may_set_in_arms, 'augmented'),
    ('controls', _may_set_in_controls, 'real'),
  )
  for group, may_set, kind in groups:
    taken = {*CONTROLS, *spec.negative_controls, *spec.oracles}
    taken |= set(spec.arms) if group == 'controls' else set()
    for name, fields in spec[group].items():
      where = f'ablation.{group}[{name!r}]'
      if not re.fullmatch(r'[\w.+=-]{1,60}', name):
        raise ConfigError(f'{where}: a name may only have letters, digits and _.+=-.')
      if name in taken or re.fullmatch(f'({"|".join(CONTROLS)})_\\d+_steps', name):
        raise ConfigError(f'{where}: there is another arm of that name; rename one.')
      for field, value in fields.items():
        _check_field(base, field, value, where)
        if not may_set(field) or field.endswith('seed'):
          raise ConfigError(
            f'{where} changes {field}, so that it would differ from what it is compared '
            'with in more than synthesis; set that in the base config or ablation.grid.'
          )
      validation.check_epochs(base, fields, where)
      values = {base.augment.apply_to, fields.get('augment.apply_to')} - {None}
      if group == 'arms' and len(values) > 1 and 'synthetic' in values:
        raise ConfigError(
          f"{where}: with augment.apply_to='synthetic' real images stay as they are. An "
          'arm and its control must agree on that; set it in the base config.'
        )
      chosen = fields.get('arms', (f'{kind}_',))
      if len(chosen) != 1 or not chosen[0].startswith(kind):
        raise ConfigError(
          f'{where}: arms={chosen!r} must be one arm of config.ARMS that begins with '
          f'{kind!r}.'
        )


def _may_set_in_arms(field):
  return FIELDS[field].affects in OF_GENERATORS or field in _IN_ARMS


def _may_set_in_controls(field):
  return FIELDS[field].affects == CLASSIFIER or field == 'data.train_on_val'


def _check_field(base, field, value, where):
  if field not in config_lib.flatten(base):
    raise ConfigError(f'{where}: {no_such_field(field)}')
  try:
    _with(base, {field: value})
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{where}: {field}={value!r} does not fit: {error}') from None
