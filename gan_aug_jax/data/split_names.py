"""Which split is meant by its name: one rule for all sources."""

from collections.abc import Iterable

from gan_aug_jax.errors import DataError

_USUAL = {
  'train': ('train', 'training'),
  'val': ('val', 'valid', 'validation', 'dev', 'eval'),
  'test': ('test', 'testing'),
}


def split_of(name: str) -> str | None:
  """'train', 'val' or 'test' if it is a usual name of that split, in any case."""
  matches = (split for split, usual in _USUAL.items() if name.lower() in usual)
  return next(matches, None)


def match(names: Iterable[str], where: str) -> dict[str, str]:
  """Finds the splits among some names.

  Args:
    where: what the message calls the source.

  Returns:
    {split: name}, in the order train, val, test; only those that are there.

  Raises:
    DataError: if two names mean the same split.
  """
  found = {}
  for split in _USUAL:
    same = [name for name in names if split_of(name) == split]
    if len(same) > 1:
      raise DataError(
        f'{same[0]!r} and {same[1]!r} of {where!r} both look like the {split!r} split; '
        'rename or remove one.'
      )
    if same:
      found[split] = same[0]
  return found
