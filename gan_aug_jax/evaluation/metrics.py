"""Classification metrics, all derived from one confusion matrix.

Where a class was never predicted, or never there, a score that would divide by zero is 0,
as scikit-learn's `zero_division=0`.
"""

import numpy as np


def _divide(numerator, denominator):
  out = np.zeros(np.broadcast(numerator, denominator).shape)
  return np.divide(numerator, denominator, out=out, where=denominator > 0)


def per_class(confusion):
  """Precision, recall and F1 of every class.

  Args:
    confusion: counts [true, predicted].

  Returns:
    Dict of float64 arrays [num_classes], 'precision', 'recall', 'f1', and 'support', the
    int64 number of examples of each class.
  """
  confusion = np.asarray(confusion, np.int64)
  hits, support = np.diag(confusion), confusion.sum(1)
  predicted = confusion.sum(0)
  return {
    'precision': _divide(hits, predicted),
    'recall': _divide(hits, support),
    'f1': _divide(2 * hits, support + predicted),
    'support': support,
  }


def summarize(confusion):
  """Accuracy, and macro and weighted precision, recall and F1.

  Args:
    confusion: counts [true, predicted].

  Returns:
    Dict of floats: 'accuracy', 'precision', 'recall', 'f1' (macro: the plain mean over
    the classes), 'precision_weighted', 'recall_weighted', 'f1_weighted' (by support) and
    'worst_recall', the accuracy on the class where it is lowest, of those that are there.
  """
  scores = per_class(confusion)
  support = scores.pop('support')
  total, there = support.sum(), support > 0
  summary = {'accuracy': float(np.trace(confusion) / total) if total else 0.0}
  for name, values in scores.items():
    summary[name] = float(values.mean())
    summary[f'{name}_weighted'] = float(values @ support / total) if total else 0.0
  summary['worst_recall'] = float(scores['recall'][there].min()) if total else 0.0
  return summary


def generalization_gap(train_accuracy, val_accuracy):
  """Training minus validation accuracy, both on un-augmented images, evaluating."""
  return train_accuracy - val_accuracy
