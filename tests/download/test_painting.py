"""Butterflies as pixels: leaves, noise, wings and whole individuals."""

import cv2
import numpy as np
import pytest

from lib.download import painting, species

CATALOGUE = species.load()
GREEN = np.array([40.0, 120.0, 60.0])


def individual(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return painting.draw_butterfly(CATALOGUE.species[name], CATALOGUE, random=random)


def palette() -> dict[str, np.ndarray]:
    """Give each role a colour of its own."""
    roles = ("root", "edge", "dark", "light", "accent")
    values = [(200, 40, 40), (40, 40, 200), (10, 10, 10), (250, 250, 250), (40, 220, 40)]
    return {role: np.array(value, np.float32) for role, value in zip(roles, values, strict=True)}


def leaf(**changes) -> np.ndarray:
    """Draw a leaf of 60 by 20 pixels along x in the middle of an opaque black RGBA image."""
    image = np.zeros((80, 100, 4), np.uint8)
    image[..., 3] = 255
    arguments = {"centre": np.array([50.0, 40.0]), "axis": np.array([60.0, 0.0]), "width": 20.0} | changes
    painting.draw_leaf(image, GREEN, **arguments)
    return image


def covered(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a leaf's pixels."""
    return np.nonzero(image[..., 1] > 60)


def test_hexadecimal_colours_become_rgb():
    colours = painting.rgb(["#ff8000", "#010203"])
    assert colours.dtype == np.float32
    assert colours.tolist() == [[255, 128, 0], [1, 2, 3]]


def test_noise_is_smooth_and_fills_its_range():
    noise = painting.draw_noise((120, 90), (3, 3), random=np.random.default_rng(0))
    assert (noise.shape, noise.dtype) == ((120, 90), np.float32)
    assert (noise.min(), noise.max()) == pytest.approx((0, 1), abs=1e-6)
    assert abs(np.diff(noise, axis=1)).mean() < noise.std() / 5


def test_noise_of_many_columns_is_striped():
    noise = painting.draw_noise((120, 120), (3, 26), random=np.random.default_rng(0))
    assert abs(np.diff(noise, axis=1)).mean() > 2 * abs(np.diff(noise, axis=0)).mean()


def test_a_leaf_has_its_length_width_and_place():
    rows, columns = covered(leaf())
    assert (np.ptp(rows), np.ptp(columns)) == pytest.approx((20, 60), abs=4)
    # The steps of the spine begin one step after the tip.
    assert (rows.mean(), columns.mean()) == pytest.approx((40, 50), abs=2)


def test_a_leaf_is_pointed_and_lighter_along_its_middle():
    image = leaf()
    widths = (image[..., 1] > 60).sum(axis=0)
    assert widths[50] > 2 * widths[24] > 0
    assert image[40, 50, 1] > image[34, 50, 1] > image[31, 50, 1] > 0


def test_a_leaf_covers_the_image():
    image = leaf()
    assert image[40, 50, 3] == 0
    assert image[5, 5].tolist() == [0, 0, 0, 255]


def test_a_leaf_follows_its_axis_and_its_bend():
    rows, columns = covered(leaf(axis=np.array([0.0, 60.0])))
    assert np.ptp(rows) > 2 * np.ptp(columns)
    straight, bent = (covered(leaf(bend=bend, width=4.0))[0] for bend in (0.0, 1.5))
    assert np.ptp(bent) > 2 * np.ptp(straight)


@pytest.mark.parametrize("name", CATALOGUE.outlines)
def test_coordinates_run_from_the_root_to_the_outline(name):
    wing = painting.wing_coordinates(CATALOGUE.outlines[name], np.random.default_rng(1))
    inside = wing.opacity == 1
    assert wing.along[painting.ROOT, 0] == 0
    arrays = (wing.opacity, wing.margin, wing.along, wing.across, wing.arc)
    assert {(each.shape, each.dtype.name) for each in arrays} == {((228, 120), "float32")}
    assert wing.along[inside].max() == pytest.approx(1, abs=0.15)
    assert wing.margin[wing.along > 1.2].max() == 0
    far = inside & (wing.along > 0.5)
    assert np.quantile(wing.across[far], [0.02, 0.98]) == pytest.approx([0, 1], abs=0.15)


def test_the_front_margin_of_a_wing_is_on_the_side_of_the_head():
    wing = painting.wing_coordinates(CATALOGUE.outlines["round forewing"], np.random.default_rng(1))
    rows = np.nonzero((wing.opacity == 1) & (wing.along > 0.5) & (wing.across > 0.8))[0]
    assert rows.max() < painting.ROOT


def test_outlines_vary_between_individuals():
    outline = CATALOGUE.outlines["wavy hindwing"]
    masks = [
        painting.wing_coordinates(outline, np.random.default_rng(seed)).opacity > 0.5 for seed in range(8)
    ]
    # Stretching changes the area, a rotation the direction of the middle.
    areas = np.array([mask.sum() for mask in masks])
    middles = np.array([np.argwhere(mask).mean(axis=0) - (painting.ROOT, 0) for mask in masks])
    assert 0.01 < areas.std() / areas.mean() < 0.1
    assert 0.06 < np.arctan2(*middles.T).std() < 0.3


def test_a_wing_blends_from_its_root_to_its_edge():
    outline, random = CATALOGUE.outlines["round forewing"], np.random.default_rng(3)
    image = painting.draw_wing(outline, [], palette=palette(), random=random)
    wing = painting.wing_coordinates(outline, np.random.default_rng(3))
    assert (image.shape, image.dtype) == ((228, 120, 4), np.float32)
    assert np.array_equal(image[..., 3], 255 * wing.opacity)
    assert not image[wing.opacity == 0].any()
    inside = wing.opacity == 1
    red_near, _, blue_near = image[inside & (wing.along < 0.2), :3].mean(axis=0)
    red_far, _, blue_far = image[inside & (wing.along > 0.8), :3].mean(axis=0)
    assert red_near > 2 * blue_near and blue_far > 2 * red_far


def test_later_layers_cover_earlier_ones():
    dot = species.Dots(pattern="dots", colour="accent", count=1, at=0.6, radius=0.2)
    pupil = dot.model_copy(update={"colour": "dark", "radius": 0.1})
    middles = []
    for layers in ([dot], [dot, pupil], [pupil, dot]):
        outline, random = CATALOGUE.outlines["round forewing"], np.random.default_rng(3)
        image = painting.draw_wing(outline, layers, palette=palette(), random=random)
        wing = painting.wing_coordinates(outline, np.random.default_rng(3))
        middle = dot.model_copy(update={"radius": 0.06}).signed_distance(wing) > 0
        middles.append(image[middle & (wing.opacity == 1), 1].mean())
    assert middles[0] > 120 and middles[1] < 40
    assert middles[2] == pytest.approx(middles[0], abs=1)


@pytest.mark.parametrize("name", CATALOGUE.species)
def test_a_butterfly_has_a_body_between_two_pairs_of_wings(name):
    image, root = individual(name)
    assert image.dtype == np.uint8
    assert image.shape[0] == 228 and image.shape[2] == 4
    x, y = root.astype(int)
    assert image[y - 8 : y + 30, x, 3].min() == 255
    opaque = image[..., 3] > 127
    assert opaque[:y].sum() > 2000 and opaque[y:].sum() > 2000
    # The right side is the left side's mirror image, but for the folds.
    right = image[:, x:, 3]
    left = cv2.resize(image[:, x - 1 :: -1, 3], right.shape[::-1])
    assert ((left > 127) & (right > 127)).sum() / ((left > 127) | (right > 127)).sum() > 0.85


def test_antennae_are_ahead_of_the_body():
    image, root = individual("Lemon Longwing")
    x, y = root.astype(int)
    assert image[y - 42, x - 2 : x + 3, 3].max() == 0
    assert image[y - 42, x + 3 : x + 12, 3].max() == 255
    assert image[y - 42, x - 12 : x - 2, 3].max() == 255


def test_forewings_lie_on_hindwings(monkeypatch):
    each = CATALOGUE.species["Azure Swordtail"]

    def flat(outline, layers, *, palette, random):
        value = 200 if outline == CATALOGUE.outlines[each.forewing] else 100
        return np.full((228, 120, 4), (value, value, value, 255), np.float32)

    monkeypatch.setattr(painting, "draw_wing", flat)
    image, _ = painting.draw_butterfly(each, CATALOGUE, random=np.random.default_rng(0))
    assert image[5, 5].tolist() == [200, 200, 200, 255]


def test_individuals_differ_in_brightness_and_tint():
    pixels = [individual("Azure Roundwing", seed)[0].reshape(-1, 4) for seed in range(12)]
    means = np.array([each[each[:, 3] == 255, :3].mean(axis=0) for each in pixels])
    assert (means.std(axis=0) / means.mean(axis=0)).min() > 0.08
    assert (means[:, 2] / means[:, 1]).std() > 0.05


def test_a_butterfly_is_transparent_outside_its_wings_and_premultiplied():
    image, _ = individual("Azure Roundwing")
    assert not image[image[..., 3] == 0].any()
    assert (image[..., 3] == 0).mean() > 0.2
    # Rounding, and the resampling of the folded wings.
    assert (image[..., :3].max(axis=2).astype(int) <= image[..., 3].astype(int) + 2).all()


def test_the_same_state_paints_the_same_butterfly():
    first, again, other = individual("Dusky Owlet"), individual("Dusky Owlet"), individual("Dusky Owlet", 1)
    assert np.array_equal(first[0], again[0])
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def test_the_colours_of_a_species_are_those_of_the_file():
    for name, brightest in (("Azure Roundwing", 2), ("Amber Checkerspot", 0)):
        pixels = np.concatenate([individual(name, seed)[0].reshape(-1, 4) for seed in range(4)])
        assert pixels[pixels[:, 3] == 255, :3].mean(axis=0).argmax() == brightest


def test_a_forewing_throws_a_shadow_on_the_hindwing():
    hindwing = np.full((40, 40, 4), 200, np.float32)
    hindwing[..., 3] = 255
    forewing = np.zeros((40, 40, 4), np.float32)
    forewing[:20] = 100, 100, 100, 255
    overlap = painting._overlap(forewing, hindwing)
    assert overlap[10, 20].tolist() == [100, 100, 100, 255]
    assert overlap[21, 20, 0] < overlap[30, 20, 0] == 200
    assert (overlap[..., 3] == 255).all()
