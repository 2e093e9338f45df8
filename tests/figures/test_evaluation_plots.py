"""Figures of the evaluation, tested by the artists they hold."""

import numpy as np
import pytest
from rendering import assert_within_limits, names, rendered, texts

from lib.core import metrics
from lib.figures import evaluation_plots, style

COUNTS = [2, 100]
MATRIX = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 5]])


def test_true_classes_are_the_rows_of_the_confusion_matrix():
    axes = evaluation_plots.confusion_matrix(MATRIX, ["ant", "bee", "cat"], title="test").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == ["ant", "bee", "cat"]
    fractions = axes.collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(fractions, [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]])
    # the first row is at the top
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    # one ant was taken for a bee: column 1, row 0
    assert numbers[(1.5, 0.5)] == "1" and numbers[(0.5, 1.5)] == "" and numbers[(2.5, 2.5)] == "5"
    assert axes.figure.get_suptitle() == "test"


@pytest.mark.parametrize("classes", COUNTS)
def test_a_confusion_matrix_can_be_rendered(classes):
    matrix = np.random.default_rng(0).integers(0, 9, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    # a class without photos
    matrix[0] = 0
    rendered(evaluation_plots.confusion_matrix(matrix, names(classes), title=""))


def test_small_fractions_are_visible_with_many_classes():
    classes = style.LARGEST_ANNOTATED + 1
    pictures = []
    for count in (0, 1):
        matrix = 20 * np.eye(classes, dtype=int)
        matrix[0, -1] = count
        pictures.append(
            rendered(evaluation_plots.confusion_matrix(matrix, ["x"] * classes, title="")).astype(int)
        )
    # on the plain scale 45
    assert np.abs(pictures[1] - pictures[0]).sum(axis=2).max() > 60


def class_accuracies(names=None, **recalls):
    """Plot recalls, from `(photos, recall)` by class."""
    classes = {
        name: {"n": n, "precision": 0.5, "recall": recall, "f1": 0.5} for name, (n, recall) in recalls.items()
    }
    names = names or {name: name for name in classes}
    figure = evaluation_plots.class_accuracies(classes, names=names, title="test")
    assert_within_limits(figure)
    return figure


def test_the_weakest_class_is_at_the_top():
    figure = class_accuracies(ant=(4, 1.0), bee=(9, 0.25), cat=(2, 0.5), none=(0, 0.0))
    axes = figure.axes[0]
    assert figure.get_suptitle() == "test" and figure.get_supxlabel().startswith("recall")
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.5, 1.0]
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches] == [0, 1, 2]
    assert texts(axes.get_yticklabels()) == ["bee (9)", "cat (2)", "ant (4)"]
    low, high = axes.get_ylim()
    assert low > high and axes.get_xlim() == (0, 1)
    # the dotted line is the mean
    assert axes.lines[0].get_xdata()[0] == pytest.approx(1.75 / 3)


def test_bars_are_labelled_with_the_names_of_the_classes():
    figure = class_accuracies({"b": "bee", "a": "ant"}, a=(4, 1.0), b=(9, 0.5))
    assert texts(figure.axes[0].get_yticklabels()) == ["bee (9)", "ant (4)"]


@pytest.mark.parametrize(("classes", "columns"), [(3, 1), (50, 1), (51, 2), (100, 2)])
def test_every_class_has_its_bar_in_one_of_the_columns(classes, columns):
    figure = class_accuracies(**{f"class {index:03}": (9, index / classes) for index in range(classes)})
    assert len(figure.axes) == columns
    bars = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    labels = [label for axes in figure.axes for label in texts(axes.get_yticklabels())]
    assert bars == sorted(bars) and len(bars) == classes
    assert labels == [f"class {index:03} (9)" for index in range(classes)]
    rendered(figure)


def test_reliability_is_accuracy_against_confidence():
    # three photos in the bin 14/15 to 1, two of them correct; a wrong one at 0.55
    probabilities = np.array([[0.94, 0.06], [0.95, 0.05], [0.96, 0.04], [0.55, 0.45]])
    figure = evaluation_plots.reliability(np.array([0, 0, 1, 1]), probabilities)
    assert_within_limits(figure)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy")
    dots = axes.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), [[0.55, 0], [0.95, 2 / 3]])
    np.testing.assert_allclose(dots.get_sizes(), [300 / 4 + 15, 900 / 4 + 15])
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 0], [1, 1]])


def test_the_gaps_of_the_reliability_diagram_are_the_calibration_error():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 300)
    # calibrated on average: the gaps of the bins have both signs, and other bins have another error
    targets = np.array([random.choice(3, p=row) for row in probabilities])
    axes = evaluation_plots.reliability(targets, probabilities).axes[0]
    confidence, accuracy = axes.collections[0].get_offsets().T
    weights = (axes.collections[0].get_sizes() - 15) / 300
    gap = (weights * np.abs(accuracy - confidence)).sum()
    assert gap == pytest.approx(metrics.calibration_error(targets, probabilities)) and gap > 0.03


@pytest.mark.parametrize("classes", COUNTS)
def test_a_reliability_diagram_can_be_rendered(classes):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes) / 3, 200)
    rendered(evaluation_plots.reliability(random.integers(0, classes, 200), probabilities))
    # a single photo with a confidence of 1
    rendered(evaluation_plots.reliability(np.array([0]), np.eye(classes)[:1]))


def test_a_dollar_is_a_dollar():
    odd = [r"$\frac$", "$_$", "$b", "c$d$e$"]
    rendered(evaluation_plots.confusion_matrix(np.eye(4, dtype=int), odd, title=""))
    rendered(class_accuracies(**dict.fromkeys(odd, (2, 0.5))))
