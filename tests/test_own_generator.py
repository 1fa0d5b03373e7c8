"""A generator of the user's own is trained, resumed, chosen, mixed in and exported."""

import importlib
import json
import pathlib
import re
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan_aug_jax
from gan_aug_jax import cli, config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import CheckpointError
from gan_aug_jax.experiment import workers
from gan_aug_jax.generators import external, family, fitted, vae, warps
from gan_aug_jax.step import sharding
from gan_aug_jax.training import files, workdir as workdir_lib
from gan_aug_jax.training.spec import Training
from tests import tiny
from tests.test_run import _toy_source, CONFIG

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'howto' / 'own-generator.md'
MAKERS = """
import dataclasses
import signal

import gan_aug_jax
import jax
import jax.numpy as jnp
import numpy as np


def _means(setting, *, noise=0.2, scale=1.0, trained_on=None, fit=None, **more):
  def find_means(dataset, *, seed, directory):
    assert not len(dataset.test) and directory.is_dir()
    images, labels = dataset.train.images / 127.5 - 1, dataset.train.labels
    means = [images[labels == c].mean(0) for c in range(dataset.num_classes)]
    return {'means': jnp.bfloat16(np.stack(means)), 'seed': np.int32(seed)}

  def sample(variables, keys, labels):
    grain = jax.vmap(lambda key: jax.random.normal(key, setting.image_shape))
    level = jnp.zeros((len(keys), 1, 1, 1))  # which asks for the size of the batch
    return scale * variables['means'][labels] + noise * grain(keys) + level

  saw = setting.info.fingerprint if trained_on is None else trained_on
  return gan_aug_jax.Family(
    title='class means', fit=fit or find_means, sample=sample, trained_on=saw, **more
  )


plain = lambda setting: _means(setting)
means = gan_aug_jax.generator(_means)
broken = gan_aug_jax.generator(lambda setting: 1 / 0)
nothing = gan_aug_jax.generator(lambda setting: None)
unfit = gan_aug_jax.generator(lambda setting: _means(setting, fit=lambda *_, **__: 1 / 0))
ragged = gan_aug_jax.generator(
  lambda setting: _means(setting, fit=lambda _, *, seed, directory: {
    'means': np.zeros((2, 8, 8, 1)), 'more': np.zeros(seed + 1),
  })
)
judged = gan_aug_jax.generator(
  lambda setting: _means(setting, discriminator_logits=lambda v, x, y: x[..., 0, 0, 0])
)
vague = gan_aug_jax.generator(lambda setting: _means(setting, fit=lambda *_, **__: [1]))


def _stop(*_, **__):
  signal.raise_signal(signal.SIGTERM)


stopped = gan_aug_jax.generator(lambda setting: _means(setting, fit=_stop))


def _stop_early(dataset, **_):
  try:
    _stop()
  except KeyboardInterrupt:  # as a long fit may do, to keep what it has
    return {'means': np.zeros((dataset.num_classes, *dataset.image_shape))}


early = gan_aug_jax.generator(lambda setting: _means(setting, fit=_stop_early))


def _trained(setting, *, sample=None, loss=None):
  return gan_aug_jax.from_loss(
    setting,
    init=lambda key: jnp.zeros((setting.num_classes, *setting.image_shape)),
    loss=loss or (lambda x, keys, images, y: jnp.square(x[y] - images).mean((1, 2, 3))),
    sample=sample or (lambda x, keys, labels: x[labels]),
  )


flat = gan_aug_jax.generator(
  lambda setting: _trained(setting, sample=lambda x, keys, labels: x[labels, ..., 0])
)
summed = gan_aug_jax.generator(
  lambda setting: _trained(setting, loss=lambda x, keys, images, y: images.sum())
)
unnamed = gan_aug_jax.generator(
  lambda setting: dataclasses.replace(
    _trained(setting), step=lambda state, data: (state, 0)
  )
)
unjudged = gan_aug_jax.generator(
  lambda setting: dataclasses.replace(
    _trained(setting), discriminator_logits=lambda v, x, y: x[..., 0, 0, 0]
  )
)
unit = gan_aug_jax.generator(
  lambda setting: _trained(
    setting, sample=lambda x, keys, y: jax.nn.sigmoid(x[y] + y[:, None, None, None])
  )
)
measured = gan_aug_jax.generator(
  lambda setting: dataclasses.replace(
    _trained(setting), measure=lambda variables, number, seed: variables[:1]
  )
)
reflowed = gan_aug_jax.generator(
  lambda setting: gan_aug_jax.from_loss(
    setting,
    init=lambda key: jnp.zeros((setting.num_classes, *setting.image_shape)),
    loss=lambda x, keys, images, y: jnp.square(x[y] - images).mean((1, 2, 3)),
    reflow=(1, lambda x, keys, images, y, teacher: images.sum()),
    sample=lambda x, keys, y: x[y],
  )
)
joint = gan_aug_jax.generator(
  lambda setting: _trained(
    setting, sample=lambda x, keys, y: x[y] + 0.1 * len(y)
  )
)
paired = gan_aug_jax.generator(
  lambda setting: gan_aug_jax.from_loss(
    setting,
    init=lambda key: (
      jnp.zeros((setting.num_classes, *setting.image_shape)), jnp.zeros(())
    ),
    loss=lambda x, keys, images, y: jnp.square(x[0][y] + x[1] - images).mean((1, 2, 3)),
    sample=lambda x, keys, labels: x[0][labels] + x[1],
  )
)

other = gan_aug_jax.from_function(
  lambda variables, key, labels: jnp.zeros((len(labels), 8, 8, 1)),
  {},
  image_shape=(8, 8, 1),
  num_classes=2,
)
"""
ONE_ARM = "arms=('augmented_classical',)"
SHORT = ('generator.num_steps=6', 'generator.save_every_steps=3', 'log.every_steps=3')
SHORT += ("generator.args=('width=8',)", 'generator.batch_size=8')
SHORT += ('score.extractor_steps=5', 'score.cas_steps=5', 'classifier.num_steps=5')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A directory with a user's files, the working directory of every command."""
  directory = tmp_path_factory.mktemp('own')
  code = re.search(r'```python\n# my_vae.py\n(.*?)```', PAGE.read_text(), re.DOTALL)[1]
  (directory / 'my_vae.py').write_text(code)
  (directory / 'makers.py').write_text(MAKERS)
  (directory / 'toy.py').write_text(CONFIG)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets._SOURCES, 'toy', _toy_source)
    patch.chdir(directory)
    patch.setattr(sys, 'path', [str(directory), *sys.path])
    yield directory


def run(command, workdir, name, *fields):
  flags = [f'--config.{field}' for field in (f'generator.family={name}', *fields)]
  return cli.main(
    ['gan_aug_jax', command, '--config=toy.py', f'--workdir={workdir}', *flags]
  )


def later(command, workdir, *flags):
  trust = [] if command == 'report' else ['--trust-code']
  return cli.main(['gan_aug_jax', command, f'--workdir={workdir}', *trust, *flags])


@pytest.fixture(scope='module')
def trained(place):
  """The how-to's generator, trained without an interruption."""
  assert run('train-generator', place / 'whole', 'my_vae:vae', *SHORT) == 0
  return place / 'whole'


def _result(workdir):
  return json.loads((workdir / 'generator' / 'result.json').read_text())


def test_its_training_is_recorded_and_its_best_checkpoint_chosen(trained):
  result = _result(trained)
  assert (result['family'], result['title'], result['foreign']) == (
    'my_vae:vae',
    'VAE',
    False,
  )
  assert [row['step'] for row in result['candidates']] == [3, 6]
  assert {'cas', 'cas_loss', 'diversity'} <= set(result['candidates'][0])
  assert result['chosen_step'] in (3, 6) and result['num_params'] > 0
  grids = {path.name for path in (trained / 'generator' / 'samples').iterdir()}
  assert grids == {'0000003.png', '0000006.png'}
  rows = files.read_metrics(trained / 'generator' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [3, 6] and 'loss' in rows[0]


def test_the_networks_of_the_page_start_with_weights_of_their_own(place, toy):
  setting = family.Setting(toy.facts, tiny.layout(num_devices=1))
  made = importlib.import_module('my_vae').vae(setting, width=8, latent=3)
  params = jax.jit(lambda seed: made.freeze(made.init(seed))['generator'])(0)
  kernels = [params[name]['params']['Dense_1']['kernel'] for name in params]
  first = [np.ravel(kernel[:6]) for kernel in kernels]  # of the hidden layers
  assert abs(np.corrcoef(*first)[0, 1]) < 0.5  # of copies up to a factor it is 1


def test_its_parameters_may_be_any_tree(place, tmp_path):
  fields = ('generator.num_steps=2', 'generator.select=last', 'log.every_steps=1')
  assert run('train-generator', tmp_path / 'w', 'makers:paired', *fields) == 0
  assert _result(tmp_path / 'w')['num_params'] == 3 * 8 * 8 + 1


def test_interrupted_and_resumed_it_is_the_same_bit_for_bit(place, trained, monkeypatch):
  taken, take = [], Training.take

  def take_and_stop(self, state, step, count):
    if self.num_steps == 6:  # not a probe, which scores a checkpoint
      taken.append(step)
      if step == 4:
        signal.raise_signal(signal.SIGTERM)
    return take(self, state, step, count)

  monkeypatch.setattr(Training, 'take', take_and_stop)
  workdir = place / 'stopped'
  assert run('train-generator', workdir, 'my_vae:vae', *SHORT) == 75
  assert run('train-generator', workdir, 'my_vae:vae', *SHORT) == 0
  assert taken == [0, 1, 2, 3, 4, 5]
  drawn = [
    files.read_arrays(one / 'generator' / 'drawn.npz')['images']
    for one in (trained, workdir)
  ]
  np.testing.assert_array_equal(*drawn)
  assert _result(trained)['candidates'] == _result(workdir)['candidates']


@pytest.mark.slow  # one that is made at once goes through most of the commands, too
def test_what_works_with_a_gan_works_with_it(place, trained, capsys):
  workdir = place / 'all'
  shutil.copytree(trained, workdir)
  assert run('run', workdir, 'my_vae:vae', *SHORT, ONE_ARM) == 0
  results = json.loads((workdir / 'results.json').read_text())
  assert results['generator']['chosen_step'] == _result(trained)['chosen_step']
  assert results['arms']['augmented_classical']['asked_ratio'] == 0.25
  for command in ('score', 'export'):
    assert later(command, workdir) == 0
  report = (workdir / 'report.html').read_text()
  assert 'Generator: VAE (my_vae:vae)' in report and 'Scores of its checkpoints' in report
  versions = json.loads((workdir / 'config.json').read_text())['versions']
  assert f'my_vae:vae {versions["my_vae:vae"]}' in report
  # Its classifiers need none of the generator's code.
  assert cli.main(['gan_aug_jax', 'evaluate', f'--workdir={workdir}']) == 0
  scores = json.loads((workdir / 'score' / 'scores.json').read_text())
  name = f'seed 0, step {results["generator"]["chosen_step"]}'
  assert scores['rows'][name]['copies'] is not None
  assert (workdir / 'score' / 'interpolation.png').exists()
  draw = gan_aug_jax.load_program(workdir / 'export' / 'generator.stablehlo')
  kept = files.read_arrays(workdir / 'generator' / 'drawn.npz')['images']
  np.testing.assert_allclose(draw(0, np.arange(3)), kept, atol=1e-5)
  with pytest.raises(CheckpointError, match='load_program'):
    gan_aug_jax.load_generator(workdir / 'export' / 'generator.safetensors')


@pytest.mark.usefixtures('no_pictures')
@pytest.mark.slow  # a whole run
def test_one_that_is_made_at_once_is_made_once(place, capsys):
  fields = (ONE_ARM, "generator.args=('noise=0.1',)", 'mix.mode=add')
  workdir = place / 'means'
  assert run('run', workdir, 'makers:means', *fields) == 0
  result = _result(workdir)
  assert (result['title'], result['num_steps']) == ('class means', 0)
  before = (workdir / 'generator' / 'variables.npz').stat().st_mtime_ns
  assert run('train-generator', workdir, 'makers:means', *fields) == 0
  assert (workdir / 'generator' / 'variables.npz').stat().st_mtime_ns == before
  assert later('sample', workdir) == later('export', workdir) == 0
  # Its code has changed.
  saved = json.loads((workdir / 'config.json').read_text())
  saved['config']['generator']['args'] = ['noise=0.3']
  (workdir / 'config.json').write_text(json.dumps(saved))
  assert later('sample', workdir) == 3
  assert 'draws other images' in capsys.readouterr().err
  (workdir / 'generator' / 'variables.npz').unlink()
  assert later('sample', workdir) == 3
  assert 'makes it again' in capsys.readouterr().err


def test_other_code_is_refused_and_costs_no_checkpoint(place, trained, capsys):
  """Even if the network of the edited source has other shapes."""
  workdir, source = place / 'edited', place / 'my_vae.py'
  shutil.copytree(trained, workdir)
  (fingerprint,) = [
    value
    for name, value in json.loads((workdir / 'config.json').read_text())[
      'versions'
    ].items()
    if name == 'my_vae:vae'
  ]
  assert len(fingerprint) == 16
  (workdir / 'generator' / 'result.json').unlink()  # as if it was not finished
  files_before = sorted(workdir.rglob('*'))
  before = source.read_text()
  try:
    source.write_text(before.replace('width', 'breadth'))
    assert run('train-generator', workdir, 'my_vae:vae', *SHORT) == 3
  finally:
    source.write_text(before)
  error = capsys.readouterr().err
  assert f"The source of 'my_vae:vae' has changed since the run in '{workdir}'" in error
  assert error.count('\n') == 1 and sorted(workdir.rglob('*')) == files_before


def test_a_finished_generator_of_other_code_is_refused_in_an_ablation(place, trained):
  """A cell that has not begun its arm would otherwise take it as if it were today's."""
  source, saved = place / 'my_vae.py', json.loads((trained / 'config.json').read_text())
  layout = sharding.make_layout('jit', jax.devices()[:1])
  session = workdir_lib.Session(
    config_lib.from_dict(saved['config']), trained, layout, quiet=True
  )
  load = workers.Worker(place, layout)._load_or_train_generator
  before = source.read_text()
  try:
    source.write_text(before.replace('width', 'breadth'))
    with pytest.raises(CheckpointError, match='has changed since'):
      load('generator', session, run=None)
  finally:
    source.write_text(before)


@pytest.mark.slow  # a check of the sentence that the report opens with
def test_a_foreign_one_is_reported(place):
  workdir, fields = place / 'foreign', ("generator.args=('trained_on=',)", ONE_ARM)
  assert run('run', workdir, 'makers:means', *fields, 'generator.allow_foreign=True') == 0
  assert 'is foreign' in (workdir / 'report.html').read_text()


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('makers:missing', (), 'cannot be imported'),
    ('makers:plain', (), 'declared with @gan_aug_jax.generator'),
    ('makers:broken', (), 'ZeroDivisionError'),
    ('makers:unfit', (), 'ZeroDivisionError'),
    ('makers:vague', (), 'fit must return arrays in nested dicts'),
    ('makers:nothing', (), 'returned NoneType'),
    ('makers:other', (), 'of the classes 0, 1;'),
    ('makers:flat', (), 'they must be float [2, 8, 8, 1]'),
    ('makers:summed', (), 'the loss is [], not one an example'),
    ('makers:reflowed', (), 'the loss is [], not one an example'),
    ('makers:measured', (), "The measure of generator.family='makers:measured'"),
    ('makers:unit', (), 'as if in [0, 1]'),
    ('makers:unnamed', (), 'must return (state, {name: scalar})'),
    ('makers:unjudged', (), "its freeze must return {'discriminator': variables}"),
    ('makers:judged', (), 'keeps no discriminator'),
    (
      'makers:ragged',
      ("generator.checkpoints=('seed:0','seed:1')",),
      'cannot take turns',
    ),
    ('makers:means', ("generator.args=('size=[3]',)",), "argument 'size'"),
    ('makers:means', ("generator.args=('size',)",), "of the form 'name=value'"),
    ('makers:means', ("generator.args=('scale=255.0',)",), 'whose mean size is'),
    ('makers:means', ("generator.args=('scale=1e999',)",), 'whose mean size is'),
    ('makers:means', ("generator.args=('trained_on=',)",), 'allow_foreign'),
    ('makers:means', ("generator.args=('trained_on=ff',)",), 'allow_foreign'),
    ('makers:means', ('latents.std=1.5',), 'latents.std=1.5 needs latents'),
    ('makers:means', ("generator.checkpoints=('step:5',)",), 'needs training steps'),
    (
      'makers:means',
      ('filter.score_by=discriminator', 'filter.candidates=2'),
      "filter.score_by='discriminator' needs a discriminator",
    ),
    ('gan', ("generator.args=('width=3',)",), 'for a generator of your own'),
  ],
)
def test_what_cannot_be_is_one_sentence(place, name, fields, message, tmp_path, capsys):
  assert run('train-generator', tmp_path / 'w', name, *fields) == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_what_fit_returns_comes_back(tmp_path):
  """Names with slashes, as of Haiku, empty groups, and NumPy's own argument."""
  tree = {
    'mlp/~/linear_0': {'w': np.ones(3, np.float32)},
    'empty': {},
    'file': np.int32(2),
    'low': jnp.ones(2, jnp.bfloat16),
  }
  (tmp_path / 'variables.npz').write_bytes(fitted._pack(tree))
  found = fitted.read(tmp_path)
  assert jax.tree.structure(found) == jax.tree.structure(tree)
  for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
    assert mine.dtype == theirs.dtype and np.all(mine == theirs)
  with pytest.raises(TypeError, match='keys are strings'):
    fitted._pack({'n': {1: np.ones(2)}})
  for several in ([np.ones(2), np.ones(2)], (np.ones(2), np.ones(3))):
    with pytest.raises(TypeError, match="in nested dicts, and 'n/w' is none"):
      fitted._pack({'n': {'w': several}})


def test_a_generator_keeps_its_variables_in_any_tree(toy, tmp_path):
  """Such as a list of more arrays than there are digits, in a tuple."""
  setting = family.Setting(toy.facts, tiny.layout(num_devices=1))
  variables = (np.ones(tiny.SHAPE), [np.float32(i) for i in range(12)])
  generator = gan_aug_jax.from_function(
    lambda v, key, labels: v[1][2] / 4 * v[0] * jnp.ones((len(labels), 1, 1, 1)),
    variables,
    image_shape=tiny.SHAPE,
    num_classes=tiny.CLASSES,
  )
  made = external._family_of('its:own', generator, setting)
  fitted.fit('its:own', made, toy, 0, tmp_path)
  keys, labels = jax.random.split(jax.random.key(0), 2), np.arange(2)
  np.testing.assert_array_equal(made.sample(fitted.read(tmp_path), keys, labels), 0.5)


def test_a_dry_run_makes_none(place, tmp_path, capsys):
  flags = ['--config=toy.py', f'--workdir={tmp_path / "w"}', f'--config.{ONE_ARM}']
  flags += ['--config.generator.family=makers:unfit', '--dry-run']  # whose fit fails
  assert cli.main(['gan_aug_jax', 'run', *flags]) == 0
  told = capsys.readouterr().out
  assert "Not included: making and drawing from generator.family='makers:unfit'." in told
  assert '1 classifier ' in told and not (tmp_path / 'w').exists()


@pytest.mark.parametrize('name', ['makers:stopped', 'makers:early'])
def test_a_signal_stops_what_is_made_at_once(place, tmp_path, name):
  assert run('train-generator', tmp_path / 'w', name) == 75
  assert not list((tmp_path / 'w' / 'generator').glob('*.npz'))


def test_images_that_depend_on_their_batch_are_refused(place, tmp_path, capsys):
  short = ('generator.num_steps=2', 'generator.select=last', 'log.every_steps=1')
  assert run('train-generator', tmp_path / 'w', 'makers:joint', *short) == 2
  assert 'depend on the others of their batch' in capsys.readouterr().err


@pytest.mark.parametrize(('backend', 'num_devices'), [('jit', 4), ('pmap', 4)])
def test_its_step_is_the_same_on_any_devices_and_backend(toy, backend, num_devices):
  """With a batch that does not divide, whose spare positions must not count."""

  def train(where):
    setting = family.Setting(toy.facts, where, batch_size=10, dtype=jnp.float64)
    made = vae.train(setting, width=8, latent=3)
    state = tiny.cast(jax.jit(made.init)(0), jnp.float64)
    return tiny.run(where, made.step, state, toy, count=10, num_steps=4)

  with jax.enable_x64(True):
    state, metrics = train(tiny.layout('jit', 1))
    again, same = train(tiny.layout(backend, num_devices))
  assert tiny.difference(state, again) < 1e-9
  assert tiny.difference(metrics, same) < 1e-9


SIZE = 16


def _digit(down, right):
  image = np.full((SIZE, SIZE, 1), -1, np.float32)
  image[5 + down : 11 + down, 6 + right : 9 + right] = 1
  return image


def test_a_warp_moves_pixels_as_its_knots_say():
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (SIZE, SIZE - 3, 2)).astype(np.float32)
  knots = np.zeros((warps.KNOTS, warps.KNOTS, 2), np.float32)
  np.testing.assert_allclose(warps.warp(image, knots), image, atol=1e-6)
  knots[...] = 2, -1  # each pixel shows what is two below it and one to its left
  moved = np.asarray(warps.warp(image, knots))
  np.testing.assert_allclose(moved[:-2, 1:], image[2:, :-1], atol=1e-6)
  # Linear along the knots is linear along the pixels: here a mirror, which is affine.
  at = np.linspace(0, SIZE - 1, warps.KNOTS)
  knots[...] = 0
  knots[..., 0] = (SIZE - 1 - 2 * at)[:, None]
  mirrored = warps.warp(image, knots)
  np.testing.assert_allclose(mirrored, image[::-1], atol=1e-4)


def test_registration_lays_one_image_over_another():
  moving, fixed = _digit(0, 0)[None], _digit(2, -2)[None]
  (knots,) = warps.register(moving, fixed)
  before = np.mean(np.square(moving - fixed))
  after = np.mean(np.square(warps.warp(moving[0], knots) - fixed[0]))
  assert after < 0.2 * before


@pytest.fixture(scope='module')
def two_classes():
  """The first varies downwards only, the second is one grey; not as many of each."""
  images = [_digit(shift, 0) for shift in range(-3, 4)] + [np.zeros((SIZE, SIZE, 1))] * 3
  images = np.uint8(np.round((np.float32(images) + 1) * 127.5))
  order = np.random.default_rng(0).permutation(10)
  split = datasets.Split(images[order], np.int32([0] * 7 + [1] * 3)[order])
  return datasets.Dataset('toy', ('digit', 'grey'), split, split, split)


def _make(make, dataset):
  """A sampler of warps, and the variables that they learn of a dataset."""
  made = make(family.Setting(dataset.facts, tiny.layout('jit', 1)))
  variables = jax.tree.map(
    jnp.asarray, made.fit(dataset, seed=0, directory=pathlib.Path())
  )
  return made.make_sampler(), variables


@pytest.mark.parametrize('make', [warps.train, warps.train_colors, warps.untrained])
def test_warped_images_are_of_their_class(two_classes, make):
  sample, variables = _make(make, two_classes)
  keys = jax.random.split(jax.random.key(0), 128)
  asked = np.repeat([0, 1], 64)
  drawn = np.asarray(sample(variables, keys, asked))
  np.testing.assert_allclose(drawn[asked == 1], 0, atol=0.01)
  digits = two_classes.train.images[two_classes.train.labels == 0] / 127.5 - 1
  far = np.abs(drawn[asked == 0][:, None] - digits).mean((2, 3, 4)).min(1)
  assert np.median(far) > 0.02  # not one of them as it is


def test_warps_are_learned_from_other_pairs_with_another_seed(two_classes):
  fit = warps.train(family.Setting(two_classes.facts, tiny.layout(num_devices=1))).fit
  learned = [
    fit(two_classes, seed=seed, directory=pathlib.Path())['changes']['warps']
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(learned[0], learned[1])
  assert not np.array_equal(learned[0], learned[2])


def test_warps_are_learned_along_what_varies(two_classes):
  learned = np.asarray(_make(warps.train, two_classes)[1]['changes']['warps'])
  down, right = np.moveaxis(learned[0, : warps.WARPS // 2], -1, 0)
  assert down.std() > 1 and down.std() > 4 * right.std()


def test_untrained_warps_are_as_wide_as_they_say():
  # Brighter by 1/8 a pixel downwards, so that brightness says from where a pixel came; 17
  # pixels have the middle knot on the middle one.
  ramp = np.broadcast_to(np.linspace(-1, 1, 17)[:, None, None], (17, 17, 1))
  images = np.uint8(np.round((np.stack([ramp, -ramp]) + 1) * 127.5))
  split = datasets.Split(images, np.int32([0, 1]))
  dataset = datasets.Dataset('ramps', ('down', 'up'), split, split, split)
  sample, variables = _make(warps.untrained, dataset)
  keys = jax.random.split(jax.random.key(0), 1000)
  drawn = sample(variables, keys, np.zeros(1000, np.int32))
  pixels = 8 * np.asarray(drawn)[:, 8, 8, 0]
  np.testing.assert_allclose(pixels.mean(), 0, atol=0.2)
  np.testing.assert_allclose(pixels.std(), warps.UNTRAINED_STD, rtol=0.1)


def test_colors_change_by_channel():
  image = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
  change = np.float32([[0.2, 0, -0.1], [0, np.log(2), -1]])
  changed = np.asarray(warps.recolor(image, change))
  means = image.mean((0, 1)) + change[0]
  np.testing.assert_allclose(changed.mean((0, 1)), means, atol=1e-5)
  spreads = image.std((0, 1)) * [1, 2, np.exp(-1)]
  np.testing.assert_allclose(changed.std((0, 1)), spreads, rtol=1e-5)


def test_colors_differ_as_they_do_within_a_class():
  # The first channel varies in brightness, in one class more; the second differs between
  # classes alone; the third varies in contrast.
  rng, labels = np.random.default_rng(0), np.arange(400) % 2
  brightness = np.float64([0.1, 0.3])[labels] * rng.standard_normal(400)
  contrast = 0.4 * np.exp(0.3 * rng.standard_normal(400))
  images = np.zeros((400, 8, 8, 3))
  images += np.stack([brightness, labels - 0.5, 0 * labels], 1)[:, None, None]
  images[:, :, :4, 2] -= contrast[:, None, None]
  images[:, :, 4:, 2] += contrast[:, None, None]
  images = np.uint8(np.round((np.clip(images, -1, 1) + 1) * 127.5))
  split = datasets.Split(images, np.int32(labels))
  dataset = datasets.Dataset('toy', ('even', 'odd'), split, split, split)
  sample, variables = _make(warps.train_colors, dataset)
  _, learned = np.moveaxis(variables['changes']['colors'], 2, 0)
  np.testing.assert_allclose(learned[..., 2].std(), 0.3 * np.sqrt(2), rtol=0.2)
  # An image of the class, and on top changes half of which are learned on any class.
  drawn, asked = _draw_means(sample, variables)
  assert np.abs(drawn).max() <= 1
  spreads = [drawn[asked == c, 0].std() for c in (0, 1)]
  np.testing.assert_allclose(np.square(spreads), [0.04, 0.16], rtol=0.3)
  np.testing.assert_allclose(drawn[:, 1], asked - 0.5, atol=0.01)
  # Without those of one class, its images stay as they are, and the other's do not.
  first_still = lambda of_all: of_all.at[0].set(0)
  changes = jax.tree.map(first_still, variables['changes'])
  drawn, asked = _draw_means(sample, variables | {'changes': changes})
  spreads = [drawn[asked == c, 0].std() for c in (0, 1)]
  np.testing.assert_allclose(np.square(spreads), [0.01, 0.16], rtol=0.3)


def _draw_means(sample, variables):
  """Means by channel of 1,000 images, [1000, C], and their classes, 0 and 1 in turn."""
  keys, asked = jax.random.split(jax.random.key(0), 1000), np.arange(1000) % 2
  return np.asarray(sample(variables, keys, asked)).mean((1, 2)), asked
