"""Writes docs/images/imports.svg, the picture of what imports what, from the source.

    python docs/imports.py           # writes it
    python docs/imports.py --check   # exits with 1 if it is out of date

Folders stand in import order from the top left to the bottom right. Every import is a
line to the right and then down, so one that points up would stand out. The edges are kept
in the picture as a comment, which is what --check compares.
"""

import ast
import collections
from collections.abc import Iterator
import functools
import pathlib
import re
import sys

PICTURE = pathlib.Path(__file__).parent / 'images' / 'imports.svg'
PACKAGE = pathlib.Path(__file__).parent.parent / 'gan_aug_jax'
_NOT_DRAWN = ('__init__', '__main__')
# Pixels: a folder's box, and how far the next one is to the right and below.
_WIDTH, _HEIGHT, _RIGHT, _DOWN, _MARGIN = 118, 30, 62, 44, 24
# Where, within a box, lines come in from above: right of the box before.
_LANE = _WIDTH - _RIGHT // 2
# Dark on a light card, which can be read on a dark page, too.
_STYLE = """\
text { font: 14px Helvetica, Arial, sans-serif; fill: #1d2733; }
.count { font-size: 12px; text-anchor: middle; }
.card { fill: #fbfaf7; stroke: #d5d2c8; }
.layer { fill: #efede6; }
.box { fill: #dce9f7; stroke: #3f74ad; }
.line { stroke: #8a94a0; fill: none; }
.dot { fill: #ffffff; stroke: #8a94a0; }
.head { fill: #5b6775; }"""

Edges = dict[tuple[str, str], int]


def main(argv: list[str]) -> int:
  """Writes the picture, or with --check tests if it is current; returns the exit code."""
  edges = find_edges()
  if '--check' not in argv:
    PICTURE.write_text(render(edges))
    return 0
  if PICTURE.exists() and _comment(edges) in PICTURE.read_text():
    return 0
  print(f'{PICTURE} is out of date; run: python docs/imports.py', file=sys.stderr)
  return 1


def find_edges() -> Edges:
  """{(folder, folder that it imports): how many modules of the first do so}."""
  edges = collections.Counter()
  folders = {path.stem for path in PACKAGE.iterdir()} - set(_NOT_DRAWN)
  for path in PACKAGE.rglob('*.py'):
    folder, *_ = path.relative_to(PACKAGE).with_suffix('').parts
    names = re.findall(r'^gan_aug_jax\.(\w+)', '\n'.join(_imported(path)), re.M)
    if folder in folders:
      edges.update((folder, name) for name in folders.intersection(names) - {folder})
  return dict(sorted(edges.items()))


def _imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def find_layers(edges: Edges) -> list[list[str]]:
  """Folders by layer, from the top; each imports from lower layers only.

  Raises:
    ValueError: if folders import each other in a circle.
  """

  @functools.cache
  def layer(folder):
    return 1 + max((layer(below) for above, below in edges if above == folder), default=0)

  found = collections.defaultdict(list)
  try:
    for folder in sorted({folder for edge in edges for folder in edge}):
      found[layer(folder)].append(folder)
  except RecursionError:
    raise ValueError('Folders import each other in a circle.') from None
  return [found[number] for number in sorted(found, reverse=True)]


def render(edges: Edges) -> str:
  """The picture: SVG."""
  layers = find_layers(edges)
  order = [folder for layer in layers for folder in layer]
  places = {
    folder: (_MARGIN + i * _RIGHT, _MARGIN + i * _DOWN) for i, folder in enumerate(order)
  }
  right, bottom = places[order[-1]]
  width, height = right + _WIDTH + _MARGIN, bottom + _HEIGHT + _MARGIN
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    f'width="{width}" height="{height}" role="img">',
    '<title>What the folders of gan_aug_jax import</title>',
    _comment(edges),
    f'<style>\n{_STYLE}\n</style>',
    _rect('card', 0.5, 0.5, width - 1, height - 1),
    *_draw_layers(layers, places, width),
    *_draw_lines(edges, places),
    *_draw_boxes(places),
    *_draw_counts(edges, places),
    '</svg>\n',
  ]
  return '\n'.join(parts)


def _comment(edges):
  lines = [f'{above} {below} {count}' for (above, below), count in edges.items()]
  head = '<!-- folder, folder that it imports, by how many modules:'
  return '\n'.join([head, *lines, '-->'])


def _rect(kind, x, y, width, height):
  return (
    f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>'
  )


def _draw_layers(layers, places, width) -> Iterator[str]:
  """A band behind every other layer."""
  gap = (_DOWN - _HEIGHT) // 2
  for layer in layers[::2]:
    top, bottom = places[layer[0]][1] - gap, places[layer[-1]][1] + _HEIGHT + gap
    yield _rect('layer', 1, top, width - 2, bottom - top)


def _draw_lines(edges, places) -> Iterator[str]:
  for above, below in edges:
    (left, top), (x, y) = places[above], places[below]
    path = f'M{left + _WIDTH} {top + _HEIGHT // 2} H{x + _LANE} V{y - 6}'
    yield f'<path class="line" d="{path}"/>'
  for below in sorted({below for _, below in edges}):
    x, y = places[below]
    yield f'<path class="head" d="M{x + _LANE - 5} {y - 8} h10 l-5 8 z"/>'


def _draw_boxes(places) -> Iterator[str]:
  for folder, (x, y) in places.items():
    yield _rect('box', x, y, _WIDTH, _HEIGHT)
    yield f'<text x="{x + 10}" y="{y + 20}">{folder}</text>'


def _draw_counts(edges, places) -> Iterator[str]:
  for (above, below), count in edges.items():
    x, y = places[below][0] + _LANE, places[above][1] + _HEIGHT // 2
    yield f'<circle class="dot" cx="{x}" cy="{y}" r="10"/>'
    yield f'<text class="count" x="{x}" y="{y + 4}">{count}</text>'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
