"""Render figures as a report shows them, and read what they show."""

import io

import numpy as np
from matplotlib.collections import PathCollection
from PIL import Image

from lib.figures import style


def rendered(figure, form="PNG"):
    """Return the pixels of a figure, after checking that it is a picture that a report can show."""
    picture = style.show(figure)
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.format == form
        width, height = image.size
        assert 100 <= width <= 2500 and 60 <= height <= 3000, image.size
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 2, "the picture is empty"
    return pixels


def assert_within_limits(figure):
    """Check that the limits of no axes cut a bar, a dot or a line."""
    for axes in figure.axes:
        corners = [corner for bar in axes.patches for corner in bar.get_bbox().get_points()]
        corners += [
            offset
            for dots in axes.collections
            if isinstance(dots, PathCollection)
            for offset in np.asarray(dots.get_offsets())
        ]
        # guides such as `axvline` are not in the coordinates of the data
        corners += [
            point
            for line in axes.lines
            if line.get_transform() == axes.transData
            for point in line.get_xydata()
        ]
        (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        for x, y in corners:
            assert left <= x <= right and low <= y <= high, (axes, x, y)


def names(classes):
    """Return long class names."""
    return [f"species {number} (früher Bläuling)" for number in range(classes)]


def texts(labels):
    """Return the texts of tick labels or of a legend."""
    return [label.get_text() for label in labels]
