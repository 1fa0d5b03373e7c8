"""Freezes a generator in training into what is kept and drawn from."""

from typing import Any

import jax
import numpy as np

from gan_aug_jax.step.programs import Program, repeat_step

# The running statistics have a momentum of 0.9: 0.1 % is left of what was there before.
_BATCHES = 64


class Freeze:
  """Freezes states: `freeze(state) -> {'generator'}`, and 'discriminator', placed.

  A generator with batch statistics gets those of its averaged weights, measured in many
  calls of `Family.measure`.
  """

  def __init__(self, session, family):
    """Prepares the program, which is compiled at the first call or by `start`."""
    self._layout, self._family = session.layout, family
    self._per_call = 1 if session.layout.on_cpu else _BATCHES

    def measure(state, seed):
      variables, number = state
      return (family.measure(variables, number, seed), number + 1), {}

    repeated = repeat_step(measure, self._per_call)
    self._program = Program(repeated, session.layout.with_jit, donate=())

  def start(self, generator: Any) -> None:
    """Compiles in a thread, for a generator's variables or their shapes."""
    if self._family.measure:
      scalar = self._layout.replicated_int(0)
      self._program.start((generator, scalar), scalar, scalar)

  def __call__(self, state: Any, seed: int) -> dict[str, Any]:
    scalar = self._layout.replicated_int
    # Through the host, which keeps the buffers from being donated to the next step.
    copied = jax.tree.map(np.asarray, self._family.freeze(state))
    networks = self._layout.replicate(copied)
    if not self._family.measure:
      return networks
    measured, count = (networks['generator'], scalar(0)), scalar(self._per_call)
    for _ in range(0, _BATCHES, self._per_call):
      measured, _ = self._program(measured, count, scalar(seed))
    return networks | {'generator': measured[0]}
