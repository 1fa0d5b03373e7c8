"""Pictures of a run, each drawn from arrays and returned as PNG bytes."""

import io

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
import numpy as np

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_COLORS = ('#0072B2', '#56B4E9', '#D55E00', '#E69F00', '#009E73', '#CC79A7')
_MAX_CLASSES = 20
_PLAIN = {'parse_math': False}  # or a dollar sign in a class name begins a formula


def _png(figure, dpi=110):
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=dpi, bbox_inches='tight', facecolor='white')
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


def grid(class_names, panels):
  """Images in a row a class, panels of them side by side.

  Args:
    class_names: one a class.
    panels: {title: uint8 [classes, n, H, W, C]}.

  Returns:
    PNG bytes; of more than 20 classes, the first 20.
  """
  rows = min(len(class_names), _MAX_CLASSES)
  columns = [images.shape[1] for images in panels.values()]
  figure = Figure(figsize=(0.55 * sum(columns) + 1, 0.55 * rows + 0.4))
  axes = figure.subplots(1, len(panels), width_ratios=columns, squeeze=False)[0]
  for ax, (title, images) in zip(axes, panels.items(), strict=True):
    picture = _tile(images[:rows])
    grey = picture.shape[-1] == 1
    ax.imshow(
      picture[..., 0] if grey else picture, cmap='gray', vmin=0, vmax=255, aspect='equal'
    )
    ax.set_title(title)
    ax.set_xticks([])
    pitch = images.shape[2] + 1
    ax.set_yticks([])
    for side in ax.spines.values():
      side.set_visible(False)
  ticks = pitch * np.arange(rows) + pitch / 2
  axes[0].set_yticks(ticks, class_names[:rows], **_PLAIN)
  axes[0].tick_params(length=0)
  figure.subplots_adjust(wspace=0.04)
  return _png(figure)


def curves(panels):
  """Line plots side by side.

  Args:
    panels: list of (title, {series name: (steps, values)}).

  Returns:
    PNG bytes.
  """
  figure = Figure(figsize=(4 * len(panels), 3.2))
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for ax, (title, series) in zip(axes, panels, strict=True):
    for i, (name, (steps, values)) in enumerate(series.items()):
      marker = 'o' if len(steps) < 3 else None
      ax.plot(
        steps, values, label=name, color=_COLORS[i % len(_COLORS)], marker=marker, lw=1.5
      )
    ax.set_title(title)
    ax.set_xlabel('step')
    ax.grid(alpha=0.3)
    ax.spines[['top', 'right']].set_visible(False)
    if series:
      ax.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  return _png(figure)


def confusion_matrices(class_names, matrices):
  """Confusion matrices in a row, coloured by the share of each true class.

  Args:
    class_names: one a class.
    matrices: {title: counts [true, predicted]}.

  Returns:
    PNG bytes.
  """
  size = max(3.4, 0.36 * len(class_names))
  columns = min(len(matrices), 2)
  rows = -(-len(matrices) // columns)
  figure = Figure(figsize=(columns * (size + 1), rows * (size + 0.8)))
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax in axes[len(matrices) :]:
    ax.set_visible(False)
  for ax, (title, counts) in zip(axes, matrices.items(), strict=False):
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Off the diagonal a per cent must be visible, so the colours follow the root.
    ax.imshow(np.sqrt(share), cmap='Blues', vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_xlabel('predicted')
    ax.set_ylabel('true')
    ticks = np.arange(len(class_names))
    long = max(map(len, class_names)) > 3
    ax.set_xticks(ticks, class_names, rotation=90 if long else 0, fontsize=7, **_PLAIN)
    ax.set_yticks(ticks, class_names, fontsize=7, **_PLAIN)
    if len(class_names) <= _MAX_CLASSES:
      for (i, j), count in np.ndenumerate(counts):
        if count:
          color = 'white' if share[i, j] > 0.3 else 'black'
          ax.text(j, i, count, ha='center', va='center', fontsize=6, color=color)
  figure.tight_layout()
  return _png(figure)


def dots(panels, *, labels, x=None, x_name='', y_name='', same_y=False):
  """Points with intervals, in panels side by side, beside the band of a control.

  Args:
    panels: {title: {'values', 'low', 'high', 'seeds', 'band', 'percent', 'x'}}: values
      and ends of intervals [n]; seeds [n], lists of single values; band (low, mean,
      high); x [n], places of a panel's own, some of `x`.
    labels: names [n] of the points.
    x: their places [n], or None to list them one below the other. Where the last is many
      times the first, the axis is logarithmic and marks them.
    x_name: of that axis.
    y_name: of the values.
    same_y: whether the panels share the values' axis.

  Returns:
    PNG bytes.
  """
  listed = x is None
  everywhere = -np.arange(len(labels)) if listed else np.asarray(x)
  height = max(2.6, 0.34 * len(labels) + 1.2) if listed else 3.0
  figure = Figure(figsize=(3.3 * len(panels) + 1.5 * listed, height))
  axes = figure.subplots(1, len(panels), squeeze=False, sharey=listed or same_y)[0]
  for ax, (title, panel) in zip(axes, panels.items(), strict=True):
    places = np.asarray(panel.get('x', everywhere))
    values = np.asarray(panel['values'], float)
    ends = np.stack([panel['low'], panel['high']]).astype(float)
    reach = np.nan_to_num(np.abs(ends - values))
    for place, seeds in zip(places, panel.get('seeds', []), strict=False):
      pair = (seeds, [place] * len(seeds)) if listed else ([place] * len(seeds), seeds)
      ax.plot(*pair, '.', color='0.55', ms=4, zorder=1)
    bars = {'xerr' if listed else 'yerr': reach}
    pair = (values, places) if listed else (places, values)
    ax.errorbar(*pair, fmt='o', color=_COLORS[0], capsize=3, ms=5, zorder=3, **bars)
    if band := panel.get('band'):
      low, mean, high = band
      span, line = (ax.axvspan, ax.axvline) if listed else (ax.axhspan, ax.axhline)
      span(low, high, color=_COLORS[3], alpha=0.22, lw=0, zorder=0)
      line(mean, color=_COLORS[3], lw=1.2, zorder=0)
    axis = ax.xaxis if listed else ax.yaxis
    if panel.get('percent', True):
      axis.set_major_formatter(PercentFormatter(1, decimals=None))
    (ax.set_xlabel if listed else ax.set_ylabel)(y_name)
    ax.set_title(title, fontsize=10)
    if listed:
      ax.set_yticks(places, labels)
    else:
      ax.set_xlabel(x_name)
      if everywhere.min() > 0 and everywhere.max() > 8 * everywhere.min():
        ax.set_xscale('log')
        ax.set_xticks(everywhere, [f'{place:g}' for place in everywhere])
        ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.spines[['top', 'right']].set_visible(False)
  figure.tight_layout()
  return _png(figure)


def forest(rows):
  """Paired differences with their intervals, one below the other, and a line at 0.

  Args:
    rows: list of (label, {'mean', 'low', 'high', 'verdict', 'differences'}), as shares.

  Returns:
    PNG bytes; what is above 0 is better than the control.
  """
  figure = Figure(figsize=(8, 0.42 * len(rows) + 1.1))
  ax = figure.subplots()
  colors = {'helps': _COLORS[4], 'hurts': _COLORS[2]}
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
  ax.grid(axis='x', alpha=0.3)
  ax.spines[['top', 'right', 'left']].set_visible(False)
  figure.tight_layout()
  return _png(figure)


def changes(labels, class_names, differences, *, unit='points of F1', scale=100):
  """Differences by class, blue above 0 and red below.

  Args:
    labels: names of the rows.
    class_names: one a column.
    differences: [rows, columns].
    unit: of them times the scale.
    scale: to show them at.

  Returns:
    PNG bytes.
  """
  values = scale * np.asarray(differences, float)
  reach = max(0.5, float(np.abs(values).max()))
  width = max(5.0, 0.55 * len(class_names) + 2.6)
  figure = Figure(figsize=(width, 0.42 * len(labels) + 1.3))
  ax = figure.subplots()
  shown = ax.imshow(values, cmap='RdBu', vmin=-reach, vmax=reach, aspect='auto')
  long = max(map(len, class_names)) > 3
  ticks, rotation = np.arange(len(class_names)), 90 if long else 0
  ax.set_xticks(ticks, class_names, rotation=rotation, **_PLAIN)
  ax.set_yticks(np.arange(len(labels)), labels, **_PLAIN)
  if values.size <= 400:
    for (i, j), value in np.ndenumerate(values):
      color = 'white' if abs(value) > 0.6 * reach else 'black'
      text = f'{value:+.1f}' if scale > 1 else f'{value:+.0f}'
      if value:
        ax.text(j, i, text, ha='center', va='center', fontsize=7, color=color)
  figure.colorbar(shown, ax=ax, label=unit, pad=0.02)
  figure.tight_layout()
  return _png(figure)
