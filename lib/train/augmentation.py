"""Random changes to a batch of photos, drawn from a seed alone.

Every random number comes from the caller's seed, so that the same seed returns the same batch, whatever
ran before or in parallel. All geometric changes are one projective transform: one
interpolation instead of four, and about three times as fast.
"""

import numpy as np

from lib.core.schema import Augment, Erasing
from lib.networks.device import tf

TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], np.float32
)


def images(batch: tf.Tensor, settings: Augment, *, seed: tf.Tensor, size: int | None = None) -> tf.Tensor:
    """Change each photo of a batch at random.

    Args:
        batch: `uint8` or `float32` of shape `(n, side, side, 3)`, RGB, 0 to 255.
        settings: which changes, and how large.
        seed: `int64` of shape `(2,)`.
        size: side of the result; by default that of the batch. From larger photos the centre is cut
            out, or a random part.

    Returns:
        `float32` of shape `(n, size, size, 3)`, 0 to 255. What is moved in from outside mirrors the photo.
    """
    seeds = tf.random.split(seed, 3)
    size = size or batch.shape[1]
    batch = tf.cast(batch, tf.float32)
    moved = settings.rotation or settings.zoom or settings.translation or settings.shear or settings.crop < 1
    if moved or settings.flip != "none":
        batch = _move(batch, settings, seeds[0], size)
    elif size != batch.shape[1]:
        start = (batch.shape[1] - size) // 2
        batch = batch[:, start : start + size, start : start + size]
    if settings.contrast or settings.brightness or settings.saturation or settings.hue:
        batch = _colour(batch, settings, seeds[1])
    if settings.erasing:
        batch = _erase(batch, settings.erasing, seeds[2])
    return batch


def mixup(
    batch: tf.Tensor, labels: tf.Tensor, *, alpha: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each photo and its label with those of another of the batch (https://arxiv.org/abs/1710.09412).

    Args:
        batch: `float32` of shape `(n, height, width, 3)`.
        labels: `float32` of shape `(n, classes)`, one-hot.
        alpha: both parameters of the Beta distribution that draws the fraction of the first photo.
        seed: `int64` of shape `(2,)`.

    Returns:
        The blended photos and labels, shapes and ranges unchanged.
    """
    seeds = tf.random.split(seed, 3)
    first, second = (tf.random.stateless_gamma([tf.shape(batch)[0]], seeds[i], alpha) for i in (0, 1))
    fraction = first / (first + second + 1e-7)
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(batch)[0]), seeds[2])
    wide = fraction[:, None, None, None]
    blended = wide * batch + (1 - wide) * tf.gather(batch, order)
    return blended, fraction[:, None] * labels + (1 - fraction[:, None]) * tf.gather(labels, order)


def _uniform(count: tf.Tensor, width: int, seed: tf.Tensor) -> list[tf.Tensor]:
    """Draw `width` vectors of `count` numbers from -1 to 1."""
    return tf.unstack(tf.random.stateless_uniform([width, count], seed, -1.0, 1.0))


def _move(batch: tf.Tensor, settings: Augment, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Crop, flip, rotate, shear, zoom and shift by one transform about the centre.

    It maps a position in the result to one in the photo: first to the cropped window, then the rest.
    """
    seeds = tf.random.split(seed, 2)
    count, side = tf.shape(batch)[0], batch.shape[1]
    angle, scale, shear, down, right, mirror, upside = _uniform(count, 7, seeds[0])
    angle = angle * (settings.rotation * np.pi / 180)
    scale = 1 / (1 + scale * settings.zoom)
    shear = shear * settings.shear
    one = tf.ones_like(angle)
    mirror = tf.where(mirror < 0, -one, one) if settings.flip != "none" else one
    upside = tf.where(upside < 0, -one, one) if settings.flip == "both" else one
    width, height, left, top = _window(count, settings.crop, seeds[1], side, size)
    cosine, sine = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cosine * mirror * width, (cosine * shear - sine) * upside * height
    c, d = sine * mirror * width, (sine * shear + cosine) * upside * height
    middle = (size - 1) / 2
    shift_x = (side - 1) / 2 + left - (a + b) * middle + right * (settings.translation * size)
    shift_y = (side - 1) / 2 + top - (c + d) * middle + down * (settings.translation * size)
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=batch,
        transforms=tf.stack([a, b, shift_x, c, d, shift_y, zero, zero], axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _window(
    count: tf.Tensor, least: float, seed: tf.Tensor, side: int, size: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draw the window that a random crop keeps: pixels of the photo per pixel of the result along both axes,
    and how far its centre lies from the photo's (Szegedy et al., 2014, https://arxiv.org/abs/1409.4842)."""
    if least == 1:
        one, zero = tf.ones([count]), tf.zeros([count])
        return one, one, zero, zero
    fraction, aspect, left, top = _uniform(count, 4, seed)
    area = least + (1 - least) * (fraction + 1) / 2
    # The square of the ratio is width / height, from 3/4 to 4/3.
    ratio = tf.exp(aspect * np.log(4 / 3) / 2)
    width, height = tf.minimum(tf.sqrt(area) * ratio, 1.0), tf.minimum(tf.sqrt(area) / ratio, 1.0)
    return (
        width * (side / size),
        height * (side / size),
        left * (1 - width) * (side / 2),
        top * (1 - height) * (side / 2),
    )


def _colour(batch: tf.Tensor, settings: Augment, seed: tf.Tensor) -> tf.Tensor:
    """Change contrast about each photo's mean, brightness, saturation about each pixel's grey, and hue."""
    contrast, brightness, saturation, hue = (
        value[:, None, None, None] for value in _uniform(tf.shape(batch)[0], 4, seed)
    )
    if settings.contrast or settings.brightness:
        mean = tf.reduce_mean(batch, axis=[1, 2, 3], keepdims=True)
        batch = (batch - mean) * (1 + contrast * settings.contrast) + mean
        batch = batch * (1 + brightness * settings.brightness)
    if settings.saturation or settings.hue:
        batch = _rotate_hue(batch, 1 + saturation * settings.saturation, hue * (2 * np.pi * settings.hue))
    return tf.clip_by_value(batch, 0.0, 255.0)


def _rotate_hue(batch: tf.Tensor, saturation: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Scale saturation and rotate the hue: a rotation of the colours about the grey axis in the space YIQ
    (https://beesbuzz.biz/code/16-hsv-color-transforms); a few products, where HSV has branches."""
    y, i, q = tf.unstack(tf.linalg.matvec(tf.constant(TO_YIQ), batch), axis=-1)
    cosine, sine = (saturation * part for part in (tf.cos(angle), tf.sin(angle)))
    cosine, sine = cosine[..., 0], sine[..., 0]
    rotated = tf.stack([y, cosine * i - sine * q, sine * i + cosine * q], axis=-1)
    return tf.linalg.matvec(tf.constant(np.linalg.inv(TO_YIQ)), rotated)


def _erase(batch: tf.Tensor, settings: Erasing, seed: tf.Tensor) -> tf.Tensor:
    """Lay a rectangle of noise over a part of some photos (https://arxiv.org/abs/1708.04896)."""
    seeds = tf.random.split(seed, 2)
    count, size = tf.shape(batch)[0], batch.shape[1]
    chance, fraction, aspect, left, top = ((value + 1) / 2 for value in _uniform(count, 5, seeds[0]))
    area = settings.min_area + (settings.max_area - settings.min_area) * fraction
    # The square of the ratio is width / height, from 1 / 3.3 to 3.3, as in the paper.
    ratio = tf.exp((aspect * 2 - 1) * np.log(3.3) / 2)
    width, height = (tf.minimum(tf.sqrt(area) * side, 1.0) for side in (ratio, 1 / ratio))
    position = (tf.range(size, dtype=tf.float32) + 0.5) / size
    start_x, start_y = left * (1 - width), top * (1 - height)
    across = (position >= start_x[:, None]) & (position < (start_x + width)[:, None])
    down = (position >= start_y[:, None]) & (position < (start_y + height)[:, None])
    erased = (down[:, :, None] & across[:, None, :]) & (chance < settings.probability)[:, None, None]
    noise = tf.random.stateless_uniform(tf.shape(batch), seeds[1], 0.0, 255.0)
    return tf.where(erased[..., None], noise, batch)
