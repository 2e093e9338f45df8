"""Every picture of the reports: each function takes data, draws once and returns a picture to show."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from lib.core import cache

INK, MUTED = "#22313f", "#8395a7"
COLOURS = {"train": "#2a6f97", "val": "#e9a23b", "test": "#5aa469", "excluded": "#c44536"}
DOTS = 80
WIDTH = 10  # inches
LARGEST_ANNOTATED = 25
LONGEST_CHART = 50  # bars in a column
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


def _plain(text: str) -> str:
    """Return a text that is drawn as it stands, dollar signs and all: between two of them Matplotlib expects formulas."""
    return text.replace("$", r"\$")


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
        axes.barh([_plain(row) for row in table.index], table[name], left=left, color=colour, label=name)
        left += table[name].to_numpy()
    axes.invert_yaxis()
    axes.set(xlabel="photos")
    axes.tick_params(axis="y", labelsize=10 if len(table) < 40 else 5)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return _picture(figure)


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
    figure = Figure(figsize=(WIDTH, rows * (WIDTH / columns + 0.17 * lines)), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image)
        wrapped = "\n".join(textwrap.fill(line, 150 // columns) for line in title.split("\n"))
        axes.set_title(_plain(wrapped), fontsize=7.5, color=INK, pad=3)
    return _picture(figure, path, photo=True)


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


def sizes(table: pd.DataFrame) -> Image:
    """Draw how large the photos are and of which shape.

    Args:
        table: the manifest; photos that could not be read are left out.
    """
    read = table[table.width.gt(0)]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(read.width, read.height, s=12, alpha=0.3, color=COLOURS["train"], edgecolors="none")
    left.set(xlabel="width in pixels", ylabel="height in pixels", xlim=(0, None), ylim=(0, None))
    ratio = np.log2(read.width / read.height)
    widest = max(1.0, float(ratio.abs().max()))
    right.hist(ratio, bins=np.linspace(-widest, widest, 41), color=COLOURS["train"])
    ticks = [tick for tick in (-3, -2, -1, 0, 1, 2, 3) if abs(tick) <= widest]
    right.set_xticks(ticks, [f"{2**tick:g}" for tick in ticks])
    right.set(xlabel="width / height (1: a square)", ylabel="photos")
    return _picture(figure)


def embedding_map(
    places: pd.DataFrame, labels: pd.Series, *, outliers: pd.Series, names: dict[str, str] | None = None
) -> Image | None:
    """Draw photos as dots, coloured by class, with a ring around each outlier and the classes' names where there are few.

    Args:
        places: columns `x` and `y`, as `embeddings.arrange` gives them.
        labels, outliers: the label of each photo, and whether it is an outlier, on the same index.
        names: what `labels.names` gives; none: the labels.
    """
    if places.empty:
        return None
    classes = sorted(labels.unique())
    colours = dict(zip(classes, sns.husl_palette(len(classes), l=0.55), strict=True))
    figure = Figure(figsize=(WIDTH, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(places.x, places.y, s=14, c=[colours[label] for label in labels], edgecolors="none")
    odd = places[outliers]
    axes.scatter(odd.x, odd.y, s=90, facecolors="none", edgecolors=COLOURS["excluded"], linewidths=1.4)
    if len(classes) <= LARGEST_ANNOTATED:
        for label, middle in places.groupby(labels).median().iterrows():
            text = _plain((names or {}).get(label, label))
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": colours[label], "pad": 1.5}
            axes.text(middle.x, middle.y, text, fontsize=8, ha="center", va="center", bbox=box)
    axes.set(xticks=[], yticks=[])
    return _picture(figure)


def training_curves(history: pd.DataFrame, path: Path | None = None) -> Image:
    """Draw loss and accuracy by epoch, a line where a stage begins and a dot at the best epoch.

    Args:
        history: what `training.Training.history` holds.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    starts = history[history.stage.ne(history.stage.shift())]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(history.epoch, history[name], color=COLOURS["train"], label="train")
        axes.plot(history.epoch, history[f"val_{name}"], color=COLOURS["val"], label="val")
        best = history[f"val_{name}"].idxmin() if name == "loss" else history[f"val_{name}"].idxmax()
        axes.plot(history.epoch[best], history[f"val_{name}"][best], "o", color=COLOURS["val"])
        for epoch, stage in zip(starts.epoch, starts.stage, strict=True):
            axes.axvline(epoch - 0.5, color=MUTED, linestyle=":", linewidth=1)
            axes.text(epoch - 0.4, 1.01, stage, color=MUTED, fontsize=8, transform=axes.get_xaxis_transform())
        axes.set(xlabel="epoch", ylabel=name)
    axes.legend(loc="lower right")
    return _picture(figure, path)


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
    count, classes = len(classes), [_plain(name) for name in classes]
    few = count <= LARGEST_ANNOTATED
    side = min(WIDTH, 3 + 0.5 * count) if few else min(15, 8 + 0.1 * count)
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
    return _picture(figure, path)


def class_accuracies(
    classes: dict, path: Path | None = None, *, names: dict[str, str] | None = None, title: str = ""
) -> Image:
    """Draw each class's recall, the weakest first, in two columns where there are many.

    Args:
        classes: what `metrics.report` gives under `classes`.
        path: where to write the picture too.
        names: what `labels.names` gives; none: the classes' own.
        title: what was measured.
    """
    table = pd.DataFrame(classes).T.query("n > 0").sort_values("recall", kind="stable")
    mean, columns = table.recall.mean(), 1 if len(table) <= LONGEST_CHART else 2
    rows = -(-len(table) // columns)
    height = min(36, 1 + 0.28 * rows) if columns == 1 else min(36, 1 + 0.2 * rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = table.iloc[index * rows : (index + 1) * rows]
        shown = [f"{_plain((names or {}).get(name, name))} ({int(n)})" for name, n in part.n.items()]
        axes.barh(range(len(part)), part.recall, color=COLOURS["train"])
        axes.set_yticks(range(len(part)), shown, fontsize=min(10, 36 * (height - 1) / rows))
        axes.axvline(mean, color=MUTED, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
    figure.supxlabel("share of the class that is recognised (recall); dotted: mean", fontsize=10)
    figure.suptitle(title, fontsize=10)
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


def run_accuracies(table: pd.DataFrame, path: Path | None = None) -> Image:
    """Draw each run's top-1 on its headline photos with its 95 % interval, group by group.

    Only runs of one group were measured on the same photos.

    Args:
        table: what `comparison.table` gives; rows with a problem are left out.
        path: where to write the picture too.
    """
    groups = dict(iter(table[table.problem.eq("")].groupby("group", sort=False)))
    heights = [len(group) + 0.6 for group in groups.values()]
    figure = Figure(figsize=(WIDTH, 0.7 + 0.34 * sum(heights) + 0.3 * len(groups)), layout="constrained")
    places = figure.subplots(len(groups), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, group) in zip(places, groups.items(), strict=True):
        reach = [group.top_1 - group.top_1_low, group.top_1_high - group.top_1]
        colour = COLOURS[group.split.iloc[0]]
        axes.errorbar(group.top_1, range(len(group)), xerr=reach, fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(group)), group.run)
        axes.set(ylim=(len(group) - 0.2, -0.8))
        axes.set_title(
            f"{name}: {int(group.n.iloc[0])} photos of {group.split.iloc[0]}", fontsize=10, loc="left"
        )
    places[-1].set(xlabel="top-1 with its 95 % interval")
    return _picture(figure, path)


def accuracy_against(table: pd.DataFrame, cost: str, path: Path | None = None) -> Image:
    """Draw each run's top-1 against what it costs, a colour for each group.

    Args:
        table: what `comparison.table` gives; rows with a problem are left out.
        cost: `seconds` of training, or `parameters`.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, group in table[table.problem.eq("")].groupby("group", sort=False):
        places = group[cost].astype(float)
        reach = [group.top_1 - group.top_1_low, group.top_1_high - group.top_1]
        axes.errorbar(places, group.top_1, yerr=reach, fmt="o", capsize=3, label=name)
        for place, top_1, run in zip(places, group.top_1, group.run, strict=True):
            axes.annotate(run, (place, top_1), xytext=(6, 4), textcoords="offset points", fontsize=8)
    what = "seconds of training" if cost == "seconds" else cost
    axes.set(xscale="log", xlabel=f"{what}, logarithmic", ylabel="top-1 with its 95 % interval")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(x=0.2)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return _picture(figure, path)


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


def search_history(trials: pd.DataFrame, monitor: str, path: Path | None = None) -> Image:
    """Draw the value of each trial of a search, and the best one so far.

    Args:
        trials: what `tuning.table` gives.
        monitor: val_loss (less is better) or val_accuracy.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    marks = {"complete": ("o", "train"), "pruned": ("x", "val"), "running": (".", "test")}
    for state, (marker, colour) in marks.items():
        rows = trials[trials.state.eq(state)]
        if len(rows):
            axes.plot(rows.number, rows.value, marker, color=COLOURS[colour], label=state)
    for number in trials.number[trials.state.eq("failed")]:
        axes.axvline(number, color=COLOURS["excluded"], linestyle=":", linewidth=1)
    complete = trials.value.where(trials.state.eq("complete"))
    best = (complete.cummin() if monitor == "val_loss" else complete.cummax()).ffill()
    axes.step(trials.number, best, where="post", color=INK, linewidth=1, label="best so far")
    axes.set(xlabel="trial (dotted: failed)", ylabel=monitor)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return _picture(figure, path)


def importances(shares: dict[str, float], path: Path | None = None) -> Image:
    """Draw how much each parameter of a search explains.

    Args:
        shares: by the parameter's name, 0 to 1, largest first; empty where nothing is known.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(WIDTH, 1 + 0.35 * max(1, len(shares))), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()), color=COLOURS["train"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the variance of the trials' values that it explains")
    if not shares:
        axes.text(0.5, 0.5, "not known yet", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    return _picture(figure, path)


def value_by_parameter(
    trials: pd.DataFrame, names: list[str], monitor: str, path: Path | None = None
) -> Image:
    """Draw the value of the complete and pruned trials against each varied parameter.

    Args:
        trials: what `tuning.table` gives.
        names: columns of the varied parameters.
        monitor: what the value is.
        path: where to write the picture too.
    """
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH / 4 * max(2, columns), 2.4 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False, sharey=True).flat:
        axes.set_axis_off()
    for axes, name in zip(figure.axes, names, strict=False):
        axes.set_axis_on()
        for state, marker, colour in (("complete", "o", "train"), ("pruned", "x", "val")):
            chosen = trials[trials.state.eq(state)].dropna(subset=[name, "value"])
            drawable = chosen[name] if _numeric(trials[name]) else chosen[name].astype(str)
            axes.plot(list(drawable), chosen.value, marker, color=COLOURS[colour], markersize=4)
        if (
            _numeric(trials[name])
            and trials[name].min() > 0
            and trials[name].max() >= 20 * trials[name].min()
        ):
            axes.set_xscale("log")
        axes.set(xlabel=name)
    for index in range(0, len(names), columns):
        figure.axes[index].set_ylabel(monitor)
    return _picture(figure, path)


def _numeric(values: pd.Series) -> bool:
    """Tell numbers from choices of other kinds, which an axis takes as text."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.dropna())
