"""Draws, scores and labels the synthetic images of a batch.

All of it happens for each position by itself: candidates with the position's label are
drawn, the best is kept, and it is accepted or not. Shapes stay as they are, no class is
preferred for its looks, and nothing crosses devices.
"""

from collections.abc import Callable
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from gan_aug_jax.step import mixing
from gan_aug_jax.step.sharding import flatten


@flax.struct.dataclass
class Synthetic:
  """Synthetic images for the first slots of a batch.

  Attributes:
    images: float [groups, c, H, W, C] in [-1, 1].
    labels: int32 [groups, c], the classes asked for.
    targets: float [groups, c, num_classes], what the classifier is to answer.
    accepted: bool [groups, c], whether the image passed the filter.
  """

  images: jax.Array
  labels: jax.Array
  targets: jax.Array
  accepted: jax.Array


@dataclasses.dataclass(frozen=True)
class Filter:
  """Which of several candidates is kept, and whether it is good enough.

  Attributes:
    candidates: images drawn for each position.
    score: 'random', any of them; 'teacher', the one whose label the teacher finds most
      probable (GaFi, Dell'Acqua et al. 2023, arXiv 2305.10118); 'discriminator', the one
      with the highest logit (in the manner of Azadi et al. 2018, 1810.06758); 'hard',
      among those that the teacher gives the label, the one that the current classifier is
      least sure of (in the manner of Askari Hemmat et al. 2023, 2310.00158), or where
      there is none, as 'teacher'.
    min_confidence: the least confidence of an image that is accepted, in [0, 1): the
      teacher's probability of the label, or the sigmoid of the discriminator's logit.
  """

  candidates: int = 1
  score: str = 'random'
  min_confidence: float = 0.0

  @property
  def looks(self):
    """Whether images are looked at, and not only drawn."""
    return self.score != 'random' and (self.candidates > 1 or self.min_confidence > 0)

  @property
  def asks_teacher(self):
    return self.looks and self.score != 'discriminator'


def make_synthesize(
  *,
  sample: Callable,
  num_classes: int,
  dtype=jnp.float32,
  distribution: Callable = lambda state: None,
  keep: Filter = Filter(),
  labels: str = 'hard',
  smoothing: float = 0.0,
  teacher: Callable | None = None,
  judge: Callable | None = None,
  classifier: Callable | None = None,
):
  """Returns `synthesize(keys, slot, state, frozen) -> Synthetic`.

  Args:
    sample: `(variables, keys [B, m], labels [B]) -> images [B, m, H, W, C]`.
    num_classes: number of classes.
    dtype: of the images, float32 or wider.
    distribution: `state -> shares of the classes [num_classes]`, or None for equal ones.
    keep: the filter.
    labels: targets: 'hard'; 'smoothed', a part of `smoothing` spread over all classes
      (Szegedy et al. 2015, arXiv 1512.00567, section 7); 'teacher', its probabilities.
    smoothing: in [0, 1].
    teacher: `(variables, images [B, H, W, C]) -> logits [B, num_classes]`.
    judge: see `sampling.make_judge`.
    classifier: like `teacher`, of the classifier in training.

  Returns:
    A function of `keys(stream, positions, substep=0)`, which gives per-example keys;
    positions int32 [groups, c]; the classifier's state; and the frozen variables by name,
    'generator' and, as far as they are asked, 'teacher' and 'discriminator'.
  """

  def probabilities(model, variables, images):
    logits = model(variables, images.reshape(-1, *images.shape[2:])).astype(dtype)
    shares = jax.nn.softmax(logits).reshape(*images.shape[:2], num_classes)
    return jax.lax.stop_gradient(shares)

  def look(state, frozen, images, chosen):
    """Scores, confidences and the teacher's probabilities of candidates [B, m, ...]."""
    one_hot = jax.nn.one_hot(chosen, num_classes, dtype=dtype)[:, None]
    if keep.score == 'discriminator':
      logits = judge(frozen['discriminator'], images, chosen).astype(dtype)
      return logits, jax.nn.sigmoid(logits), None
    shares = probabilities(teacher, frozen['teacher'], images)
    confidence = jnp.sum(shares * one_hot, -1)
    if keep.score == 'teacher':
      return confidence, confidence, shares
    mine = probabilities(classifier, state.variables, images)
    margin = jnp.sum(mine * one_hot, -1) - jnp.max(mine - 2 * one_hot, -1)
    agrees = jnp.argmax(shares, -1) == chosen[:, None]
    # A margin is at most 1, and a label that is not the teacher's at most as probable.
    return jnp.where(agrees, 2 - margin, confidence), confidence, shares

  def synthesize(keys, slot, state, frozen):
    chosen = mixing.draw_labels(keys('label', slot), num_classes, distribution(state))
    flat = flatten(chosen)
    keys_of = lambda number: flatten(keys('latent', slot, number))
    numbers = jnp.arange(keep.candidates, dtype=jnp.int32)
    latent_keys = jax.vmap(keys_of, out_axes=1)(numbers)
    images = sample(frozen['generator'], latent_keys, flat).astype(dtype)
    confidence, shares = jnp.ones(images.shape[:2], dtype), None
    if keep.looks:
      score, confidence, shares = look(state, frozen, images, flat)
    elif keep.candidates > 1:
      noise = jax.vmap(lambda key: jax.random.uniform(key, (keep.candidates,), dtype))
      score = noise(flatten(keys('choice', slot)))
    else:
      score = confidence
    images, confidence, shares = _best((images, confidence, shares), score)
    if labels == 'teacher':
      if shares is None:
        shares = probabilities(teacher, frozen['teacher'], images[:, None])[:, 0]
      targets = shares
    else:
      targets = jax.nn.one_hot(flat, num_classes, dtype=dtype)
      if labels == 'smoothed':
        targets = (1 - smoothing) * targets + smoothing / num_classes
    accepted = confidence >= keep.min_confidence
    grouped = lambda x: x.reshape(*slot.shape, *x.shape[1:])
    return Synthetic(grouped(images), chosen, grouped(targets), grouped(accepted))

  return synthesize


def make_pooled(synthesize, every, layout):
  """Returns a `synthesize` that draws anew at every so many steps only.

  In between, each position keeps the image that it has, in the state's pool.

  Args:
    synthesize: from `make_synthesize`.
    every: steps that a pool lasts; it begins at multiples of that.
    layout: where the step runs.
  """

  def pooled(keys, slot, state, frozen):
    fresh = lambda: synthesize(keys, slot, state, frozen)
    pool = jax.lax.cond(state.step % every == 0, fresh, lambda: state.pool)
    return jax.tree.map(layout.shard, pool)

  return pooled


def init_pool(layout, plan, *, image_shape, num_classes, dtype=jnp.float32):
  """An empty pool of a plan's synthetic positions, each on its device: a `Synthetic`."""
  share = layout.share(plan.num_synthetic)
  return Synthetic(
    images=layout.place_shares((share, *image_shape), dtype),
    labels=layout.place_shares((share,), jnp.int32),
    targets=layout.place_shares((share, num_classes), dtype),
    accepted=layout.place_shares((share,), bool),
  )


def _best(candidates, score):
  """The rows of arrays [B, m, ...] whose score [B, m] is highest, the first of equals.

  By a sum in which all others are 0, and not a gather, which might be spread over the
  devices.
  """
  best = jax.nn.one_hot(jnp.argmax(score, 1), score.shape[1], dtype=bool)

  def pick(x):
    is_best = best.reshape(*best.shape, *(1,) * (x.ndim - 2))
    return jnp.sum(jnp.where(is_best, x, 0), axis=1)

  return jax.tree.map(pick, candidates)
