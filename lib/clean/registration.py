"""Lay one photo over another: is it the same shot, moved, turned, scaled, in other colours?

Points that stand out are described (ORB: Rublee et al., 2011) and matched; one shift, turn and scale that
many matches agree on is looked for (RANSAC); and under it the two pictures must be alike in grey. Wings of
one species agree on their points too, but not on what is around them. Turns are those of a careless hand,
up to 15 degrees, from upright or from a quarter of a circle.
"""

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 128  # pixels, whatever the size of the photos, so that the numbers below mean the same
POINTS = 200  # at most, in a photo
MATCHING_BITS = 64  # of 256, in which the descriptions of matching points may differ
TOLERANCE = 2.0  # pixels that a matching point may be off its place
LEAST_POINTS = 15  # that agree
LARGEST_SCALE, LARGEST_TURN = 1.6, 15  # of the transformation, the turn in degrees from a quarter of a circle
COARSE = 64  # pixels, the side at which the pictures are compared
LEAST_OVERLAP = 0.3  # of their area


class Described(NamedTuple):
    """What is needed of a photo to lay it over another.

    Attributes:
        grey: `uint8` of shape `(64, 64)`.
        places: `float32` of shape `(points, 2)`, x and y in pixels of a photo of side 128.
        codes: `uint64` of shape `(points, 4)`, 256 bits on what is around each point.
    """

    grey: np.ndarray
    places: np.ndarray
    codes: np.ndarray


def describe(image: np.ndarray, *, mirrored: bool = False) -> Described:
    """Find the points of a photo that stand out.

    Args:
        image: `uint8` of shape `(side, side, 3)`, RGB.
        mirrored: whether to mirror it first, left to right.
    """
    image = image[:, ::-1] if mirrored else image
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(
        grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA if len(grey) > SIDE else cv2.INTER_CUBIC
    )
    detector = cv2.ORB.create(nfeatures=POINTS, nlevels=6, edgeThreshold=12, patchSize=25, fastThreshold=5)
    points, codes = detector.detectAndCompute(grey, None)
    codes = np.empty((0, 32), np.uint8) if codes is None else codes
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    coarse = cv2.resize(grey, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return Described(coarse, places, codes.view(np.uint64))


def correlation(one: Described, two: Described) -> float:
    """Lay one photo over another and correlate their grey values where they overlap.

    Returns:
        -1 to 1: near 1 for two versions of one shot. 0 where no transformation is found on which enough
        points agree, which scales and turns moderately and keeps enough of the photo.
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
    first, second = _matches(one.codes, two.codes)
    if len(first) < LEAST_POINTS:
        return None
    matrix, agree = cv2.estimateAffinePartial2D(
        one.places[first], two.places[second], ransacReprojThreshold=TOLERANCE, maxIters=300
    )
    if matrix is None or agree.sum() < LEAST_POINTS:
        return None
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    turn = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    turn = abs((turn + 45) % 90 - 45)  # a photo that lost its EXIF orientation lies on its side
    moderate = 1 / LARGEST_SCALE < scale < LARGEST_SCALE and turn < LARGEST_TURN
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
