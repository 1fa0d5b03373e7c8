"""A source's name to three disjoint splits, and the stream of batches read from the host.

For use from outside: `load_dataset`, and the classes `Dataset` and `Split` of what it
returns.

May import `step`, whose arrays it fills, and the folders below it. Start reading in
`splits`, which explains the words, then `datasets`.
"""

from gan_aug_jax.data.datasets import load_dataset
from gan_aug_jax.data.splits import Dataset, Split

__all__ = ['Dataset', 'Split', 'load_dataset']
