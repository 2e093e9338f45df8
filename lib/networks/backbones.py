"""Build the backbones of `keras.applications` and of this package by name, and scale their input.

To add a backbone, write a module with its constructor and add an entry to `REGISTRY`.
"""

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lib.core import files, schema
from lib.networks import efficientnet_lite, resnets, simple_cnn, weights_files
from lib.networks.backend import keras

Channels = tuple[float, float, float]
# Name of the layer that scales the pixels.
SCALING = "scaling"


@dataclass(frozen=True)
class Scaling:
    """Scaling of pixels, 0 to 255, for a backbone: `(pixel - mean) / std`, per channel.

    Attributes:
        mean: mean of each channel, in the channel order of the backbone.
        std: standard deviation of each channel.
        bgr: whether the channel order is blue, green, red.
    """

    mean: Channels
    std: Channels
    bgr: bool = False


# RAW is for families whose networks scale the pixels themselves.
RAW = Scaling(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
UNIT = Scaling(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
SIGNED = Scaling(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
LITE = Scaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
TORCH = Scaling(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CAFFE = Scaling(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), bgr=True)


@dataclass(frozen=True)
class Backbone:
    """An entry of the registry.

    Attributes:
        build: the constructor, called with `weights` and `input_shape`. It returns a model without the
            classification layer, from `(n, height, width, 3)` to feature maps `(n, height, width, channels)`.
        scaling: the scaling that the published weights expect.
        options: name of the section of `schema.Model` that is passed to `build` as `options`, if any.
    """

    build: Callable[..., keras.Model]
    scaling: Scaling
    options: str | None = None


# The models of keras.applications, by the scaling of their family's `preprocess_input`.
APPLICATIONS = {
    RAW: (
        *("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
        *("EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3"),
        *("EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7"),
        *("EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
        *("EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L"),
        *("MobileNetV3Small", "MobileNetV3Large"),
    ),
    SIGNED: (
        *("InceptionV3", "InceptionResNetV2", "MobileNet", "MobileNetV2", "NASNetMobile", "NASNetLarge"),
        *("ResNet50V2", "ResNet101V2", "ResNet152V2", "Xception"),
    ),
    TORCH: ("DenseNet121", "DenseNet169", "DenseNet201"),
    CAFFE: ("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"),
}

REGISTRY: dict[str, Backbone] = {
    "EfficientNetLite0": Backbone(efficientnet_lite.EfficientNetLite0, LITE),
    "ResNet18": Backbone(resnets.ResNet18, TORCH),
    "ResNeXt101_32x8d": Backbone(resnets.ResNeXt101_32x8d, TORCH),
    "SimpleCNN": Backbone(simple_cnn.SimpleCNN, UNIT, options="simple_cnn"),
    **{
        name: Backbone(partial(getattr(keras.applications, name), include_top=False), scaling)
        for scaling, names in APPLICATIONS.items()
        for name in names
    },
}


def build(settings: schema.Model) -> keras.Model:
    """Build a backbone without the classification layer.

    Args:
        settings: `backbone`, a key of `REGISTRY`; `weights`: `"imagenet"`, the path of a file of weights
            without the classification layer, or `None` for random weights; `image_size`, the height and
            width of the input in pixels; and the options of `SimpleCNN`.

    Returns:
        A model from scaled photos, `float32` of shape `(n, image_size, image_size, 3)`, to feature maps of
        shape `(n, height, width, channels)`.

    Raises:
        ValueError: if the backbone is unknown, the image size is too small for it, the weights cannot be
            downloaded, or the file of weights belongs to another network.
        FileNotFoundError: if the file of weights does not exist.
    """
    backbone, weights = _entry(settings.backbone), settings.weights
    if weights not in (None, "imagenet"):
        weights = str(weights_files.find(weights))
    try:
        # MobileNetV2 warns if no weights are published for the input size.
        with warnings.catch_warnings(action="ignore"):
            return _construct(backbone, settings, weights=weights)
    # Keras raises almost any error if a size is too small or a file belongs to another network.
    except Exception as error:
        raise ValueError(_explain(error, settings)) from None


def _construct(backbone: Backbone, settings: schema.Model, *, weights: str | None) -> keras.Model:
    input_shape = (settings.image_size, settings.image_size, 3)
    if backbone.options is None:
        return backbone.build(weights=weights, input_shape=input_shape)
    options = getattr(settings, backbone.options)
    return backbone.build(weights=weights, input_shape=input_shape, options=options)


def _explain(error: Exception, settings: schema.Model) -> str:
    """Return the message for a backbone that could not be built."""
    name, weights, message = settings.backbone, settings.weights, " ".join(str(error).split())[:300]
    disconnected = isinstance(error, ConnectionError | TimeoutError) or "fetch failure" in message
    # Keras removes such a file, and the next attempt downloads it again.
    disconnected = disconnected or "corrupted file" in message
    if weights == "imagenet" and disconnected:
        return (
            f"the ImageNet weights of {name} could not be downloaded: {message}. Set a file of weights "
            "(`WEIGHTS=file`), or `model.backbone=EfficientNetLite0`, whose weights come with the packages"
        )
    source = "" if weights in (None, "imagenet") else f" from {Path(weights).name}"
    return f"{name} at {settings.image_size} pixels could not be built{source}: {message}"


def weights_identity(weights: str | None) -> str | None:
    """Return the cache key of weights: `"imagenet"`, `None`, or the SHA-256 of the file."""
    return files.file_sha256(weights_files.find(weights)) if weights not in (None, "imagenet") else weights


def scale(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Scale pixels as the published weights of a backbone expect them.

    Args:
        x: Keras tensor of shape `(n, height, width, 3)`, RGB, 0 to 255.
        name: name of the backbone, a key of `REGISTRY`.

    Returns:
        Keras tensor of the same shape, the output of layers that are saved with the model.

    Raises:
        ValueError: if the backbone is unknown.
    """
    scaling = _entry(name).scaling
    if scaling.bgr:
        x = keras.ops.flip(x, axis=-1)
    variance = [value**2 for value in scaling.std]
    return keras.layers.Normalization(mean=list(scaling.mean), variance=variance, name=SCALING)(x)


def _entry(name: str) -> Backbone:
    if name not in REGISTRY:
        nearest = difflib.get_close_matches(name, REGISTRY, n=3, cutoff=0.4)
        raise ValueError(
            "`model.backbone` must be a backbone of this package or of keras.applications. "
            f"Received: {name}. Similar names: {', '.join(nearest) or 'none'}"
        )
    return REGISTRY[name]


def trainable_layers(backbone: keras.Model, part: str) -> list[keras.layers.Layer]:
    """Return the trainable layers of a backbone.

    Args:
        backbone: the result of `build`.
        part: `none`, `all`, `last 30 layers` or `last 40 %`, a percentage of the layers, rounded.
    """
    layers = backbone.layers
    if part in ("none", "all"):
        return [] if part == "none" else layers
    amount = float(part.split()[1])
    count = round(len(layers) * amount / 100) if part.endswith("%") else int(amount)
    return layers[max(0, len(layers) - count) :] if count else []
