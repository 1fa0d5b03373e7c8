"""A generator without a network: real images, warped the way images of a class differ.

    python -m gan_aug_jax run --config=configs/mnist5k.py --workdir=runs/warps \\
        --config.generator.family=gan_aug_jax.generators.warps:train

After Hauberg et al. 2016 (Dreaming more data, arXiv 1510.02795): training images of a
class are registered to one another, and new warps are drawn from a Gaussian fitted to
the warps found. Here a warp is a displacement at 5x5 knots, linear in between. `train`
learns warps in seconds, on the run's own training images only, and records that.
`train_colors` also learns the brightness and contrast of each channel from the same
pairs. `untrained` draws every knot independently, for comparison with a hand-made
augmentation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.generators.family import Family, generator, Setting
from gan_aug_jax.step import sampling

KNOTS = 5  # per side
WARPS = 64  # per class; half are learned on the class, half on any class
STEPS, STIFFNESS = 100, 0.003  # of the registration
UNTRAINED_STD = 1.5  # pixels


def warp(image: jax.Array, knots: jax.Array) -> jax.Array:
  """Warps an image [H, W, C] by displacements at knots.

  Args:
    image: float32 [H, W, C].
    knots: displacements in pixels, float32 [KNOTS, KNOTS, 2] (down, right).
  """
  height, width, _ = image.shape
  shift = jnp.einsum('hk,wl,kld->dhw', _tents(height), _tents(width), knots)
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij'))
  look_up = functools.partial(
    jax.scipy.ndimage.map_coordinates,
    coordinates=list(grid + shift),
    order=1,
    mode='nearest',
  )
  return jax.vmap(look_up, in_axes=-1, out_axes=-1)(image)


def _tents(size):
  """Weights [size, KNOTS] of linear interpolation between the knots."""
  at = np.linspace(0, KNOTS - 1, size)[:, None]
  return np.maximum(0, 1 - np.abs(at - np.arange(KNOTS))).astype(np.float32)


def _blur(image):
  """Blurs, as strokes that do not touch have no gradient towards one another."""
  for axis in (0, 1, 0, 1):
    image = (jnp.roll(image, 1, axis) + image + jnp.roll(image, -1, axis)) / 3
  return image


@jax.jit
@jax.vmap
def register(moving: jax.Array, fixed: jax.Array) -> jax.Array:
  """Finds the warps that lead from images to others.

  Args:
    moving: images to warp, float32 [B, H, W, C] in [-1, 1].
    fixed: images to warp them onto, same shape and range.

  Returns:
    Displacements at knots, float32 [B, KNOTS, KNOTS, 2], see `warp`.
  """
  optimizer = optax.adam(0.1)

  def loss_fn(knots):
    bends = sum(jnp.mean(jnp.square(jnp.diff(knots, axis=axis))) for axis in (0, 1))
    error = jnp.mean(jnp.square(_blur(warp(moving, knots)) - _blur(fixed)))
    return error + STIFFNESS * bends

  def step(_, state):
    knots, opt_state = state
    updates, opt_state = optimizer.update(jax.grad(loss_fn)(knots), opt_state)
    return optax.apply_updates(knots, updates), opt_state

  start = jnp.zeros((KNOTS, KNOTS, 2))
  return jax.lax.fori_loop(0, STEPS, step, (start, optimizer.init(start)))[0]


@generator
def train(setting: Setting) -> Family:
  """Returns a generator whose warps are learned on the run's training images."""
  return _family(
    setting, 'learned warps', lambda *data: {'warps': _learn(*data)['warps']}
  )


@generator
def train_colors(setting: Setting) -> Family:
  """As `train`, with changes of brightness and contrast learned like the warps."""
  return _family(setting, 'learned warps and colours', _learn)


@generator
def untrained(setting: Setting) -> Family:
  """Returns a generator with warps whose knots are independent normals."""
  knots = KNOTS * KNOTS * 2
  one = np.eye(knots, dtype=np.float32).reshape(1, knots, KNOTS, KNOTS, 2)
  warps = np.repeat(UNTRAINED_STD * np.sqrt(2 * knots) * one, setting.num_classes, 0)
  return _family(setting, 'untrained warps', lambda *_: {'warps': warps})


def _learn(dataset, seed):
  """Changes that lead from images to others of their class, [classes, WARPS, ...]."""
  rng, labels, half = np.random.default_rng(seed), dataset.train.labels, WARPS // 2
  of_class = [np.flatnonzero(labels == c) for c in range(dataset.num_classes)]
  pairs = [rng.choice(rows, (2, half)) for rows in of_class]
  images = dataset.train.images / np.float32(127.5) - 1
  colors = _colors(images)
  changes = {
    'warps': np.concatenate([register(images[a], images[b]) for a, b in pairs]),
    'colors': np.concatenate([colors[b] - colors[a] for a, b in pairs]),
  }
  # Changes learned on one class help others, most of all those with few images.
  own = np.arange(len(pairs) * half).reshape(-1, half)
  drawn = np.concatenate([own, rng.integers(0, own.size, own.shape)], 1)
  return jax.tree.map(lambda of_all: of_all[drawn], changes)


def _colors(images):
  """Brightness and log contrast of each channel, [N, 2, C]."""
  contrast = images.std((1, 2)) + 0.05  # a uniform image has none
  return np.stack([images.mean((1, 2)), jnp.log(contrast)], 1)


def recolor(image: jax.Array, change: jax.Array) -> jax.Array:
  """Changes brightness and contrast.

  Args:
    image: float32 [H, W, C].
    change: added to the brightness and the log contrast of each channel, [2, C].
  """
  brightness, contrast = change
  mean = image.mean((0, 1))
  return (image - mean) * jnp.exp(contrast) + mean + brightness


def _family(setting, title, learn):
  """A generator that changes real images by random sums of what `learn` gives."""

  def fit(dataset, *, seed, directory):
    del directory
    train = dataset.train
    real = sampling.group_by_class(train.images, train.labels, dataset.num_classes)
    return {'real': real, 'changes': learn(dataset, seed)}

  draw = sampling.make_pool_sampler()

  def sample(variables, keys, labels):
    keys = jax.vmap(jax.random.split)(keys)
    images = draw(variables['real'], keys[:, 0], labels)
    return jax.vmap(_change, (None, 0, 0, 0))(
      variables['changes'], keys[:, 1], images, labels
    )

  return Family(title=title, sample=sample, fit=fit, trained_on=setting.info.fingerprint)


def _change(changes, key, image, label):
  """An image [H, W, C], changed by a random sum of the changes of its class."""
  of_class = jax.tree.map(lambda of_all: of_all[label], changes)
  # A sum with normal weights has the covariance of the changes. The difference of two
  # images has twice the variance of one image about the mean of its class.
  count = len(of_class['warps'])
  weights = jax.random.normal(key, (count,)) / jnp.sqrt(2 * count)
  total = jax.tree.map(lambda of_one: jnp.tensordot(weights, of_one, 1), of_class)
  image = warp(image, total['warps'])
  return recolor(image, total['colors']) if 'colors' in total else image
