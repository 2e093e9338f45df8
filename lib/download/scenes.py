"""Paint photos: a butterfly on a background, partly covered by leaves, under uneven light."""

import cv2
import numpy as np

from lib.download import painting
from lib.download.species import Background, Catalogue, Leaves, Species

# A butterfly is drawn at this many times its size in the photo, then reduced.
SUPERSAMPLING = 2


def paint_photo(
    species: Species, catalogue: Catalogue, *, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a photo of a butterfly, 160 to 220 pixels a side.

    Args:
        species: species of the butterfly.
        catalogue: outlines of its wings, and the backgrounds and leaves of the photo.
        random: source of the random numbers; the same state paints the same photo.

    Returns:
        The photo, `uint8` RGB of shape `(height, width, 3)`, and a mask, `bool` of shape `(height, width)`,
        that is true if the butterfly is visible in a pixel.
    """
    size = random.integers(160, 221, 2)
    unit = size.min() * random.uniform(0.25, 0.44)
    middle = random.uniform(0.32, 0.68, 2) * size
    butterfly = _place_butterfly(species, catalogue, size=size, unit=unit, middle=middle, random=random)
    background = _paint_background(list(catalogue.backgrounds.values()), size, random=random)
    scene = _compose(butterfly, background)
    _cover(scene, catalogue.covering_leaves, unit=unit, middle=middle, random=random)
    return _expose(scene[..., :3], random), scene[..., 3] > 127


def _place_butterfly(
    species: Species,
    catalogue: Catalogue,
    *,
    size: np.ndarray,
    unit: float,
    middle: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Paint a butterfly at a random angle into an empty photo.

    Args:
        species: species of the butterfly.
        catalogue: outlines of its wings.
        size: width and height of the photo in pixels.
        unit: pixels per unit, about the length of a forewing.
        middle: `(x, y)` of the butterfly in the photo, in pixels.
        random: source of the random numbers.

    Returns:
        float32 RGBA of shape `(height, width, 4)`, 0 to 255, premultiplied by its alpha.
    """
    image, root = painting.paint_butterfly(species, catalogue, random=random)
    angle = random.uniform(0, 360)
    matrix = cv2.getRotationMatrix2D(root.tolist(), angle, SUPERSAMPLING * unit / painting.UNIT)
    matrix[:, 2] += SUPERSAMPLING * middle - root
    large = cv2.warpAffine(image, matrix, (SUPERSAMPLING * size).tolist())
    return cv2.resize(large, size.tolist(), interpolation=cv2.INTER_AREA).astype(np.float32)


def _paint_background(
    backgrounds: list[Background], size: np.ndarray, *, random: np.random.Generator
) -> np.ndarray:
    """Paint one of the backgrounds out of focus, float64 RGB of `(width, height)` pixels, 0 to 281."""
    background = backgrounds[random.integers(len(backgrounds))]
    width, height = size.tolist()
    dark, light = painting.rgb([background.dark, background.light])
    noise = painting.draw_noise((height, width), background.noise_cells, random=random)
    image = (dark + noise[..., None] * (light - dark)).astype(np.uint8)
    _strew(image, background.leaves, middle=size / 2, spread=size, random=random)
    return cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 2.5)) * random.uniform(0.7, 1.1)


def _cover(
    scene: np.ndarray, colours: list[str], *, unit: float, middle: np.ndarray, random: np.random.Generator
) -> None:
    """Cover a part of the butterfly with up to three leaves, in place; `unit` and `middle` are in pixels."""
    count = max(0, int(random.integers(-4, 4)))
    leaves = Leaves(count=count, length=2 * unit, width=0.35 * unit, colours=colours)
    _strew(scene, leaves, middle=middle, spread=np.full(2, 1.4 * unit), random=random)


def _strew(
    image: np.ndarray, leaves: Leaves, *, middle: np.ndarray, spread: np.ndarray, random: np.random.Generator
) -> None:
    """Draw leaves at random places and angles, in place; under them an alpha channel becomes 0.

    Args:
        image: `uint8` RGB or RGBA of shape `(height, width, channels)`.
        leaves: how many, their mean size and their colours.
        middle: `(x, y)` of the middle of the leaves, in pixels.
        spread: width and height of the area for the middles of the leaves, in pixels.
        random: source of the random numbers.
    """
    for colour in random.choice(painting.rgb(leaves.colours), leaves.count):
        length, width = random.uniform((0.6, 0.4), (1.3, 1.3)) * (leaves.length, leaves.width)
        place = middle + random.uniform(-0.5, 0.5, 2) * spread
        angle = 6.3 * random.random()
        painting.draw_leaf(
            image,
            colour * random.uniform(0.7, 1.1),
            middle=place,
            axis=length * np.array([np.cos(angle), np.sin(angle)]),
            width=width,
            bend=random.normal(0, 0.4),
        )


def _compose(butterfly: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Lay a butterfly and its shadow over a background: `uint8` RGBA with the butterfly's alpha."""
    alpha = butterfly[..., 3] / 255
    shadow = np.roll(cv2.blur(alpha, (13, 13)), (7, 5), axis=(0, 1))
    image = background * (1 - 0.5 * shadow)[..., None] * (1 - alpha)[..., None] + butterfly[..., :3]
    return np.dstack([image, butterfly[..., 3]]).clip(0, 255).astype(np.uint8)


def _expose(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Light a scene unevenly and add blur and noise: `uint8` RGB of the shape of `image`."""
    height, width = image.shape[:2]
    brightness = cv2.resize(random.uniform(0.7, 1.2, (2, 2)), (width, height))
    light = brightness[..., None] * random.normal(1, 0.03, 3)
    photo = cv2.GaussianBlur(image * light, (0, 0), random.uniform(0.3, 1.3))
    photo = photo + random.normal(0, random.uniform(2, 8), photo.shape)
    return photo.clip(0, 255).astype(np.uint8)
