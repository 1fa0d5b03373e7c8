"""Every config is sound, and every wrong one is refused with one sentence."""

import importlib.util
import pathlib

import pytest

from gan_aug_jax import config
from gan_aug_jax.config import rules, validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import selection
from gan_aug_jax.models import classifiers, discriminators, generators, layers
from gan_aug_jax.step import augment, classifier, losses, plans

ROOT = pathlib.Path(__file__).parent.parent
VARIANTS = ['mnist5k', 'scarce', 'mnist', 'cifar10', 'mlp:original', 'mlp:updated']
VARIANTS += ['generators:mnist500-dcgan', 'generators:cifar5000-sngan-diffaug']
VARIANTS += ['generators:cifar-resnet-diffaug']


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


def test_faithful_configs_say_what_the_experiment_asks_for():
  cifar10, mnist = load('cifar10'), load('mnist')
  for faithful in (cifar10, mnist):
    gan, cnn = faithful.gan, faithful.classifier
    assert (gan.learning_rate, gan.beta1, gan.batch_size) == (2e-4, 0.5, 64)
    assert (gan.arch, gan.num_epochs, gan.num_steps) == ('dcgan', 200, 0)
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
  'data.image_size': 4,
  'data.per_class': 1,
  'data.val_fraction': 1.0,
  'data.on_corrupt': 'ignore',
  'data.placement': 'disk',
  'data.seed': -2,
  'data.imbalance': 0.5,
  'data.imbalance_shape': 'linear',
  'data.test_on': 'train',
  'gan.arch': 'biggan',
  'gan.loss': 'wasserstein',
  'gan.num_epochs': 0,
  'gan.num_steps': -1,
  'gan.batch_size': 0,
  'gan.learning_rate': 0.0,
  'gan.upsampling': 'bicubic',
  'gan.discriminator_learning_rate': -1e-4,
  'gan.d_steps': 0,
  'gan.diffaug': ('cutout', 'cutout'),
  'gan.r1': -1.0,
  'gan.r2': float('inf'),
  'gan.lecam': -0.1,
  'gan.select': 'fid',
  'gan.select_steps': 0,
  'sampler.generator': 'my_module',
  'sampler.checkpoints': ('step:100', 'last'),
  'score.width': 0,
  'score.extractor_steps': 0,
  'score.cas_steps': 0,
  'score.num_samples': 1,
  'score.neighbours': 0,
  'gan.beta1': 1.0,
  'gan.beta2': -0.1,
  'gan.latent_dim': 0,
  'gan.width': 0,
  'gan.real_label': 0.0,
  'gan.ema_decay': 1.0,
  'classifier.arch': 'vit',
  'classifier.optimizer': 'lion',
  'classifier.learning_rate': float('nan'),
  'classifier.momentum': 1.0,
  'classifier.weight_decay': -1e-4,
  'classifier.clip_norm': -1.0,
  'classifier.schedule': 'step',
  'classifier.warmup_steps': -1,
  'classifier.label_smoothing': 1.0,
  'classifier.dropout': 1.0,
  'classifier.budget': 'epochs',
  'classifier.blocks': 0,
  'classifier.batch_norm': 'none',
  'classifier.hidden': (8, -1),
  'classifier.features': (32, 0),
  'mix.ratio': 1.5,
  'mix.mode': 'swap',
  'mix.ratio_schedule': 'exponential',
  'mix.warmup': 1.0,
  'mix.off': -0.1,
  'mix.weight': 0.0,
  'mix.weight_schedule': 'step',
  'augment.crop': -1,
  'augment.on': 'none',
  'augment.color': 1.5,
  'augment.cutout': -1,
  'augment.mixup': -0.2,
  'augment.cutmix': float('nan'),
  'augment.partner': 'other',
  'sampler.candidates': 0,
  'sampler.score': 'best',
  'sampler.min_confidence': 1.0,
  'sampler.on_reject': 'retry',
  'sampler.teacher_steps': 0,
  'sampler.labels': 'soft',
  'sampler.smoothing': 1.1,
  'sampler.classes': 'balanced',
  'sampler.latent_std': 0.0,
  'sampler.truncation': -1.0,
  'sampler.interpolation': 2.0,
  'sampler.refresh_every': 0,
  'sampler.offline': -1,
  'gan.precision': 'int8',
  'sampler.precision': 'half',
  'classifier.precision': 'f32',
  'distributed.num_processes': -1,
  'distributed.process_id': -2,
  'profile.steps': '110:100',
  'log.every_steps': 0,
}


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
    ({'augment.crop': 32}, 'augment.crop=32'),
    ({'classifier.features': (4,) * 6}, 'halves images 6 times'),
    ({'steps_per_call': 30}, 'log.every_steps=50'),
    ({'mix.ratio': 0.001}, 'mix.ratio=0.001'),  # no image of a batch of 128
    ({'arms': ()}, 'arms=()'),
    ({'distributed.coordinator': 'a:1'}, 'distributed.num_processes=0'),
    ({'arms': ('augmented', 'augmented')}, 'each once'),
    ({'score.neighbours': 50, 'score.num_samples': 50}, 'score.neighbours=50'),
    ({'sampler.checkpoints': ('seed:7', 'seed:07')}, 'seed:07'),
    ({'sampler.checkpoints': ('step:0',)}, 'step:0'),
    ({'gan.arch': 'resnet', 'data.image_size': 28}, 'data.image_size=28'),
    ({'augment.cutout': 32}, 'augment.cutout=32'),
    ({'classifier.batch_norm': 'split'}, "batch_norm='split' is for"),
    ({'mix.warmup': 0.5, 'mix.off': 0.5}, 'mix.warmup=0.5 and mix.off=0.5'),
    (
      {'sampler.min_confidence': 0.5, 'sampler.score': 'random'},
      'min_confidence=0.5 needs a score',
    ),
    (
      {
        'sampler.min_confidence': 0.5,
        'sampler.score': 'discriminator',
        'gan.loss': 'relativistic',
      },
      "'relativistic' leaves it open",
    ),
    ({'sampler.offline': 9, 'sampler.refresh_every': 2}, 'sampler.offline=9'),
    (
      {
        'sampler.offline': 9,
        'sampler.candidates': 2,
        'sampler.score': 'discriminator',
        'sampler.checkpoints': ('seed:1', 'seed:2'),
      },
      'which drew an image',
    ),
    (
      {'classifier.budget': 'exposure', 'sampler.min_confidence': 0.5},
      "choose sampler.on_reject='drop'",
    ),
    (
      {'mix.ratio': 1.0, 'classifier.arch': 'resnet', 'classifier.batch_norm': 'split'},
      "batch_norm='split' needs some",
    ),
    ({'mix.ratio': 1.0, 'classifier.budget': 'exposure'}, 'would never end'),
    ({'mix.ratio': 1.0, 'sampler.classes': 'feedback'}, 'goes by their loss'),
    ({'classifier.budget': 'exposure', 'augment.cutmix': 1.0}, 'partners'),
    ({'augment.on': 'synthetic'}, 'the same as real_only'),
    (
      {'mix.ratio': 1.0, 'sampler.min_confidence': 0.5, 'sampler.on_reject': 'drop'},
      'no image at all',
    ),
    ({'sampler.refresh_every': 16, 'log.save_every_steps': 50}, 'refresh_every=16'),
  ],
)
def test_bad_combinations_are_named(fields, named):
  bad = config.default()
  bad.update_from_flattened_dict(fields)
  with pytest.raises(ConfigError, match=named.replace('(', r'\(').replace(')', r'\)')):
    validation.validate(bad)


def test_policies_of_arms_that_draw_nothing_are_not_checked():
  fields = config.default()
  fields.mix.warmup, fields.mix.off, fields.arms = 0.6, 0.6, ('real_only',)
  validation.validate(fields)


def test_a_gan_that_is_not_trained_is_not_checked():
  fields = config.default()
  fields.data.image_size, fields.arms = 28, ('real_only',)
  validation.validate(fields)
  with pytest.raises(ConfigError, match=r'data\.image_size=28'):
    validation.validate(fields, trains_gan=True)


def test_every_field_is_checked_or_needs_no_check():
  free = {'duration', 'data.name', 'data.data_dir', 'augment.flip', 'compilation_cache'}
  free |= {'sampler.allow_foreign', 'distributed.auto', 'log.tensorboard'}
  free |= {'data.train_on_val', 'classifier.nesterov'}
  assert set(config.flatten(config.default())) == set(rules.RULES) | free


def test_choices_are_those_that_can_be_built():
  """A new architecture needs its entry in both places."""

  def allowed(field, names):
    rule = rules.RULES[field][0]
    assert all(rule(name) for name in names) and not rule('other')

  allowed('gan.arch', generators.GENERATORS)
  assert set(generators.GENERATORS) == set(discriminators.DISCRIMINATORS)
  allowed('gan.loss', losses.GAN_LOSSES)
  allowed('gan.upsampling', layers.UPSAMPLINGS)
  assert rules.RULES['gan.diffaug'][0](tuple(augment._DIFFERENTIABLE))
  for select in selection._RANKS:
    assert rules.RULES['gan.select'][0](select)
  allowed('classifier.arch', classifiers.CLASSIFIERS)
  for shape in plans._SHAPES:
    assert rules.RULES['mix.ratio_schedule'][0](shape)
    assert rules.RULES['mix.weight_schedule'][0](shape)
  for name in ('sgd', 'adam'):
    for schedule in ('constant', 'cosine'):
      classifier.make_optimizer(name, learning_rate=1, num_steps=9, schedule=schedule)


def test_seeds_follow_the_root_unless_set():
  fields = config.default()
  fields.seed, fields.gan.seed = 5, 7
  seeds = [config.seed_of(fields, part) for part in ('data', 'gan', 'classifier')]
  assert seeds == [5, 7, 5]


def test_members_are_the_best_of_the_own_gan_unless_named():
  fields = config.default()
  fields.seed = 4
  assert config.members_of(fields) == [(4, 0)]
  fields.sampler.checkpoints = ('step:200', 'seed:7', 'step:100')
  assert config.members_of(fields) == [(4, 200), (7, 0), (4, 100)]


def test_steps_override_epochs():
  fields = config.default()
  fields.classifier.num_epochs, fields.classifier.batch_size = 3, 64
  assert config.num_steps_of(fields, 'classifier', 100) == 5  # ceil(3 * 100 / 64)
  fields.gan.num_epochs, fields.gan.batch_size, fields.gan.d_steps = 3, 10, 2
  assert config.num_steps_of(fields, 'gan', 100) == 15  # each takes 2 batches
  fields.classifier.num_steps = 17
  assert config.num_steps_of(fields, 'classifier', 100) == 17
