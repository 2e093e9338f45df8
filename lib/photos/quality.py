"""How good each photo is as a photo: small, elongated, blurred, dark, overexposed, uniform, grey, or unlike its class.

What is measured here decides nothing: a flagged photo is kept unless the parameters say otherwise. The
default limits were chosen on five sets of photos of flowers, butterflies, birds, mammals and many things, so
that what they flag there looks so to a person.
"""

from collections.abc import Sequence
from typing import get_args

import cv2
import numpy as np
import pandas as pd

from lib.core import schema

SIDE = 128  # pixels of the longer side that photos are brought to, so that sharpness means the same for all
TILES = 8  # in a row and in a column
SHARPEST = 16  # tiles of the 64 that tell whether anything is in focus
FEW, MOST = 0.01, 0.99  # shares of the pixels: a small bird in an empty sky is a photo all the same
COLUMNS = ["sharpness", "darkest", "brightest", "contrast", "colour"]
KINDS = list(get_args(schema.Flag))
ROWS_AT_ONCE = 256  # bounds the memory of the comparison within a class
_TINY = 1e-6


def measure(image: np.ndarray) -> dict[str, float]:
    """Measure a decoded photo.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.

    Returns:
        `sharpness`: how strong the second derivative is against the first, in the quarter of the photo
        that has the strongest edges: a background out of focus does not count. 1 to 6, and half as much
        where all details are twice as wide. `darkest`, `brightest`: the values, 0 to 255, of the darkest
        channel of the darkest 1 % of the pixels, and of the brightest channel of the brightest 1 %.
        `contrast`: how far the darkest and the brightest 1 % lie apart, 0 to 255, in the channel where it is
        most. `colour`: how far red, green and blue lie apart, 0 to 255, in the most colourful 1 %.
    """
    image = _small(image)
    channels = cv2.split(image)
    red, green, blue = channels
    least, most = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    ranges = [_quantiles(channel, FEW, MOST) for channel in channels]
    return {
        "sharpness": round(_sharpness(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), 3),
        "darkest": _quantiles(least, FEW)[0],
        "brightest": _quantiles(most, MOST)[0],
        "contrast": max(high - low for low, high in ranges),
        "colour": _quantiles(most - least, MOST)[0],
    }


def _small(image):
    """Bring a photo to the side that all are measured at: by whole numbers first, which is fast, then bilinearly."""
    height, width = image.shape[:2]
    factor = min(max(1, max(height, width) // SIDE), height, width)
    if factor > 1:
        whole = image[: height // factor * factor, : width // factor * factor]
        image = cv2.resize(whole, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    ratio = SIDE / max(height, width)
    if ratio >= 1:
        return image
    return cv2.resize(image, (max(1, round(width * ratio)), max(1, round(height * ratio))))


def _sharpness(grey) -> float:
    values = grey.astype(np.float32)
    second = cv2.Laplacian(values, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    across, down = cv2.spatialGradient(grey, borderType=cv2.BORDER_REPLICATE)
    first = across.astype(np.float32) ** 2 + down.astype(np.float32) ** 2
    tiles = [
        cv2.resize(energy, (TILES, TILES), interpolation=cv2.INTER_AREA).ravel()
        for energy in (second * second, first)
    ]
    edges = np.argsort(tiles[1])[-SHARPEST:]
    return float(
        np.sqrt(tiles[0][edges].sum() / (tiles[1][edges].sum() / 64 + _TINY))
    )  # Sobel's weights sum to 8


def _quantiles(values, *shares) -> list[float]:
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel().cumsum()
    return [float(np.searchsorted(counts, share * counts[-1])) for share in shares]


def flags(
    table: pd.DataFrame,
    *,
    smallest: int = 48,
    widest: float = 3.0,
    sharpness: float = 1.0,
    brightest: float = 100.0,
    darkest: float = 110.0,
    contrast: float = 60.0,
    colour: float = 8.0,
    outlier: float = 4.0,
    common: float = 0.5,
) -> list[str]:
    """Say of each photo what is wrong with it.

    Of 9,237 photos of five sets the defaults flag 147 as greyscale, 54 as outliers and 15 for
    anything else, each of them rightly to the eye.

    Args:
        table: one row per photo, with the columns `width`, `height` and those that `measure` gives, not a
            number where the photo could not be read; and `outlier`, what `outliers` gives, where that is wanted.
        smallest: the shorter side below which a photo is small, in pixels.
        widest: the longer side over the shorter one beyond which a photo is elongated.
        sharpness, brightest, darkest, contrast, colour: a photo is blurred, dark, uniform or
            greyscale below these values of `measure`, and overexposed above `darkest`.
        outlier: the value of `outliers` from which a photo is an outlier of its class.
        common: what this share of the photos has in common is how the set is, and nobody's fault.

    Returns:
        For each photo those of `KINDS` that it is, with what was measured, such as
        "blurred (sharpness 0.67); dark (brightest 81)"; empty where there is none.
    """
    sides = table[["width", "height"]].where(table.sharpness.notna())
    shape = (sides.max(axis=1) / sides.min(axis=1)).round(2)
    values = [
        ("small", "shorter side", sides.min(axis=1), lambda value: value < smallest),
        ("elongated", "sides as 1 to", shape, lambda value: value > widest),
        ("blurred", "sharpness", table.sharpness, lambda value: value < sharpness),
        ("dark", "brightest", table.brightest, lambda value: value < brightest),
        ("overexposed", "darkest", table.darkest, lambda value: value > darkest),
        ("uniform", "contrast", table.contrast, lambda value: value < contrast),
        ("greyscale", "colour", table.colour, lambda value: value < colour),
    ]
    if "outlier" in table:
        values.append(("outlier", "deviations", table.outlier, lambda value: value >= outlier))
    found = pd.DataFrame("", index=table.index, columns=KINDS)
    for name, measure_of, column, wrong in values:
        rows = wrong(column)
        if 0 < rows.sum() <= common * column.notna().sum():
            found.loc[rows, name] = [f"{name} ({measure_of} {value:g})" for value in column[rows]]
    return ["; ".join(filter(None, row)) for row in found.to_numpy()]


def outliers(embeddings: np.ndarray, labels: Sequence[str], *, neighbours: int = 10) -> np.ndarray:
    """Score how unlike the other photos of its class each photo is.

    Args:
        embeddings: `float32` of shape `(n, channels)`, none negative, as `embeddings.compute` gives.
        labels: the label of each photo; those without one are not judged.
        neighbours: photos of its class that each is compared with, the nearest ones.

    Returns:
        `float64` of shape `(n,)`: the mean distance from its neighbours (one minus the cosine of the vectors'
        square roots), as robust standard deviations (1.4826 times the median absolute deviation) above its
        class's median. 0 in classes that have fewer than three times as many photos as neighbours. Of 12
        foreign photos among 3,658 flowers, three quarters are in the first 1 %.
    """
    scores, labels = np.zeros(len(embeddings)), list(labels)
    for rows in pd.Series(labels).groupby(labels).indices.values():
        if len(rows) < 3 * neighbours or not labels[rows[0]]:
            continue
        values = np.sqrt(np.maximum(embeddings[rows], 0))
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _TINY)
        distances = _distances(values, neighbours)
        above = distances - np.median(distances)
        scores[rows] = above / (1.4826 * np.median(np.abs(above)) + _TINY)
    return scores


def _distances(values, neighbours) -> np.ndarray:
    """Return each row's mean distance from the nearest others."""
    result = np.empty(len(values))
    for start in range(0, len(values), ROWS_AT_ONCE):
        cosines = values[start : start + ROWS_AT_ONCE] @ values.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        result[start : start + ROWS_AT_ONCE] = 1 - np.partition(cosines, -neighbours)[:, -neighbours:].mean(
            axis=1
        )
    return result
