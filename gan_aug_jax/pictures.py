"""Pictures of a run, each drawn from arrays and returned as PNG bytes."""

import io

from matplotlib.figure import Figure
import numpy as np

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_COLORS = ('#0072B2', '#56B4E9', '#D55E00', '#E69F00', '#009E73', '#CC79A7')
_MAX_CLASSES = 20


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
  axes[0].set_yticks(pitch * np.arange(rows) + pitch / 2, class_names[:rows])
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
    ax.set_xticks(ticks, class_names, rotation=90 if long else 0, fontsize=7)
    ax.set_yticks(ticks, class_names, fontsize=7)
    if len(class_names) <= _MAX_CLASSES:
      for (i, j), count in np.ndenumerate(counts):
        if count:
          color = 'white' if share[i, j] > 0.3 else 'black'
          ax.text(j, i, count, ha='center', va='center', fontsize=6, color=color)
  figure.tight_layout()
  return _png(figure)
