"""Figures of 06_tune."""

from pathlib import Path

import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure

from lib.figures import style


def search_history(trials: pd.DataFrame, monitor: str, path: Path | None = None) -> Image:
    """Draw the value of each trial of a search, and the best one so far.

    Args:
        trials: what `tuning.table` gives.
        monitor: val_loss (less is better) or val_accuracy.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    marks = {"complete": ("o", "train"), "pruned": ("x", "val"), "running": (".", "test")}
    for state, (marker, colour) in marks.items():
        rows = trials[trials.state.eq(state)]
        if len(rows):
            axes.plot(rows.number, rows.value, marker, color=style.COLOURS[colour], label=state)
    for number in trials.number[trials.state.eq("failed")]:
        axes.axvline(number, color=style.COLOURS["excluded"], linestyle=":", linewidth=1)
    complete = trials.value.where(trials.state.eq("complete"))
    best = (complete.cummin() if monitor == "val_loss" else complete.cummax()).ffill()
    axes.step(trials.number, best, where="post", color=style.INK, linewidth=1, label="best so far")
    axes.set(xlabel="trial (dotted: failed)", ylabel=monitor)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return style.picture(figure, path)


def importances(shares: dict[str, float], path: Path | None = None) -> Image:
    """Draw how much each parameter of a search explains.

    Args:
        shares: by the parameter's name, 0 to 1, largest first; empty where nothing is known.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(style.WIDTH, 1 + 0.35 * max(1, len(shares))), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()), color=style.COLOURS["train"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the variance of the trials' values that it explains")
    if not shares:
        axes.text(0.5, 0.5, "not known yet", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    return style.picture(figure, path)


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
    figure = Figure(figsize=(style.WIDTH / 4 * max(2, columns), 2.4 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False, sharey=True).flat:
        axes.set_axis_off()
    for axes, name in zip(figure.axes, names, strict=False):
        axes.set_axis_on()
        for state, marker, colour in (("complete", "o", "train"), ("pruned", "x", "val")):
            chosen = trials[trials.state.eq(state)].dropna(subset=[name, "value"])
            drawable = chosen[name] if _numeric(trials[name]) else chosen[name].astype(str)
            axes.plot(list(drawable), chosen.value, marker, color=style.COLOURS[colour], markersize=4)
        if (
            _numeric(trials[name])
            and trials[name].min() > 0
            and trials[name].max() >= 20 * trials[name].min()
        ):
            axes.set_xscale("log")
        axes.set(xlabel=name)
    for index in range(0, len(names), columns):
        figure.axes[index].set_ylabel(monitor)
    return style.picture(figure, path)


def _numeric(values: pd.Series) -> bool:
    """Tell numbers from choices of other kinds, which an axis takes as text."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.dropna())
