"""Every config is sound, and every wrong one is refused with one sentence."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re

import pytest

from gan_aug_jax import config
from gan_aug_jax.cli import help as help_pages, parsing
from gan_aug_jax.config import fields as fields_lib, renamed, suggestions, validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import families, selection
from gan_aug_jax.models import classifiers, discriminators, generators, layers
from gan_aug_jax.step import augment, classifier, losses, plans

ROOT = pathlib.Path(__file__).parent.parent
VARIANTS = ['mnist5k', 'scarce', 'mnist', 'cifar10', 'mlp:original', 'mlp:updated']
VARIANTS += ['generators:mnist500-dcgan', 'generators:cifar5000-sngan-diffaug']
VARIANTS += ['generators:cifar-resnet-diffaug', 'flow', 'flow:cifar10,gpu']


def load(name):
  file, _, variant = name.partition(':')
  spec = importlib.util.spec_from_file_location(file, ROOT / 'configs' / f'{file}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*([variant] if variant else []))


@pytest.mark.parametrize('name', VARIANTS)
def test_shipped_configs_are_valid_and_survive_json(name):
  import json

  shipped = load(name)
  validation.validate(shipped)
  again = config.from_dict(json.loads(json.dumps(shipped.to_dict())))
  assert config.flatten(again) == config.flatten(shipped)


def test_shipped_configs_need_nothing_but_the_package():
  """The wheel has no `examples`."""
  named = set()
  for path in (ROOT / 'configs').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        assert node.module.startswith('gan_aug_jax'), path
      if isinstance(node, ast.Constant) and isinstance(node.value, str):
        named.update(re.findall(r'^[a-z][\w.]*:[a-z]\w*$', node.value))
  assert len(named) == 4  # each is a value of generator.family
  for name in named:
    module, _, function = name.partition(':')
    assert module.startswith('gan_aug_jax.'), name
    assert callable(getattr(importlib.import_module(module), function)), name


def test_faithful_configs_say_what_the_experiment_asks_for():
  cifar10, mnist = load('cifar10'), load('mnist')
  for faithful in (cifar10, mnist):
    gan, generator, cnn = faithful.gan, faithful.generator, faithful.classifier
    assert (generator.learning_rate, gan.beta1, generator.batch_size) == (2e-4, 0.5, 64)
    assert (gan.arch, generator.num_epochs, generator.num_steps) == ('dcgan', 200, 0)
    assert (cnn.arch, cnn.optimizer, cnn.learning_rate) == ('cnn', 'sgd', 1e-3)
    assert (cnn.momentum, cnn.batch_size, cnn.num_epochs) == (0.9, 128, 50)
    assert (faithful.mix.ratio, cnn.num_steps) == (0.2, 0)
  for version, expected in (('original', (0.0, 1e-3, 32)), ('updated', (0.5, 5e-4, 64))):
    mlp = load(f'mlp:{version}')
    found = (mlp.classifier.dropout, mlp.classifier.learning_rate)
    assert (*found, mlp.classifier.batch_size) == expected
    assert (mlp.classifier.arch, mlp.classifier.hidden) == ('mlp', (128, 64))
    assert mlp.gan.arch == 'mlp'


BAD = {
  'seed': -1,
  'backend': 'xmap',
  'platform': 'npu',
  'num_cpu_devices': -1,
  'steps_per_call': -5,
  'precision': 'float16',
  'arms': ('real_only', 'augmentd'),
  'data.data_dir': None,
  'data.image_size': 4,
  'data.label_budget': 1,
  'data.val_fraction': 1.0,
  'data.on_corrupt': 'ignore',
  'data.placement': 'disk',
  'data.seed': -2,
  'data.imbalance': 0.5,
  'data.imbalance_shape': 'linear',
  'data.test_on': 'train',
  'gan.arch': 'biggan',
  'gan.loss': 'wasserstein',
  'generator.num_epochs': 0,
  'generator.num_steps': -1,
  'generator.batch_size': 0,
  'generator.learning_rate': 0.0,
  'gan.upsampling': 'bicubic',
  'gan.discriminator_learning_rate': -1e-4,
  'gan.d_steps': 0,
  'gan.diffaug': ('cutout', 'cutout'),
  'gan.r1': -1.0,
  'gan.r2': float('inf'),
  'gan.lecam': -0.1,
  'generator.select': 'fid',
  'generator.select_steps': 0,
  'generator.family': 'my_module',
  'generator.checkpoints': ('step:100', 'last'),
  'score.width': 0,
  'score.extractor_steps': 0,
  'score.cas_steps': 0,
  'score.num_samples': 1,
  'score.neighbours': 0,
  'gan.beta1': 1.0,
  'gan.beta2': -0.1,
  'gan.latent_dim': 0,
  'gan.width': 0,
  'gan.label_smoothing': 1.0,
  'generator.ema_decay': 1.0,
  'classifier.arch': 'vit',
  'classifier.optimizer': 'lion',
  'classifier.learning_rate': float('nan'),
  'classifier.momentum': 1.0,
  'classifier.weight_decay': -1e-4,
  'classifier.clip_norm': -1.0,
  'classifier.schedule': 'step',
  'classifier.warmup_steps': -1,
  'classifier.label_smoothing': 1.0,
  'classifier.logit_adjustment': -1.0,
  'classifier.dropout': 1.0,
  'classifier.budget': 'epochs',
  'classifier.blocks': 0,
  'classifier.batch_norm': 'none',
  'classifier.hidden': (8, -1),
  'classifier.features': (32, 0),
  'mix.ratio': 1.5,
  'mix.mode': 'swap',
  'mix.ratio_schedule': 'exponential',
  'mix.start_fraction': 1.0,
  'mix.stop_fraction': 1.1,
  'mix.weight': 0.0,
  'mix.weight_schedule': 'step',
  'mix.draw_ahead_mib': -2,
  'augment.crop_padding': -1,
  'augment.apply_to': 'none',
  'augment.color': 1.5,
  'augment.cutout': -1,
  'augment.mixup': -0.2,
  'augment.cutmix': float('nan'),
  'augment.partner': 'other',
  'filter.candidates': 0,
  'filter.score_by': 'best',
  'filter.min_confidence': 1.0,
  'filter.on_reject': 'retry',
  'filter.teacher_steps': 0,
  'targets.kind': 'soft',
  'targets.smoothing': 1.1,
  'mix.classes': 'balanced',
  'latents.std': 0.0,
  'latents.truncation': -1.0,
  'latents.interpolation': 2.0,
  'cache.refresh_steps': 0,
  'cache.images_per_class': -1,
  'generator.train_precision': 'int8',
  'generator.precision': 'half',
  'classifier.precision': 'f32',
  'distributed.num_processes': -1,
  'distributed.process_id': -2,
  'profile.steps': '110:100',
  'log.every_steps': 0,
}


ADJUSTED = {'classifier.logit_adjustment': 1.0}


@pytest.mark.parametrize(('field', 'value'), BAD.items())
def test_bad_values_are_named(field, value):
  bad = config.default()
  bad.update_from_flattened_dict({field: value})
  with pytest.raises(ConfigError) as caught:
    validation.validate(bad)
  message = str(caught.value)
  assert field in message and repr(value) in message
  assert message.endswith('.') and '\n' not in message


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ({'data.image_size': 28}, 'data.image_size=28'),  # the dcgan doubles from 4
    ({'augment.crop_padding': 32}, 'augment.crop_padding=32'),
    ({'classifier.features': (4,) * 6}, 'halves images 6 times'),
    ({'steps_per_call': 30}, 'log.every_steps=50'),
    ({'mix.ratio': 0.001}, 'mix.ratio=0.001'),  # no image of a batch of 128
    ({'arms': ()}, 'arms=()'),
    ({'distributed.coordinator': 'a:1'}, 'distributed.num_processes=0'),
    ({'arms': ('augmented', 'augmented')}, 'each once'),
    ({'score.neighbours': 50, 'score.num_samples': 50}, 'score.neighbours=50'),
    ({'generator.checkpoints': ('seed:7', 'seed:07')}, 'seed:07'),
    ({'generator.checkpoints': ('step:0',)}, 'step:0'),
    ({'gan.arch': 'resnet', 'data.image_size': 28}, 'data.image_size=28'),
    ({'augment.cutout': 32}, 'augment.cutout=32'),
    ({'classifier.batch_norm': 'split'}, "batch_norm='split' is for"),
    (
      {'mix.start_fraction': 0.5, 'mix.stop_fraction': 0.5},
      'mix.start_fraction=0.5 and mix.stop_fraction=0.5',
    ),
    (
      {'filter.min_confidence': 0.5, 'filter.score_by': 'random'},
      'min_confidence=0.5 needs a score',
    ),
    (
      {
        'filter.min_confidence': 0.5,
        'filter.score_by': 'discriminator',
        'gan.loss': 'relativistic',
      },
      "'relativistic' leaves it open",
    ),
    ({'cache.images_per_class': 9, 'cache.refresh_steps': 2}, 'cache.images_per_class=9'),
    (
      {
        'cache.images_per_class': 9,
        'filter.candidates': 2,
        'filter.score_by': 'discriminator',
        'generator.checkpoints': ('seed:1', 'seed:2'),
      },
      'which one drew an image',
    ),
    (
      {'classifier.budget': 'exposure', 'filter.min_confidence': 0.5},
      "choose filter.on_reject='drop'",
    ),
    (
      {'mix.ratio': 1.0, 'classifier.arch': 'resnet', 'classifier.batch_norm': 'split'},
      "batch_norm='split' needs",
    ),
    ({'mix.ratio': 1.0, 'classifier.budget': 'exposure'}, 'would never end'),
    ({'mix.ratio': 1.0, 'mix.classes': 'feedback'}, 'depends on their loss'),
    ({'classifier.budget': 'exposure', 'augment.cutmix': 1.0}, 'partners'),
    ({'augment.apply_to': 'synthetic'}, 'the same as real_only'),
    (ADJUSTED | {'targets.kind': 'teacher'}, "targets.kind='teacher' makes unknown"),
    (ADJUSTED | {'filter.min_confidence': 0.5}, 'filter.min_confidence makes unknown'),
    (
      {'mix.ratio': 1.0, 'filter.min_confidence': 0.5, 'filter.on_reject': 'drop'},
      'no image at all',
    ),
    ({'cache.refresh_steps': 16, 'classifier.save_every_steps': 50}, 'refresh_steps=16'),
  ],
)
def test_bad_combinations_are_named(fields, named):
  bad = config.default()
  bad.update_from_flattened_dict(fields)
  with pytest.raises(ConfigError, match=named.replace('(', r'\(').replace(')', r'\)')):
    validation.validate(bad)


def test_policies_of_arms_that_draw_nothing_are_not_checked():
  fields = config.default()
  fields.mix.start_fraction, fields.mix.stop_fraction, fields.arms = (
    0.6,
    0.4,
    ('real_only',),
  )
  validation.validate(fields)


def test_a_gan_that_is_not_trained_is_not_checked():
  fields = config.default()
  fields.data.image_size, fields.arms = 28, ('real_only',)
  validation.validate(fields)
  with pytest.raises(ConfigError, match=r'data\.image_size=28'):
    validation.validate(fields, trains_generator=True)


def test_every_field_is_checked_or_needs_no_check():
  free = {'expected_duration', 'data.name', 'data.data_dir', 'compilation_cache'}
  unchecked = {name for name, field in fields_lib.FIELDS.items() if not field.rule}
  switches = {n for n in unchecked if isinstance(fields_lib.FIELDS[n].default, bool)}
  assert unchecked - switches == free - switches


def test_every_default_is_allowed_and_every_field_says_what_depends_on_it():
  known = {'run', 'generator', 'synthesis', 'classifier', 'cadence', 'nothing'}
  for name, field in fields_lib.FIELDS.items():
    assert field.doc and field.affects in known, name
    assert field.accepts(field.default) and not field.accepts(None), name
    assert field.accepts(True) == isinstance(field.default, bool), name
  assert fields_lib.FIELDS['mix.ratio'].accepts(1)


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ({'seeds': None}, 'ablation.seeds=None must be a tuple'),
    ({'arms': None}, 'ablation.arms=None must be a dict'),
    ({'arms': {0.2: {}}}, 'ablation.arms: the name 0.2 must be a string'),
    ({'grid': {5: (1, 2)}}, 'ablation.grid: the name 5 must be a string'),
    ({'arms': {'x': 3}}, "ablation.arms['x'] must be a dict of fields"),
    ({'arms': {'x': {5: 1}}}, "ablation.arms['x']: the name 5 must be a string"),
    ({'arms': {'x': {'arms': None}}}, "ablation.arms['x']: arms=None must be some of"),
  ],
)
def test_an_ablation_of_other_types_is_refused(fields, named):
  added = config.add_ablation(config.default(), **fields)
  with pytest.raises(ConfigError, match=re.escape(named)):
    config.renew_ablation(added.ablation)


def test_old_names_lead_to_fields_that_exist():
  new = {*fields_lib.FIELDS, *(f'ablation.{n}' for n in fields_lib.ABLATION_FIELDS)}
  for old, name in renamed._RENAMED.items():
    assert name in new and old not in new
    assert renamed.describe(old).startswith(f'{old} is now {name}')


OLD_FILE = """
from gan_aug_jax import config as base


def get_config():
  config = base.default()
  config.gan.num_steps = 4
  config.gan.real_label = 0.9
  config.sampler.latent_std = 2.0
  config.duration = 'long'
  config.update({'sampler': {'candidates': 4}})
  base.add_ablation(config, placebos=('noise',))
  config.ablation.arms = {'wide': {'sampler.truncation': 1.5}}
  config.ablation.grid = {'mix.warmup': (0.1, 0.2), 'data.per_class': (5, 10)}
  return config
"""


def test_old_names_set_the_new_fields_with_a_line_each(tmp_path, caplog):
  file = tmp_path / 'old.py'
  file.write_text(OLD_FILE)
  flags = ['--config.gan.batch_size', '8', '--config.log.save_every_steps=3']
  flags += ['--config.mix.off=0.25', '--config.sampler.allow_foreign']
  read = parsing.parse('ablate', ['', f'--config={file}', '--workdir=w', *flags]).config
  assert (read.generator.num_steps, read.generator.batch_size) == (4, 8)
  assert (read.gan.label_smoothing, read.latents.std) == (0.1, 2.0)
  assert read.filter.candidates == 4
  assert read.generator.save_every_steps == read.classifier.save_every_steps == 3
  assert read.mix.stop_fraction == 0.75 and read.generator.allow_foreign is True
  assert read.ablation.negative_controls == ('noise',)
  assert read.ablation.arms == {'wide': {'latents.truncation': 1.5}}
  grid = {'mix.start_fraction': (0.1, 0.2), 'data.label_budget': (5, 10)}
  assert read.ablation.grid == grid
  lines = caplog.messages
  assert len(lines) == len(set(lines)) == 13
  assert 'gan.num_steps is now generator.num_steps.' in lines


@pytest.mark.parametrize(
  ('arms', 'compared', 'control'),
  [
    (None, ['augmented', 'augmented_classical'], 'real_classical'),
    (('real_only', 'augmented'), ['augmented'], 'real_only'),
    (('real_only', 'augmented_classical'), ['augmented_classical'], 'real_classical'),
  ],
)
def test_an_ablation_of_a_run_trains_its_arms(arms, compared, control):
  flags = ['', '--config=configs/mnist5k.py', '--workdir=w']
  flags += [f'--config.arms={arms}'] if arms else []
  spec = parsing.parse('ablate', flags).config.ablation
  assert {name: dict(fields) for name, fields in spec.arms.items()} == {
    name: {'arms': (name,)} for name in compared
  }
  assert spec.control == control


def test_an_ablation_of_a_run_needs_an_arm_to_compare():
  flags = ['', '--config=configs/mnist5k.py', '--workdir=w']
  with pytest.raises(ConfigError, match='no arm with synthetic images'):
    parsing.parse('ablate', [*flags, "--config.arms=('real_only','real_classical')"])


@pytest.mark.parametrize('name', ['a:b/c.py', 'a:b/c.py:big', 'c.py', 'c.py:x:y'])
def test_a_colon_in_the_path_of_a_config_file_begins_no_variant(tmp_path, name):
  """Every absolute path of Windows has one."""
  path, _, variant = name.partition('.py')
  file = tmp_path / f'{path}.py'
  file.parent.mkdir(exist_ok=True)
  file.write_text(
    'from gan_aug_jax import config\n'
    "def get_config(variant=''):\n"
    '  made = config.default()\n'
    '  made.expected_duration = variant\n'
    '  return made\n'
  )
  flags = ['', f'--config={file}{variant}', '--workdir=w']
  assert parsing.parse('run', flags).config.expected_duration == variant[1:]


def test_a_default_of_0_is_shown():
  page = help_pages.page_of('sample', parsing.define('sample'))
  assert 'Default: 0.' in page and page.count('Default') == 1


def test_negative_numbers_are_no_flags():
  flags = ['', '--config=configs/mnist5k.py', '--workdir=w']
  flags += ['--config.data.seed', '-1', '--config.generator.seed', '-1']
  assert parsing.parse('run', flags).config.generator.seed == -1


@pytest.mark.parametrize('flag', ['--collect', '--collect=true', '-collect'])
def test_collecting_needs_no_config_however_it_is_written(flag):
  assert parsing.parse('ablate', ['', flag, '--workdir=w']).collect


@pytest.mark.parametrize(
  'flags',
  [
    ('--config.gan.num_steps=4', '--config.generator.num_steps=4'),
    ('--config.log.save_every_steps=4', '--config.classifier.save_every_steps=4'),
    ('--config.sampler.generator=a:b', '--config.generator.external=c:d'),
  ],
)
def test_an_old_name_next_to_the_new_one_is_refused(flags):
  flags = ['', '--config=configs/mnist5k.py', '--workdir=w', *flags]
  with pytest.raises(ConfigError, match=r'is an old name of .*, which .* sets, too'):
    parsing.parse('run', flags)


@pytest.mark.parametrize(
  ('name', 'meant'),
  [
    ('classifier.lr', ['classifier.learning_rate']),
    ('lr', ['generator.learning_rate', 'classifier.learning_rate']),
    ('batchsize', ['generator.batch_size', 'classifier.batch_size']),
    ('gan.bs', ['generator.batch_size', 'classifier.batch_size']),
    ('epochs', ['generator.num_epochs', 'classifier.num_epochs']),
    ('wd', ['classifier.weight_decay']),
    ('gan.wd', ['classifier.weight_decay']),
    ('classifier.steps', ['classifier.num_steps']),
    ('data.path', ['data.data_dir']),
    ('mix.rattio', ['mix.ratio']),
  ],
)
def test_a_field_is_suggested_by_its_meaning_and_by_its_letters(name, meant):
  text = suggestions.no_such_field(name)
  assert text == f'There is no config field {name!r}; did you mean {" or ".join(meant)}?'


def test_every_synonym_leads_to_a_field():
  last = {name.rpartition('.')[2] for name in fields_lib.FIELDS}
  for other, ours in suggestions._OURS.items():
    assert ours in last and other.isalnum()


def test_configs_of_older_versions_are_read_under_the_new_names():
  saved = config.default().to_dict()
  for name in ('latents', 'filter', 'targets', 'cache', 'generator'):
    del saved[name]
  for name in ('source', 'classes', 'start_fraction', 'stop_fraction'):
    del saved['mix'][name]
  del saved['gan']['label_smoothing'], saved['classifier']['save_every_steps']
  saved['gan'] |= {'num_steps': 9, 'precision': 'bfloat16', 'select': 'last'}
  saved['log']['save_every_steps'] = 7
  saved['mix'] |= {'warmup': 0.1, 'off': 0.25}
  saved['gan']['real_label'] = 0.8
  saved['sampler'] = {'generator': 'examples.deformations:train', 'candidates': 4}
  saved['sampler'] |= {'source': 'replayed', 'checkpoints': ['step:20']}
  read = config.from_dict(saved)
  assert (read.mix.start_fraction, read.mix.stop_fraction) == (0.1, 0.75)
  assert read.gan.label_smoothing == pytest.approx(0.2)
  assert read.filter.candidates == 4 and read.mix.source == 'train_copies'
  assert read.generator.checkpoints == ('step:20',)
  assert read.generator.family == 'gan_aug_jax.generators.warps:train'
  assert (read.generator.num_steps, read.generator.select) == (9, 'last')
  assert config.precision_of(read, 'frozen') == 'bfloat16'
  assert read.classifier.save_every_steps == read.generator.save_every_steps == 7
  saved = config.default().to_dict() | {'generator': {'external': ''}}
  assert config.from_dict(saved).generator.family == 'gan'


def test_choices_are_those_that_can_be_built():
  """A new architecture needs its entry in both places."""

  def allowed(field, names):
    allows = fields_lib.FIELDS[field].rule.allows
    assert all(map(allows, names)) and not allows('other')

  allowed('gan.arch', generators.GENERATORS)
  assert set(fields_lib.FAMILIES) == set(families.FAMILIES)
  for family, build in families.FAMILIES.items():
    _, *arguments = inspect.signature(build).parameters
    # Code may pass another optimizer; a config cannot.
    assert set(arguments) - {'make_optimizer'} == set(config.default()[family])
  assert set(generators.GENERATORS) == set(discriminators.DISCRIMINATORS)
  allowed('gan.loss', losses.GAN_LOSSES)
  allowed('gan.upsampling', layers.UPSAMPLINGS)
  assert fields_lib.FIELDS['gan.diffaug'].rule.allows(tuple(augment._DIFFERENTIABLE))
  for select in selection._RANKS:
    assert fields_lib.FIELDS['generator.select'].rule.allows(select)
  allowed('classifier.arch', classifiers.CLASSIFIERS)
  for shape in plans._SHAPES:
    assert fields_lib.FIELDS['mix.ratio_schedule'].rule.allows(shape)
    assert fields_lib.FIELDS['mix.weight_schedule'].rule.allows(shape)
  for name in ('sgd', 'adam'):
    for schedule in ('constant', 'cosine'):
      classifier.make_optimizer(name, learning_rate=1, num_steps=9, schedule=schedule)


def test_seeds_follow_the_root_unless_set():
  fields = config.default()
  fields.seed, fields.generator.seed = 5, 7
  seeds = [config.seed_of(fields, part) for part in ('data', 'generator', 'classifier')]
  assert seeds == [5, 7, 5]


def test_members_are_the_best_of_the_own_gan_unless_named():
  fields = config.default()
  fields.seed = 4
  assert config.members_of(fields) == [(4, 0)]
  fields.generator.checkpoints = ('step:200', 'seed:7', 'step:100')
  assert config.members_of(fields) == [(4, 200), (7, 0), (4, 100)]


def test_steps_override_epochs():
  fields = config.default()
  fields.classifier.num_epochs, fields.classifier.batch_size = 3, 64
  assert config.num_steps_of(fields, 'classifier', 100) == 5  # ceil(3 * 100 / 64)
  fields.generator.num_epochs, fields.generator.batch_size, fields.gan.d_steps = 3, 10, 2
  assert config.num_steps_of(fields, 'generator', 100) == 15  # each takes 2 batches
  fields.classifier.num_steps = 17
  assert config.num_steps_of(fields, 'classifier', 100) == 17
