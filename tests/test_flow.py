"""Flow matching: the U-Net, the loss, the solvers, and the invariants of its step."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.generators import description, families, offline, samples
from gan_aug_jax.generators.generator_training import GeneratorTraining
from gan_aug_jax.models import unet
from gan_aug_jax.step import flow
from gan_aug_jax.training.workdir import Session
from tests import tiny


@pytest.mark.parametrize('shape', [(16, 16, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3)])
def test_unet_gives_velocities_of(shape):
  model = unet.UNet(shape, num_classes=7, width=32)
  inputs = (jnp.zeros((2, *shape)), jnp.zeros(2), jnp.zeros(2, jnp.int32))

  def call():
    variables = model.init(jax.random.key(0), *inputs)
    return variables, model.apply(variables, *inputs)

  variables, found = jax.eval_shape(call)
  assert found.shape == (2, *shape)
  assert 2.5e5 < sum(x.size for x in jax.tree.leaves(variables)) < 8e5


def test_unet_begins_at_zero_and_listens_to_time_and_class():
  """An ignored label would leave a generator without classes."""
  model, variables = tiny.flow_model(), tiny.flow_variables(by=0)
  x = jax.random.normal(jax.random.key(0), (4, *tiny.SHAPE))
  times, labels = jnp.array([0.5, 0.6, 0.5, 0.5]), jnp.array([1, 1, 2, unet.NO_CLASS])
  call = jax.jit(lambda variables: model.apply(variables, 0 * x + x[:1], times, labels))
  assert not np.any(call(variables))
  found = call(tiny.flow_variables())
  distances = [np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]]
  assert min(distances) > 1e-3


def test_unet_normalises_in_float32_and_convolves_in_bfloat16():
  model = tiny.flow_model(compute=jnp.bfloat16)
  inputs = jnp.zeros((2, *tiny.SHAPE)), jnp.zeros(2), jnp.zeros(2, jnp.int32)
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  jaxpr = jax.make_jaxpr(model.apply)(variables, *inputs)
  types_of = lambda name: {
    str(equation.outvars[0].aval.dtype)
    for equation in tiny.equations(jaxpr.jaxpr)
    if equation.primitive.name == name
  }
  assert types_of('rsqrt') == {'float32'}
  assert types_of('conv_general_dilated') == {'bfloat16'}


def _field(velocity):
  """A model whose velocities are a function of x and t, called like a U-Net."""
  apply = lambda variables, x, times, labels: velocity(x, times[:, None, None, None])
  return types.SimpleNamespace(apply=apply, dtype=jnp.float32)


def test_loss_is_zero_for_the_exact_field_and_its_solution_the_image():
  """All mass at one image: from anywhere, the velocity leads straight to it."""
  image = jax.random.uniform(jax.random.key(0), (4, 4, 1), minval=-1)
  model = _field(lambda x, t: (image - x) / (1 - t))
  keys, labels = jax.random.split(jax.random.key(1), 64), jnp.zeros(64, jnp.int32)
  images = jnp.broadcast_to(image, (64, 4, 4, 1))
  loss_of = lambda model: jax.jit(flow.make_loss(model))({}, keys, images, labels)
  assert np.max(loss_of(model)) < 1e-6
  still = loss_of(_field(lambda x, t: 0 * x))
  # The velocity is the image minus standard normal noise, whatever the time.
  assert np.mean(still) == pytest.approx(1 + float(jnp.mean(image**2)), rel=0.1)
  noise = jax.random.normal(jax.random.key(2), images.shape)
  for evaluations in (1, 3):
    render = jax.jit(flow.make_render(model, evaluations=evaluations))
    drawn = render({}, noise, labels)
    np.testing.assert_allclose(drawn, images, atol=1e-5)


@pytest.mark.parametrize(('solver', 'order'), [('euler', 1), ('heun', 2)])
def test_solvers_converge_with_their_order_to_the_closed_form(solver, order):
  """dx/dt = cos(3 t) x has the solution x(0) exp(sin(3) / 3)."""
  exact, errors = np.exp(np.sin(3) / 3), []
  for evaluations in (1024, 2048):
    calls = []
    field = lambda x, t, calls=calls: calls.append(t) or np.cos(3 * t) * x
    errors.append(
      flow.integrate(field, np.float64(1), evaluations=evaluations, solver=solver) - exact
    )
    assert len(calls) == evaluations
  assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize('evaluations', [1, 2, 3, 5])
def test_solvers_take_any_number_of_evaluations(evaluations):
  for solver in flow.SOLVERS:
    calls = []
    field = lambda x, t, calls=calls: calls.append(t) or 2.0
    # A constant velocity has no error in any solver.
    end = flow.integrate(field, 1.0, evaluations=evaluations, solver=solver)
    assert end == pytest.approx(3) and len(calls) == evaluations
    assert max(calls) <= 1
  with pytest.raises(ValueError, match='known: euler, heun'):
    flow.integrate(field, 1.0, evaluations=2, solver='rk4')


def test_reflow_is_zero_for_a_straight_flow_and_its_teacher_the_only_image():
  """A straight flow has one velocity at all times, which ends at the teacher's image."""
  target = jax.random.uniform(jax.random.key(0), (4, 4, 1), minval=-1)
  images, labels = jnp.zeros((4000, 4, 4, 1)), jnp.zeros(4000, jnp.int32)
  keys = jax.random.split(jax.random.key(1), 4000)
  asked = []
  teacher = lambda params, noise, labels: jnp.broadcast_to(params['image'], noise.shape)

  @jax.jit
  def losses(image):
    model = _field(lambda x, t: asked.append(t) or (image - x) / (1 - t))
    loss = flow.make_reflow_loss(model, teacher)
    found = loss({}, keys, images, labels, {'image': target})
    return found, asked[0].ravel()

  found, times = losses(target)
  assert np.max(found) < 1e-5 < np.min(losses(target + 0.5)[0])
  assert np.mean(times == 0) == pytest.approx(0.25, abs=0.03)
  others = times[times > 0]
  assert np.mean(others) == pytest.approx(0.5, abs=0.03) and np.max(others) < 1


def test_reflow_begins_with_the_average_as_teacher_and_keeps_it(toy):
  """A teacher that moves, or an average that lags behind, would spoil what is drawn."""
  where = tiny.layout('jit', 1)
  options = {'batch_size': 11, 'dtype': jnp.float64}
  with jax.enable_x64(True):
    take = tiny.feed(where.replicate, toy)
    steps = [tiny.flow_step(where, **options, reflow_from=begin) for begin in (0, 3)]
    (first, last), state = (jax.jit(step) for step, _ in steps), steps[1][1]
    states = [state]
    for number in range(5):
      state, _ = (last if number >= 3 else first)(state, take(11 * number, 11))
      states.append(jax.device_get(state))
  for number, state in enumerate(states):
    expected = states[3].ema if number > 3 else states[0].teacher
    assert tiny.difference(state.teacher, expected) == 0
  # The average begins anew: its first decay is 1 / 10.
  ends = zip(*map(jax.tree.leaves, (states[3].ema, states[4].params)), strict=True)
  mixed = [0.1 * old + 0.9 * new for old, new in ends]
  assert tiny.difference(jax.tree.leaves(states[4].ema), mixed) < 1e-8


def test_class_dropout_hides_the_configured_share_of_classes():
  told = []
  apply = lambda variables, x, times, labels: told.append((labels, times)) or x
  model = types.SimpleNamespace(apply=apply)
  keys, labels = jax.random.split(jax.random.key(0), 4000), jnp.arange(4000) % 3
  loss = flow.make_loss(model, class_dropout=0.2)

  @jax.jit
  def ask():
    loss({}, keys, jnp.zeros((4000, 2, 2, 1)), labels)
    return told[0]

  found, times = ask()
  hidden = found == unet.NO_CLASS
  assert np.mean(hidden) == pytest.approx(0.2, abs=0.02)
  np.testing.assert_array_equal(np.where(hidden, labels, found), labels)
  logits = np.log(times / (1 - times))
  assert np.mean(logits) == pytest.approx(0, abs=0.06)
  assert np.std(logits) == pytest.approx(1, abs=0.04)
  assert abs(np.corrcoef(hidden, logits)[0, 1]) < 0.05  # independent draws


def test_guidance_goes_from_the_velocity_of_any_class_through_that_of_the_label():
  model, variables = tiny.flow_model(), tiny.flow_variables(by=0.03)
  noise = 0.1 * jax.random.normal(jax.random.key(0), (3, *tiny.SHAPE))
  labels = jnp.arange(3)

  def render(labels, **options):
    draw = jax.jit(flow.make_render(model, evaluations=1, **options))
    return np.asarray(draw(variables['params'], noise, labels))

  plain, of_any = render(labels), render(jnp.full(3, unet.NO_CLASS))
  assert np.abs(plain).max() < 1  # nothing is clipped
  assert np.abs(plain - of_any).max() > 1e-3
  np.testing.assert_array_equal(render(labels, guidance=1.0), plain)
  np.testing.assert_allclose(render(labels, guidance=0.0), of_any, atol=1e-6)
  expected = of_any + 1.5 * (plain - of_any)
  np.testing.assert_allclose(render(labels, guidance=1.5), expected, atol=1e-5)


def _run(toy, backend, num_devices, *, count=11, **options):
  """Steps of batches of 11, which leave spare slots on 2 and 4 devices."""
  where, dtype = tiny.layout(backend, num_devices), jnp.zeros(0).dtype
  reflow_from = options.pop('reflow_from', 0)
  step, state = tiny.flow_step(
    where,
    batch_size=count,
    dtype=jnp.promote_types(dtype, float),
    reflow_from=reflow_from,
  )
  options = {'num_steps': 8, **options}
  state = options.pop('state', state)
  return tiny.run(where, step, state, toy, count=count, **options)


@pytest.fixture(scope='module')
def single(toy):
  with jax.enable_x64(True):
    return _run(toy, 'jit', 1)


@pytest.mark.slow  # the GAN's and the classifier's steps are compared in `test_engine`
@pytest.mark.parametrize(
  ('backend', 'reflow_from'), [('pmap', 0), ('jit', 3)], ids=['flow', 'reflow']
)
def test_flow_step_is_the_same_on_any_devices_scanned_or_not(
  toy, single, backend, reflow_from
):
  """Reflow from step 3 on, where its teacher changes within a call."""
  with jax.enable_x64(True):
    expected = _run(toy, 'jit', 1, reflow_from=3) if reflow_from else single
    other = _run(toy, backend, 4, per_call=4, reflow_from=reflow_from)
  assert np.ptp(expected[1]['loss']) > 0.01  # it did train
  assert tiny.difference(expected, other) < 1e-9


def test_flow_step_goes_on_from_a_state_bit_for_bit(toy, single):
  with jax.enable_x64(True):
    half, _ = _run(toy, 'jit', 1, num_steps=4)
    place = lambda step: (step + 4) * 11
    resumed, _ = _run(toy, 'jit', 1, num_steps=4, state=half, place=place)
  assert tiny.difference(single[0], resumed) == 0


def test_flow_draws_batches_of_any_size():
  """As an exported program does."""
  (size,) = jax.export.symbolic_shape('b')
  render = flow.make_render(tiny.flow_model(), evaluations=2, guidance=2.0)
  noise = jax.ShapeDtypeStruct((size, *tiny.SHAPE), jnp.float32)
  labels = jax.ShapeDtypeStruct((size,), jnp.int32)
  params = tiny.flow_variables()['params']
  exported = jax.export.export(jax.jit(render))(params, noise, labels)
  assert exported.out_avals[0].shape == noise.shape


@pytest.mark.parametrize(
  ('overrides', 'sentence'),
  [
    ({'data.image_size': 15}, 'data.image_size=15 must be even'),
    ({'flow.guidance': 2.0, 'flow.class_dropout': 0.0}, 'flow.class_dropout above 0'),
    ({'flow.crop_padding': 32}, 'must be smaller than data.image_size=32'),
    ({'flow.guidance': 2.0, 'flow.reflow_steps': 9}, 'leave one of them at its default'),
    ({'flow.evaluations': 0}, 'flow.evaluations=0 must be a whole number from 1'),
    ({'flow.solver': 'rk4'}, "flow.solver='rk4' must be one of"),
  ],
)
def test_flows_that_cannot_be_are_refused(overrides, sentence):
  config = config_lib.default()
  config.generator.family = 'flow'
  config.update_from_flattened_dict(overrides)
  with pytest.raises(ConfigError, match=sentence):
    validation.validate(config)


def test_reflow_leaves_steps_for_its_teacher(toy):
  config = config_lib.default()
  config.generator.family, config.generator.num_steps = 'flow', 20
  config.flow.reflow_steps = 20
  session = Session(config, pathlib.Path('unused'), tiny.layout('jit', 1))
  with pytest.raises(ConfigError, match='less than the 20 steps of the training'):
    families.build_family(session, toy.facts)


def test_a_flow_draws_without_knowing_how_it_was_trained(toy):
  """An exported one, of this version or from before there was reflow."""
  config = config_lib.default()
  config.generator.family, config.flow.reflow_steps = 'flow', 500
  arguments = families.drawing_arguments_of(config)
  assert set(config.flow) - set(arguments) == {'reflow_steps'}
  described = description.Description(
    'flow', 'flow', arguments, toy.image_shape, toy.class_names
  )
  assert described.build().title == 'flow'


def test_operations_of_reflow_are_counted_with_its_teacher(toy):
  config = config_lib.default()
  small = {'generator.family': 'flow', 'generator.num_steps': 20, 'flow.width': 8}
  config.update_from_flattened_dict(small | {'generator.batch_size': 4})
  config.data.image_size = toy.image_shape[0]
  counts = []
  for reflow_steps in (0, 8):
    config.flow.reflow_steps = reflow_steps
    session = Session(config, pathlib.Path('unused'), tiny.layout('jit', 1), quiet=True)
    counts.append(GeneratorTraining(session, toy).training.operations())
  # A step of the flow is three forward passes; the teacher's images are eight more.
  assert counts[1] == pytest.approx(counts[0] * (12 + 8 * 11 / 3) / 20, rel=0.1)


def test_flow_has_no_discriminator_to_ask(toy):
  config = config_lib.default()
  config.generator.family, config.filter.score_by = 'flow', 'discriminator'
  config.filter.candidates = 2
  session = Session(config, pathlib.Path('unused'), tiny.layout('jit', 1))
  with pytest.raises(ConfigError, match="'discriminator' needs a discriminator, and gen"):
    families.build_family(session, toy.facts)


def test_images_kept_in_a_file_are_those_of_the_sampler(toy, tmp_path, monkeypatch):
  """Cells that differ in the sampler alone share a generator and its directory."""

  class Drawn:
    def __init__(self, *_, **__):
      pass

    def by_class(self, variables, count, seed):
      return np.zeros((toy.num_classes, count, *toy.image_shape), np.uint8)

  monkeypatch.setattr(offline, 'ImageSampler', Drawn)
  for evaluations in (2, 2, 4):
    config = config_lib.default()
    config.generator.family, config.cache.images_per_class = 'flow', 1
    config.flow.evaluations = evaluations
    session = Session(config, tmp_path, tiny.layout('jit', 1), quiet=True)
    offline.draw_once(session, toy, None, {}, tmp_path)
  paths = [*tmp_path.glob('offline-*.npz')]
  assert len(paths) == 2
  for path in paths:
    path.write_bytes(path.read_bytes()[:100])
  offline.draw_once(session, toy, None, {}, tmp_path)
  (path,) = (path for path in paths if path.stat().st_size > 100)  # made again
  assert np.load(path)['images'].shape == (toy.num_classes, 1, *toy.image_shape)


def test_a_picture_of_samples_is_drawn_again_for_another_sampler(toy, tmp_path):
  path = tmp_path / 'samples.png'
  drawn = np.zeros((toy.num_classes, 8, *toy.image_shape), np.uint8)
  assert not samples.is_drawn(path, 'evaluations: 4')
  samples.write_next_to_real(path, toy, {'generated': drawn}, 'evaluations: 4')
  assert samples.is_drawn(path, 'evaluations: 4')
  assert not samples.is_drawn(path, 'evaluations: 8')
