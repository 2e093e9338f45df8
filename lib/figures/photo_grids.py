"""Grids of photos, and heatmaps over them."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from lib.figures import style

# Of the hottest place of an overlay, which is more opaque still than a place that is half as hot.
OPACITY = 0.5


def photo_grid(images: list[np.ndarray], titles: list[str], *, columns: int = 6) -> Figure | None:
    """Draw photos in a grid with a title above each; `None` if there are none.

    Args:
        images: `uint8` arrays of shape `(height, width, 3)`, RGB.
        titles: one per photo; long ones are wrapped.
        columns: photos in a row.
    """
    if not images:
        return None
    rows = -(-len(images) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    height = rows * (style.WIDTH / columns + 0.17 * lines)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 150 // columns) for line in title.split("\n"))
        axes.set_title(style.plain_text(wrapped), fontsize=7.5, color=style.INK, pad=3)
    return figure


def pair_grid(pairs: pd.DataFrame, table: pd.DataFrame, *, images: np.ndarray) -> Figure | None:
    """Draw near-duplicates side by side, two pairs in a row; `None` if there are none.

    Args:
        pairs: the result of `duplicates.find`.
        table: the manifest; the titles are a photo's file, label, split or status, and the kind of the pair.
        images: `uint8` of shape `(rows of the manifest, height, width, 3)`, RGB.
    """
    shown, titles = [], []
    for ends, kind in zip(pairs[["first", "second"]].to_numpy(), pairs.kind, strict=True):
        for row in ends:
            photo = table.iloc[row]
            shown.append(images[row])
            file = photo.path.rpartition("/")[2]
            titles.append(f"{file}\n{photo.label}, {photo.split or photo.status}, {kind}")
    return photo_grid(shown, titles, columns=4)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """Colour a heatmap, from black to yellow.

    Args:
        heat: `float` of shape `(height, width)`, 0 to 1.

    Returns:
        `uint8` of shape `(height, width, 3)`, RGB.
    """
    return (colormaps["inferno"](heat)[..., :3] * 255).astype(np.uint8)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draw a heatmap over a photo.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.
        heat: `float` of shape `(height, width)`, 0 to 1.

    Returns:
        `uint8` of the photo's shape.
    """
    opacity = OPACITY + (1 - OPACITY) * 0.4 * heat[..., None]
    return (image * (1 - opacity) + heat_colours(heat) * opacity).clip(0, 255).astype(np.uint8)
