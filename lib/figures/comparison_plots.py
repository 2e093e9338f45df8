"""Figures of 07_compare."""

from pathlib import Path

import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from lib.figures import style


def run_accuracies(table: pd.DataFrame, path: Path | None = None) -> Image:
    """Draw each run's top-1 on its headline photos with its 95 % interval, group by group.

    Only runs of one group were measured on the same photos.

    Args:
        table: what `comparison.table` gives; rows with a problem are left out.
        path: where to write the picture too.
    """
    groups = dict(iter(table[table.problem.eq("")].groupby("group", sort=False)))
    heights = [len(group) + 0.6 for group in groups.values()]
    figure = Figure(
        figsize=(style.WIDTH, 0.7 + 0.34 * sum(heights) + 0.3 * len(groups)), layout="constrained"
    )
    places = figure.subplots(len(groups), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, group) in zip(places, groups.items(), strict=True):
        reach = [group.top_1 - group.top_1_low, group.top_1_high - group.top_1]
        colour = style.COLOURS[group.split.iloc[0]]
        axes.errorbar(group.top_1, range(len(group)), xerr=reach, fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(group)), group.run)
        axes.set(ylim=(len(group) - 0.2, -0.8))
        axes.set_title(
            f"{name}: {int(group.n.iloc[0])} photos of {group.split.iloc[0]}", fontsize=10, loc="left"
        )
    places[-1].set(xlabel="top-1 with its 95 % interval")
    return style.picture(figure, path)


def accuracy_against(table: pd.DataFrame, cost: str, path: Path | None = None) -> Image:
    """Draw each run's top-1 against what it costs, a colour for each group.

    Args:
        table: what `comparison.table` gives; rows with a problem are left out.
        cost: `seconds` of training, or `parameters`.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(style.WIDTH, 3.8), layout="constrained")
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
    return style.picture(figure, path)
