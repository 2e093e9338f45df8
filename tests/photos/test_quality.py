"""Quality: each flag is set on a photo with the issue only, and foreign photos are outliers."""

import cv2
import numpy as np
import pandas as pd
import pytest
from shared import scene

from lib.photos import quality

SHARP = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def table(*images):
    rows = [{"width": image.shape[1], "height": image.shape[0]} | quality.measure(image) for image in images]
    return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def every_photo_may_have_a_flag(monkeypatch):
    monkeypatch.setattr(quality, "COMMON", 1)


def flags(*images):
    return list(quality.flags(table(*images)).quality)


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
    plain, odd = quality.flags(table(SHARP, image)).itertuples(index=False)
    assert tuple(plain) == ("", "") and kind in odd.flags.split(",") and f"{kind} (" in odd.quality


def test_a_flag_has_its_measure():
    assert flags(SHARP[:40]) == ["small (shorter side 40); elongated (sides as 1 to 4)"]
    assert list(quality.flags(table(SHARP[:40]))["flags"]) == ["small,elongated"]
    grey = np.full((60, 60, 3), 90, np.uint8)
    assert "uniform (contrast 0)" in flags(grey)[0] and "greyscale (colour 0)" in flags(grey)[0]


@pytest.mark.parametrize(
    ("kind", "column", "flagged", "plain"),
    [
        ("small", "height", 47, 48),
        ("elongated", "width", 301, 300),
        ("blurred", "sharpness", 0.999, 1.0),
        ("dark", "brightest", 99, 100),
        ("overexposed", "darkest", 111, 110),
        ("uniform", "contrast", 59, 60),
        ("greyscale", "colour", 7.9, 8.0),
        ("outlier", "outlier", 4.0, 3.99),
    ],
)
def test_limits_are_as_documented(kind, column, flagged, plain):
    values = {"width": 100, "height": 100, "sharpness": 2, "brightest": 200, "darkest": 20}
    row = pd.Series(values | {"contrast": 150, "colour": 90, "outlier": 0}, dtype=float)
    photos = pd.DataFrame([row, row, row])
    photos.iloc[1, photos.columns.get_loc(column)] = flagged
    photos.iloc[2, photos.columns.get_loc(column)] = plain
    photos.index = [5, 3, 8]
    flagged_photos = quality.flags(photos)
    assert list(flagged_photos["flags"]) == ["", kind, ""] and list(flagged_photos.index) == [5, 3, 8]


def test_outliers_are_flagged_only_if_they_were_measured():
    assert list(quality.flags(table(SHARP))["flags"]) == [""]
    assert quality.flags(table(SHARP).assign(outlier=5.0)).quality.tolist() == ["outlier (deviations 5)"]


def test_an_issue_of_most_photos_is_no_flag(monkeypatch):
    monkeypatch.undo()
    grey = np.repeat(SHARP[..., :1], 3, axis=2)
    assert not any(flags(grey, grey, SHARP))
    assert [bool(text) for text in flags(grey, SHARP, SHARP)] == [True, False, False]
    assert [bool(text) for text in flags(grey, SHARP)] == [True, False]


def test_an_unreadable_photo_has_no_flag():
    values = pd.concat([table(SHARP), pd.DataFrame({"width": [0], "height": [0]})], ignore_index=True)
    assert list(quality.flags(values).quality) == ["", ""]


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (7, 3), (129, 128), (2000, 1500)])
def test_photos_of_any_shape_are_measured(shape):
    values = quality.measure(np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
    assert list(values) == quality.COLUMNS and all(np.isfinite(list(values.values())))


def test_sharpness_compares_derivatives_in_the_quarter_with_the_strongest_edges():
    random = np.random.default_rng(4)
    contrast = cv2.resize(random.uniform(0.05, 1, (8, 8)), (128, 96), interpolation=cv2.INTER_NEAREST)
    grey = (random.integers(0, 256, (96, 128)) * contrast).astype(np.uint8)
    around = np.pad(grey.astype(float), 1, mode="edge")
    rows, columns = np.indices(grey.shape)
    # The photo moved by each step down and to the right.
    moved = {(y, x): around[rows + 1 + y, columns + 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)}
    second = moved[0, 1] + moved[0, -1] + moved[1, 0] + moved[-1, 0] - 4 * moved[0, 0]
    weights = {-1: 1, 0: 2, 1: 1}
    across = sum(weights[y] * (moved[y, 1] - moved[y, -1]) for y in weights)
    down = sum(weights[x] * (moved[1, x] - moved[-1, x]) for x in weights)
    fine, coarse = (
        energy.reshape(8, 12, 8, 16).mean(axis=(1, 3)).ravel() for energy in (second**2, across**2 + down**2)
    )
    strongest = np.argsort(coarse)[-16:]
    expected = np.sqrt(64 * fine[strongest].sum() / coarse[strongest].sum())
    measured = quality.measure(np.dstack([grey] * 3))["sharpness"]
    assert measured == pytest.approx(expected, abs=6e-4)


def test_sharpness_falls_as_details_widen_and_does_not_depend_on_the_size():
    large = cv2.resize(SHARP, (1280, 960), interpolation=cv2.INTER_CUBIC)
    blurred = [quality.measure(cv2.GaussianBlur(large, (0, 0), sigma))["sharpness"] for sigma in (1, 8, 16)]
    assert blurred[0] > 1.2 * blurred[1] > 1.5 * blurred[2] > 0
    half = cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA)
    assert quality.measure(half)["sharpness"] == pytest.approx(quality.measure(large)["sharpness"], rel=0.1)


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((300, 400), (96, 128)),
        ((400, 300), (128, 96)),
        ((1000, 900), (128, 115)),
        ((1000, 650), (128, 83)),
        ((128, 100), (128, 100)),
        ((60, 80), (60, 80)),
        ((3, 900), (1, 128)),
    ],
)
def test_photos_are_measured_at_one_side_and_never_enlarged(shape, small):
    assert quality._shrink(np.zeros((*shape, 3), np.uint8)).shape == (*small, 3)


def test_a_photo_is_shrunk_by_averages_of_whole_blocks():
    image = np.random.default_rng(2).integers(0, 256, (256, 384, 3), np.uint8)
    # By 3, then no more: 85 x 128.
    blocks = image[:255].reshape(85, 3, 128, 3, 3).mean(axis=(1, 3))
    assert np.abs(quality._shrink(image) - blocks).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99, 1.0])
def test_quantiles_are_the_smallest_values_that_suffice(fraction):
    values = np.random.default_rng(3).integers(0, 256, (20, 30), np.uint8)
    expected = next(value for value in range(256) if (values <= value).sum() >= fraction * values.size)
    assert quality._quantiles(values, fraction) == [expected]
    assert quality._quantiles(values, fraction, 0.5) == [expected, np.sort(values, axis=None)[299]]


def test_measures_are_those_of_the_quantiles():
    values = quality.measure(SHARP)
    small = cv2.resize(SHARP, (128, 96))
    least, most = small.min(axis=2), small.max(axis=2)
    assert values["darkest"] == pytest.approx(np.quantile(least, 0.01), abs=2)
    assert values["brightest"] == pytest.approx(np.quantile(most, 0.99), abs=2)
    assert values["colour"] == pytest.approx(np.quantile(most - least, 0.99), abs=2)
    low, high = np.quantile(small, [0.01, 0.99], axis=(0, 1))
    assert values["contrast"] == pytest.approx((high - low).max(), abs=2)


# Outliers


def vectors(seed=0, count=60):
    random = np.random.default_rng(seed)
    centre = np.zeros(32)
    centre[:8] = 4
    return np.maximum(centre + random.normal(0, 0.3, (count, 32)), 0).astype(np.float32)


def test_a_foreign_photo_has_the_highest_score_of_its_class():
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
