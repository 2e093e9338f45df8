"""Training curves: which curve is which, and where the best epoch and the stages are."""

import numpy as np
import pandas as pd
import pytest
from rendering import assert_within_limits, rendered, texts

from lib.figures import style, training_plots


def history():
    return pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "stage": ["head", "head", "fine_tune", "fine_tune"],
            "loss": [0.9, 0.7, 0.5, 0.3],
            "val_loss": [1.0, 0.6, 0.8, 0.85],
            "accuracy": [0.5, 0.6, 0.7, 0.8],
            "val_accuracy": [0.4, 0.55, 0.65, 0.62],
        }
    )


def lines(axes):
    """Return the curves by their label, the dots of the best epochs and the lines between stages."""
    curves = {line.get_label(): line for line in axes.lines if line.get_label() in ("train", "val")}
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    stages = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    return curves, dots, stages


def with_top_3():
    return history().assign(top_3=[0.6, 0.7, 0.8, 0.9], val_top_3=[0.5, 0.6, 0.75, 0.7])


@pytest.mark.parametrize(
    ("part", "name", "label"),
    [(0, "loss", "loss"), (1, "accuracy", "accuracy"), (2, "top_3", "top-3 accuracy")],
)
def test_train_and_val_have_the_values_and_colours_of_their_split(part, name, label):
    table = with_top_3()
    figure = training_plots.training_curves(table)
    assert_within_limits(figure)
    axes = figure.axes[part]
    curves, _, _ = lines(axes)
    assert (axes.get_ylabel(), axes.get_xlabel()) == (label, "epoch")
    for split, column in (("train", name), ("val", f"val_{name}")):
        assert curves[split].get_color() == style.COLOURS[split]
        assert list(curves[split].get_xdata()) == [1, 2, 3, 4]
        assert list(curves[split].get_ydata()) == table[column].tolist()


def test_top_3_has_no_panel_if_it_was_not_measured():
    assert len(training_plots.training_curves(history()).axes) == 2
    missing = history().assign(top_3=np.nan, val_top_3=np.nan)
    assert len(training_plots.training_curves(missing).axes) == 2


def test_top_3_is_drawn_from_the_epoch_in_which_it_was_first_measured():
    table = with_top_3()
    table.loc[:1, ["top_3", "val_top_3"]] = np.nan
    curves, dots, _ = lines(training_plots.training_curves(table).axes[2])
    np.testing.assert_equal(curves["val"].get_ydata(), [np.nan, np.nan, 0.75, 0.7])
    assert dots[0].get_xdata()[0] == 3


@pytest.mark.parametrize(("part", "epoch", "value"), [(0, 2, 0.6), (1, 3, 0.65)])
def test_the_dot_is_on_the_best_epoch_of_val(part, epoch, value):
    # the rows of a table that was cut have an index that does not start at 0
    later = history().set_index(pd.Index([7, 8, 9, 10]))
    _, dots, _ = lines(training_plots.training_curves(later).axes[part])
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(epoch, value)]
    assert dots[0].get_color() == style.COLOURS["val"]


def test_a_line_marks_the_first_epoch_of_each_stage():
    for axes in training_plots.training_curves(history()).axes:
        assert lines(axes)[2] == [0.5, 2.5]
        assert {text.get_text(): text.get_position()[0] for text in axes.texts} == {
            "head": 0.6,
            "fine_tune": 2.6,
        }


def test_the_legend_names_both_curves():
    last = training_plots.training_curves(history()).axes[-1]
    assert texts(last.get_legend().get_texts()) == ["train", "val"]


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_it_can_be_rendered(epochs):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"epoch": range(1, epochs + 1), "stage": "head"})
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        table[name] = random.random(epochs)
    rendered(training_plots.training_curves(table))
