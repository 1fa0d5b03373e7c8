"""The classes of synthetic images: their distribution, and labels drawn from it."""

import jax
import jax.numpy as jnp
import numpy as np

from gan_aug_jax.step.plans import BatchPlan, Step


def class_distribution(kind: str, counts: np.ndarray, plan: BatchPlan) -> np.ndarray:
  """Returns the probability of each class among synthetic images.

  Args:
    kind: 'uniform'; 'train', as in the training set; 'inverse', inversely proportional to
      it; or 'balance', which fills a batch's real examples up to equal class counts as
      far as the synthetic images reach, the rarest class first (counting each at a weight
      of 1, and as many as a schedule has at its peak).
    counts: training examples of each class [num_classes], all above 0.

  Returns:
    float64 [num_classes], summing to 1.

  Raises:
    ValueError: if the kind is unknown.
  """
  counts = np.asarray(counts, np.float64)
  if kind == 'balance':
    real = (plan.total - plan.num_synthetic) * counts / counts.sum()
    weights = np.maximum(_water_level(real, plan.num_synthetic) - real, 0)
  elif kind in ('uniform', 'train', 'inverse'):
    weights = counts ** {'uniform': 0, 'train': 1, 'inverse': -1}[kind]
  else:
    raise ValueError(
      f'Class distribution {kind!r} is unknown; known: uniform, train, inverse, balance.'
    )
  return weights / weights.sum()


def _water_level(heights, volume):
  """The level up to which a volume of water fills columns of the given heights."""
  heights = np.sort(heights)
  levels = (volume + np.cumsum(heights)) / np.arange(1, len(heights) + 1)
  # Columns above the level take nothing.
  return levels[np.flatnonzero(levels > heights)[-1]]


def label_prior(
  counts: np.ndarray,
  plan: BatchPlan,
  step: Step,
  *,
  class_probs: jax.Array | np.ndarray | None = None,
  weight: float | jax.Array = 1.0,
  label_smoothing: float = 0.0,
  smoothing: float = 0.0,
) -> jax.Array:
  """Returns the expected share of each class in a step's targets, by loss weight.

  Partners of MixUp and CutMix are not counted. Every synthetic image is taken to be
  accepted, and to be of `class_probs`, even if it is from a pool that was drawn earlier.

  Args:
    counts: training examples of each class [num_classes].
    step: sets the number of synthetic images.
    class_probs: probability of each class among synthetic images [num_classes]; None for
      equal ones.
    weight: of a synthetic example in the loss; a real one weighs 1.
    label_smoothing: of the targets of real images.
    smoothing: of the targets of synthetic images.

  Returns:
    float32 or wider [num_classes], summing to 1, and above 0.
  """
  counts = np.asarray(counts, np.float32)
  uniform = jnp.full(len(counts), 1 / len(counts))
  if class_probs is None:
    class_probs = uniform
  of_real = counts / counts.sum() * (1 - label_smoothing) + uniform * label_smoothing
  of_synthetic = class_probs * (1 - smoothing) + uniform * smoothing
  num_synthetic = plan.synthetic_at(step)
  num_real = plan.batch_size - (0 if plan.adds else num_synthetic)
  mass = num_real * of_real + weight * num_synthetic * of_synthetic
  mass = jnp.maximum(mass, 1e-6)  # all weights may be 0
  return mass / mass.sum()


def feedback_distribution(class_loss: jax.Array, floor: float = 0.1) -> jax.Array:
  """Returns class probabilities proportional to the classifier's loss on each class.

  Args:
    class_loss: mean loss on real examples by class, [num_classes], none negative.
    floor: the part that is spread evenly, so that no class is starved.

  Returns:
    float [num_classes], summing to 1.
  """
  total = jnp.sum(class_loss)
  uniform = jnp.full_like(class_loss, 1 / len(class_loss))
  probs = jnp.where(total > 0, class_loss / jnp.where(total > 0, total, 1), uniform)
  return (1 - floor) * probs + floor * uniform


def draw_labels(
  keys: jax.Array, num_classes: int, class_probs: jax.Array | np.ndarray | None = None
) -> jax.Array:
  """Draws one label per key.

  Args:
    keys: key array [...].
    class_probs: probability of each class [num_classes]; None for equal ones.

  Returns:
    int32 [...].
  """
  if class_probs is None:
    draw = lambda key: jax.random.randint(key, (), 0, num_classes, jnp.int32)
  else:
    logits = jnp.log(class_probs)
    draw = lambda key: jax.random.categorical(key, logits).astype(jnp.int32)
  return jax.vmap(draw)(keys.reshape(-1)).reshape(keys.shape)
