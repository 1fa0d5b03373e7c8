"""Figures of a run, each drawn from arrays and returned as PNG bytes.

A figure is one panel, at most as wide as a page's column: pages put panels next to each
other where there is room, and below each other on a phone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
import numpy as np

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#56B4E9', '#CC79A7')
_BLUE, _GREEN, _ORANGE = _COLORS[0], _COLORS[2], _COLORS[3]
_RED = '#C0272D'  # redder than the palette's, and still no green to anybody
_KINDS = {'helps': _GREEN, 'hurts': _RED, 'plain': _BLUE}
_GREY = '0.45'
_MAX_CLASSES = 20
_MAX_NAMES = 40  # of rows or columns of a matrix
_WIDTH = 4.6  # inches of a panel
_MAX_SIDE = 14.0  # inches: memory must not grow with the number of classes
# A decorator: the figure is drawn in this style.
_styled = matplotlib.rc_context(
  {
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlesize': 11,
    'font.size': 10,
    'grid.alpha': 0.3,
    'legend.fontsize': 9,
    'legend.frameon': False,
    'savefig.bbox': 'tight',
    'savefig.dpi': 150,
    'savefig.facecolor': 'white',
    'text.parse_math': False,  # or a dollar sign in a class name begins a formula
  }
)


def _png(figure):
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  return buffer.getvalue()


def _tile(images):
  """[rows, columns, H, W, C] to one picture with one-pixel gaps."""
  rows, columns, height, width, channels = images.shape
  tiled = np.full((rows, columns, height + 1, width + 1, channels), 255, np.uint8)
  tiled[:, :, :height, :width] = images
  picture = tiled.transpose(0, 2, 1, 3, 4).reshape(
    rows * (height + 1), columns * (width + 1), channels
  )
  return picture[:-1, :-1]


def _name_cells(ax, rows, columns, fontsize=None):
  """Names the rows and columns of a matrix, long column names upright."""
  rotation = 90 if max(map(len, columns)) > 3 else 0
  ax.set_xticks(*_some_of(columns), rotation=rotation, fontsize=fontsize)
  ax.set_yticks(*_some_of(rows), fontsize=fontsize)
  ax.spines[:].set_visible(False)


def _some_of(names):
  """Places of names, and the names: all, or every n-th of more than fit."""
  every = math.ceil(len(names) / _MAX_NAMES)
  return np.arange(0, len(names), every), names[::every]


def _side(inches):
  """The side of a figure: at least a panel's."""
  return min(max(_WIDTH, inches), _MAX_SIDE)


@_styled
def grid(row_names, panels) -> bytes:
  """Images in panels next to each other, a row for each of the first 20 names.

  Args:
    panels: {title: uint8 [rows, n, H, W, C]}.
  """
  rows = min(len(row_names), _MAX_CLASSES)
  columns = [images.shape[1] for images in panels.values()]
  figure = Figure(figsize=(0.55 * sum(columns) + 1, 0.55 * rows + 0.4))
  axes = figure.subplots(1, len(panels), width_ratios=columns, squeeze=False)[0]
  for ax, (title, images) in zip(axes, panels.items(), strict=True):
    picture = _tile(images[:rows])
    grey = picture.shape[-1] == 1
    ax.imshow(picture[..., 0] if grey else picture, cmap='gray', vmin=0, vmax=255)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
  pitch = images.shape[2] + 1
  axes[0].set_yticks(pitch * (np.arange(rows) + 0.5), row_names[:rows])
  axes[0].tick_params(length=0)
  figure.subplots_adjust(wspace=0.04)
  return _png(figure)


@_styled
def curves(title: str, series: Mapping, *, percent: bool = False) -> bytes:
  """A line plot.

  Args:
    series: {name: (steps, values)}.
    percent: whether the values are shares.
  """
  figure = Figure(figsize=(_WIDTH, 3.2), layout='tight')
  ax = figure.subplots()
  for i, (name, (steps, values)) in enumerate(series.items()):
    marker = 'o' if len(steps) < 3 else None
    ax.plot(steps, values, label=name, color=_COLORS[i % len(_COLORS)], marker=marker)
  ax.set(title=title, xlabel='step')
  ax.margins(x=0.01)
  if percent:
    _show_percent(ax.yaxis)
  ax.grid()
  if any(len(steps) for steps, _ in series.values()):
    ax.legend()
  return _png(figure)


def _show_percent(axis):
  """Labels shares as percentages, and ends the axis where shares end."""
  axis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=' %'))
  low, high = axis.get_view_interval()
  least = 0 if axis.get_data_interval()[0] >= 0 else -1
  axis.axes.set(**{f'{axis.axis_name}lim': (max(low, least), min(high, 1))})


@_styled
def confusion_matrix(title, class_names, counts) -> bytes:
  """A confusion matrix, coloured by the share of each true class.

  Args:
    counts: [true, predicted].
  """
  size, counts = _side(0.36 * len(class_names) + 1), np.asarray(counts)
  figure = Figure(figsize=(size, size), layout='tight')
  ax = figure.subplots()
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  # Off the diagonal a per cent must be visible, so the colours follow the root.
  ax.imshow(np.sqrt(share), cmap='Blues', vmin=0, vmax=1)
  ax.set(title=title, xlabel='predicted', ylabel='true')
  _name_cells(ax, class_names, class_names, fontsize=8)
  if len(class_names) <= _MAX_CLASSES:
    for i, j in np.argwhere(counts):
      color = 'white' if share[i, j] > 0.3 else 'black'
      ax.text(j, i, counts[i, j], ha='center', va='center', fontsize=7, color=color)
  return _png(figure)


@dataclasses.dataclass(frozen=True)
class Interval:
  """A row of `intervals`.

  Attributes:
    label: what it is of.
    mean: a share; so are the others.
    low, high: of its interval; NaN for none.
    singles: the values that it is a mean of.
    kind: 'helps' (green), 'hurts' (red), 'plain' (blue); any other is grey.
  """

  label: str
  mean: float
  low: float = np.nan
  high: float = np.nan
  singles: Sequence[float] = ()
  kind: str = 'plain'


@_styled
def intervals(rows: Sequence[Interval], title: str, *, unit: str = '') -> bytes:
  """Values with their intervals, one below the other, each under its label.

  Args:
    unit: '' for shares, shown as percentages; otherwise they are shown in hundredths of
      it, as differences around a line at 0.
  """
  figure = Figure(figsize=(_WIDTH, 0.5 * len(rows) + 0.9), layout='tight')
  ax, scale = figure.subplots(), 100 if unit else 1
  for i, row in enumerate(rows):
    color, singles = _KINDS.get(row.kind, _GREY), scale * np.asarray(row.singles)
    ax.plot(singles, np.full(len(singles), -i - 0.2), '.', color='0.6', ms=5)
    if np.isfinite(row.low):
      ax.plot([scale * row.low, scale * row.high], [-i, -i], color=color, lw=2.5)
    ax.plot(scale * row.mean, -i, 's', color=color, ms=6)
  if unit:
    ax.axvline(0, color='0.2', lw=1)
  else:
    _show_percent(ax.xaxis)
  left = ax.get_yaxis_transform()
  for i, row in enumerate(rows):
    box = {'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.5}  # over the grid
    ax.text(0, -i + 0.22, row.label, fontsize=9, transform=left, va='bottom', bbox=box)
  ax.set(title=title, yticks=[], ylim=(-len(rows) + 0.5, 0.75), xlabel=unit)
  ax.locator_params('x', nbins=5)  # or labels such as 42.50 % overlap
  ax.grid(axis='x')
  ax.spines['left'].set_visible(False)
  return _png(figure)


@dataclasses.dataclass(frozen=True)
class Line:
  """Values along an axis, for `along`.

  Attributes:
    values: shares [n], NaN for one that is missing.
    low, high: [n], ends of their intervals; NaN for no interval.
    singles: [n] lists of the single values that each is a mean of.
    band: (low, mean, high) of a control.
  """

  values: Sequence[float]
  low: Sequence[float]
  high: Sequence[float]
  singles: Sequence[Sequence[float]] = ()
  band: tuple[float, float, float] | None = None


@_styled
def along(line: Line, title: str, *, x, x_name: str, unit: str = '', y_range=None):
  """Values with intervals along an axis, and the band of a control: PNG.

  Args:
    x: places [n] of the values. Where the last is many times the first, the axis is
      logarithmic and marks them.
    unit: as in `intervals`.
    y_range: (low, high) of their axis, in shares, shared by several plots.
  """
  figure = Figure(figsize=(_WIDTH, 3.2), layout='tight')
  ax, x, scale = figure.subplots(), np.asarray(x), 100 if unit else 1
  for place, singles in zip(x, line.singles, strict=False):
    heights = scale * np.asarray(singles)
    ax.plot([place] * len(singles), heights, '.', color='0.6', ms=5, zorder=1)
  values = scale * np.asarray(line.values, float)
  ends = scale * np.asarray([line.low, line.high], float)
  reach = np.nan_to_num(np.abs(ends - values))
  ax.errorbar(x, values, yerr=reach, fmt='o', color=_BLUE, capsize=3, ms=6, zorder=3)
  if line.band:
    low, mean, high = scale * np.asarray(line.band)
    ax.axhspan(low, high, color=_ORANGE, alpha=0.22, lw=0, zorder=0)
    ax.axhline(mean, color=_ORANGE, lw=1.2, zorder=0)
  ax.set(title=title, xlabel=x_name, ylabel=unit)
  if x.min() > 0 and x.max() > 8 * x.min():
    ax.set_xscale('log')
    ax.set_xticks(x, [f'{place:g}' for place in x])
    ax.minorticks_off()
  if y_range:
    ax.set_ylim(*(scale * end for end in y_range))
  if not unit:
    _show_percent(ax.yaxis)
  ax.grid()
  return _png(figure)


@_styled
def changes(
  title, labels, class_names, differences, *, unit='points', scale=100
) -> bytes:
  """Differences by class, blue above 0 and red below.

  Args:
    class_names: one a column.
    differences: [rows, columns].
    unit: of the differences times the scale.
  """
  values = scale * np.asarray(differences, float)
  reach = max(0.5, float(np.abs(values).max()))
  width, height = 0.34 * len(class_names) + 1.4, 0.42 * len(labels) + 1.3
  figure = Figure(figsize=(_side(width), min(height, _MAX_SIDE)), layout='tight')
  ax = figure.subplots()
  shown = ax.imshow(values, cmap='RdBu', vmin=-reach, vmax=reach, aspect='auto')
  _name_cells(ax, labels, class_names, fontsize=9)
  ax.set_title(f'{title} ({unit})')
  if values.size > 400 or max(values.shape) > _MAX_NAMES:
    figure.colorbar(shown, ax=ax, pad=0.02)
  else:
    decimals = int(scale > 1)
    for i, j in np.argwhere(np.round(values, decimals)):
      color = 'white' if abs(values[i, j]) > 0.6 * reach else 'black'
      text = f'{values[i, j]:+.{decimals}f}'
      fontsize = 7 if len(text) < 5 else 5.5
      ax.text(j, i, text, ha='center', va='center', fontsize=fontsize, color=color)
  return _png(figure)
