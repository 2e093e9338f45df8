"""Figures of 04_evaluate."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from lib.core import metrics
from lib.figures import style

# Maximum number of bars in a single column of `class_accuracies`.
LONGEST_CHART = 50


def confusion_matrix(matrix: np.ndarray, classes: list[str], *, title: str) -> Figure:
    """Plot a confusion matrix, normalised over the true classes.

    If there are many classes, the counts are omitted and the colour scale emphasises small fractions.

    Args:
        matrix: counts, `int64` of shape `(classes, classes)`, with the true classes in rows.
        classes: the class names.
        title: the title of the figure.
    """
    count, classes = len(classes), [style.plain_text(name) for name in classes]
    few = count <= style.LARGEST_ANNOTATED
    side = min(style.WIDTH, 3 + 0.5 * count) if few else min(15, 8 + 0.1 * count)
    figure = Figure(figsize=(side * 1.1, side), layout="constrained")
    axes = figure.subplots()
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    sns.heatmap(
        fractions,
        norm=PowerNorm(1 if few else 0.5, 0, 1),
        cmap="Blues",
        annot=np.where(matrix > 0, matrix.astype(str), "") if few else False,
        fmt="",
        square=True,
        ax=axes,
        xticklabels=classes,
        yticklabels=classes,
        linewidths=0.4 if few else 0,
        cbar_kws={"label": "fraction of the true class", "shrink": 0.7 if few else 0.5, "pad": 0.01},
    )
    axes.set(xlabel="predicted", ylabel="true")
    # The largest font size that fits between two rows.
    axes.tick_params(labelsize=min(9, 45 * side / count))
    figure.suptitle(title, fontsize=10)
    return figure


def class_accuracies(classes: dict[str, metrics.ClassReport], *, names: dict[str, str], title: str) -> Figure:
    """Plot the recall of each class, lowest first, in two columns if there are many classes.

    Args:
        classes: `classes` of the result of `metrics.report`; classes without photos are ignored.
        names: the result of `class_names.of_source`.
        title: the title of the figure.
    """
    table = pd.DataFrame(classes).T.query("n > 0").sort_values("recall", kind="stable")
    mean, columns = table.recall.mean(), 1 if len(table) <= LONGEST_CHART else 2
    rows = -(-len(table) // columns)
    height = min(36, 1 + 0.28 * rows) if columns == 1 else min(36, 1 + 0.2 * rows)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = table.iloc[index * rows : (index + 1) * rows]
        shown = [style.plain_text(names[str(label)]) for label in part.index]
        labels = [f"{name} ({n:.0f})" for name, n in zip(shown, part.n, strict=True)]
        axes.barh(range(len(part)), part.recall, color=style.COLOURS["train"])
        axes.set_yticks(range(len(part)), labels, fontsize=min(10, 36 * (height - 1) / rows))
        axes.axvline(mean, color=style.MUTED, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
    figure.supxlabel("recall: fraction of the class classified correctly (dotted line: mean)", fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Plot accuracy against confidence in the bins of `metrics.calibration_bins`.

    The area of a dot grows with the number of photos in its bin.

    Args:
        targets: `int64` of shape `(n,)`.
        probabilities: `float` of shape `(n, classes)`.
    """
    bins = metrics.calibration_bins(targets, probabilities)
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=style.MUTED, linestyle=":")
    size = 300 * bins.photos / len(targets) + 15
    axes.scatter(bins.confidence, bins.accuracy, s=size, color=style.COLOURS["train"])
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy")
    return figure
