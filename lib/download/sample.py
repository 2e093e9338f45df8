"""The embedded sample data set: butterflies of eight invented species, drawn by code.

It needs no network and no account. Like real photos some are hard: species share colours, backgrounds say
nothing of the species, leaves cover wings. And some of those with a label are dirty; the seed decides which:

- 3 exact duplicates in the same class and 1 photo in two classes: the same bytes under another name;
- 4 near-duplicates: resized, re-compressed copies in the same class;
- 3 unreadable files: a JPEG cut short, an empty file and a text named .jpg;
- 1 greyscale JPEG, 1 CMYK JPEG, and 1 JPEG whose EXIF orientation is 6 (stored lying on its side);
- classes of unequal size: `photos_per_class` photos in the first, half as many in the last, evenly between.
"""

import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageColor
from scipy.interpolate import CubicSpline

UNLABELLED = 24  # photos without a label
DIRT = ("exact",) * 3 + ("near",) * 4 + ("two labels", "cut short", "greyscale", "CMYK", "lying")
SCALE = 2  # a butterfly is drawn at this many times its size in the photo, then reduced
UNIT = 96  # pixels of a wing's texture per unit of length; a forewing is about one unit long
ROOT = 114  # the row of a wing's texture where the wing meets the body; the column is 0
Y, X = np.arange(ROOT, -ROOT, -1, np.float32)[:, None] / UNIT, np.arange(120, dtype=np.float32)[None] / UNIT
# fmt: off
# Right wings from above: smooth outlines through x,y in hundredths of a unit, from the root; y to the head.
OUTLINES = {
    "round fore": "0,0 30,40 66,70 86,70 93,48 85,20 70,2 30,-8",
    "sharp fore": "0,0 30,44 70,76 100,86 93,60 78,30 68,2 30,-8",
    "long fore": "0,0 40,30 85,50 110,50 112,36 95,20 65,4 30,-6",
    "round hind": "0,6 40,10 70,-2 76,-30 62,-58 40,-70 16,-60 3,-30",
    "wavy hind": "0,6 45,10 74,0 70,-20 76,-36 62,-46 58,-66 42,-64 30,-76 14,-60 3,-30",
    "tailed hind": "0,6 40,10 66,-4 70,-34 58,-60 56,-84 60,-100 52,-105 46,-86 40,-68 16,-62 3,-30",
    "long hind": "0,6 45,8 76,0 78,-16 60,-34 40,-44 16,-42 3,-20",
}
# Name; outlines; colours near the root, near the edge, dark, light, accent; layers: pattern, colour, numbers.
SPECIES = (
    ("Amber Checkerspot", "round fore", "round hind", "#e98a2b #d5651c #2b1912 #fbe3ae #b8471b",
     "checks dark 3 3, border dark .07, dots light 7 .93 .022"),
    ("Amber Fritillary", "sharp fore", "wavy hind", "#e2852e #e07420 #2b1912 #f6d69a #b8471b",
     "dots dark 3 .38 .04, dots dark 5 .6 .045, dots dark 6 .8 .038, border dark .03"),
    ("Azure Roundwing", "round fore", "round hind", "#6fc4ee #2f78cf #14182e #e8f4fb #f0a23c",
     "border dark .11, dots light 7 .94 .018"),
    ("Azure Swordtail", "sharp fore", "tailed hind", "#78c6ea #3374c4 #14182e #e8f4fb #e5653a",
     "border dark .1, dots light 6 .93 .018"),
    ("Dusky Owlet", "round fore", "wavy hind", "#7a5233 #a5794a #2a1b13 #f3dfb0 #3b6ea3",
     "band light .93 .02, dots dark 1 .6 .17, dots light 1 .6 .14, dots accent 1 .6 .1, dots dark 1 .6 .06"),
    ("Dusky Sash", "sharp fore", "wavy hind", "#6b4a31 #8f673f #2a1b13 #f3dfb0 #d98235",
     "border dark .06, band light .62 .07, dots accent 5 .83 .025"),
    ("Lemon Longwing", "long fore", "long hind", "#241d1c #1b1717 #120f10 #f4dc55 #d8452e",
     "checks light 0 3, border dark .05, dots accent 4 .3 .03"),
    ("Pearl Orangetip", "round fore", "round hind", "#f7f3e6 #efe9d6 #35302d #fffdf5 #f08a24",
     "veins dark 7 .008, band accent 1 .4, band dark 1 .12, dots dark 1 .4 .04"),
)
PATTERNS = {  # each gives how far inside the painted area a pixel lies, in units; below 0 it is outside
    "border": lambda wing, width: width * wing.size * (.3 + .7 * wing.along) - wing.edge,
    "band": lambda wing, at, width: width * wing.size - abs(wing.along - at - .02 * np.sin(14 * wing.across)),
    "checks": lambda wing, rings, rays: .06 * np.cos(6 * rings * wing.along) * np.sin(6 * rays * wing.across),
    "dots": lambda wing, count, at, radius: radius * wing.size - np.hypot(
        wing.along - at, ((wing.across * count) % 1 - .5) / count * wing.arc),
    "veins": lambda wing, count, width: width - abs((wing.across * count) % 1 - .5) / count * wing.arc,
}
# Dark and light; cells of the coarsest noise (rows, columns); leaves: how many, (length, width), colours.
BACKGROUNDS = (
    ("#1c3213 #6f9040", (4, 4), 36, (60, 20), "#3f6b2a #5f8b3a #86a54b #a9a24c #8a6a3a"),  # foliage
    ("#35291f #a39079", (3, 26), 6, (30, 14), "#4c4034 #57604a"),  # bark
    ("#34502a #a3b876", (3, 3), 45, (32, 15), "#f2a7c3 #f7d94c #fdfbf4 #b58ae0 #e8663d"),  # flowers
    ("#3a2a1d #ab8f6e", (24, 24), 25, (12, 9), "#8d7a66 #5a4836 #a89a88"),  # soil
    ("#6397cc #eef2f4", (2, 3), 14, (110, 6), "#5f8b3a #86a54b #a9a24c"),  # sky behind grass
)
# fmt: on


def _colours(text):
    return np.array([ImageColor.getrgb(colour) for colour in text.split()], np.float32)


def _noise(random, shape, cells):
    """Draws smooth noise of five scales, float32 of the given shape and one channel, 0 to 1."""
    grids = [random.random([min(count << octave, 200) for count in cells], np.float32) for octave in range(5)]
    scales = [cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC) for grid in grids]
    total = sum(scale / 1.6**octave for octave, scale in enumerate(scales))
    return cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX)[..., None]


def _fill(image, points, colour):
    """Fills a polygon of complex numbers x + iy with a smooth border, in place; `image` is uint8."""
    fixed = (points.view(float).reshape(-1, 2) * 16).astype(np.int32)  # cv2 takes sixteenths of a pixel
    return cv2.fillPoly(image, [fixed], np.minimum(colour, 255).tolist(), cv2.LINE_AA, 4)


def _leaf(image, colour, middle, along, width, bend=0.0):
    """Draws a leaf, petal, blade, antenna or part of a body, in place: pointed, lighter along its middle."""
    step = np.linspace(0, 1, 20)
    ahead = along * np.exp(1j * bend * (step - 0.5))
    spine = middle + np.cumsum(ahead) / 20 - ahead.mean() / 2
    aside = 1j * ahead / abs(along) * width / 2 * np.sin(np.pi * step) ** 0.7
    for share, light in ((1, 1), (0.6, 1.1), (0.12, 1.35)):
        _fill(image, np.append(spine + aside * share, (spine - aside * share)[::-1]), colour * light)


def _strew(image, random, middle, spread, count, size, colours):
    """Draws leaves at random places and angles, in place; a fourth channel becomes 0 under them."""
    for colour in random.choice(_colours(colours), count):
        length, width = np.multiply(size, random.uniform((0.6, 0.4), (1.3, 1.3)))
        place, along = middle + random.uniform(-0.5, 0.5, 2) * spread, length * np.exp(6.3j * random.random())
        _leaf(image, colour * random.uniform(0.7, 1.1), complex(*place), along, width, random.normal(0, 0.4))


def _coordinates(outline, random):
    """Lays the coordinates that patterns are painted by over a wing of one individual."""
    points = np.array([complex(*map(float, point.split(","))) for point in outline.split()]) / 100
    points *= random.normal(1, 0.03, len(points)) * np.exp(1j * random.normal(0, 0.12))
    spline = CubicSpline(np.arange(len(points) + 1), np.append(points, points[0]), bc_type="periodic")
    curve = spline(np.linspace(0, len(points), 160))
    cover = _fill(np.zeros((Y.size, X.size), np.uint8), curve.conj() * UNIT + 1j * ROOT, 255)
    angles, angle, distance = np.angle(curve), np.arctan2(Y, X), np.hypot(X, Y) * random.normal(1, 0.03)
    grid = np.linspace(-2, 2, 201)
    reach = cv2.blur(np.where(abs(angles - grid[:, None]) < 0.14, abs(curve), 0.1).max(1), (1, 13)).ravel()
    first, spread = float(angles[abs(curve) > 0.3].min()), float(np.ptp(angles[abs(curve) > 0.3]))
    return SimpleNamespace(
        cover=cover[..., None] / np.float32(255),
        edge=cv2.distanceTransform(cover, cv2.DIST_L2, 3) / UNIT,  # distance to the outline, in units
        along=(distance / np.interp(angle, grid, reach)).astype(np.float32),  # 0 at the root, 1 at the edge
        across=(angle - first) / spread,  # 0 at the hind margin, 1 at the front margin
        arc=distance * spread,  # from the hind to the front margin, in units
        size=random.uniform(0.8, 1.25),  # of this individual's pattern
    )


def _wing(outline, layers, palette, random):
    """Paints a right wing: float32 RGBA of shape `(228, 120, 4)`, 0 to 255, premultiplied by its alpha."""
    wing = _coordinates(outline, random)
    colour = palette["root"] + np.clip(wing.along, 0, 1)[..., None] * (palette["edge"] - palette["root"])
    for kind, paint, *numbers in map(str.split, (layers + ", veins dark 9 .003").split(",")):
        cover = np.clip(PATTERNS[kind](wing, *map(float, numbers)) / 0.02 + 0.5, 0, 1)
        colour += cover[..., None] * (palette[paint] - colour)
    colour *= 0.75 + 0.35 * _noise(random, cover.shape, (6, 4))
    return np.dstack([np.clip(colour, 0, 255), np.full_like(wing.edge, 255)]) * wing.cover


def _butterfly(fore, hind, colours, layers, random):
    """Draws an individual, head up: uint8 RGBA, premultiplied by its alpha, and the (x, y) of its middle."""
    colours = np.clip(_colours(colours) * random.normal(random.uniform(0.8, 1.1), 0.08, 3), 0, 255)
    palette = dict(zip(("root", "edge", "dark", "light", "accent"), colours.astype(np.float32), strict=True))
    half, over = (_wing(OUTLINES[outline], layers, palette, random) for outline in (hind, fore))
    half[..., :3] *= 1 - 0.4 * cv2.blur(over[..., 3:], (9, 9))[..., None] / 255  # the forewing's shadow
    half = (over + half * (1 - over[..., 3:] / 255)).round().astype(np.uint8)
    folds = random.uniform(0.5, 1) * random.uniform(0.75, 1, 2)
    left, right = (cv2.resize(half, None, fx=fold, fy=1, interpolation=cv2.INTER_AREA) for fold in folds)
    image, middle = np.hstack([left[:, ::-1], right]), complex(left.shape[1], ROOT)
    body, ahead = np.append(0.75 * palette["dark"] + 0.25 * palette["edge"], 255), -1j * UNIT
    for side in (-1, 1):
        antenna = ahead * np.exp(1j * side * random.uniform(0.3, 0.6))
        _leaf(image, body, middle + 0.24 * (ahead + antenna), 0.48 * antenna, 0.03 * UNIT, 0.5 * side)
    for place, length, width in ((-0.2, 0.65, 0.1), (0.07, 0.34, 0.15), (0.23, 0.14, 0.12)):
        _leaf(image, body, middle + place * ahead, length * ahead, width * UNIT)
    return image, (middle.real, middle.imag)


def _photo(species, random):
    """Draws a photo (uint8 RGB of shape `(height, width, 3)`) and where the butterfly is visible (bool)."""
    size = random.integers(160, 221, 2)  # width, height
    unit, middle = min(size) * random.uniform(0.25, 0.44), random.uniform(0.32, 0.68, 2) * size
    image, root = _butterfly(*species[1:], random)
    matrix = cv2.getRotationMatrix2D(root, random.uniform(0, 360), SCALE * unit / UNIT)
    matrix[:, 2] += SCALE * middle - root
    layer = cv2.warpAffine(image, matrix, (SCALE * size).tolist())
    layer = cv2.resize(layer, size.tolist(), interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = layer[..., 3:] / 255
    shadow = np.roll(cv2.blur(alpha, (13, 13)), (7, 5), (0, 1))[..., None]
    colours, cells, *leaves = BACKGROUNDS[random.integers(len(BACKGROUNDS))]
    dark, light = _colours(colours)
    image = (dark + _noise(random, size[::-1].tolist(), cells) * (light - dark)).astype(np.uint8)
    _strew(image, random, size / 2, size, *leaves)
    image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 2.5)) * random.uniform(0.7, 1.1)
    image = image * (1 - 0.5 * shadow) * (1 - alpha) + layer[..., :3]
    scene = np.dstack([image, layer[..., 3]]).clip(0, 255).astype(np.uint8)
    count, leaf = max(0, random.integers(-4, 4)), (unit * 2, unit * 0.35)
    _strew(scene, random, middle, unit * 1.4, count, leaf, BACKGROUNDS[0][-1])  # foliage over the butterfly
    light = cv2.resize(random.uniform(0.7, 1.2, (2, 2)), size.tolist())[..., None] * random.normal(1, 0.03, 3)
    image = cv2.GaussianBlur(scene[..., :3] * light, (0, 0), random.uniform(0.3, 1.3))
    image += random.normal(0, random.uniform(2, 8), image.shape)
    return image.clip(0, 255).astype(np.uint8), scene[..., 3] > 127


def _encode(image, kind=""):
    """Compresses a photo in the way that its kind of dirt demands."""
    picture, exif, buffer = Image.fromarray(image), Image.Exif(), io.BytesIO()
    if kind == "lying":
        picture, exif[ExifTags.Base.Orientation] = picture.transpose(Image.Transpose.ROTATE_90), 6
    picture = picture.convert({"greyscale": "L", "CMYK": "CMYK"}.get(kind, "RGB"))
    picture.save(buffer, "JPEG", quality=60 if kind == "copy" else 90, exif=exif)
    return buffer.getvalue()[: 2000 if kind == "cut short" else None]


def _files(seed, photos_per_class):
    """Yields of each file: its species, whether it is labelled, its bytes, its mask or None if unreadable."""
    counts = np.linspace(photos_per_class, photos_per_class / 2, len(SPECIES)).round().astype(int)
    photos = [(rank, number) for rank, count in enumerate(counts) for number in range(count)]
    picked = [photos[index] for index in np.random.default_rng([seed, 100]).permutation(len(photos))]
    kinds = dict(zip(picked, DIRT, strict=False))
    for rank, number in photos + [(len(SPECIES), number) for number in range(UNLABELLED)]:
        random, labelled = np.random.default_rng([seed, rank, number]), rank < len(SPECIES)
        species, kind = SPECIES[rank if labelled else random.integers(rank)], kinds.get((rank, number))
        image, visible = _photo(species, random)
        data = _encode(image, kind)
        yield species[0], labelled, data, None if kind == "cut short" else visible
        if kind == "near":
            image, mask = (cv2.resize(each, None, fx=0.85, fy=0.85) for each in (image, np.uint8(visible)))
            data, visible = _encode(image, "copy"), mask > 0
        if kind in ("exact", "near", "two labels"):
            yield SPECIES[rank - (kind == "two labels")][0], True, data, visible
    yield SPECIES[picked[0][0]][0], True, b"", None
    yield SPECIES[picked[1][0]][0], True, b"<html>404 Not Found</html>\n", None


def write(folder: Path, *, seed: int = 0, photos_per_class: int = 36) -> None:
    """Write the sample data set into a folder; the same arguments give the same bytes.

    Written are `raw/train/<species>/` (labelled photos and the dirt listed above), `raw/test/` (24 photos
    without a label), `test_labels.csv` (their species: `filename,label`) and `masks/` (of each readable photo
    a 1-bit PNG of its stem and upright size, white where the butterfly is visible). Photos are JPEGs, 160 to
    220 pixels a side (near-duplicates 136 to 187), called `photo_<number>.jpg`, numbers unique.

    Args:
        folder: where to write, made if missing. Files that a call with other arguments left there stay.
        seed: 0 or more. What a photo shows depends on it, the species and the photo's number in the species.
        photos_per_class: photos of the first species, 8 or more; the last has half as many.

    Raises:
        ValueError: `photos_per_class` is below 8, or `seed` below 0.
    """
    if photos_per_class < 8:
        raise ValueError(f"`photos_per_class` must be 8 or more. Received: {photos_per_class}")
    files, labels = list(_files(seed, photos_per_class)), ["filename,label\n"]
    numbers = np.random.default_rng([seed, 101]).permutation(len(files)).tolist()
    for number, (species, labelled, data, visible) in sorted(zip(numbers, files, strict=True)):
        path = folder / "raw" / (f"train/{species}" if labelled else "test") / f"photo_{number + 1:04d}.jpg"
        for place in (path.parent, folder / "masks"):
            place.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if visible is not None:
            Image.fromarray(visible).save(folder / "masks" / f"{path.stem}.png")
        if not labelled:
            labels.append(f"{path.name},{species}\n")
    (folder / "test_labels.csv").write_text("".join(labels), encoding="utf-8")
