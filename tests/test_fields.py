"""Every field of a config reaches what it is about: a step's program, or the data.

A field that is read, checked and then not passed on would change nothing, in silence.
"""

import functools
import pathlib

import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.config.fields import FIELDS
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import arms, recipe, runs
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.step import programs
from gan_aug_jax.training.workdir import Session
from tests import tiny
from tests.conftest import make_dataset

TINY = {
  'classifier.arch': 'mlp',
  'classifier.batch_size': 8,
  'classifier.hidden': (4,),
  'classifier.num_steps': 20,
  'data.image_size': 8,
  'gan.arch': 'mlp',
  'gan.latent_dim': 4,
  'gan.width': 8,
  'generator.batch_size': 4,
  'generator.num_steps': 20,
  'mix.ratio': 0.5,
}
SMOOTHED = {'targets.kind': 'smoothed'}
FILTERED = {'filter.min_confidence': 0.5}
IMBALANCED = {'data.imbalance': 9.0}
CNN = {'classifier.arch': 'cnn', 'classifier.features': (4,), 'classifier.hidden': ()}
DCGAN, FLOW = {'gan.arch': 'dcgan'}, {'generator.family': 'flow', 'flow.width': 8}

# {field: another value, or (value, what it takes to have an effect)}
OF_ARMS = {
  'augment.apply_to': 'real',
  'augment.color': 0.5,
  'augment.crop_padding': 1,
  'augment.cutmix': 1.0,
  'augment.cutout': 3,
  'augment.flip': False,
  'augment.mixup': 0.5,
  'augment.partner': ('same', {'augment.mixup': 0.5}),
  'cache.images_per_class': 5,
  'cache.refresh_steps': (4, CNN),  # else a call draws ahead
  'classifier.arch': ('cnn', {'classifier.features': (4,), 'classifier.hidden': ()}),
  'classifier.batch_norm': ('split', CNN | {'classifier.arch': 'resnet'}),
  'classifier.batch_size': 12,
  'classifier.blocks': (2, CNN | {'classifier.arch': 'resnet'}),
  'classifier.budget': 'exposure',
  'classifier.clip_norm': 1.0,
  'classifier.dropout': 0.5,
  'classifier.ema_decay': 0.9,
  'classifier.features': ((8,), CNN),
  'classifier.hidden': (5,),
  'classifier.label_smoothing': 0.1,
  'classifier.learning_rate': 0.1,
  'classifier.logit_adjustment': 1.0,
  'classifier.momentum': 0.5,
  'classifier.nesterov': True,
  'classifier.num_epochs': (3, {'classifier.num_steps': 0}),
  'classifier.num_steps': 30,
  'classifier.optimizer': 'adam',
  'classifier.precision': 'bfloat16',
  'classifier.schedule': 'cosine',
  'classifier.seed': 3,
  'classifier.warmup_steps': 5,
  'classifier.weight_decay': 0.1,
  'classifier.weight_decay_on': ('kernels', {'classifier.weight_decay': 0.1}),
  'filter.candidates': 2,
  'filter.min_confidence': 0.5,
  'filter.on_reject': ('drop', FILTERED),
  'filter.score_by': ('hard', {'filter.candidates': 2}),
  'flow.evaluations': (2, FLOW),
  'flow.guidance': (2.0, FLOW),
  'flow.solver': ('heun', FLOW),
  'generator.checkpoints': ('step:20', 'seed:3'),
  'generator.family': ('flow', {'flow.width': 8}),
  'generator.precision': 'bfloat16',
  'latents.interpolation': 0.5,
  'latents.std': 2.0,
  'latents.truncation': 1.0,
  'mix.classes': 'inverse',
  'mix.mode': 'add',
  'mix.ratio': 0.25,
  'mix.ratio_schedule': 'linear',
  'mix.source': 'noise',
  'mix.start_fraction': 0.5,
  'mix.stop_fraction': 0.5,
  'mix.weight': 0.5,
  'mix.weight_schedule': 'linear',
  'precision': 'bfloat16',
  'seed': 3,
  'targets.kind': 'smoothed',
  'targets.smoothing': (0.3, SMOOTHED),
}
OF_GENERATORS = {
  'flow.class_dropout': (0.5, FLOW),
  'flow.crop_padding': (2, FLOW),
  'flow.flip': (True, FLOW),
  'flow.reflow_steps': (5, FLOW),
  'flow.width': (16, FLOW),
  'gan.arch': ('dcgan', {}),
  'gan.beta1': 0.1,
  'gan.beta2': 0.9,
  'gan.d_steps': 2,
  'gan.diffaug': ('color',),
  'gan.discriminator_learning_rate': 0.1,
  'gan.label_smoothing': 0.3,
  'gan.latent_dim': 5,
  'gan.lecam': 0.1,
  'gan.loss': 'hinge',
  'gan.r1': 1.0,
  'gan.r2': 1.0,
  'gan.upsampling': ('nearest', DCGAN),
  'gan.width': 16,
  'generator.batch_size': 8,
  'generator.ema_decay': 0.5,
  'generator.learning_rate': 0.1,
  'generator.num_epochs': (3, {'generator.num_steps': 0}),
  'generator.num_steps': 30,
  'generator.seed': 3,
  'generator.train_precision': 'bfloat16',
}
OF_DATA = {
  'data.image_size': 16,
  'data.imbalance': 9.0,
  'data.imbalance_shape': ('step', IMBALANCED),
  'data.label_budget': 20,
  'data.seed': 3,
  'data.test_on': 'val',
  'data.train_on_val': True,
  'data.val_fraction': 0.3,
}
# Which arms, which data, and what is chosen, drawn and scored from: whole runs of other
# tests need them. The others change no number, or are switches of the process.
ELSEWHERE = {
  'arms',
  'augment.transform',
  'backend',
  'classifier.args',
  'data.name',
  'data.on_corrupt',
  'deterministic',
  'filter.teacher_steps',
  'generator.allow_foreign',
  'generator.args',
  'generator.save_every_steps',
  'generator.select',
  'generator.select_steps',
  'log.eval_every_steps',
  'log.every_steps',
  'matmul_precision',
  'score.extractor_steps',
  'score.num_samples',
  'score.width',
  'steps_per_call',
}


def _config(changes):
  config = config_lib.default()
  config.update_from_flattened_dict(TINY | changes)
  validation.validate(config)
  return config


def _both(value):
  """The changes without and with a field, of an entry in the tables above."""
  field, entry = value
  companions = {}
  if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], dict):
    entry, companions = entry
  return companions, companions | {field: entry}


def _toy():
  """With classes of different sizes, as some fields change nothing otherwise."""
  toy = make_dataset()
  return toy.__class__(
    toy.name, toy.class_names, toy.train.rows(np.arange(4, 36)), toy.val, toy.test
  )


def _describe(training):
  """What a training does: the text of each stage's step, lengths and seed."""
  state, data = training.with_pool(training.state), training.batches.shapes(1)
  texts = [
    programs.lower_step(
      stage.step, training.layout, state, data, *training.frozen
    ).as_text()
    for stage in training.stages
  ]
  return texts, training.num_steps, training.seed


@functools.cache
def _of_arm(**changes):
  session = Session(_config(changes), pathlib.Path('unused'), tiny.layout(num_devices=1))
  toy = _toy()
  model = recipe.build_model(session, toy.facts)
  evaluator = evaluators.Evaluator(session, model, largest=36)
  arm = arms.Arm(session, toy, 'augmented_classical', evaluator)
  return _describe(arm.training_ahead())


@functools.cache
def _of_generator(**changes):
  session = Session(_config(changes), pathlib.Path('unused'), tiny.layout(num_devices=1))
  return _describe(GeneratorTraining(session, _toy()).training)


@functools.cache
def _of_data(**changes):
  config = config_lib.default()
  config.update_from_flattened_dict(changes)
  dataset = runs.load_data(config)
  return dataset.facts


@pytest.mark.parametrize('item', OF_ARMS.items(), ids=lambda item: item[0])
def test_a_field_of_arms_reaches_the_fused_step(item):
  without, with_it = _both(item)
  assert _of_arm(**without) != _of_arm(**with_it)


def test_a_score_without_a_choice_asks_no_classifier_in_training():
  """With one candidate, 'hard' only accepts or rejects, by the teacher."""
  hard, teacher = (FILTERED | {'filter.score_by': by} for by in ('hard', 'teacher'))
  assert _of_arm(**hard) == _of_arm(**teacher)


@pytest.mark.parametrize('item', OF_GENERATORS.items(), ids=lambda item: item[0])
def test_a_field_of_generators_reaches_their_step(item):
  without, with_it = _both(item)
  assert _of_generator(**without) != _of_generator(**with_it)


@pytest.mark.parametrize('item', OF_DATA.items(), ids=lambda item: item[0])
def test_a_field_of_the_data_changes_them(item):
  without, with_it = _both(item)
  assert _of_data(**without) != _of_data(**with_it)


def test_every_field_that_changes_results_is_in_a_table():
  known = {field for field, entry in FIELDS.items() if entry.affects != 'nothing'}
  tables = OF_ARMS.keys() | OF_GENERATORS.keys() | OF_DATA.keys()
  assert tables | ELSEWHERE == known and not tables & ELSEWHERE
