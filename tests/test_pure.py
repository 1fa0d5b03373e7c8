"""Losses, layers, augmentation, random numbers: against NumPy or a closed form."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from gan_aug_jax.models import layers
from gan_aug_jax.step import (
  augment,
  averages,
  class_labels,
  classifier,
  classifier_state,
  device_data,
  gan,
  losses,
  plans,
  rng,
)
from tests import tiny


def test_example_keys_belong_to_the_position_not_to_the_grouping():
  key = rng.stream_key(5, 'latent', step=7)
  whole = rng.example_keys(key, jnp.arange(12))
  dealt = rng.example_keys(key, jnp.arange(12).reshape(3, 4).T)
  np.testing.assert_array_equal(
    jax.random.key_data(whole).reshape(3, 4, 2).swapaxes(0, 1),
    jax.random.key_data(dealt),
  )


def test_streams_steps_and_substeps_have_keys_of_their_own():
  keys = [
    rng.stream_key(seed, stream, step, substep)
    for seed in (0, 1)
    for stream in ('latent', 'label', 'dropout')
    for step in (0, 1)
    for substep in (0, 1)
  ]
  data = {np.asarray(jax.random.key_data(key)).tobytes() for key in keys}
  assert len(data) == 24


def test_cross_entropy_equals_numpy():
  logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  labels = np.array([0, 1, 2, 3, 0, 1])
  expected = -scipy.special.log_softmax(logits, -1)[np.arange(6), labels]
  np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-5)


def test_gan_losses_equal_their_definitions():
  real = np.array([-2.0, 0.3, 1.7], np.float32)
  fake = np.array([-0.4, 0.0, 3.0], np.float32)
  sigmoid, log = scipy.special.expit, np.log
  loss = losses.make_gan_loss('non_saturating', real_label=0.9)
  expected = (
    -0.9 * log(sigmoid(real)) - 0.1 * log(1 - sigmoid(real)) - log(1 - sigmoid(fake))
  )
  np.testing.assert_allclose(loss.discriminator(real, fake), expected, rtol=1e-5)
  np.testing.assert_allclose(loss.generator(fake, None), -log(sigmoid(fake)), rtol=1e-5)
  loss = losses.make_gan_loss('hinge')
  expected = np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)
  np.testing.assert_allclose(loss.discriminator(real, fake), expected, rtol=1e-6)
  np.testing.assert_allclose(loss.generator(fake, None), -fake)
  loss = losses.make_gan_loss('relativistic')
  expected = -log(sigmoid(real - fake))
  np.testing.assert_allclose(loss.discriminator(real, fake), expected, rtol=1e-5)
  expected = -log(sigmoid(fake - real))
  np.testing.assert_allclose(loss.generator(fake, real), expected, rtol=1e-5)
  assert loss.paired
  with pytest.raises(ValueError, match='non_saturating, hinge, relativistic'):
    losses.make_gan_loss('wasserstein')


def test_lecam_pulls_each_side_to_the_average_of_the_other():
  means = jnp.array([2.0, -1.0])  # of real and of synthetic logits
  distances = losses.lecam(jnp.array([-1.0, 1.0]), jnp.array([2.0, 5.0]), means)
  np.testing.assert_allclose(distances, [0, 2**2 + 3**2])


@pytest.mark.parametrize('mirrored', [None, np.arange(40) % 3 == 0], ids=['none', 'some'])
def test_random_crop_shows_a_window_of_the_image_continued_by_mirroring(mirrored):
  images = np.random.default_rng(0).normal(size=(40, 6, 7, 2)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 40)
  cropped = np.array(augment.random_crop(keys, images, 2, mirrored))
  if mirrored is not None:
    cropped[mirrored] = cropped[mirrored, :, ::-1]
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='reflect')
  offsets = set()
  for source, result in zip(padded, cropped, strict=True):
    windows = {(i, j): source[i : i + 6, j : j + 7] for i in range(5) for j in range(5)}
    found = [at for at, window in windows.items() if np.array_equal(window, result)]
    assert len(found) == 1
    offsets.add(found[0])
  assert {i for i, _ in offsets} == {j for _, j in offsets} == set(range(5))


def test_random_flip_mirrors_about_half_left_to_right():
  images = np.random.default_rng(0).normal(size=(200, 3, 4, 1)).astype(np.float32)
  flipped = augment.random_flip(jax.random.split(jax.random.key(0), 200), images)
  same = np.all(flipped == images, axis=(1, 2, 3))
  mirrored = np.all(flipped == images[:, :, ::-1], axis=(1, 2, 3))
  assert np.all(same ^ mirrored)
  assert 70 < same.sum() < 130  # 4 standard deviations of a fair coin


def test_bias_relu_pool_equals_flax_also_where_values_tie():
  random = np.random.default_rng(0)
  bias = np.array([0.5, -0.5, 0.0], np.float32)

  def expected(x, bias):
    return nn.max_pool(nn.relu(x + bias), (2, 2), strides=(2, 2))

  # Few different values: most blocks have several maxima, and some nothing above 0.
  for x in (random.normal(size=(2, 7, 6, 3)), random.integers(-1, 2, (2, 6, 5, 3))):
    x = x.astype(np.float32)
    grad = random.normal(size=(2, x.shape[1] // 2, x.shape[2] // 2, 3))
    found, known = (
      jax.jit(functools.partial(_value_and_pulled_back, f))(x, bias, np.float32(grad))
      for f in (layers.bias_relu_pool, expected)
    )
    np.testing.assert_array_equal(found[0], known[0])
    for one, other in zip(found[1], known[1], strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def _value_and_pulled_back(f, x, bias, grad):
  value, pull_back = jax.vjp(f, x, bias)
  return value, pull_back(grad)


def test_depth_to_space_puts_each_feature_in_its_corner():
  x = np.arange(2 * 3 * 2 * 8).reshape(2, 3, 2, 8)
  result = np.asarray(layers.depth_to_space(x))
  assert result.shape == (2, 6, 4, 2)
  for row in range(2):
    for column in range(2):
      corner = (2 * row + column) * 2
      np.testing.assert_array_equal(
        result[:, row::2, column::2], x[..., corner : corner + 2]
      )


def test_batch_norm_weights_examples_and_tracks_the_statistics():
  rng_ = np.random.default_rng(0)
  x = rng_.normal(3, 2, size=(8, 4, 4, 3)).astype(np.float32)
  valid_mask = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)
  norm = layers.BatchNorm(momentum=0.5)
  variables = norm.init(jax.random.key(0), x, train=False)
  result, updated = norm.apply(
    variables, x, train=True, valid_mask=valid_mask, mutable=['batch_stats']
  )
  w = np.broadcast_to(valid_mask[:, None, None, None], x.shape)
  mean = np.average(x, axis=(0, 1, 2), weights=w)
  var = np.average((x - mean) ** 2, axis=(0, 1, 2), weights=w)
  np.testing.assert_allclose(result, (x - mean) / np.sqrt(var + 1e-5), atol=2e-5)
  stats = updated['batch_stats']
  np.testing.assert_allclose(stats['mean'], 0.5 * mean, rtol=1e-5)
  np.testing.assert_allclose(stats['var'], 0.5 + 0.5 * var, rtol=1e-4)
  frozen = norm.apply({**variables, **updated}, x, train=False)
  expected = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  np.testing.assert_allclose(frozen, expected, atol=2e-5)


def test_dropout_mask_belongs_to_the_example():
  x = jnp.ones((6, 50))
  keys = jax.random.split(jax.random.key(1), 6)
  drop = lambda x, keys: layers.ExampleDropout(0.4).apply({}, x, keys, train=True)
  whole = np.asarray(drop(x, keys))
  np.testing.assert_array_equal(whole[2:4], drop(x[2:4], keys[2:4]))
  assert len({row.tobytes() for row in whole}) == 6
  np.testing.assert_allclose(np.unique(whole), [0, 1 / 0.6], rtol=1e-6)
  assert 0.3 < np.mean(whole == 0) < 0.5  # 3.5 standard deviations of 300 draws


def test_frozen_statistics_belong_to_the_averaged_weights(toy):
  """Sampling with them equals, on average, normalising by the batch itself."""
  where = tiny.layout('jit', 1)
  module = tiny.generators.build_generator(
    'dcgan', image_shape=tiny.SHAPE, num_classes=tiny.CLASSES, width=8
  )
  _, state = tiny.gan_step(where)
  ema = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, state.ema)
  measure = gan.make_measure(module, latent_dim=tiny.LATENT, num_classes=tiny.CLASSES)
  variables = {'params': ema, 'batch_stats': state.generator_stats}
  again = lambda number, variables: measure(variables, number, 0)
  variables = jax.jit(lambda v: jax.lax.fori_loop(0, 64, again, v))(variables)
  latents = jax.random.normal(jax.random.key(9), (999, tiny.LATENT))
  labels = jnp.arange(999) % tiny.CLASSES
  draw = jax.jit(lambda variables: module.apply(variables, latents, labels, train=False))
  frozen = draw(variables)
  stale = draw({'params': ema, 'batch_stats': state.generator_stats})
  by_batch, _ = jax.jit(
    lambda v: module.apply(v, latents, labels, train=True, mutable=['batch_stats'])
  )(variables)
  error = lambda images: float(jnp.sqrt(jnp.mean((images - by_batch) ** 2)))
  assert error(frozen) < 0.05 * float(jnp.std(by_batch)) < error(stale)


def test_frozen_statistics_are_of_classes_as_frequent_as_in_training():
  class OfLabels(nn.Module):
    """Its batch statistics are the shares of the classes."""

    @nn.compact
    def __call__(self, latents, labels, *, train):
      one_hot = jax.nn.one_hot(labels, tiny.CLASSES)
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)(one_hot)

  module, probs = OfLabels(), np.array([0.7, 0.2, 0.1])
  variables = module.init(
    jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros(1, int), train=False
  )
  shares = {}
  for name, given in (('equal', None), ('given', probs)):
    measure = gan.make_measure(
      module, latent_dim=1, num_classes=tiny.CLASSES, class_probs=given
    )
    measured = variables
    for number in range(64):
      measured = measure(measured, number, 0)
    shares[name] = measured['batch_stats']['BatchNorm_0']['mean']
  # The average of about 20 batches of 64, with a deviation of 0.013.
  np.testing.assert_allclose(shares['given'], probs, atol=0.05)
  np.testing.assert_allclose(shares['equal'], 1 / 3, atol=0.01)


def test_plan_rounds_to_the_nearest_image():
  plan = plans.plan_batch(128, ratio=0.2, mode='replace')
  assert (plan.num_synthetic, plan.num_real, plan.total) == (26, 102, 128)
  plan = plans.plan_batch(128, ratio=0.2, mode='add')
  assert (plan.num_synthetic, plan.num_real, plan.total) == (26, 128, 154)
  with pytest.raises(ValueError, match=r'\[0, 1\]'):
    plans.plan_batch(128, ratio=1.2, mode='add')
  with pytest.raises(ValueError, match="'replace' or 'add'"):
    plans.plan_batch(128, ratio=0.2, mode='swap')


def test_drawn_labels_are_uniform():
  keys = rng.example_keys(rng.stream_key(0, 'label'), jnp.arange(4000))
  counts = np.bincount(class_labels.draw_labels(keys, 4), minlength=4)
  assert np.all(np.abs(counts - 1000) < 110)  # 4 standard deviations


@pytest.mark.parametrize('count', [4, 10, 23])
def test_feed_is_the_stream_of_epoch_permutations(count):
  """Also across epochs, and for a set smaller than a batch (23 of 10)."""
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  labels = np.arange(10, dtype=np.int32)
  place = lambda tree: jax.tree.map(jnp.asarray, tree)
  examples = place(device_data.arrange(images, labels))
  feed = device_data.make_feed(examples, seed=4, place=place)
  stream = np.concatenate([device_data.epoch_order(4, e, 10) for e in range(20)])
  shapes = set()
  for first in (0, count, 2 * count, 5 * count, 3):  # forwards, and a resume back
    data = feed(first, count)
    index = first + jnp.arange(count)
    pixels, taken = device_data.gather_stream(data, index)
    np.testing.assert_array_equal(taken, stream[first : first + count])
    np.testing.assert_allclose(pixels[:, 0, 0, 0], np.asarray(taken) / 127.5 - 1)
    shapes.add(data.order.shape)
  assert len(shapes) == 1  # or the step would be compiled again
  feed(0, 3 * count)  # a longer window holds these too, and must not be given for them
  assert feed(0, count).order.shape in shapes
  assert all(len(set(stream[i : i + 10])) == 10 for i in range(0, 200, 10))


def _take_steps(count, gradient, **options):
  """The updates that an optimizer makes of the same gradient in every step."""
  optimizer = classifier.make_optimizer(**options)
  params = jnp.zeros_like(gradient)
  state, updates = optimizer.init(params), []
  for _ in range(count):
    update, state = optimizer.update(gradient, state, params)
    updates.append(np.asarray(update))
  return np.stack(updates)


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
def test_warm_up_rises_linearly_before_the_schedule(schedule):
  options = {'name': 'sgd', 'learning_rate': 0.5, 'momentum': 0.0, 'schedule': schedule}
  updates = _take_steps(10, jnp.array([1.0]), num_steps=10, warmup_steps=4, **options)
  np.testing.assert_allclose(updates[:5, 0], [0, -0.125, -0.25, -0.375, -0.5], atol=1e-6)
  without = _take_steps(6, jnp.array([1.0]), num_steps=6, **options)
  np.testing.assert_allclose(updates[4:], without, atol=1e-6)


def test_one_cycle_rises_and_falls_in_straight_lines_to_0():
  options = {'learning_rate': 0.4, 'momentum': 0.0, 'schedule': 'linear'}
  updates = _take_steps(
    8, jnp.array([1.0]), name='sgd', num_steps=8, warmup_steps=4, **options
  )
  expected = [0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1]
  np.testing.assert_allclose(-updates[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize('name', ['sgd', 'adam'])
def test_weight_decay_can_spare_biases_and_norms(name):
  params = {'kernel': jnp.ones((1, 1)), 'bias': jnp.ones(1), 'scale': jnp.ones(())}
  for only_kernels, decayed in ((False, params), (True, {'kernel': ...})):
    optimizer = classifier.make_optimizer(
      name,
      learning_rate=0.1,
      num_steps=9,
      weight_decay=0.5,
      only_kernels=only_kernels,
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for part, update in updates.items():
      np.testing.assert_allclose(update, -0.05 if part in decayed else 0, rtol=1e-6)


def test_an_own_schedule_takes_the_steps_after_the_warm_up():
  seen = []

  def own(schedule, num_steps):
    seen.append(num_steps)
    return optax.scale_by_learning_rate(schedule)

  decay = lambda peak, num_steps: lambda step: peak * (step + num_steps)
  updates = _take_steps(
    4,
    jnp.array([1.0]),
    name=own,
    learning_rate=0.5,
    num_steps=4,
    schedule=decay,
    warmup_steps=2,
  )
  assert seen == [4]
  np.testing.assert_allclose(-updates[:, 0], [0, 0.25, 1.0, 1.5])


def test_the_average_of_a_state_is_that_of_its_variables():
  state = classifier_state.ClassifierState(
    step=jnp.int32(0),
    seed=jnp.int32(0),
    params={'w': jnp.float32(0)},
    batch_stats={'mean': jnp.float32(0), 'count': jnp.int32(0)},
    opt_state=(),
    class_stats={},
  )
  assert state.evaluated == state.variables
  state = classifier_state.AveragedState(**vars(state), ema=state.variables)
  average = 0.0
  for step in range(1, 200):
    new = {'params': {'w': jnp.float32(step)}}
    new['batch_stats'] = {'mean': jnp.float32(-step), 'count': jnp.int32(step)}
    state = state.replace(step=jnp.int32(step), **new)
    ema = averages.update_average(state.ema, state.variables, 0.9, jnp.int32(step - 1))
    state = state.replace(ema=ema)
    decay = min(0.9, step / (9 + step))
    average = decay * average + (1 - decay) * step
  np.testing.assert_allclose(state.evaluated['params']['w'], average, rtol=1e-4)
  kept = state.evaluated['batch_stats']
  np.testing.assert_allclose(kept['mean'], -average, rtol=1e-4)
  assert kept['count'] == 199


def test_an_average_of_bfloat16_moves_though_its_decay_would_round_to_1():
  average, one = jnp.zeros((), jnp.bfloat16), jnp.ones((), jnp.bfloat16)
  for step in range(100):
    late = jnp.int32(10**5 + step)  # after the ramp
    average = averages.update_average(average, one, 0.999, late)
  assert average.dtype == jnp.bfloat16
  assert float(average) == pytest.approx(1 - 0.999**100, rel=0.2)


def test_an_own_transform_comes_last_and_sees_one_image_with_its_key():
  keys = jax.random.split(jax.random.key(0), 5)
  images = jnp.linspace(-1, 1, 5 * 8 * 8).reshape(5, 8, 8, 1)

  def own(key, image):
    return (image + jax.random.uniform(key)).astype(jnp.bfloat16)

  plain, changed = (
    jax.jit(augment.make_augment(crop=1, flip=True, **options))(keys, images)
    for options in ({}, {'custom': own})
  )
  added = changed - plain
  assert added.dtype == images.dtype
  by_image = np.asarray(added.mean((1, 2, 3)))
  np.testing.assert_allclose(added, by_image[:, None, None, None] + 0 * added, atol=0.02)
  assert len(set(np.round(by_image, 2))) == 5


@pytest.mark.parametrize('shape', [(8, 8), (32, 32), (8, 6)])
def test_boxes_of_up_to_half_an_image_are_no_larger(shape):
  area = jnp.linspace(0, 0.5, 5001)
  sides = np.asarray(augment._box_sides(area, jnp.array(shape)))
  half = np.prod(shape) / 2
  assert sides.prod(1).max() <= half
  nearest = np.rint(np.sqrt(area)[:, None] * np.array(shape))
  fits = nearest.prod(1) <= half
  np.testing.assert_array_equal(sides[fits], nearest[fits])


@pytest.mark.parametrize('nesterov', [False, True])
def test_nesterov_momentum_looks_one_step_ahead(nesterov):
  options = {'learning_rate': 0.1, 'num_steps': 9, 'momentum': 0.5, 'nesterov': nesterov}
  updates = _take_steps(3, jnp.array([1.0]), name='sgd', **options)
  velocity = np.array([1, 1.5, 1.75])
  expected = 1 + 0.5 * velocity if nesterov else velocity
  np.testing.assert_allclose(updates[:, 0], -0.1 * expected, rtol=1e-6)
  adam = [
    _take_steps(2, jnp.array([1.0]), name='adam', **{**options, 'nesterov': ahead})
    for ahead in (False, True)
  ]
  assert not np.allclose(*adam)


def test_clipping_scales_a_gradient_down_to_its_largest_norm():
  options = {'name': 'sgd', 'learning_rate': 1.0, 'num_steps': 9, 'momentum': 0.0}
  clip = lambda *gradient: _take_steps(1, jnp.array(gradient), clip_norm=1.0, **options)
  np.testing.assert_allclose(clip(3.0, 4.0), [[-0.6, -0.8]], rtol=1e-6)
  np.testing.assert_allclose(clip(0.3, 0.4), [[-0.3, -0.4]], rtol=1e-6)
