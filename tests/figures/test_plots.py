"""Pictures: each function draws, for few classes and for many, and writes the file that it is given."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.figures import (
    cleaning_plots,
    comparison_plots,
    evaluation_plots,
    photo_grids,
    style,
    training_plots,
    tuning_plots,
)

COUNTS = [2, 100]


def names(classes):
    return [f"species {number} (früher Bläuling)" for number in range(classes)]


def drawn(picture, form="PNG"):
    """Return the pixels of a picture, after checking that it is one that a report can show."""
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.format == form
        width, height = image.size
        assert 100 <= width <= 2500 and 60 <= height <= 3000, image.size
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 2, "the picture is empty"
    return pixels


def written(path, picture):
    """Check that the file is the same picture, larger."""
    with Image.open(path) as image, Image.open(io.BytesIO(picture.data)) as shown:
        assert image.format == "PNG" and image.width > 1.5 * shown.width
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def summary(classes):
    rows = {
        name: {"found": 20 + index, "kept": 18 + index, "train": 12 + index, "val": 3, "test": 3}
        for index, name in enumerate(names(classes))
    }
    return {"classes": rows}


def history(epochs, stages=("head", "fine_tune")):
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"epoch": range(1, epochs + 1), "stage": np.repeat(stages, epochs)[:: len(stages)][:epochs]}
    )
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        table[name] = random.random(epochs)
    return table


@pytest.mark.parametrize("classes", COUNTS)
def test_class_counts(classes):
    picture = cleaning_plots.class_counts(summary(classes))
    drawn(picture)
    assert len(picture.data) < 300_000


@pytest.mark.parametrize(("count", "columns"), [(0, 6), (1, 6), (7, 3), (18, 6)])
def test_photo_grid(count, columns, tmp_path):
    images = [np.full((30, 40, 3), 10 * number, np.uint8) for number in range(count)]
    titles = [f"a very long title of a photo number {number}\nsecond line" for number in range(count)]
    path = tmp_path / "grid.png" if count < 2 else None
    picture = photo_grids.photo_grid(images, titles, columns=columns, path=path)
    if count:
        drawn(picture, "JPEG")
    else:
        assert picture is None and not path.exists()
    if count == 1:
        written(path, picture)


def test_photo_grid_shows_the_photos_in_their_order():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pixels = drawn(
        photo_grids.photo_grid(
            [np.full((40, 40, 3), colour, np.uint8) for colour in colours], [""] * 3, columns=3
        ),
        "JPEG",
    )
    middle = pixels[pixels.shape[0] // 2]
    places = [np.abs(middle.astype(int) - colour).sum(axis=1) < 60 for colour in colours]
    assert all(place.sum() > 100 for place in places)
    assert (
        np.mean(np.flatnonzero(places[0]))
        < np.mean(np.flatnonzero(places[1]))
        < np.mean(np.flatnonzero(places[2]))
    )


def test_pair_grid_names_what_became_of_both(monkeypatch):
    titles = []
    monkeypatch.setattr(
        photo_grids, "photo_grid", lambda images, names, columns: titles.extend(names) or len(images)
    )
    table = pd.DataFrame(
        {
            "path": ["cat/a.jpg", "dog/b.jpg"],
            "label": ["cat", "dog"],
            "split": ["train", ""],
            "status": ["kept", "leak"],
        }
    )
    pairs = pd.DataFrame({"first": [0], "second": [1], "kind": ["embedding"]})
    images = np.zeros((2, 9, 9, 3), np.uint8)
    assert photo_grids.pair_grid(pairs, table, images) == 2
    assert titles == ["a.jpg\ncat, train, embedding", "b.jpg\ndog, leak, embedding"]
    monkeypatch.undo()
    drawn(photo_grids.pair_grid(pairs, table, images), "JPEG")
    assert photo_grids.pair_grid(pairs[:0], table, images) is None


@pytest.mark.parametrize("sizes", [[(1, 1)], [(640, 480), (480, 640), (0, 0)], [(20_000, 10), (10, 20_000)]])
def test_sizes(sizes):
    drawn(cleaning_plots.sizes(pd.DataFrame(sizes, columns=["width", "height"])))


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_embedding_map(classes):
    places = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["x", "y"])
    labels = pd.Series([f"{number % classes}_$x$" for number in range(80)])
    outliers = pd.Series([number == 5 for number in range(80)])
    drawn(cleaning_plots.embedding_map(places, labels, outliers=outliers))
    drawn(cleaning_plots.embedding_map(places, labels, outliers=outliers & False, names={"0_$x$": "a cat"}))


def test_there_is_no_map_of_nothing():
    places = pd.DataFrame(columns=["x", "y"], dtype=float)
    assert cleaning_plots.embedding_map(places, pd.Series(dtype=str), outliers=pd.Series(dtype=bool)) is None


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_training_curves(epochs, tmp_path):
    picture = training_plots.training_curves(history(epochs), tmp_path / "curves.png")
    drawn(picture)
    written(tmp_path / "curves.png", picture)


@pytest.mark.parametrize("classes", COUNTS)
def test_confusion_matrix(classes, tmp_path):
    matrix = np.random.default_rng(0).integers(0, 9, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    matrix[0] = 0  # a class without photos
    picture = evaluation_plots.confusion_matrix(matrix, names(classes), tmp_path / "matrix.png")
    drawn(picture)
    written(tmp_path / "matrix.png", picture)


@pytest.mark.parametrize("classes", COUNTS)
def test_class_accuracies(classes, tmp_path):
    values = {
        name: {"n": index, "precision": 0.5, "recall": index / classes, "f1": 0.5}
        for index, name in enumerate(names(classes), start=1)
    }
    values["absent"] = {"n": 0, "precision": 0, "recall": 0, "f1": 0}
    picture = evaluation_plots.class_accuracies(values, tmp_path / "bars.png")
    drawn(picture)
    written(tmp_path / "bars.png", picture)


def test_class_accuracies_by_other_names_and_under_a_title():
    values = {name: {"n": 9, "recall": 0.5} for name in names(3)}
    by_label = drawn(evaluation_plots.class_accuracies(values))
    assert np.array_equal(drawn(evaluation_plots.class_accuracies(values, names={"no": "class"})), by_label)
    for other in ({"names": {names(3)[0]: "ox"}}, {"title": "test"}):
        assert not np.array_equal(drawn(evaluation_plots.class_accuracies(values, **other)), by_label)


@pytest.mark.parametrize(("classes", "columns"), [(3, 1), (50, 1), (51, 2)])
def test_every_class_has_its_bar_in_one_of_the_columns(classes, columns):
    values = {name: {"n": 9, "recall": 1.0} for name in names(classes)}
    pixels = drawn(evaluation_plots.class_accuracies(values)).astype(int)
    bars = 0
    for column in np.array_split(pixels, columns, axis=1):
        filled = (np.abs(column - [0x2A, 0x6F, 0x97]).sum(axis=2) < 60).mean(axis=1) > 0.2
        bars += int((np.diff(filled.astype(int)) == 1).sum())
    assert bars == classes


def test_a_dollar_is_a_dollar():
    odd = [r"$\frac$", "$_$", "$b", "c$d$e$"]
    drawn(evaluation_plots.confusion_matrix(np.eye(4, dtype=int), odd))
    drawn(evaluation_plots.class_accuracies({name: {"n": 2, "recall": 0.5} for name in odd}))
    drawn(photo_grids.photo_grid([np.full((9, 9, 3), 90, np.uint8)] * 4, odd), "JPEG")
    row = {"found": 2, "kept": 2, "train": 1, "val": 1, "test": 0}
    drawn(cleaning_plots.class_counts({"classes": dict.fromkeys(odd, row)}))


def test_small_shares_show_among_many_classes():
    classes = style.LARGEST_ANNOTATED + 1
    pictures = []
    for count in (0, 1):
        matrix = 20 * np.eye(classes, dtype=int)
        matrix[0, -1] = count
        pictures.append(drawn(evaluation_plots.confusion_matrix(matrix, ["x"] * classes)).astype(int))
    assert np.abs(pictures[1] - pictures[0]).sum(axis=2).max() > 60  # on the plain scale 45


@pytest.mark.parametrize("classes", COUNTS)
def test_reliability(classes):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes) / 3, 200)
    drawn(evaluation_plots.reliability(random.integers(0, classes, 200), probabilities))
    drawn(evaluation_plots.reliability(np.array([0]), np.eye(classes)[:1]))  # one photo, entirely sure


def test_plots_open_no_windows_and_keep_no_figures():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    cleaning_plots.class_counts(summary(2))
    assert pyplot.get_fignums() == before


def test_overlay_leaves_cold_places_and_colours_hot_ones():
    image = np.full((4, 6, 3), 100, np.uint8)
    heat = np.zeros((4, 6))
    heat[1, 2] = 1.0
    found = photo_grids.overlay(image, heat, strength=0.0)
    assert found.dtype == np.uint8 and found.shape == image.shape
    assert (found[0] == 100).all() and (found[1, 2] != 100).any()
    strong = photo_grids.overlay(image, heat, strength=0.9)
    # by hand: opacity 0.9 + 0.1 * 0.4 = 0.94 of inferno's last colour, (252, 255, 164)
    assert np.abs(strong[1, 2] - (0.06 * 100 + 0.94 * np.array([252, 255, 164]))).max() <= 1.5


def compared(*groups):
    """A table of runs, so many in each group, and one that has no figures."""
    rows = [
        {"run": f"{name}-{index}", "group": name, "split": "test", "n": 77, "problem": ""}
        for name, count in groups
        for index in range(count)
    ]
    rows = pd.DataFrame([*rows, {"run": "unfinished", "problem": "it has no model.keras"}])
    figures = {"top_1": 0.9, "top_1_low": 0.7, "top_1_high": 0.95, "seconds": 120.5, "parameters": 4_000_000}
    return rows.assign(**figures)


@pytest.mark.parametrize("groups", [[("one", 1)], [("one", 7), ("two", 1), ("a very long name of a set", 2)]])
def test_runs_side_by_side(groups, tmp_path):
    picture = comparison_plots.run_accuracies(compared(*groups), tmp_path / "runs.png")
    drawn(picture)
    written(tmp_path / "runs.png", picture)
    for cost in ("seconds", "parameters"):
        drawn(comparison_plots.accuracy_against(compared(*groups), cost))


def test_a_run_without_figures_takes_no_place():
    table = compared(("one", 2))
    whole, part = (drawn(comparison_plots.run_accuracies(rows)) for rows in (table, table.head(2)))
    assert np.array_equal(whole, part)


def trials(count):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"number": range(count), "value": random.random(count)})
    table["state"] = [("complete", "complete", "pruned", "failed", "running")[n % 5] for n in range(count)]
    table.loc[table.state.eq("failed"), "value"] = np.nan
    table["rate"] = pd.Series(10 ** random.uniform(-5, -1, count), dtype=object)
    table["kind"] = pd.Series([("sgd", True, "adamw")[n % 3] for n in range(count)], dtype=object)
    table["filters"] = pd.Series([None if n == 3 else 8 + n for n in range(count)], dtype=object)
    return table


@pytest.mark.parametrize("count", [1, 4, 300])
@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_search_history(count, monitor, tmp_path):
    picture = tuning_plots.search_history(trials(count), monitor, tmp_path / "search.png")
    drawn(picture)
    written(tmp_path / "search.png", picture)


def test_search_history_draws_the_best_so_far(monkeypatch):
    figures = []
    monkeypatch.setattr(style, "picture", lambda figure, path: figures.append(figure))
    table = trials(5).assign(value=[0.5, 0.7, 0.1, np.nan, 0.2])
    for monitor, best in (("val_loss", 0.5), ("val_accuracy", 0.7)):
        tuning_plots.search_history(table, monitor)
        line = next(line for line in figures[-1].axes[0].lines if line.get_label() == "best so far")
        assert list(line.get_ydata()) == [0.5, best, best, best, best]  # of the complete ones alone


@pytest.mark.parametrize("shares", [{}, {"rate": 1.0}, {f"parameter {n}": 1 / 9 for n in range(9)}])
def test_importances(shares, tmp_path):
    picture = tuning_plots.importances(shares, tmp_path / "importances.png")
    drawn(picture)
    written(tmp_path / "importances.png", picture)


@pytest.mark.parametrize("names", [["rate"], ["kind"], ["rate", "kind", "filters", "rate", "kind"]])
@pytest.mark.parametrize("count", [1, 300])
def test_value_by_parameter(names, count, tmp_path):
    picture = tuning_plots.value_by_parameter(trials(count), names, "val_loss", tmp_path / "grid.png")
    drawn(picture)
    written(tmp_path / "grid.png", picture)
