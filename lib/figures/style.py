"""The look of all figures: colours, sizes, and how a figure becomes a picture."""

import io
from pathlib import Path

import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.figure import Figure

from lib.core import files

INK, MUTED = "#22313f", "#8395a7"
COLOURS = {"train": "#2a6f97", "val": "#e9a23b", "test": "#5aa469", "excluded": "#c44536"}
DOTS = 80
# In inches.
WIDTH = 10
LARGEST_ANNOTATED = 25


# Tables are shown with their long texts whole.
pd.set_option("display.max_colwidth", None)


sns.set_theme(
    style="whitegrid",
    rc={"axes.edgecolor": MUTED, "text.color": INK, "axes.labelcolor": INK, "font.size": 10},
)


def show(figure: Figure | None, path: Path | None = None) -> Image | None:
    """Return a figure as a picture for a notebook, and write it to a file.

    Args:
        figure: a figure of this package, which becomes a JPEG if it holds photos, else a PNG; `None`:
            there is nothing to show.
        path: the PNG file to write, twice as large; `None`: none. If there is nothing to show, a file of an
            earlier run is removed.
    """
    if figure is None:
        if path is not None:
            path.unlink(missing_ok=True)
        return None
    photos = any(axes.images for axes in figure.axes)
    kind, options = ("jpeg", {"quality": 82}) if photos else ("png", {})
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DOTS, bbox_inches="tight", pil_kwargs=options)
    if path is not None:
        files.write(path, lambda partial: figure.savefig(partial, dpi=2 * DOTS, bbox_inches="tight"))
    return Image(buffer.getvalue(), format=kind)


def plain_text(text: str) -> str:
    """Return a text that Matplotlib draws as it is: between two dollar signs it expects a formula."""
    return text.replace("$", r"\$")
