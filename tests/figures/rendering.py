"""Render figures as a report shows them."""

import io

import numpy as np
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


def names(classes):
    """Return long class names."""
    return [f"species {number} (früher Bläuling)" for number in range(classes)]


def texts(labels):
    """Return the texts of tick labels or of a legend."""
    return [label.get_text() for label in labels]
