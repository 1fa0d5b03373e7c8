"""Figures of a run, each drawn from arrays and returned as PNG bytes."""

from collections.abc import Sequence
import dataclasses
import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
import numpy as np

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_COLORS = ('#0072B2', '#56B4E9', '#D55E00', '#E69F00', '#009E73', '#CC79A7')
_BLUE, _, _RED, _ORANGE, _GREEN, _ = _COLORS
_MAX_CLASSES = 20
# A decorator: the figure is drawn in this style.
_styled = matplotlib.rc_context(
  {
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlesize': 10,
    'grid.alpha': 0.3,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'savefig.bbox': 'tight',
    'savefig.dpi': 110,
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
  ax.set_xticks(np.arange(len(columns)), columns, rotation=rotation, fontsize=fontsize)
  ax.set_yticks(np.arange(len(rows)), rows, fontsize=fontsize)
  ax.spines[:].set_visible(False)


@_styled
def grid(class_names, panels) -> bytes:
  """Images in panels next to each other, a row for each of the first 20 classes.

  Args:
    class_names: one a class.
    panels: {title: uint8 [classes, n, H, W, C]}.
  """
  rows = min(len(class_names), _MAX_CLASSES)
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
  axes[0].set_yticks(pitch * (np.arange(rows) + 0.5), class_names[:rows])
  axes[0].tick_params(length=0)
  figure.subplots_adjust(wspace=0.04)
  return _png(figure)


@_styled
def curves(panels) -> bytes:
  """Line plots next to each other.

  Args:
    panels: list of (title, {series name: (steps, values)}).
  """
  figure = Figure(figsize=(4 * len(panels), 3.2), layout='tight')
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for ax, (title, series) in zip(axes, panels, strict=True):
    for i, (name, (steps, values)) in enumerate(series.items()):
      marker = 'o' if len(steps) < 3 else None
      ax.plot(steps, values, label=name, color=_COLORS[i % len(_COLORS)], marker=marker)
    ax.set_title(title)
    ax.set_xlabel('step')
    ax.grid()
    if series:
      ax.legend()
  return _png(figure)


@_styled
def confusion_matrices(class_names, matrices) -> bytes:
  """Confusion matrices, two a row, coloured by the share of each true class.

  Args:
    class_names: one a class.
    matrices: {title: counts [true, predicted]}.
  """
  size, columns = max(3.4, 0.36 * len(class_names)), min(len(matrices), 2)
  rows = -(-len(matrices) // columns)
  figure = Figure(figsize=(columns * (size + 1), rows * (size + 0.8)), layout='tight')
  for number, (title, counts) in enumerate(matrices.items(), 1):
    ax, counts = figure.add_subplot(rows, columns, number), np.asarray(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Off the diagonal a per cent must be visible, so the colours follow the root.
    ax.imshow(np.sqrt(share), cmap='Blues', vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_xlabel('predicted')
    ax.set_ylabel('true')
    _name_cells(ax, class_names, class_names, fontsize=7)
    if len(class_names) <= _MAX_CLASSES:
      for i, j in np.argwhere(counts):
        color = 'white' if share[i, j] > 0.3 else 'black'
        ax.text(j, i, counts[i, j], ha='center', va='center', fontsize=6, color=color)
  return _png(figure)


@dataclasses.dataclass(frozen=True)
class Points:
  """Values with intervals, for `dots`.

  Attributes:
    values: [n], NaN for one that is missing.
    low, high: [n], ends of their intervals; NaN or None for no interval.
    seeds: [n] lists of the single values that each is a mean of.
    band: (low, mean, high) of a control.
    percent: whether the values are shares.
  """

  values: Sequence[float]
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None
  seeds: Sequence[Sequence[float]] = ()
  band: tuple[float, float, float] | None = None
  percent: bool = True


@_styled
def dots(panels, *, labels, x=None, x_name='', y_name='', same_y=False) -> bytes:
  """Points with intervals and the band of a control, in panels next to each other.

  Args:
    panels: {title: `Points`}.
    labels: names [n] of the points.
    x: their places [n], or None to list them one below the other. Where the last is many
      times the first, the axis is logarithmic and marks them.
    x_name: of that axis.
    y_name: of the values.
    same_y: whether the panels share the values' axis.
  """
  listed = x is None
  height = max(2.6, 0.34 * len(labels) + 1.2) if listed else 3.0
  figure = Figure(figsize=(3.3 * len(panels) + 1.5 * listed, height), layout='tight')
  axes = figure.subplots(1, len(panels), squeeze=False, sharey=listed or same_y)[0]
  places = -np.arange(len(labels)) if listed else np.asarray(x)
  for ax, (title, points) in zip(axes, panels.items(), strict=True):
    _draw_points(ax, points, places, listed)
    ax.set_title(title)
    ax.grid()
    if listed:
      ax.set(yticks=places, yticklabels=labels, xlabel=y_name)
      continue
    ax.set(xlabel=x_name, ylabel=y_name)
    if places.min() > 0 and places.max() > 8 * places.min():
      ax.set_xscale('log')
      ax.set_xticks(places, [f'{place:g}' for place in places])
      ax.minorticks_off()
  return _png(figure)


def _draw_points(ax, points, places, listed):
  """Draws values along the y axis, or along the x axis where points are listed."""
  if listed:
    axis, draw_span, draw_line, error = ax.xaxis, ax.axvspan, ax.axvline, 'xerr'
  else:
    axis, draw_span, draw_line, error = ax.yaxis, ax.axhspan, ax.axhline, 'yerr'
  turn = lambda place, value: (value, place) if listed else (place, value)
  for place, seeds in zip(places, points.seeds, strict=False):
    ax.plot(*turn([place] * len(seeds), seeds), '.', color='0.55', ms=4, zorder=1)
  values = np.asarray(points.values, float)
  ends = [values if end is None else end for end in (points.low, points.high)]
  reach = np.nan_to_num(np.abs(np.asarray(ends, float) - values))
  style = {'fmt': 'o', 'color': _BLUE, 'capsize': 3, 'ms': 5, 'zorder': 3}
  ax.errorbar(*turn(places, values), **{error: reach}, **style)
  if points.band:
    low, mean, high = points.band
    draw_span(low, high, color=_ORANGE, alpha=0.22, lw=0, zorder=0)
    draw_line(mean, color=_ORANGE, lw=1.2, zorder=0)
  if points.percent:
    axis.set_major_formatter(PercentFormatter(1, decimals=None))


@_styled
def forest(rows) -> bytes:
  """Paired differences with their intervals, one below the other.

  Those right of the line at 0 are better than their control.

  Args:
    rows: list of (label, {'mean', 'low', 'high', 'verdict', 'differences'}), as shares.
  """
  figure = Figure(figsize=(8, 0.42 * len(rows) + 1.1), layout='tight')
  ax, colors = figure.subplots(), {'helps': _GREEN, 'hurts': _RED}
  for i, (_, row) in enumerate(rows):
    color = colors.get(row.get('verdict'), '0.35')
    singles = 100 * np.asarray(row['differences'])
    ax.plot(singles, np.full(len(singles), -i - 0.22), '.', color='0.55', ms=5)
    if np.isfinite(row['low']):
      ax.plot([100 * row['low'], 100 * row['high']], [-i, -i], color=color, lw=2)
    ax.plot(100 * row['mean'], -i, 's', color=color, ms=6)
  ax.axvline(0, color='0.2', lw=1)
  ax.set_yticks(-np.arange(len(rows)), [label for label, _ in rows])
  ax.set_ylim(-len(rows) + 0.3, 0.6)
  ax.set_xlabel('difference in test accuracy, points')
  ax.grid(axis='x')
  ax.spines['left'].set_visible(False)
  return _png(figure)


@_styled
def changes(labels, class_names, differences, *, unit='points of F1', scale=100) -> bytes:
  """Differences by class, blue above 0 and red below.

  Args:
    labels: names of the rows.
    class_names: one a column.
    differences: [rows, columns].
    unit: of the differences times the scale.
    scale: to show them at.
  """
  values = scale * np.asarray(differences, float)
  reach = max(0.5, float(np.abs(values).max()))
  width = max(5.0, 0.55 * len(class_names) + 2.6)
  figure = Figure(figsize=(width, 0.42 * len(labels) + 1.3), layout='tight')
  ax = figure.subplots()
  shown = ax.imshow(values, cmap='RdBu', vmin=-reach, vmax=reach, aspect='auto')
  _name_cells(ax, labels, class_names)
  if values.size <= 400:
    for i, j in np.argwhere(values):
      color = 'white' if abs(values[i, j]) > 0.6 * reach else 'black'
      text = f'{values[i, j]:+.{int(scale > 1)}f}'
      ax.text(j, i, text, ha='center', va='center', fontsize=7, color=color)
  figure.colorbar(shown, ax=ax, label=unit, pad=0.02)
  return _png(figure)
