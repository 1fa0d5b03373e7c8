"""Metrics from a confusion matrix, in the graph and after it, against scikit-learn."""

import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from gan_aug_jax.evaluation import evaluators, metrics
from gan_aug_jax.step import eval_step, sharding
from tests import tiny


@pytest.mark.parametrize('predicted_classes', [4, 3])  # 3: a class is never predicted
def test_scores_equal_scikit_learn(predicted_classes):
  rng = np.random.default_rng(0)
  true = rng.integers(0, 4, 300)
  predicted = np.where(rng.random(300) < 0.6, true, rng.integers(0, 4, 300))
  predicted = np.minimum(predicted, predicted_classes - 1)
  confusion = sklearn.metrics.confusion_matrix(true, predicted, labels=range(4))
  ours = metrics.summarize(confusion)
  assert ours['accuracy'] == pytest.approx(np.mean(true == predicted))
  by_class = metrics.per_class(confusion)
  for average, suffix in (('macro', ''), ('weighted', '_weighted'), (None, None)):
    theirs = sklearn.metrics.precision_recall_fscore_support(
      true, predicted, labels=range(4), average=average, zero_division=0
    )
    for name, value in zip(('precision', 'recall', 'f1'), theirs[:3], strict=True):
      mine = by_class[name] if average is None else ours[name + suffix]
      np.testing.assert_allclose(mine, value, rtol=1e-12)
  there = np.unique(true)
  recalls = sklearn.metrics.recall_score(true, predicted, labels=there, average=None)
  assert ours['worst_recall'] == pytest.approx(recalls.min(), rel=1e-12)


@pytest.mark.parametrize('is_predicted', [False, True])  # the class without examples
def test_macro_scores_average_over_the_classes_that_have_examples(is_predicted):
  rng = np.random.default_rng(1)
  true = rng.integers(0, 3, 300)
  predicted = np.where(
    rng.random(300) < 0.6, true, rng.integers(0, 3 + is_predicted, 300)
  )
  confusion = sklearn.metrics.confusion_matrix(true, predicted, labels=range(4))
  ours = metrics.summarize(confusion)
  balanced = lambda: sklearn.metrics.balanced_accuracy_score(true, predicted)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that a class is predicted which is not in y_true
    assert ours['recall'] == pytest.approx(balanced(), rel=1e-12)
  labels = np.unique(true) if is_predicted else None  # None: its default
  theirs = sklearn.metrics.precision_recall_fscore_support(
    true, predicted, labels=labels, average='macro', zero_division=0
  )
  mine = [ours[name] for name in ('precision', 'recall', 'f1')]
  np.testing.assert_allclose(mine, theirs[:3], rtol=1e-12)


def test_no_examples_score_zero():
  ours = metrics.summarize(np.zeros((3, 3), int))
  assert (ours['accuracy'], ours['recall'], ours['f1']) == (0, 0, 0)


@pytest.mark.parametrize('backend', ['jit', 'pmap'])
@pytest.mark.parametrize('num_devices', [1, 4])
def test_evaluation_counts_each_image_once(toy, backend, num_devices):
  """The padding of a last chunk does not count, and predictions come back in order."""
  where = tiny.layout(backend, num_devices)
  model = tiny.classifiers.build_classifier('mlp', num_classes=3, hidden=(4,))
  images, labels = toy.train.images[:10], toy.train.labels[:10]
  variables = model.init(jax.random.key(0), jnp.zeros((1, *tiny.SHAPE)), train=False)
  step = eval_step.make_eval_step(model=model, layout=where)
  args = where.replicate((variables, images, labels, np.int32(7)))
  result = jax.device_get(tiny.compile_step(step, where, *args, donate=())(*args))
  logits = np.asarray(model.apply(variables, images / 127.5 - 1, train=False))
  expected = logits.argmax(-1)
  np.testing.assert_array_equal(result['predictions'][:10], expected)
  np.testing.assert_array_equal(
    result['confusion'],
    sklearn.metrics.confusion_matrix(labels[:7], expected[:7], labels=range(3)),
  )
  nll = sklearn.metrics.log_loss(
    labels[:7], np.asarray(jax.nn.softmax(logits))[:7], labels=range(3), normalize=False
  )
  assert result['loss'] == pytest.approx(nll, rel=1e-4)


def test_an_evaluation_does_not_depend_on_its_chunks_and_places_a_split_once(
  toy, monkeypatch
):
  """Chunks of 4 images as on a CPU, of 10 as on an accelerator; neither divides 36."""
  where, placed = tiny.layout('jit', 2), []
  session = types.SimpleNamespace(layout=where, image_dtype=lambda part: jnp.float32)
  model = tiny.classifiers.build_classifier('mlp', num_classes=3, hidden=(4,))
  variables = where.replicate(
    model.init(jax.random.key(0), jnp.zeros((1, *tiny.SHAPE)), train=False)
  )
  monkeypatch.setattr(evaluators, 'BATCH', 4)
  monkeypatch.setattr(evaluators, '_PIXELS', 10 * 8 * 8)
  real = sharding.Layout.replicate
  count = lambda self, tree: placed.append(tree) or real(self, tree)
  results, num_calls = [], []
  # An eighth of this holds the pixels of 3 images in float32, the largest array, on each
  # of two devices.
  memory = 8 * 3 * 4 * 8 * 8
  for on_cpu, kept_bytes, of_device in (
    (True, 0, 0),
    (False, 0, memory),
    (False, 2**20, 0),
  ):
    monkeypatch.setattr(sharding.Layout, 'on_cpu', on_cpu)
    monkeypatch.setattr(evaluators, '_memory_per_device', lambda _, x=of_device: x)
    monkeypatch.setattr(evaluators, '_MOST_KEPT_BYTES', kept_bytes)
    evaluate = evaluators.Evaluator(session, model, largest=10_000)
    results.append(evaluate(variables, toy.train))
    num_calls.append(results[-1]['calls'])
  small = evaluators.Evaluator(session, model, largest=5)  # 8 at once suffice
  assert small(variables, toy.train)['calls'] == 5
  monkeypatch.setattr(sharding.Layout, 'replicate', count)
  evaluate(variables, toy.train)
  assert num_calls == [9, 6, 4] and not placed
  chunks, _, whole = results
  assert chunks['loss'] == pytest.approx(whole['loss'], rel=1e-5)
  for name in ('confusion', 'predictions'):
    np.testing.assert_array_equal(chunks[name], whole[name])
