"""The command line: flags in, exit code out.

May import everything; nothing imports it. Start reading in `commands`.
"""

from gan_aug_jax.cli.commands import main

__all__ = ['main']
