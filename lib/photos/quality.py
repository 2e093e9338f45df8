"""Flag image-quality issues: small, elongated, blurred, dark, overexposed, uniform, grey, outliers.

Photos with a flag are kept unless the parameters exclude them. The limits were chosen on five data sets, of
flowers, butterflies, birds, mammals and general objects, so that every flag is correct on inspection.
"""

from collections.abc import Sequence
from typing import get_args

import cv2
import numpy as np
import pandas as pd

from lib.core import schema

# Longer side that photos are resized to, in pixels, so that their sharpness can be compared.
SIDE = 128
# Number of rows and of columns of tiles.
TILES = 8
# Number of tiles in which sharpness is measured: the background may be out of focus.
SHARPEST = 16
# Quantiles of the pixels: a photo of a small bird in an empty sky is not uniform.
LOW, HIGH = 0.01, 0.99
COLUMNS = ["sharpness", "darkest", "brightest", "contrast", "colour"]
KINDS = list(get_args(schema.Flag))
# Limits of the flags, see `flags`. Of 9,237 photos of five data sets, 147 are flagged as greyscale, 54 as
# outliers and 15 with another flag; on inspection, all of them correctly.
# Shorter side in pixels.
SMALLEST_SIDE = 48
# Ratio of the longer side to the shorter side.
LARGEST_ASPECT_RATIO = 3.0
# In the units of the result of `measure`.
LEAST_SHARPNESS, LEAST_BRIGHTEST, MOST_DARKEST, LEAST_CONTRAST, LEAST_COLOUR = 1.0, 100.0, 110.0, 60.0, 8.0
# Score of `outliers`, in robust standard deviations.
OUTLIER = 4.0
# Maximum fraction of photos with a flag; a more frequent flag is a property of the data set, not an issue.
COMMON = 0.5
# Number of the nearest photos of its class that a photo is compared with.
NEIGHBOURS = 10
# Number of photos that are compared at a time, which bounds the memory.
ROWS_AT_ONCE = 256
_TINY = 1e-6


def measure(image: np.ndarray) -> dict[str, float]:
    """Measure a decoded photo.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.

    Returns:
        `sharpness`: root of the ratio of the energies of the second and the first derivative, in the quarter
        of the photo with the strongest edges, so that a background out of focus does not count. It is 1 to
        6, and halves when all details are twice as wide.
        `darkest`: 1 % quantile of the smallest channel of each pixel, 0 to 255.
        `brightest`: 99 % quantile of the largest channel of each pixel, 0 to 255.
        `contrast`: difference of the 99 % and 1 % quantiles, 0 to 255, of the channel with the largest.
        `colour`: 99 % quantile of the difference between the channels of each pixel, 0 to 255.
    """
    image = _shrink(image)
    channels = cv2.split(image)
    red, green, blue = channels
    smallest, largest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    ranges = [_quantiles(channel, LOW, HIGH) for channel in channels]
    return {
        "sharpness": round(_sharpness(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), 3),
        "darkest": _quantiles(smallest, LOW)[0],
        "brightest": _quantiles(largest, HIGH)[0],
        "contrast": max(high - low for low, high in ranges),
        "colour": _quantiles(largest - smallest, HIGH)[0],
    }


def _shrink(image: np.ndarray) -> np.ndarray:
    """Shrink a photo to `SIDE`: by area averaging with an integer factor, which is fast, then bilinearly."""
    height, width = image.shape[:2]
    factor = min(max(1, max(height, width) // SIDE), height, width)
    if factor > 1:
        blocks = image[: height // factor * factor, : width // factor * factor]
        image = cv2.resize(blocks, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    ratio = SIDE / max(height, width)
    if ratio >= 1:
        return image
    return cv2.resize(image, (max(1, round(width * ratio)), max(1, round(height * ratio))))


def _sharpness(grey: np.ndarray) -> float:
    """Return the sharpness of a grey image, see `measure`."""
    values = grey.astype(np.float32)
    second = cv2.Laplacian(values, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    across, down = cv2.spatialGradient(grey, borderType=cv2.BORDER_REPLICATE)
    first = across.astype(np.float32) ** 2 + down.astype(np.float32) ** 2
    curvatures, slopes = (
        cv2.resize(energy, (TILES, TILES), interpolation=cv2.INTER_AREA).ravel()
        for energy in (second * second, first)
    )
    edges = np.argsort(slopes)[-SHARPEST:]
    # The absolute weights of a Sobel filter sum to 8, so its energy is 64 times that of a difference.
    return float(np.sqrt(curvatures[edges].sum() / (slopes[edges].sum() / 64 + _TINY)))


def _quantiles(values: np.ndarray, *fractions: float) -> list[float]:
    """Return the smallest values that are not exceeded by at least each fraction of the pixels."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel().cumsum()
    return [float(np.searchsorted(counts, fraction * counts[-1])) for fraction in fractions]


def flags(table: pd.DataFrame) -> pd.DataFrame:
    """Flag the image-quality issues of each photo.

    A photo is flagged as small, elongated, blurred, dark, overexposed, uniform or greyscale if its measure is
    beyond the limit above, and as an outlier if its score is at least `OUTLIER`. A flag that would apply to
    more than the fraction `COMMON` of the photos is not set.

    Args:
        table: one row per photo, with the columns `width`, `height` and those of `measure`, NaN if the photo
            could not be read; and, to flag outliers, `outlier`, the result of `outliers`.

    Returns:
        A table on the same index. `flags`: those of `KINDS` that apply, such as "blurred,dark". `quality`:
        the same with the measures, such as "blurred (sharpness 0.67); dark (brightest 81)". Both are empty
        for a photo without a flag.
    """
    sides = table[["width", "height"]].where(table.sharpness.notna())
    shorter_side, ratio = sides.min(axis=1), (sides.max(axis=1) / sides.min(axis=1)).round(2)
    issues = {
        "small": ("shorter side", shorter_side, shorter_side < SMALLEST_SIDE),
        "elongated": ("sides as 1 to", ratio, ratio > LARGEST_ASPECT_RATIO),
        "blurred": ("sharpness", table.sharpness, table.sharpness < LEAST_SHARPNESS),
        "dark": ("brightest", table.brightest, table.brightest < LEAST_BRIGHTEST),
        "overexposed": ("darkest", table.darkest, table.darkest > MOST_DARKEST),
        "uniform": ("contrast", table.contrast, table.contrast < LEAST_CONTRAST),
        "greyscale": ("colour", table.colour, table.colour < LEAST_COLOUR),
    }
    if "outlier" in table:
        issues["outlier"] = ("deviations", table.outlier, table.outlier >= OUTLIER)
    kinds: list[list[str]] = [[] for _ in range(len(table))]
    texts: list[list[str]] = [[] for _ in range(len(table))]
    for kind, (measure_name, values, is_flagged) in issues.items():
        if is_flagged.sum() <= COMMON * values.notna().sum():
            for row in np.flatnonzero(is_flagged):
                kinds[row].append(kind)
                texts[row].append(f"{kind} ({measure_name} {values.iloc[row]:g})")
    columns = {"flags": [",".join(row) for row in kinds], "quality": ["; ".join(row) for row in texts]}
    return pd.DataFrame(columns, index=table.index)


def outliers(embeddings: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Compute outlier scores: how much each photo differs from the other photos of its class.

    Args:
        embeddings: `float32` of shape `(n, channels)`, 0 or more, the result of `embeddings.compute`.
        labels: the label of each photo; empty if it has no label.

    Returns:
        `float64` of shape `(n,)`: the mean distance from the 10 nearest photos of the class (1 minus the
        cosine of the vectors' square roots), in robust standard deviations (1.4826 times the median
        absolute deviation) above the median of the class. 0 in classes of fewer than 30 photos and for
        photos without a label. Of 12 foreign photos among 3,658 flowers, three quarters are in the top 1 %.
    """
    # Imported here because `chrysalis check` decodes no photo, and the import takes a second.
    from sklearn.preprocessing import normalize

    scores, labels = np.zeros(len(embeddings)), list(labels)
    for rows in pd.Series(labels).groupby(labels).indices.values():
        if len(rows) < 3 * NEIGHBOURS or not labels[rows[0]]:
            continue
        distances = _distances(normalize(np.sqrt(np.maximum(embeddings[rows], 0))))
        above = distances - np.median(distances)
        scores[rows] = above / (1.4826 * np.median(np.abs(above)) + _TINY)
    return scores


def _distances(units: np.ndarray) -> np.ndarray:
    """Return the mean distance of each vector, of length 1, from its nearest neighbours."""
    result = np.empty(len(units))
    for start in range(0, len(units), ROWS_AT_ONCE):
        # Shape (rows at once, all rows); a vector is not its own neighbour.
        cosines = units[start : start + ROWS_AT_ONCE] @ units.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest = np.partition(cosines, -NEIGHBOURS)[:, -NEIGHBOURS:]
        result[start : start + ROWS_AT_ONCE] = 1 - nearest.mean(axis=1)
    return result
