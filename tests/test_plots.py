"""Pictures: each function draws, for few classes and for many, and writes the file that it is given."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import plots

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
    picture = plots.class_counts(summary(classes))
    drawn(picture)
    assert len(picture.data) < 300_000


@pytest.mark.parametrize(("count", "columns"), [(0, 6), (1, 6), (7, 3), (18, 6)])
def test_photo_grid(count, columns, tmp_path):
    images = [np.full((30, 40, 3), 10 * number, np.uint8) for number in range(count)]
    titles = [f"a very long title of a photo number {number}\nsecond line" for number in range(count)]
    path = tmp_path / "grid.png" if count < 2 else None
    picture = plots.photo_grid(images, titles, columns=columns, path=path)
    if path:
        assert path.is_file()
    if count:
        drawn(picture, "JPEG")
    if count == 1:
        written(path, picture)


def test_photo_grid_shows_the_photos_in_their_order():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pixels = drawn(
        plots.photo_grid([np.full((40, 40, 3), colour, np.uint8) for colour in colours], [""] * 3, columns=3),
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


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_training_curves(epochs, tmp_path):
    picture = plots.training_curves(history(epochs), tmp_path / "curves.png")
    drawn(picture)
    written(tmp_path / "curves.png", picture)


@pytest.mark.parametrize("classes", COUNTS)
def test_confusion_matrix(classes, tmp_path):
    matrix = np.random.default_rng(0).integers(0, 9, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    matrix[0] = 0  # a class without photos
    picture = plots.confusion_matrix(matrix, names(classes), tmp_path / "matrix.png")
    drawn(picture)
    written(tmp_path / "matrix.png", picture)


@pytest.mark.parametrize("classes", COUNTS)
def test_class_accuracies(classes, tmp_path):
    values = {
        name: {"n": index, "precision": 0.5, "recall": index / classes, "f1": 0.5}
        for index, name in enumerate(names(classes), start=1)
    }
    values["absent"] = {"n": 0, "precision": 0, "recall": 0, "f1": 0}
    picture = plots.class_accuracies(values, tmp_path / "bars.png")
    drawn(picture)
    written(tmp_path / "bars.png", picture)


@pytest.mark.parametrize("classes", COUNTS)
def test_reliability(classes):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes) / 3, 200)
    drawn(plots.reliability(random.integers(0, classes, 200), probabilities))
    drawn(plots.reliability(np.array([0]), np.eye(classes)[:1]))  # one photo, entirely sure


def test_plots_open_no_windows_and_keep_no_figures():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plots.class_counts(summary(2))
    assert pyplot.get_fignums() == before


def test_overlay_leaves_cold_places_and_colours_hot_ones():
    image = np.full((4, 6, 3), 100, np.uint8)
    heat = np.zeros((4, 6))
    heat[1, 2] = 1.0
    found = plots.overlay(image, heat, strength=0.0)
    assert found.dtype == np.uint8 and found.shape == image.shape
    assert (found[0] == 100).all() and (found[1, 2] != 100).any()
    strong = plots.overlay(image, heat, strength=0.9)
    # by hand: opacity 0.9 + 0.1 * 0.4 = 0.94 of inferno's last colour, (252, 255, 164)
    assert np.abs(strong[1, 2] - (0.06 * 100 + 0.94 * np.array([252, 255, 164]))).max() <= 1.5
