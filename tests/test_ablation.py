"""Ablations: what they compare, how cells are shared out, what is concluded."""

import contextlib
import csv
import html.parser
import json
import operator
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from gan_aug_jax import cli, config
from gan_aug_jax.cli import parsing
from gan_aug_jax.data import datasets
from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.errors import (
  CheckpointError,
  ConfigError,
  DataError,
  NonFiniteError,
)
from gan_aug_jax.evaluation import figures
from gan_aug_jax.experiment import (
  ablation,
  arms as arms_lib,
  batch_picture,
  cells,
  estimate,
  findings,
  finished as finished_lib,
  runs,
  vmap_seeds,
  workers,
)
from gan_aug_jax.generators import families, generator_training, synthetic_source
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.report import (
  ablation_figures,
  ablation_report,
  ablation_sentences,
  run_sentences,
  sentences,
  tables,
)
from gan_aug_jax.step import synthesis
from gan_aug_jax.training import files, signals, workdir
from gan_aug_jax.training.workdir import Session
from tests import test_run, tiny

ROOT = pathlib.Path(__file__).parent.parent
NOWHERE = pathlib.Path('unused')
SIZE = 640
BASE = config.default().to_dict()
ABLATION = """
  config.classifier.arch, config.steps_per_call = 'mlp', 1  # compiles in less time
  config.ablation.seeds = (0, 1)
  config.ablation.arms = {'few': {'mix.ratio': 0.25}}
"""


def _config(**fields):
  return config.add_ablation(config.default(), **fields)


class Costs:
  """What `ablation.list_arms` has to know, the same for every config."""

  def __init__(self, num_train, *operations):
    self._num_train, self._operations = num_train, operations

  def num_train(self, config):
    return self._num_train

  def operations(self, config, control):
    return self._operations


def _arms(changed, *operations):
  return ablation.list_arms(changed, Costs(SIZE, *operations))


def _named(arms):
  return {arm.name: arm for arm in arms}


def test_controls_are_always_there():
  fields = _config(arms={'half': {'mix.ratio': 0.5}})
  fields.classifier.num_steps = 100
  arms = _named(_arms(fields))
  roles = [arm.role for arm in arms.values()]
  assert roles == ['control', 'control', 'matched', 'treatment']
  assert {'real_only', 'real_classical'} <= set(arms)
  half = arms['half']
  assert half.same_steps == 'real_classical'
  # Half of each of 100 batches is real: as many images as 50 whole ones.
  exposure = arms[half.same_exposure]
  assert exposure.fields == {'arms': ('real_classical',), 'classifier.num_steps': 50}
  # Nor is it left to the hour when its turn comes that it is over before it warms up.
  fields.classifier.warmup_steps = 60
  with pytest.raises(ConfigError, match=r"'real_classical_50_steps'.*below the 50 steps"):
    _arms(fields)


@pytest.mark.parametrize('control', ablation.CONTROLS)
def test_an_arm_is_augmented_as_its_control_is(control):
  named = {'other': {'arms': ('augmented',)}, 'usual': {'mix.ratio': 0.5}}
  fields = _config(arms=named, control=control, negative_controls=('noise',))
  arms = _named(_arms(fields))
  for name in ('other', 'usual', 'noise'):
    kinds = [arms[arm].fields['arms'][0] for arm in (name, arms[name].same_steps)]
    assert len({kind.endswith('classical') for kind in kinds}) == 1, name
  assert arms['usual'].same_steps == arms['noise'].same_steps == control


def test_an_arm_that_takes_more_steps_has_a_control_that_does():
  fields = _config(arms={'longer': {'classifier.budget': 'exposure', 'mix.ratio': 0.5}})
  fields.classifier.num_steps = 100
  arms = _named(_arms(fields))
  longer = arms['longer']
  assert arms[longer.same_steps].fields['classifier.num_steps'] == 200
  assert longer.same_exposure == 'real_classical'


def test_equal_compute_counts_the_gan():
  fields = _config(arms={'half': {'mix.ratio': 0.5}}, equal_compute=True)
  fields.classifier.num_steps = 100
  arms = _named(_arms(fields, 600.0, 11.0, 10.0))
  control = arms[arms['half'].same_compute]
  least = (600 + 100 * 11) / 10
  assert least <= control.fields['classifier.num_steps'] < 1.1 * (least + 1)


class CostsOfRatio(Costs):
  """The operations of a generator by ratio, or 10,000 times it; those of a step are 1."""

  def operations(self, config, control):
    (of_ratios,), ratio = self._operations, config.mix.ratio
    return of_ratios.get(ratio, 10_000 * ratio), 1.0, 1.0


def test_arms_of_nearly_equal_operations_share_a_control_that_has_at_least_as_many():
  operations = {0.1: 630.0, 0.2: 680.0, 0.5: 900.0}
  fields = _config(
    arms={f'{ratio}': {'mix.ratio': ratio} for ratio in operations}, equal_compute=True
  )
  fields.classifier.num_steps = 100
  arms = _named(ablation.list_arms(fields, CostsOfRatio(SIZE, operations)))
  controls = [arms[f'{ratio}'].same_compute for ratio in operations]
  assert controls[0] == controls[1] != controls[2]
  for control, least in zip(controls, operations.values(), strict=True):
    assert (
      100 + least <= arms[control].fields['classifier.num_steps'] < 1.1 * (101 + least)
    )


def test_whole_seeds_come_first_and_of_each_the_matching_controls_last():
  fields = _config(arms={'half': {'mix.ratio': 0.5}}, seeds=(3, 4))
  listed = cells.list_cells(fields, _arms(fields), NOWHERE)
  order = [(cell.seed, cell.arm.role == 'matched') for cell in listed]
  assert order == sorted(order) and (3, True) in order


def test_grid_repeats_the_controls_but_not_for_what_they_do_not_depend_on():
  fields = _config(grid={'data.label_budget': (10, 20), 'mix.mode': ('replace', 'add')})
  arms = _arms(fields)
  controls = [arm for arm in arms if arm.name == 'real_classical']
  assert len({arm.setting for arm in arms}) == 4
  assert [arm.fields['data.label_budget'] for arm in controls] == [10, 10, 20, 20]
  assert not any('mix.mode' in arm.fields for arm in controls)
  # Two of each control, and the same cells stand for both of its settings.
  keys = [
    cell.arm.key for cell in cells.list_cells(fields, arms, NOWHERE) if cell.seed == 0
  ]
  assert keys.count('label_budget=10,real_classical') == 1
  assert len(keys) == len(set(keys)) == len({arm.key for arm in arms}) < len(arms)


def test_an_arm_without_classical_augmentation_is_compared_with_none():
  plain = {'arms': ('augmented',)}
  arms = _named(_arms(_config(arms={'plain': plain, 'both': {}})))
  assert arms['plain'].same_steps == 'real_only'
  assert arms[arms['plain'].same_exposure].fields['arms'] == ('real_only',)
  assert arms['both'].same_steps == 'real_classical'


def test_no_exposure_is_matched_where_real_images_are_not_counted():
  wanted = {
    'filtered': {'filter.min_confidence': 0.5},
    'dropped': {'filter.min_confidence': 0.5, 'filter.on_reject': 'drop'},
    'none_real': {'mix.ratio': 1.0},
  }
  arms = _named(_arms(_config(arms=wanted)))
  matched = {name: arms[name].same_exposure for name in wanted}
  assert matched.pop('dropped') and set(matched.values()) == {''}


def _drawing(fields, workdir=NOWHERE):
  """The cells of an ablation that draw from a generator."""
  listed = cells.list_cells(fields, _arms(fields), workdir)
  return [cell for cell in listed if cell.generator]


def test_cells_share_a_gan_unless_it_would_be_another():
  arms = {
    'few': {'mix.ratio': 0.1},
    'hard': {'filter.candidates': 4, 'augment.apply_to': 'real'},
    'wide': {'gan.width': 16},
  }
  fields = _config(arms=arms, seeds=(0, 1), negative_controls=('noise', 'mislabelled'))
  listed = cells.list_cells(fields, _arms(fields), NOWHERE)
  gans = {(cell.arm.name, cell.seed): cell.generator for cell in listed}
  for seed in (0, 1):
    assert gans['few', seed] == gans['hard', seed] == gans['mislabelled', seed] != ''
    assert gans['noise', seed] == ''  # which asks no generator
    assert gans['wide', seed] != gans['few', seed]
    assert gans['real_only', seed] == ''
  assert gans['few', 0] != gans['few', 1]
  few = next(cell for cell in listed if cell.arm.name == 'few' and cell.seed == 1)
  seeds = [config.seed_of(few.generator_config, part) for part in ('data', 'generator')]
  assert seeds == [1, 1] and few.config.seed == 1


def test_cells_share_a_training_whose_checkpoints_they_draw_from():
  names = {'early': ('step:20',), 'both': ('step:100', 'step:20'), 'chosen': ()}
  arms = {name: {'generator.checkpoints': of_arm} for name, of_arm in names.items()}
  arms['seeds'] = {'generator.checkpoints': ('seed:7', 'seed:8')}
  fields = _config(arms=arms, seeds=(0, 1))
  listed = _drawing(fields)
  trained = {
    cell.generator: cell.generator_config.generator.checkpoints for cell in listed
  }
  # One training per seed keeps what any arm needs; 'seed:' is the chosen one.
  shared = [('step:20', 'step:100', f'seed:{seed}') for seed in (0, 1)]
  assert sorted(trained.values()) == 2 * [('seed:7', 'seed:8')] + shared
  for cell in listed:
    of_arm = arms[cell.arm.name]['generator.checkpoints']
    assert cell.config.generator.checkpoints == of_arm
  # A generator that nobody shares keeps the name that finished ablations know it by.
  alone = _config(arms={'both': arms['both']}, seeds=(0,))
  (cell,) = _drawing(alone)
  assert cell.generator_config.generator.checkpoints == names['both']


def test_a_new_field_renames_no_generator():
  """A renamed generator would be trained again."""
  fields = config.add_ablation(config.default(), seeds=(0,))
  (name,) = {cell.generator for cell in _drawing(fields)}
  assert name == '2698af35c5360e72'


def test_a_training_that_was_begun_serves_arms_that_are_added(tmp_path, toy):
  """It has what finished cells drew from; under another name it would be lost."""
  of_step = lambda *steps: {'generator.checkpoints': tuple(f'step:{n}' for n in steps)}
  arms = {'early': of_step(20), 'late': of_step(100)}
  fields = _config(arms=arms, seeds=(0,))
  fields.data.image_size = toy.image_shape[0]
  (cell, _) = _drawing(fields, tmp_path)
  directory = cells.generator_workdir(tmp_path, cell.generator)
  workdir.claim(Session(cell.generator_config, directory, tiny.layout('jit', 1)), toy)
  added = {'both': of_step(100, 20), 'chosen': of_step(), 'last': of_step(200)}
  fields.ablation.arms = arms | added
  names = {one.arm.name: one.generator for one in _drawing(fields, tmp_path)}
  assert names['early'] == names['late'] == names['both'] == cell.generator
  assert names['chosen'] == cell.generator  # every training keeps that one
  assert names['last'] != cell.generator


def test_a_step_that_is_not_saved_is_refused_before_anything_is_trained(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  fields = _config(arms={'early': {'generator.checkpoints': ('step:3',)}})
  small = {'data.name': 'toy', 'data.image_size': 8, 'generator.num_steps': 4}
  fields.update_from_flattened_dict(small | {'generator.save_every_steps': 2})
  with pytest.raises(
    ConfigError, match='names step 3, but it is saved at multiples of 2'
  ):
    cells.make_plan(fields, tmp_path, tiny.layout('jit', 1))


@pytest.mark.parametrize('part', ['generator', 'classifier'])
def test_a_cell_whose_batch_cannot_be_divided_is_refused(tmp_path, monkeypatch, part):
  """A GAN counts an image twice where it cannot."""
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  fields = _config(grid={f'{part}.batch_size': (8, 10)})
  fields.update_from_flattened_dict({'data.name': 'toy', 'data.image_size': 8})
  with pytest.raises(ConfigError, match=f'{part}.batch_size=10 must be a multiple of'):
    cells.make_plan(fields, tmp_path, tiny.layout('jit', 4))


@pytest.mark.parametrize(
  'spec',
  [
    {'grid': {'precision': ('float32', 'float64')}},
    {'arms': {'x': {'generator.precision': 'float64'}}},
    {'controls': {'x': {'classifier.precision': 'float64'}}},
  ],
)
def test_float64_in_some_cells_only_is_refused(spec):
  """JAX would compute in float32 there, and say nothing."""
  with pytest.raises(ConfigError, match='must both compute in float64, or neither'):
    _arms(_config(**spec))
  base = config.default()
  base.precision = 'float64'
  assert _arms(config.add_ablation(base, grid={'mix.ratio': (0.1, 0.2)}))


def test_ratios_are_means_over_steps_and_not_over_lines():
  """Half of the images for 50 steps, none for 50, half for a last line of 10."""
  rows = [{'step': 50, 'x': 0.5}, {'step': 80}, {'step': 100, 'x': 0.0}]
  rows += [{'step': 110, 'x': 0.5}]
  mean = arms_lib._mean_over_steps(rows, 'x')
  assert mean == pytest.approx((50 * 0.5 + 10 * 0.5) / 110)
  assert np.isnan(arms_lib._mean_over_steps([], 'x'))  # the file of metrics was lost


def _seen(prints, test_on='test'):
  """Gives a cell the fingerprints of its training, validation and test images.

  Args:
    prints: `(arm, seed) -> [3]`.
  """

  def change(cell):
    of_cell = prints(cell.about['arm'], cell.about['seed'])
    cell.arm.update(zip(workdir.SPLITS, of_cell, strict=True))
    cell.results['test_on'] = test_on

  return change


@pytest.mark.parametrize(
  ('arm', 'seen', 'kind'),
  [
    ('good', 'tve', None),
    ('good', 'Tve', 'training'),
    ('good', 'tVe', 'validation'),
    ('good', 'tvE', 'test'),
    ('good', ('', None, 'e'), None),  # of an older version
    ('more', 'Tve', None),  # on purpose
    ('more', 'TVe', 'validation'),
    ('more', 'TvE', 'test'),
  ],
)
def test_cells_of_different_images_are_not_compared(arm, seen, kind):
  """As when a label in the folder was corrected before an arm was added."""
  arms = {'base': ('control', 0.7, [0.8]), 'good': ('treatment', 0.9, [0.9])}
  arms['more'] = ('all_labels', 0.9, [0.85])
  change = _seen(lambda name, seed: seen if name == arm else 'tve')
  refused = pytest.raises(CheckpointError, match=f'different {kind} images')
  with refused if kind else contextlib.nullcontext():
    _summary(arms, 1, change=change)


@pytest.mark.parametrize('test_on', ['test', 'val'])
def test_seeds_of_different_test_images_are_not_compared(test_on):
  """Unless they are the validation images, which every seed draws anew."""
  arms = {'base': ('control', 0.7, [0.8, 0.7]), 'x': ('treatment', 0.9, [0.9, 0.8])}
  change = _seen(lambda name, seed: [f'{split}{seed}' for split in 'tve'], test_on)
  refused = pytest.raises(CheckpointError, match='different test images')
  with refused if test_on == 'test' else contextlib.nullcontext():
    _summary(arms, 2, change=change)


def test_a_report_has_the_scores_of_every_generator(tmp_path, monkeypatch):
  """The first one, made at once or with one checkpoint, may have none or fewer."""
  scores = {'warps': {}, 'short': {'step': 9}, 'long': {'step': 8, 'cas': 0.5}}
  monkeypatch.setattr(finished_lib, 'scores_of', lambda _, name, drawn: scores[name])
  cells_of = [
    types.SimpleNamespace(
      about={'name': name, 'generator': name},
      results={'generator': {}},
      generator_seconds=1,
    )
    for name in scores
  ]
  table = ablation_report._generators(tmp_path, cells_of)
  assert table['headings'] == ['first used by', 'step', 'cas', 'seconds', 'directory']
  columns = [values[:2] for _, values in table['rows']]
  assert columns == [['n/a', 'n/a'], ['9', 'n/a'], ['8', '0.5']]


def test_scores_are_those_of_the_step_that_is_drawn_from(tmp_path):
  rows = [{'step': 10, 'cas': 0.4}, {'step': 110, 'cas': 0.3}]
  result = {'candidates': rows, 'chosen_step': 110}
  directory = tmp_path / 'generators' / 'g' / 'generator'
  directory.mkdir(parents=True)
  (directory / 'result.json').write_text(json.dumps(result))
  scores = lambda *drawn: finished_lib.scores_of(tmp_path, 'g', drawn)['cas']
  assert scores('seed 3, step 10') == 0.4 and scores('seed 3, step 110') == 0.3
  assert scores() == scores('seed 3, step 10', 'seed 3, step 110') == 0.3


@pytest.mark.parametrize('train', [False, True])
def test_a_cell_draws_from_its_own_checkpoints_of_a_shared_training(
  monkeypatch, toy, train
):
  """Or every length of training would be scored with the images of all of them."""

  class Training:
    def __init__(self, session, dataset):
      assert session.config.generator.checkpoints == ('step:20', 'step:100')

    def train(self):
      return 'all'

  loaded = lambda session, facts: session.config.generator.checkpoints
  monkeypatch.setattr(runs, 'GeneratorTraining', Training)
  monkeypatch.setattr(runs.frozen, 'load_generator', loaded)
  own, all_of_them = config.default(), config.default()
  own.generator.checkpoints = ('step:20',)
  all_of_them.generator.checkpoints = ('step:20', 'step:100')
  session, shared = (
    Session(fields, pathlib.Path('unused'), tiny.layout('jit', 1))
    for fields in (own, all_of_them)
  )
  run = runs.Run(session, toy, generator_session=shared)
  assert run.load_or_train_generator(train=train) == ('step:20',)


@pytest.mark.parametrize(
  'kept, field, value, draws',
  [
    (['chosen'], 'seed', 1, 0),
    (['chosen', 'step20'], 'seed', 1, 1),  # the samples begin with another step's
    (['chosen'], 'latents.std', 2.0, 1),
    (['chosen'], 'gan.width', 7, 1),  # stands for what it is drawn with
  ],
)
def test_the_picture_of_an_arm_shows_what_it_draws(
  monkeypatch, tmp_path, toy, kept, field, value, draws
):
  drawn, fields = [], config.default()
  options = json.dumps(families.drawing_arguments_of(fields))
  images = toy.train.images[:4]
  files.write_arrays(tmp_path / 'samples.npz', drawn=images, options=options)
  fields.update_from_flattened_dict({field: value})
  arm = types.SimpleNamespace(
    session=types.SimpleNamespace(config=fields),
    dataset=toy,
    directory=tmp_path,
    name='augmented',
    is_augmented=True,
  )
  draw = lambda *_: drawn.append(1) or toy.train.images[:4]
  monkeypatch.setattr(batch_picture, 'draw', draw)
  generator = types.SimpleNamespace(directory=tmp_path, info={'kept': kept})
  batch_picture.write(arm, generator, None)
  assert len(drawn) == draws


@pytest.mark.parametrize('backend, num_devices', [('jit', 3), ('pmap', 1)])
def test_the_picture_of_several_generators_needs_no_layout(
  tmp_path, toy, backend, num_devices
):
  """Ten images cannot be spread over three devices, nor drawn inside no `pmap`."""
  fields = config.default()
  fields.gan.arch, fields.mix.ratio = 'mlp', 0.5
  fields.generator.checkpoints = ('step:1', 'step:2')
  session = Session(fields, tmp_path, tiny.layout(backend, num_devices))
  shapes = synthetic_source.build_source(session, toy).shapes
  spread = lambda x: np.linspace(-1, 1, x.size, dtype=x.dtype).reshape(x.shape)
  variables = jax.tree.map(spread, shapes.generator)
  source_variables = types.SimpleNamespace(
    frozen=synthesis.FrozenModels(generator=variables)
  )
  arm = types.SimpleNamespace(session=session, dataset=toy)
  drawn = batch_picture.draw(arm, None, source_variables)
  fields.generator.checkpoints = ()
  for member in range(2):
    own = jax.tree.map(operator.itemgetter(member), variables)
    source_variables.frozen = synthesis.FrozenModels(generator=own)
    alone = batch_picture.draw(arm, None, source_variables)
    np.testing.assert_array_equal(drawn[member::2], alone[member::2])
    assert (drawn[1 - member :: 2] != alone[1 - member :: 2]).any()


@pytest.mark.parametrize('file', sorted(ROOT.glob('configs/[ae]*/*.py')))
def test_shipped_ablations_are_sound(file):
  shipped = runpy.run_path(str(file))['get_config']()
  arms = _arms(shipped, 600.0, 11.0, 10.0)
  for setting in {arm.setting for arm in arms}:
    roles = [arm.role for arm in arms if arm.setting == setting]
    assert roles.count('treatment') > 0
    if file.name not in ('full.py', 'proportion.py'):  # which are as they were asked for
      assert roles.count('treatment') <= roles.count('control')  # as many trials


def test_a_part_of_the_full_experiment_has_the_cells_of_the_whole(tmp_path):
  shipped = ROOT / 'configs/ablations/full.py'
  get_config = runpy.run_path(str(shipped))['get_config']
  whole = dict(get_config('cifar10').ablation.arms)
  part = get_config('cifar10,0.5,plain,0.2')
  assert list(part.ablation.arms) == ['ratio=0.2', 'ratio=0.5']
  assert all(whole[name] == arm for name, arm in part.ablation.arms.items())
  planned = [
    {arm.key: arm for arm in ablation.list_arms(config, CostsOfRatio(45_000, {}))}
    for config in (part, get_config('cifar10'))
  ]
  assert planned[0].items() <= planned[1].items() and len(planned[0]) < len(planned[1])
  for unknown in ('cifar10,0.3', 'cifar10,plain,plain', 'cifar', 'plain'):
    with pytest.raises(ConfigError, match=f'no experiment {unknown!r}'):
      get_config(unknown)


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ({'seeds': ()}, 'ablation.seeds'),
    ({'seeds': (1, 1)}, 'ablation.seeds'),
    ({'seeds': (-1,)}, 'ablation.seeds'),
    ({'control': 'augmented'}, 'ablation.control'),
    ({'negative_controls': ('sugar',)}, 'ablation.negative_controls'),
    ({'oracles': ('noise',)}, 'ablation.oracles'),
    ({'arms': {'a': {'data.train_on_val': True}}}, 'data.train_on_val'),
    ({'grid': {'data.train_on_val': (False, True)}}, 'ablation.controls'),
    ({'arms': {'a': {'mix.source': 'held_out'}}}, 'ablation.oracles'),
    ({'grid': {'mix.source': ('noise', 'held_out')}}, 'ablation.oracles'),
    ({'arms': {'a b': {}}}, "ablation.arms['a b']"),
    ({'arms': {'real_only': {}}}, 'another arm'),
    ({'controls': {'real_only_9_steps': {}}}, 'another arm'),  # matched to an arm
    ({'arms': {'a': {'mix.raito': 0.1}}}, 'mix.raito'),
    ({'arms': {'a': {'mix.ratio': 'much'}}}, 'mix.ratio'),
    ({'arms': {'a': {'mix.ratio': 1.5}}}, 'mix.ratio'),
    ({'arms': {'a': {'data.label_budget': 5}}}, 'data.label_budget'),
    ({'arms': {'a': {'classifier.width': 5}}}, 'classifier.width'),
    ({'controls': {'a': {'mix.ratio': 0.1}}}, 'mix.ratio'),
    (
      {'controls': {'a': {'classifier.num_epochs': 5, 'classifier.num_steps': 7}}},
      'no effect, because classifier.num_steps=7',
    ),
    ({'grid': {'seed': (1, 2)}}, 'ablation.seeds'),
    ({'grid': {'deterministic': (False, True)}}, 'the same for all of a process'),
    ({'grid': {'data.label_budget': 5}}, 'tuple'),
    ({'grid': {'data.label_budget': (1,)}}, 'data.label_budget'),
    ({'grid': {'data.label_budget': (10, 10)}}, 'twice'),
    ({'arms': {'a': {'augment.mixup': 0.2}}}, 'augment.mixup'),
    ({'arms': {'a': {'generator.seed': 3}}}, 'generator.seed'),
    ({'arms': {'a': {'augment.apply_to': 'synthetic'}}}, 'must agree on that'),
    ({'arms': {'a': {'arms': ('real_only',)}}}, "'augmented'"),
    ({'controls': {'a': {'arms': ('augmented',)}}}, "'real'"),
    ({'vmap_seeds': True, 'arms': {'a': {'cache.refresh_steps': 2}}}, 'refresh_steps'),
    (
      {'vmap_seeds': True, 'arms': {'a': {'generator.checkpoints': ('seed:1',)}}},
      'checkpoints',
    ),
    ({'equal_compute': True, 'arms': {'a': {'targets.kind': 'teacher'}}}, 'targets.kind'),
  ],
)
def test_what_cannot_work_is_refused_in_a_sentence(fields, named):
  with pytest.raises(ConfigError) as caught:
    _arms(_config(**fields))
  assert named in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('part', 'fields'),
  [
    ('generator', {'arms': {'a': {'generator.num_epochs': 5}}}),
    ('classifier', {'controls': {'a': {'classifier.num_epochs': 5}}}),
    ('classifier', {'grid': {'classifier.num_epochs': (5, 10)}}),
  ],
)
def test_epochs_that_a_number_of_steps_overrides_are_refused(part, fields):
  fields = _config(**fields)
  _arms(fields)
  fields[part].num_steps = 7
  with pytest.raises(ConfigError, match=f'no effect, because {part}.num_steps=7'):
    _arms(fields)


def test_a_pool_is_counted_as_if_every_step_drew(tmp_path, monkeypatch):
  fields, counted = _config(arms={'pool': {}}, equal_compute=True, seeds=(0,)), []
  fields.cache.refresh_steps = 4

  step = types.SimpleNamespace(
    stages=[None], operations=lambda: 10.0, step_operations=lambda _: 10.0
  )

  def make_arm(session, *_, **__):
    counted.append(session.config.cache.refresh_steps)
    return types.SimpleNamespace(training=lambda: step)

  monkeypatch.setattr(arms_lib, 'Arm', make_arm)
  of_generator = types.SimpleNamespace(family=types.SimpleNamespace(fit=None))
  of_generator.training = step
  monkeypatch.setattr(generator_training, 'GeneratorTraining', lambda *_: of_generator)
  facts = DataFacts('', ('a', 'b'), (8, 8, 3), num_train=9)
  data = types.SimpleNamespace(train=[0] * 9, facts=facts)
  monkeypatch.setattr(cells, 'load_data', lambda _: data)
  listed = cells.make_plan(fields, tmp_path, tiny.layout('jit', 1)).cells
  pool = next(cell for cell in listed if cell.arm.name == 'pool')
  assert set(counted) == {1} and pool.config.cache.refresh_steps == 4


def test_a_budget_that_leaves_nothing_unseen_is_refused_before_anything_is_trained(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  fields = _config(oracles=('held_out',), seeds=(0,))
  fields.data.name, fields.data.image_size = 'toy', 8
  with pytest.raises(DataError, match="leaves none of class 'a'"):
    cells.make_plan(fields, tmp_path, tiny.layout('jit', 1))
  fields.data.label_budget = 8
  listed = cells.make_plan(fields, tmp_path, tiny.layout('jit', 1)).cells
  kept = {cell.arm.name: cells.load_data(cell.config).held_out_real for cell in listed}
  assert len(kept.pop('held_out')) == 3 * 16 - 3 * 8 and not any(kept.values())


def test_a_seed_that_would_be_the_same_for_all_is_refused():
  fields = _config()
  fields.generator.seed = 3
  with pytest.raises(ConfigError, match=r'generator\.seed=3'):
    _arms(fields)


# A worker whose trainings only leave a mark, so that many can be watched in a second.
WORKER = """
import json, os, pathlib, sys, time
from gan_aug_jax import config
from gan_aug_jax.experiment import cells, runs, workers
from tests import test_ablation

workdir, pause = pathlib.Path(sys.argv[1]), float(sys.argv[2])

def train(session):
  name = session.workdir.name
  with open(workdir / 'log', 'a') as log:
    log.write(f'{name}\\n')
  time.sleep(pause)
  directory = session.path('arms', session.config.arms[0])
  directory.mkdir(parents=True)
  (directory / 'predictions.npz').touch()
  results = json.dumps({'arms': {session.config.arms[0]: {}}})
  session.path('results.json').write_text(results)

runs.Run = test_ablation.make_run(train)
cells.load_data = lambda config: type('Data', (), {'train': [0]})
workers.workdir_lib.claim = lambda session, dataset: None
workers.estimate.work_of = lambda cells, *_: dict.fromkeys([c.name for c in cells], 1)
workers.Worker._load_or_train_generator = lambda *_: object()
workers.run(test_ablation.units_to_share(), workdir, None)
"""


@pytest.mark.parametrize(
  ('count', 'words'),
  [(1, ('1 cell,', '1 generator;')), (4, ('4 cells,', '4 generators;'))],
)
def test_one_of_a_thing_is_not_a_plural(count, words, tmp_path, capsys):
  fields = _config(seeds=tuple(range(count)), arms={'few': {'mix.ratio': 0.1}})
  several = _drawing(fields)
  plan = cells.Plan(fields, [], several, tmp_path, tiny.layout('jit', 1))
  for text in words:
    assert text in plan.describe()
  seconds = estimate.Estimate(
    {cell.name: 1.0 for cell in several}, {cell.generator: 1.0 for cell in several}
  )
  tables.print_plan(several, seconds)
  end = '' if count == 1 else 's'
  assert f'{count} classifier{end} {count} s, {count} generator{end} {count} s' in (
    capsys.readouterr().out
  )


@pytest.mark.slow  # lowers every step of an ablation
def test_what_is_left_is_counted_in_operations(tmp_path, monkeypatch):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  arms = {'more': {'mix.mode': 'add', 'mix.ratio': 1.0}, 'less': {'mix.ratio': 0.25}}
  fields, counted = _config(arms=arms, seeds=(0, 1)), []
  count = GeneratorTraining.operations
  counting = lambda self: counted.append(self) or count(self)
  monkeypatch.setattr(GeneratorTraining, 'operations', counting)
  small = {'data.name': 'toy', 'data.image_size': 8, 'augment.crop_padding': 1}
  small |= {'gan.arch': 'mlp', 'gan.width': 8, 'generator.num_steps': 4}
  small |= {'classifier.arch': 'mlp', 'classifier.hidden': (8,)}
  small |= {'classifier.num_steps': 10, 'classifier.batch_size': 8}
  fields.update_from_flattened_dict(small)
  layout = tiny.layout('jit', 1)
  plan = cells.make_plan(fields, tmp_path, layout)
  work = estimate.work_of(plan.cells, tmp_path, layout)
  generators = {cell.generator for cell in plan.cells if cell.generator}
  assert set(work) == {cell.name for cell in plan.cells} | generators
  assert len(generators) == 2 and len({work[name] for name in generators}) == 1
  assert len(counted) == 1  # it is the same for every arm and seed, and slow to count
  seconds = estimate.of_ablation(plan).generators
  assert set(seconds) == generators and min(seconds.values()) > 0
  # After an interruption the first seed has its generator, the second does not.
  lacks = lambda cell, *_: bool(cell.generator) and cell.seed == 1
  with monkeypatch.context() as context:
    context.setattr(cells.Cell, 'lacks_generator', lacks)
    again = estimate.work_of(plan.cells, tmp_path, layout)
  second = next(c.generator for c in plan.cells if c.generator and c.seed == 1)
  assert {name for name in again if name in generators} == {second}
  assert again[second] == work[second]
  # As many steps, of twice the images and a forward pass of the generator.
  assert work['more,seed=0'] == work['more,seed=1'] > 1.9 * work['real_classical,seed=0']
  fields.steps_per_call = 5  # composed ahead of a loop
  plan = cells.make_plan(fields, tmp_path / 'scanned', layout)
  scanned = estimate.work_of(plan.cells, tmp_path / 'scanned', layout)
  assert sorted(scanned.values()) == pytest.approx(sorted(work.values()), rel=1e-3)


def test_the_config_of_a_run_is_an_ablation_of_its_arms(monkeypatch):
  monkeypatch.chdir(ROOT)
  flags = ['gan_aug_jax', '--config=configs/mnist5k.py', '--workdir=w']
  config = parsing.parse('ablate', flags).config
  names = {arm.name for arm in ablation.list_arms(config, Costs(1000, 4, 2, 1))}
  assert {'augmented_classical', 'real_only', 'real_classical'} <= names
  assert len(config.ablation.seeds) == 5


def make_run(train):
  """A stand-in for `runs.Run` that calls `train(session)` and trains nothing."""

  class Run:
    def __init__(self, session, dataset, generator_session=None):
      self.session, self.dataset, self.arms = session, dataset, [self]
      self.generator = types.SimpleNamespace(
        session=generator_session, start=lambda: None
      )
      self.directory = session.path('arms', session.config.arms[0])

    def start(self, *, generator=True):
      pass

    def train_arms(self, generator):
      train(self.session)

  return Run


def units_to_share():
  fields = _config(seeds=tuple(range(4)), arms={'few': {'mix.ratio': 0.1}})
  return [[cell] for cell in cells.list_cells(fields, _arms(fields), NOWHERE)]


def _start_worker(workdir, pause=0.02):
  command = [sys.executable, '-c', WORKER, str(workdir), str(pause)]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.slow  # processes that wait for each other
def test_two_workers_train_each_cell_once_and_a_killed_one_gives_its_claim_up(tmp_path):
  names = sorted(cell.name for unit in units_to_share() for cell in unit)
  killed = _start_worker(tmp_path, pause=600)
  while not (tmp_path / 'log').exists():
    time.sleep(0.02)
  # All are given all cells: the hardest case.
  workers = [_start_worker(tmp_path) for _ in range(2)]
  while len((tmp_path / 'log').read_text().split()) < 3:
    time.sleep(0.02)
  os.kill(killed.pid, signal.SIGKILL)
  assert [worker.wait(60) for worker in workers] == [0, 0]
  begun = (tmp_path / 'log').read_text().split()
  assert sorted(begun[1:]) == names  # the killed one's cell was begun twice
  assert begun[0] in begun[1:]


def test_a_failed_cell_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
  trained = []

  def train(session):
    trained.append(session.workdir.name)
    if 'seed=1' in session.workdir.name:
      raise NonFiniteError('loss is nan at step 3')

  monkeypatch.setattr(runs, 'Run', make_run(train))
  monkeypatch.setattr(cells, 'load_data', lambda _: type('Data', (), {'train': [0]}))
  monkeypatch.setattr(workers.workdir_lib, 'claim', lambda *_: None)
  monkeypatch.setattr(workers.Worker, '_load_or_train_generator', lambda *_: object())
  monkeypatch.setattr(workers.estimate, 'work_of', lambda *_: {})
  units = units_to_share()
  failures = workers.run(units, tmp_path, None)
  assert len(trained) == len(units)
  assert set(failures) == {cell.name for (cell,) in units if cell.seed == 1}
  assert set(failures.values()) == {'loss is nan at step 3'}


def test_a_failed_cell_is_tried_once_a_command_whatever_the_number_of_workers(
  tmp_path, monkeypatch
):
  trained = []

  def train(session):
    trained.append(session.workdir.name)
    raise NonFiniteError('loss is nan at step 3')

  def fail(self, session):
    trained.append(session.workdir.name)
    raise DataError('no images')

  monkeypatch.setattr(runs, 'Run', make_run(train))
  monkeypatch.setattr(
    runs.Run,
    'load_or_train_generator',
    lambda run: fail(run, run.generator.session),
    raising=False,
  )
  monkeypatch.setattr(cells, 'load_data', lambda _: type('Data', (), {'train': [0]}))
  monkeypatch.setattr(workers.workdir_lib, 'claim', lambda *_: None)
  units = units_to_share()
  gans = {cell.generator for (cell,) in units if cell.generator}
  tried = sorted([*gans, *(cell.name for (cell,) in units if not cell.generator)])
  for command in range(2):
    trained.clear()
    begun = [workers.Worker(tmp_path, None) for _ in range(3)]  # all at the same time
    for unit in units:
      assert all(worker.train(unit) for worker in begun), command
    assert sorted(trained) == tried
  whys = [cells.failure(tmp_path, cell.name) for (cell,) in units]
  assert {why.partition(' (')[0] for why in whys} == {
    'loss is nan at step 3',
    'Its generator',
  }


def test_what_fails_of_a_cell_before_its_generator_is_trained_fails_no_other(
  tmp_path, monkeypatch
):
  """As an optimizer of the user's in one point of a grid."""
  trained = []

  def start(run, *, generator=True):
    if run.session.config.classifier.learning_rate == 0.5:
      raise ConfigError('classifier.optimizer cannot be built.')

  def train_generator(run):
    trained.append(run.generator.session.workdir.name)
    return object()

  monkeypatch.setattr(runs, 'Run', make_run(lambda _: None))
  monkeypatch.setattr(runs.Run, 'start', start)
  monkeypatch.setattr(runs.Run, 'load_or_train_generator', train_generator, raising=False)
  monkeypatch.setattr(cells, 'load_data', lambda _: type('Data', (), {'train': [0]}))
  monkeypatch.setattr(workers.workdir_lib, 'claim', lambda *_: None)
  fields = _config(seeds=(0,), grid={'classifier.learning_rate': (0.5, 0.1)})
  listed = _drawing(fields)
  assert len({cell.generator for cell in listed}) == 1
  worker = workers.Worker(tmp_path, None)
  assert all(worker.train([cell]) for cell in listed)
  failures = {cell.name: cells.failure(tmp_path, cell.name) for cell in listed}
  assert [name for name, why in failures.items() if why] == [
    cell.name for cell in listed if cell.config.classifier.learning_rate == 0.5
  ]
  assert trained == [listed[0].generator]


def _finished(arm, kind, seed, *, val, right, counts, support, logit_adjustment=0.0):
  scores = dict.fromkeys(findings._MEANS, 0.0)
  scores |= {'val_recall': val, 'eval_accuracy': float(np.mean(right))}
  recall = [0.9, float(np.mean(right))]  # of a common class and of a rare one
  per_class = {'f1': [0.5, 0.5], 'recall': recall, 'support': list(support)}
  scores |= {'step_ms_median': 10.0, 'per_class': per_class}
  results = {'dataset': 'toy', 'generator': {}, 'train_counts': counts}
  results |= {'arms': {kind: scores}, 'logit_adjustment': logit_adjustment}
  about = {'name': f'{arm},{seed}', 'arm': arm, 'seed': seed, 'kind': kind}
  about['generator'] = ''
  return finished_lib.Finished(about, {}, results, right, 0.0)


def _summary(
  accuracies,
  seeds,
  counts=(5, 5),
  support=(5, 5),
  fields=None,
  change=lambda cell: None,
):
  """Of arms {name: (role, validation accuracy, [test accuracy of each seed])}.

  Args:
    fields: {name: what the arm sets}.
    change: called with every finished cell.
  """
  arms, finished = [], []
  for name, (role, val, tests) in accuracies.items():
    arm = {'setting': '', 'name': name, 'role': role, 'key': name}
    arm['fields'] = (fields or {}).get(name, {})
    controls = {'same_steps': 'base', 'same_exposure': '', 'same_compute': ''}
    is_control = role in ('control', 'all_labels')
    arms.append(arm | (controls if not is_control else {}))
    kind = 'real_only' if is_control else 'augmented'
    for seed in range(min(seeds, len(tests))):
      right = np.arange(1000) < round(1000 * tests[seed])
      options = {'counts': list(counts), 'support': support}
      tau = arm['fields'].get('classifier.logit_adjustment', 0.0)
      options['logit_adjustment'] = tau
      finished.append(_finished(name, kind, seed, val=val, right=right, **options))
      change(finished[-1])
  plan = {'ablation': {'control': 'base'}, 'arms': arms, 'config': BASE}
  plan['cells'] = [cell.about for cell in finished] + [{'name': 'late', 'seed': 9}]
  return findings.summarize(plan, finished, {'broken': 'why'})


def test_findings_choose_by_validation_and_decide_by_paired_differences():
  base = np.array([0.80, 0.84, 0.78, 0.82, 0.81])
  summary = _summary(
    {
      'base': ('control', 0.7, base),
      'other': ('control', 0.8, base - 0.002),
      # Seeds differ by far more than arms do: only paired can this be seen.
      'good': ('treatment', 0.9, np.add(base, [0.010, 0.012, 0.009, 0.011, 0.010])),
      'lucky': ('treatment', 0.6, np.add(base, [0.09, -0.05, 0.08, -0.02, 0.03])),
    },
    seeds=5,
  )
  (setting,) = summary['settings']
  rows = _named_rows(setting)
  good, lucky = rows['good']['difference'], rows['lucky']['difference']
  assert good['mean'] == pytest.approx(0.0104) and good['verdict'] == 'helps'
  assert lucky['mean'] > good['mean'] and lucky['verdict'] == 'no difference shown'
  assert good['adjusted_p'] == pytest.approx(2 * good['p'])  # the second of three
  best = setting['best']
  assert (best['arm'], best['control']) == ('good', 'other')
  assert (best['trials'], best['control_trials']) == (2, 2)
  assert summary['num_comparisons'] == 3
  assert summary['missing'] == ['late'] and summary['failures'] == {'broken': 'why'}


@pytest.mark.parametrize(('support', 'control'), [((9, 1), 'base'), ((5, 5), 'shifted')])
def test_the_best_are_chosen_with_classes_weighted_as_in_the_test_images(
  support, control
):
  """Or, with imbalanced test images, a control that gives accuracy for recall would be
  the one to beat. The validation images are balanced here."""
  recall = {'base': (0.9, 0.3), 'shifted': (0.7, 0.7), 'x': (0.9, 0.3)}

  def change(cell):
    common, rare = np.round(10 * np.array(recall[cell.about['arm']]))
    counts = [[common, 10 - common], [10 - rare, rare]]
    cell.arm.update(val_confusion_matrix=counts)

  arms = {name: ('control', 0.5, [0.8] * 3) for name in ('base', 'shifted')}
  arms['x'] = ('treatment', 0.5, [0.8] * 3)
  (setting,) = _summary(arms, 3, support=support, change=change)['settings']
  assert setting['best']['control'] == control


def test_the_band_of_accuracies_is_the_control_that_the_arms_have_in_common(monkeypatch):
  drawn = []
  monkeypatch.setattr(figures, 'along', lambda line, *_, **__: drawn.append(line))
  arms = {'base': ('control', 0.7, [0.8] * 3), 'other': ('control', 0.7, [0.1] * 3)}
  ratios = {'few': 0.1, 'half': 0.5}
  arms |= {name: ('treatment', 0.9, [0.9] * 3) for name in ratios}
  change = lambda cell: cell.arm.update(
    effective_ratio=ratios.get(cell.about['arm'], 0.0)
  )
  (setting,) = _summary(arms, 3, change=change)['settings']
  rows = setting['arms']
  ablation_figures._accuracy(rows, rows[2:])
  assert drawn[0].band[1] == pytest.approx(0.8)
  rows[-1]['difference']['control'] = 'other'
  ablation_figures._accuracy(rows, rows[2:])
  assert len(drawn) == 1


def test_a_run_describes_the_checkpoint_that_its_arms_draw_from():
  rows = [
    {'step': step, 'cas': cas, 'memorised': share}
    for step, cas, share in ((10, 0.4, 0.5), (20, 0.6, 0.0))
  ]
  info = {'candidates': rows, 'chosen_step': 20, 'members': ['seed 0, step 20']}
  assert 'step 20 was chosen' in run_sentences.choice(info)
  assert 'no sign of copying' in run_sentences.copies(info)
  for members in (['seed 0, step 10'], ['seed 0, step 10', 'seed 0, step 20']):
    info['members'] = members
    assert 'draw from seed 0, step 10' in run_sentences.choice(info)
    assert 'of step 10 are' in run_sentences.copies(info)
    assert 'it copies training images' in run_sentences.copies(info)


def test_notes_on_the_data_are_those_of_the_cell_that_has_the_most():
  parts = {'val': 0.5, 'right': np.ones(10, bool), 'counts': [5, 5]}
  parts['support'] = [5, 5]
  cells = [_finished('base', 'real_only', seed, **parts) for seed in range(3)]
  cells[1].results['data_notes'] = ['one', 'two']
  cells[2].results['data_notes'] = ['other']
  arm = {'setting': '', 'name': 'base', 'role': 'control', 'fields': {}, 'key': 'base'}
  plan = {'ablation': {'control': 'base'}, 'arms': [arm], 'config': BASE}
  plan['cells'] = [cell.about for cell in cells]
  summary = findings.summarize(plan, cells, {})
  assert summary['data_notes'] == ['one', 'two']
  assert ablation_sentences.status(summary)[-2:] == ['one', 'two']
  plan['config'] = BASE | {'data': BASE['data'] | {'seed': 3}}
  (*_, line, _, _) = ablation_sentences.status(findings.summarize(plan, cells, {}))
  assert line.startswith('data.seed is fixed')


def test_every_dataset_of_a_grid_is_named_with_its_notes(capsys):
  parts = {'val': 0.5, 'right': np.ones(10, bool), 'counts': [5, 5]}
  parts['support'] = [5, 5]
  # Two folders of one name in two settings, and another dataset in the last.
  notes = {'one': ['first', 'both'], 'two': ['second', 'both'], 'three': ['third']}
  cells, arms = [], []
  for setting in notes:
    arms.append({'setting': setting, 'name': 'base', 'role': 'control', 'fields': {}})
    arms[-1]['key'] = f'{setting},base'
    cells.append(_finished(f'{setting},base', 'real_only', 0, **parts))
    cells[-1].results['data_notes'] = notes[setting]
  cells[2].results['dataset'] = 'other'
  plan = {'ablation': {'control': 'base'}, 'arms': arms, 'config': BASE}
  plan['cells'] = [cell.about for cell in cells]
  summary = findings.summarize(plan, cells, {})
  assert summary['data_notes'] == ['first', 'both', 'second', 'third']
  assert summary['dataset'] == 'toy, other'
  assert [setting['dataset'] for setting in summary['settings']] == [
    'toy',
    'toy',
    'other',
  ]
  tables.print_summary(summary)
  shown = capsys.readouterr().out
  assert 'toy, two' in shown and 'other, three' in shown and 'toy, other' not in shown


def _is_told_of_balance(summary):
  return any('class balance' in line for line in ablation_sentences.status(summary))


def test_an_ablation_says_that_its_gain_may_come_from_class_balance():
  tests = [0.90, 0.92, 0.91]
  arms = {'base': ('control', 0.9, tests), 'x': ('treatment', 0.9, tests)}
  assert _is_told_of_balance(_summary(arms, 3, counts=(50, 25)))
  assert not _is_told_of_balance(_summary(arms, 3, counts=(50, 26)))
  rare = {'counts': (50, 5)}
  assert not _is_told_of_balance(_summary(arms, 3, **rare, support=(50, 5)))
  assert not _is_told_of_balance(_summary({'base': arms['base']}, 3, **rare))
  for val_recall, tests_of_other, is_told, further in (
    (0.8, tests, False, ['other']),
    (0.95, tests, False, []),  # it is the best control, and compared as such
    (0.8, [], True, []),  # it has failed, or is not trained yet
  ):
    arms['other'] = ('control', val_recall, tests_of_other)
    adjusted = {'other': {'classifier.logit_adjustment': 1.0}}
    summary = _summary(arms, 3, **rare, fields=adjusted)
    assert _is_told_of_balance(summary) == is_told
    (setting,) = summary['settings']
    compared = setting['best']['further_comparisons']
    assert [row['control'] for row in compared] == further


def test_a_run_says_that_its_gain_may_come_from_class_balance():
  def is_told(train=(50, 5), test=(10, 10), sources=('', 'generator'), **results):
    matrix = np.diag(10 * np.array(test)).tolist()
    arm = {'confusion_matrix': matrix, 'per_class': {'support': list(test)}}
    of_source = lambda name: arm | {'source': {'shows': name} if name else {}}
    arms = {f'arm {i}': of_source(name) for i, name in enumerate(sources)}
    results = {'arms': arms, 'train_counts': list(train)} | results
    return any('class balance' in line for line in run_sentences.caveats(results))

  assert is_told() and is_told(logit_adjustment=0.0)
  assert not is_told(logit_adjustment=1.0)
  assert not is_told(test=(20, 2))
  for sources in (('', 'noise'), ('', ''), ('generator', 'generator')):
    assert not is_told(sources=sources)


def test_of_equal_recall_the_lower_validation_loss_is_chosen(monkeypatch):
  losses = {'base': 0.9, 'other': 0.2, 'third': 0.5, 'x': 0.1}
  real = _finished

  def finished(arm, *args, **kwargs):
    cell = real(arm, *args, **kwargs)
    cell.arm['val_loss'] = losses[arm]
    return cell

  monkeypatch.setitem(globals(), '_finished', finished)
  controls = {name: ('control', 0.96, [0.9, 0.9]) for name in ('base', 'other', 'third')}
  arms = {**controls, 'x': ('treatment', 0.9, [0.9, 0.9])}
  (setting,) = _summary(arms, 2)['settings']
  assert setting['best']['control'] == 'other'


def test_bounds_and_controls_with_more_labels_are_neither_judged_nor_chosen():
  base = np.array([0.80, 0.84, 0.78])
  (setting,) = _summary(
    {
      'base': ('control', 0.7, base),
      'more': ('all_labels', 1.0, base + 0.02),  # right on what it was trained on
      'good': ('treatment', 0.9, np.add(base, [0.010, 0.011, 0.012])),
      'held_out': ('oracle', 0.95, np.add(base, [0.10, 0.11, 0.12])),
    },
    seeds=3,
  )['settings']
  rows, best = _named_rows(setting), setting['best']
  assert (best['arm'], best['control'], best['control_trials']) == ('good', 'base', 1)
  (other,) = best['further_comparisons']
  assert other['control'] == 'more' and other['mean'] == pytest.approx(-0.009)
  good, unseen = rows['good']['difference'], rows['held_out']['difference']
  assert good['adjusted_p'] == pytest.approx(2 * good['p'])  # of two, and not of three
  assert unseen['mean'] == pytest.approx(0.11) and 'verdict' not in unseen


def test_gans_that_failed_are_named_first():
  arms = {'base': ('control', 0.7, [0.8]), 'good': ('treatment', 0.9, [0.9])}
  summary = _summary(arms, 1)
  assert ablation_sentences.of_generators(summary) == []
  assert summary['generator_warnings'] == {}
  cell = lambda i: {'name': f'c{i}', 'generator': f'g{i % 7}'}
  results = {'generator': {'warnings': ['it failed.']}}
  finished = [
    finished_lib.Finished(cell(i), {}, results, np.array([]), 0.0) for i in range(9)
  ]
  lines = findings._generator_warnings(finished)
  first, *_, last = ablation_sentences.of_generators({'generator_warnings': lines})
  assert first == 'The training of the generator of c0: it failed.'
  assert last == (
    '2 further generators with warnings: see generators/NAME/generator/result.json.'
  )


def test_recall_of_rare_classes_is_told_where_classes_are_unequal():
  base = np.array([0.80, 0.84, 0.78])
  arms = {'base': ('control', 0.7, base), 'good': ('treatment', 0.9, base + 0.01)}
  arms['good'][2][0] += 0.001
  (even,) = _summary(arms, 3)['settings']
  assert _named_rows(even)['good']['difference']['rare_recall'] is None
  (near,) = _summary(arms, 3, counts=(50, 26))['settings']
  assert _named_rows(near)['good']['difference']['rare_recall'] is None
  (rare,) = _summary(arms, 3, counts=(50, 5))['settings']
  found = _named_rows(rare)['good']['difference']['rare_recall']
  assert found['mean'] == pytest.approx((0.011 + 0.01 + 0.01) / 3)
  (untested,) = _summary(arms, 3, counts=(50, 5), support=(5, 0))['settings']
  assert _named_rows(untested)['good']['difference']['rare_recall'] is None
  (common,) = _summary(arms, 3, counts=(5, 50))['settings']  # the other one is rare
  assert _named_rows(common)['good']['difference']['rare_recall']['mean'] == 0


def test_a_control_with_validation_labels_takes_the_steps_of_the_others():
  controls = {'all': {'data.train_on_val': True}, 'cutout': {'augment.cutout': 4}}
  arms = _named(_arms(_config(controls=controls, oracles=('train_copies', 'held_out'))))
  assert arms['all'].role == 'all_labels' and arms['cutout'].role == 'control'
  assert arms['all'].fields['classifier.num_steps'] == 50 * SIZE // 128  # of fewer images
  assert [arms[name].role for name in ('train_copies', 'held_out')] == [
    'oracle',
    'oracle',
  ]
  assert arms['held_out'].same_steps == 'real_classical'
  assert arms['held_out'].same_exposure == ''  # all that it shows is real


@pytest.mark.parametrize(
  ('grid', 'drawn'),
  [
    ({'data.label_budget': (10, 50, 500)}, True),
    ({'data.label_budget': (10, 50, 0)}, False),  # 0 means all of them
    ({'mix.ratio': (0.0, 0.1, 0.2)}, True),
    ({'data.name': ('a', 'b', 'c')}, False),  # in no order
    ({'augment.flip': (False, True, False)}, False),
    ({'data.label_budget': (10, 50, 500), 'mix.ratio': (0.1,)}, False),  # two fields
    ({}, False),
  ],
)
def test_a_curve_is_drawn_along_a_grid_of_one_field_of_numbers(grid, drawn):
  paired = {'mean': 0.1, 'low': 0.0, 'high': 0.2, 'differences': [0.0, 0.2]}
  rows = [{'name': 'x', 'difference': paired}, {'name': 'control'}]
  settings = [{'arms': rows}, {'arms': []}, {'arms': rows}]  # one is not finished
  plan = {'ablation': {'grid': grid}}
  curve = ablation_report._curve(plan, settings)
  assert bool(curve) == drawn
  assert not drawn or curve['curve x'].startswith(b'\x89PNG')


def test_what_is_finished_first_is_judged_among_all_that_is_planned():
  base = np.array([0.80, 0.84, 0.78])
  arms = {'base': ('control', 0.7, base), 'good': ('treatment', 0.9, base + 0.01)}
  arms['good'][2][0] += 0.001
  (alone,) = _summary(arms, 3)['settings']
  later = {f'late{i}': ('treatment', 0.5, []) for i in range(4)}
  (among,) = _summary(arms | later, 3)['settings']
  one, many = (_named_rows(setting)['good']['difference'] for setting in (alone, among))
  assert many['p'] == one['p']
  assert many['adjusted_p'] == pytest.approx(3 * one['adjusted_p'])  # 6 verdicts, not 2


def _named_rows(setting):
  return {row['name']: row for row in setting['arms']}


def test_two_seeds_are_not_enough_for_a_verdict():
  accuracies = {'base': ('control', 0.7, [0.5, 0.5]), 'x': ('treatment', 0.9, [0.9, 0.9])}
  for seeds in (1, 2):
    (setting,) = _summary(accuracies, seeds)['settings']
    assert setting['best']['verdict'] == 'not enough seeds for a verdict'


def test_two_seeds_have_no_interval_anywhere(monkeypatch):
  base = np.array([0.80, 0.84, 0.78])
  arms = {'base': ('control', 0.7, base), 'few': ('treatment', 0.9, base + 0.01)}
  arms['half'] = ('treatment', 0.9, base + 0.02)
  arms['half'][2][0] += 0.001
  ratios = {'base': 0.0, 'few': 0.1, 'half': 0.5}
  drawn = []
  monkeypatch.setattr(figures, 'along', lambda line, *_, **__: drawn.append(line))
  for seeds in (2, 3):
    change = lambda cell: cell.arm.update(effective_ratio=ratios[cell.about['arm']])
    summary = _summary(arms, seeds, counts=(50, 5), change=change)
    (setting,) = summary['settings']
    said = [f'{f.headline} {f.detail}' for f in ablation_sentences.verdicts(setting, 3)]
    assert all('rarer classes' in text for text in said)
    assert any('95 % interval' in text for text in said) == (seeds == 3)
    rows = setting['arms']
    ablation_figures._accuracy(rows, rows[1:])
    low, mean, high = drawn[-1].band
    assert np.isfinite(drawn[-1].low).all() == (low < mean < high) == (seeds == 3)


@pytest.mark.parametrize(
  ('mean', 'low', 'high', 'shown'),
  [
    (-1e-5, -0.01, -1e-6, '+0.00 points (95 % interval -1.00 to +0.00)'),
    (1e-5, -1e-5, 0.01, '+0.00 points (95 % interval +0.00 to +1.00)'),
    (-0.001, -0.002, 0.0, '-0.10 points (95 % interval -0.20 to +0.00)'),
  ],
)
def test_no_zero_has_a_minus(mean, low, high, shown):
  paired = {'mean': mean, 'low': low, 'high': high}
  assert sentences.points(paired) == shown
  text = ablation_sentences.difference(paired | {'control': 'x'})
  assert text == shown.replace(' points', '').replace('95 % interval ', '') + ' vs. x'
  (gap, kernel) = tables.cells(
    {'generalization_gap': mean, 'kernel': mean / 1000}, ('generalization_gap', 'kernel')
  )
  assert gap == f'{shown.partition(" ")[0]} %' and kernel == '0.0000'


class _Page(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.sources = []

  def handle_starttag(self, tag, attrs):
    self.sources += [v for k, v in attrs if k in ('src', 'href')]


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'toy.py'
  added = f'  base.add_ablation(config){ABLATION}  return config'
  path.write_text(test_run.CONFIG.replace('  return config', added))
  return path


@pytest.fixture(scope='module')
def interrupted(config_file, tmp_path_factory):
  """The workdir of an ablation that was interrupted and gone on with.

  And the programs that it compiled, before its second seed and in all.
  """
  workdir = tmp_path_factory.mktemp('ablation') / 'first'
  with pytest.MonkeyPatch.context() as patch, test_run.compilations() as compiled:
    patch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
    # To count the operations of a cell is to lower its step once more.
    alike = lambda cells, *_: {n: 1.0 for c in cells for n in (c.name, c.generator)}
    patch.setattr(estimate, 'work_of', alike)
    train, begun, of_first_seed = runs.Run.train_arms, [], []

    def stop_once(run, generator):
      begun.append(run.session.workdir.name)
      if 'seed=1' in begun[-1] and not of_first_seed:
        of_first_seed.extend(compiled)
      if len(begun) == 6:
        os.kill(os.getpid(), signal.SIGTERM)
      return train(run, generator)

    patch.setattr(runs.Run, 'train_arms', stop_once)
    flags = (f'--config={config_file}', f'--workdir={workdir}')
    assert test_run.run('ablate', *flags) == 75
    assert test_run.run('ablate', *flags) == 0
    assert len(begun) == 9  # 8 cells, one begun twice
  return workdir, of_first_seed, compiled


@pytest.fixture(scope='module')
def finished(interrupted):
  return interrupted[0]


def test_an_interrupted_ablation_ends_with_a_report_that_stands_alone(finished):
  summary = json.loads((finished / 'summary.json').read_text())
  assert summary['num_finished'] == summary['num_cells'] == 8
  page, text = _Page(), (finished / 'report.html').read_text()
  page.feed(text)
  assert '2 seeds can show' in text
  assert page.sources and all(s.startswith('data:image/png') for s in page.sources)
  with open(finished / 'cells.csv') as file:
    rows = {row['cell']: row for row in csv.DictReader(file)}
  for name, row in rows.items():
    results = json.loads((finished / 'cells' / name / 'results.json').read_text())
    (arm,) = results['arms'].values()
    assert float(row['test_accuracy']) == arm['eval_accuracy']
    assert row['arm'].partition('_')[0] in ('few', 'real')
  assert len(list((finished / 'generators').iterdir())) == 2  # one a seed


@pytest.mark.slow  # four plans of an ablation
def test_a_finished_ablation_trains_nothing_again_and_takes_more_seeds(
  finished, config_file, monkeypatch, capsys
):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  trained = []
  monkeypatch.setattr(runs.Run, 'train_arms', lambda *_: trained.append(1))
  flags = [f'--config={config_file}', f'--workdir={finished}']
  assert test_run.run('ablate', *flags) == 0
  assert not trained
  assert (
    test_run.run('ablate', *flags, '--config.ablation.seeds=(0,1,2)', '--dry-run') == 0
  )
  assert '4 classifiers' in capsys.readouterr().out
  more = ['--config.ablation.equal_compute=True', '--dry-run']
  assert test_run.run('ablate', *flags, *more) == 0
  steps = re.findall(r'real_classical_(\d+)_steps', capsys.readouterr().out)
  assert max(map(int, steps)) > 2 * 20  # the GAN's 20 steps and the arm's
  # A cell of another config is there: refused before anything is trained.
  assert test_run.run('ablate', *flags, '--config.classifier.learning_rate=0.1') == 3
  assert 'classifier.learning_rate' in capsys.readouterr().err
  assert not trained


def test_another_seed_compiles_nothing(interrupted):
  """Seeds, paths and names are arguments of programs and no part of them."""
  _, first, compiled = interrupted
  assert first.count('jit(gan_step)') == 1 and compiled == first


def test_seeds_in_one_program_stack_their_images_once(toy):
  where = tiny.layout('jit', 1)
  feeds = [tiny.feed(where.replicate, toy, seed=seed) for seed in (0, 1)]
  batches = vmap_seeds.StackedBatches(feeds, where)
  first, again, later = batches(0, 12), batches(12, 12), batches(200, 12)
  assert again.order is first.order and later.images is first.images
  for seed, feed in enumerate(feeds):
    np.testing.assert_array_equal(later.order[seed], feed(200, 12).order)
    np.testing.assert_array_equal(later.images[seed], toy.train.images)


@pytest.mark.slow  # the only guard of `vmap_seeds` as a whole
def test_seeds_in_one_program_give_the_numbers_of_separate_runs(
  finished, config_file, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  where, calls = tmp_path / 'together', []

  def stop_once(name):
    called = getattr(vmap_seeds, name)

    def stopped(*rest):
      first, _ = name not in calls, calls.append(name)
      if first and name == 'validate':
        os.kill(os.getpid(), signal.SIGTERM)
      result = called(*rest)
      if first and name == '_finish':
        raise signals.Interrupted('before the second seed')
      return result

    monkeypatch.setattr(vmap_seeds, name, stopped)

  stop_once('validate')
  stop_once('_finish')
  # Flags in any order.
  flags = ['--config.ablation.vmap_seeds=True', f'--config={config_file}']
  flags += [f'--workdir={where}']
  assert [test_run.run('ablate', *flags) for _ in range(3)] == [75, 75, 0]
  # Once for each seed of an arm, also of the arm that was interrupted at its end.
  assert calls.count('_finish') == len(list((where / 'cells').iterdir()))
  assert len(list((where / 'together').iterdir())) == 4  # one an arm
  said = capsys.readouterr().out
  assert 'resumed at step' in said and 'failed in one program' not in said
  for cell in (finished / 'cells').iterdir():
    both = [
      json.loads((root / 'cells' / cell.name / 'results.json').read_text())['arms']
      for root in (finished, where)
    ]
    (alone,), (joint,) = (arms.values() for arms in both)
    for name in ('eval_loss', 'val_loss', 'train_accuracy', 'eval_accuracy'):
      assert joint[name] == pytest.approx(alone[name], abs=1e-4), cell.name
    assert joint['num_steps'] == alone['num_steps']
    assert len(list((where / 'cells' / cell.name).glob('arms/*/batch.png'))) == 1
  # Each can be looked at as if it had been trained alone.
  (cell,) = (where / 'cells').glob('few*seed=1')
  assert test_run.run('evaluate', f'--workdir={cell}') == 0


def test_a_run_and_an_ablation_do_not_share_a_workdir(
  finished, config_file, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  before = (finished / 'report.html').read_bytes()
  flags = [f'--config={config_file}', '--config.ablation.seeds=(0,)']
  plain = config_file.with_name('plain.py')
  plain.write_text(test_run.CONFIG)
  assert test_run.run('run', f'--config={plain}', f'--workdir={finished}') == 3
  assert 'holds an ablation' in capsys.readouterr().err
  assert test_run.run('report', f'--workdir={finished}') == 3
  assert 'ablate --collect' in capsys.readouterr().err
  assert (finished / 'report.html').read_bytes() == before
  (tmp_path / 'config.json').write_text('{}')
  assert test_run.run('ablate', *flags, f'--workdir={tmp_path}') == 3
  assert 'holds a run' in capsys.readouterr().err


def test_a_flag_that_the_grid_would_undo_is_refused(tmp_path, capsys):
  file = ROOT / 'configs/ablations/low_data.py'
  flags = [f'--config={file}', f'--workdir={tmp_path}', '--config.data.label_budget=5']
  assert test_run.run('ablate', *flags) == 2
  assert 'data.label_budget' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    (['--config.ablation.arms=1'], 'ablation.arms'),
    (['--config.ablation.seedz=(1,)'], 'ablation.seeds'),
    (['--config.distributed.auto=True'], '--shard'),
    (['--config.seed=3'], 'set ablation.seeds'),
    (["--config.arms=('augmented',)"], 'set ablation.arms or ablation.control'),
    (['--config.mix.ratio=0.5'], 'every arm of the ablation sets it'),
  ],
)
def test_bad_flags_are_refused(config_file, tmp_path, flags, named, capsys):
  code = test_run.run(
    'ablate', f'--config={config_file}', f'--workdir={tmp_path}', *flags
  )
  assert code == 2 and named in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_the_first_failure_is_named_where_nothing_is_finished(
  config_file, tmp_path, monkeypatch, capsys
):
  def fail(units, directory, _):
    names = [cell.name for unit in units for cell in unit]
    for name in names:
      content = json.dumps({'why': f'The loss of {name} is nan.'})
      files.write_atomically(directory / 'cells' / name / 'failed.json', content)
    return dict.fromkeys(names, 'why')

  monkeypatch.setitem(datasets._SOURCES, 'toy', test_run._toy_source)
  monkeypatch.setattr(workers, 'run', fail)
  flags = [f'--config={config_file}', f'--workdir={tmp_path}']
  for part in range(2):
    assert test_run.run('ablate', *flags, f'--shard={part}/2') == 3
  plan = json.loads((tmp_path / 'ablation.json').read_text())
  first = f'The loss of {plan["cells"][0]["name"]} is nan.'
  assert capsys.readouterr().err.splitlines()[-1].endswith(first)
  assert test_run.run('ablate', '--collect', f'--workdir={tmp_path}') == 3
  error = capsys.readouterr().err
  assert error.endswith(f'{first}\n') and error.count('\n') == 1


def test_collect_of_nothing_is_a_sentence(tmp_path, capsys):
  assert test_run.run('ablate', '--collect', f'--workdir={tmp_path}') == 3
  error = capsys.readouterr().err
  assert 'ablation.json' in error and 'Traceback' not in error
  assert cli.main(['x', 'ablate', f'--workdir={tmp_path}']) == 2
  assert 'configs/ablations/ratio.py' in capsys.readouterr().err
