"""Whole runs through the command line, on tiny data."""

import contextlib
import html.parser
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from gan_aug_jax import cli, config as config_lib
from gan_aug_jax.cli import parsing
from gan_aug_jax.data import datasets, splits
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.evaluation import evaluators
from gan_aug_jax.experiment import ablation, estimate
from gan_aug_jax.generators import generator_training
from gan_aug_jax.report import run_report, run_sentences
from gan_aug_jax.step import programs, sampling, sharding
from gan_aug_jax.training import files, loop, tensorboard
from gan_aug_jax.training.signals import Interrupted
from gan_aug_jax.training.workdir import Session
from tests.conftest import make_dataset

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from gan_aug_jax import config as base

def get_config():
  config = base.default()
  config.data.name = 'toy'
  config.data.image_size = 8
  config.data.val_fraction = 0.25
  config.generator.num_steps, config.generator.batch_size = 20, 8
  config.gan.arch, config.gan.width, config.gan.latent_dim = 'mlp', 8, 4
  config.classifier.num_steps, config.classifier.batch_size = 20, 8
  config.classifier.features, config.classifier.hidden = (4, 4), (8,)
  config.classifier.learning_rate, config.mix.ratio = 0.05, 0.25
  config.augment.crop_padding, config.log.every_steps = 1, 5
  config.generator.select_steps, config.score.width = 5, 4
  config.generator.save_every_steps = config.classifier.save_every_steps = 10
  config.score.extractor_steps, config.score.cas_steps = 40, 20
  config.score.num_samples = 60
  return config
"""
EXPECTED_FIELDS = [
  'eval_loss',
  'eval_accuracy',
  'eval_precision',
  'eval_recall',
  'eval_f1',
  'eval_runtime',
  'eval_samples_per_second',
  'eval_steps_per_second',
  'epoch',
  'confusion_matrix',
  'train_accuracy',
  'val_accuracy',
  'val_loss',
  'val_f1',
  'generalization_gap',
  'train_seconds',
  'compile_seconds',
  'step_ms_median',
  'effective_ratio',
  'num_steps',
]


def _toy_source(_):
  toy = make_dataset(per_class=16)
  return splits.Collection(toy.class_names, toy.train, toy.test)


@pytest.fixture(autouse=True)
def toy_source(monkeypatch):
  monkeypatch.setitem(datasets._SOURCES, 'toy', _toy_source)


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'toy.py'
  path.write_text(CONFIG)
  return path


def run(command, *flags):
  return cli.main(['gan_aug_jax', command, *flags])


@contextlib.contextmanager
def compilations():
  """Lists the names of all that JAX compiles, as in a process of its own."""
  compiled, going_on = [], [True]

  def listen(event, seconds, fun_name='', **_):
    if going_on and event == '/jax/core/compile/backend_compile_duration':
      compiled.append(fun_name)

  jax.clear_caches()
  programs._kept.clear()
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield compiled
  finally:
    going_on.clear()


@pytest.fixture(scope='module')
def evaluated():
  """The sizes of the splits that `finished` evaluated."""
  return []


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory, evaluated):
  """A finished run, and the names of the programs that it compiled."""
  workdir = tmp_path_factory.mktemp('run') / 'first'
  evaluate = evaluators.Evaluator.__call__

  def noted(self, variables, split):
    evaluated.append(len(split))
    return evaluate(self, variables, split)

  with pytest.MonkeyPatch.context() as patch, compilations() as compiled:
    patch.setitem(datasets._SOURCES, 'toy', _toy_source)
    patch.setattr(evaluators.Evaluator, '__call__', noted)
    assert run('run', f'--config={config_file}', f'--workdir={workdir}') == 0
  return workdir, compiled


def test_run_writes_what_it_promises(finished):
  metrics = pytest.importorskip('sklearn.metrics')  # here, as others import this module
  workdir, _ = finished
  results = json.loads((workdir / 'results.json').read_text())
  assert list(results['arms']) == [
    'real_only',
    'real_classical',
    'augmented',
    'augmented_classical',
  ]
  assert {'dataset', 'seed', 'versions', 'device', 'total_seconds'} <= set(results)
  assert results['generator']['train_seconds'] > 0
  for name, arm in results['arms'].items():
    assert set(EXPECTED_FIELDS) <= set(arm)
    assert arm['effective_ratio'] == (0.25 if name.startswith('augmented') else 0)
    gap = arm['train_accuracy'] - arm['val_accuracy']
    assert arm['generalization_gap'] == pytest.approx(gap)
    with np.load(workdir / 'arms' / name / 'predictions.npz') as saved:
      labels, predictions = saved['test_labels'], saved['test_predictions']
      validation = saved['val_labels'] == saved['val_predictions']
    confusion = metrics.confusion_matrix(labels, predictions)
    np.testing.assert_array_equal(arm['confusion_matrix'], confusion)
    assert arm['eval_accuracy'] == pytest.approx(np.mean(labels == predictions))
    assert len(validation) == 12
    assert arm['val_accuracy'] == pytest.approx(np.mean(validation))
    rows = [
      json.loads(line)
      for line in (workdir / 'arms' / name / 'metrics.jsonl').read_text().splitlines()
    ]
    assert [row['step'] for row in rows if 'loss' in row] == [5, 10, 15, 20]
    assert [row['step'] for row in rows if 'val_accuracy' in row] == [5, 10, 15, 20]
    assert all(row['grad_norm'] > 0 for row in rows if 'loss' in row)
  assert len(list((workdir / 'generator' / 'samples').glob('*.png'))) == 2


def test_the_test_split_is_evaluated_once_an_arm(finished, evaluated):
  """Of 36 training, 12 validation and 18 test images: no choice saw the last."""
  assert evaluated.count(18) == 4 and set(evaluated) == {36, 12, 18}


def test_run_learns_the_toy(finished):
  """Brightness gives the class away, so a step that updates nothing would show."""
  workdir, _ = finished
  arms = json.loads((workdir / 'results.json').read_text())['arms']
  assert arms['real_only']['train_accuracy'] > 0.6


def test_each_program_is_compiled_once(finished):
  _, compiled = finished
  counts = {name: compiled.count(name) for name in set(compiled)}
  assert counts['jit(gan_step)'] == counts['jit(init_gan)'] == 1
  assert counts['jit(fused_step)'] == 5  # of each arm, and of the probe that chooses
  # Of the arms and of the probe.
  assert counts['jit(eval_step)'] == counts['jit(init_classifier)'] == 2
  assert counts['jit(all_finite)'] == 2  # of the GAN's state, and of the arms'
  assert counts['jit(measure)'] == 1  # the statistics of the frozen generator
  assert counts['jit(draw_step)'] == 1
  # Nothing runs op by op, but for the odd one.
  assert len(compiled) <= sum(counts[f'jit({name})'] for name in _PROGRAMS) + 3


_PROGRAMS = ('gan_step', 'init_gan', 'fused_step', 'eval_step', 'init_classifier')
_PROGRAMS += ('all_finite', 'measure', 'draw_step')


@pytest.mark.slow  # `test_programs` and `test_engine` have its parts
def test_a_run_as_on_an_accelerator_compiles_as_little_and_gives_the_numbers(
  finished, config_file, tmp_path, monkeypatch
):
  """Several steps a call, programs compiled ahead in threads, loops that stay loops."""
  monkeypatch.setattr(sharding.Layout, 'on_cpu', False)
  flags = [f'--config={config_file}', f'--workdir={tmp_path}']
  with compilations() as compiled:
    assert run('run', *flags, "--config.arms=('augmented_classical',)") == 0
  of_arms = ['jit(fused_step)'] * 3  # of the other arms
  assert sorted(compiled + of_arms) == sorted(finished[1])
  mine, whole = (
    json.loads((workdir / 'results.json').read_text())
    for workdir in (tmp_path, finished[0])
  )
  assert (
    mine['generator']['steps_per_call'] == 5 and whole['generator']['steps_per_call'] == 1
  )
  for name, arm in mine['arms'].items():
    assert arm['eval_loss'] == pytest.approx(whole['arms'][name]['eval_loss'], rel=2e-3)


def test_report_is_one_self_contained_file(finished):
  workdir, _ = finished
  text = (workdir / 'report.html').read_text()
  sources = []

  class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes):
      sources.extend(value for name, value in attributes if name in ('src', 'href'))

  Reader().feed(text)
  assert len(sources) > 4
  assert all(source.startswith('data:image/png;base64,iVBOR') for source in sources)
  for word in ('augmented_classical', 'jaxlib', 'data.label_budget', 'points (95\xa0%'):
    assert word in text


@pytest.mark.usefixtures('no_pictures')
def test_finished_work_is_not_redone(finished, config_file):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob('checkpoints/**/*')}
  results = json.loads((workdir / 'results.json').read_text())
  assert run('run', f'--config={config_file}', f'--workdir={workdir}') == 0
  after = {path: path.stat().st_mtime_ns for path in workdir.rglob('checkpoints/**/*')}
  assert before == after
  assert json.loads((workdir / 'results.json').read_text())['arms'] == results['arms']


def test_later_commands_need_only_the_workdir(finished, capsys):
  workdir, _ = finished
  assert run('evaluate', f'--workdir={workdir}') == 0
  shown = capsys.readouterr().out
  arms = json.loads((workdir / 'results.json').read_text())['arms']
  for arm in arms.values():
    assert f'{arm["eval_accuracy"]:.4f}' in shown
  assert run('sample', f'--workdir={workdir}', '--seed=7') == 0
  assert (workdir / 'samples-7.png').read_bytes().startswith(b'\x89PNG')
  (workdir / 'report.html').unlink()
  assert run('report', f'--workdir={workdir}') == 0
  assert (workdir / 'report.html').exists()


@pytest.mark.usefixtures('no_pictures')
@pytest.mark.slow  # two whole commands; no fast test compares them with one
def test_parts_give_the_numbers_of_a_whole_run(finished, config_file, tmp_path):
  """train-generator then train-classifier: the same arms."""
  flags = [f'--config={config_file}', f'--workdir={tmp_path / "w"}']
  flags += ["--config.arms=('augmented_classical',)"]
  assert run('train-generator', *flags) == 0
  assert run('train-classifier', *flags) == 0
  mine, whole = (
    json.loads((workdir / 'results.json').read_text())['arms']['augmented_classical']
    for workdir in (tmp_path / 'w', finished[0])
  )
  assert mine['eval_loss'] == pytest.approx(whole['eval_loss'], rel=1e-3)
  assert mine['effective_ratio'] == 0.25


def test_score_sets_generators_between_real_images_and_noise(
  finished, tmp_path, monkeypatch, capsys
):
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  assert run('score', f'--workdir={workdir}') == 0
  shown = capsys.readouterr().out
  scores = json.loads((workdir / 'score' / 'scores.json').read_text())
  names = list(scores['rows'])
  assert names[0] == 'real training images' and names[-1] == 'noise' and len(names) == 3
  # The reference are the validation images: all that the run did not train on.
  assert scores['num_held_out'] == scores['num_generated'] == 12
  real, _, noise = scores['rows'].values()
  assert real['frechet'] < noise['frechet'] and real['cas'] > noise['cas']
  assert scores['held_out_chose'] and 'optimistic' in shown
  assert min(scores['held_out_counts']) > 0 and 'equal numbers' not in shown
  imbalanced = run_sentences.of_scores(scores | {'held_out_counts': [2, 9, 4]})
  assert 'have 2 to 9 of these real images' in ' '.join(imbalanced)
  assert real['copies'] is None and 0 <= noise['copies']['memorised'] <= 1
  for row in scores['rows'].values():
    assert all(np.isfinite(row[name]) for name in ('kernel', 'density', 'gan_test'))
    for name in ('frechet', 'manifold', 'cas', 'gan_test'):
      assert len(row['per_class'][name]) == 3
  assert scores['extractor']['hash'] in shown and f'{100 * noise["cas"]:.2f} %' in shown
  for name in ('grid', 'neighbours', 'interpolation'):
    assert (workdir / 'score' / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  assert len(list((tmp_path / 'cache').rglob('*.msgpack'))) == 1
  config = json.loads((workdir / 'config.json').read_text())['config']
  assert run_report._read_scores(workdir, config) == scores
  del scores['drawing']['lecam']  # as before that argument was added
  files.write_atomically(workdir / 'score' / 'scores.json', json.dumps(scores))
  assert run_report._read_scores(workdir, config) == scores
  config['gan']['width'] = 9  # stands for what a generator is drawn with
  assert run_report._read_scores(workdir, config) is None
  assert run('report', f'--workdir={workdir}') == 0
  assert scores['extractor']['hash'] in (workdir / 'report.html').read_text()


@pytest.mark.slow  # `test_selection` has several generators in a step, this in a run
def test_several_generators_by_step_and_seed(config_file, tmp_path, monkeypatch, capsys):
  """Chosen by a Fréchet distance whose extractor saw the run's own images only."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  workdir = tmp_path / 'w'
  flags = [f'--config={config_file}', f'--workdir={workdir}']
  flags += ["--config.arms=('augmented',)", '--config.generator.select=frechet']
  flags += ['--config.mix.ratio=0.5']
  flags += ["--config.generator.checkpoints=('step:10','step:20','seed:7')"]
  assert run('run', *flags) == 0
  results = json.loads((workdir / 'results.json').read_text())
  other = json.loads((workdir / 'generator-seed7' / 'result.json').read_text())
  best = min(other['candidates'], key=lambda row: row['frechet'])['step']
  assert other['chosen_step'] == best
  assert results['generator']['members'] == [
    'seed 0, step 10',
    'seed 0, step 20',
    f'seed 7, step {best}',
  ]
  own = json.loads((workdir / 'generator' / 'result.json').read_text())
  both = own['train_seconds'] + other['train_seconds']
  assert results['generator']['train_seconds'] == pytest.approx(both)
  assert results['arms']['augmented']['effective_ratio'] == 0.5
  assert len(list((workdir / 'generator' / 'extractor').iterdir())) == 1
  assert not list((tmp_path / 'cache').rglob('*.msgpack'))
  assert run('score', f'--workdir={workdir}') == 0
  rows = json.loads((workdir / 'score' / 'scores.json').read_text())['rows']
  assert 'all together' in rows and len(rows) == 6
  assert run('sample', f'--workdir={workdir}') == 0
  flags[-1] = "--config.generator.checkpoints=('step:7',)"
  there = [f'--workdir={tmp_path / "v"}', *flags[2:]]
  assert 'names step 7, but' in _refused(capsys, 2, 'run', flags[0], *there)


def _refused(capsys, code, *argv):
  capsys.readouterr()  # of commands before
  assert run(*argv) == code
  captured = capsys.readouterr()
  *warnings, line = captured.err.strip().splitlines()
  assert line.startswith('gan_aug_jax: ') and 'Traceback' not in captured.err
  assert all('cannot be read; going back' in warning for warning in warnings)
  return line


@pytest.mark.release  # `test_policies` has them in a step, `test_processes` some in a run
def test_policies_through_a_whole_run(config_file, tmp_path, monkeypatch):
  """From the config to the report, and a second start finds all of it finished."""
  flags = [f'--config={config_file}', f'--workdir={tmp_path / "run"}']
  flags += ["--config.arms=('real_classical','augmented_classical')"]
  policies = {
    'data.imbalance': 3.0,
    'classifier.arch': 'resnet',
    'classifier.features': '(4,)',
    'classifier.batch_norm': 'split',
    'classifier.budget': 'exposure',
    'classifier.nesterov': True,
    'classifier.clip_norm': 1.0,
    'classifier.warmup_steps': 3,
    'classifier.label_smoothing': 0.1,
    'mix.start_fraction': 0.2,
    'mix.weight': 0.5,
    'augment.cutout': 2,
    'filter.candidates': 2,
    'filter.score_by': 'hard',
    'filter.min_confidence': 0.3,
    'filter.on_reject': 'drop',
    'filter.teacher_steps': 20,
    'mix.classes': 'balance',
    'cache.images_per_class': 6,
  }
  flags += [f'--config.{name}={value}' for name, value in policies.items()]
  assert run('run', *flags) == 0
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  # 16 a class, 16, 9 and 5 of them kept, a quarter held out.
  assert results['train_counts'] == [12, 7, 4]
  control, arm = results['arms'].values()
  assert control['num_steps'] == 20 and control['acceptance'] == {}
  # 8 real images in the first fifth of the steps, and 6 in the others: 24 steps show 160.
  assert arm['num_steps'] == 25 and arm['epoch'] * 23 >= 160
  assert arm['effective_ratio'] <= arm['asked_ratio'] < 0.25
  assert set(arm['acceptance']) <= set('abc') and arm['acceptance']
  assert 0 <= arm['source']['teacher_val_accuracy'] <= 1
  assert len(list((tmp_path / 'run' / 'generator').glob('offline-*.npz'))) == 1
  assert len(list((tmp_path / 'run' / 'generator' / 'teacher').iterdir())) == 1
  html_text = (tmp_path / 'run' / 'report.html').read_text()
  assert 'Accepted by class' in html_text and 'same number of real images' in html_text
  monkeypatch.setattr(loop, 'train', None)  # nothing is trained again
  assert run('run', *flags) == 0
  assert json.loads((tmp_path / 'run' / 'results.json').read_text()) == results


@pytest.mark.usefixtures('no_pictures')
def test_a_search_of_a_bound_trains_no_gan_and_leaves_the_test_split_alone(
  config_file, tmp_path, monkeypatch, capsys
):
  drawn_from = []

  def group(images, labels, num_classes):
    drawn_from.extend(image.tobytes() for image in images)
    return real(images, labels, num_classes)

  real = sampling.group_by_class
  monkeypatch.setattr(sampling, 'group_by_class', group)
  monkeypatch.setattr(
    generator_training, 'GeneratorTraining', None
  )  # to call it would raise
  fields = {'data.label_budget': 8, 'data.test_on': 'val', 'mix.source': 'held_out'}
  flags = [f'--config.{field}={value}' for field, value in fields.items()]
  run(
    'run',
    f'--config={config_file}',
    f'--workdir={tmp_path}',
    "--config.arms=('real_only','augmented')",
    *flags,
  )
  shown = capsys.readouterr().out
  assert 'a search' in shown and 'beyond the label budget' in shown
  results = json.loads((tmp_path / 'results.json').read_text())
  arm = results['arms']['augmented']
  assert arm['eval_loss'] == arm['val_loss'] and results['generator'] == {}
  toy = datasets.load_dataset('toy', image_size=8, seed=0, val_fraction=0.25, per_class=8)
  used = {image.tobytes() for part in (toy.train, toy.val) for image in part.images}
  assert len(drawn_from) == 3 * 16 - 3 * 8 and not used & set(drawn_from)
  page = (tmp_path / 'report.html').read_text()
  assert 'an oracle, so no verdict' in page and 'finding helps' not in page
  assert cli.main(['gan_aug_jax', 'evaluate', f'--workdir={tmp_path}']) == 0
  assert ' test ' not in capsys.readouterr().out


def test_a_saved_config_is_a_config_file_unless_it_names_code(tmp_path, capsys):
  config = config_lib.default()
  config.arms, config.mix.ratio = ('real_only', 'augmented'), 0.35
  file, workdir = tmp_path / 'config.json', f'--workdir={tmp_path / "w"}'
  file.write_text(json.dumps({'config': config.to_dict(), 'data': {}}))
  argv = ['gan_aug_jax', f'--config={file}', workdir, '--config.seed=3']
  assert parsing.parse('run', argv).config.to_dict() == config.to_dict() | {'seed': 3}
  config.classifier.arch = 'my_net:Net'
  file.write_text(json.dumps({'config': config.to_dict(), 'data': {}}))
  refused = _refused(capsys, 2, 'run', f'--config={file}', workdir)
  assert 'names code (my_net:Net)' in refused  # and is not imported
  config.classifier.arch = 'gan_aug_jax.config.files:load_file'  # which runs a file
  file.write_text(json.dumps({'config': config.to_dict(), 'data': {}}))
  assert 'names code' in _refused(capsys, 2, 'run', f'--config={file}', workdir)
  file.write_text('{}')
  assert 'not the config.json' in _refused(capsys, 2, 'run', f'--config={file}', workdir)


@pytest.mark.parametrize(
  ('field', 'value', 'refused'),
  [
    ('generator.seed', 3, True),
    ('classifier.seed', 3, True),
    ('mix.source', 'noise', True),
    ('data.train_on_val', True, True),
    ('distributed.auto', True, True),
    ('distributed.coordinator', 'a:1', True),
    ('data.seed', 3, False),
    ('mix.ratio', 0.5, False),
  ],
)
def test_a_run_suggests_more_seeds_unless_an_ablation_would_refuse_its_config(
  field, value, refused
):
  config = config_lib.default()
  config.update_from_flattened_dict({field: value})
  assert bool(run_sentences.more_seeds('runs/w', config.to_dict())) == (not refused)
  if not field.startswith('distributed.'):  # which the command refuses
    expected = pytest.raises(ConfigError) if refused else contextlib.nullcontext()
    costs = types.SimpleNamespace(num_train=lambda _: 1000)
    with expected:
      ablation.list_arms(config_lib.add_ablation(config), costs)


@pytest.mark.usefixtures('no_pictures')
def test_a_report_suggests_no_command_that_would_be_refused(finished, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  assert 'For a verdict, train' in (workdir / 'report.html').read_text()
  about = json.loads((workdir / 'config.json').read_text())
  about['config']['classifier']['seed'] = 3
  (workdir / 'config.json').write_text(json.dumps(about))
  assert run('report', f'--workdir={workdir}') == 0
  page = (workdir / 'report.html').read_text()
  assert 'a first look, not a verdict' in page and 'For a verdict, train' not in page


@pytest.mark.usefixtures('no_pictures')
@pytest.mark.parametrize('is_silent', [False, True])
def test_one_of_several_processes_speaks(
  finished, config_file, tmp_path, monkeypatch, capsys, is_silent
):
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  monkeypatch.setattr(Session, 'is_silent', is_silent)
  monkeypatch.setattr(estimate, 'of_run', lambda *_: estimate.Estimate({}, {}))
  flags = [f'--config={config_file}', f'--workdir={workdir}']
  commands = [('run', '--dry-run'), ('train-generator',), ('run',)]
  for (command, *more), line in zip(
    commands, ('Left: about', 'Samples: ', 'Report: '), strict=True
  ):
    assert run(command, *flags, *more) == 0
    shown = capsys.readouterr().out
    assert (line in shown and 'To train: ' in shown) != is_silent
    assert not is_silent or not shown


def _damage(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


@pytest.mark.parametrize(
  ('name', 'damage'),
  [
    ('config.json', 'delete'),
    ('results.json', 'empty object'),
    ('arms/augmented/predictions.npz', 'truncate'),
  ],
)
@pytest.mark.usefixtures('no_pictures')
def test_damaged_files_are_named_and_mended(
  finished, config_file, tmp_path, capsys, name, damage
):
  """By starting the run again, which makes them from what is there."""
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  path = workdir / name
  if damage == 'truncate':
    _damage(path)
  elif damage == 'empty object':
    path.write_text('{}')
  else:
    path.unlink()
  assert name in _refused(capsys, 3, 'report', f'--workdir={workdir}')
  path.unlink(missing_ok=True)
  assert run('run', f'--config={config_file}', f'--workdir={workdir}') == 0
  before, after = (
    json.loads((place / 'results.json').read_text())['arms']['augmented']
    for place in (finished[0], workdir)
  )
  assert after['eval_loss'] == before['eval_loss']
  assert after['num_steps'] == before['num_steps'] == 20


@pytest.mark.usefixtures('no_pictures')
def test_damaged_results_of_parts_are_made_again(finished, config_file, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  _damage(workdir / 'arms' / 'augmented' / 'result.json')
  _damage(workdir / 'generator' / 'result.json')
  (workdir / 'generator' / 'samples.png').unlink()
  assert run('run', f'--config={config_file}', f'--workdir={workdir}') == 0
  before, after = (
    json.loads((place / 'results.json').read_text()) for place in (finished[0], workdir)
  )
  assert after['generator'] == before['generator']
  assert (workdir / 'generator' / 'samples.png').exists()


@pytest.mark.usefixtures('no_pictures')
def test_workdirs_of_older_versions_are_read(finished, tmp_path):
  """Whose generator was in gan/, and whose results said so."""
  workdir = shutil.copytree(finished[0], tmp_path / 'old')
  (workdir / 'generator').rename(workdir / 'gan')
  for path in (workdir / 'results.json', workdir / 'gan' / 'result.json'):
    content = json.loads(path.read_text())
    if 'generator' in content:
      content['gan'] = content.pop('generator')
    for of_it in (content, content.get('gan', {})):
      for name in ('family', 'title', 'foreign', 'trained_on'):
        of_it.pop(name, None)
    path.write_text(json.dumps(content | {'arch': 'dcgan'}))
  for command in ('report', 'sample'):
    assert run(command, f'--workdir={workdir}') == 0
  before, after = (
    (place / 'report.html').read_text().count('<img') for place in (finished[0], workdir)
  )
  assert after == before and not (workdir / 'generator').exists()


def _interrupt(*_):
  raise Interrupted('Stopped.')


@pytest.mark.parametrize(
  'damage', ['remove', pytest.param('damage', marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures('no_pictures')
def test_damaged_generator_is_made_again_from_the_checkpoint_before(
  finished, config_file, tmp_path, capsys, monkeypatch, damage
):
  workdir = shutil.copytree(finished[0], tmp_path / 'copy')
  final = workdir / 'generator' / 'checkpoints' / '20'
  if damage == 'damage':
    for path in [path for path in final.rglob('*') if path.is_file()]:
      _damage(path)
  else:
    shutil.rmtree(final)  # there is a generator in the one before, too
  assert 'run or train-generator' in _refused(capsys, 3, 'sample', f'--workdir={workdir}')
  flags = [f'--config={config_file}', f'--workdir={workdir}']
  with monkeypatch.context() as patch:
    patch.setattr(loop, 'train', _interrupt)
    _refused(capsys, 75, 'run', *flags)
  said = _refused(capsys, 3, 'sample', f'--workdir={workdir}')
  assert (
    'no trained generator' in said and 'finish it with run or train-generator' in said
  )
  assert run('run', *flags) == 0
  assert (workdir / 'generator' / 'checkpoints' / '20.damaged').exists() == (
    damage == 'damage'
  )
  before, after = (
    json.loads((place / 'generator' / 'result.json').read_text())
    for place in (finished[0], workdir)
  )
  assert after['candidates'] == before['candidates']
  rows = [
    (place / 'generator' / 'metrics.jsonl').read_text().splitlines()
    for place in (finished[0], workdir)
  ]
  last = [json.loads(lines[-1]) for lines in rows]
  assert last[0]['generator_loss'] == last[1]['generator_loss']


def test_generator_of_other_images_is_refused(finished, config_file, tmp_path, capsys):
  workdir = tmp_path / 'foreign'
  workdir.mkdir()
  shutil.copytree(finished[0] / 'generator', workdir / 'generator')
  flags = [f'--config={config_file}', f'--workdir={workdir}', '--config.data.seed=5']
  assert 'other images' in _refused(capsys, 3, 'train-classifier', *flags)


def test_help_and_installed_command_find_the_configs(tmp_path):
  """From any directory, without a traceback and without a sound from dependencies."""
  command = [sys.executable, '-m', 'gan_aug_jax']
  shown = subprocess.run([*command, '--help'], capture_output=True, text=True, cwd=ROOT)
  assert shown.returncode == 0 and 'train-generator' in shown.stdout and not shown.stderr
  flags = ['--config=configs/mlp.py:updated', '--workdir=w', '--config.mix.ratio=7']
  script = pathlib.Path(sys.executable).with_name('gan-aug-jax')
  refused = subprocess.run(
    [script, 'run', *flags], capture_output=True, text=True, cwd=tmp_path
  )
  assert refused.returncode == 2
  assert refused.stderr == 'gan_aug_jax: mix.ratio=7.0 must be in [0, 1].\n'


class _Recorder:
  """Stands in for clu's writer, which needs TensorFlow."""

  written = []  # noqa: RUF012

  def __init__(self, directory):
    self.of = f'{directory.parent.parent.name}/{directory.parent.name}'

  def __getattr__(self, name):
    return lambda *values: self.written.append((self.of, name, *values))


@pytest.mark.slow  # a whole run with TensorBoard, which no fast test reads
def test_tensorboard_gets_what_the_files_have(config_file, tmp_path, monkeypatch):
  monkeypatch.setattr(_Recorder, 'written', [])
  monkeypatch.setattr(tensorboard, 'make_writer', _Recorder)
  find = importlib.util.find_spec
  found = lambda name: find('json' if name in ('tensorflow', 'tensorboard') else name)
  monkeypatch.setattr(importlib.util, 'find_spec', found)
  workdir = tmp_path / 'run'
  flags = [f'--config={config_file}', f'--workdir={workdir}']
  flags += ["--config.arms=('augmented',)", '--config.log.tensorboard=True']
  assert run('run', *flags) == 0
  written = {}
  for of, name, *values in _Recorder.written:
    written.setdefault((of, name), []).append(values)
  rows = files.read_metrics(workdir / 'arms' / 'augmented' / 'metrics.jsonl')
  scalars = written['arms/augmented', 'write_scalars']
  assert [{'step': step, **values} for step, values in scalars[:-1]] == rows
  result = json.loads((workdir / 'arms' / 'augmented' / 'result.json').read_text())
  assert scalars[-1][1]['final/eval_accuracy'] == result['eval_accuracy']
  ((step, images),) = written['arms/augmented', 'write_images']
  assert step == 20 and images['confusion'].shape[-1] == 3
  ((hparams,),) = written['arms/augmented', 'write_hparams']
  assert hparams['classifier.learning_rate'] == 0.05
  grids = written['run/generator', 'write_images']
  assert [step for step, _ in grids] == sorted(
    int(path.stem) for path in (workdir / 'generator' / 'samples').iterdir()
  )


def test_tensorboard_without_tensorflow_is_refused(config_file, tmp_path, capsys):
  if importlib.util.find_spec('tensorflow'):
    pytest.skip('TensorFlow is installed')
  flags = [f'--config={config_file}', f'--workdir={tmp_path}']
  assert run('run', *flags, '--config.log.tensorboard=True') == 2
  assert '.[tensorflow]' in capsys.readouterr().err
