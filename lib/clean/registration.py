"""Align one photo with another: is it the same shot, shifted, rotated, scaled, in other colours?

Key points are described (ORB: Rublee et al., 2011) and matched; one shift, rotation and scale that many
matches agree on is estimated (RANSAC); and after this alignment the two photos must be alike in grey.
Wings of one species agree on their key points too, but not on their surroundings. Rotations are those of a
careless hand, up to 15 degrees, from upright or from a quarter of a circle.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Pixels, whatever the size of the photos, so that the numbers below mean the same.
SIDE = 128
# Key points of a photo, at most.
POINTS = 200
# Of 256, in which the descriptions of matching points may differ.
MATCHING_BITS = 64
# Pixels that a matching point may be off its place.
TOLERANCE = 2.0
# Matches that agree.
LEAST_POINTS = 15
# Of the transformation: a factor, and degrees from a quarter of a circle.
LARGEST_SCALE, LARGEST_ROTATION = 1.6, 15
# Pixels, the side at which the photos are compared.
COARSE = 64
# Fraction of their area.
LEAST_OVERLAP = 0.3


class Described(NamedTuple):
    """The description of a photo that an alignment needs.

    Attributes:
        grey: `uint8` of shape `(64, 64)`.
        positions: `float32` of shape `(points, 2)`, x and y in pixels of a photo of side 128.
        codes: `uint64` of shape `(points, 4)`, 256 bits on the surroundings of each point.
    """

    grey: np.ndarray
    positions: np.ndarray
    codes: np.ndarray


def describe(image: np.ndarray, *, mirrored: bool = False) -> Described:
    """Find and describe the key points of a photo.

    Args:
        image: `uint8` of shape `(side, side, 3)`, RGB.
        mirrored: whether to mirror it first, left to right.
    """
    image = image[:, ::-1] if mirrored else image
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    interpolation = cv2.INTER_AREA if len(grey) > SIDE else cv2.INTER_CUBIC
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=interpolation)
    detector = cv2.ORB.create(nfeatures=POINTS, nlevels=6, edgeThreshold=12, patchSize=25, fastThreshold=5)
    points, codes = detector.detectAndCompute(grey, None)
    codes = np.empty((0, 32), np.uint8) if codes is None else codes
    positions = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    coarse = cv2.resize(grey, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return Described(coarse, positions, codes.view(np.uint64))


def correlation(one: Described, two: Described) -> float:
    """Align one photo with another and correlate their grey values in the overlap.

    Returns:
        -1 to 1: near 1 for two versions of one shot. 0 if there is no moderate transformation on which
        enough points agree and which keeps enough of the photo.
    """
    transformation = _transformation(one, two)
    if transformation is None:
        return 0.0
    transformation[:, 2] *= COARSE / SIDE
    size = (COARSE, COARSE)
    inside = cv2.warpAffine(np.ones(size, np.float32), transformation, size) > 0.99
    if inside.mean() < LEAST_OVERLAP:
        return 0.0
    first = cv2.warpAffine(one.grey.astype(np.float32), transformation, size)[inside]
    second = two.grey[inside].astype(np.float32)
    first, second = first - first.mean(), second - second.mean()
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths else 0.0


def _transformation(one: Described, two: Described) -> np.ndarray | None:
    """Estimate the shift, rotation and scale from one photo to another, `float64` of shape `(2, 3)`.

    Returns:
        None if fewer than 15 matches agree, or if the scale or the rotation is not moderate.
    """
    first, second = _matches(one.codes, two.codes)
    if len(first) < LEAST_POINTS:
        return None
    matrix, agree = cv2.estimateAffinePartial2D(
        one.positions[first], two.positions[second], ransacReprojThreshold=TOLERANCE, maxIters=300
    )
    if matrix is None or agree.sum() < LEAST_POINTS:
        return None
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    degrees = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    # From a quarter of a circle: a photo that lost its EXIF orientation lies on its side.
    rotation = abs((degrees + 45) % 90 - 45)
    moderate = 1 / LARGEST_SCALE < scale < LARGEST_SCALE and rotation < LARGEST_ROTATION
    return matrix if moderate else None


def _matches(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that are each other's nearest, and near: positions in `one` and in `two`."""
    if not len(one) or not len(two):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distances = sum(
        np.bitwise_count(one[:, word, None] ^ two[None, :, word]).astype(np.uint16) for word in range(4)
    )
    nearest = distances.argmin(axis=1)
    own = np.arange(len(one))
    mutual = (distances.argmin(axis=0)[nearest] == own) & (distances[own, nearest] <= MATCHING_BITS)
    return own[mutual], nearest[mutual]
