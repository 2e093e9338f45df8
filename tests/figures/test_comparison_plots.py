"""Figures of the comparison: which dot is which run, and which way its interval reaches."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from rendering import assert_within_limits, rendered, texts

from lib.figures import comparison_plots, style


def runs(*groups, split="test"):
    """Return a table of runs, so many in each group, and one that has no figures."""
    rows = [
        {"run": f"{name}-{index}", "group": name, "split": split, "n": 77, "problem": ""}
        for name, count in groups
        for index in range(count)
    ]
    table = pd.DataFrame(rows)
    table["top_1"] = 0.9 - 0.05 * np.arange(len(table))
    table["top_1_low"], table["top_1_high"] = table.top_1 - 0.2, table.top_1 + 0.03
    table["seconds"] = 100.0 * (1 + np.arange(len(table)))
    return pd.concat([table, pd.DataFrame([{"run": "unfinished", "problem": "no model"}])], ignore_index=True)


def ends(axes):
    """Return the dots of the error bars and the ends of their intervals, each as `(n, 2)`."""
    container = axes.containers[0]
    dots, _, (bars,) = container.lines
    return dots.get_xydata(), np.array(bars.get_segments())


def test_each_run_has_a_row_with_its_interval():
    figure = comparison_plots.run_accuracies(runs(("birds", 3)))
    assert_within_limits(figure)
    axes = figure.axes[0]
    dots, bars = ends(axes)
    np.testing.assert_allclose(dots, [[0.9, 0], [0.85, 1], [0.8, 2]])
    # an interval reaches from low at the left to high at the right
    np.testing.assert_allclose(bars[:, 0, 0], [0.7, 0.65, 0.6])
    np.testing.assert_allclose(bars[:, 1, 0], [0.93, 0.88, 0.83])
    assert texts(axes.get_yticklabels()) == ["birds-0", "birds-1", "birds-2"]
    # the first is at the top
    low, high = axes.get_ylim()
    assert low > high and axes.get_xlabel() == "top-1 accuracy with 95 % interval"
    assert axes.get_title(loc="left") == "birds: 77 photos of test"


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_colour_is_that_of_the_split(split):
    axes = comparison_plots.run_accuracies(runs(("birds", 2), split=split)).axes[0]
    assert to_hex(axes.containers[0].lines[0].get_color()) == style.COLOURS[split]
    assert axes.get_title(loc="left").endswith(f"photos of {split}")


def test_a_run_without_figures_takes_no_place():
    figure = comparison_plots.run_accuracies(runs(("birds", 2)))
    assert [label for axes in figure.axes for label in texts(axes.get_yticklabels())] == [
        "birds-0",
        "birds-1",
    ]


def test_accuracy_is_drawn_against_the_training_time():
    figure = comparison_plots.accuracy_by_seconds(runs(("birds", 2), ("apes", 1)))
    assert_within_limits(figure)
    axes = figure.axes[0]
    dots, bars = ends(axes)
    np.testing.assert_allclose(dots, [[100, 0.9], [200, 0.85]])
    np.testing.assert_allclose(bars[:, 0, 1], [0.7, 0.65])
    np.testing.assert_allclose(bars[:, 1, 1], [0.93, 0.88])
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "birds-0": (100, pytest.approx(0.9)),
        "birds-1": (200, pytest.approx(0.85)),
        "apes-0": (300, pytest.approx(0.8)),
    }
    assert texts(axes.get_legend().get_texts()) == ["birds", "apes"]
    apes = axes.containers[1]
    assert apes.get_label() == "apes" and apes.lines[0].get_xydata().tolist() == [[300, pytest.approx(0.8)]]
    assert axes.get_xscale() == "log" and axes.get_xlabel().startswith("training time in seconds")
    assert axes.get_ylabel() == "top-1 accuracy with 95 % interval"


@pytest.mark.parametrize("groups", [[("one", 1)], [("one", 7), ("two", 1), ("a very long name of a set", 2)]])
def test_they_can_be_rendered(groups):
    rendered(comparison_plots.run_accuracies(runs(*groups)))
    rendered(comparison_plots.accuracy_by_seconds(runs(*groups)))
