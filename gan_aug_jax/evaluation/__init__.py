"""How good a classifier or a generator is, in numbers and figures.

Metrics, probes, distances between features, statistics. May import `training`, which
trains the probes, and what is below it. Start reading in `evaluators`, then `probe`.
"""
