"""Align two photos to test whether they show the same shot, shifted, rotated, scaled or in other colours.

Key points are detected and described (ORB: Rublee et al., 2011) and matched. The shift, rotation and scale
are estimated from the matches (RANSAC), and the grey values of the aligned photos must correlate. The key
points of two wings of the same species may match too, but their surroundings do not correlate. Rotations of
up to 15 degrees from a multiple of 90 degrees are accepted, as with a hand-held camera.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Side in pixels that photos are resized to before detection, so that the limits below suit all sizes.
SIDE = 128
# Maximum number of key points of a photo.
KEYPOINTS = 200
# Maximum Hamming distance between the descriptors of two matching points, of 256 bits.
MATCHING_BITS = 64
# Maximum reprojection error of an inlier, in pixels.
TOLERANCE = 2.0
# Minimum number of inliers.
LEAST_INLIERS = 15
# Maximum scale factor, and maximum rotation in degrees from a multiple of 90.
LARGEST_SCALE, LARGEST_ROTATION = 1.6, 15
# Side in pixels at which the grey values are compared.
COARSE = 64
# Minimum overlap of the aligned photos, as a fraction of a photo.
LEAST_OVERLAP = 0.3


class Features(NamedTuple):
    """The features of a photo for the alignment.

    Attributes:
        grey: grey values, `uint8` of shape `(64, 64)`.
        keypoints: `float32` of shape `(points, 2)`, x and y in pixels of a photo of side 128.
        descriptors: ORB descriptors of the key points, 256 bits each, `uint64` of shape `(points, 4)`.
    """

    grey: np.ndarray
    keypoints: np.ndarray
    descriptors: np.ndarray


def describe(image: np.ndarray, *, mirrored: bool) -> Features:
    """Detect and describe the key points of a photo.

    Args:
        image: `uint8` of shape `(side, side, 3)`, RGB.
        mirrored: whether to mirror it first, left to right.
    """
    image = image[:, ::-1] if mirrored else image
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    interpolation = cv2.INTER_AREA if len(grey) > SIDE else cv2.INTER_CUBIC
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=interpolation)
    detector = cv2.ORB.create(nfeatures=KEYPOINTS, nlevels=6, edgeThreshold=12, patchSize=25, fastThreshold=5)
    points, descriptors = detector.detectAndCompute(grey, None)
    descriptors = np.empty((0, 32), np.uint8) if descriptors is None else descriptors
    keypoints = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    coarse = cv2.resize(grey, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return Features(coarse, keypoints, descriptors.view(np.uint64))


def correlation(moving: Features, fixed: Features) -> float:
    """Align one photo with another and correlate their grey values in the overlap.

    Returns:
        A number from -1 to 1, near 1 for two versions of the same shot; 0 if no transformation within the
        limits has enough inliers and overlap.
    """
    transformation = _transformation(moving, fixed)
    if transformation is None:
        return 0.0
    transformation[:, 2] *= COARSE / SIDE
    size = (COARSE, COARSE)
    overlap = cv2.warpAffine(np.ones(size, np.float32), transformation, size) > 0.99
    if overlap.mean() < LEAST_OVERLAP:
        return 0.0
    first = cv2.warpAffine(moving.grey.astype(np.float32), transformation, size)[overlap]
    second = fixed.grey[overlap].astype(np.float32)
    first, second = first - first.mean(), second - second.mean()
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths else 0.0


def _transformation(moving: Features, fixed: Features) -> np.ndarray | None:
    """Estimate the shift, rotation and scale from one photo to another, `float64` of shape `(2, 3)`.

    Returns:
        The matrix; `None` if there are fewer than 15 inliers, or the scale or rotation exceeds its limit.
    """
    first, second = _matches(moving.descriptors, fixed.descriptors)
    if len(first) < LEAST_INLIERS:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        moving.keypoints[first], fixed.keypoints[second], ransacReprojThreshold=TOLERANCE, maxIters=300
    )
    if matrix is None or inliers.sum() < LEAST_INLIERS:
        return None
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    degrees = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    # From the nearest multiple of 90: a photo that lost its EXIF orientation may be rotated by 90.
    rotation = abs((degrees + 45) % 90 - 45)
    moderate = 1 / LARGEST_SCALE < scale < LARGEST_SCALE and rotation < LARGEST_ROTATION
    return matrix if moderate else None


def _matches(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match similar descriptors that are mutual nearest neighbours: positions in both arrays."""
    if not len(moving) or not len(fixed):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distances = sum(
        np.bitwise_count(moving[:, word, None] ^ fixed[None, :, word]).astype(np.uint16) for word in range(4)
    )
    nearest = distances.argmin(axis=1)
    rows = np.arange(len(moving))
    mutual = (distances.argmin(axis=0)[nearest] == rows) & (distances[rows, nearest] <= MATCHING_BITS)
    return rows[mutual], nearest[mutual]
