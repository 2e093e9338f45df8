"""Figures of a search: the state of each trial, the best so far, and the values of the parameters."""

import numpy as np
import pandas as pd
import pytest
from rendering import assert_within_limits, rendered, texts

from lib.figures import style, tuning_plots


def trials(count):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"number": range(count), "value": random.random(count)})
    table["state"] = [("complete", "complete", "pruned", "failed", "running")[n % 5] for n in range(count)]
    table.loc[table.state.eq("failed"), "value"] = np.nan
    table["rate"] = pd.Series(10 ** random.uniform(-5, -1, count), dtype=object)
    table["kind"] = pd.Series([("sgd", True, "adamw")[n % 3] for n in range(count)], dtype=object)
    table["filters"] = pd.Series([None if n == 3 else 8 + n for n in range(count)], dtype=object)
    return table


FIVE = trials(5).assign(value=[0.5, 0.7, 0.1, np.nan, 0.2])


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", 0.5), ("val_accuracy", 0.7)])
def test_search_history_draws_the_best_complete_trial_so_far(monitor, best):
    axes = tuning_plots.search_history(FIVE, monitor).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "best so far")
    assert list(line.get_ydata()) == [0.5, best, best, best, best] and line.get_drawstyle() == "steps-post"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial (dotted: failed)", monitor)


def test_search_history_marks_the_states():
    figure = tuning_plots.search_history(FIVE, "val_loss")
    assert_within_limits(figure)
    axes = figure.axes[0]
    states = {
        line.get_label(): (line.get_marker(), line.get_color(), line.get_xydata().tolist())
        for line in axes.lines
        if line.get_label() in tuning_plots.MARKERS
    }
    assert states == {
        "complete": ("o", style.COLOURS["train"], [[0, 0.5], [1, 0.7]]),
        "pruned": ("x", style.COLOURS["val"], [[2, 0.1]]),
        "running": (".", style.COLOURS["test"], [[4, 0.2]]),
    }
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [3]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_the_largest_importance_is_at_the_top():
    figure = tuning_plots.importances({"rate": 0.75, "filters": 0.25})
    assert_within_limits(figure)
    axes = figure.axes[0]
    assert [(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axes.patches] == [
        (0.75, 0),
        (0.25, 1),
    ]
    assert axes.get_xlabel() == "fraction of the variance of the trials' values"
    assert texts(axes.get_yticklabels()) == ["rate", "filters"]
    assert axes.yaxis_inverted() and axes.get_xlim() == (0, 1)


def test_importances_may_not_be_known_yet():
    assert texts(tuning_plots.importances({}).axes[0].texts) == ["not known yet"]


def test_values_are_drawn_against_their_own_parameter():
    table = FIVE.assign(rate=[0.1, 0.001, 0.01, 0.5, 0.2], filters=[8, 16, 9, 9, 9])
    figure = tuning_plots.value_by_parameter(table, ["rate", "filters", "kind"], monitor="val_loss")
    assert_within_limits(figure)
    rate, filters, kind = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["rate", "filters", "kind"]
    complete, pruned = rate.lines
    # the failed and the running ones are not drawn
    assert complete.get_xydata().tolist() == [[0.1, 0.5], [0.001, 0.7]] and complete.get_marker() == "o"
    assert pruned.get_xydata().tolist() == [[0.01, 0.1]] and pruned.get_marker() == "x"
    assert (complete.get_color(), pruned.get_color()) == (style.COLOURS["train"], style.COLOURS["val"])
    assert (rate.get_xscale(), filters.get_xscale()) == ("log", "linear")
    assert list(kind.lines[0].get_xdata()) == ["sgd", "True"]
    assert (rate.get_ylabel(), filters.get_ylabel()) == ("val_loss", "")


@pytest.mark.parametrize("count", [1, 4, 300])
def test_they_can_be_rendered(count):
    rendered(tuning_plots.search_history(trials(count), "val_loss"))
    for names in (["rate"], ["kind"], ["rate", "kind", "filters", "rate", "kind"]):
        rendered(tuning_plots.value_by_parameter(trials(count), names, monitor="val_loss"))


@pytest.mark.parametrize("fractions", [{}, {"rate": 1.0}, {f"parameter {n}": 1 / 9 for n in range(9)}])
def test_importances_can_be_rendered(fractions):
    rendered(tuning_plots.importances(fractions))
