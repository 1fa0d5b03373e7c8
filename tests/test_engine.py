"""The invariants of the two training steps (docs/design.md)."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax.experiment import vmap_seeds
from gan_aug_jax.models import classifiers
from gan_aug_jax.step import (
  augment,
  batches,
  classifier,
  device_data,
  plans,
  programs,
  rng,
  sampling,
  sharding,
  synthesis,
)
from gan_aug_jax.step.plans import Ramp
from gan_aug_jax.step.synthesis import FrozenModels, SampleFilter
from tests import tiny

STEPS = 10  # over three epochs
# Float64 to rounding accumulated over the steps. In float32 a rounding of a sum, 1e-7,
# may tip a ReLU or a maximum and grow over the steps.
TOLERANCE = {jnp.float64: 1e-9, jnp.float32: 2e-3}
ENDS = [('jit', 1), ('pmap', 4)]  # all on one device, and divided by us
FEW_PLACES = [('jit', 4), ('pmap', 4)]  # XLA's own division of the work, and ours
SOME_PLACES = [('jit', 1), ('jit', 4)]
MORE_PLACES = [('jit', 1), ('jit', 2), ('pmap', 2)]
# The same guard as the fast rows, at more numbers of devices, or for one more network.
SLOW, RELEASE = pytest.mark.slow, pytest.mark.release


def _fused_everywhere(toy, dtype, places, **options):
  results = []
  for backend, num_devices in places:
    where = tiny.layout(backend, num_devices)
    step, state, plan, generator = tiny.fused(where, dtype=dtype, **options)
    results.append(
      tiny.run(
        where,
        step,
        state,
        toy,
        count=plan.num_real,
        num_steps=STEPS,
        extra=(generator,),
      )
    )
  return results


# Batch 12: 3 synthetic on 4 devices, and 12 + 5, leave spare slots with weight 0.
REPLACE = {'ratio': 0.25, 'mode': 'replace'}
NORM = {'ratio': 0.4, 'mode': 'add', 'arch': 'resnet'}


@pytest.mark.parametrize(
  ('options', 'dtype', 'places'),
  [
    pytest.param(NORM, jnp.float64, ENDS, id='add-batch_norm'),
    pytest.param(NORM, jnp.float64, SOME_PLACES, id='add-batch_norm-jit', marks=SLOW),
    pytest.param(REPLACE, jnp.float64, MORE_PLACES, id='replace', marks=SLOW),
    pytest.param(NORM, jnp.float32, FEW_PLACES, id='float32', marks=RELEASE),
  ],
)
def test_fused_step_is_the_same_on_any_devices_and_backend(toy, dtype, places, options):
  with jax.enable_x64(dtype == jnp.float64):
    first, *others = _fused_everywhere(toy, dtype, places, **options)
  assert np.ptp(first[1]['loss']) > 0.01  # it did train
  for other in others:
    assert tiny.difference(first, other) < TOLERANCE[dtype]


DIFFAUG = ('color', 'translation', 'cutout', 'flip')
SNGAN = {'arch': 'sngan', 'loss': 'hinge', 'diffaug': DIFFAUG, 'd_steps': 2, 'lecam': 0.1}
PAIRED = {'arch': 'mlp', 'loss': 'relativistic', 'r1': 1, 'r2': 1}


@pytest.mark.parametrize(
  ('options', 'dtype', 'places'),
  [
    pytest.param({}, jnp.float64, ENDS, id='dcgan-float64'),
    pytest.param({}, jnp.float64, SOME_PLACES, id='dcgan-float64-jit', marks=SLOW),
    pytest.param(SNGAN, jnp.float64, FEW_PLACES, id='sngan-float64', marks=SLOW),
    pytest.param({}, jnp.float64, MORE_PLACES, id='dcgan-of-2', marks=RELEASE),
    pytest.param(PAIRED, jnp.float64, FEW_PLACES, id='mlp-float64', marks=SLOW),
  ],
)
def test_gan_step_is_the_same_on_any_devices_and_backend(toy, options, dtype, places):
  with jax.enable_x64(dtype == jnp.float64):
    results = []
    for backend, num_devices in places:
      where = tiny.layout(backend, num_devices)
      step, state = tiny.gan_step(where, dtype=dtype, **options)
      count = 12 * options.get('d_steps', 1)
      results.append(tiny.run(where, step, state, toy, count=count, num_steps=STEPS))
  for other in results[1:]:
    assert tiny.difference(results[0], other) < TOLERANCE[dtype]


def _updates_in_a_loop(toy, monkeypatch):
  """Gives the GAN's step with three updates of the discriminator, and what it takes."""
  monkeypatch.setattr(sharding.Layout, 'on_cpu', False)
  where = tiny.layout('jit', 1)
  step, state = tiny.gan_step(where, arch='mlp', d_steps=3)
  return step, state, tiny.feed(where.replicate, toy)(0, 36)


def test_updates_of_the_discriminator_in_a_loop_keep_only_the_state(toy, monkeypatch):
  step, *inputs = _updates_in_a_loop(toy, monkeypatch)
  jaxpr = jax.make_jaxpr(step)(*inputs).jaxpr
  (loop,) = [e for e in tiny.equations(jaxpr) if e.primitive.name == 'scan']
  assert loop.params['length'] == 2 and len(loop.outvars) == loop.params['num_carry']


@SLOW
def test_updates_of_the_discriminator_in_a_loop_give_the_same_numbers(toy, monkeypatch):
  step, *inputs = _updates_in_a_loop(toy, monkeypatch)
  looped = jax.jit(lambda *inputs: step(*inputs))(*inputs)
  monkeypatch.undo()  # one after the other, as on a CPU
  # Adam divides by the root of a second moment that starts at 0.
  assert tiny.difference(looped, jax.jit(step)(*inputs)) < 1e-4


@SLOW  # compiles both steps for one number each
def test_gradient_norms_are_those_of_the_gradients(toy):
  """The first update of SGD is a multiple of the gradient, and so is Adam's mean."""
  where = tiny.layout('jit', 4)
  step, before, plan, frozen = tiny.fused(where, ratio=0.25, arch='mlp', frozen='mlp')
  options = {'count': plan.num_real, 'num_steps': 1, 'extra': (frozen,)}
  after, metrics = tiny.run(where, step, before, toy, **options)
  change = jax.tree.map(lambda new, old: (new - old) / 0.05, after.params, before.params)
  # Sums of float32 in another order.
  assert metrics['grad_norm'][0] == pytest.approx(_norm(change), rel=1e-3)
  step, state = tiny.gan_step(where, arch='mlp')
  state, metrics = tiny.run(where, step, state, toy, count=12, num_steps=1)
  for name in ('generator', 'discriminator'):
    mean = getattr(state, f'{name}_opt')[0].mu  # (1 - beta1) of the gradient
    assert metrics[f'{name}_grad_norm'][0] == pytest.approx(2 * _norm(mean), rel=1e-4)


# Bytes that let a call of 8 steps be drawn ahead at once, or, under these policies, of 4.
ALL, SOME = 2**28, 2**13
POLICIES = {
  'refresh_every': 3,
  'num_members': 3,
  'ramp': Ramp('linear', 0, 9),
  'sample_filter': SampleFilter(2, 'teacher', 0.4),
  'on_reject': 'real',
  'arch': 'mlp',
  'frozen': 'mlp',
}
CONVOLVED = {**POLICIES, 'arch': 'cnn', 'frozen': 'dcgan'}


@pytest.mark.parametrize(
  ('backend', 'num_devices', 'max_bytes', 'options'),
  [
    pytest.param('jit', 1, ALL, {}, id='plain'),
    pytest.param('jit', 4, ALL, POLICIES, id='policies-on-4', marks=SLOW),
    pytest.param('pmap', 4, SOME, POLICIES, id='chunks-under-pmap', marks=SLOW),
    pytest.param('jit', 4, ALL, {**POLICIES, 'frozen': 'flow'}, id='flow', marks=SLOW),
    pytest.param('jit', 4, SOME, POLICIES, id='chunks', marks=RELEASE),
    pytest.param('pmap', 1, ALL, POLICIES, id='pmap-of-one', marks=RELEASE),
    pytest.param('pmap', 4, ALL, {'mode': 'add'}, id='pmap-add', marks=RELEASE),
    pytest.param('jit', 2, 1, POLICIES, id='nothing-fits', marks=RELEASE),
    pytest.param('jit', 4, ALL, CONVOLVED, id='convolutions', marks=SLOW),
  ],
)
def test_drawing_ahead_gives_the_numbers_of_single_steps(
  toy, backend, num_devices, max_bytes, options
):
  """10 steps as 8 and 2 of a program of 8; calls and chunks begin amid draws for 3."""
  where, options = tiny.layout(backend, num_devices), {'ratio': 0.4, **options}
  with jax.enable_x64(True):
    step, state, plan, frozen = tiny.fused(where, dtype=jnp.float64, **options)
    usual = {'count': plan.num_real, 'num_steps': 10, 'extra': (frozen,)}
    usual['place'] = plan.real_before
    single, rows = tiny.run(where, step, state, toy, **usual)
    step, state, _, _, ahead = tiny.fused_ahead(
      where, dtype=jnp.float64, max_bytes=max_bytes, **options
    )
    assert state.pool == ()  # it is a function of the step, and need not be kept
    usual |= {'per_call': 8, 'draw_ahead': ahead}
    scanned, others = tiny.run(where, step, state, toy, **usual)
  assert np.ptp(rows['loss']) > 0.01  # it did train
  # To rounding: a forward pass of more images may add in another order.
  assert tiny.difference((single.replace(pool=()), rows), (scanned, others)) < 1e-9


@pytest.mark.parametrize(('num_devices', 'first', 'every'), [(1, 7, 4), (4, 6, 3)])
def test_images_drawn_ahead_are_those_of_their_steps(num_devices, first, every):
  """Of six steps, from the middle of a draw or from where one begins."""
  where = tiny.layout('jit', num_devices)
  sample, variables = tiny.frozen_generator()
  if num_devices > 1:
    variables = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), variables)
    sample = sampling.make_ensemble(sample, 3, where)
  made = synthesis.Synthesis(synthesis.Networks(sample), tiny.CLASSES)
  plan = plans.plan_batch(12, ratio=0.75, mode='replace')
  ahead = synthesis.make_draw_synthetic(
    made, layout=where, plan=plan, refresh_steps=every
  )
  slots = where.positions(9)

  class State:
    seed, step = jnp.int32(5), jnp.int32(first)

  frozen = FrozenModels(generator=variables)
  drawn = jax.jit(lambda frozen: ahead(State, 6, frozen))(frozen)
  draw = jax.jit(lambda frozen, at: made(rng.step_keys(5, at), slots, None, frozen))
  for step in range(first, first + 6):
    at = jnp.int32(step // every * every)
    expected, found = draw(frozen, at), drawn.at(jnp.int32(step))
    np.testing.assert_array_equal(found.labels, expected.labels)
    # Float32 to rounding: the sums of a larger product may be in another order.
    assert tiny.difference(found, expected) < 1e-5


def test_what_depends_on_the_classifier_is_not_drawn_ahead():
  where = tiny.layout('jit', 1)
  ahead = lambda **options: tiny.fused_ahead(where, **options)[-1]
  assert ahead(sample_filter=SampleFilter(2, 'teacher')) and ahead(classes='balance')
  assert ahead(sample_filter=SampleFilter(1, 'hard'))  # nothing to choose from
  assert ahead(sample_filter=SampleFilter(2, 'hard')) is None
  assert ahead(classes='feedback') is None
  assert ahead(ratio=0.0) and ahead(ratio=0.0, max_bytes=0) is None


def _compile_call(where, toy, per_call, *, batch_size=12, **options):
  """The compiled call of several steps."""
  options = {'batch_size': batch_size, **options}
  step, state, _, frozen, ahead = tiny.fused_ahead(where, **options)
  data = tiny.feed(where.replicate, toy)(0, per_call * batch_size)
  args = (
    tiny.put(where, state),
    where.replicated_int(per_call),
    data,
    where.replicate(frozen),
  )
  repeated = programs.repeat_step(step, per_call, ahead)
  return tiny.compile_step(repeated, where, *args).compiled


def _inside(text, operation):
  """How often a compiled program has an operation inside of loops, and how often not."""
  blocks = re.findall(r'^(?:ENTRY )?%?([\w.-]+) \(.*?\{\n(.*?)^\}', text, re.M | re.S)
  bodies = dict(blocks)
  called = {
    name: set(re.findall(r'[=,{ ]%([\w.-]+)', body)) & set(bodies)
    for name, body in blocks
  }
  inside = set(re.findall(r'body=%([\w.-]+)', text))
  while more := set().union(*(called[name] for name in inside)) - inside:
    inside |= more
  count = lambda names: sum(bodies[name].count(f' {operation}(') for name in names)
  return count(inside), count(set(bodies) - inside)


@SLOW  # reads compiled programs; the numbers are those of the fast rows above
@pytest.mark.parametrize(
  ('backend', 'options'),
  [('jit', {'mixup': 0.2}), ('pmap', CONVOLVED)],
)
def test_what_is_composed_ahead_is_outside_of_the_loop(toy, backend, options):
  where = tiny.layout(backend)
  options = {'dropout': 0.0, **options}  # its masks are drawn inside
  text = lambda ratio: _compile_call(where, toy, 4, ratio=ratio, **options).as_text()
  ahead = text(0.4)
  assert set(tiny.COLLECTIVE.findall(ahead)) == {'all-reduce'}
  classifier_only, none = _inside(text(0.0), 'convolution')
  inside, outside = _inside(ahead, 'convolution')
  assert inside == classifier_only > 0 and outside > 0 == none
  # Nor is a number drawn (a loop on a CPU), or an image gathered, at each step.
  assert _inside(ahead, 'while')[0] == _inside(ahead, 'gather')[0] == 0


@SLOW  # one seed drawing ahead is in the fast rows above
def test_seeds_in_one_program_draw_ahead(toy):
  where, count = tiny.layout('jit', 4), 2
  with jax.enable_x64(True):
    # Under `vmap` a CNN's convolutions become grouped ones, which XLA gathers for.
    options = {'dtype': jnp.float64, 'ratio': 0.4, 'arch': 'mlp'}
    step, state, plan, frozen, ahead = tiny.fused_ahead(where, **options)
    states = [state.replace(seed=np.int32(seed)) for seed in (3, 4)]
    usual = {'count': plan.num_real, 'num_steps': 4}
    alone = [
      tiny.run(where, step, one, toy, extra=(frozen,), **usual)[0] for one in states
    ]
    stack = lambda *trees: where.replicate(jax.tree.map(lambda *x: np.stack(x), *trees))
    data = tiny.feed(where.replicate, toy)(0, 4 * plan.num_real)
    data = stack(*[jax.device_get(data)] * count)
    call = programs.repeat_step(
      vmap_seeds.vmap_step(step, count), 4, vmap_seeds.vmap_draw_ahead(ahead)
    )
    args = stack(*states), where.replicated_int(4), data, stack(*[frozen] * count)
    program = tiny.compile_step(call, where, *args)
    joint, _ = program(*args)
  assert set(tiny.COLLECTIVE.findall(program.compiled.as_text())) == {'all-reduce'}
  for i, one in enumerate(alone):
    mine = jax.tree.map(lambda x, i=i: x[i], jax.device_get(joint))
    assert tiny.difference(one, mine) < 1e-9


@SLOW  # `test_chunks_divide_a_call` has the arithmetic
def test_the_largest_array_of_drawing_ahead_is_bounded(toy):
  """Of 16 steps of 64 images; the rest of a call's memory does not depend on that."""
  where = tiny.layout('jit', 1)
  options = {'batch_size': 64, 'arch': 'mlp', 'ratio': 0.5, 'crop': 1, 'mixup': 0.2}
  temporary = lambda most: (
    _compile_call(where, toy, 16, max_bytes=most, **options)
    .memory_analysis()
    .temp_size_in_bytes
  )
  limit = 2**16
  # The largest array and what it is made of, or the images; MixUp has partners, too.
  assert temporary(limit) < temporary(0) + 3 * limit < temporary(ALL)


@pytest.mark.parametrize(('most', 'length'), [(1200, 12), (1199, 6), (250, 2), (99, 1)])
def test_chunks_divide_a_call(most, length):
  draw = lambda state, num_steps, data: state + jnp.zeros((num_steps, 25))  # 100 bytes
  ahead = programs.DrawAhead(draw, most)
  assert ahead.chunk_length(jnp.float32(0), 12, None) == length


def _norm(tree):
  return np.sqrt(
    sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree))
  )


def test_scanned_steps_equal_single_steps(toy):
  where = tiny.layout('jit', 2)
  # A pool of three steps begins and ends within calls of four; the last call is short.
  policies = {'refresh_every': 3, 'classes': 'feedback', 'ramp': Ramp('linear', 0, 9)}
  policies |= {'arch': 'mlp', 'frozen': 'mlp'}
  step, _, plan, generator = tiny.fused(where, ratio=0.25, **policies)
  options = {'count': plan.num_real, 'num_steps': 10, 'extra': (generator,)}
  begin = lambda: tiny.fused(where, ratio=0.25, **policies)[1]
  options['place'] = plan.real_before
  single = tiny.run(where, step, begin(), toy, **options)
  scanned = tiny.run(where, step, begin(), toy, per_call=4, **options)
  assert scanned[0].step == 10 and tiny.difference(single, scanned) < 1e-5
  step, state = tiny.gan_step(where, arch='mlp')
  single = tiny.run(where, step, state, toy, count=12, num_steps=8)
  scanned = tiny.run(where, step, state, toy, count=12, num_steps=8, per_call=4)
  # Adam divides by the root of a second moment that starts at 0.
  assert tiny.difference(single, scanned) < 1e-4


def test_generator_is_an_argument_not_donated_and_without_gradient(toy):
  where = tiny.layout()
  sample, variables = tiny.frozen_generator()
  keys, labels = jax.random.split(jax.random.key(0), 4), jnp.array([0, 1, 2, 0])
  grads = jax.grad(lambda v: jnp.sum(sample(v, keys, labels) ** 2))(variables)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))

  step, state, plan, generator = tiny.fused(where, ratio=0.5)
  data = tiny.feed(where.replicate, toy)(0, plan.num_real)
  state, generator = where.replicate((state, generator))
  before = jax.device_get(generator)
  with warnings.catch_warnings():
    # A generator given away would fit no result, of which JAX warns.
    warnings.simplefilter('error')
    program = tiny.compile_step(step, where, state, data, generator)
  _, first = program(state, data, generator)
  assert all(x.is_deleted() for x in jax.tree.leaves(state) if x.size)
  assert tiny.difference(before, jax.device_get(generator)) == 0
  # Another generator through the same program changes the loss: it is no constant.
  other = generator.replace(generator=where.replicate(tiny.frozen_generator(seed=1)[1]))
  again = where.replicate(tiny.fused(where, ratio=0.5)[1])
  _, second = program(again, data, other)
  assert abs(float(first['loss']) - float(second['loss'])) > 1e-4


def _stripped(lowered):
  """The computations of the compiled HLO, without metadata and tables of source files."""
  text = re.sub(r',? metadata=\{[^}]*\}', '', lowered.compile().as_text())
  kept = [line for line in text.splitlines() if re.match(r'\s|%|ENTRY|\}', line)]
  assert any('convolution' in line or 'conv' in line for line in kept)
  return kept


def test_ratio_zero_is_the_real_only_program(toy):
  where = tiny.layout()

  def refuse(*_):
    raise AssertionError('the generator was called')

  step, state, plan, generator = tiny.fused(where, ratio=0.0)
  compose = batches.make_compose(
    layout=where,
    plan=plan,
    synthesize=refuse,
    augmentation=batches.Augmentation(augment.make_augment(crop=2, flip=True)),
    num_classes=tiny.CLASSES,
  )
  model = classifiers.build_classifier(
    'cnn', num_classes=tiny.CLASSES, dropout=0.3, features=(4, 4), hidden=(8,)
  )
  optimizer = classifier.make_optimizer('sgd', learning_rate=0.05, num_steps=50)
  without = classifier.make_fused_step(
    model=model, optimizer=optimizer, layout=where, plan=plan, compose=compose
  )
  data = tiny.feed(where.replicate, toy)(0, plan.num_real)
  state, generator = where.replicate((state, generator))
  with_argument = programs.lower_step(step, where, state, data, generator)
  real_only = programs.lower_step(without, where, state, data, FrozenModels())
  assert _stripped(with_argument) == _stripped(real_only)
  synthetic = tiny.fused(where, ratio=0.25)[0]
  mixed = programs.lower_step(synthetic, where, state, data, generator)
  assert _stripped(mixed) != _stripped(real_only)


def _synthesize(sample):
  return synthesis.Synthesis(synthesis.Networks(sample), tiny.CLASSES)


class _State:
  """As much of a state as a batch is composed from."""

  seed, step, pool = 0, jnp.int32(0), ()


# On 4 devices 1 and 5 synthetic images leave spare slots; with 12 there may be no other.
@pytest.mark.parametrize(('backend', 'num_devices'), FEW_PLACES)
@pytest.mark.parametrize('mode', ['replace', 'add'])
@pytest.mark.parametrize('ratio', [0.1, 0.4, 1.0])
def test_effective_ratio_is_the_asked_one(toy, backend, num_devices, mode, ratio):
  """Counts by what is in the batch: real images are ones, synthetic ones minus ones."""
  where = tiny.layout(backend, num_devices)
  plan = plans.plan_batch(12, ratio=ratio, mode=mode)
  ones = np.full((10, 2, 2, 1), 255, np.uint8)
  examples = where.replicate(device_data.arrange(ones, np.zeros(10, np.int32)))
  data = device_data.make_feed(examples, seed=0, place=where.replicate)(0, 12)
  compose = batches.make_compose(
    layout=where,
    plan=plan,
    synthesize=_synthesize(lambda _, keys, labels: -jnp.ones((*keys.shape, 2, 2, 1))),
    augmentation=batches.Augmentation(),
    num_classes=tiny.CLASSES,
  )

  def count(data):
    positions, frozen = where.positions(plan.total), FrozenModels(generator={})
    batch, _ = compose(positions, _State(), data, frozen)
    synthetic = jnp.sum((batch.images[..., 0, 0, 0] < 0) * batch.weights)
    return where.sum({'synthetic': synthetic, 'all': jnp.sum(batch.weights)})

  counted = tiny.compile_step(count, where, data, donate=())(data)
  assert int(counted['synthetic']) == int(ratio * 12 + 0.5) == plan.num_synthetic
  assert int(counted['all']) == plan.num_synthetic + plan.num_real
  assert plan.num_real == (12 if mode == 'add' else 12 - plan.num_synthetic)


def test_each_device_synthesises_only_its_share(toy):
  """Batch 12, 3 synthetic, 4 devices: one image a device, not all on each."""
  widths = []
  where = tiny.layout('pmap', 4)
  sample, variables = tiny.frozen_generator()

  def counting(v, keys, labels):
    widths.append(labels.shape)
    return sample(v, keys, labels)

  plan = plans.plan_batch(12, ratio=0.25, mode='replace')
  compose = batches.make_compose(
    layout=where,
    plan=plan,
    synthesize=_synthesize(counting),
    augmentation=batches.Augmentation(),
    num_classes=tiny.CLASSES,
  )
  data = tiny.feed(where.replicate, toy)(0, 9)

  def program(data, v):
    batch, _ = compose(
      where.positions(plan.total), _State(), data, FrozenModels(generator=v)
    )
    return where.sum(jnp.sum(batch.images))

  programs.lower_step(program, where, data, where.replicate(variables), donate=())
  assert set(widths) == {(1,)}
