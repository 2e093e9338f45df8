"""Backbones by name: any of `keras.applications`, and our own; each with the scaling that it expects."""

import difflib
import inspect
import warnings
from pathlib import Path

from lib.core import files, params, schema
from lib.networks import efficientnet_lite, resnets, simple_cnn
from lib.networks.device import keras

OWN = {
    "EfficientNetLite0": efficientnet_lite.EfficientNetLite0,
    "ResNet18": resnets.ResNet18,
    "ResNeXt101_32x8d": resnets.ResNeXt101_32x8d,
    "SimpleCNN": simple_cnn.SimpleCNN,
}

# What each family's ImageNet weights were trained with, from 0..255: (pixel - mean) / deviation, in BGR order for some.
# It is `preprocess_input` of each family's module, as layers that are saved with the model. Families under RAW scale inside.
RAW = (0.0, 1.0)
UNIT = (0.0, 255.0)
SIGNED = (127.5, 127.5)
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((103.939, 116.779, 123.68), 1.0)
SCALINGS = {
    "convnext": RAW,
    "densenet": TORCH,
    "efficientnet": RAW,
    "efficientnet_v2": RAW,
    "inception_resnet_v2": SIGNED,
    "inception_v3": SIGNED,
    "mobilenet": SIGNED,
    "mobilenet_v2": SIGNED,
    "mobilenet_v3": RAW,
    "nasnet": SIGNED,
    "resnet": CAFFE,
    "resnet_v2": SIGNED,
    "vgg16": CAFFE,
    "vgg19": CAFFE,
    "xception": SIGNED,
    "efficientnet_lite": (127.0, 128.0),
    "resnets": TORCH,
    "simple_cnn": UNIT,  # no published weights ask for anything
}


def names() -> list[str]:
    """Return the names of all backbones, our own first."""
    functions = inspect.getmembers(keras.applications, inspect.isfunction)
    return [*OWN, *(name for name, _ in functions if name[0].isupper())]


def build(settings: schema.Model) -> keras.Model:
    """Build a backbone without its classes.

    Args:
        settings: its name, one of `names()`; its weights, `"imagenet"`, the path of a file of weights for
            it without its top, or `None` for random ones; the height and width of its input, in pixels;
            and the shape of `SimpleCNN`.

    Returns:
        A model from scaled photos `(n, image_size, image_size, 3)` to feature maps
        `(n, height, width, channels)`.

    Raises:
        ValueError: there is no such backbone, the size does not suit it, its weights cannot be
            downloaded, or the file does not fit.
        FileNotFoundError: there is no such file of weights.
    """
    name, weights, image_size = settings.backbone, settings.weights, settings.image_size
    make = _maker(name)
    if weights not in (None, "imagenet"):
        weights = str(weights_file(weights))
    options = settings.simple_cnn.model_dump() if name == "SimpleCNN" else {"include_top": False}
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # MobileNetV2 warns of each size that it was not published for
            return make(weights=weights, input_shape=(image_size, image_size, 3), **options)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        lost = isinstance(error, ConnectionError | TimeoutError) or "fetch failure" in message
        if weights == "imagenet" and lost:
            raise ValueError(
                f"the ImageNet weights of {name} could not be downloaded: {message}. Give a file of them "
                f"(WEIGHTS=path), or take backbone EfficientNetLite0, whose weights are installed"
            ) from None
        source = "" if weights in (None, "imagenet") else f" from {Path(weights).name}"
        raise ValueError(f"{name} at {image_size} pixels could not be built{source}: {message}") from None


def weights_file(weights: str) -> Path:
    """Return the path of a file of weights that the parameters name, `~` expanded.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = params.find_file(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"`model.weights`: there is no file {weights}. Expected: imagenet, null or the path of a file of weights"
        )
    return path


def weights_identity(weights: str | None) -> str | None:
    """Return what identifies weights in a cache key: the name, or the SHA-256 of the file."""
    return weights if weights in (None, "imagenet") else files.file_sha256(weights_file(weights))


def scale(x, name: str):
    """Scale pixels as a backbone's ImageNet weights expect it.

    Args:
        x: a Keras tensor of shape `(n, height, width, 3)`, RGB, 0 to 255.
        name: one of `names()`.

    Returns:
        A Keras tensor of the same shape, through layers that are saved with the model.
    """
    mean, deviation = SCALINGS[_maker(name).__module__.rsplit(".", 1)[-1]]
    if (mean, deviation) == CAFFE:
        x = keras.ops.flip(x, axis=-1)
    if isinstance(mean, tuple):
        variance = 1.0 if deviation == 1.0 else [value**2 for value in deviation]
        variance = [variance] * 3 if variance == 1.0 else variance
        return keras.layers.Normalization(mean=list(mean), variance=variance, name="scaling")(x)
    return keras.layers.Rescaling(1 / deviation, offset=-mean / deviation, name="scaling")(x)


def _maker(name: str):
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        raise ValueError(
            f"`model.backbone` must be one of our own or of keras.applications. Received: {name}. Near it: {', '.join(near) or 'none'}"
        )
    return OWN.get(name) or getattr(keras.applications, name)


def trainable_layers(backbone: keras.Model, part: str) -> list[keras.layers.Layer]:
    """Return the layers of a backbone that learn.

    Args:
        backbone: the model that `build` gave.
        part: `none`, `all`, `last 30 layers` or `last 40 %` (of the layers, rounded to the nearest).
    """
    layers = backbone.layers
    if part in ("none", "all"):
        return [] if part == "none" else layers
    amount = float(part.split()[1])
    count = round(len(layers) * amount / 100) if part.endswith("%") else int(amount)
    return layers[max(0, len(layers) - count) :] if count else []
