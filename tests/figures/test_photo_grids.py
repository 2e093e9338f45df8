"""Grids of photos and heatmaps over them."""

import numpy as np
import pandas as pd
import pytest
from rendering import rendered

from lib.figures import photo_grids, style


def shown(figure):
    """Return the photos and titles of a grid, in the order of reading."""
    drawn = [axes for axes in figure.axes if axes.images]
    places = [(-round(axes.get_position().y0, 3), axes.get_position().x0) for axes in drawn]
    assert places == sorted(places)
    return [axes.images[0].get_array() for axes in drawn], [axes.get_title() for axes in drawn]


@pytest.mark.parametrize(("count", "columns"), [(1, 6), (7, 3), (18, 6)])
def test_photos_are_in_their_order_under_their_titles(count, columns):
    photos = [np.full((30, 40, 3), 10 * number, np.uint8) for number in range(count)]
    titles = [f"photo {number}\nsecond line $" for number in range(count)]
    figure = photo_grids.photo_grid(photos, titles, columns=columns)
    images, drawn = shown(figure)
    assert [image[0, 0, 0] for image in images] == [10 * number for number in range(count)]
    assert drawn == [style.plain_text(title) for title in titles]
    rendered(figure, "JPEG")


def test_long_titles_are_wrapped():
    figure = photo_grids.photo_grid([np.full((9, 9, 3), 90, np.uint8)] * 6, ["word " * 12] * 6)
    assert all(len(line) <= 25 for line in figure.axes[0].get_title().split("\n"))


def test_cells_without_a_photo_stay_empty():
    photo = np.full((9, 9, 3), 90, np.uint8)
    figure = photo_grids.photo_grid([photo, None, photo], ["a", "", "c"], columns=2)
    assert [bool(axes.images) for axes in figure.axes] == [True, False, True, False]
    assert [axes.get_title() for axes in figure.axes] == ["a", "", "c", ""]


def test_without_photos_there_is_no_grid():
    assert photo_grids.photo_grid([], []) is None


def test_pairs_are_side_by_side_with_the_split_or_status_of_both():
    rows = {"path": ["cat/a.jpg", "dog/b.jpg"], "label": ["cat", "dog"], "split": ["train", ""]}
    table = pd.DataFrame(rows).assign(status=["kept", "leak"])
    pairs = pd.DataFrame({"first": [1], "second": [0], "kind": ["embedding"], "distance": [0.5]})
    photos = np.stack([np.full((9, 9, 3), value, np.uint8) for value in (10, 200)])
    figure = photo_grids.pair_grid(pairs, table, images=photos)
    images, titles = shown(figure)
    assert titles == ["b.jpg\ndog, leak, embedding", "a.jpg\ncat, train, embedding"]
    assert [image[0, 0, 0] for image in images] == [200, 10]
    rendered(figure, "JPEG")
    assert photo_grids.pair_grid(pairs[:0], table, images=photos) is None


def test_a_heatmap_is_coloured_from_black_to_yellow():
    colours = photo_grids.colour_heatmap(np.array([[0.0, 1.0]]))
    assert colours.dtype == np.uint8 and colours.shape == (1, 2, 3)
    # the ends of inferno are (0, 0, 3) and (252, 255, 164)
    assert np.abs(colours[0].astype(int) - [[0, 0, 3], [252, 255, 164]]).max() <= 1


def test_an_overlay_is_more_opaque_at_large_values():
    image, heatmap = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6))
    heatmap[1, 2] = 1.0
    result = photo_grids.overlay(image, heatmap)
    assert result.dtype == np.uint8 and result.shape == image.shape
    # by hand: half the photo and half black; at the maximum 0.3 of the photo and 0.7 of (252, 255, 164)
    rest = result[heatmap == 0]
    assert len(rest) == 23 and np.abs(rest - np.array([50, 50, 51.5])).max() <= 1.5
    assert np.abs(result[1, 2] - (0.3 * 100 + 0.7 * np.array([252, 255, 164]))).max() <= 1.5
