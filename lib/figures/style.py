"""Set the colours and sizes of all figures, and render figures for notebooks and files."""

import io
from pathlib import Path

import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.figure import Figure

from lib.core import files

INK, MUTED = "#22313f", "#8395a7"
COLOURS = {"train": "#2a6f97", "val": "#e9a23b", "test": "#5aa469", "excluded": "#c44536"}
DOTS_PER_INCH = 80
# In inches.
WIDTH = 10
# The largest number of classes for which a figure shows each count or name.
LARGEST_ANNOTATED = 25


# Long texts in the tables of a notebook are not truncated.
pd.set_option("display.max_colwidth", None)


sns.set_theme(
    style="whitegrid",
    rc={"axes.edgecolor": MUTED, "text.color": INK, "axes.labelcolor": INK, "font.size": 10},
)


def show(figure: Figure | None, path: Path | None = None) -> Image | None:
    """Render a figure for a notebook, and write it to a PNG file if `path` is set.

    Args:
        figure: a figure of this package. If `None`, the file of an earlier run is removed.
        path: the file to write, at twice the resolution of the notebook's image.

    Returns:
        A JPEG if the figure contains photos, otherwise a PNG; `None` if `figure` is `None`.
    """
    if figure is None:
        if path is not None:
            path.unlink(missing_ok=True)
        return None
    photos = any(axes.images for axes in figure.axes)
    kind, options = ("jpeg", {"quality": 82}) if photos else ("png", {})
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, bbox_inches="tight", pil_kwargs=options)
    if path is not None:
        files.write(path, lambda partial: figure.savefig(partial, dpi=2 * DOTS_PER_INCH, bbox_inches="tight"))
    return Image(buffer.getvalue(), format=kind)


def plain_text(text: str) -> str:
    """Escape the dollar signs of a text, which Matplotlib would read as the delimiters of a formula."""
    return text.replace("$", r"\$")
