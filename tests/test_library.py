"""The API for training loops of one's own: generators and mixing them in."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan_aug_jax
from gan_aug_jax.data import splits
from gan_aug_jax.errors import ConfigError, DataError
from gan_aug_jax.step import rng
from tests import tiny

B = 12


def _generator():
  sample, variables = tiny.frozen_generator(arch='mlp')
  return gan_aug_jax.Generator(sample, variables, tiny.SHAPE, ('a', 'b', 'c'))


def _batch(seed=0):
  """Real images that no generator draws, brighter than 1, and labels of no class."""
  images = 2 + np.random.default_rng(seed).random((B, *tiny.SHAPE), np.float32)
  return images, np.arange(100, 100 + B, dtype=np.int32)


def _deal(num_devices, explicit=False):
  kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
  mesh = jax.make_mesh(
    (num_devices,), ('rows',), axis_types=(kind,), devices=jax.devices()[:num_devices]
  )
  return jax.NamedSharding(mesh, jax.P('rows'))


def _mixed(num_devices, *, explicit=False, **options):
  """What mix makes of the batch on some devices."""
  generator, sharding = _generator(), None
  variables, batch = generator.variables, _batch()
  if num_devices > 1:
    sharding = _deal(num_devices, explicit)
    batch = jax.device_put(batch, sharding)
    variables = jax.device_put(variables, jax.NamedSharding(sharding.mesh, jax.P()))
  mix = gan_aug_jax.make_mixer(generator, batch_size=B, sharding=sharding, **options)
  return jax.device_get(jax.jit(mix)(variables, jax.random.key(5), *batch))


def _by_position(rows, num_devices):
  """Rows in the order of their positions: slot s of device d is d + n s."""
  return np.swapaxes(rows.reshape(num_devices, -1, *rows.shape[1:]), 0, 1).reshape(
    rows.shape
  )


@pytest.mark.parametrize(
  ('num_devices', 'ratio'), [(1, 0.2), (1, 1.0), (2, 0.25), (4, 0.2), (4, 0.5)]
)
def test_first_positions_are_synthetic_and_the_rest_untouched(num_devices, ratio):
  asked = int(ratio * B + 0.5)
  images, labels = _mixed(num_devices, ratio=ratio)
  (real, real_labels), where = _batch(), np.arange(B)
  is_synthetic = _by_position(labels, num_devices) < 100
  np.testing.assert_array_equal(is_synthetic, where < asked)
  np.testing.assert_array_equal(np.abs(images).max((1, 2, 3)) <= 1, labels < 100)
  np.testing.assert_array_equal(images[labels >= 100], real[labels >= 100])
  np.testing.assert_array_equal(labels[labels >= 100], real_labels[labels >= 100])


def test_a_synthetic_image_belongs_to_its_position_on_any_devices():
  for mode, ratio in (('replace', 0.4), ('add', 1 / 3)):
    alone, *others = (
      [_by_position(x, n) for x in _mixed(n, mode=mode, ratio=ratio, explicit=explicit)]
      for n, explicit in ((1, False), (4, False), (4, True))
    )
    drawn = alone[1] < 100
    for images, labels in others:
      np.testing.assert_array_equal(labels[drawn], alone[1][drawn])
      np.testing.assert_allclose(images[drawn], alone[0][drawn], atol=1e-5)


def test_image_is_the_generators_for_its_label_and_no_two_are_alike():
  images, labels = _mixed(1, ratio=0.5)
  generator, count = _generator(), B // 2
  key = jax.random.wrap_key_data(
    jax.random.bits(jax.random.key(5), (2, 2), jnp.uint32), impl='threefry2x32'
  )[1]
  keys = rng.example_keys(key, jnp.arange(count))
  expected = generator.sample(generator.variables, keys, labels[:count])
  np.testing.assert_allclose(images[:count], expected, atol=1e-5)
  assert len(np.unique(images[:count].round(4), axis=0)) == count
  other = jax.jit(gan_aug_jax.make_mixer(generator, batch_size=B, ratio=0.5))(
    generator.variables, jax.random.key(6), *_batch()
  )
  assert not np.allclose(other[0][:count], images[:count], atol=1e-2)


def test_add_keeps_every_real_image():
  images, labels = _mixed(2, ratio=0.5, mode='add')
  assert len(images) == len(labels) == B + 6 and (labels < 100).sum() == 6
  order = np.argsort(labels[labels >= 100])
  np.testing.assert_array_equal(images[labels >= 100][order], _batch()[0])


def test_ratio_zero_has_no_generator():
  refuse = lambda *_: pytest.fail('the generator was called')
  generator = gan_aug_jax.Generator(refuse, {}, tiny.SHAPE, ('a',))
  mix = gan_aug_jax.make_mixer(generator, batch_size=B, ratio=0.0)
  images, labels = jax.jit(mix)({}, jax.random.key(0), *_batch())
  np.testing.assert_array_equal(images, _batch()[0])
  np.testing.assert_array_equal(labels, _batch()[1])


def test_class_shares_are_those_asked_for():
  generator = gan_aug_jax.Generator(
    lambda v, keys, labels: jnp.zeros((len(keys), 2, 2, 1)), {}, (2, 2, 1), ('a', 'b')
  )
  mix = gan_aug_jax.make_mixer(
    generator, batch_size=4000, ratio=1.0, class_shares=np.array([0.8, 0.2])
  )
  images, labels = np.zeros((4000, 2, 2, 1), np.float32), np.zeros(4000, np.int32)
  _, drawn = mix({}, jax.random.key(0), images, labels)
  assert np.mean(drawn == 0) == pytest.approx(0.8, abs=0.03)  # 4.7 standard errors


def _step(mix, axis_name=None):
  """A user's step: logistic regression on what mix returns."""

  def step(params, variables, key, images, labels):
    images, labels = mix(variables, key, images, labels)

    def loss(params):
      logits = images.reshape(len(images), -1) @ params
      chosen = jax.nn.log_softmax(logits) * jax.nn.one_hot(labels % 3, 3)
      return -jnp.mean(chosen.sum(-1))

    grads = jax.grad(loss)(params)
    return params - 0.1 * (jax.lax.pmean(grads, axis_name) if axis_name else grads)

  return step


@pytest.mark.parametrize('mode', ['replace', 'add'])
@pytest.mark.parametrize('explicit', [False, True])
def test_mixing_adds_no_communication_to_a_step(mode, explicit):
  """The users' own step has an all-reduce of its gradient."""
  sharding, generator = _deal(4, explicit), _generator()
  everywhere = jax.NamedSharding(sharding.mesh, jax.P())
  mix = gan_aug_jax.make_mixer(
    generator, batch_size=B, ratio=1 / 3, mode=mode, sharding=sharding
  )
  fixed = jax.device_put((jnp.zeros((64, 3)), generator.variables), everywhere)
  batch = jax.device_put(_batch(), sharding)
  text = jax.jit(mix).lower(fixed[1], jax.random.key(0), *batch).compile().as_text()
  assert not tiny.COLLECTIVE.findall(text)
  if not explicit:  # under which a step like this has to say more
    step = jax.jit(_step(mix)).lower(*fixed, jax.random.key(0), *batch)
    assert set(tiny.COLLECTIVE.findall(step.compile().as_text())) == {'all-reduce'}


def test_mapped_steps_take_the_same_step():
  """`pmap`, whose devices see their share only, and `jit` on one device."""
  generator, key = _generator(), jax.random.key(2)
  options = {'batch_size': B, 'ratio': 1 / 3}
  params, variables = jnp.zeros((64, 3)), generator.variables
  images, _ = _batch()
  labels = np.zeros(B, np.int32)  # so that which real one is replaced changes nothing
  images = np.broadcast_to(images[:1], images.shape)
  alone = _step(gan_aug_jax.make_mixer(generator, **options))
  alone = jax.jit(alone)(params, variables, key, images, labels)
  mapped = _step(gan_aug_jax.make_mixer(generator, axis_name='i', **options), 'i')
  shares = [x.reshape(4, 3, *x.shape[1:]) for x in (images, labels)]
  mapped = jax.pmap(mapped, axis_name='i', in_axes=(None, None, None, 0, 0))
  moved = mapped(params, variables, key, *shares)
  assert np.abs(alone).max() > 0.01
  np.testing.assert_allclose(moved[3], alone, atol=1e-6)


def test_any_kind_of_key_will_do_and_no_gradient_reaches_the_generator():
  generator = _generator()
  mix = gan_aug_jax.make_mixer(generator, batch_size=B, ratio=0.5)
  old, new = jax.random.PRNGKey(3), jax.random.key(3)
  images, labels = _batch()[0], np.zeros(B, np.int32)
  first, second = (mix(generator.variables, key, images, labels) for key in (old, new))
  np.testing.assert_array_equal(first[0], second[0])
  total = lambda variables: jnp.sum(mix(variables, new, images, labels)[0] ** 2)
  grads = jax.grad(total)(generator.variables)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_function_of_one_key_draws_by_example():
  """An image depends on its own key and label, though the function mixes its batch."""

  def sample(variables, key, labels):
    noise = jax.random.uniform(key, (len(labels), 2, 2, 1), minval=-1, maxval=1)
    return variables['scale'] * (noise - noise.mean(0)) + noise / 2 + labels.mean() / 8

  generator = gan_aug_jax.from_function(
    sample, {'scale': jnp.float32(0.3)}, image_shape=(2, 2, 1), num_classes=3
  )
  assert generator.class_names == ('0', '1', '2') and generator.num_classes == 3
  keys, labels = jax.random.split(jax.random.key(0), 6), jnp.array([0, 1, 2, 0, 1, 2])
  images = generator.sample(generator.variables, keys, labels)
  some = generator.sample(generator.variables, keys[3:5], labels[3:5])
  np.testing.assert_array_equal(images[3:5], some)
  assert len(np.unique(images, axis=0)) == 6
  candidates = generator.sample(generator.variables, keys.reshape(2, 3), labels[:2])
  assert candidates.shape == (2, 3, 2, 2, 1)


@pytest.mark.parametrize(
  ('sample', 'options', 'said'),
  [
    (lambda v, k, y: jnp.zeros((len(y), 4, 4, 1)), {}, r'are float32\[2, 4, 4, 1\]'),
    (lambda v, k, y: jnp.zeros((len(y), 2, 2, 1), int), {}, 'must be float'),
    (lambda v, k, y: v['missing'], {}, "fails .*'missing'"),
    (lambda v, k: 0, {}, 'its sample must take'),
    (
      lambda v, k, y: [jnp.zeros((len(y), 2, 2, 1))] * 2,
      {},
      'Two images of generator',
    ),
    (None, {'class_names': ('a', 'b')}, '2 class_names'),
  ],
)
def test_functions_that_draw_no_such_images_are_refused(sample, options, said):
  with pytest.raises(ConfigError, match=said):
    gan_aug_jax.from_function(sample, {}, image_shape=(2, 2, 1), num_classes=3, **options)


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    ({'ratio': 1.5}, r'must be in \[0, 1\]'),
    ({'ratio': 0.01}, 'less than half an image'),
    ({'ratio': 0.5, 'mode': 'blend'}, "'replace' or 'add'"),
    ({'ratio': 0.5, 'sharding': 'devices'}, 'multiple of the 8 devices'),
    ({'ratio': 0.4, 'mode': 'add', 'sharding': 'four'}, 'choose another ratio'),
    ({'ratio': 0.5, 'sharding': 'data'}, 'takes the NamedSharding'),
    ({'ratio': 0.5, 'sharding': 'four', 'axis_name': 'i'}, 'not both'),
  ],
)
def test_mixers_that_cannot_be_are_refused(options, said):
  places = {'devices': lambda: _deal(8), 'four': lambda: _deal(4)}
  options = {
    name: places.get(value, lambda value=value: value)()
    for name, value in options.items()
  }
  with pytest.raises(ConfigError, match=said):
    gan_aug_jax.make_mixer(_generator(), batch_size=B, **options)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda x, y: ((x * 50).astype(np.uint8), y), r'uint8\[12, 8, 8, 1\]'),
    (lambda x, y: (x[:7], y[:7]), r'float \[12, 8, 8, 1\]'),
    (lambda x, y: (x[:, :4], y), 'as generator'),
    (lambda x, y: (x, np.eye(B, dtype=np.float32)), 'one-hot afterwards'),
  ],
)
def test_batches_that_do_not_fit_are_refused(change, said):
  generator = _generator()
  mix = gan_aug_jax.make_mixer(generator, batch_size=B, ratio=0.5)
  with pytest.raises(ConfigError, match=said):
    jax.jit(mix)(generator.variables, jax.random.key(0), *change(*_batch()))


@pytest.mark.parametrize(
  ('labels', 'said'),
  [
    ([0, 1, 3], r'label 3; they must be integers \[B\] from 0 to 2'),
    ([0, -1, 2], 'label -1'),
    ([1, 2, 3], 'count from 1: subtract 1'),
    ([0, 1.7, 2], r'float64\[3\]'),
    ([[0], [1], [2]], r'int64\[3, 1\]'),
    ([True, False, True], 'bool'),
  ],
)
def test_labels_of_no_class_are_refused_unless_they_are_traced(labels, said):
  variables, keys = {}, jax.random.split(jax.random.key(0), 3)
  generator = gan_aug_jax.from_function(
    lambda variables, key, labels: jnp.zeros((len(labels), 2, 2, 1)),
    variables,
    image_shape=(2, 2, 1),
    num_classes=3,
  )
  for kind in (np.array, list):
    with pytest.raises(ConfigError, match=f"Generator 'generator' got .*{said}"):
      generator.sample(variables, keys, kind(labels))
  assert generator.sample(variables, keys, [0, 1, 2]).shape == (3, 2, 2, 1)
  traced = jnp.array([0, 1, 3])
  assert jax.jit(generator.sample)(variables, keys, traced).shape == (3, 2, 2, 1)


@pytest.mark.parametrize('ratio', [0.0, 0.5])
def test_mix_refuses_images_from_0_to_1_and_labels_of_no_class(ratio):
  generator, (images, _) = _generator(), _batch()
  mix = gan_aug_jax.make_mixer(generator, batch_size=B, ratio=ratio)
  try_mix = lambda *batch: mix(generator.variables, jax.random.key(0), *batch)
  labels = np.arange(B, dtype=np.int32) % 3
  from_0_to_1 = (images - 2).astype(np.float32)
  with pytest.raises(ConfigError, match=r'convert them with 2 \* images - 1'):
    try_mix(from_0_to_1, labels)
  with pytest.raises(ConfigError, match=r'mix got the label 3; .*subtract 1'):
    try_mix(2 * from_0_to_1 - 1, labels + 1)
  for fine in (2 * from_0_to_1 - 1, np.full_like(images, 0.5), images):
    assert len(try_mix(fine, labels)[0]) == B
  # Traced, there is nothing to look at.
  jax.jit(mix)(generator.variables, jax.random.key(0), from_0_to_1, labels + 1)


def test_fingerprint_is_a_datasets_own(toy):
  images, labels = toy.train.images, toy.train.labels
  same = gan_aug_jax.fingerprint(images, labels.astype(np.int64).tolist())
  assert same == toy.fingerprint == splits.Split(images, labels).fingerprint
  assert gan_aug_jax.fingerprint(images[::-1], labels) != toy.fingerprint
  for wrong in ((images / 255, labels), (images, labels[1:]), (images, labels / 2)):
    with pytest.raises(DataError):
      gan_aug_jax.fingerprint(*wrong)


def test_importing_the_package_waits_for_nothing_and_names_what_is_public():
  code = (
    'import sys, gan_aug_jax; early = "jax" in sys.modules or "numpy" in sys.modules;'
    'from gan_aug_jax import errors, make_mixer; '
    'print(early, set(gan_aug_jax.__all__) <= set(dir(gan_aug_jax)), make_mixer.__name__)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.stdout.split() == ['False', 'True', 'make_mixer']
  for name in gan_aug_jax.__all__:
    assert callable(getattr(gan_aug_jax, name))
  with pytest.raises(AttributeError, match='no_such_name'):
    gan_aug_jax.no_such_name  # noqa: B018
