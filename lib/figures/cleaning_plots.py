"""Figures of 02_clean."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.figures import style


def class_counts(summary: dict) -> Figure:
    """Plot the number of photos of each class in each split, and the number of excluded photos.

    Args:
        summary: the result of `manifest.summary`.
    """
    table = pd.DataFrame(summary["classes"]).T
    table["excluded"] = table.found - table.kept
    figure = Figure(figsize=(style.WIDTH, min(14, 1 + 0.3 * len(table))))
    axes = figure.subplots()
    left = np.zeros(len(table))
    names = [style.plain_text(str(name)) for name in table.index]
    for column, colour in style.COLOURS.items():
        axes.barh(names, table[column], left=left, color=colour, label=column)
        left += table[column].to_numpy()
    axes.invert_yaxis()
    axes.set(xlabel="photos")
    axes.tick_params(axis="y", labelsize=10 if len(table) < 40 else 5)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def sizes(table: pd.DataFrame) -> Figure:
    """Plot the height of each photo against its width, and a histogram of the aspect ratios.

    Args:
        table: the manifest; photos that could not be read are ignored.
    """
    read = table[table.width.gt(0)]
    figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(read.width, read.height, s=12, alpha=0.3, color=style.COLOURS["train"], edgecolors="none")
    left.set(xlabel="width in pixels", ylabel="height in pixels", xlim=(0, None), ylim=(0, None))
    ratio = np.log2((read.width / read.height).to_numpy())
    widest = max(1.0, float(np.abs(ratio).max()))
    right.hist(ratio, bins=np.linspace(-widest, widest, 41), color=style.COLOURS["train"])
    ticks = [tick for tick in (-3, -2, -1, 0, 1, 2, 3) if abs(tick) <= widest]
    right.set_xticks(ticks, [f"{2**tick:g}" for tick in ticks])
    right.set(xlabel="width / height (1: a square)", ylabel="photos")
    return figure


def embedding_map(
    positions: pd.DataFrame, labels: pd.Series, *, outliers: pd.Series, names: dict[str, str]
) -> Figure | None:
    """Plot photos as dots, coloured by class, with rings around outliers; return `None` without photos.

    Args:
        positions: columns `x` and `y`, the result of `embeddings.arrange`.
        labels, outliers: the label of each photo, and whether it is an outlier, on the same index.
        names: the result of `class_names.of_source`; the names are shown if there are few classes.
    """
    if positions.empty:
        return None
    classes = sorted(labels.unique())
    colours = dict(zip(classes, sns.husl_palette(len(classes), l=0.55), strict=True))
    figure = Figure(figsize=(style.WIDTH, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(positions.x, positions.y, s=14, c=[colours[label] for label in labels], edgecolors="none")
    ringed = positions[outliers]
    axes.scatter(
        ringed.x, ringed.y, s=90, facecolors="none", edgecolors=style.COLOURS["excluded"], linewidths=1.4
    )
    if len(classes) <= style.LARGEST_ANNOTATED:
        for label, middle in positions.groupby(labels).median().iterrows():
            text = style.plain_text(names.get(str(label), str(label)))
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": colours[label], "pad": 1.5}
            axes.text(middle.x, middle.y, text, fontsize=8, ha="center", va="center", bbox=box)
    axes.set(xticks=[], yticks=[])
    return figure
