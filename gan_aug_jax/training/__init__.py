"""The host loop: from a step function to a trained, saved state.

Batches, checkpoints, progress, signals, devices and the working directory; nothing here
knows of generators and classifiers. May import `config`, `data`, `step` and below. Start
reading in `loop`, then `spec`.
"""
