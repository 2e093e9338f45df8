"""Grids of photos, and overlays of heatmaps on photos."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from lib.figures import style

# Opacity of an overlay at the heatmap values 0 and 1.
OPACITY = (0.5, 0.7)


def photo_grid(images: Sequence[np.ndarray | None], titles: list[str], *, columns: int = 6) -> Figure | None:
    """Plot photos in a grid with a title above each; return `None` if there are no photos.

    Args:
        images: `uint8` arrays of shape `(height, width, 3)`, RGB; `None` leaves a cell of the grid empty.
        titles: the title of each photo; long titles are wrapped.
        columns: number of photos in a row.
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
        if image is not None:
            axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 150 // columns) for line in title.split("\n"))
        axes.set_title(style.plain_text(wrapped), fontsize=7.5, color=style.INK, pad=3)
    return figure


def pair_grid(pairs: pd.DataFrame, table: pd.DataFrame, *, images: np.ndarray) -> Figure | None:
    """Plot near-duplicates side by side, two pairs in a row; return `None` if there are no pairs.

    The title of a photo contains its file name, its label, its split or status, and the kind of the pair.

    Args:
        pairs: the result of `duplicates.find`.
        table: the manifest.
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


def colour_heatmap(heatmap: np.ndarray) -> np.ndarray:
    """Colour a heatmap with the colour map `inferno`, from black (0) to yellow (1).

    Args:
        heatmap: `float` of shape `(height, width)`, 0 to 1.

    Returns:
        `uint8` of shape `(height, width, 3)`, RGB.
    """
    return (colormaps["inferno"](heatmap)[..., :3] * 255).astype(np.uint8)


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Blend a photo with its coloured heatmap.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.
        heatmap: `float` of shape `(height, width)`, 0 to 1.

    Returns:
        `uint8` of the photo's shape.
    """
    opacity = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * heatmap[..., None]
    return (image * (1 - opacity) + colour_heatmap(heatmap) * opacity).clip(0, 255).astype(np.uint8)
