"""Everything that leads to a frozen generator, and out of the package again.

Training and choosing a GAN, generators of the user's own, files. May import `evaluation`
and below. Start reading in `gan_training`, then `synthetic_source`, what an arm draws
from.
"""
