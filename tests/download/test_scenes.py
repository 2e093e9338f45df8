"""Photos of butterflies: sizes, masks, covering leaves, light."""

import cv2
import numpy as np
import pytest

from lib.download import scenes, species

CATALOGUE = species.load()


def photo(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return scenes.draw_photo(CATALOGUE.species[name], CATALOGUE, random=random)


@pytest.mark.parametrize("name", CATALOGUE.species)
def test_a_photo_has_a_mask_of_its_size(name):
    image, mask = photo(name, 5)
    assert (image.dtype, mask.dtype) == (np.uint8, bool)
    assert image.shape == (*mask.shape, 3)
    assert all(160 <= side <= 220 for side in mask.shape)
    assert 0.02 < mask.mean() < 0.7


def test_the_same_state_paints_the_same_photo():
    first, again, other = photo("Dusky Sash", 1), photo("Dusky Sash", 1), photo("Dusky Sash", 2)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def scene(background: species.Background, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint a photo of a white butterfly on a background; leaves that cover it are black."""
    catalogue = CATALOGUE.model_copy(
        update={"backgrounds": {"one": background}, "covering_leaves": ["#000000"]}
    )
    random = np.random.default_rng(seed)
    return scenes.draw_photo(catalogue.species["Pearl Orangetip"], catalogue, random=random)


def background(*, dark: str, light: str, leaf: str, count: int) -> species.Background:
    leaves = species.Leaves(count=count, length=60, width=20, colours=[leaf])
    return species.Background(dark=dark, light=light, noise_cells=(4, 4), leaves=leaves)


def test_the_butterfly_is_where_its_mask_is():
    black = background(dark="#000000", light="#101010", leaf="#000000", count=0)
    for seed in range(6):
        image, mask = scene(black, seed)
        bright = image.max(axis=2) > 60
        assert (bright & mask).sum() / (bright | mask).sum() > 0.8, seed


def test_a_butterfly_is_near_the_middle_of_its_photo():
    for seed in range(6):
        _, mask = photo("Pearl Orangetip", seed)
        assert np.argwhere(mask).mean(axis=0) / mask.shape == pytest.approx(0.5, abs=0.25), seed


def test_butterflies_are_rotated(monkeypatch):
    """With the head up, a mask resembles its mirror image."""
    monkeypatch.setattr(scenes, "_cover_with_leaves", lambda *_, **__: None)
    overlaps = []
    for seed in range(6):
        rows, columns = np.nonzero(photo("Lemon Longwing", seed)[1])
        points = np.stack([rows - rows.mean(), columns - columns.mean()], axis=1).round()
        pixels, mirrored = (set(map(tuple, points * (1, side))) for side in (1, -1))
        overlaps.append(len(pixels & mirrored) / len(pixels))
    assert min(overlaps) < 0.6


def test_a_butterfly_throws_a_shadow_to_the_lower_right():
    grey = background(dark="#c0c0c0", light="#c0c0c0", leaf="#000000", count=0)
    image, mask = scene(grey, 1)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0
    shadow = np.roll(near, (7, 5), axis=(0, 1)) & ~near
    opposite = np.roll(near, (-7, -5), axis=(0, 1)) & ~near
    assert image[shadow].mean() < 0.9 * image[opposite].mean()


def test_a_photo_shows_the_noise_and_the_leaves_of_its_background():
    bare, strewn = (background(dark="#400000", light="#e00000", leaf="#00ff00", count=n) for n in (0, 80))
    image, mask = scene(bare, 0)
    red, green, _ = image[~mask].mean(axis=0)
    assert red > 4 * green and image[~mask][:, 0].std() > 15
    image, mask = scene(strewn, 0)
    red, green, _ = image[~mask].mean(axis=0)
    assert green > red


def test_leaves_take_away_from_the_mask(monkeypatch):
    seeds = range(12)
    with_leaves = [photo("Azure Swordtail", seed)[1] for seed in seeds]
    monkeypatch.setattr(scenes, "_cover_with_leaves", lambda *_, **__: None)
    without = [photo("Azure Swordtail", seed)[1] for seed in seeds]
    assert all((mask <= whole).all() for mask, whole in zip(with_leaves, without, strict=True))
    visible = [mask.sum() / whole.sum() for mask, whole in zip(with_leaves, without, strict=True)]
    assert 2 <= sum(fraction < 0.99 for fraction in visible) <= 9
    assert min(visible) > 0.3


def test_noise_is_added_to_each_pixel():
    scene = np.full((60, 80, 3), 120, np.uint8)
    image = scenes._expose(scene, np.random.default_rng(0))
    assert (image.shape, image.dtype) == (scene.shape, np.uint8)
    assert 1 < np.diff(image[:, :, 0].astype(int), axis=1).std() < 13


def test_light_changes_slowly_over_a_photo():
    image = scenes._expose(np.full((160, 200, 3), 120, np.uint8), np.random.default_rng(0)).astype(float)
    quarters = [half.mean() for rows in np.split(image, 2) for half in np.split(rows, 2, axis=1)]
    assert max(quarters) - min(quarters) > 5
    assert abs(np.diff(image.mean(axis=(1, 2)))).max() < 4
