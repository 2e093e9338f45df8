"""Random changes: those of a slow version in float64, and geometry and colours solved by hand."""

import colorsys

import cv2
import numpy as np
import pytest
from scipy import ndimage, stats

from lib.core.schema import Augment
from lib.train import augmentation
from lib.train.draws import Draws

NOTHING = {"flip": "none", "rotation": 0, "zoom": 0, "translation": 0, "contrast": 0, "brightness": 0}
COUNT, SIZE = 16, 9
FLOWERS = {"flip": "horizontal", "rotation": 20, "zoom": 0.2, "translation": 0.2, "brightness": 0.2}
COLOURS = {"contrast": 0.3, "brightness": 0.2, "saturation": 0.4, "hue": 0.1}


def noise(count=COUNT, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def grey(value, count=COUNT, size=SIZE):
    return np.full((count, size, size, 3), value, np.uint8)


def changed(photos, seed=3, size=None, **settings):
    rows = np.arange(len(photos))
    return augmentation.images(
        photos, rows, settings=Augment(**NOTHING | settings), draws=Draws(seed, 1, rows), size=size
    )


# A slow version: each pixel's position by products of matrices, interpolated in float64 without rounding.


def slow(photo, draws, index, *, settings, size):
    number = {name: draws.signed(name)[index] for name in SIGNED}
    matrix = shifted((photo.shape[0] - 1) / 2, (photo.shape[0] - 1) / 2)
    matrix = matrix @ shifted(*(number[name] * settings.translation * size for name in ("right", "down")))
    left, top, window = slow_window(draws, index, settings=settings, side=photo.shape[0], size=size)
    angle, shear = np.radians(number["angle"] * settings.rotation), number["shear"] * settings.shear
    rotation = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    scale = 1 / (1 + number["scale"] * settings.zoom)
    flips = [
        -1 if settings.flip != "none" and number["mirror"] < 0 else 1,
        -1 if settings.flip == "both" and number["upside"] < 0 else 1,
    ]
    matrix = matrix @ shifted(left, top) @ rotation @ np.diag([scale, scale, 1])
    matrix = matrix @ [[1, shear, 0], [0, 1, 0], [0, 0, 1]] @ np.diag([*flips, 1]) @ np.diag([*window, 1])
    matrix = matrix @ shifted(-(size - 1) / 2, -(size - 1) / 2)
    y, x = np.mgrid[:size, :size]
    x, y, _ = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), axes=1)
    # SciPy's "reflect" repeats the pixel at the border.
    moved = np.stack(
        [
            ndimage.map_coordinates(photo[..., channel].astype(float), [y, x], order=1, mode="reflect")
            for channel in range(3)
        ],
        axis=-1,
    )
    return slow_colours(moved, number, settings=settings)


SIGNED = (
    "angle",
    "scale",
    "shear",
    "down",
    "right",
    "mirror",
    "upside",
    "contrast",
    "brightness",
    "hue",
    "saturation",
)


def shifted(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def slow_window(draws, index, *, settings, side, size):
    """Return the shift of a crop's centre to the right and down, and its width and height per pixel."""
    if settings.crop == 1:
        return 0, 0, (1, 1)
    area = settings.crop + (1 - settings.crop) * draws.uniform("area")[index]
    aspect = (4 / 3) ** draws.signed("aspect")[index]
    width, height = min(np.sqrt(area * aspect), 1) * side, min(np.sqrt(area / aspect), 1) * side
    left, top = (draws.signed(name)[index] / 2 for name in ("left", "top"))
    return left * (side - width), top * (side - height), (width / size, height / size)


def slow_colours(photo, number, *, settings):
    mean = photo.mean()
    photo = (photo - mean) * (1 + number["contrast"] * settings.contrast) + mean
    photo = photo * (1 + number["brightness"] * settings.brightness)
    y, i, q = augmentation.TO_YIQ @ photo.reshape(-1, 3).T
    chroma = (i + 1j * q) * (1 + number["saturation"] * settings.saturation)
    chroma = chroma * np.exp(2j * np.pi * number["hue"] * settings.hue)
    photo = (np.linalg.inv(augmentation.TO_YIQ) @ [y, chroma.real, chroma.imag]).T.reshape(photo.shape)
    return np.clip(photo, 0, 255)


@pytest.mark.parametrize(
    ("settings", "side", "size"),
    [
        (FLOWERS, 64, 64),
        ({"flip": "both", "rotation": 180, "zoom": 0.5, "shear": 0.5, "translation": 0.9}, 48, 48),
        ({"crop": 0.3, "flip": "both", "rotation": 15}, 80, 60),
        (COLOURS, 31, 31),
        (FLOWERS | COLOURS | {"crop": 0.5, "shear": 0.2}, 61, 50),
    ],
    ids=["flowers", "geometry", "crop", "colours", "all"],
)
def test_photos_are_those_of_the_slow_version(settings, side, size):
    """The photos are smooth: an error of 1/32 pixel in a position changes a value by less than a level.

    Rounding between geometry and colours costs up to half a level, a quarter on average; higher contrast,
    brightness and saturation multiply it by up to 2.
    """
    photos = np.stack(
        [cv2.resize(photo, (side, side), interpolation=cv2.INTER_CUBIC) for photo in noise(12, 6)]
    )
    rows, chosen = np.array([7, 0, 11, 3]), Augment(**NOTHING | settings)
    draws = Draws(5, 2, rows)
    fast = augmentation.images(photos, rows, settings=chosen, draws=draws, size=size)
    for index, row in enumerate(rows):
        expected = slow(photos[row], draws, index, settings=chosen, size=size)
        difference = np.abs(fast[index] - expected)
        assert difference.mean() < 0.4 and difference.max() < 2


def test_all_zero_changes_nothing():
    result = changed(noise())
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, noise())


def test_a_flip_mirrors_exactly_about_half_of_the_photos():
    result = changed(noise(200), flip="horizontal")
    mirrored = [(after == before[:, ::-1]).all() for before, after in zip(noise(200), result, strict=True)]
    same = [(after == before).all() for before, after in zip(noise(200), result, strict=True)]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130


def test_both_flips_give_all_four_orientations():
    found = set()
    for before, after in zip(noise(60), changed(noise(60), flip="both"), strict=True):
        variants = {(v, h): before[::v, ::h] for v in (1, -1) for h in (1, -1)}
        (orientation,) = [key for key, value in variants.items() if (after == value).all()]
        found.add(orientation)
    assert len(found) == 4


def test_rotation_and_zoom_keep_the_centre():
    before, middle = noise(), SIZE // 2
    for settings in ({"rotation": 180}, {"zoom": 0.5}, {"rotation": 90, "zoom": 0.3, "flip": "both"}):
        after = changed(before, **settings)
        np.testing.assert_allclose(after[:, middle, middle], before[:, middle, middle], atol=1)
        assert np.abs(after - before).max() > 10


def test_the_angles_of_rotation_reach_their_limit_and_do_not_exceed_it():
    """A ray from the centre to the right is found at its angle."""
    size, count = 65, 400
    photos = grey(0, count, size)
    photos[:, 31:34, 50:60] = 255
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    result = changed(photos, rotation=20).mean(axis=-1)
    angles = np.degrees(np.arctan2((result * y).sum(axis=(1, 2)), (result * x).sum(axis=(1, 2))))
    assert 19 < angles.max() < 20.2 and -20.2 < angles.min() < -19
    assert stats.kstest(angles, "uniform", (-20, 40)).pvalue > 0.01


def test_shifts_reach_their_limit_and_do_not_exceed_it():
    size, count = 41, 400
    photos = grey(0, count, size)
    photos[:, 19:22, 19:22] = 255
    y, x = np.mgrid[:size, :size] - 20
    result = changed(photos, translation=0.2).mean(axis=-1)
    result /= result.sum(axis=(1, 2), keepdims=True)
    limit = 0.2 * size
    for line in (y, x):
        shift = (result * line).sum(axis=(1, 2))
        assert 0.95 * limit < shift.max() < limit + 0.1 and -limit - 0.1 < shift.min() < -0.95 * limit
        assert stats.kstest(shift, "uniform", (-limit, 2 * limit)).pvalue > 0.01


def test_the_scales_of_zoom_reach_their_limit_and_do_not_exceed_it():
    size, count = 65, 400
    photos = grey(0, count, size)
    # A square of 21 pixels.
    photos[:, 22:43, 22:43] = 255
    scales = np.sqrt(changed(photos, zoom=0.25).mean(axis=-1).sum(axis=(1, 2)) / 255) / 21
    assert 0.74 < scales.min() < 0.76 and 1.24 < scales.max() < 1.26
    assert stats.kstest(scales, "uniform", (0.75, 0.5)).pvalue > 0.01


def test_shear_shifts_rows_by_their_distance_from_the_centre():
    size, count = 65, 400
    photos = grey(0, count, size)
    # A vertical line through the centre.
    photos[:, :, 32] = 255
    result = changed(photos, shear=0.3).mean(axis=-1)
    columns = (result * np.arange(size)).sum(axis=2) / result.sum(axis=2)
    slopes = (columns[:, 48] - columns[:, 16]) / 32
    assert 0.29 < slopes.max() < 0.305 and -0.305 < slopes.min() < -0.29
    np.testing.assert_allclose(columns[:, 32], 32, atol=0.05)


def windows(side, size, count=400, **settings):
    """Return the positions of the left, right, upper and lower edge of each result in the photo."""
    y, x = np.mgrid[:side, :side].astype(np.uint8)
    result = changed(np.repeat(np.stack([x, y, x], axis=-1)[None], count, axis=0), size=size, **settings)
    assert result.shape == (count, size, size, 3)
    return (
        *(result[:, size // 2, column, 0] for column in (0, -1)),
        *(result[:, row, size // 2, 1] for row in (0, -1)),
    )


def test_a_random_crop_keeps_its_fraction_and_aspect_and_remains_inside():
    side, size = 128, 96
    left, right, top, bottom = windows(side, size, crop=0.5)
    width, height = (
        (last - first) / (size - 1) * size / side for first, last in ((left, right), (top, bottom))
    )
    area, aspect = width * height, width / height
    # A window of aspect 4:3 with all of the area does not fit: its long side is cut.
    assert 0.48 < area.min() < 0.53 and 0.97 < area.max() < 1.02
    assert 0.73 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.36
    assert min(left.min(), top.min()) >= 0 and max(right.max(), bottom.max()) < side
    assert left.std() > 5 and top.std() > 5


def test_without_a_random_crop_the_centre_is_cut_out():
    for settings in ({}, {"flip": "both"}):
        left, right, top, bottom = windows(40, 30, **settings)
        np.testing.assert_array_equal(np.sort([left, right], axis=0), [[5] * 400, [34] * 400])
        np.testing.assert_array_equal(np.sort([top, bottom], axis=0), [[5] * 400, [34] * 400])


def test_saturation_scales_the_distance_from_grey_and_keeps_the_luma():
    # Values far from 0 and 255, so that none is clipped.
    before = noise(400) // 5 + 100
    after = changed(before, saturation=0.5)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(after @ luma, before @ luma, atol=0.01)
    factors = [
        np.abs(one - (one @ luma)[..., None]).sum() / np.abs(other - (other @ luma)[..., None]).sum()
        for one, other in zip(after, before, strict=True)
    ]
    assert 0.499 < min(factors) < 0.52 and 1.48 < max(factors) < 1.501


def test_hue_rotates_colours_about_grey_by_up_to_its_limit():
    np.testing.assert_allclose(changed(grey(90), hue=0.5), 90, atol=0.01)
    before = np.full((400, 2, 2, 3), [130, 110, 120], np.uint8)
    angles = []
    for after in changed(before, hue=0.1)[:, 0, 0]:
        (y, i, q), (luma, j, r) = colorsys.rgb_to_yiq(*after), colorsys.rgb_to_yiq(130, 110, 120)
        # The standard library rounds the coefficients to two digits.
        assert abs(y - luma) < 0.2
        angles.append(np.degrees(np.arctan2(i * r - q * j, i * j + q * r)))
    # A tenth of the circle: 36 degrees.
    assert -37 < min(angles) < -34 and 34 < max(angles) < 37


def test_erasing_covers_a_rectangle_of_some_photos_with_noise():
    after = changed(grey(0, 2000, 50), erasing={"probability": 0.25, "min_area": 0.05, "max_area": 0.2})
    # A pixel of noise is black in one of 16 million cases.
    erased = (after != 0).any(axis=-1)
    fractions = erased.mean(axis=(1, 2))
    assert stats.binomtest(int((fractions > 0).sum()), 2000, 0.25).pvalue > 0.001
    # The edges are rounded to whole pixels.
    assert 0.04 < fractions[fractions > 0].min() < 0.06 and 0.19 < fractions.max() < 0.22
    aspects = []
    for mask in erased[fractions > 0]:
        width, height = mask.any(axis=0).sum(), mask.any(axis=1).sum()
        assert mask.sum() == width * height
        aspects.append(width / height)
    assert 0.26 < min(aspects) < 0.4 and 2.5 < max(aspects) < 3.9
    assert stats.kstest(after[erased].ravel(), stats.randint(0, 256).cdf).statistic < 0.01
    # Every column and every row is reached.
    assert erased.any(axis=(0, 1)).all() and erased.any(axis=(0, 2)).all()


def test_brightness_multiplies_and_contrast_stretches_about_the_mean():
    factors = changed(grey(100, 400), brightness=0.2)[:, 0, 0, 0] / 100
    assert 0.799 < factors.min() < 0.81 and 1.19 < factors.max() < 1.201
    np.testing.assert_allclose(changed(grey(100), contrast=0.5), 100, atol=1e-3)
    before = noise(400) // 5 + 100
    after = changed(before, contrast=0.5)
    np.testing.assert_allclose(after.mean(axis=(1, 2, 3)), before.mean(axis=(1, 2, 3)), atol=0.01)
    factors = after.std(axis=(1, 2, 3)) / before.std(axis=(1, 2, 3))
    assert 0.499 < factors.min() < 0.51 and 1.49 < factors.max() < 1.501


@pytest.mark.parametrize("colours", [{}, {"saturation": 0.9, "hue": 0.5}], ids=["plain", "with hue"])
def test_everything_together_remains_in_range(colours):
    settings = {"flip": "both", "rotation": 180, "zoom": 0.9, "translation": 0.9, "shear": 0.9}
    result = changed(noise(), **settings, contrast=0.9, brightness=0.9, **colours)
    assert result.dtype == np.float32 and result.shape == noise().shape
    assert result.min() == 0 and result.max() == 255


EACH = [{"rotation": 30}, {"translation": 0.3}, {"contrast": 0.5}, {"brightness": 0.5}, {"hue": 0.5}]
EACH += [{"zoom": 0.5}, {"crop": 0.3}, {"shear": 0.5}, {"saturation": 0.5}]


@pytest.mark.parametrize("settings", EACH, ids=str)
def test_photos_of_a_batch_are_changed_differently(settings):
    result = changed(np.repeat(noise(1), 4, axis=0), **settings)
    assert all(np.abs(result[0] - other).max() > 0.5 for other in result[1:])


def test_a_photo_is_changed_in_the_same_way_in_any_batch():
    settings = Augment(**FLOWERS | COLOURS | {"crop": 0.5, "erasing": {"probability": 0.5}})
    rows = np.array([8, 3, 11, 0])
    together = augmentation.images(noise(), rows, settings=settings, draws=Draws(3, 1, rows))
    for photo, row in zip(together, rows, strict=True):
        draws = Draws(3, 1, np.array([row]))
        alone = augmentation.images(noise(), np.array([row]), settings=settings, draws=draws)
        np.testing.assert_array_equal(alone[0], photo)


def test_photos_of_a_strided_view_are_read(tmp_path):
    """The centres of larger photos in a memory map."""
    np.save(tmp_path / "photos.npy", noise(4, 20))
    view = np.load(tmp_path / "photos.npy", mmap_mode="r")[:, 5:14, 5:14]
    for settings in (NOTHING, FLOWERS, COLOURS):
        np.testing.assert_array_equal(changed(view, **settings), changed(view.copy(), **settings))


def mixed(photos, labels, seed=3, alpha=0.4):
    return augmentation.mixup(photos, labels, alpha=alpha, draws=Draws(seed, 1, np.arange(len(photos))))


def test_mixup_blends_photos_as_it_blends_labels():
    labels = np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    # Every pixel of a photo identifies its class.
    values = np.array([10, 70, 150, 250], np.float32)
    photos = (labels @ values)[:, None, None, None] * np.ones((SIZE, SIZE, 3), np.float32)
    blended, fractions = mixed(photos, labels)
    assert blended.dtype == fractions.dtype == np.float32
    np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-5)
    assert ((fractions > 0.05) & (fractions < 0.95)).any()
    np.testing.assert_allclose(
        blended, (fractions @ values)[:, None, None, None] * np.ones_like(photos), atol=0.01
    )
    # The neighbours 0 and 1, 2 and 3 of each four are blended.
    for index, fraction in enumerate(fractions):
        assert set(np.flatnonzero(fraction)) <= {index % 4, index % 4 ^ 1}


def test_mixup_leaves_the_last_of_an_odd_number_as_it_is():
    photos, labels = noise(5).astype(np.float32), np.eye(5, dtype=np.float32)
    blended, fractions = mixed(photos, labels)
    np.testing.assert_allclose(blended[4], photos[4], atol=1e-3)
    np.testing.assert_allclose(fractions[4], labels[4], atol=1e-6)
    assert np.abs(blended[3] - photos[3]).max() > 1


@pytest.mark.parametrize("alpha", [0.2, 0.4, 2])
def test_mixup_draws_its_weights_from_a_beta_distribution(alpha):
    labels = np.tile(np.eye(2, dtype=np.float32), (2000, 1))
    _, fractions = mixed(np.zeros((4000, 1, 1, 3), np.float32), labels, alpha=alpha)
    first = fractions[np.arange(4000), labels.argmax(axis=1)]
    assert stats.kstest(first, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_repeats_with_its_seed():
    photos, labels = noise().astype(np.float32), np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    np.testing.assert_array_equal(mixed(photos, labels)[0], mixed(photos, labels)[0])
    assert np.abs(mixed(photos, labels, seed=4)[0] - mixed(photos, labels)[0]).max() > 1
