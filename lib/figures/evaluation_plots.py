"""Figures of 04_evaluate."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from lib.figures import style

LONGEST_CHART = 50  # bars in a column


def confusion_matrix(
    matrix: np.ndarray, classes: list[str], path: Path | None = None, *, title: str = ""
) -> Image:
    """Draw which classes are taken for which; with many classes without the numbers, and small shares stronger.

    Args:
        matrix: counts of shape `(classes, classes)`, true classes in rows.
        classes: the class names.
        path: where to write the picture too.
        title: what was measured.
    """
    count, classes = len(classes), [style.plain_text(name) for name in classes]
    few = count <= style.LARGEST_ANNOTATED
    side = min(style.WIDTH, 3 + 0.5 * count) if few else min(15, 8 + 0.1 * count)
    figure = Figure(figsize=(side * 1.1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    labels = np.where(matrix > 0, matrix.astype(str), "")
    sns.heatmap(
        shares, norm=PowerNorm(1 if few else 0.5, 0, 1), cmap="Blues", annot=labels if few else False, fmt="", square=True, ax=axes,
        xticklabels=classes, yticklabels=classes, linewidths=0.4 if few else 0, cbar_kws={"label": "share of the true class", "shrink": 0.7 if few else 0.5, "pad": 0.01},
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(labelsize=min(9, 45 * side / count))  # what fits between two rows
    figure.suptitle(title, fontsize=10)
    return style.picture(figure, path)


def class_accuracies(
    classes: dict, path: Path | None = None, *, names: dict[str, str] | None = None, title: str = ""
) -> Image:
    """Draw each class's recall, the weakest first, in two columns where there are many.

    Args:
        classes: what `metrics.report` gives under `classes`.
        path: where to write the picture too.
        names: what `class_names.of_source` gives; none: the classes' own.
        title: what was measured.
    """
    table = pd.DataFrame(classes).T.query("n > 0").sort_values("recall", kind="stable")
    mean, columns = table.recall.mean(), 1 if len(table) <= LONGEST_CHART else 2
    rows = -(-len(table) // columns)
    height = min(36, 1 + 0.28 * rows) if columns == 1 else min(36, 1 + 0.2 * rows)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = table.iloc[index * rows : (index + 1) * rows]
        shown = [
            f"{style.plain_text((names or {}).get(name, name))} ({int(n)})" for name, n in part.n.items()
        ]
        axes.barh(range(len(part)), part.recall, color=style.COLOURS["train"])
        axes.set_yticks(range(len(part)), shown, fontsize=min(10, 36 * (height - 1) / rows))
        axes.axvline(mean, color=style.MUTED, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
    figure.supxlabel("share of the class that is recognised (recall); dotted: mean", fontsize=10)
    figure.suptitle(title, fontsize=10)
    return style.picture(figure, path)


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
    axes.plot([0, 1], [0, 1], color=style.MUTED, linestyle=":")
    size = 300 * bins[("accuracy", "size")] / len(table) + 15
    axes.scatter(
        bins[("confidence", "mean")], bins[("accuracy", "mean")], s=size, color=style.COLOURS["train"]
    )
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy")
    return style.picture(figure)
