"""Generators, discriminators and what the discriminator's loss is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.generators import families
from gan_aug_jax.models import classifiers, discriminators, generators, layers
from gan_aug_jax.step import augment, gan, losses
from gan_aug_jax.training import workdir
from tests import tiny


@pytest.mark.parametrize('arch', list(generators.GENERATORS))
@pytest.mark.parametrize('shape', [(32, 32, 1), (64, 64, 3)])
def test_any_arch_makes_and_judges_images_of(arch, shape):
  generator = generators.build_generator(arch, image_shape=shape, num_classes=7, width=8)
  discriminator = discriminators.build_discriminator(arch, num_classes=7, width=8)
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)

  def both(latent, labels):
    init = generator.init(jax.random.key(0), latent, labels, train=False)
    images = generator.apply(init, latent, labels, train=False)
    critic = discriminator.init(jax.random.key(1), images, labels)
    return images, discriminator.apply(critic, images, labels)

  latent = jax.ShapeDtypeStruct((2, 16), jnp.float32)
  images, logits = jax.eval_shape(both, latent, labels)
  assert images.shape == (2, *shape) and logits.shape == (2,)


@pytest.mark.parametrize(
  'arch',
  [
    pytest.param(arch, marks=[pytest.mark.slow] * (arch != 'dcgan'))
    for arch in generators.GENERATORS
  ],
)
def test_label_reaches_the_image_and_the_logit(arch):
  """An ignored label would leave a class-conditional GAN without classes."""
  build = {'num_classes': 3, 'width': 8}
  generator = generators.build_generator(arch, image_shape=tiny.SHAPE, **build)
  discriminator = discriminators.build_discriminator(arch, **build)
  latent, labels = jnp.ones((3, 4)), jnp.arange(3)
  # Conditional scales start equal for all classes: they have to be able to differ.
  noisy = lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape)

  @jax.jit
  def both():
    variables = generator.init(jax.random.key(0), latent, labels, train=False)
    images = generator.apply(jax.tree.map(noisy, variables), latent, labels, train=False)
    same = jnp.broadcast_to(images[:1], images.shape)
    critic = discriminator.init(jax.random.key(1), same, labels)
    return images, discriminator.apply(critic, same, labels)

  images, logits = jax.device_get(both())
  assert np.abs(images).max() <= 1
  assert np.ptp(images, axis=0).max() > 1e-3
  assert np.ptp(logits) > 1e-4


@pytest.mark.parametrize('upsampling', list(layers.UPSAMPLINGS))
def test_upsamplings_double_and_stay_local(upsampling):
  """A pixel reaches its own block of 2 x 2 and, by the kernel, the next pixels only."""
  doubled = Doubling(upsampling)
  x = jnp.zeros((1, 6, 6, 2))

  @jax.jit
  def light():
    variables = doubled.init(jax.random.key(0), x)
    return doubled.apply(variables, x.at[0, 3, 3].set(1)) - doubled.apply(variables, x)

  lit = light()
  assert lit.shape == (1, 12, 12, 5)
  rows = np.flatnonzero(np.any(np.asarray(lit) != 0, axis=(0, 2, 3)))
  assert 6 in rows and 7 in rows and rows.min() >= 4 and rows.max() <= 9


def test_transposed_is_the_4x4_convolution_with_stride_2():
  x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
  doubled = Doubling('transposed')
  variables = doubled.init(jax.random.key(0), x)
  # By sub-pixel, the first ones being row and column 1 of a block of the 4 x 4.
  blocks = variables['params']['Conv_0']['kernel'].reshape(2, 2, 3, 2, 2, 5)
  kernel = blocks[:, :, :, ::-1, ::-1].transpose(0, 3, 1, 4, 2, 5).reshape(4, 4, 3, 5)
  plain = generators.nn.ConvTranspose(5, (4, 4), (2, 2), use_bias=False)
  expected = plain.apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_allclose(doubled.apply(variables, x), expected, atol=1e-5)


class Doubling(generators.nn.Module):
  upsampling: str

  @generators.nn.compact
  def __call__(self, x):
    return layers.UPSAMPLINGS[self.upsampling](x, 5, dtype=jnp.float32)


def test_conditional_norm_scales_and_shifts_by_class():
  x = np.random.default_rng(0).normal(size=(6, 2, 2, 3)).astype(np.float32)
  labels = np.array([0, 1, 2, 2, 1, 0])
  norm = layers.BatchNorm(num_classes=3)
  variables = norm.init(jax.random.key(0), x, train=False, labels=labels)
  scale = np.arange(9, dtype=np.float32).reshape(3, 3)
  variables = {**variables, 'params': {'scale': scale, 'bias': 10 * scale}}
  result, _ = norm.apply(variables, x, train=True, labels=labels, mutable=['batch_stats'])
  plain = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
  of_class = scale[labels][:, None, None]
  np.testing.assert_allclose(result, plain * of_class + 10 * of_class, atol=2e-5)


class Spectral(generators.nn.Module):
  @generators.nn.compact
  def __call__(self, x, train):
    return layers.spectral(layers.dense(5, dtype=jnp.float32), x, train=train)


def test_spectral_norm_divides_by_the_largest_singular_value():
  eye = jnp.eye(7)
  variables = Spectral().init(jax.random.key(0), eye, False)
  kernel = np.asarray(variables['params']['Dense_0']['kernel'])
  step = jax.jit(lambda v: Spectral().apply(v, eye, True, mutable=['spectral'])[1])
  for _ in range(200):
    variables = {**variables, **step(variables)}
  largest = np.linalg.svd(kernel, compute_uv=False)[0]
  result, kept = Spectral().apply(variables, eye, False, mutable=['spectral'])
  np.testing.assert_allclose(result, kernel / largest, rtol=1e-4)
  # Evaluating must not go on with the iteration: the two updates share one state.
  assert tiny.difference(kept['spectral'], variables['spectral']) == 0


def test_average_pooling_and_repeating_equal_numpy():
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
  pooled = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
  np.testing.assert_allclose(layers.avg_pool_2x2(x), pooled, rtol=1e-5)
  np.testing.assert_array_equal(layers.repeat_2x2(x), x.repeat(2, 1).repeat(2, 2))


class Linear(generators.nn.Module):
  """A discriminator whose gradient is its weight."""

  @generators.nn.compact
  def __call__(self, images, labels, *, train=False):
    return generators.nn.Dense(1)(images.reshape(len(images), -1))[:, 0]


@pytest.mark.parametrize('weights', [{'r1': 3.0}, {'r2': 3.0}, {'r1': 1.0, 'r2': 2.0}])
def test_gradient_penalty_of_a_linear_discriminator_is_its_norm(weights):
  images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1)), jnp.float32)
  labels = jnp.zeros((2, 3), jnp.int32)
  params = Linear().init(jax.random.key(0), images[0], labels[0])['params']
  _, state = tiny.gan_step(tiny.layout('jit', 1), arch='mlp')
  state = state.replace(discriminator_stats={})

  batch = gan.GanBatch(None, images, labels, -images)

  def value(**weights):
    gan_losses = gan.GanLosses(
      discriminator=Linear(),
      loss=losses.make_gan_loss('hinge'),
      batch_size=6,
      **weights,
    )
    loss, _ = gan_losses.discriminator_loss(params, state, batch, None, 0)
    return float(loss)

  squared = float(jnp.sum(params['Dense_0']['kernel'] ** 2))
  assert value(**weights) - value() == pytest.approx(0.5 * 3 * squared, rel=1e-4)


class Recorder:
  """A DiffAugment that changes nothing and notes what it is given as a program runs."""

  def __init__(self):
    self.keys, self.images = [], []

  def __call__(self, keys, images):
    jax.debug.callback(self._note, jax.random.key_data(keys), images, ordered=True)
    return images

  def _note(self, keys, images):
    self.keys.append(np.asarray(keys).tobytes())
    self.images.append(np.asarray(images))


def test_every_look_of_the_discriminator_is_augmented_apart(toy, monkeypatch):
  """Real and synthetic of both updates, and the synthetic of the generator's own."""
  recorder = Recorder()
  monkeypatch.setattr(augment, 'make_diffaug', lambda policy: recorder)
  where = tiny.layout('jit', 1)
  options = {'d_steps': 2, 'diffaug': ('flip',), 'loss': 'hinge'}
  step, state = tiny.gan_step(where, arch='mlp', **options)
  jax.block_until_ready(jax.jit(step)(state, tiny.feed(where.replicate, toy)(0, 24)))
  jax.effects_barrier()
  assert len(recorder.keys) == len(set(recorder.keys)) == 5
  first, _, second, _, _ = recorder.images
  assert tiny.difference(first, second) > 0.1  # each update takes real images of its own


def test_logit_means_follow_real_and_synthetic_logits(toy):
  where = tiny.layout('jit', 1)
  step, state = tiny.gan_step(where, arch='mlp', lecam=0.1)
  state, metrics = tiny.run(where, step, state, toy, count=12, num_steps=1)
  seen = np.array([metrics['real_logit'][0], metrics['fake_logit'][0]])
  assert abs(seen[0] - seen[1]) > 1e-3
  np.testing.assert_allclose(state.logit_means, 0.01 * seen, rtol=1e-4)


@pytest.mark.slow  # builds two families from the config
def test_discriminator_has_a_learning_rate_of_its_own(toy, tmp_path):
  where, changes = tiny.layout('jit', 1), []
  config = config_lib.default()
  config.gan.arch, config.gan.width, config.gan.diffaug = 'mlp', 8, ()
  config.generator.batch_size = 8
  for rate in (0.0, 1e-9):
    config.gan.discriminator_learning_rate = rate
    session = workdir.Session(config, tmp_path, where, quiet=True)
    family = families.build_family(session, toy.facts)
    state = jax.jit(family.init)(0)
    after, _ = tiny.run(where, family.step, state, toy, count=8, num_steps=2)
    parts = ('generator', 'discriminator')
    moved = [tiny.difference(getattr(after, p), getattr(state, p)) for p in parts]
    changes.append(moved)
  assert min(changes[0]) > 1e-4  # Adam moves by the learning rate, 2e-4
  assert changes[1][0] > 1e-4 > 1e-8 > changes[1][1]


def test_translation_shifts_and_fills_with_zeros():
  images = np.random.default_rng(0).normal(size=(60, 16, 16, 2)).astype(np.float32)
  shifted = np.asarray(
    jax.jit(augment.make_diffaug(('translation',)))(
      jax.random.split(jax.random.key(0), 60), images
    )
  )
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  offsets = set()
  for source, result in zip(padded, shifted, strict=True):
    found = [
      (i, j)
      for i in range(5)
      for j in range(5)
      if np.allclose(source[i : i + 16, j : j + 16], result, atol=1e-6)
    ]
    assert len(found) == 1
    offsets.add(found[0])
  assert {i for i, _ in offsets} == {j for _, j in offsets} == set(range(5))


def test_cutout_blanks_a_square_of_half_the_side_within_the_image():
  keys = jax.random.split(jax.random.key(0), 200)
  cutout = jax.jit(augment.make_diffaug(('cutout',)))
  blank = np.asarray(cutout(keys, jnp.ones((200, 16, 16, 3))))
  assert set(np.unique(blank)) == {0, 1}
  for hole in 1 - blank[..., 0]:
    rows, columns = hole.any(1), hole.any(0)
    np.testing.assert_array_equal(hole, np.outer(rows, columns))  # one rectangle
    assert 4 <= rows.sum() <= 8 and 4 <= columns.sum() <= 8  # half outside at the most
  assert len({hole.tobytes() for hole in blank}) > 50


@pytest.mark.parametrize('side', [4, 5])
def test_cutout_covers_both_ends_of_an_image_alike(side):
  keys = jax.random.split(jax.random.key(0), 20_000)
  blank = augment.random_cutout(keys, jnp.ones((20_000, 8, 8, 1)), (side, side))
  covered = 1 - np.asarray(blank)[..., 0].mean((0, 2))
  np.testing.assert_allclose(covered, covered[::-1], atol=0.02)


def test_color_is_one_affine_map_an_image():
  images = np.random.default_rng(0).uniform(-1, 1, size=(50, 4, 4, 1)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 50)
  colored = np.asarray(jax.jit(augment.make_diffaug(('color',)))(keys, images))
  slopes, offsets = [], []
  for x, y in zip(images.reshape(50, -1), colored.reshape(50, -1), strict=True):
    slope, offset = np.polyfit(x, y, 1)
    np.testing.assert_allclose(y, slope * x + offset, atol=1e-5)
    slopes.append(slope)
    offsets.append(y.mean() - x.mean())
  assert 0.5 <= min(slopes) < 0.7 and 1.3 < max(slopes) <= 1.5  # contrast
  assert -0.5 <= min(offsets) < -0.3 and 0.3 < max(offsets) <= 0.5  # brightness


def test_saturation_scales_the_distance_to_grey():
  images = np.random.default_rng(0).uniform(-1, 1, size=(50, 4, 4, 3)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 50)
  colored = np.asarray(augment.make_diffaug(('color',))(keys, images))
  hue = lambda x: x - x.mean(-1, keepdims=True)
  factors = [
    np.polyfit(hue(x).ravel(), hue(y).ravel(), 1)[0]
    for x, y in zip(images, colored, strict=True)
  ]
  grey = lambda x: x.mean(-1).ravel()
  contrasts = [
    np.polyfit(grey(x), grey(y), 1)[0] for x, y in zip(images, colored, strict=True)
  ]
  saturation = np.divide(factors, contrasts)
  assert 0 <= saturation.min() < 0.2 and 1.8 < saturation.max() <= 2


def test_diffaug_lets_gradients_through_and_names_what_it_lacks():
  keys = jax.random.split(jax.random.key(0), 4)
  transform = augment.make_diffaug(('flip', 'color', 'translation'))
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  grads = jax.jit(jax.grad(lambda x: jnp.sum(transform(keys, x) ** 2)))(images)
  # All but what was shifted out: at most a row and a column of 8.
  assert float(jnp.mean(jnp.abs(grads) > 1e-6)) > (7 / 8) ** 2 - 0.01
  with pytest.raises(ValueError, match='cutmix'):
    augment.make_diffaug(('cutmix',))


@pytest.mark.parametrize('arch', ['cnn', 'mlp', 'resnet'])
def test_logits_of_bfloat16_are_not_rounded(arch):
  """Or the largest two would often be equal, and the lower class be predicted."""
  model = classifiers.build_classifier(
    arch, num_classes=10, features=(4,), hidden=(8,), dtype=jnp.bfloat16
  )
  images = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
  variables = model.init(jax.random.key(1), images, train=False)
  logits = model.apply(variables, images, train=False)
  assert logits.dtype == jnp.float32
  assert np.mean(logits != logits.astype(jnp.bfloat16)) > 0.9
