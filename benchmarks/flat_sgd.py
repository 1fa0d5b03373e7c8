"""SGD that updates one array, in which all parameters are joined: an option to time.

As `--config.classifier.optimizer=benchmarks.flat_sgd:make`. One update instead of one per
array, but gradients are joined and the update is cut up again in every step.
"""

import optax


def make(schedule: optax.Schedule, num_steps: int) -> optax.GradientTransformation:
  """Returns what `make_optimizer` returns for 'sgd' without weight decay, flattened.

  Args:
    schedule: `step -> learning rate`.
    num_steps: of the training.
  """
  del num_steps
  return optax.flatten(optax.sgd(schedule, 0.9))
