"""The species file and the patterns: each pattern is painted on a half disc and measured."""

import cv2
import numpy as np
import pytest

from lib.download import species
from lib.download.species import Band, Border, Checks, Dots, Veins, Wing

PIXELS = 200


@pytest.fixture(scope="module")
def half_disc() -> Wing:
    return disc_wing(scale=1.0)


def disc_wing(*, scale: float) -> Wing:
    """Lay the coordinates of a wing over the right half of a disc of radius 1, of 200 pixels a unit."""
    y = np.arange(PIXELS, -PIXELS - 1, -1, np.float32)[:, None] / PIXELS
    x = np.arange(PIXELS + 1, dtype=np.float32)[None] / PIXELS
    distance = np.hypot(x, y)
    return Wing(
        opacity=(distance < 1).astype(np.float32),
        margin=np.maximum(1 - distance, 0),
        along=distance,
        across=np.arctan2(y, x) / np.pi + 0.5,
        arc=np.pi * distance,
        scale=scale,
    )


def painted(pattern, wing: Wing) -> np.ndarray:
    return (pattern.signed_distance(wing) > 0) & (wing.opacity > 0)


def ring(mask: np.ndarray, wing: Wing, *, at: float) -> np.ndarray:
    """Read a mask along the half circle of a radius, from the hind to the front margin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2000)
    rows = (PIXELS - at * PIXELS * np.sin(angle)).round().astype(int)
    return mask[rows, (at * PIXELS * np.cos(angle)).round().astype(int)]


def runs(values: np.ndarray) -> int:
    """Count the runs of true values."""
    return int(values[0]) + int((np.diff(values.astype(int)) == 1).sum())


def test_a_border_is_painted_along_the_outline_only(half_disc):
    inside = half_disc.opacity > 0
    border = painted(Border(pattern="border", colour="dark", width=0.1), half_disc)
    assert half_disc.margin[border].max() < 0.1
    assert border[inside & (half_disc.margin < 0.09)].all()


def test_a_border_is_narrower_near_the_root(half_disc):
    """A wing whose margin is 0.05 everywhere: a border of 0.1 reaches there when more than 0.05 wide."""
    flat = Wing(**(vars(half_disc) | {"margin": np.full_like(half_disc.margin, 0.05)}))
    border = Border(pattern="border", colour="dark", width=0.1).signed_distance(flat) > 0
    assert not border[flat.along < 0.28].any()
    assert border[flat.along > 0.29].all()


def test_a_band_keeps_its_distance_from_the_root(half_disc):
    band = painted(Band(pattern="band", colour="dark", at=0.6, width=0.07), half_disc)
    distance = abs(half_disc.along - 0.6)
    assert distance[band].max() < 0.07 + 0.02
    assert band[distance < 0.07 - 0.02].all()
    assert np.ptp(half_disc.along[band]) > 2 * 0.07 + 0.02


@pytest.mark.parametrize("count", [1, 3, 6])
def test_dots_are_as_many_as_asked_and_round(half_disc, count):
    dots = painted(Dots(pattern="dots", colour="dark", count=count, at=0.7, radius=0.06), half_disc)
    number, _, stats, centroids = cv2.connectedComponentsWithStats(dots.astype(np.uint8))
    assert number - 1 == count
    radius = 0.06 * PIXELS
    for width, height, area in stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA]]:
        assert (width, height) == pytest.approx((2 * radius, 2 * radius), rel=0.12)
        assert area == pytest.approx(np.pi * radius**2, rel=0.05)
    distances = np.hypot(*(centroids[1:] - (0, PIXELS)).T) / PIXELS
    assert distances == pytest.approx(0.7, abs=0.01)


def test_veins_have_one_width_from_the_root_to_the_outline(half_disc):
    veins = painted(Veins(pattern="veins", colour="dark", count=5, width=0.02), half_disc)
    for at in (0.4, 0.9):
        circle = ring(veins, half_disc, at=at)
        assert runs(circle) == 5
        assert circle.mean() * np.pi * at == pytest.approx(5 * 2 * 0.02, rel=0.15)


def test_checks_alternate_around_the_root_and_away_from_it(half_disc):
    checks = painted(Checks(pattern="checks", colour="dark", rings=3, rays=4), half_disc)
    assert runs(ring(checks, half_disc, at=0.9)) == 4
    # The cosine of 18 times the distance has six zeros between the root and the outline.
    ray = checks[PIXELS - 8 : 3 : -1, 0].astype(int)
    assert abs(np.diff(ray)).sum() == 6
    assert checks.sum() / half_disc.opacity.sum() == pytest.approx(0.5, abs=0.06)


def test_checks_without_rings_are_rays(half_disc):
    checks = painted(Checks(pattern="checks", colour="dark", rings=0, rays=3), half_disc)
    near, far = (ring(checks, half_disc, at=at) for at in (0.5, 0.95))
    assert (near == far).mean() > 0.98
    assert runs(far) == 3


@pytest.mark.parametrize(
    "pattern",
    [
        Border(pattern="border", colour="dark", width=0.1),
        Band(pattern="band", colour="dark", at=0.5, width=0.05),
        Dots(pattern="dots", colour="dark", count=3, at=0.5, radius=0.05),
    ],
    ids=["border", "band", "dots"],
)
def test_an_individual_scales_its_pattern(pattern, half_disc):
    assert painted(pattern, disc_wing(scale=1.25)).sum() > 1.15 * painted(pattern, half_disc).sum()


def test_the_file_has_eight_species_in_order_of_their_names():
    catalogue = species.load()
    assert len(catalogue.species) == 8
    assert list(catalogue.species) == sorted(catalogue.species)
    used = {name for each in catalogue.species.values() for name in (each.forewing, each.hindwing)}
    assert used == set(catalogue.outlines)


def test_no_two_species_look_the_same():
    looks = [each.model_dump_json() for each in species.load().species.values()]
    assert len(set(looks)) == len(looks)


def test_every_pattern_is_used():
    catalogue = species.load()
    patterns = {layer.pattern for each in catalogue.species.values() for layer in each.layers}
    assert patterns == {"border", "band", "checks", "dots", "veins"}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "pattern: checks",
            "pattern: stripes",
            r"Checkerspot.*\n.*'stripes'.*expected tags: 'border', 'band'",
        ),
        ("rings: 3", "rngs: 3", r"Checkerspot\.layers\.0\.checks\.rngs\n.*not permitted"),
        (", width: 0.07", "", r"Checkerspot\.layers\.1\.border\.width\n.*required"),
        ("width: 0.07", "width: -0.07", r"layers\.1\.border\.width\n.*greater than 0"),
        (
            "colour: dark, rings",
            "colour: drak, rings",
            r"layers\.0\.checks\.colour\n.*'root', 'edge', 'dark'",
        ),
        ("#e98a2b", "#e98a2", r"Checkerspot\.colours\.root\n"),
        (
            "forewing: sharp forewing",
            "forewing: shrap",
            r"`Amber Fritillary`: expected an outline of .*: shrap",
        ),
        ("species:", "kinds:", r"species\n.*required"),
    ],
    ids=["pattern", "key", "missing", "range", "role", "colour", "outline", "section"],
)
def test_a_mistake_in_the_file_is_named(tmp_path, right, wrong, message):
    text = species.FILE.read_text(encoding="utf-8")
    path = tmp_path / "species.yaml"
    path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        species.load(path)
