"""Freezes a GAN in training into what is kept and drawn from."""

import jax
import numpy as np

from gan_aug_jax.generators import build
from gan_aug_jax.step import gan
from gan_aug_jax.step.programs import Program, repeat_step

# The running statistics have a momentum of 0.9: 0.1 % is left of what was there before.
_BATCHES = 64


class Freeze:
  """Freezes states: `freeze(state) -> {'generator', 'discriminator'}`, placed.

  The generator gets the averaged weights, and batch statistics measured for them, see
  `gan.make_measure`.
  """

  def __init__(self, session, info):
    """Prepares the program, which is compiled at the first call or by `start`.

    Args:
      session, info: see `build`.
    """
    self._layout = layout = session.layout
    measure = gan.make_measure(
      build.build_generator(session, info),
      latent_dim=session.config.gan.latent_dim,
      num_classes=info.num_classes,
    )
    self._per_call = 1 if layout.on_cpu else _BATCHES
    repeated = repeat_step(measure, self._per_call)
    self._program = Program(repeated, layout.with_jit, donate=())

  def start(self, generator: dict) -> None:
    """Compiles in a thread, for a generator's variables or their shapes."""
    scalar = self._layout.replicated_int(0)
    measured = (generator['batch_stats'], scalar)
    self._program.start(measured, scalar, generator['params'], scalar)

  def __call__(self, state: gan.GanState) -> dict:
    scalar = self._layout.replicated_int
    # Copies, because the next training step takes the state's buffers.
    networks = self._layout.replicate(jax.tree.map(np.asarray, build.networks_of(state)))
    params, stats = networks['generator']['params'], networks['generator']['batch_stats']
    count, seed = scalar(self._per_call), scalar(int(state.seed))
    measured = (stats, scalar(0))
    for _ in range(0, _BATCHES if stats else 0, self._per_call):
      measured, _ = self._program(measured, count, params, seed)
    return networks | {'generator': {'params': params, 'batch_stats': measured[0]}}
