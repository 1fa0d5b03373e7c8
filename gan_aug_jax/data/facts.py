"""What a run keeps of its dataset besides the images: shape, classes, counts, hashes."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """The 'data' of a run's config.json.

  Attributes:
    fingerprint: hash of the training images and labels: hex, 16 digits.
    class_names: one per class.
    image_shape: (H, W, C).
    num_train, num_val, num_test: images of each split.
    num_skipped: image files that could not be read.
    class_counts: training images of each class; () in a file without them.
    val_fingerprint, test_fingerprint: of the other splits; None in a file without them.
    bit_depth: bits that 16-bit image files use: 8, 10, 12, 14 or 16, as in older runs;
      None if there were no such files.
  """

  fingerprint: str
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  num_train: int
  num_val: int = 0
  num_test: int = 0
  num_skipped: int = 0
  class_counts: tuple[int, ...] = ()
  val_fingerprint: str | None = None
  test_fingerprint: str | None = None
  bit_depth: int | None = 16

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @classmethod
  def from_json(cls, saved: dict[str, Any]) -> 'DataFacts':
    """Reads what `to_json` gave, also without the newer fields.

    Raises:
      LookupError, TypeError, ValueError: if the file is damaged.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    values = {name: saved[name] for name in names & set(saved)}
    lists = {name: tuple(saved[name]) for name in ('class_names', 'image_shape')}
    is_text = isinstance(saved['class_names'], str)
    if is_text or {*map(type, lists['class_names'])} != {str}:
      raise ValueError('class_names')
    lists['class_counts'] = tuple(saved.get('class_counts', ()))
    return cls(**values | lists)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
