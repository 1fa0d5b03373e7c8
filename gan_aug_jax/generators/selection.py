"""Which generators of a training are kept: the most useful one, and those of given steps.

The last step of a GAN is rarely its best. The scores of every candidate are recorded; the
record and what is kept are saved with the training's state, so that resuming is exact.
"""

from collections.abc import Callable

# The better, the greater; of equal accuracies, the one with the lower loss is better.
_RANKS = {
  'cas': lambda scores: (scores['cas'], -scores['cas_loss']),
  'frechet': lambda scores: (-scores['frechet'],),
  'last': lambda scores: (scores['step'],),
}


class Selection:
  """The candidates of one training.

  Attributes:
    history: one dict a candidate, with its 'step' and scores.
    kept: {name: variables}, 'chosen' and 'stepN' for the given steps.
  """

  def __init__(self, by: str, freeze: Callable, score: Callable, steps=()):
    """Prepares a selection.

    Args:
      by: 'cas', 'frechet' or 'last'.
      freeze: `state -> variables` of a frozen generator.
      score: `(step, variables) -> {name: float}`.
      steps: whose generators are kept regardless of their scores.
    """
    self._rank, self._freeze, self._score = _RANKS[by], freeze, score
    self._steps, self.history, self.kept = frozenset(steps), [], {}

  def consider(self, step, state):
    """Scores a generator; keeps it if it is the best so far, or of a given step."""
    variables = self._freeze(state)
    scores = self._score(step, variables)
    self.history.append({'step': step, **scores})
    if self.chosen['step'] == step:
      self.kept = {**self.kept, 'chosen': variables}
    if step in self._steps:
      self.kept = {**self.kept, f'step{step}': variables}
    return scores

  @property
  def chosen(self) -> dict:
    """The entry of the history that ranks highest, the earliest of equals."""
    if len(self.history) == 1:  # it may have no scores
      return self.history[0]
    return max(self.history, key=self._rank)

  def names(self, history):
    """What is kept after the candidates of a history, sorted."""
    steps = [f'step{row["step"]}' for row in history if row['step'] in self._steps]
    return sorted([*(['chosen'] if history else []), *steps])

  def resume(self, history, kept):
    """Goes on from what was saved."""
    self.history, self.kept = list(history), dict(kept)
