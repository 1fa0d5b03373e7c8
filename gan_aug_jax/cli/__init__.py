"""The command line: flags in, exit code out.

May import every other folder; none imports it. Start reading in `entry`.
"""

from gan_aug_jax.cli.entry import main

__all__ = ['main']
