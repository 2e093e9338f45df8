"""Figures of the cleaning: counts, sizes and the map of the photos."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from rendering import assert_within_limits, names, rendered, texts

from lib.figures import cleaning_plots, style


def counts(**classes):
    """Return a summary; for each class found, kept, train, val and test."""
    columns = ("found", "kept", "train", "val", "test")
    return {"classes": {name: dict(zip(columns, values, strict=True)) for name, values in classes.items()}}


def test_class_counts_stack_the_splits_and_what_was_excluded():
    figure = cleaning_plots.class_counts(counts(ant=(10, 8, 5, 2, 1), bee=(7, 7, 4, 0, 3)))
    assert_within_limits(figure)
    axes, bars = figure.axes[0], {}
    for container in axes.containers:
        colour = {to_hex(bar.get_facecolor()) for bar in container}
        assert colour == {style.COLOURS[container.get_label()]}
        bars[container.get_label()] = [(bar.get_x(), bar.get_width()) for bar in container]
    assert bars == {
        "train": [(0, 5), (0, 4)],
        "val": [(5, 2), (4, 0)],
        "test": [(7, 1), (4, 3)],
        "excluded": [(8, 2), (7, 0)],
    }
    assert texts(axes.get_yticklabels()) == ["ant", "bee"] and axes.yaxis_inverted()
    assert axes.get_xlabel() == "photos"
    assert texts(axes.get_legend().get_texts()) == ["train", "val", "test", "excluded"]


@pytest.mark.parametrize("classes", [2, 100])
def test_class_counts_can_be_rendered(classes):
    rows = {name: (20 + index, 18 + index, 12 + index, 3, 3) for index, name in enumerate(names(classes))}
    figure = cleaning_plots.class_counts(counts(**rows))
    rendered(figure)
    assert len(style.show(figure).data) < 300_000
    rendered(cleaning_plots.class_counts(counts(**dict.fromkeys([r"$\frac$", "$_$", "$b"], (2, 2, 1, 1, 0)))))


def test_sizes_are_width_against_height_and_their_ratio():
    table = pd.DataFrame([(640, 320), (100, 400), (0, 0)], columns=["width", "height"])
    figure = cleaning_plots.sizes(table)
    assert_within_limits(figure)
    left, right = figure.axes
    np.testing.assert_array_equal(left.collections[0].get_offsets(), [[640, 320], [100, 400]])
    assert (left.get_xlabel(), left.get_ylabel()) == ("width in pixels", "height in pixels")
    assert right.get_xlabel() == "width / height (1: a square)" and right.get_ylabel() == "photos"
    # the ratios are 2 and 1/4, at 1 and -2 of the logarithmic axis from -2 to 2
    filled = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in right.patches if bar.get_height()]
    assert len(filled) == 2 and filled[0][0] == -2 and filled[1][0] - 0.01 <= 1 <= filled[1][1] + 0.01
    assert dict(zip(right.get_xticks(), texts(right.get_xticklabels()), strict=True)) == {
        -2: "0.25",
        -1: "0.5",
        0: "1",
        1: "2",
        2: "4",
    }


@pytest.mark.parametrize("sizes", [[(1, 1)], [(640, 480), (480, 640), (0, 0)], [(20_000, 10), (10, 20_000)]])
def test_sizes_can_be_rendered(sizes):
    rendered(cleaning_plots.sizes(pd.DataFrame(sizes, columns=["width", "height"])))


def test_the_map_colours_classes_rings_outliers_and_names_classes():
    positions = pd.DataFrame({"x": [0.0, 2, 4, 10], "y": [1.0, 1, 7, 9]}, index=[3, 5, 8, 9])
    labels = pd.Series(["a", "a", "a", "b"], positions.index)
    outliers = pd.Series([False, False, True, False], positions.index)
    figure = cleaning_plots.embedding_map(positions, labels, outliers=outliers, names={"b": "bee"})
    assert_within_limits(figure)
    axes = figure.axes[0]
    dots, rings = axes.collections
    np.testing.assert_array_equal(dots.get_offsets(), positions)
    colours = [to_hex(colour) for colour in dots.get_facecolors()]
    assert colours[0] == colours[1] == colours[2] != colours[3]
    np.testing.assert_array_equal(rings.get_offsets(), [[4, 7]])
    assert {to_hex(colour) for colour in rings.get_edgecolors()} == {style.COLOURS["excluded"]}
    # each name is at the median of the photos of its class, in a frame of their colour
    assert {text.get_text(): text.get_position() for text in axes.texts} == {"a": (2, 1), "bee": (10, 9)}
    frames = [to_hex(text.get_bbox_patch().get_edgecolor()) for text in axes.texts]
    assert frames == [colours[0], colours[3]]


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_the_map_can_be_rendered(classes):
    positions = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["x", "y"])
    labels = pd.Series([f"{number % classes}_$x$" for number in range(80)])
    outliers = pd.Series([number == 5 for number in range(80)])
    figure = cleaning_plots.embedding_map(positions, labels, outliers=outliers, names={})
    assert len(figure.axes[0].texts) == (classes if classes <= style.LARGEST_ANNOTATED else 0)
    rendered(figure)
    rendered(cleaning_plots.embedding_map(positions, labels, outliers=outliers & False, names={}))


def test_without_photos_there_is_no_map():
    labels, outliers = pd.Series(dtype=str), pd.Series(dtype=bool)
    positions = pd.DataFrame(columns=["x", "y"], dtype=float)
    assert cleaning_plots.embedding_map(positions, labels, outliers=outliers, names={}) is None
