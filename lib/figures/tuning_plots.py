"""Figures of 06_tune."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.figures import style

# Marker and colour of the trials of each state.
MARKERS = {"complete": ("o", "train"), "pruned": ("x", "val"), "running": (".", "test")}


def search_history(trials: pd.DataFrame, monitor: str) -> Figure:
    """Plot the value of each trial of a search, and the best value so far.

    Args:
        trials: the result of `results.table`.
        monitor: `val_loss` (lower is better) or `val_accuracy`.
    """
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for state, (marker, colour) in MARKERS.items():
        rows = trials[trials.state.eq(state)]
        if len(rows):
            axes.plot(rows.number, rows.value, marker, color=style.COLOURS[colour], label=state)
    for number in trials.number[trials.state.eq("failed")]:
        axes.axvline(number, color=style.COLOURS["excluded"], linestyle=":", linewidth=1)
    complete = trials.value.where(trials.state.eq("complete"))
    best = (complete.cummin() if monitor == "val_loss" else complete.cummax()).ffill()
    axes.step(trials.number, best, where="post", color=style.INK, linewidth=1, label="best so far")
    axes.set(xlabel="trial (dotted: failed)", ylabel=monitor)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(fontsize=8)
    return figure


def importances(fractions: dict[str, float]) -> Figure:
    """Plot the importance of each parameter of a search.

    Args:
        fractions: the fraction of the variance that each parameter explains, 0 to 1, largest first; empty if
            it cannot be computed yet.
    """
    figure = Figure(figsize=(style.WIDTH, 1 + 0.35 * max(1, len(fractions))), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(fractions), list(fractions.values()), color=style.COLOURS["train"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="fraction of the variance of the trials' values")
    if not fractions:
        axes.text(0.5, 0.5, "not known yet", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    return figure


def value_by_parameter(trials: pd.DataFrame, names: list[str], *, monitor: str) -> Figure:
    """Plot the values of the complete and pruned trials against each parameter of the search space.

    Args:
        trials: the result of `results.table`.
        names: the columns of the parameters.
        monitor: name of the monitored value.
    """
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(style.WIDTH / 4 * max(2, columns), 2.4 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False, sharey=True).flat:
        axes.set_axis_off()
    for axes, name in zip(figure.axes, names, strict=False):
        axes.set_axis_on()
        numeric = _numeric(trials[name])
        for state in ("complete", "pruned"):
            drawn = trials[trials.state.eq(state)].dropna(subset=[name, "value"])
            values = drawn[name] if numeric else drawn[name].astype(str)
            marker, colour = MARKERS[state]
            axes.plot(list(values), drawn.value, marker, color=style.COLOURS[colour], markersize=4)
        if numeric and 0 < 20 * trials[name].min() <= trials[name].max():
            axes.set_xscale("log")
        axes.set(xlabel=name)
    for index in range(0, len(names), columns):
        figure.axes[index].set_ylabel(monitor)
    return figure


def _numeric(values: pd.Series) -> bool:
    """Return whether all values are numbers. Otherwise, the values are plotted as text."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.dropna())
