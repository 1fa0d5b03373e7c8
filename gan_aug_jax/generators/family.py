"""What the rest of the package needs of a generator: pure functions, whatever it is.

A generator is a function of a `Setting` and its own arguments that returns a `Family`:
one of those in `families`, or the user's own, declared with `generator`. All that follows
is the same for each: the training loop with its checkpoints, selection, drawing in the
fused step, scores, files.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_aug_jax.data.facts import DataFacts
from gan_aug_jax.step import generator as step_lib, sampling, sharding


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a generator is made for.

  Attributes:
    info: `DataFacts` of the images: `image_shape` (H, W, C), `class_names`,
      `num_classes`, `class_counts`, and the `fingerprint` of the training images.
    layout: where steps run.
    num_steps: length of the training.
    batch_size: real images per update.
    learning_rate: of the optimizer.
    ema_decay: of the moving average of the weights.
    dtype: type that it is trained in.
    frozen_dtype: type that it draws in when it is frozen.
  """

  info: DataFacts
  layout: sharding.Layout
  num_steps: int = 1
  batch_size: int = 1
  learning_rate: float = 1e-3
  ema_decay: float = 0.999
  dtype: jnp.dtype = jnp.float32
  frozen_dtype: jnp.dtype = jnp.float32

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.info.image_shape

  @property
  def num_classes(self) -> int:
    return self.info.num_classes

  @property
  def image_dtype(self) -> jnp.dtype:
    """The type of images and losses in training: float32 or wider."""
    return jnp.promote_types(self.dtype, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A kind of generator, for one `Setting`: how it draws, and how it is trained.

  It draws by `render`, from normal latents, or by `sample`, in any other way. An image
  depends on its latent or key and its label alone, not on the others of a batch.

  It is trained in steps (`init`, `step`, `freeze`) by our loop, which saves, resumes and
  chooses; or made at once by `fit`.

  Attributes:
    title: what terminal and reports call it.
    render: `(variables, latents [B, *latent_shape], labels [B]) -> images [B, H, W, C]`,
      float in [-1, 1]; or None.
    latent_shape: of one latent.
    sample: `(variables, keys [B], labels [B]) -> images`, if there is no `render`.
    init: `seed -> state`, of arrays; seed is an int32 scalar.
    step: `(state, data) -> (state, metrics)`; see `step/generator.py`.
    last_step: `(number, step)`: after that number of steps, training continues with this
      other `step`; None for none.
    freeze: `state -> {'generator': variables}`, and 'discriminator' if it has one.
    substeps: real batches that a step takes.
    measure: `(variables, number, seed) -> variables`, by which a frozen generator gets
      its batch statistics; see `freezing`. None if it needs none.
    discriminator_logits: see `sampling.make_discriminator_logits`; None without one.
    fit: `(dataset, *, seed, directory) -> variables`, arrays in nested dicts. The test
      split of the dataset is empty; the directory is for whatever it wants to keep, so as
      to go on after an interruption.
    trained_on: with `fit`, the `fingerprint` of the training images that the generator
      saw, `setting.info.fingerprint` if they are the run's; '' where unknown.
  """

  title: str = 'generator'
  render: Callable | None = None
  latent_shape: tuple[int, ...] = ()
  sample: Callable | None = None
  init: Callable | None = None
  step: Callable | None = None
  last_step: tuple[int, Callable] | None = None
  freeze: Callable | None = None
  substeps: int = 1
  measure: Callable | None = None
  discriminator_logits: Callable | None = None
  fit: Callable | None = None
  trained_on: str = ''

  def __post_init__(self):
    if (self.render is None) == (self.sample is None):
      raise ValueError('a Family needs either render or sample')
    steps = (self.init, self.step, self.freeze)
    if None in steps if self.fit is None else steps != (None, None, None):
      raise ValueError('a Family needs either fit, or init, step and freeze')
    if self.fit and self.discriminator_logits:
      raise ValueError('a Family with fit keeps no discriminator for its logits')

  def make_sampler(self, *, clips: bool = True, **latents: float) -> sampling.Sample:
    """Returns `sample(variables, keys [B, ...], labels [B]) -> images [B, ..., H, W, C]`.

    Args:
      clips: whether images are clipped to [-1, 1].
      **latents: see `sampling.draw_latents`; by default they are drawn as in training.
    """
    sample = self.sample
    if self.render:
      sample = sampling.make_sampler(self.render, self.latent_shape, **latents)

    def draw(variables, keys, labels):
      images = jax.lax.stop_gradient(sample(variables, keys, labels))
      return jnp.clip(images, -1, 1) if clips else images

    return sampling.for_candidates(draw)

  def shapes(self) -> dict[str, Any] | None:
    """The shapes of what `freeze` returns; None if only `fit` knows them."""
    if self.fit:
      return None
    return jax.eval_shape(lambda seed: self.freeze(self.init(seed)), np.int32(0))


def from_loss(
  setting: Setting,
  *,
  init: Callable,
  loss: step_lib.Loss,
  optimizer: optax.GradientTransformation | None = None,
  reflow: tuple[int, Callable] | None = None,
  **family: Any,
) -> Family:
  """Makes a `Family` from a loss per example.

  Images are drawn with the moving average of the parameters.

  Args:
    init: `key -> params`, a pytree of arrays.
    loss: `(params, keys [B], images [B, H, W, C], labels [B]) -> losses [B]`; images are
      in [-1, 1], and each example has a key of its own.
    optimizer: optax transformation; Adam at `setting.learning_rate` by default.
    reflow: `(first, loss)`: from step `first` on, this loss is used instead. Its last
      argument is the parameters of a teacher, the moving average at that step. Only
      checkpoints after it are candidates. None for none.
    **family: `title`, and `render` with `latent_shape` or `sample`, see `Family`; their
      variables are the parameters.
  """
  tx = optimizer or optax.adam(setting.learning_rate)
  make_step = functools.partial(
    step_lib.make_generator_step,
    tx=tx,
    layout=setting.layout,
    batch_size=setting.batch_size,
    ema_decay=setting.ema_decay,
    dtype=setting.image_dtype,
  )
  init_state = functools.partial(
    step_lib.init_generator, init_params=init, tx=tx, taught=bool(reflow)
  )
  last_step = None
  if reflow:
    first, taught_loss = reflow
    if not 0 < first < setting.num_steps:
      raise ValueError(
        f'reflow begins at step {first}, not within the {setting.num_steps} steps'
      )
    last_step = first, make_step(loss=taught_loss, taught_from=first)
  return Family(
    init=init_state,
    step=make_step(loss=loss),
    last_step=last_step,
    freeze=lambda state: {'generator': state.ema},
    **family,
  )


def generator(build: Callable) -> Callable:
  """Marks a function as a generator that `generator.family='module:name'` may name.

  A workdir's config may come from somebody else, so a function that a config names is
  called only if it is marked.

  Args:
    build: `(setting, **arguments) -> Family or Generator`, called whenever the generator
      is needed, so it should be quick: slow work belongs in the steps or in `fit`.
      The arguments are those of `generator.args`.
  """
  build.is_generator = True
  return build
