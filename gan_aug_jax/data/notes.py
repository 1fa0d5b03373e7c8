"""What a user should know of a dataset, in sentences for the terminal and the reports.

None of it stops a run, and all of it changes what the results mean.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import itertools

import numpy as np

from gan_aug_jax.data.splits import Split

_NUM_SHOWN = 3
_DARK = 64  # of 256 values


def list_some(texts: Iterable[str], count: int) -> str:
  """'a, b, c and 2 more': the first few of `count` texts.

  Args:
    texts: the first of them, or all.
  """
  more = f' and {count - _NUM_SHOWN:,} more' if count > _NUM_SHOWN else ''
  return ', '.join(itertools.islice(texts, _NUM_SHOWN)) + more


def unused(kind: str, where: str, names: Iterable[str]) -> list[str]:
  """Names what a source has and nothing reads.

  Args:
    kind: plural, such as 'splits'.

  Returns:
    One sentence, or none.
  """
  names = sorted(map(repr, names))
  return (
    [f'Of {where!r}, these {kind} are not used: {", ".join(names)}.'] if names else []
  )


def nested(where: str, inner: Sequence[set[str]]) -> list[str]:
  """Says that the classes of a folder seem to be one level deeper, as in folds of data.

  Args:
    inner: names of the directories in the directory of each class.

  Returns:
    One sentence, or none.
  """
  names = sorted(map(repr, inner[0]))
  if len(names) < 2 or any(others != inner[0] for others in inner):
    return []
  return [
    f'Every class of {where!r} contains the same directories '
    f'({list_some(names, len(names))}); if those are the classes, set data.data_dir to '
    'the directory above them.'
  ]


def bit_depth(where: str, depth: int | None) -> list[str]:
  """Says which value is white if files of 16 bits or more do not use them all.

  Args:
    depth: bits that are used; None if there are no such files.
  """
  if depth in (None, 16):
    return []
  return [
    f'The 16-bit files of {where!r} use {depth} bits at most, so {2**depth - 1} is taken '
    'for white.'
  ]


def of_splits(title: str, names: Sequence[str], splits: Mapping[str, Split]) -> list[str]:
  """Names classes without images, copies across splits, and images that are all dark.

  Args:
    splits: {'training' and so on: its `Split`, with names}, of images of one shape.
  """
  found = []
  for where, split in splits.items():
    found += _lacking(title, names, where, split)
  hashes = {where: _hashes(split.images) for where, split in splits.items()}
  for first, second in itertools.combinations(splits, 2):
    copies = np.flatnonzero(np.isin(hashes[second], hashes[first]))
    originals = ((hashes[first] == hashes[second][i]).argmax() for i in copies)
    if len(copies):
      pairs = (
        f'{splits[second].names[i]!r} = {splits[first].names[j]!r}'
        for i, j in zip(copies, originals, strict=True)
      )
      found.append(
        f'{len(copies):,} of {len(splits[second]):,} {second} images of {title!r} are '
        f'also {first} images ({list_some(pairs, len(copies))}); scores on them prove '
        'nothing.'
      )
  top = max(split.images.max() for split in splits.values())
  if top < _DARK:
    found.append(
      f'No pixel of {title!r} is above {top}, and 255 is white; check how the images '
      'were scaled.'
    )
  return found


def _lacking(title, names, where, split):
  """Names the classes that a split has no images of."""
  lacking = np.flatnonzero(split.class_counts(len(names)) == 0)
  if not len(lacking):
    return []
  listed = list_some((repr(names[c]) for c in lacking), len(lacking))
  word, that = ('class', 'it') if len(lacking) == 1 else ('classes', 'them')
  return [
    f'There are no {where} images of {word} {listed} in {title!r}, so {where} scores say '
    f'nothing about {that}.'
  ]


def _hashes(images):
  """A hash of the pixels of each image: uint64 [N]."""
  images = np.ascontiguousarray(images)
  digests = [hashlib.sha256(image).digest()[:8] for image in images]
  return np.frombuffer(b''.join(digests), np.uint64)
