"""What an ablation compares: its arms, their controls, and the config of each.

An arm is trained with every seed; each training is a cell, see `cells.py`.
"""

import dataclasses
import itertools
import re

import ml_collections

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import synthetic_source

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
    role: 'treatment', 'placebo', 'bound' or 'control'; 'matched', a control added to take
      as many steps, say, as one of the others; or 'all_labels', a control that also
      trains on validation images, and so cannot be chosen by them.
    fields: {dotted field: value}, what differs from the ablation's base config.
    key: names what is trained. Settings that differ in nothing that a control depends on
      share it.
    same_steps: of a treatment, placebo or bound, the control that takes as many steps.
    same_exposure: the control that sees as many real images, or '' where that number is
      not known in advance.
    same_compute: the control that takes as many operations, the GAN's included; or ''.
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
    arm: an `Arm`.
    seed: of the cell.
  """
  return _with(base, {**arm.fields, 'seed': seed, 'duration': ''})


def list_arms(config, costs) -> list[Arm]:
  """The arms of an ablation, controls first in each setting.

  Args:
    config: with its ablation.
    costs: has `num_train(config)`, the number of training images, and
      `operations(config, control)`, the floating-point operations of the GAN's training,
      of a step of the config's arm and of a step of the control. The latter is only
      called with `ablation.equal_compute`.

  Raises:
    ConfigError: if a field, an arm or a combination of them cannot work.
  """
  _validate(config)
  base, spec = config_lib.base_of(config), config.ablation
  arms = []
  for values in itertools.product(*spec.grid.values()):
    setting = _make_setting(base, spec, dict(zip(spec.grid, values, strict=True)), costs)
    arms += _arms_of(setting, costs)
  for arm in arms:
    config = _valid(base, arm.fields)
    if spec.vmap_seeds and config_lib.draws_synthetic(config):
      _check_vmap_seeds(config)
  return arms


@dataclasses.dataclass(frozen=True)
class _Setting:
  """A point of the grid.

  Attributes:
    base: the base config of the ablation.
    spec: the ablation's own fields.
    point: {dotted field: value}.
    real_fields: those of the point that a real-only classifier depends on.
    num_train: training images.
    num_steps: that an arm without synthetic images takes.
  """

  base: ml_collections.ConfigDict
  spec: ml_collections.ConfigDict
  point: dict
  real_fields: dict
  num_train: int
  num_steps: int

  @property
  def name(self):
    return _name_of(self.point, self.spec.grid)

  def control(self, name, role, fields):
    """A control, which has the same key at every point with the same real fields."""
    key = _join(_name_of(self.real_fields, self.spec.grid), name)
    return Arm(self.name, name, role, {**self.real_fields, **fields}, key)

  def matched(self, kind, num_steps):
    """The control of a kind, one of `CONTROLS`, that takes so many steps."""
    if num_steps == self.num_steps:
      return self.control(kind, 'control', {'arms': (kind,)})
    fields = {'arms': (kind,), 'classifier.num_steps': num_steps}
    return self.control(f'{kind}_{num_steps}_steps', 'matched', fields)


def _make_setting(base, spec, point, costs):
  real_fields = {f: v for f, v in point.items() if not f.startswith(_OF_SYNTHESIS)}
  config = _valid(base, {**real_fields, 'arms': (spec.control,)})
  num_train = costs.num_train(config)
  num_steps = synthetic_source.num_steps_of_arm(config, num_train, synthetic=False)
  return _Setting(base, spec, point, real_fields, num_train, num_steps)


def _name_of(point, grid):
  """'per_class=25'; the whole field where its last part is not unique."""
  short = [field.rpartition('.')[2] for field in grid]
  return ','.join(
    f'{last if short.count(last := field.rpartition(".")[2]) == 1 else field}={value}'
    for field, value in point.items()
  )


def _join(*names):
  return ','.join(filter(None, names))


def _arms_of(setting, costs):
  """The arms of a setting, controls first."""
  usual = [setting.matched(kind, setting.num_steps) for kind in CONTROLS]
  controls = {arm.name: arm for arm in (*usual, *_further_controls(setting))}
  arms = []
  for role, name, fields in _list_wanted(setting.spec):
    fields = {'arms': (TREATMENT,), **setting.point, **fields}
    matched = _match(setting, name, role, fields, costs)
    for control in matched.values():
      controls.setdefault(control.name, control)
    names = {equal: control.name for equal, control in matched.items()}
    key = _join(setting.name, name)
    arms.append(Arm(setting.name, name, role, fields, key, **names))
  return [*controls.values(), *arms]


def _list_wanted(spec):
  """(role, name, fields) of each arm that is no control."""
  treatments = spec.arms or {TREATMENT: {}}
  return [
    *(('treatment', name, fields) for name, fields in treatments.items()),
    *(('placebo', name, {'sampler.source': name}) for name in spec.placebos),
    *(('bound', name, {'sampler.source': name}) for name in spec.bounds),
  ]


def _further_controls(setting):
  """The controls that the config lists."""
  controls = []
  for name, fields in setting.spec.controls.items():
    role = 'control'
    if fields.get('data.train_on_val'):
      role = 'all_labels'
      if 'classifier.num_epochs' not in fields:
        fields = {'classifier.num_steps': setting.num_steps, **fields}
    fields = {'arms': (setting.spec.control,), **fields}
    controls.append(setting.control(name, role, fields))
  return controls


def _match(setting, name, role, fields, costs):
  """{what is equal, a field of `Arm`: the control} of an arm."""
  config, spec = _valid(setting.base, fields), setting.spec
  draws = config_lib.draws_synthetic(config)
  # An arm without classical augmentation is compared with a control without it.
  kind = spec.control if config.arms == (TREATMENT,) else 'real_only'
  num_steps = synthetic_source.num_steps_of_arm(
    config, setting.num_train, synthetic=draws
  )
  plan, _ = synthetic_source.make_plan(config, num_steps, synthetic=draws)
  matched = {'same_steps': setting.matched(kind, num_steps)}
  exposure = round(int(plan.real_before(num_steps)) / config.classifier.batch_size)
  if exposure and not _shows_uncounted(config):
    matched['same_exposure'] = setting.matched(kind, exposure)
  if spec.equal_compute and role == 'treatment' and draws:
    _check_countable(name, config)
    gan, step, control_step = costs.operations(config, kind)
    longer = round((gan + num_steps * step) / control_step)
    matched['same_compute'] = setting.matched(kind, longer)
  return matched


def _shows_uncounted(config):
  """Whether it shows real images that no plan counts: substitutes, partners, bounds."""
  sampler, augment = config.sampler, config.augment
  if sampler.source in config_lib.BOUNDS:
    return True
  substitutes = sampler.min_confidence > 0 and sampler.on_reject == 'real'
  return substitutes or augment.mixup > 0 or augment.cutmix > 0


def _check_countable(name, config):
  """Refuses equal operations where other networks are trained or run, too."""
  sampler = config.sampler
  others = {
    'sampler.labels': sampler.labels == 'teacher',
    'sampler.candidates': sampler.candidates > 1 and sampler.score in ('teacher', 'hard'),
    'sampler.min_confidence': sampler.min_confidence > 0,
    'sampler.offline': sampler.offline > 0,
    'sampler.checkpoints': len(sampler.checkpoints) > 0,
    'sampler.generator': bool(sampler.generator),
  }
  _refuse(
    'ablation.equal_compute counts the steps of the GAN and the classifier only; '
    f'{name!r} needs others because of',
    others,
  )


def _check_vmap_seeds(config):
  """Refuses what seeds in one program cannot do."""
  others = {
    'sampler.refresh_every': config.sampler.refresh_every > 1,
    'sampler.checkpoints': len(config.sampler.checkpoints) > 0,
    "data.placement='host'": config.data.placement == 'host',
  }
  _refuse('ablation.vmap_seeds cannot be combined with', others)


def _refuse(why, fields):
  """Raises if any value in `fields` is true."""
  for field, given in fields.items():
    if given:
      raise ConfigError(f'{why} {field}.')


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
    raise ConfigError(f'There is no config field ablation.{min(unknown)}.')
  _validate_seeds(base, spec.seeds)
  if spec.control not in CONTROLS:
    raise ConfigError(f'ablation.control={spec.control!r} must be one of {CONTROLS}.')
  for field, known in (('placebos', PLACEBOS), ('bounds', config_lib.BOUNDS)):
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
  for part in ('data', 'gan', 'classifier'):
    if base[part].seed != -1:
      raise ConfigError(
        f'{part}.seed={base[part].seed} would be the same for all of ablation.seeds, '
        'which would then understate chance; leave it at -1.'
      )


# Fields that decide what an arm or a control is, and where they are set.
_ELSEWHERE = {
  'sampler.source': 'ablation.placebos and ablation.bounds',
  'data.train_on_val': 'ablation.controls',
}


def _validate_elsewhere(base, spec):
  """Refuses bounds, and controls with more labels, that would pass as something else."""
  here, default = config_lib.flatten(base), config_lib.flatten(config_lib.default())
  changed = [(spec.grid, 'ablation.grid')]
  changed += [(fields, f'ablation.arms[{name!r}]') for name, fields in spec.arms.items()]
  for field, belongs in _ELSEWHERE.items():
    places = [where for fields, where in changed if field in fields]
    places += ['the base config'] if here[field] != default[field] else []
    if places:
      raise ConfigError(f'{field} is set in {places[0]}; it belongs in {belongs}.')


def _validate_grid(base, grid):
  for field, values in grid.items():
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


def _validate_arms(base, spec):
  groups = (('arms', _OF_ARMS, 'augmented'), ('controls', _OF_CONTROLS, 'real'))
  for group, allowed, kind in groups:
    taken = {*CONTROLS, *spec.placebos, *spec.bounds}
    taken |= set(spec.arms) if group == 'controls' else set()
    for name, fields in spec[group].items():
      where = f'ablation.{group}[{name!r}]'
      if not re.fullmatch(r'[\w.+=-]{1,60}', name):
        raise ConfigError(f'{where}: a name may only have letters, digits and _.+=-.')
      if name in taken:
        raise ConfigError(f'{where}: there is another arm of that name; rename one.')
      for field, value in fields.items():
        _check_field(base, field, value, where)
        if not field.startswith(allowed) or field.endswith('seed'):
          raise ConfigError(
            f'{where} changes {field}, so that it would differ from what it is compared '
            'with in more than synthesis; set that in the base config or ablation.grid.'
          )
      chosen = fields.get('arms', (f'{kind}_',))
      if len(chosen) != 1 or not chosen[0].startswith(kind):
        raise ConfigError(
          f'{where}: arms={chosen!r} must be one arm of config.ARMS that begins with '
          f'{kind!r}.'
        )


def _check_field(base, field, value, where):
  if field not in config_lib.flatten(base):
    raise ConfigError(f'{where}: there is no config field {field!r}.')
  try:
    _with(base, {field: value})
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{where}: {field}={value!r} does not fit: {error}') from None
