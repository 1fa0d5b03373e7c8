"""Which generators of a training are kept: the most useful one, and those of given steps.

The last step of a GAN is rarely its best. The scores of every candidate are recorded; the
record and what is kept are saved with the training's state, so that resuming is exact.
"""

from collections.abc import Callable
from typing import Any

from gan_aug_jax.training.loop import Monitor

# The better, the greater; of equal accuracies, the one with the lower loss is better.
_RANKS = {
  'cas': lambda scores: (scores['cas'], -scores['cas_loss']),
  'frechet': lambda scores: (-scores['frechet'],),
  'last': lambda scores: (scores['step'],),
}


class Selection(Monitor):
  """The candidates of one training.

  Attributes:
    history: one dict a candidate, with its 'step' and scores.
    kept: {name: variables}, 'chosen' and 'stepN' for the given steps.
  """

  def __init__(
    self,
    by: str,
    freeze: Callable,
    score: Callable,
    *,
    steps: tuple[int, ...] = (),
    after: int = 0,
    shapes: Any = None,
  ):
    """Prepares a selection.

    Args:
      by: 'cas', 'frechet' or 'last'.
      freeze: `state -> variables` of a frozen generator.
      score: `(step, variables) -> {name: float}`.
      steps: whose generators are kept regardless of their scores.
      after: step up to which there is no candidate.
      shapes: of the variables, to resume with.
    """
    self.task = 'drawing samples' if by == 'last' else 'choosing a checkpoint'
    self._rank, self._freeze, self._score = _RANKS[by], freeze, score
    self._steps, self._after, self._shapes = frozenset(steps), after, shapes
    self.history, self.kept = [], {}

  def consider(self, step: int, state) -> dict[str, float]:
    """Scores a generator; keeps it if it is the best so far, or of a given step.

    Args:
      state: at that step, placed.
    """
    if step <= self._after and step not in self._steps:
      return {}
    variables = self._freeze(state)
    if step in self._steps:
      self.kept = {**self.kept, f'step{step}': variables}
    if step <= self._after:
      return {}
    scores = self._score(step, variables)
    self.history.append({'step': step, **scores})
    if self.chosen['step'] == step:
      self.kept = {**self.kept, 'chosen': variables}
    return scores

  @property
  def chosen(self) -> dict[str, float]:
    """The entry of the history that ranks highest, the earliest of equals."""
    if len(self.history) == 1:  # it may have no scores
      return self.history[0]
    return max(self.history, key=self._rank)

  def record(self) -> dict[str, Any]:
    return {'selection': list(self.history), 'kept': sorted(self.kept)}

  def kept_shapes(self, record: dict[str, Any]) -> dict[str, Any]:
    if 'kept' in record:
      return dict.fromkeys(record['kept'], self._shapes)
    history = record['selection']  # of a version that did not write what it kept
    steps = [f'step{row["step"]}' for row in history if row['step'] in self._steps]
    names = [*(['chosen'] if history else []), *steps]
    return dict.fromkeys(sorted(names), self._shapes)

  def resume(self, record: dict[str, Any], kept: dict[str, Any]) -> None:
    self.history, self.kept = list(record['selection']), dict(kept)
