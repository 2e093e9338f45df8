"""Change photos at random, in NumPy and OpenCV, a photo at a time.

All geometric changes together are one affine transform with one interpolation, and all changes of colour are
one affine map of the pixel values.
"""

import cv2
import numpy as np
from scipy import special

from lib.core.schema import Augment, Erasing
from lib.photos import decoding
from lib.train.draws import Draws

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# The transforms map positions in the result to positions in the photo.
FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
BORDER = cv2.BORDER_REFLECT
VALUES = np.arange(256, dtype=np.float32)


def images(
    photos: np.ndarray, rows: np.ndarray, *, settings: Augment, draws: Draws, size: int | None = None
) -> np.ndarray:
    """Return photos changed at random.

    Args:
        photos: `uint8` of shape `(all, side, side, 3)`, RGB; a memory map is read a row at a time.
        rows: the rows of `photos` to return, `int64` of shape `(n,)`.
        settings: which changes, and how large.
        draws: the random numbers of these rows.
        size: side of the result, at most `side`; by default `side`. Of a larger photo, the centre or a random
            part is returned.

    Returns:
        `float32` of shape `(n, size, size, 3)`, 0 to 255. Outside of its borders, a photo continues as its
        mirror image. OpenCV interpolates `uint8` bilinearly: before the changes of colour, a value is rounded
        to a whole number, and its position is off by at most 1/32 pixel.
    """
    size = size or photos.shape[1]
    result = np.empty((len(rows), size, size, 3), np.float32)
    transforms = _transforms(settings, draws, side=photos.shape[1], size=size)
    contrast = 1 + draws.signed("contrast") * settings.contrast
    brightness = 1 + draws.signed("brightness") * settings.brightness
    colours = _colours(settings, draws)
    for index, row in enumerate(rows):
        photo = photos[row]
        if transforms is None:
            photo = decoding.centre(photo, size)
        else:
            # OpenCV interpolates four channels in half the time of three.
            photo = cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA)
            photo = cv2.warpAffine(photo, transforms[index], (size, size), flags=FLAGS, borderMode=BORDER)
            photo = cv2.cvtColor(photo, cv2.COLOR_RGBA2RGB)
        mean = np.mean(cv2.mean(photo)[:3]) if settings.contrast else 0
        # A table of 256 values makes both changes and the conversion to float32 a single operation.
        values = ((VALUES - mean) * contrast[index] + mean) * brightness[index]
        if colours is None:
            cv2.LUT(photo, np.clip(values, 0, 255).astype(np.float32), dst=result[index])
        else:
            cv2.LUT(photo, values.astype(np.float32), dst=result[index])
            cv2.transform(result[index], colours[index], dst=result[index])
            np.clip(result[index], 0, 255, out=result[index])
    if settings.erasing:
        _erase(result, settings.erasing, draws)
    return result


def mixup(
    photos: np.ndarray, labels: np.ndarray, *, alpha: float, draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Blend each photo and its label with those of its neighbour (https://arxiv.org/abs/1710.09412).

    Args:
        photos: `float32` of shape `(n, height, width, 3)`. Neighbours are the first and the second, the third
            and the fourth, and so on; the last of an odd number is not blended.
        labels: `float32` of shape `(n, classes)`, one-hot.
        alpha: both parameters of the Beta distribution from which the weight of the first photo is drawn.
        draws: the random numbers of these photos.

    Returns:
        The blended photos and labels, shapes and ranges unchanged.
    """
    weights, partners = mixup_weights(alpha, draws), partner(np.arange(len(photos)), len(photos))
    blended = np.empty_like(photos)
    for index, (weight, other) in enumerate(zip(weights, partners, strict=True)):
        cv2.addWeighted(photos[index], weight, photos[other], 1 - weight, 0, dst=blended[index])
    wide = weights[:, None].astype(np.float32)
    return blended, wide * labels + (1 - wide) * labels[partners]


def mixup_weights(alpha: float, draws: Draws) -> np.ndarray:
    """Return the weight of each photo in MixUp, `float64` of shape `(n,)`, 0 to 1; see `mixup`."""
    return special.betaincinv(alpha, alpha, draws.uniform("mixup"))


def partner(positions: np.ndarray, count: int) -> np.ndarray:
    """Return the position of the photo that each of `count` photos is blended with in MixUp; see `mixup`."""
    return np.minimum(positions ^ 1, count - 1)


def _transforms(settings: Augment, draws: Draws, *, side: int, size: int) -> np.ndarray | None:
    """Return one transform about the centre for each photo, `float64` of shape `(n, 2, 3)`; `None` if nothing
    moves.

    It maps a position in the result to one in the photo: first to the cropped window, then by flip, shear,
    rotation, scale and shift.
    """
    moved = settings.rotation or settings.zoom or settings.translation or settings.shear or settings.crop < 1
    if not moved and settings.flip == "none":
        return None
    angle = draws.signed("angle") * np.radians(settings.rotation)
    scale = 1 / (1 + draws.signed("scale") * settings.zoom)
    shear = draws.signed("shear") * settings.shear
    mirror = np.where((settings.flip != "none") & (draws.signed("mirror") < 0), -1, 1)
    upside = np.where((settings.flip == "both") & (draws.signed("upside") < 0), -1, 1)
    width, height, left, top = _windows(settings.crop, draws, side=side, size=size)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    a, b = cosine * mirror * width, (cosine * shear - sine) * upside * height
    c, d = sine * mirror * width, (sine * shear + cosine) * upside * height
    middle, shift = (size - 1) / 2, settings.translation * size
    x = (side - 1) / 2 + left - (a + b) * middle + draws.signed("right") * shift
    y = (side - 1) / 2 + top - (c + d) * middle + draws.signed("down") * shift
    return np.stack([a, b, x, c, d, y], axis=-1).reshape(-1, 2, 3)


def _windows(least: float, draws: Draws, *, side: int, size: int) -> tuple[np.ndarray | float, ...]:
    """Return the windows of random crops: pixels of the photo per pixel of the result along both axes, and
    the distance of their centres from that of the photo.

    Their areas and aspect ratios are those of Szegedy et al. (2014, https://arxiv.org/abs/1409.4842).
    """
    if least == 1:
        return 1, 1, 0, 0
    area = least + (1 - least) * draws.uniform("area")
    # The square of the ratio is width / height, from 3/4 to 4/3.
    ratio = np.exp(draws.signed("aspect") * np.log(4 / 3) / 2)
    width, height = np.minimum(np.sqrt(area) * ratio, 1), np.minimum(np.sqrt(area) / ratio, 1)
    left, top = (draws.signed(name) * side / 2 for name in ("left", "top"))
    return width * side / size, height * side / size, left * (1 - width), top * (1 - height)


def _colours(settings: Augment, draws: Draws) -> np.ndarray | None:
    """Return a matrix for the RGB values of each photo, `float64` of shape `(n, 3, 3)`; `None` if hue and
    saturation remain.

    It scales the saturation and rotates the hue about the grey axis in the space YIQ, without the branches of
    HSV (https://beesbuzz.biz/code/16-hsv-color-transforms).
    """
    if not (settings.saturation or settings.hue):
        return None
    saturation = 1 + draws.signed("saturation") * settings.saturation
    angle = draws.signed("hue") * (2 * np.pi * settings.hue)
    cosine, sine = saturation * np.cos(angle), saturation * np.sin(angle)
    rotations = np.zeros((len(angle), 3, 3))
    rotations[:, 0, 0] = 1
    rotations[:, 1, 1], rotations[:, 1, 2] = cosine, -sine
    rotations[:, 2, 1], rotations[:, 2, 2] = sine, cosine
    return np.linalg.inv(TO_YIQ) @ rotations @ TO_YIQ


def _erase(photos: np.ndarray, settings: Erasing, draws: Draws) -> None:
    """Overwrite a rectangle of some photos with noise (https://arxiv.org/abs/1708.04896)."""
    size = photos.shape[1]
    area = settings.min_area + (settings.max_area - settings.min_area) * draws.uniform("erased_area")
    # The square of the ratio is width / height, from 1 / 3.3 to 3.3, as in the paper.
    ratio = np.exp(draws.signed("erased_aspect") * np.log(3.3) / 2)
    width, height = np.minimum(np.sqrt(area) * ratio, 1), np.minimum(np.sqrt(area) / ratio, 1)
    left, top = draws.uniform("erased_left") * (1 - width), draws.uniform("erased_top") * (1 - height)
    edges = np.rint(np.stack([left, left + width, top, top + height]) * size).astype(int)
    for index in np.flatnonzero(draws.uniform("erased") < settings.probability):
        first, last, upper, lower = edges[:, index]
        photos[index, upper:lower, first:last] = draws.noise(int(index), (lower - upper, last - first, 3))
