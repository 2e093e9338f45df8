"""Random changes: nothing where nothing is asked for, the seed alone decides, and geometry solved by hand."""

import colorsys

import numpy as np
import pytest

from lib.core.schema import Augment
from lib.networks.device import tf
from lib.train import augmentation

NOTHING = {"flip": "none", "rotation": 0, "zoom": 0, "translation": 0, "contrast": 0, "brightness": 0}
COUNT, SIZE = 16, 9


def photos(count=COUNT, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def changed(batch, seed=3, **settings):
    return augmentation.images(
        tf.constant(batch), Augment(**NOTHING | settings), seed=tf.constant([seed, 1], tf.int64)
    ).numpy()


def test_all_zero_changes_nothing():
    np.testing.assert_array_equal(changed(photos()), photos())
    whole = changed(photos().astype(np.uint8))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, photos())


def test_a_flip_mirrors_exactly_about_half_of_the_photos():
    result = changed(photos(200), flip="horizontal")
    mirrored = [
        np.abs(after - before[:, ::-1]).max() < 1e-3
        for before, after in zip(photos(200), result, strict=True)
    ]
    same = [np.abs(after - before).max() < 1e-3 for before, after in zip(photos(200), result, strict=True)]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130


def test_both_flips_give_all_four_orientations():
    found = set()
    for before, after in zip(photos(60), changed(photos(60), flip="both"), strict=True):
        variants = {(v, h): before[::v, ::h] for v in (1, -1) for h in (1, -1)}
        found |= {key for key, value in variants.items() if np.abs(after - value).max() < 1e-3}
        assert any(np.abs(after - value).max() < 1e-3 for value in variants.values())
    assert len(found) == 4


def test_rotation_and_zoom_keep_the_centre():
    before, middle = photos(), SIZE // 2
    for settings in ({"rotation": 180}, {"zoom": 0.5}, {"rotation": 90, "zoom": 0.3, "flip": "both"}):
        after = changed(before, **settings)
        np.testing.assert_allclose(after[:, middle, middle], before[:, middle, middle], atol=0.05)
        assert np.abs(after - before).max() > 10


def test_rotation_turns_by_no_more_than_its_limit():
    """A ray from the centre to the right is found at its angle."""
    size, count = 65, 50
    batch = np.zeros((count, size, size, 3), np.float32)
    batch[:, 31:34, 50:60] = 255
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    result = changed(batch, rotation=20).mean(axis=-1)
    angles = np.degrees(np.arctan2((result * y).sum(axis=(1, 2)), (result * x).sum(axis=(1, 2))))
    assert np.abs(angles).max() <= 20.5
    assert angles.max() > 10 and angles.min() < -10


def test_translation_moves_by_no_more_than_its_limit():
    size, count = 41, 50
    batch = np.zeros((count, size, size, 3), np.float32)
    batch[:, 20, 20] = 255
    y, x = np.mgrid[:size, :size] - 20
    result = changed(batch, translation=0.2).mean(axis=-1)
    result /= result.sum(axis=(1, 2), keepdims=True)
    for line in (y, x):
        shift = (result * line).sum(axis=(1, 2))
        assert np.abs(shift).max() <= 0.2 * size + 0.1
        assert shift.max() > 4 and shift.min() < -4


def test_zoom_changes_the_scale_by_no_more_than_its_limit():
    size, count = 65, 50
    batch = np.zeros((count, size, size, 3), np.float32)
    batch[:, 22:43, 22:43] = 255  # a square of 21 pixels
    sides = np.sqrt(changed(batch, zoom=0.25).mean(axis=-1).sum(axis=(1, 2)) / 255)
    assert (sides > 21 * 0.75 - 0.5).all() and (sides < 21 * 1.25 + 0.5).all()
    assert sides.min() < 19 and sides.max() > 23


def test_shear_shifts_rows_by_their_distance_from_the_centre():
    size, count = 65, 50
    batch = np.zeros((count, size, size, 3), np.float32)
    batch[:, :, 32] = 255  # a vertical line through the centre
    columns = (changed(batch, shear=0.3).mean(axis=-1) * np.arange(size)).sum(axis=2)
    columns /= changed(batch, shear=0.3).mean(axis=-1).sum(axis=2)
    slopes = (columns[:, 48] - columns[:, 16]) / 32
    assert np.abs(slopes).max() <= 0.31 and slopes.max() > 0.15 and slopes.min() < -0.15
    np.testing.assert_allclose(columns[:, 32], 32, atol=0.05)


def windows(side, size, count=200, **settings):
    """Return where the left, right, upper and lower edge of each result lie in the photo, in pixels."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    batch = np.repeat(np.stack([x, y, x], axis=-1)[None], count, axis=0)
    result = augmentation.images(
        tf.constant(batch), Augment(**NOTHING | settings), seed=tf.constant([3, 1], tf.int64), size=size
    ).numpy()
    assert result.shape == (count, size, size, 3)
    return (
        *(result[:, size // 2, column, 0] for column in (0, -1)),
        *(result[:, row, size // 2, 1] for row in (0, -1)),
    )


def test_a_random_crop_keeps_the_share_and_the_aspect_that_it_may_and_stays_inside():
    side, size = 128, 96
    left, right, top, bottom = windows(side, size, crop=0.5)
    width, height = (
        (last - first) / (size - 1) * size / side for first, last in ((left, right), (top, bottom))
    )
    area, aspect = width * height, width / height
    assert 0.5 - 0.15 < area.min() < 0.56 and 0.9 < area.max() <= 1.001  # less where 4:3 does not fit inside
    assert 0.74 < aspect.min() < 0.85 and 1.2 < aspect.max() < 1.35
    assert min(left.min(), top.min()) > -1 and max(right.max(), bottom.max()) < side
    assert left.std() > 5 and top.std() > 5


def test_without_a_random_crop_the_centre_is_cut_out():
    for settings in ({}, {"flip": "both"}):
        left, right, top, bottom = windows(40, 30, **settings)
        np.testing.assert_allclose(np.sort([left, right], axis=0), [[5] * 200, [34] * 200], atol=1e-3)
        np.testing.assert_allclose(np.sort([top, bottom], axis=0), [[5] * 200, [34] * 200], atol=1e-3)


def test_saturation_scales_the_distance_from_grey_and_keeps_the_luma():
    before = photos() * 0.2 + 100  # far from the ends, so that nothing is cut
    after = changed(before, saturation=0.5)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(after @ luma, before @ luma, atol=0.01)
    factors = [
        np.abs(one - (one @ luma)[..., None]).sum() / np.abs(other - (other @ luma)[..., None]).sum()
        for one, other in zip(after, before, strict=True)
    ]
    assert min(factors) > 0.49 and max(factors) < 1.51 and np.std(factors) > 0.1


def test_hue_turns_colours_about_grey_by_no_more_than_its_limit():
    grey = np.repeat(photos()[..., :1], 3, axis=-1)
    np.testing.assert_allclose(changed(grey, hue=0.5), grey, atol=0.01)
    before = np.full((200, 2, 2, 3), [130, 110, 120], np.float32)
    after = changed(before, hue=0.1)
    angles = []
    for one, other in zip(before[:, 0, 0], after[:, 0, 0], strict=True):
        (y, i, q), (luma, j, r) = colorsys.rgb_to_yiq(*one), colorsys.rgb_to_yiq(*other)
        assert abs(y - luma) < 0.2  # the standard library rounds the coefficients to two digits
        angles.append(np.degrees(np.arctan2(i * r - q * j, i * j + q * r)))
    assert -37 < min(angles) < -20 and 20 < max(angles) < 37  # a tenth of the circle: 36 degrees


def test_erasing_covers_the_asked_share_of_some_photos_with_noise():
    before = np.full((400, 50, 50, 3), 300, np.float32)  # no noise has this value
    after = changed(before, erasing={"probability": 0.25, "min_area": 0.05, "max_area": 0.2})
    erased = (after != 300).any(axis=-1)
    shares = erased.mean(axis=(1, 2))
    assert 0.18 < (shares > 0).mean() < 0.32
    assert shares[shares > 0].min() > 0.03 and shares.max() < 0.24
    for mask in erased[shares > 0][:20]:  # a rectangle
        assert mask.sum() == mask.any(axis=0).sum() * mask.any(axis=1).sum()
    assert after[erased].std() > 50 and after[erased].min() >= 0 and after[erased].max() <= 255


def test_brightness_multiplies_and_contrast_stretches_about_the_mean():
    grey = np.full((COUNT, SIZE, SIZE, 3), 100, np.float32)
    brighter = changed(grey, brightness=0.2)[:, 0, 0, 0] / 100
    assert np.abs(brighter - 1).max() <= 0.2 + 1e-3 and brighter.std() > 0.05
    np.testing.assert_allclose(changed(grey, contrast=0.5), grey, atol=1e-3)
    before = 120 + 20 * (photos() / 255 - 0.5)
    after = changed(before, contrast=0.5)
    np.testing.assert_allclose(after.mean(axis=(1, 2, 3)), before.mean(axis=(1, 2, 3)), atol=0.01)
    factors = after.std(axis=(1, 2, 3)) / before.std(axis=(1, 2, 3))
    assert factors.min() > 0.49 and factors.max() < 1.51 and factors.std() > 0.1


def test_everything_together_stays_in_range():
    result = changed(
        photos(), flip="both", rotation=180, zoom=0.9, translation=0.9, contrast=0.9, brightness=0.9
    )
    assert result.dtype == np.float32 and result.shape == photos().shape
    assert result.min() >= 0 and result.max() <= 255


@pytest.mark.parametrize(
    "settings",
    [
        {"rotation": 30},
        {"translation": 0.3},
        {"contrast": 0.5},
        {"brightness": 0.5},
        {"hue": 0.5},
        {"crop": 0.3},
        {"shear": 0.5},
    ],
    ids=str,
)
def test_photos_of_a_batch_are_changed_differently(settings):
    same = np.repeat(photos(1), 4, axis=0)
    result = changed(same, **settings)
    assert all(np.abs(result[0] - other).max() > 0.5 for other in result[1:])


def test_the_seed_alone_decides():
    settings = {
        "flip": "both",
        "rotation": 30,
        "zoom": 0.2,
        "translation": 0.1,
        "contrast": 0.3,
        "brightness": 0.2,
    }
    first = changed(photos(), **settings)
    tf.random.uniform([3])  # whatever is drawn in between
    np.testing.assert_array_equal(changed(photos(), **settings), first)
    assert np.abs(changed(photos(), seed=4, **settings) - first).max() > 10


def test_in_tf_data_it_gives_what_it_gives_eagerly():
    settings = Augment(rotation=40, zoom=0.3, flip="both")
    seed = tf.constant([3, 1], tf.int64)
    stream = tf.data.Dataset.from_tensors(photos()).map(
        lambda batch: augmentation.images(batch, settings, seed=seed)
    )
    np.testing.assert_allclose(
        next(iter(stream)), augmentation.images(tf.constant(photos()), settings, seed=seed), atol=1e-3
    )


def mixed(batch, labels, seed=3, alpha=0.4):
    return [
        part.numpy()
        for part in augmentation.mixup(
            tf.constant(batch), tf.constant(labels), alpha=alpha, seed=tf.constant([seed, 1], tf.int64)
        )
    ]


def test_mixup_blends_photos_as_it_blends_labels():
    labels = np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    values = np.array([10, 70, 150, 250], np.float32)  # every pixel of a photo says its class
    batch = (labels @ values)[:, None, None, None] * np.ones((SIZE, SIZE, 3), np.float32)
    blended, shares = mixed(batch, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert ((shares > 0.05) & (shares < 0.95)).any()
    np.testing.assert_allclose(
        blended, (shares @ values)[:, None, None, None] * np.ones_like(batch), atol=0.01
    )
    assert ((shares > 0).sum(axis=1) <= 2).all()


def test_mixup_draws_its_shares_from_a_beta_distribution():
    labels = np.tile(np.eye(2, dtype=np.float32), (2000, 1))
    _, shares = mixed(np.zeros((4000, 1, 1, 3), np.float32), labels, alpha=0.4)
    first = shares[np.arange(4000), labels.argmax(axis=1)]
    with_other_class = first[first < 1 - 1e-6]
    # the variance of Beta(a, a) is 1 / (4 (2 a + 1))
    assert with_other_class.mean() == pytest.approx(0.5, abs=0.03)
    assert with_other_class.var() == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_mixup_repeats_with_its_seed():
    labels = np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    np.testing.assert_array_equal(mixed(photos(), labels)[0], mixed(photos(), labels)[0])
    assert np.abs(mixed(photos(), labels, seed=4)[0] - mixed(photos(), labels)[0]).max() > 1
