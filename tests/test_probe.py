"""The classification accuracy score and its kin, on generators with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.data import datasets
from gan_aug_jax.errors import DataError
from gan_aug_jax.evaluation import evaluators, fidelity, probe
from gan_aug_jax.evaluation.image_sampler import ImageSampler
from gan_aug_jax.experiment import scoring
from gan_aug_jax.training import workdir
from tests import tiny
from tests.conftest import make_dataset


@pytest.fixture(scope='module')
def session(tmp_path_factory):
  config = config_lib.default()
  config.data.image_size, config.score.width = 8, 4
  config.augment.crop_padding, config.augment.flip = 1, False
  where = tiny.layout('jit', 1)
  return workdir.Session(config, tmp_path_factory.mktemp('probe'), where, quiet=True)


@pytest.fixture(scope='module')
def on_three_devices(session):
  return dataclasses.replace(session, layout=tiny.layout('jit', 3))


@pytest.fixture(scope='module')
def dataset():
  return make_dataset(per_class=40)


def replay(dataset):
  """A generator that shows a training image of the class asked for; its variables."""
  train = dataset.train

  def sample(variables, keys, labels):
    scores = jax.vmap(lambda key: jax.random.uniform(key, (len(train),)))(keys)
    own = variables['labels'] == labels[:, None]
    chosen = jnp.argmax(jnp.where(own, scores, -1), axis=1)
    return variables['images'][chosen].astype(jnp.float32) / 127.5 - 1

  return sample, {
    'images': jnp.asarray(train.images),
    'labels': jnp.asarray(train.labels),
  }


def _accuracy(session, variables):
  """On 300 fresh images, a hundred of each class."""
  model = probe.build_probe(session, 3)
  evaluate = evaluators.Evaluator(session, model, largest=300)
  return evaluate(variables, make_dataset(per_class=100, seed=7).train)['accuracy']


def test_score_of_a_replayed_training_set_is_that_of_real_images(session, dataset):
  """And at chance with shuffled labels: StudioGAN's own score failed at such a case."""
  sample, variables = replay(dataset)
  real = probe.Trainer(session, dataset, num_steps=150)()
  train = probe.Trainer(session, dataset, num_steps=150, sample=sample)
  place = session.layout.replicate
  replayed = train(place(variables))
  shuffled = dict(variables, labels=jax.random.permutation(jax.random.key(1), 120) % 3)
  mislabelled = train(place(shuffled))
  found = [_accuracy(session, trained) for trained in (real, replayed, mislabelled)]
  assert found[0] > 0.9
  assert found[1] == pytest.approx(found[0], abs=0.05)
  assert found[2] < 0.5  # chance is a third, and 120 labels give a hint by accident


def test_draws_are_balanced_rounded_and_belong_to_their_numbers(
  on_three_devices, dataset
):
  """500 a chunk, which three devices fill up to 501."""
  sample, variables = replay(dataset)
  draw = ImageSampler(on_three_devices, sample, dataset.num_classes)
  variables = on_three_devices.layout.replicate(variables)
  drawn = draw(variables, 601)
  assert drawn.images.dtype == np.uint8 and len(drawn) == 601
  assert np.ptp(np.bincount(drawn.labels)) <= 1
  assert all(len(set(drawn.labels[i : i + 3])) == 3 for i in range(0, 600, 3))
  # A replayed image is exactly one of the training images of its class.
  train = {
    (image.tobytes(), int(label))
    for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
  }
  pairs = zip(drawn.images, drawn.labels, strict=True)
  assert all((image.tobytes(), int(label)) in train for image, label in pairs)
  np.testing.assert_array_equal(draw(variables, 20).images, drawn.images[:20])
  assert np.any(draw(variables, 20, seed=1).images != drawn.images[:20])


@pytest.mark.parametrize(
  ('num_classes', 'num_members'), [(3, 3), (10, 2), (10, 5), (2, 4)]
)
def test_every_generator_of_several_draws_every_class(session, num_classes, num_members):
  """Position p is of generator p mod G: classes must not follow the same beat."""
  draw = ImageSampler(
    session,
    lambda _, keys, labels: jnp.zeros((len(labels), 2, 2, 1)),
    num_classes,
    num_generators=num_members,
  )
  labels = draw({}, 300).labels
  pairs = set(zip(np.arange(300) % num_members, labels.tolist(), strict=True))
  assert len(pairs) == num_classes * num_members


def test_score_needs_as_many_training_images_as_neighbours(session, dataset):
  few = dataclasses.replace(dataset, train=dataset.train.rows(np.arange(5)))
  with pytest.raises(DataError, match='needs 6 training images, and there are 5'):
    scoring._hold_out(session, few)


@pytest.mark.parametrize(('num_samples', 'chose'), [(20, False), (100, True)])
def test_score_takes_validation_images_only_where_others_are_too_few(
  session, dataset, monkeypatch, num_samples, chose
):
  """The run trained on 30 of 120 images, and validated with another 30."""
  monkeypatch.setattr(scoring.runs, 'load_data', lambda _: dataset)
  config = session.config.copy_and_resolve_references()
  config.data.label_budget, config.score.num_samples = 20, num_samples
  train, val = (dataset.train.rows(np.arange(i, i + 30)) for i in (0, 30))
  limited = dataclasses.replace(dataset, train=train, val=val)
  _, held_out, said = scoring._hold_out(
    dataclasses.replace(session, config=config), limited
  )
  known = lambda split: {image.tobytes() for image in split.images}
  assert not known(held_out) & known(train)
  assert bool(known(held_out) & known(val)) == said == chose


@pytest.mark.slow  # trains six; no fast test has a damaged file of it
def test_extractor_is_kept_by_what_it_depends_on(session, dataset, tmp_path):
  train = lambda steps, data=dataset: probe.train_extractor(
    session, data, data.val, num_steps=steps, directory=tmp_path
  )
  first = train(5)
  (path,) = tmp_path.iterdir()
  written = path.stat().st_mtime_ns
  assert train(5).hash == first.hash and path.stat().st_mtime_ns == written
  whole = path.read_bytes()
  for damaged in (whole[:100], whole.replace(b'Conv_1', b'Conv_7')):
    path.write_bytes(damaged)
    assert train(5).hash == first.hash  # trained again, to the same
    assert path.read_bytes() == whole
  assert train(6).hash != first.hash
  other = make_dataset(per_class=40, seed=5)
  assert train(5, other).hash != first.hash
  assert len(list(tmp_path.iterdir())) == 3


def _diversity(real, real_labels, generated, generated_labels):
  return fidelity.class_diversity(
    fidelity.class_variances(real, real_labels),
    fidelity.class_variances(generated, generated_labels),
  )


def test_class_diversity_of_few_real_images_is_not_inflated():
  """A variance of n images is n - 1 nths of the truth: 1.34 with four, instead of 1."""
  random = np.random.default_rng(0)
  real, drawn = random.normal(size=(200, 4, 30)), random.normal(size=(200, 50, 30))
  labels = [np.repeat(np.arange(200), len(x[0])) for x in (real, drawn)]
  flat = [x.reshape(-1, 30) for x in (real, drawn)]
  found = _diversity(flat[0], labels[0], flat[1], labels[1])
  assert found == pytest.approx(1, abs=0.05)
  assert np.isnan(_diversity(flat[0][::4], labels[0][::4], flat[1], labels[1]))


def test_class_diversity_is_the_ratio_of_variances():
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], 400)
  centres = 5.0 * labels[:, None]
  real = centres + rng.normal(size=(800, 6))
  narrow = centres + 0.5 * rng.normal(size=(800, 6))
  spread = _diversity(real, labels, narrow, labels)
  assert spread == pytest.approx(0.25, rel=0.1)
  collapsed = _diversity(real, labels, centres, labels)
  assert collapsed == 0
  assert _diversity(real, labels, real, labels) == pytest.approx(1)


def test_some_examples_are_drawn_over_the_whole_split():
  split = datasets.Split(np.arange(100)[:, None, None, None], np.arange(100))
  some = split.some(10, seed=0)
  assert len(some) == 10 and len(set(some.labels)) == 10 and np.ptp(some.labels) > 40
  np.testing.assert_array_equal(some.images[:, 0, 0, 0], some.labels)
  assert len(split.some(1000, seed=0)) == 100
