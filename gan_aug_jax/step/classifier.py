"""The classifier's optimizer and its fused training step."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gan_aug_jax.step import losses
from gan_aug_jax.step.averages import update_average
from gan_aug_jax.step.batches import Compose, ComposedAhead
from gan_aug_jax.step.classifier_state import (
  AveragedState,
  ClassifierState,
  update_class_stats,
)
from gan_aug_jax.step.device_data import RealExamples
from gan_aug_jax.step.plans import BatchPlan
from gan_aug_jax.step.sharding import flatten, Layout
from gan_aug_jax.step.synthesis import FrozenModels

FusedStep = Callable[..., tuple[ClassifierState, dict]]


def make_fused_step(
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  layout: Layout,
  plan: BatchPlan,
  compose: Compose,
  ema_decay: float = 0.0,
  logit_shift: Callable = lambda state: 0.0,
) -> FusedStep:
  """Returns the fused step: gather, synthesize, mix, augment, update, measure.

  Args:
    model: linen module from `build_classifier`, or an `ExternalClassifier`.
    plan: how many positions are synthetic.
    compose: from `batches.make_compose`, of the same plan.
    ema_decay: of the moving average of a state that has one, in [0, 1).
    logit_shift: `state -> [num_classes] or 0`, added to the logits in the loss alone.
      With tau times the log of the label prior it is the logit-adjusted loss (Menon et
      al. 2021, arXiv 2007.07314, equation 10).

  Returns:
    `step(state, data, frozen, ahead=None) -> (state, metrics)`; `ahead` holds the step's
    batch, if it was composed ahead. Metrics are scalars over the mixed, augmented batch:
    loss, in nats, with the shift; accuracy, without it; synthetic_ratio, of the images
    that the classifier was given; asked_ratio, before the filter; grad_norm, the global
    norm of the gradient before any clipping.
  """

  def fused_step(
    state: ClassifierState,
    data: RealExamples,
    frozen: FrozenModels,
    ahead: ComposedAhead | None = None,
  ):
    if ahead:
      batch, pool = ahead.at(state.step), ()
    else:
      batch, pool = compose(layout.positions(plan.total), state, data, frozen)
    images, targets, weights = map(flatten, (batch.images, batch.targets, batch.weights))
    synthetic, valid_mask = flatten(batch.synthetic), flatten(batch.valid_mask)

    shift = logit_shift(state)

    def loss_fn(params):
      logits, updated = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        images,
        train=True,
        keys=flatten(batch.dropout_keys),
        valid_mask=valid_mask,
        synthetic=synthetic,
        mutable=['batch_stats'],
      )
      nll = losses.cross_entropy(logits + shift, targets)
      # A sum, not a local mean, see `Layout.sum`; divided by the sum of weights below.
      return jnp.sum(weights * nll), (logits, nll, updated)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, nll, updated)), grads = grad_fn(state.params)
    labels = jnp.argmax(targets, -1)
    sums = {
      'loss': loss,
      'accuracy': jnp.sum((jnp.argmax(logits, -1) == labels) * weights),
      'weights': jnp.sum(weights),
      'synthetic': jnp.sum(synthetic),
      **_class_sums(state.class_stats, batch, labels, nll),
    }
    grads, sums = layout.sum((grads, sums))
    total = jnp.where(sums['weights'] > 0, sums['weights'], 1)
    grads = jax.tree.map(lambda g: g / total.astype(g.dtype), grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
      'loss': sums['loss'] / total,
      'accuracy': sums['accuracy'] / total,
      'synthetic_ratio': sums['synthetic'] / plan.batch_size,
      'asked_ratio': jnp.float32(plan.synthetic_at(state.step) / plan.batch_size),
      'grad_norm': optax.tree.norm(grads),
    }
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=updated.get('batch_stats', state.batch_stats),
      opt_state=opt_state,
      class_stats=update_class_stats(state.class_stats, sums, plan.batch_size),
      pool=pool,
    )
    if isinstance(state, AveragedState):
      ema = update_average(state.ema, state.variables, ema_decay, state.step - 1)
      state = state.replace(ema=ema)
    return state, metrics

  return fused_step


def _class_sums(class_stats, batch, labels, nll):
  """What `update_class_stats` takes, summed over the examples on these devices."""
  sums = {}
  if 'asked' in class_stats:
    sums |= {name: jnp.sum(getattr(batch, name), 0) for name in ('asked', 'accepted')}
  if 'class_loss' in class_stats:
    num_classes = batch.targets.shape[-1]
    real = flatten(batch.real)[:, None] * jax.nn.one_hot(labels, num_classes)
    sums['real_loss'] = jnp.sum(real * nll[:, None], 0)
    sums['real_count'] = jnp.sum(real, 0)
  return sums


def make_optimizer(
  name: str | Callable,
  *,
  learning_rate: float,
  num_steps: int,
  schedule: str | Callable = 'constant',
  warmup_steps: int = 0,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  only_kernels: bool = False,
  clip_norm: float = 0.0,
) -> optax.GradientTransformation:
  """Builds a classifier's optimizer.

  Args:
    name: 'sgd' (with momentum; weight decay is added to the gradient), 'adam' (weight
      decay is decoupled, as in AdamW), or `(schedule, num_steps) -> transformation`.
    learning_rate: the peak.
    num_steps: length of the training, for the schedule.
    schedule: 'constant', 'cosine' or 'linear' from the peak to 0, or `(learning_rate,
      num_steps) -> schedule`. With a warm-up, 'linear' is the one-cycle policy (Smith &
      Topin 2017, arXiv 1708.07120, section 2).
    warmup_steps: below num_steps, in which the learning rate rises linearly from 0 to the
      peak; the schedule takes the others (Goyal et al. 2017, arXiv 1706.02677, section
      2.2).
    momentum: of SGD.
    nesterov: whether the momentum looks ahead (Sutskever et al. 2013, section 2; with
      'adam' it is NAdam, Dozat 2016).
    weight_decay: 0 for none.
    only_kernels: whether weight decay leaves out what has at most one axis, biases and
      the scales of norms (He et al. 2018, arXiv 1812.01187, section 3.1).
    clip_norm: largest global norm of a gradient, to which a larger one is scaled down
      (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1); 0 for no clipping.

  Raises:
    ValueError: if the optimizer or schedule is unknown.
  """
  rate = _learning_rate(schedule, learning_rate, num_steps, warmup_steps)
  mask = _are_kernels if only_kernels else None
  if callable(name):
    optimizer = name(rate if callable(rate) else optax.constant_schedule(rate), num_steps)
  elif name == 'sgd':
    sgd = optax.sgd(rate, momentum or None, nesterov)
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay, mask), sgd)
  elif name == 'adam':
    optimizer = optax.adamw(rate, weight_decay=weight_decay, mask=mask, nesterov=nesterov)
  else:
    raise ValueError(f'Optimizer {name!r} is unknown; known: sgd, adam.')
  if not clip_norm:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _are_kernels(params):
  return jax.tree.map(lambda x: x.ndim > 1, params)


def _learning_rate(schedule, peak, num_steps, warmup_steps):
  num_left = num_steps - warmup_steps
  if callable(schedule):
    rate = schedule(peak, num_left)
  elif schedule == 'constant':
    rate = optax.constant_schedule(peak) if warmup_steps else peak
  elif schedule == 'cosine':
    rate = optax.cosine_decay_schedule(peak, num_left)
  elif schedule == 'linear':
    rate = optax.linear_schedule(peak, 0.0, num_left)
  else:
    raise ValueError(
      f'Schedule {schedule!r} is unknown; known: constant, cosine, linear.'
    )
  if not warmup_steps:
    return rate
  warmup = optax.linear_schedule(0.0, peak, warmup_steps)
  return optax.join_schedules([warmup, rate], [warmup_steps])
