"""What a classifier or a generator is worth, in numbers and figures.

Metrics, probes, distances between features, statistics. May import `training`, by which
probes are trained, and below. Start reading in `evaluators`, then `probe`.
"""
