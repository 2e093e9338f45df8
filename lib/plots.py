"""Every picture of the reports: each function takes data, draws once and returns a picture to show."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib import colormaps
from matplotlib.figure import Figure

from lib import cache

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


def _picture(figure: Figure, path: Path | None = None, *, photo: bool = False) -> Image:
    """Return a figure as a picture, JPEG where it shows photos; write it to `path` too where one is given."""
    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": 82}} if photo else {}
    figure.savefig(buffer, format="jpg" if photo else "png", dpi=DOTS, bbox_inches="tight", **options)
    if path is not None:
        cache.write(path, lambda partial: figure.savefig(partial, dpi=2 * DOTS, bbox_inches="tight"))
    return Image(buffer.getvalue(), format="jpeg" if photo else "png")


def class_counts(summary: dict) -> Image:
    """Draw the photos per class after cleaning, by split, and those that were excluded.

    Args:
        summary: what `manifest.summary` gives.
    """
    table = pd.DataFrame(summary["classes"]).T
    table["excluded"] = table.found - table.kept
    figure = Figure(figsize=(WIDTH, min(14, 1 + 0.3 * len(table))))
    axes = figure.subplots()
    left = np.zeros(len(table))
    for name, colour in COLOURS.items():
        axes.barh(table.index, table[name], left=left, color=colour, label=name)
        left += table[name].to_numpy()
    axes.invert_yaxis()
    axes.set(xlabel="photos")
    axes.tick_params(axis="y", labelsize=10 if len(table) < 40 else 5)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return _picture(figure)


def photo_grid(
    images: list[np.ndarray], titles: list[str], *, columns: int = 6, path: Path | None = None
) -> Image:
    """Draw photos in a grid with a title above each.

    Args:
        images: `uint8` arrays of shape `(height, width, 3)`, RGB.
        titles: one per photo; long ones are wrapped.
        columns: photos in a row.
        path: where to write the picture too.
    """
    rows = max(1, -(-len(images) // columns))
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(WIDTH, rows * (WIDTH / columns + 0.17 * lines)), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 150 // columns) for line in title.split("\n"))
        axes.set_title(wrapped, fontsize=7.5, color=INK, pad=3)
    return _picture(figure, path, photo=True)


def training_curves(history: pd.DataFrame, path: Path | None = None) -> Image:
    """Draw loss and accuracy by epoch, a line where a stage begins and a dot at the best epoch.

    Args:
        history: what `training.Training.history` holds.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    starts = history[history.stage.ne(history.stage.shift())]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(history.epoch, history[name], color=COLOURS["train"], label="train (augmented)")
        axes.plot(history.epoch, history[f"val_{name}"], color=COLOURS["val"], label="val")
        best = history[f"val_{name}"].idxmin() if name == "loss" else history[f"val_{name}"].idxmax()
        axes.plot(history.epoch[best], history[f"val_{name}"][best], "o", color=COLOURS["val"])
        for epoch, stage in zip(starts.epoch, starts.stage, strict=True):
            axes.axvline(epoch - 0.5, color=MUTED, linestyle=":", linewidth=1)
            axes.text(epoch - 0.4, 1.01, stage, color=MUTED, fontsize=8, transform=axes.get_xaxis_transform())
        axes.set(xlabel="epoch", ylabel=name)
    axes.legend(loc="lower right")
    return _picture(figure, path)


def confusion_matrix(matrix: np.ndarray, classes: list[str], path: Path | None = None) -> Image:
    """Draw which classes are taken for which; with many classes without the numbers.

    Args:
        matrix: counts of shape `(classes, classes)`, true classes in rows.
        classes: the class names.
        path: where to write the picture too.
    """
    few = len(classes) <= LARGEST_ANNOTATED
    side = min(WIDTH, 3 + 0.5 * len(classes)) if few else 12
    figure = Figure(figsize=(side * 1.15, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    labels = np.where(matrix > 0, matrix.astype(str), "")
    sns.heatmap(
        shares, vmin=0, vmax=1, cmap="Blues", annot=labels if few else False, fmt="", square=True, ax=axes,
        xticklabels=classes, yticklabels=classes, linewidths=0.4 if few else 0, cbar_kws={"label": "share of the true class", "shrink": 0.7},
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(labelsize=9 if few else 5)
    return _picture(figure, path)


def class_accuracies(classes: dict, path: Path | None = None) -> Image:
    """Draw each class's recall, the weakest first.

    Args:
        classes: what `metrics.report` gives under `classes`.
        path: where to write the picture too.
    """
    table = pd.DataFrame(classes).T.query("n > 0").sort_values("recall", kind="stable")
    figure = Figure(figsize=(WIDTH, min(14, 1 + 0.28 * len(table))), layout="constrained")
    axes = figure.subplots()
    names = [f"{name} ({int(n)})" for name, n in zip(table.index, table.n, strict=True)]
    axes.barh(names, table.recall, color=COLOURS["train"])
    axes.invert_yaxis()
    axes.axvline(table.recall.mean(), color=MUTED, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="share of the class that is recognised (recall); dotted: mean")
    axes.tick_params(axis="y", labelsize=10 if len(table) < 40 else 5)
    return _picture(figure, path)


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> Image:
    """Draw accuracy against confidence in ten bins, the photos in each as dots' size.

    Args:
        targets: `int64` of shape `(n,)`.
        probabilities: `float` of shape `(n, classes)`.
    """
    table = pd.DataFrame(
        {"confidence": probabilities.max(axis=1), "accuracy": probabilities.argmax(axis=1) == targets}
    )
    bins = table.groupby(np.minimum((table.confidence * 10).astype(int), 9)).agg(["mean", "size"])
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    size = 300 * bins[("accuracy", "size")] / len(table) + 15
    axes.scatter(bins[("confidence", "mean")], bins[("accuracy", "mean")], s=size, color=COLOURS["train"])
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy")
    return _picture(figure)


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
