"""Figures of 07_compare."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from lib.figures import style

ACCURACY = "top-1 accuracy with 95 % interval"


def run_accuracies(table: pd.DataFrame) -> Figure:
    """Plot the headline top-1 accuracy of each run with its 95 % interval, in one panel per group.

    The runs of a group were evaluated on the same photos.

    Args:
        table: the result of `comparison.table`; rows with a problem are ignored.
    """
    groups = _groups(table)
    heights = [len(group) + 0.6 for group in groups.values()]
    height = 0.7 + 0.34 * sum(heights) + 0.3 * len(groups)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    column = figure.subplots(len(groups), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, group) in zip(column, groups.items(), strict=True):
        split = group.split.iloc[0]
        colour = style.COLOURS[split]
        axes.errorbar(group.top_1, range(len(group)), xerr=_margins(group), fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(group)), group.run)
        axes.set(ylim=(len(group) - 0.2, -0.8))
        axes.set_title(f"{name}: {int(group.n.iloc[0])} photos of {split}", fontsize=10, loc="left")
    column[-1].set(xlabel=ACCURACY)
    return figure


def accuracy_by_seconds(table: pd.DataFrame) -> Figure:
    """Plot the top-1 accuracy of each run against its training time, in one colour per group.

    Args:
        table: the result of `comparison.table`; rows with a problem are ignored.
    """
    figure = Figure(figsize=(style.WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, group in _groups(table).items():
        seconds = group.seconds.astype(float)
        axes.errorbar(seconds, group.top_1, yerr=_margins(group), fmt="o", capsize=3, label=name)
        for x, y, run in zip(seconds, group.top_1, group.run, strict=True):
            axes.annotate(run, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="training time in seconds (logarithmic)", ylabel=ACCURACY)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(x=0.2)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def _groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    compared = table[table.problem.eq("")]
    return {str(name): group for name, group in compared.groupby("group", sort=False)}


def _margins(group: pd.DataFrame) -> list[pd.Series]:
    """Return the distances from top-1 to the lower and the upper limit of its interval."""
    return [group.top_1 - group.top_1_low, group.top_1_high - group.top_1]
