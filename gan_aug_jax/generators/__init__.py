"""Everything that leads to a frozen generator, and out of the package again.

What a generator is, training and choosing one, files. May import `evaluation` and what
that may. Start reading in `family`, then `generator_training`, then `synthetic_source`,
what an arm draws from.
"""
