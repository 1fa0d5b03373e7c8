"""`python -m gan_aug_jax`."""

import sys

from gan_aug_jax.cli import main

sys.exit(main())
