"""Classification metrics, all derived from one confusion matrix.

A score that would divide by zero, because a class has no example or is never predicted,
is 0: scikit-learn's `zero_division=0`, without scikit-learn at run time. Macro scores
average over the classes that have examples. So macro recall is scikit-learn's
`balanced_accuracy_score`, and the others are its scores with `labels=np.unique(y_true)`;
its default also counts a class that is only predicted, as a 0.
"""

import numpy as np


def _divide(numerator, denominator):
  return numerator / np.maximum(denominator, 1)  # counts: where one is 0, so is the other


def per_class(confusion) -> dict[str, np.ndarray]:
  """Precision, recall and F1 of every class, from counts [true, predicted].

  Returns:
    float64 arrays [num_classes], 'precision', 'recall', 'f1', and 'support', the int64
    number of examples of each class.
  """
  confusion = np.asarray(confusion, np.int64)
  hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
  return {
    'precision': _divide(hits, predicted),
    'recall': _divide(hits, support),
    'f1': _divide(2 * hits, support + predicted),
    'support': support,
  }


def summarize(confusion) -> dict[str, float]:
  """Accuracy, and macro and weighted precision, recall and F1, from the same counts.

  Returns:
    'accuracy'; 'precision', 'recall' and 'f1' (macro: the plain mean over the classes
    that have examples); 'precision_weighted', 'recall_weighted' and 'f1_weighted' (by
    support); and 'worst_recall', the lowest recall of a class that has examples.
  """
  scores = per_class(confusion)
  support = scores.pop('support')
  has_examples, total = support > 0, support.sum()
  summary = {'accuracy': float(_divide(np.trace(confusion), total))}
  for name, values in scores.items():
    summary[name] = float(_divide(values[has_examples].sum(), has_examples.sum()))
    summary[f'{name}_weighted'] = float(_divide(values @ support, total))
  summary['worst_recall'] = float(scores['recall'][has_examples].min(initial=1))
  return summary
