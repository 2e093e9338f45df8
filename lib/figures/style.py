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
WIDTH = 10  # inches
LARGEST_ANNOTATED = 25


pd.set_option("display.max_colwidth", None)  # tables are read to their ends too


sns.set_theme(
    style="whitegrid",
    rc={"axes.edgecolor": MUTED, "text.color": INK, "axes.labelcolor": INK, "font.size": 10},
)


def picture(figure: Figure, path: Path | None = None, *, photo: bool = False) -> Image:
    """Return a figure as a picture, JPEG where it shows photos; write it to `path` too where one is given."""
    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": 82}} if photo else {}
    figure.savefig(buffer, format="jpg" if photo else "png", dpi=DOTS, bbox_inches="tight", **options)
    if path is not None:
        files.write(path, lambda partial: figure.savefig(partial, dpi=2 * DOTS, bbox_inches="tight"))
    return Image(buffer.getvalue(), format="jpeg" if photo else "png")


def plain_text(text: str) -> str:
    """Return a text that is drawn as it stands, dollar signs and all: between two of them Matplotlib expects formulas."""
    return text.replace("$", r"\$")
