"""The host loop: from a compiled step to a trained, saved state.

Feeds, checkpoints, progress, signals, devices and the working directory; it knows nothing
of GANs and classifiers. May import `config`, `data`, `step` and below. Start reading in
`fitting`, then `loop`.
"""
