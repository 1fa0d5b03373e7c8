"""Policies of sampling and mixing: what each is for, and that all keep the invariants."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gan_aug_jax import config as config_lib
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import schedule
from gan_aug_jax.models import layers
from gan_aug_jax.step import (
  augment,
  batches,
  class_labels,
  device_data,
  plans,
  rng,
  sampling,
  synthesis,
)
from gan_aug_jax.step.plans import Ramp
from gan_aug_jax.step.synthesis import FrozenModels, SampleFilter
from tests import tiny

# Each policy and its settings, as options of `tiny.fused`; without any see test_engine.
FACTORS = {
  'filter': [
    {'sample_filter': SampleFilter(2, 'teacher', 0.4), 'on_reject': 'real'},
    {'sample_filter': SampleFilter(2, 'discriminator', 0.5), 'on_reject': 'drop'},
    {'sample_filter': SampleFilter(3, 'hard', 0.2), 'on_reject': 'real'},
    {'sample_filter': SampleFilter(2, 'random')},
  ],
  'labels': [{}, {'targets': 'smoothed'}, {'targets': 'teacher'}],
  'classes': [{'classes': 'inverse'}, {'classes': 'balance'}, {'classes': 'feedback'}],
  'source': [
    {'latents': {'std': 1.5, 'truncation': 2.0, 'interpolation': 0.5}},
    {'num_members': 3},
    {'offline': True},
  ],
  'schedule': [{}, {'ramp': Ramp('linear', 1, 6)}],
  'weight': [{}, {'weight': Ramp('cosine', 0, 9)}],
  'logits': [{}, {'logit_shift': lambda state: jnp.arange(3.0) * (1 + state.step)}],
  'mode': [{'mode': 'replace', 'ratio': 0.4}, {'mode': 'add', 'ratio': 0.4}],
  'classifier': [
    {'arch': 'mlp'},
    {'arch': 'resnet', 'batch_norm': 'split'},
    {'arch': 'resnet', 'batch_norm': 'real_only'},
  ],
  'augmentation': [
    {'on': 'real', 'color': 0.4, 'cutout': 3},
    {'on': 'synthetic', 'mixup': 0.8, 'partner': 'same'},
    {'mixup': 1.0, 'cutmix': 1.0},
  ],
  'pool': [{}, {'refresh_every': 3}],
}


def _refused(row):
  """Images drawn beforehand need no pool; the config refuses the two together."""
  return {'offline', 'refresh_every'} <= {name for part in row for name in part}


@functools.cache
def _rows():
  """Rows of settings in which every pair that may be combined occurs: greedy, seeded."""
  factors, random = list(FACTORS.values()), np.random.default_rng(1)
  choices = [range(len(settings)) for settings in factors]
  pairs = {
    (a, i, b, j)
    for a, b in itertools.combinations(range(len(factors)), 2)
    for i in choices[a]
    for j in choices[b]
    if not _refused([factors[a][i], factors[b][j]])
  }
  rows = []
  while pairs:
    a, i, b, j = min(pairs)
    best, covered = None, set()
    for _ in range(1000):
      row = [int(random.integers(len(settings))) for settings in factors]
      row[a], row[b] = i, j
      if _refused([factors[n][k] for n, k in enumerate(row)]):
        continue
      found = {
        (m, row[m], n, row[n]) for m, n in itertools.combinations(range(len(row)), 2)
      }
      if len(found & pairs) > len(covered):
        best, covered = row, found & pairs
    rows.append(best)
    pairs -= covered
  return rows


def _options(row):
  settings = zip(FACTORS.values(), row, strict=True)
  return {k: v for choices, i in settings for k, v in choices[i].items()}


def _is_ahead(options):
  hard = getattr(options.get('sample_filter'), 'score', '') == 'hard'
  return not hard and options['classes'] != 'feedback'


@pytest.mark.slow  # the fast tests below have the policies one by one
@pytest.mark.parametrize('number', range(len(_rows())))
def test_every_pair_of_policies_keeps_the_invariants(toy, number):
  """Steps one by one on one device; on 4 in calls of 4 steps, drawn ahead if possible.

  Both are finite and the same, with the asked ratio and, by `tiny.run`, no gathers.
  """
  options = {'dtype': jnp.float64, 'frozen': 'mlp', **_options(_rows()[number])}
  filtered = bool(getattr(options.get('sample_filter'), 'min_confidence', 0))
  with jax.enable_x64(True):
    where = tiny.layout('jit', 1)
    step, begin, plan, frozen = tiny.fused(where, **options)
    usual = {'count': plan.num_real, 'num_steps': 7, 'extra': (frozen,)}
    usual['place'] = plan.real_before
    state, rows = tiny.run(where, step, begin, toy, **usual)
    where = tiny.layout(('jit', 'pmap')[number % 2], 4)
    step, begin, _, _, ahead = tiny.fused_ahead(where, **options)
    assert bool(ahead) == _is_ahead(options)
    usual |= {'per_call': 4, 'draw_ahead': ahead}
    spread, others = tiny.run(where, step, begin, toy, **usual)
  one, four = (state.replace(pool=()), rows), (spread.replace(pool=()), others)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(one))
  # To rounding: a forward pass of more images may add in another order.
  assert tiny.difference(one, four) < 1e-9
  for at in range(7):
    asked = int(plan.synthetic_at(at))
    assert rows['asked_ratio'][at] == pytest.approx(asked / 12, abs=1e-6)
    given = 12 * rows['synthetic_ratio'][at]
    assert given == pytest.approx(round(given)) and given <= asked + 1e-9
    assert filtered or round(given) == asked


# What is drawn: each position by itself, so one device and one group are enough.

SLOT = jnp.arange(60, dtype=jnp.int32)[None]


def _keys():
  return rng.step_keys(5, 0)


class _State:
  # A classifier other than the teacher.
  variables, class_stats = tiny.teacher(scale=-2)[1], {}


def _synthesize(sample_filter, **options):
  """What a filter keeps, and all candidates by the plain sampler: [60, m, ...]."""
  sample, generator = tiny.frozen_generator()
  logits_of, discriminator = tiny.frozen_discriminator()
  ask, teacher = tiny.teacher(scale=3)
  synthesize = synthesis.Synthesis(
    synthesis.Networks(sample, ask, logits_of, ask),
    num_classes=tiny.CLASSES,
    sample_filter=sample_filter,
    **options,
  )

  @jax.jit
  def draw(frozen):
    made = jax.tree.map(lambda x: x[0], synthesize(_keys(), SLOT, _State(), frozen))
    drawn = [
      sample(frozen.generator, _keys().at('latent', SLOT[0], n), made.labels)
      for n in range(sample_filter.candidates)
    ]
    return made, jnp.stack(drawn, 1)

  return jax.device_get(draw(FrozenModels(discriminator, generator, teacher)))


def _ask(images, scale=3):
  """Probabilities by the teacher (scale 3), or by the classifier of `_State` (-2)."""
  ask, variables = tiny.teacher(scale=scale)
  shares = jax.jit(lambda *args: jax.nn.softmax(ask(*args)))
  shares = shares(variables, images.reshape(-1, *tiny.SHAPE))
  return np.asarray(shares).reshape(*images.shape[:-3], tiny.CLASSES)


def _of_label(shares, labels):
  return np.take_along_axis(shares, labels[:, None, None], -1)[..., 0]


def _kept(made, drawn):
  """Which candidate was kept of each position."""
  same = np.abs(drawn - made.images[:, None]).max((2, 3, 4)) < 1e-5
  assert np.all(same.sum(1) == 1)
  return same.argmax(1)


def test_best_by_teacher_is_the_most_probable_of_its_label():
  made, drawn = _synthesize(SampleFilter(4, 'teacher'))
  probable = _of_label(_ask(drawn), made.labels)
  np.testing.assert_array_equal(_kept(made, drawn), probable.argmax(1))
  assert probable.max(1).mean() > probable.mean() + 0.02
  one, _ = _synthesize(SampleFilter(1))
  np.testing.assert_array_equal(one.images, drawn[:, 0])  # one candidate is the first


def test_best_by_discriminator_has_the_highest_logit():
  made, drawn = _synthesize(SampleFilter(4, 'discriminator'))
  logits_of, variables = tiny.frozen_discriminator()
  logits = np.asarray(logits_of(variables, drawn, made.labels))
  np.testing.assert_array_equal(_kept(made, drawn), logits.argmax(1))


def test_hard_is_what_the_classifier_is_least_sure_of_where_the_teacher_agrees():
  made, drawn = _synthesize(SampleFilter(4, 'hard'))
  agrees = _ask(drawn).argmax(-1) == made.labels[:, None]
  mine = _ask(drawn, scale=-2).copy()
  own = _of_label(mine, made.labels)
  mine[np.arange(60), :, made.labels] = -1
  margins, kept = own - mine.max(-1), _kept(made, drawn)
  at = np.arange(60)
  some = agrees.any(1)
  assert some.sum() > 10 and (~some).any()  # both kinds of position occur
  lowest = np.where(agrees, margins, np.inf).argmin(1)
  np.testing.assert_array_equal(kept[some], lowest[some])
  probable = _of_label(_ask(drawn), made.labels)
  np.testing.assert_array_equal(kept[~some], probable.argmax(1)[~some])
  choice = agrees.sum(1) > 1
  average = np.nanmean(np.where(agrees, margins, np.nan)[choice], axis=1)
  assert margins[at, kept][choice].mean() < average.mean()


def test_hard_takes_the_hardest_of_those_that_are_accepted():
  """Or more candidates would mean fewer accepted images. This teacher is very sure."""
  least = 0.9999
  made, drawn = _synthesize(SampleFilter(4, 'hard', least))
  confidence = _of_label(_ask(drawn), made.labels)
  agrees = _ask(drawn).argmax(-1) == made.labels[:, None]
  assert (agrees & (confidence < least)).any()
  np.testing.assert_array_equal(made.accepted, (confidence >= least).any(1))


def test_random_keeps_any_candidate():
  made, drawn = _synthesize(SampleFilter(3, 'random'))
  counts = np.bincount(_kept(made, drawn), minlength=3)
  assert counts.min() >= 8  # 3.3 standard deviations below 20 of 60


@pytest.mark.parametrize('score', ['teacher', 'discriminator'])
def test_confidence_decides_what_is_accepted(score):
  made, drawn = _synthesize(SampleFilter(1, score, 0.5))
  if score == 'teacher':
    confidence = _of_label(_ask(drawn), made.labels)[:, 0]
  else:
    logits_of, variables = tiny.frozen_discriminator()
    confidence = jax.nn.sigmoid(logits_of(variables, drawn, made.labels))[:, 0]
  assert 0 < made.accepted.sum() < 60
  np.testing.assert_array_equal(made.accepted, confidence >= 0.5)


def test_targets_are_hard_smoothed_or_the_teachers():
  made, _ = _synthesize(SampleFilter(2, 'random'), targets='smoothed', smoothing=0.3)
  one_hot = np.eye(tiny.CLASSES)[made.labels]
  np.testing.assert_allclose(made.targets, 0.7 * one_hot + 0.1, rtol=1e-6)
  for keep in (SampleFilter(2, 'random'), SampleFilter(2, 'teacher')):
    made, _ = _synthesize(keep, targets='teacher')
    np.testing.assert_allclose(made.targets, _ask(made.images), atol=1e-5)


def test_latents_have_the_asked_distribution():
  keys = jax.random.split(jax.random.key(0), 20000)
  draw = functools.partial(sampling.draw_latents, keys, (3,))
  assert np.std(draw(std=1.6)) == pytest.approx(1.6, rel=0.02)
  cut = np.abs(draw(truncation=1.5, std=2.0))
  assert cut.max() <= 3.0 < np.abs(draw(std=2.0)).max()
  # Of (1 - u) a + u b with u uniform up to t: 1 - t + 2 t^2 / 3.
  for t in (0.5, 1.0):
    assert np.var(draw(interpolation=t)) == pytest.approx(1 - t + 2 * t**2 / 3, rel=0.03)
  np.testing.assert_array_equal(draw(), draw(std=1.0, truncation=0.0))


def test_class_distributions_equal_their_definitions():
  plan = plans.plan_batch(100, ratio=0.2, mode='replace')
  of = lambda kind, counts: class_labels.class_distribution(kind, counts, plan)
  counts = np.array([60, 30, 10])
  np.testing.assert_allclose(of('uniform', counts), [1 / 3] * 3)
  np.testing.assert_allclose(of('train', counts), [0.6, 0.3, 0.1])
  np.testing.assert_allclose(of('inverse', counts), np.array([1, 2, 6]) / 9)
  # 80 real ones are 48, 24 and 8; 20 more fill the last two up to 26 each.
  np.testing.assert_allclose(of('balance', counts), [0, 0.1, 0.9], atol=1e-12)
  # 48, 16 and 16 fill up to 26 the same; of equal ones each takes a third.
  np.testing.assert_allclose(of('balance', [60, 20, 20]), [0, 0.5, 0.5], atol=1e-12)
  np.testing.assert_allclose(of('balance', [5, 5, 5]), [1 / 3] * 3)
  # Enough to balance all of them: 60 real of a batch of 120 that has 40 of each.
  more = plans.plan_batch(60, ratio=1.0, mode='add')
  shares = class_labels.class_distribution('balance', [3, 2, 1], more)
  np.testing.assert_allclose(60 * shares, [10, 20, 30])


@pytest.mark.parametrize('mode', ['replace', 'add'])
def test_label_prior_is_the_expected_target_of_the_loss(toy, mode):
  """By weight, of the targets of real and synthetic images, at steps of a schedule."""
  labels, probs = np.asarray(toy.train.labels), np.array([0.0, 0.25, 0.75])
  counts, eye = np.bincount(labels), np.eye(3)
  ramp = plans.make_ramp('linear', 40, start=0.2, stop=0.9)
  plan = plans.plan_batch(20, ratio=0.5, mode=mode, ramp=ramp)
  for step in (0, 20, 35, 39):
    count, weight = int(plan.synthetic_at(step)), 0.5 * float(ramp(step))
    num_real = 20 if mode == 'add' else 20 - count
    real = 0.9 * eye[labels].mean(0) + 0.1 / 3
    synthetic = 0.7 * probs @ eye + 0.3 / 3
    expected = num_real * real + weight * count * synthetic
    prior = class_labels.label_prior(
      counts,
      plan,
      jnp.int32(step),
      class_probs=probs,
      weight=0.5 * ramp(jnp.int32(step)),
      label_smoothing=0.1,
      smoothing=0.3,
    )
    np.testing.assert_allclose(prior, expected / expected.sum(), rtol=1e-5)
  only = plans.plan_batch(20, ratio=1.0, mode='replace')
  prior = class_labels.label_prior(counts, only, 0, class_probs=probs, weight=0.0)
  np.testing.assert_allclose(prior, 1 / 3, rtol=1e-5)  # of nothing, and no NaN


@pytest.mark.parametrize('tau', [0.0, 1.0, 2.0])
def test_adjusted_logits_of_images_that_show_nothing_forget_the_shares(toy, tau):
  """Without an adjustment they are the logs of the shares; with tau, 1 - tau of them."""
  where, counts = tiny.layout('jit', 1), np.array([6, 3, 1])
  blank = dataclasses.replace(
    toy.train,
    images=np.zeros((10, *tiny.SHAPE), np.uint8),
    labels=np.repeat(np.arange(3, dtype=np.int32), counts),
  )
  toy = dataclasses.replace(toy, train=blank)
  real = plans.plan_batch(10, ratio=0.0, mode='replace')
  shift = lambda state: tau * jnp.log(class_labels.label_prior(counts, real, state.step))
  step, state, _, frozen = tiny.fused(
    where, ratio=0.0, batch_size=10, arch='mlp', dropout=0.0, crop=0, logit_shift=shift
  )
  state, _ = tiny.run(
    where, step, state, toy, count=10, num_steps=300, extra=(frozen,), per_call=100
  )
  model = tiny.classifiers.build_classifier('mlp', num_classes=3, hidden=(8,))
  (logits,) = model.apply(state.variables, -jnp.ones((1, *tiny.SHAPE)), train=False)
  learned = jax.nn.log_softmax(logits)
  expected = jax.nn.log_softmax((1 - tau) * jnp.log(counts / 10))
  np.testing.assert_allclose(learned, expected, atol=0.02)


def test_labels_are_drawn_by_their_distribution():
  keys = rng.example_keys(rng.stream_key(0, 'label'), jnp.arange(6000))
  labels = class_labels.draw_labels(keys, 3, jnp.array([0.0, 0.25, 0.75]))
  counts = np.bincount(labels, minlength=3)
  assert counts[0] == 0 and abs(counts[1] - 1500) < 135  # 4 standard deviations


def test_feedback_asks_for_the_classes_that_cost_most(toy):
  shares = class_labels.feedback_distribution(jnp.array([3.0, 1.0, 0.0]))
  np.testing.assert_allclose(shares, 0.9 * np.array([0.75, 0.25, 0]) + 0.1 / 3, rtol=1e-5)
  np.testing.assert_allclose(class_labels.feedback_distribution(jnp.zeros(4)), 0.25)
  where = tiny.layout('jit', 2)
  options = {'ratio': 0.5, 'classes': 'feedback', 'crop': 0, 'dropout': 0.0}
  step, state, plan, frozen = tiny.fused(where, **options)
  first = state.class_stats['class_loss']
  state, _ = tiny.run(
    where, step, state, toy, count=plan.num_real, num_steps=1, extra=(frozen,)
  )
  np.testing.assert_allclose(first, np.log(3), rtol=1e-6)
  model = tiny.classifiers.build_classifier(
    'cnn', num_classes=3, features=(4, 4), hidden=(8,)
  )
  untrained = tiny.fused(where, **options)[1]
  data = tiny.feed(where.replicate, toy)(0, plan.num_real)
  images, labels = device_data.gather_stream(data, jnp.arange(plan.num_real))
  logits = model.apply(untrained.variables, images, train=False)
  nll = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]
  for c in range(3):
    own = np.asarray(labels) == c
    kept = 0.99 ** (own.sum() * 3 / 12)  # of a batch of 12, a third would be 4
    expected = kept * first[c] + (1 - kept) * nll[own].mean()
    assert state.class_stats['class_loss'][c] == pytest.approx(float(expected), rel=1e-5)


# How batches are composed.


@pytest.mark.parametrize('mode', ['replace', 'add'])
@pytest.mark.parametrize('shape', ['constant', 'linear', 'cosine'])
def test_scheduled_counts_are_exact_and_no_real_example_is_lost(mode, shape):
  steps, ratio = 200, 0.3
  ramp = plans.make_ramp(shape, steps, start=0.1, stop=0.75)
  assert (ramp.start, ramp.stop) == (20, 150)
  plan = plans.plan_batch(40, ratio=ratio, mode=mode, ramp=ramp)
  counts = jax.jit(lambda t: plan.synthetic_at(t))
  progress = np.clip((np.arange(steps) - 20) / 129, 0, 1)
  height = {
    'constant': 1,
    'linear': progress,
    'cosine': (1 - np.cos(np.pi * progress)) / 2,
  }
  inside = (np.arange(steps) >= 20) & (np.arange(steps) < 150)
  expected = np.where(inside, np.floor(12 * height[shape] + 0.5), 0).astype(int)
  found = [int(counts(jnp.int32(t))) for t in range(steps)]
  np.testing.assert_array_equal(found, expected)
  assert found == [int(plan.synthetic_at(t)) for t in range(steps)]
  assert max(found) == 12 and found[149] == 12 and found[150] == 0
  # The stream of real examples goes on where the step before ended.
  real = 40 - expected if mode == 'replace' else np.full(steps, 40)
  places = np.concatenate([[0], np.cumsum(real)])
  before = jax.jit(lambda t: plan.real_before(t))
  for t in range(0, steps + 1, 7):
    assert int(plan.real_before(t)) == int(before(jnp.int32(t))) == places[t]
  assert plan.num_real == 40


def _compose(toy, where=None, *, plan, made=None, **options):
  """A composed batch of the first step, on the host in order of position."""
  where = where or tiny.layout('jit', 1)

  def synthesize(keys, slot, state, frozen):
    """Images that are 2 everywhere, of class 1; every second one is accepted."""
    shape = slot.shape
    one_hot = jnp.broadcast_to(jnp.eye(tiny.CLASSES)[1], (*shape, tiny.CLASSES))
    images = jnp.full((*shape, *tiny.SHAPE), 2.0)
    return synthesis.Synthetic(
      images,
      jnp.ones(shape, jnp.int32),
      one_hot,
      made if made is not None else slot % 2 == 0,
    )

  options = {'augmentation': batches.Augmentation(), **options}
  compose = batches.make_compose(
    layout=where, plan=plan, synthesize=synthesize, num_classes=tiny.CLASSES, **options
  )
  data = tiny.feed(where.replicate, toy)(0, plan.num_real)

  class State:
    seed, step, pool = 0, jnp.int32(0), ()

  batch, _ = compose(where.positions(plan.total), State(), data, FrozenModels())
  names = ('images', 'targets', 'weights', 'synthetic', 'real')
  rows = {name: np.asarray(getattr(batch, name))[0] for name in names}
  return rows, (np.asarray(batch.asked)[0], np.asarray(batch.accepted)[0])


def test_a_rejected_position_gets_a_real_image_of_the_class_or_no_weight(toy):
  plan = plans.plan_batch(20, ratio=0.5, mode='replace')
  rows, (asked, accepted) = _compose(toy, plan=plan, on_reject='real')
  real = {image.tobytes(): label for image, label in _toy_images(toy)}
  for p in range(20):
    label = rows['targets'][p].argmax()
    if p < 10 and p % 2 == 0:
      assert rows['synthetic'][p] and np.all(rows['images'][p] == 2)
    else:
      assert rows['real'][p] and real[rows['images'][p].tobytes()] == label
      assert p >= 10 or label == 1
  np.testing.assert_array_equal(rows['weights'], 1)
  substitutes = {rows['images'][p].tobytes() for p in range(1, 10, 2)}
  assert len(substitutes) > 2  # drawn, and not one and the same
  np.testing.assert_array_equal(asked, [0, 10, 0])
  np.testing.assert_array_equal(accepted, [0, 5, 0])
  rows, _ = _compose(toy, plan=plan, on_reject='drop')
  np.testing.assert_array_equal(rows['weights'], [1, 0] * 5 + [1] * 10)


def test_label_smoothing_is_for_the_targets_of_real_images(toy):
  plan = plans.plan_batch(20, ratio=0.5, mode='replace')
  options = {'plan': plan, 'on_reject': 'real'}
  plain, _ = _compose(toy, **options)
  rows, counts = _compose(toy, label_smoothing=0.3, **options)
  real = rows['real']
  smoothed = 0.7 * plain['targets'] + 0.3 / tiny.CLASSES
  assert real.sum() == 15  # substitutes of rejected images included
  np.testing.assert_allclose(rows['targets'][real], smoothed[real], rtol=1e-6)
  np.testing.assert_array_equal(rows['targets'][~real], plain['targets'][~real])
  np.testing.assert_array_equal(counts, [[0, 10, 0], [0, 5, 0]])
  other = batches.Augmentation(mix=lambda keys, one, other: other)  # partners are real
  rows, _ = _compose(toy, plan=plan, augmentation=other, label_smoothing=0.3)
  np.testing.assert_allclose(rows['targets'].max(1), 0.8, rtol=1e-6)


def _toy_images(toy):
  images = np.asarray(device_data.normalize(jnp.asarray(toy.train.images)))
  return zip(images, toy.train.labels, strict=True)


def test_weight_of_synthetic_examples_in_the_loss(toy):
  plan = plans.plan_batch(8, ratio=0.5, mode='add')
  rows, _ = _compose(
    toy, plan=plan, made=jnp.ones((1, 4), bool), weight=lambda step: 0.25
  )
  np.testing.assert_array_equal(rows['weights'], [0.25] * 4 + [1] * 8)
  ramp = Ramp('linear', 10, 21)
  heights = [float(ramp(jnp.int32(t))) for t in (9, 10, 15, 20, 21)]
  np.testing.assert_allclose(heights, [0, 0, 0.5, 1, 0])


@pytest.mark.slow  # three programs; the weights of a batch are in the test before
def test_the_loss_is_a_mean_by_weight(toy):
  """With 0.25 it lies that far from that of real to that of synthetic images."""
  losses = {}
  where = tiny.layout('jit', 1)
  for weight in (1e-9, 0.25, 1e9):
    options = {
      'mode': 'add',
      'ratio': 0.5,
      'dropout': 0.0,
      'arch': 'mlp',
      'frozen': 'mlp',
      'weight': lambda step, w=weight: w,
    }
    step, state, plan, frozen = tiny.fused(where, **options)
    _, metrics = tiny.run(
      where, step, state, toy, count=plan.num_real, num_steps=1, extra=(frozen,)
    )
    losses[weight] = float(metrics['loss'][0])
  real, mixed, synthetic = losses.values()
  assert abs(real - synthetic) > 1e-3
  assert mixed == pytest.approx((12 * real + 0.25 * 6 * synthetic) / 13.5, rel=1e-5)


@pytest.mark.parametrize('on', ['real', 'synthetic', 'both'])
def test_augmentation_reaches_the_images_it_is_meant_for(toy, on):
  plan = plans.plan_batch(8, ratio=0.5, mode='replace')
  negate = batches.Augmentation(lambda keys, images: -images, on=on)
  everything = jnp.ones((1, 4), bool)
  plain, _ = _compose(toy, plan=plan, made=everything)
  rows, _ = _compose(toy, plan=plan, made=everything, augmentation=negate)
  changed = np.any(rows['images'] != plain['images'], axis=(1, 2, 3))
  np.testing.assert_array_equal(changed, [on != 'real'] * 4 + [on != 'synthetic'] * 4)


@pytest.mark.parametrize('partner', ['any', 'same'])
def test_partners_are_real_images_drawn_apart_from_the_batch(toy, partner):
  plan = plans.plan_batch(40, ratio=0.5, mode='replace')
  take_partner = lambda keys, one, other: other
  augmentation = batches.Augmentation(mix=take_partner, partner=partner)
  everything = jnp.ones((1, 20), bool)
  plain, _ = _compose(toy, plan=plan, made=everything)
  rows, _ = _compose(toy, plan=plan, made=everything, augmentation=augmentation)
  real = {image.tobytes(): label for image, label in _toy_images(toy)}
  labels = [real[image.tobytes()] for image in rows['images']]
  np.testing.assert_array_equal(rows['targets'].argmax(1), labels)
  own = plain['targets'].argmax(1)
  assert np.all(labels == own) == (partner == 'same')
  assert len({image.tobytes() for image in rows['images']}) > 10


def test_mixup_and_cutmix_mix_labels_as_they_mix_pixels():
  keys = jax.random.split(jax.random.key(2), 300)
  one = (jnp.zeros((300, 8, 6, 2)), jnp.tile(jnp.array([1.0, 0.0]), (300, 1)))
  other = (jnp.ones((300, 8, 6, 2)), jnp.tile(jnp.array([0.0, 1.0]), (300, 1)))
  mixed = {}
  for name in ('mixup', 'cutmix'):
    images, targets = augment.make_mix(**{name: 0.5})(keys, one, other)
    mixed[name] = np.asarray(images)
    targets = np.asarray(targets)
    # What the partner gave of the pixels it gives of the label.
    np.testing.assert_allclose(np.mean(images, (1, 2, 3)), targets[:, 1], atol=1e-6)
    np.testing.assert_allclose(np.sum(targets, 1), 1, rtol=1e-6)
  part = mixed['mixup'][:, 0, 0, 0]
  assert np.all(mixed['mixup'] == part[:, None, None, None])
  # The smaller of x and 1 - x, x of Beta(1/2, 1/2), is below y with twice the chance.
  beta = scipy.stats.beta(0.5, 0.5)
  assert scipy.stats.kstest(part, lambda y: 2 * beta.cdf(y)).pvalue > 0.01
  assert part.max() <= 0.5 and np.all(targets[:, 0] >= 0.49)  # the image prevails
  assert set(np.unique(mixed['cutmix'])) == {0, 1}
  for image in mixed['cutmix'][:50, :, :, 0]:  # what is cut is a rectangle
    rows, columns = image.any(1), image.any(0)
    np.testing.assert_array_equal(image, np.outer(rows, columns))
  both, _ = augment.make_mix(mixup=1.0, cutmix=1.0)(keys, one, other)
  blended = np.any((np.asarray(both) > 0) & (np.asarray(both) < 1), axis=(1, 2, 3))
  assert 110 < blended.sum() < 190  # a fair coin of 300, 4.6 standard deviations
  assert augment.make_mix() is None


def test_cutout_blanks_a_square_and_colour_stays_in_range():
  keys = jax.random.split(jax.random.key(3), 100)
  images = augment.make_augment(cutout=3)(keys, jnp.ones((100, 9, 9, 3)))
  holes = np.asarray(images[..., 0]) == 0
  sizes = holes.sum((1, 2))
  assert sizes.max() == 9 and sizes.min() < 9  # whole ones, and some over the border
  source = np.random.default_rng(0).uniform(-1, 1, (100, 9, 9, 3)).astype(np.float32)
  colored = np.asarray(augment.make_augment(color=0.5)(keys, source))
  assert np.abs(colored).max() <= 1 and np.abs(colored - source).mean() > 0.05


def _normalise(kind, x, valid_mask, synthetic):
  norm = layers.BatchNorm(synthetic=kind, momentum=0.0)
  variables = norm.init(jax.random.key(0), x, train=False)
  return norm.apply(
    variables,
    x,
    train=True,
    valid_mask=valid_mask,
    synthetic=synthetic,
    mutable=['batch_stats'],
  )


def test_batch_statistics_of_synthetic_images_are_shared_split_or_left_out():
  random = np.random.default_rng(0)
  synthetic, valid_mask = np.arange(12) < 6, np.arange(12) != 11
  x = (
    random.normal(0, 1, (12, 4, 4, 2)).astype(np.float32)
    + 5 * synthetic[:, None, None, None]
  )
  real = x[~synthetic & valid_mask].reshape(-1, 2)
  everything = x[valid_mask].reshape(-1, 2)
  results = {
    kind: _normalise(kind, x, valid_mask, synthetic)
    for kind in ('shared', 'split', 'real_only')
  }
  for kind, (result, updated) in results.items():
    stats, source = updated['batch_stats'], everything if kind == 'shared' else real
    np.testing.assert_allclose(stats['mean'], source.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats['var'], source.var(0), rtol=1e-3)
    normal = (x - source.mean(0)) / np.sqrt(source.var(0) + 1e-5)
    np.testing.assert_allclose(result[~synthetic], normal[~synthetic], atol=1e-3)
    if kind == 'split':
      own = x[synthetic].reshape(-1, 2)
      normal = (x - own.mean(0)) / np.sqrt(own.var(0) + 1e-5)
    np.testing.assert_allclose(result[synthetic], normal[synthetic], atol=2e-3)


@pytest.mark.parametrize('backend', ['jit', pytest.param('pmap', marks=pytest.mark.slow)])
def test_a_pool_lasts_for_its_steps_and_stays_on_its_device(toy, backend):
  where = tiny.layout(backend, 4)
  step, state, plan, frozen = tiny.fused(where, ratio=0.4, refresh_every=3, crop=0)
  state, take = tiny.put(where, state), tiny.feed(where.replicate, toy)
  arguments = lambda at: (take(at * plan.num_real, plan.num_real), frozen)
  frozen = where.replicate(frozen)
  program = tiny.compile_step(step, where, state, *arguments(0))
  assert 'conditional' in program.compiled.as_text()
  pools = []
  for at in range(7):
    state, _ = program(state, *arguments(at))
    assert all(where.is_sharded(x) for x in jax.tree.leaves(state.pool))
    pools.append(np.asarray(state.pool.images))
  same = [np.array_equal(a, b) for a, b in itertools.pairwise(pools)]
  assert same == [True, True, False, True, True, False]


# As the config asks.


def test_equal_exposure_takes_the_steps_that_show_as_many_real_images():
  config = config_lib.default()
  config.classifier.num_steps, config.classifier.batch_size = 100, 40
  config.mix.ratio = 0.25
  steps = functools.partial(schedule.num_steps_of_arm, config, 1000)
  assert steps(synthetic=True) == steps(synthetic=False) == 100
  config.classifier.budget = 'exposure'
  assert steps(synthetic=False) == 100
  assert steps(synthetic=True) == 134  # 30 real images a step: 133 are 10 short
  config.mix.ratio_schedule = 'linear'
  number = steps(synthetic=True)
  shown = [
    int(schedule.plan_batches(config, n, synthetic=True).real_before(n))
    for n in (number - 1, number)
  ]
  assert shown[0] < 4000 <= shown[1]
  config.mix.mode = 'add'
  assert steps(synthetic=True) == 100


def test_a_schedule_without_a_step_is_refused():
  config = config_lib.default()
  config.mix.start_fraction, config.mix.stop_fraction = 0.5, 0.51
  with pytest.raises(ConfigError, match='of 20 steps leave no step'):
    schedule.plan_batches(config, 20, synthetic=True)
  plan = schedule.plan_batches(config, 100, synthetic=True)  # one step has all
  assert [int(plan.synthetic_at(t)) for t in (49, 50, 51)] == [0, 26, 0]
  config.mix.ratio_schedule = 'linear'
  plan = schedule.plan_batches(config, 100, synthetic=True)
  assert [int(plan.synthetic_at(t)) for t in (49, 50, 51)] == [0, 26, 0]


def test_the_config_reaches_the_plan():
  config = config_lib.default()
  config.classifier.batch_size, config.mix.ratio = 40, 0.25
  plan = schedule.plan_batches(config, 100, synthetic=True)
  weight = schedule.make_weight(config, 100)
  assert plan.rises is None and plan.num_synthetic == 10 and weight(7) == 1.0
  assert schedule.plan_batches(config, 100, synthetic=False).num_synthetic == 0
  config.mix.start_fraction, config.mix.stop_fraction = 0.1, 0.8
  config.mix.weight, config.mix.weight_schedule = 2.0, 'linear'
  plan = schedule.plan_batches(config, 100, synthetic=True)
  weight = schedule.make_weight(config, 100)
  counts = [int(plan.synthetic_at(t)) for t in (9, 10, 79, 80)]
  assert counts == [0, 10, 10, 0]
  assert [float(weight(t)) for t in (10, 79)] == [0.0, 2.0]


def test_mislabelled_images_are_of_each_other_class_as_often():
  shows = lambda variables, keys, labels: jnp.broadcast_to(labels[:, None], keys.shape)
  keys = rng.example_keys(rng.stream_key(0, 'latent'), jnp.arange(6000).reshape(3000, 2))
  labels = jnp.arange(3000) % tiny.CLASSES
  shown = np.asarray(sampling.mislabel(shows, tiny.CLASSES)({}, keys, labels))
  np.testing.assert_array_equal(shown[:, 0], shown[:, 1])  # candidates of one label
  counts = np.zeros((tiny.CLASSES, tiny.CLASSES))
  np.add.at(counts, (np.asarray(labels), shown[:, 0]), 1)
  assert not np.diag(counts).any()
  others = counts[~np.eye(tiny.CLASSES, dtype=bool)]
  expected = 3000 / tiny.CLASSES / (tiny.CLASSES - 1)
  assert np.abs(others - expected).max() < 5 * np.sqrt(expected)


def test_images_that_are_there_are_drawn_by_label_and_all_of_them():
  labels = np.array([2, 0, 2, 1, 2, 0])  # three, two and one of a class
  images = (10 * np.arange(6, dtype=np.uint8)).reshape(6, 1, 1, 1)
  variables = sampling.group_by_class(images, labels, tiny.CLASSES)
  asked = jnp.arange(600) % tiny.CLASSES
  keys = rng.example_keys(rng.stream_key(0, 'latent'), jnp.arange(600))
  sample = sampling.make_pool_sampler()
  drawn = np.asarray(sample(variables, keys, asked)).ravel()
  shown = np.rint((drawn + 1) * 127.5 / 10).astype(int)
  np.testing.assert_array_equal(labels[shown], asked)
  counts = np.bincount(shown, minlength=6)
  expected = 200 / np.bincount(labels)[labels]
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
  several = sample(variables, keys.reshape(300, 2), asked[:300])  # candidates of a label
  of_label = labels[np.rint((several.reshape(300, 2) + 1) * 127.5 / 10).astype(int)]
  np.testing.assert_array_equal(of_label, np.stack([asked[:300]] * 2, 1))


def test_noise_knows_neither_label_nor_generator():
  keys = rng.example_keys(rng.stream_key(0, 'latent'), jnp.arange(400))
  sample = sampling.make_noise_sampler(tiny.SHAPE)
  images = np.asarray(sample(None, keys, jnp.zeros(400, jnp.int32)))
  np.testing.assert_array_equal(images, sample(None, keys, jnp.ones(400, jnp.int32)))
  assert np.abs(images.mean()) < 0.02 and images.var() == pytest.approx(1 / 3, rel=0.02)
  assert len(np.unique(images[:, 0, 0, 0])) == 400  # each key draws its own


def test_no_more_is_drawn_ahead_than_a_call_needs():
  """Calls begin at multiples of their length, or resume at a multiple of the cycle."""
  for steps, every in itertools.product(range(1, 13), repeat=2):
    starts = [every * a + steps * b for a in range(13) for b in range(13)]
    needed = [len({s // every for s in range(at, at + steps)}) for at in starts]
    most = synthesis._most_draws(steps, every)
    assert max(needed) <= most <= max(needed) + (steps % every > 0 < every % steps)
