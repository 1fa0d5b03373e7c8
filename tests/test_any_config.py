"""Any config is refused by a sentence, or trains.

`ANY_CONFIG_EXAMPLES=200 pytest tests/test_any_config.py` tries more of them.
"""

import json
import os
import pathlib
import tempfile

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from benchmarks import dry_run
from gan_aug_jax import config as config_lib
from gan_aug_jax.config import fields as fields_lib, validation
from gan_aug_jax.errors import ConfigError
from gan_aug_jax.experiment import schedule
from gan_aug_jax.step import sharding
from gan_aug_jax.training.workdir import Session
from tests.conftest import make_dataset

EXAMPLES = int(os.environ.get('ANY_CONFIG_EXAMPLES', 3))
# What a tiny run starts from: an example takes the seconds that XLA compiles it.
TINY = {
  'arms': ('augmented_classical',),
  'data.image_size': 8,
  'generator.batch_size': 4,
  'gan.latent_dim': 3,
  'gan.width': 8,
  'flow.width': 8,
  'classifier.batch_size': 8,
  'classifier.features': (4, 4),
  'classifier.hidden': (6,),
  'classifier.num_steps': 8,
  'mix.ratio': 0.5,
  'augment.crop_padding': 1,
  'filter.teacher_steps': 1,
  'score.width': 4,
}
_ANYTHING = st.one_of(
  st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
  st.lists(st.integers(-2, 99), max_size=3).map(tuple),
)  # fmt: skip


def _choice(*values):
  return st.sampled_from(values)


# What policies are made of, most of it allowed, alone and in pairs.
FIELDS = {
  'arms': _choice(*config_lib.ARMS).map(lambda arm: (arm,)),
  'precision': _choice('float32', 'bfloat16'),
  'generator.family': _choice('gan', 'flow'),
  'flow.class_dropout': st.floats(0, 0.5),
  'flow.evaluations': st.integers(0, 3),
  'flow.guidance': _choice(0.0, 1.0, 2.0),
  'flow.solver': _choice('euler', 'heun'),
  'gan.arch': _choice('mlp', 'dcgan', 'sngan'),
  'gan.loss': _choice('non_saturating', 'hinge', 'relativistic'),
  'gan.upsampling': _choice('transposed', 'subpixel', 'nearest'),
  'gan.d_steps': st.integers(0, 2),
  'gan.diffaug': st.lists(_choice('color', 'translation', 'cutout', 'flip')).map(tuple),
  'gan.r1': st.floats(-1, 10),
  'gan.lecam': st.floats(0, 1),
  'classifier.arch': _choice('cnn', 'mlp', 'resnet'),
  'classifier.batch_norm': _choice('shared', 'split', 'real_only'),
  'classifier.batch_size': st.integers(0, 12),
  'classifier.budget': _choice('steps', 'exposure'),
  'classifier.dropout': st.floats(-0.1, 1.1),
  'classifier.logit_adjustment': st.floats(-0.1, 2),
  'classifier.features': st.lists(st.integers(0, 6), max_size=4).map(tuple),
  'classifier.num_steps': st.integers(-1, 30),
  'classifier.optimizer': _choice('sgd', 'adam'),
  'classifier.schedule': _choice('constant', 'cosine'),
  'data.image_size': _choice(7, 8, 12, 16),
  'data.placement': _choice('device', 'host'),
  'mix.mode': _choice('replace', 'add'),
  'mix.stop_fraction': st.floats(0, 1),
  'mix.ratio': st.floats(-0.1, 1.1) | _choice(0.0, 1.0, 1e-9),
  'mix.ratio_schedule': _choice('constant', 'linear', 'cosine'),
  'mix.start_fraction': st.floats(0, 1),
  'mix.weight': st.floats(0, 100),
  'mix.weight_schedule': _choice('constant', 'linear', 'cosine'),
  'augment.color': st.floats(0, 1),
  'augment.crop_padding': st.integers(-1, 9),
  'augment.cutmix': st.floats(0, 2),
  'augment.cutout': st.integers(0, 9),
  'augment.mixup': st.floats(0, 2),
  'augment.apply_to': _choice('both', 'real', 'synthetic'),
  'augment.partner': _choice('any', 'same'),
  'filter.candidates': st.integers(0, 3),
  'mix.classes': _choice('uniform', 'train', 'inverse', 'balance', 'feedback'),
  'latents.interpolation': st.floats(0, 1),
  'targets.kind': _choice('hard', 'smoothed', 'teacher'),
  'latents.std': st.floats(0, 3),
  'filter.min_confidence': st.floats(0, 1),
  'cache.images_per_class': st.integers(0, 3),
  'filter.on_reject': _choice('real', 'drop'),
  'cache.refresh_steps': st.integers(0, 3),
  'mix.draw_ahead_mib': _choice(-1, 0, 1),
  'filter.score_by': _choice('teacher', 'discriminator', 'hard', 'random'),
  'targets.smoothing': st.floats(0, 1),
  'mix.source': _choice('generator', 'noise', 'mislabelled', 'train_copies'),
  'latents.truncation': st.floats(0, 3),
}


@st.composite
def _changes(draw):
  """{field: value}, of up to a dozen fields."""
  chosen = draw(st.lists(_choice(*FIELDS), min_size=1, max_size=12, unique=True))
  return {field: draw(FIELDS[field]) for field in chosen}


def _config(changes):
  config = config_lib.default()
  config.update_from_flattened_dict(TINY | changes)
  return config


def _refusal(config, dataset=None):
  """What refuses a config, or None."""
  try:
    validation.validate(config)
    if dataset:
      for arm in config.arms:
        _num_steps(config, dataset, arm)
  except ConfigError as error:
    return str(error)
  return None


def _num_steps(config, dataset, arm):
  synthetic = config_lib.is_augmented(config, arm)
  return schedule.num_steps_of_arm(config, len(dataset.train), synthetic=synthetic)


def _assert_sentence(text):
  assert text.endswith('.') and '\n' not in text and 20 < len(text) < 400, text


@hypothesis.settings(
  max_examples=EXAMPLES,
  derandomize='ANY_CONFIG_EXAMPLES' not in os.environ,
  deadline=None,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(changes=_changes())
@pytest.mark.slow  # `test_policies` trains pairs of policies, here they come from configs
def test_any_config_is_refused_or_trains_two_finite_steps(changes):
  config = _config(changes)
  toy = make_dataset(size=config.data.image_size)
  hypothesis.note(json.dumps(changes))
  if refusal := _refusal(config, toy):
    _assert_sentence(refusal)
    hypothesis.reject()  # and another one is tried
  with tempfile.TemporaryDirectory() as workdir:
    try:
      _train(config, toy, workdir)
    except ConfigError as error:  # what a generator lacks is known when it is built
      _assert_sentence(str(error))


def _train(config, toy, workdir):
  layout = sharding.make_layout('jit', jax.devices()[:1])
  session = Session(config, pathlib.Path(workdir), layout, quiet=True)
  for arm in config.arms:
    num_steps = _num_steps(config, toy, arm)
    dry = dry_run.arm_step(session, toy, arm, num_steps=num_steps, at=num_steps // 2)
    program, state = dry.compile(), dry.state
    for number in range(2):
      state, metrics = program(state, *dry.inputs(number))
      for name, value in jax.device_get(metrics).items():
        assert np.isfinite(value).all(), (arm, name, value)
    for leaf in jax.tree.leaves(jax.device_get(state)):
      assert np.isfinite(np.asarray(leaf, np.float64)).all()


@hypothesis.settings(max_examples=300, derandomize=True, deadline=None, database=None)
@hypothesis.given(field=_choice(*fields_lib.FIELDS), value=_ANYTHING)
def test_any_value_of_a_field_is_taken_or_refused_by_a_sentence(field, value):
  """Through `validate` itself: a value of another type is no error of Python's."""
  config = config_lib.default()
  before = config_lib.flatten(config)[field]
  try:
    config.update_from_flattened_dict({field: value})
  except (TypeError, ValueError):
    assert type(value) is not type(before)
    return
  if refusal := _refusal(config):
    _assert_sentence(refusal)


def test_the_policies_that_are_tried_are_fields():
  assert set(FIELDS) <= set(config_lib.flatten(config_lib.default()))
