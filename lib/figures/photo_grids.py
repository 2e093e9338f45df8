"""Grids of photos, and heat maps laid over them."""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib import colormaps
from matplotlib.figure import Figure

from lib.figures import style


def photo_grid(
    images: list[np.ndarray], titles: list[str], *, columns: int = 6, path: Path | None = None
) -> Image | None:
    """Draw photos in a grid with a title above each; nothing where there are none.

    Args:
        images: `uint8` arrays of shape `(height, width, 3)`, RGB.
        titles: one per photo; long ones are wrapped.
        columns: photos in a row.
        path: where to write the picture too.
    """
    if not images:
        return None
    rows = -(-len(images) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(
        figsize=(style.WIDTH, rows * (style.WIDTH / columns + 0.17 * lines)), layout="constrained"
    )
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 150 // columns) for line in title.split("\n"))
        axes.set_title(style.plain_text(wrapped), fontsize=7.5, color=style.INK, pad=3)
    return style.picture(figure, path, photo=True)


def pair_grid(pairs: pd.DataFrame, table: pd.DataFrame, images: np.ndarray) -> Image | None:
    """Draw near-duplicates side by side, two pairs in a row; nothing where there are none.

    Args:
        pairs: as `duplicates.find` gives them.
        table: the manifest; above each photo stand its file, its label, what became of it, and the kind of the pair.
        images: `uint8` of shape `(rows of the manifest, height, width, 3)`, RGB.
    """
    shown, titles = [], []
    for pair in pairs.itertuples():
        for row in (pair.first, pair.second):
            photo = table.iloc[row]
            shown.append(images[row])
            file = photo.path.rpartition("/")[2]
            titles.append(f"{file}\n{photo.label}, {photo.split or photo.status}, {pair.kind}")
    return photo_grid(shown, titles, columns=4)


def overlay(image: np.ndarray, heat: np.ndarray, *, strength: float = 0.5) -> np.ndarray:
    """Lay a heat map over a photo.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.
        heat: `float` of shape `(height, width)`, 0 to 1.
        strength: opacity of the hottest place; cold places show the photo alone.

    Returns:
        `uint8` of the photo's shape.
    """
    colours = colormaps["inferno"](heat)[..., :3] * 255
    opacity = strength + (1 - strength) * 0.4 * heat[..., None]
    return (image * (1 - opacity) + colours * opacity).clip(0, 255).astype(np.uint8)
