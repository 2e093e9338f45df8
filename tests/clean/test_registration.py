"""Registration: a copy of a shot is aligned with it; a photo of something similar is not."""

import cv2
import numpy as np
import pytest

from lib.clean import registration


def drawn(seed, side=160):
    """Draw a photo with corners and edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def rotated(image, degrees, scale=1.0):
    matrix = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), degrees, scale)
    return cv2.warpAffine(image, matrix, image.shape[1::-1])


def described(image, mirrored=False):
    return registration.describe(image, mirrored=mirrored)


def compared(one, two, mirrored=False):
    return registration.correlation(described(one, mirrored), described(two))


COPIES = {
    "the same": lambda image: image,
    "other size": lambda image: cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA),
    "crop": lambda image: image[10:150, 20:160],
    "rotation": lambda image: rotated(image, 5),
    "a quarter of a circle": lambda image: np.rot90(image),
    "half a circle": lambda image: np.rot90(image, 2),
    "three quarters and a little": lambda image: rotated(np.rot90(image, 3), 5),
    "zoom": lambda image: rotated(image, 0, 1.3),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "grey": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_aligned_with_the_photo(copy):
    assert compared(drawn(0), copy(drawn(0))) > 0.9
    assert compared(copy(drawn(0)), drawn(0)) > 0.9


def test_a_mirror_image_is_aligned_only_if_mirrored():
    assert compared(drawn(0), drawn(0)[:, ::-1]) < 0.5
    assert compared(drawn(0), drawn(0)[:, ::-1], mirrored=True) > 0.99


def test_the_transformation_is_the_one_that_was_made():
    one, two = drawn(0, 128), rotated(drawn(0, 128), 7, 1.2)
    found = registration._transformation(described(one), described(two))
    expected = cv2.getRotationMatrix2D((64, 64), 7, 1.2)
    np.testing.assert_allclose(found, expected, atol=1)
    np.testing.assert_allclose(found[:, :2], expected[:, :2], atol=0.02)


def test_other_photos_are_not():
    assert [compared(drawn(0), drawn(seed)) for seed in range(1, 9)] == [0.0] * 8


def test_an_object_on_another_background_is_not_the_same_shot():
    one, two = drawn(0), drawn(1)
    two[20:100, 60:140] = one[40:120, 40:120]
    assert registration._transformation(described(one), described(two)) is not None
    assert compared(one, two) < 0.7


def test_upside_down_is_a_mirror_image_and_half_a_circle():
    assert compared(drawn(0), drawn(0)[::-1], mirrored=True) > 0.9


@pytest.mark.parametrize(
    "change",
    [lambda image: rotated(image, 40), lambda image: rotated(image, 0, 2.0)],
    ids=["rotation", "scale"],
)
def test_a_large_rotation_or_scale_is_not_the_same_shot(change):
    assert compared(drawn(0), change(drawn(0))) == 0


def features(keypoints, seed=0):
    """Return key points, each with a different descriptor."""
    descriptors = np.random.default_rng(seed).integers(0, 2**63, (len(keypoints), 4), dtype=np.uint64)
    return registration.Features(np.zeros((64, 64), np.uint8), np.asarray(keypoints, np.float32), descriptors)


def moved(degrees=0.0, scale=1.0, count=40):
    """Return points, and the same points rotated and scaled about the middle."""
    one = features(np.random.default_rng(1).uniform(20, 108, (count, 2)))
    matrix = cv2.getRotationMatrix2D((64, 64), degrees, scale)
    return (
        one,
        one._replace(keypoints=(one.keypoints @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)),
        matrix,
    )


@pytest.mark.parametrize("degrees", [0, 14.5, -14.5, 75.5, 90, 104.5, 180, -90])
@pytest.mark.parametrize("scale", [1, 1.58, 0.64])
def test_moderate_transformations_are_found(degrees, scale):
    one, two, matrix = moved(degrees, scale)
    np.testing.assert_allclose(registration._transformation(one, two), matrix, atol=0.05)


@pytest.mark.parametrize(
    ("degrees", "scale"), [(15.5, 1), (-15.5, 1), (45, 1), (74.5, 1), (105.5, 1), (0, 1.62), (0, 0.61)]
)
def test_transformations_beyond_the_limits_are_not(degrees, scale):
    assert registration._transformation(*moved(degrees, scale)[:2]) is None


def test_the_least_number_of_points_that_agree():
    assert registration._transformation(*moved(count=15)[:2]) is not None
    assert registration._transformation(*moved(count=14)[:2]) is None
    # Of 40 matches, 26 at random positions do not agree with the 14.
    one, two, _ = moved()
    keypoints = two.keypoints.copy()
    keypoints[14:] = np.random.default_rng(9).uniform(0, 128, (26, 2))
    assert registration._transformation(one, two._replace(keypoints=keypoints)) is None


def test_the_tolerance_of_the_inliers():
    one, two, matrix = moved()
    off = np.random.default_rng(4).uniform(-1, 1, (40, 2)).astype(np.float32)
    found = registration._transformation(one, two._replace(keypoints=two.keypoints + off))
    np.testing.assert_allclose(found, matrix, atol=1.5)
    far = np.where(np.arange(40)[:, None] % 2, 4, -4) * np.array([1, -1])
    far = far + np.random.default_rng(5).uniform(-12, 12, (40, 2))
    found = registration._transformation(
        one, two._replace(keypoints=(two.keypoints + far).astype(np.float32))
    )
    assert found is None


@pytest.mark.parametrize(("off", "aligned"), [(1.9, True), (2.1, False)])
def test_the_largest_error_of_an_inlier(off, aligned):
    # Ten exact matches, and four key points that are matched twice, to the left and to the right of the exact
    # position: without both, there are at most 14 inliers.
    keypoints = np.random.default_rng(1).uniform(20, 108, (14, 2))
    one = features(np.concatenate([keypoints, keypoints[10:]]))
    errors = np.concatenate([np.zeros(10), np.full(4, -off), np.full(4, off)])
    two = one._replace(keypoints=one.keypoints + np.outer(errors, [1, 0]).astype(np.float32))
    assert (registration._transformation(one, two) is not None) == aligned


@pytest.mark.parametrize("side", [96, 128, 256])
def test_large_photos_shrink_by_area_averaging_and_small_ones_grow_bicubically(side):
    image = cv2.resize(drawn(0, 512), (side, side), interpolation=cv2.INTER_AREA)
    method = cv2.INTER_AREA if side > 128 else cv2.INTER_CUBIC
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (128, 128), interpolation=method)
    expected = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(described(image).grey, expected)


def test_the_features_of_a_mirrored_photo_are_those_of_its_mirror_image():
    for mirrored, mirror_image in zip(described(drawn(0), True), described(drawn(0)[:, ::-1]), strict=True):
        np.testing.assert_array_equal(mirrored, mirror_image)
    assert len(mirrored) > 15


def test_a_small_overlap_is_not_the_same_shot(monkeypatch):
    half = np.roll(drawn(0), 80, axis=1)
    assert compared(drawn(0), half) > 0.9
    monkeypatch.setattr(registration, "LEAST_OVERLAP", 0.6)
    assert compared(drawn(0), half) == 0


@pytest.mark.parametrize("value", [0, 255])
def test_a_photo_without_points(value):
    flat = np.full((64, 64, 3), value, np.uint8)
    assert described(flat).keypoints.shape == (0, 2) and described(flat).descriptors.shape == (0, 4)
    assert compared(flat, flat) == compared(flat, drawn(0)) == compared(drawn(0), flat) == 0


def test_matches_are_those_of_a_brute_force_search():
    random = np.random.default_rng(0)
    one = random.integers(0, 2**63, (30, 4), dtype=np.uint64)
    two = np.concatenate([one[10:] ^ np.uint64(5), random.integers(0, 2**63, (7, 4), dtype=np.uint64)])
    bits = [[sum(int(a ^ b).bit_count() for a, b in zip(x, y, strict=True)) for y in two] for x in one]
    expected = [
        (i, j)
        for i, row in enumerate(bits)
        for j in range(len(two))
        if row[j] == min(row) == min(other[j] for other in bits) and row[j] <= registration.MATCHING_BITS
    ]
    assert list(zip(*map(np.ndarray.tolist, registration._matches(one, two)), strict=True)) == expected
    assert len(expected) == 20
    assert [len(rows) for rows in registration._matches(one, one[:0])] == [0, 0]
