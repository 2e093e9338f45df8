"""Quality: each flag on a photo that has it and on none that has not, and outliers that are strangers."""

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import scene

from lib.photos import quality

SHARP = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def table(*images):
    rows = [{"width": image.shape[1], "height": image.shape[0]} | quality.measure(image) for image in images]
    return pd.DataFrame(rows)


def flags(*images, **limits):
    return quality.flags(table(*images), common=1, **limits)


@pytest.mark.parametrize(
    "kind, image",
    {
        "small": SHARP[:40],
        "elongated": np.tile(SHARP, (1, 3, 1)),
        "blurred": scene(3, 640, 480),
        "dark": SHARP // 3,
        "overexposed": 255 - SHARP // 2,
        "uniform": 130 + SHARP // 10,
        "greyscale": np.repeat(SHARP[..., :1], 3, axis=2),
    }.items(),
)
def test_each_kind(kind, image):
    plain, odd = flags(SHARP, image)
    assert plain == "" and f"{kind} (" in odd


def test_a_flag_says_what_was_measured():
    assert flags(SHARP[:40], smallest=41) == ["small (shorter side 40); elongated (sides as 1 to 4)"]
    grey = np.full((60, 60, 3), 90, np.uint8)
    assert "uniform (contrast 0)" in flags(grey)[0] and "greyscale (colour 0)" in flags(grey)[0]


def test_limits_are_as_documented():
    values = table(SHARP)
    assert quality.flags(values, common=1, smallest=120) == [""] and quality.flags(
        values, common=1, smallest=121
    ) != [""]
    assert quality.flags(values, common=1, widest=1.33) == [""]  # 160 / 120, rounded to two places
    assert quality.flags(values, common=1, widest=1.32) != [""]
    assert quality.flags(values, common=1, outlier=1) == [""]  # not measured
    assert quality.flags(values.assign(outlier=1.0), common=1, outlier=1) == ["outlier (deviations 1)"]


def test_what_most_photos_have_in_common_is_no_flag():
    grey = np.repeat(SHARP[..., :1], 3, axis=2)
    assert not any(quality.flags(table(grey, grey, SHARP)))
    assert [bool(text) for text in quality.flags(table(grey, SHARP, SHARP))] == [True, False, False]


def test_what_could_not_be_read_has_no_flag():
    values = pd.concat([table(SHARP), pd.DataFrame({"width": [0], "height": [0]})], ignore_index=True)
    assert quality.flags(values, common=1) == ["", ""]


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (7, 3), (129, 128), (2000, 1500)])
def test_photos_of_any_shape_are_measured(shape):
    values = quality.measure(np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
    assert list(values) == quality.COLUMNS and all(np.isfinite(list(values.values())))


def test_sharpness_falls_as_details_widen_and_does_not_depend_on_the_size():
    large = cv2.resize(SHARP, (1280, 960), interpolation=cv2.INTER_CUBIC)
    blurred = [quality.measure(cv2.GaussianBlur(large, (0, 0), sigma))["sharpness"] for sigma in (1, 8, 16)]
    assert blurred[0] > 1.2 * blurred[1] > 1.5 * blurred[2] > 0
    half = cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA)
    assert quality.measure(half)["sharpness"] == pytest.approx(quality.measure(large)["sharpness"], rel=0.1)


def test_quantiles_against_numpy():
    values = quality.measure(SHARP)
    small = cv2.resize(SHARP, (128, 96))
    least, most = small.min(axis=2), small.max(axis=2)
    assert values["darkest"] == pytest.approx(np.quantile(least, 0.01), abs=2)
    assert values["brightest"] == pytest.approx(np.quantile(most, 0.99), abs=2)
    assert values["colour"] == pytest.approx(np.quantile(most - least, 0.99), abs=2)


# Outliers


def vectors(seed=0, count=60):
    random = np.random.default_rng(seed)
    centre = np.zeros(32)
    centre[:8] = 4
    return np.maximum(centre + random.normal(0, 0.3, (count, 32)), 0).astype(np.float32)


def test_a_stranger_stands_out_in_its_class_alone():
    values = vectors()
    values[7] = np.roll(values[7], 16)
    labels = ["cat"] * 30 + ["dog"] * 30
    scores = quality.outliers(values, labels)
    assert scores.argmax() == 7 and scores[7] > 10 and np.sort(scores)[-2] < 6
    assert scores.shape == (60,) and np.median(scores[:30]) == pytest.approx(0, abs=0.5)


def test_small_classes_are_not_judged():
    values = vectors(count=40)
    scores = quality.outliers(values, ["cat"] * 29 + ["dog"] * 11)
    assert not scores.any()
    assert quality.outliers(values, ["cat"] * 30 + ["dog"] * 10)[:30].any()


def test_distances_by_brute_force(monkeypatch):
    values = vectors(count=33)
    roots = np.sqrt(values)
    roots /= np.linalg.norm(roots, axis=1, keepdims=True)
    cosines = np.sort(np.where(np.eye(33), -np.inf, roots @ roots.T))[:, -10:]
    distances = 1 - cosines.mean(axis=1)
    above = distances - np.median(distances)
    expected = above / (1.4826 * np.median(np.abs(above)))
    for at_once in (1024, 5):
        monkeypatch.setattr(quality, "ROWS_AT_ONCE", at_once)
        np.testing.assert_allclose(quality.outliers(values, ["cat"] * 33), expected, rtol=1e-3, atol=1e-3)
