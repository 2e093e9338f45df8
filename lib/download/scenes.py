"""Draw photos: a butterfly on a background, partly covered by leaves, in uneven light."""

import cv2
import numpy as np

from lib.download import painting
from lib.download.species import Background, Catalogue, Leaves, Species

# A butterfly is drawn at a multiple of its size in the photo, then shrunk.
SUPERSAMPLING = 2


def draw_photo(
    species: Species, catalogue: Catalogue, *, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a photo of a butterfly, with sides of 160 to 220 pixels.

    Args:
        species: species of the butterfly.
        catalogue: outlines of its wings, and the backgrounds and leaves of the photo.
        random: random generator; the same state draws the same photo.

    Returns:
        The photo, `uint8` RGB of shape `(height, width, 3)`; and a mask, `bool` of shape `(height, width)`,
        true for the pixels in which the butterfly is visible.
    """
    size = random.integers(160, 221, 2)
    unit = size.min() * random.uniform(0.25, 0.44)
    centre = random.uniform(0.32, 0.68, 2) * size
    butterfly = _draw_butterfly(species, catalogue, size=size, unit=unit, centre=centre, random=random)
    background = _draw_background(list(catalogue.backgrounds.values()), size, random=random)
    scene = _compose(butterfly, background)
    _cover_with_leaves(scene, catalogue.covering_leaves, unit=unit, centre=centre, random=random)
    return _expose(scene[..., :3], random), scene[..., 3] > 127


def _draw_butterfly(
    species: Species,
    catalogue: Catalogue,
    *,
    size: np.ndarray,
    unit: float,
    centre: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Draw a butterfly at a random angle on a transparent image.

    Args:
        species: species of the butterfly.
        catalogue: outlines of its wings.
        size: width and height of the image, in pixels.
        unit: pixels per unit, about the length of a forewing.
        centre: `(x, y)` of the butterfly in the image, in pixels.
        random: random generator.

    Returns:
        `float32` RGBA of shape `(height, width, 4)`, 0 to 255, with premultiplied alpha.
    """
    image, root = painting.draw_butterfly(species, catalogue, random=random)
    angle = random.uniform(0, 360)
    matrix = cv2.getRotationMatrix2D(root.tolist(), angle, SUPERSAMPLING * unit / painting.UNIT)
    matrix[:, 2] += SUPERSAMPLING * centre - root
    large = cv2.warpAffine(image, matrix, (SUPERSAMPLING * size).tolist())
    return cv2.resize(large, size.tolist(), interpolation=cv2.INTER_AREA).astype(np.float32)


def _draw_background(
    backgrounds: list[Background], size: np.ndarray, *, random: np.random.Generator
) -> np.ndarray:
    """Draw a random background out of focus: `float64` RGB of shape `(height, width, 3)`, 0 to 281."""
    background = backgrounds[random.integers(len(backgrounds))]
    width, height = size.tolist()
    dark, light = painting.rgb([background.dark, background.light])
    noise = painting.draw_noise((height, width), background.noise_cells, random=random)
    image = (dark + noise[..., None] * (light - dark)).astype(np.uint8)
    _scatter(image, background.leaves, centre=size / 2, spread=size, random=random)
    return cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 2.5)) * random.uniform(0.7, 1.1)


def _cover_with_leaves(
    scene: np.ndarray, colours: list[str], *, unit: float, centre: np.ndarray, random: np.random.Generator
) -> None:
    """Cover a part of the butterfly with up to three leaves, in place; `unit` and `centre` are in pixels."""
    count = max(0, int(random.integers(-4, 4)))
    leaves = Leaves(count=count, length=2 * unit, width=0.35 * unit, colours=colours)
    _scatter(scene, leaves, centre=centre, spread=np.full(2, 1.4 * unit), random=random)


def _scatter(
    image: np.ndarray, leaves: Leaves, *, centre: np.ndarray, spread: np.ndarray, random: np.random.Generator
) -> None:
    """Draw leaves at random positions and angles, in place.

    Args:
        image: `uint8` RGB or RGBA of shape `(height, width, channels)`. Alpha is set to 0 under the leaves.
        leaves: number, mean size and colours of the leaves.
        centre: `(x, y)` of the centre of the area of the leaves, in pixels.
        spread: width and height of that area, in pixels.
        random: random generator.
    """
    for colour in random.choice(painting.rgb(leaves.colours), leaves.count):
        length, width = random.uniform((0.6, 0.4), (1.3, 1.3)) * (leaves.length, leaves.width)
        position = centre + random.uniform(-0.5, 0.5, 2) * spread
        angle = 6.3 * random.random()
        painting.draw_leaf(
            image,
            colour * random.uniform(0.7, 1.1),
            centre=position,
            axis=length * np.array([np.cos(angle), np.sin(angle)]),
            width=width,
            bend=random.normal(0, 0.4),
        )


def _compose(butterfly: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Composite a butterfly and its shadow over a background: `uint8` RGBA with the butterfly's alpha."""
    alpha = butterfly[..., 3] / 255
    shadow = np.roll(cv2.blur(alpha, (13, 13)), (7, 5), axis=(0, 1))
    image = background * (1 - 0.5 * shadow)[..., None] * (1 - alpha)[..., None] + butterfly[..., :3]
    return np.dstack([image, butterfly[..., 3]]).clip(0, 255).astype(np.uint8)


def _expose(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Apply uneven light, blur and noise to an RGB image: `uint8` of the same shape."""
    height, width = image.shape[:2]
    brightness = cv2.resize(random.uniform(0.7, 1.2, (2, 2)), (width, height))
    light = brightness[..., None] * random.normal(1, 0.03, 3)
    photo = cv2.GaussianBlur(image * light, (0, 0), random.uniform(0.3, 1.3))
    photo = photo + random.normal(0, random.uniform(2, 8), photo.shape)
    return photo.clip(0, 255).astype(np.uint8)
