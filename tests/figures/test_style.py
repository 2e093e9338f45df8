"""Style: how a figure becomes a picture and a file."""

import io

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from lib.figures import cleaning_plots, photo_grids, style


def curve():
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot([1, 2], [3, 4])
    return figure


def test_a_figure_becomes_a_png_and_a_larger_file(tmp_path):
    picture = style.show(curve(), tmp_path / "folder" / "curve.png")
    with (
        Image.open(tmp_path / "folder" / "curve.png") as image,
        Image.open(io.BytesIO(picture.data)) as shown,
    ):
        assert image.format == shown.format == "PNG" and image.width > 1.5 * shown.width
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["curve.png"]


def test_photos_become_a_jpeg():
    figure = photo_grids.photo_grid([np.full((9, 9, 3), 90, np.uint8)], ["one"])
    assert Image.open(io.BytesIO(style.show(figure).data)).format == "JPEG"


def test_without_a_figure_the_file_of_an_earlier_run_is_removed(tmp_path):
    assert style.show(None) is None
    style.show(curve(), tmp_path / "wrong.png")
    for _ in range(2):
        assert style.show(None, tmp_path / "wrong.png") is None
        assert not list(tmp_path.iterdir())


def test_figures_open_no_windows_and_are_not_kept():
    before = pyplot.get_fignums()
    row = {"found": 2, "kept": 2, "train": 1, "val": 1, "test": 0}
    style.show(cleaning_plots.class_counts({"classes": {"a": row}}))
    assert pyplot.get_fignums() == before


def test_a_dollar_is_a_dollar():
    assert style.plain_text("$b$ and c") == r"\$b\$ and c"
