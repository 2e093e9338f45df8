"""Draw butterflies from the outlines, colours and patterns of their species.

Points are float arrays `(x, y)`. On a wing, they are in units (a forewing is about 1 unit long) and y points
to the head; in an image, they are in pixels and y points down. Colours are RGB, 0 to 255.
"""

import cv2
import numpy as np
from PIL import ImageColor
from scipy.interpolate import CubicSpline

from lib.download.species import Catalogue, Colours, Pattern, Point, Species, Veins, Wing

# Resolution of the texture of a wing, in pixels per unit.
UNIT = 96
# Row of the texture at which the wing meets the body; the column is 0.
ROOT = 114
HEIGHT, WIDTH = 2 * ROOT, 120
# Width of the antialiased border of a pattern, in its signed distance.
SOFTNESS = 0.02
# Layer of the wings of every species.
FINE_VEINS = Veins(pattern="veins", colour="dark", count=9, width=0.003)
# Abdomen, thorax and head: distance of the centre from the root towards the head, length, width, in units.
BODY = ((-0.2, 0.65, 0.1), (0.07, 0.34, 0.15), (0.23, 0.14, 0.12))
# Positions along the axis of a leaf, 0 to 1, and the width at each as a fraction of the largest width.
LEAF_STEPS = np.linspace(0, 1, 20)
LEAF_PROFILE = np.sin(np.pi * LEAF_STEPS) ** 0.7

Palette = dict[str, np.ndarray]


def rgb(colours: list[str]) -> np.ndarray:
    """Convert hexadecimal colours to float32 of shape `(n, 3)`."""
    return np.array([ImageColor.getrgb(colour) for colour in colours], np.float32)


def draw_noise(shape: tuple[int, int], cells: tuple[int, int], *, random: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of five octaves.

    Args:
        shape: number of rows and columns of the result.
        cells: number of rows and columns of the coarsest octave.
        random: random generator.

    Returns:
        `float32` of the shape `shape`, 0 to 1.
    """
    total: np.ndarray = np.zeros(shape, np.float32)
    for octave in range(5):
        rows, columns = (min(count << octave, 200) for count in cells)
        grid = random.random((rows, columns), np.float32)
        total = total + cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC) / 1.6**octave
    return cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX)


def draw_leaf(
    image: np.ndarray,
    colour: np.ndarray,
    *,
    centre: np.ndarray,
    axis: np.ndarray,
    width: float,
    bend: float = 0.0,
) -> None:
    """Draw a pointed ellipse with a highlight along its axis, in place: a leaf, a petal, an antenna, a body.

    Args:
        image: `uint8` of shape `(height, width, channels)`.
        colour: a value for each channel; further channels of the image are set to 0.
        centre: `(x, y)` of the centre, in pixels.
        axis: vector `(x, y)` from tip to tip of the straight leaf, in pixels.
        width: largest width, in pixels.
        bend: angle between the directions of the axis at the two tips, in radians.
    """
    tangents = _rotate(axis, bend * (LEAF_STEPS - 0.5))
    spine = centre + np.cumsum(tangents, axis=0) / 20 - tangents.mean(axis=0) / 2
    normals = tangents[:, ::-1] * (-1, 1) / np.hypot(*axis)
    offsets = normals * (width / 2 * LEAF_PROFILE)[:, None]
    for fraction, brightness in ((1, 1), (0.6, 1.1), (0.12, 1.35)):
        polygon = np.concatenate([spine + offsets * fraction, (spine - offsets * fraction)[::-1]])
        _fill_polygon(image, polygon, colour=colour * brightness)


def draw_butterfly(
    species: Species, catalogue: Catalogue, *, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an individual of a species, with its head at the top.

    Args:
        species: the species.
        catalogue: the outlines of its wings.
        random: random generator.

    Returns:
        The butterfly as `uint8` RGBA of shape `(228, width, 4)`, with premultiplied alpha, at 96 pixels per
        unit; and the `(x, y)` of the root, at which the wings meet, in pixels.
    """
    palette = _random_palette(species.colours, random)
    hindwing, forewing = (
        draw_wing(catalogue.outlines[name], species.layers, palette=palette, random=random)
        for name in (species.hindwing, species.forewing)
    )
    image, root = _mirror(_overlap(forewing, hindwing), random)
    body = np.append(0.75 * palette["dark"] + 0.25 * palette["edge"], 255)
    _draw_body(image, body, root=root, random=random)
    return image, root


def draw_wing(
    outline: list[Point], layers: list[Pattern], *, palette: Palette, random: np.random.Generator
) -> np.ndarray:
    """Draw a right wing: `float32` RGBA of shape `(228, 120, 4)`, 0 to 255, with premultiplied alpha."""
    wing = wing_coordinates(outline, random)
    colour = palette["root"] + np.clip(wing.along, 0, 1)[..., None] * (palette["edge"] - palette["root"])
    for layer in (*layers, FINE_VEINS):
        opacity = np.clip(layer.signed_distance(wing) / SOFTNESS + 0.5, 0, 1)[..., None]
        colour += opacity * (palette[layer.colour] - colour)
    colour *= 0.75 + 0.35 * draw_noise((HEIGHT, WIDTH), (6, 4), random=random)[..., None]
    alpha = np.full_like(wing.margin, 255)
    return np.dstack([np.clip(colour, 0, 255), alpha]) * wing.opacity[..., None]


def wing_coordinates(outline: list[Point], random: np.random.Generator) -> Wing:
    """Compute the coordinates of the pixels on a right wing, with a random variation of the outline.

    Args:
        outline: points of the outline in hundredths of a unit, the root first.
        random: random generator.

    Returns:
        Arrays of shape `(228, 120)`; the root is at row 114 and column 0.
    """
    curve = _random_curve(outline, random)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    _fill_polygon(mask, curve * (UNIT, -UNIT) + (0, ROOT), colour=np.array([255]))
    y = np.arange(ROOT, ROOT - HEIGHT, -1, dtype=np.float32)[:, None] / UNIT
    x = np.arange(WIDTH, dtype=np.float32)[None] / UNIT
    distance, direction = np.hypot(x, y) * random.normal(1, 0.03), np.arctan2(y, x)
    curve_distance, curve_direction = np.hypot(*curve.T), np.arctan2(curve[:, 1], curve[:, 0])
    # Near the root, the direction of the outline is arbitrary.
    directions = curve_direction[curve_distance > 0.3]
    hind_margin, spread = float(directions.min()), float(np.ptp(directions))
    radius = _outline_radius(curve_distance, curve_direction, direction)
    return Wing(
        opacity=mask / np.float32(255),
        margin=cv2.distanceTransform(mask, cv2.DIST_L2, 3) / UNIT,
        along=(distance / radius).astype(np.float32),
        across=(direction - hind_margin) / spread,
        arc=distance * spread,
        scale=random.uniform(0.8, 1.25),
    )


def _random_curve(outline: list[Point], random: np.random.Generator) -> np.ndarray:
    """Vary an outline and interpolate a closed curve: `float64` of shape `(160, 2)`, in units."""
    points = np.array(outline) / 100 * random.normal(1, 0.03, len(outline))[:, None]
    points = _rotate(points, random.normal(0, 0.12))
    closed = np.concatenate([points, points[:1]])
    spline = CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")
    return spline(np.linspace(0, len(points), 160))


def _outline_radius(
    curve_distance: np.ndarray, curve_direction: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Compute the smoothed distance from the root to the outline in each direction, in radians."""
    grid = np.linspace(-2, 2, 201)
    near = abs(curve_direction - grid[:, None]) < 0.14
    radius = np.where(near, curve_distance, 0.1).max(axis=1)
    return np.interp(direction, grid, cv2.blur(radius, (1, 13)).ravel())


def _random_palette(colours: Colours, random: np.random.Generator) -> Palette:
    """Vary the brightness and tint of a species' colours: `float32` of shape `(3,)`, 0 to 255, by role."""
    tint = random.normal(random.uniform(0.8, 1.1), 0.08, 3)
    values = np.clip(rgb(list(colours.model_dump().values())) * tint, 0, 255).astype(np.float32)
    return dict(zip(Colours.model_fields, values, strict=True))


def _overlap(forewing: np.ndarray, hindwing: np.ndarray) -> np.ndarray:
    """Composite a forewing and its shadow over a hindwing: `uint8` RGBA from `float32` RGBA."""
    light = 1 - 0.4 * cv2.blur(forewing[..., 3], (9, 9))[..., None] / 255
    shaded = np.dstack([hindwing[..., :3] * light, hindwing[..., 3]])
    return (forewing + shaded * (1 - forewing[..., 3:] / 255)).round().astype(np.uint8)


def _mirror(half: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Join right wings with their mirror image, each side narrowed at random; return the root too."""
    folds = random.uniform(0.5, 1) * random.uniform(0.75, 1, 2)
    left, right = (cv2.resize(half, None, fx=fold, fy=1, interpolation=cv2.INTER_AREA) for fold in folds)
    return np.hstack([left[:, ::-1], right]), np.array([left.shape[1], ROOT], float)


def _draw_body(
    image: np.ndarray, colour: np.ndarray, *, root: np.ndarray, random: np.random.Generator
) -> None:
    """Draw the antennae and the body of a butterfly with its head at the top, in place."""
    forward = np.array([0.0, -UNIT])
    for side in (-1, 1):
        axis = _rotate(forward, side * random.uniform(0.3, 0.6))
        centre = root + 0.24 * (forward + axis)
        draw_leaf(image, colour, centre=centre, axis=0.48 * axis, width=0.03 * UNIT, bend=0.5 * side)
    for distance, length, width in BODY:
        centre = root + distance * forward
        draw_leaf(image, colour, centre=centre, axis=length * forward, width=width * UNIT)


def _rotate(points: np.ndarray, angle: float | np.ndarray) -> np.ndarray:
    """Rotate points from the x axis towards the y axis by an angle, or an angle per point, in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)


def _fill_polygon(image: np.ndarray, points: np.ndarray, *, colour: np.ndarray) -> None:
    """Fill an antialiased polygon of points in pixels, in place; `image` is `uint8`."""
    # OpenCV expects fixed-point numbers: 4 fractional bits are sixteenths of a pixel.
    fixed = (points * 16).astype(np.int32)
    cv2.fillPoly(image, [fixed], np.minimum(colour, 255).tolist(), cv2.LINE_AA, 4)
