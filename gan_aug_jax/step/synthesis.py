"""Draws, filters and labels the synthetic images of a batch.

Everything happens position by position: candidates of the position's label are drawn, the
best one is kept, and it is accepted or rejected. So shapes never change, no class is
favoured because its images look better, and nothing crosses devices.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.step import class_labels, rng
from gan_aug_jax.step.classifier_state import ClassifierState
from gan_aug_jax.step.plans import BatchPlan
from gan_aug_jax.step.rng import StepKeys
from gan_aug_jax.step.sharding import flatten, Layout


@flax.struct.dataclass
class FrozenModels:
  """The variables that a step reads and never updates; None where it needs none.

  They are an argument of the step. Closed over, they would be a constant in the program:
  a larger executable, and one compilation per generator.

  Attributes:
    discriminator: variables of `Networks.discriminator_logits`.
    generator: variables of `Networks.sample`.
    teacher: variables of `Networks.teacher`.
  """

  discriminator: Any = None
  generator: Any = None
  teacher: Any = None


@dataclasses.dataclass(frozen=True)
class Networks:
  """The networks that synthesis asks, as pure functions of their variables.

  Attributes:
    sample: `(variables, keys [B, m], labels [B]) -> images [B, m, H, W, C]`.
    teacher: `(variables, images [B, H, W, C]) -> logits [B, num_classes]`.
    discriminator_logits: see `sampling.make_discriminator_logits`.
    classifier: like `teacher`, of the classifier in training.
  """

  sample: Callable
  teacher: Callable | None = None
  discriminator_logits: Callable | None = None
  classifier: Callable | None = None


@flax.struct.dataclass
class Synthetic:
  """Synthetic images for the first slots of a batch.

  Attributes:
    images: float [groups, c, H, W, C] in [-1, 1].
    labels: int32 [groups, c], the classes that were asked for.
    targets: float [groups, c, num_classes], what the classifier is to answer.
    accepted: bool [groups, c], whether the image passed the filter.
  """

  images: jax.Array
  labels: jax.Array
  targets: jax.Array
  accepted: jax.Array


@dataclasses.dataclass(frozen=True)
class SampleFilter:
  """Which of several candidates is kept, and whether it is good enough.

  Attributes:
    candidates: images drawn for each position.
    score: 'random', any of them; 'teacher', the one whose label the teacher finds most
      probable (GaFi, Dell'Acqua et al. 2023, arXiv 2305.10118); 'discriminator', the one
      with the highest logit (in the manner of Azadi et al. 2018, 1810.06758); 'hard',
      among those that are accepted and that the teacher gives the label, the one that the
      current classifier is least sure of (in the manner of Askari Hemmat et al. 2023,
      2310.00158), or if there is none, as 'teacher'.
    min_confidence: the lowest confidence of an accepted image, in [0, 1): the teacher's
      probability of the label, or the sigmoid of the discriminator's logit.
  """

  candidates: int = 1
  score: str = 'random'
  min_confidence: float = 0.0

  @property
  def is_active(self) -> bool:
    """Whether any network has to look at the images."""
    return self.score != 'random' and (self.candidates > 1 or self.min_confidence > 0)


Synthesize = Callable[[StepKeys, jax.Array, ClassifierState, FrozenModels], Synthetic]


@dataclasses.dataclass(frozen=True)
class Synthesis:
  """Makes synthetic images: `synthesis(keys, slots, state, frozen) -> Synthetic`.

  Attributes:
    networks: `sample`, and the others as far as the filter and the targets need them.
    num_classes: number of classes.
    class_probs: probabilities of the classes [num_classes], a function of the state that
      gives them, or None for equal ones.
    sample_filter: which candidates are kept and accepted.
    targets: 'hard', one-hot; 'smoothed', `smoothing` of it spread over all classes
      (Szegedy et al. 2015, arXiv 1512.00567, section 7); 'teacher', the teacher's
      probabilities.
    smoothing: in [0, 1].
    dtype: of the images, float32 or wider.
  """

  networks: Networks
  num_classes: int
  class_probs: Any = None
  sample_filter: SampleFilter = SampleFilter()
  targets: str = 'hard'
  smoothing: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @property
  def depends_on_classifier(self) -> bool:
    """Whether the images depend on the classifier in training, not on the keys alone."""
    hard = self.sample_filter.is_active and self.sample_filter.score == 'hard'
    return hard or callable(self.class_probs)

  def class_probs_at(self, state: ClassifierState) -> jax.Array | np.ndarray | None:
    """The probabilities of the classes [num_classes] in a step; None for equal ones."""
    probs = self.class_probs
    return probs(state) if callable(probs) else probs

  def __call__(self, keys: StepKeys, slots, state, frozen) -> Synthetic:
    """Draws, filters and labels.

    Args:
      slots: int32 [groups, c], positions in the batch.
      state: the classifier's; read only if `depends_on_classifier`.
      frozen: the variables of `networks`.
    """
    num_classes, dtype = self.num_classes, self.dtype
    probs = self.class_probs_at(state)
    labels = class_labels.draw_labels(keys.at('label', slots), num_classes, probs)
    flat, count = flatten(labels), self.sample_filter.candidates
    candidate_keys = _candidate_keys(keys, slots, count)
    images = self.networks.sample(frozen.generator, candidate_keys, flat)
    candidates = _Candidates(images.astype(dtype), jnp.ones(images.shape[:2], dtype))
    score = candidates.confidence
    if self.sample_filter.is_active:
      one_hot = jax.nn.one_hot(flat, num_classes, dtype=dtype)[:, None]
      score, candidates = _assess(
        self.sample_filter, candidates, flat, one_hot, self.networks, state, frozen
      )
    elif count > 1:
      score = _random_score(keys.at('choice', slots), count, dtype)
    best = _best(candidates, score)
    targets = self._targets(best, flat, frozen)
    accepted = best.confidence >= self.sample_filter.min_confidence
    grouped = lambda x: x.reshape(*slots.shape, *x.shape[1:])
    return Synthetic(grouped(best.images), labels, grouped(targets), grouped(accepted))

  def _targets(self, best, labels, frozen):
    if self.targets == 'teacher':
      return _teacher_probs(best, self.networks, frozen)
    one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=self.dtype)
    if self.targets == 'smoothed':
      return optax.smooth_labels(one_hot, self.smoothing)
    return one_hot


@flax.struct.dataclass
class _Candidates:
  """Candidates [B, m, ...] for the positions of a batch; or the best of them, [B, ...].

  Attributes:
    images: float [B, m, H, W, C].
    confidence: see `SampleFilter.min_confidence`, [B, m].
    teacher_probs: the teacher's probabilities [B, m, num_classes], if it was asked.
  """

  images: jax.Array
  confidence: jax.Array
  teacher_probs: jax.Array | None = None


def _candidate_keys(keys: StepKeys, slots, count):
  """Keys [B, count]; a candidate's number is the substep."""
  keys_of = lambda number: flatten(keys.at('latent', slots, number))
  return jax.vmap(keys_of, out_axes=1)(jnp.arange(count, dtype=jnp.int32))


def _assess(sample_filter, candidates, labels, one_hot, networks, state, frozen):
  """Scores candidates of labels [B], one-hot [B, 1, num_classes].

  Returns:
    The score [B, m], see `SampleFilter.score`, and the candidates with a confidence.
  """
  images = candidates.images
  if sample_filter.score == 'discriminator':
    logits = networks.discriminator_logits(frozen.discriminator, images, labels)
    logits = logits.astype(images.dtype)
    return logits, candidates.replace(confidence=jax.nn.sigmoid(logits))
  probs = _probs(networks.teacher, frozen.teacher, images)
  confidence = jnp.sum(probs * one_hot, -1)
  candidates = candidates.replace(confidence=confidence, teacher_probs=probs)
  if sample_filter.score == 'teacher':
    return confidence, candidates
  own_probs = _probs(networks.classifier, state.variables, images)
  margin = jnp.sum(own_probs * one_hot, -1) - jnp.max(own_probs - 2 * one_hot, -1)
  # The hardest of those that are accepted, or more candidates would mean fewer images.
  agrees = jnp.argmax(probs, -1) == labels[:, None]
  agrees &= confidence >= sample_filter.min_confidence
  # A margin is at most 1, so these are at least 1: more than any confidence.
  return jnp.where(agrees, 2 - margin, confidence), candidates


def _random_score(keys, count, dtype):
  """Uniform numbers [B, count] for keys [groups, c]."""
  draw = jax.vmap(lambda key: jax.random.uniform(key, (count,), dtype))
  return draw(flatten(keys))


def _probs(classify, variables, images):
  """A classifier's probabilities [B, m, num_classes] for images [B, m, H, W, C]."""
  logits = classify(variables, images.reshape(-1, *images.shape[2:]))
  probs = jax.nn.softmax(logits.astype(images.dtype))
  return jax.lax.stop_gradient(probs.reshape(*images.shape[:2], -1))


def _teacher_probs(best, networks, frozen):
  """The teacher's probabilities [B, num_classes] for the images that were kept."""
  if best.teacher_probs is not None:
    return best.teacher_probs
  return _probs(networks.teacher, frozen.teacher, best.images[:, None])[:, 0]


def _best(candidates, score):
  """Picks the candidate of the highest score [B, m], the first of equals.

  By a sum in which all others are 0 rather than by a gather, which might be spread over
  the devices.
  """
  best = jax.nn.one_hot(jnp.argmax(score, 1), score.shape[1], dtype=bool)

  def pick(x):
    is_best = best.reshape(*best.shape, *(1,) * (x.ndim - 2))
    return jnp.sum(jnp.where(is_best, x, 0), axis=1)

  return jax.tree.map(pick, candidates)


@flax.struct.dataclass
class DrawnAhead:
  """The synthetic images of several steps, drawn before the first of them.

  Attributes:
    images: `Synthetic`, each array [groups, num_draws, c, ...].
    first: int32 scalar, the number of the first draw.
    refresh_steps: steps that share a draw; it is redrawn at multiples of that.
  """

  images: Synthetic
  first: jax.Array
  refresh_steps: int = flax.struct.field(pytree_node=False, default=1)

  def at(self, step: jax.Array) -> Synthetic:
    """The images of one of the steps, each array [groups, c, ...]."""
    draw = step // self.refresh_steps - self.first
    take = lambda x: jax.lax.dynamic_index_in_dim(x, draw, 1, keepdims=False)
    return jax.tree.map(take, self.images)


DrawSynthetic = Callable[[ClassifierState, int, FrozenModels], DrawnAhead]


def make_draw_synthetic(
  synthesis: Synthesis, *, layout: Layout, plan: BatchPlan, refresh_steps: int = 1
) -> DrawSynthetic | None:
  """Returns what draws the images of all steps of a call in one forward pass.

  Args:
    refresh_steps: steps for which an image is kept.

  Returns:
    `draw(state, num_steps, frozen) -> DrawnAhead`; or None if nothing may be drawn ahead,
    because the images depend on the classifier or there are none.
  """
  if synthesis.depends_on_classifier or not plan.num_synthetic:
    return None

  def draw_share(replicated, slots):
    seed, steps, frozen = replicated
    draw_step = lambda step: synthesis(rng.step_keys(seed, step), slots, None, frozen)
    return jax.vmap(draw_step, out_axes=1)(steps)

  def draw(state, num_steps, frozen):
    num_draws = _most_draws(num_steps, refresh_steps)
    first = state.step // refresh_steps
    steps = refresh_steps * (first + jnp.arange(num_draws, dtype=jnp.int32))
    slots = layout.positions(plan.total)[:, : layout.slots_per_device(plan.num_synthetic)]
    # On each device separately: joined with the sharded axis, that of the draws would
    # be resharded over the devices.
    images = layout.map_devices(draw_share)((state.seed, steps, frozen), slots)
    return DrawnAhead(images, first, refresh_steps)

  return draw


def _most_draws(num_steps, every):
  """The most draws that `num_steps` steps in a row need, with a new one at multiples.

  They begin at a multiple of their number or, resumed, at one of `every`, where states
  are saved. So if one divides the other, no draw is begun or ended on the way.
  """
  if num_steps % every and every % num_steps:
    return (num_steps - 2) // every + 2
  return max(num_steps // every, 1)


def make_pooled(synthesize: Synthesize, every: int, layout: Layout) -> Synthesize:
  """Returns a `synthesize` that draws only at every so many steps.

  In between, each position reuses its image from the state's pool.

  Args:
    synthesize: a `Synthesis`.
    every: steps that a pool lasts; it is redrawn at multiples of that.
  """

  def pooled(keys: StepKeys, slots, state, frozen):
    fresh = lambda: synthesize(keys, slots, state, frozen)
    pool = jax.lax.cond(state.step % every == 0, fresh, lambda: state.pool)
    return jax.tree.map(layout.constrain, pool)

  return pooled


def init_pool(
  synthesis: Synthesis,
  layout: Layout,
  plan: BatchPlan,
  image_shape: tuple[int, int, int],
) -> Synthetic:
  """Returns an empty pool for a plan's synthetic positions, each on its device.

  Args:
    image_shape: (height, width, channels).
  """
  rows = (layout.num_local_devices, layout.slots_per_device(plan.num_synthetic))
  zeros = lambda *shape, dtype: layout.shard_rows(np.zeros((*rows, *shape), dtype))
  return Synthetic(
    images=zeros(*image_shape, dtype=synthesis.dtype),
    labels=zeros(dtype=np.int32),
    targets=zeros(synthesis.num_classes, dtype=synthesis.dtype),
    accepted=zeros(dtype=bool),
  )
