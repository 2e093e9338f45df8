"""Build ResNet-18 and ResNeXt-101 as in torchvision, with its weights.

These are residual networks (He et al., 2015, https://arxiv.org/abs/1512.03385); ResNeXt has grouped
convolutions (Xie et al., 2016, https://arxiv.org/abs/1611.05431). As in torchvision, the 3 x 3 convolution of
a bottleneck has the stride, and the input of each convolution is padded on both sides: with strides, `same`
padding of Keras is at the bottom and on the right only. The names of the layers are those of torchvision's
tensors, with `_` instead of `.`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lib.core import files
from lib.networks import backend, checkpoints
from lib.networks.backend import keras

layers = keras.layers

ADDRESS = "https://download.pytorch.org/models/"

Shape = tuple[int | None, int | None, int]


def ResNet18(weights: str | None, input_shape: Shape) -> keras.Model:
    """Build ResNet-18 without the classification layer.

    Args:
        weights: `"imagenet"` for torchvision's `IMAGENET1K_V1`; the path of a PyTorch file with the same
            tensors, or of an `.h5` file that `save_weights` of this network wrote; or `None` for random
            weights.
        input_shape: `(height, width, 3)`; `None` for a variable height or width.

    Returns:
        A model from `float32` of shape `(n, height, width, 3)`, RGB standardized with the mean and standard
        deviation of ImageNet, to feature maps of shape `(n, height / 32, width / 32, 512)`, rounded up.

    Raises:
        ValueError: if the weights cannot be downloaded, the file is not a checkpoint, or its tensors are
            not those of this network.
    """
    model = network(basic, (2, 2, 2, 2), input_shape=input_shape, name="resnet18")
    return _load(model, weights, published="resnet18-f37072fd.pth")


def ResNeXt101_32x8d(weights: str | None, input_shape: Shape) -> keras.Model:
    """Build ResNeXt-101 with 32 groups of width 8, without the classification layer.

    Args:
        weights, input_shape: as `ResNet18`.

    Returns:
        A model as `ResNet18`; the feature maps have 2,048 channels.

    Raises:
        ValueError: as `ResNet18`.
    """
    block = partial(bottleneck, groups=32, group_width=8)
    model = network(block, (3, 4, 23, 3), input_shape=input_shape, name="resnext101_32x8d")
    return _load(model, weights, published="resnext101_32x8d-8ba56ff5.pth")


def network(
    block: Callable[..., keras.KerasTensor],
    repeats: tuple[int, ...],
    *,
    input_shape: Shape,
    name: str,
) -> keras.Model:
    """Build a residual network with random weights, normal with variance 2 / fan-out (He et al., 2015).

    Args:
        block: function that adds a block to a tensor, called as `block(x, name, filters=64, stride=1)`.
        repeats: number of blocks in each layer. The first layer has 64 filters; each further layer doubles
            the filters and halves the height and width.
        input_shape: as `ResNet18`.
        name: name of the model.
    """
    inputs = keras.Input(input_shape)
    x = _normalize(_convolve(inputs, "conv1", filters=64, kernel=7, stride=2), "bn1")
    x = layers.ReLU(name="relu")(x)
    # After a ReLU, padding with zeros is equivalent to PyTorch's padding with minus infinity.
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for index, count in enumerate(repeats):
        for repeat in range(count):
            stride = 2 if index > 0 and repeat == 0 else 1
            x = block(x, f"layer{index + 1}_{repeat}", filters=64 * 2**index, stride=stride)
    return compute_groups_natively(keras.Model(inputs, x, name=name))


def basic(inputs: keras.KerasTensor, name: str, *, filters: int, stride: int) -> keras.KerasTensor:
    """Add a block of two 3 x 3 convolutions and a shortcut; see `bottleneck`."""
    x = _convolve(inputs, f"{name}_conv1", filters=filters, kernel=3, stride=stride)
    x = layers.ReLU(name=f"{name}_relu1")(_normalize(x, f"{name}_bn1"))
    x = _normalize(_convolve(x, f"{name}_conv2", filters=filters, kernel=3), f"{name}_bn2")
    return _add_shortcut(x, inputs, name=name, stride=stride)


def bottleneck(
    inputs: keras.KerasTensor, name: str, *, filters: int, stride: int, groups: int, group_width: int
) -> keras.KerasTensor:
    """Add a block of a 1 x 1, a grouped 3 x 3 and a 1 x 1 convolution, and a shortcut.

    Args:
        inputs: Keras tensor of shape `(n, height, width, channels)`.
        name: prefix of the names of the layers.
        filters: a quarter of the output's channels.
        stride: stride of the 3 x 3 convolution.
        groups: number of groups of the 3 x 3 convolution.
        group_width: number of channels in each group if `filters` is 64; proportional to `filters`.
    """
    width = filters * group_width // 64 * groups
    x = _normalize(_convolve(inputs, f"{name}_conv1", filters=width, kernel=1), f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _convolve(x, f"{name}_conv2", filters=width, kernel=3, stride=stride, groups=groups)
    x = layers.ReLU(name=f"{name}_relu2")(_normalize(x, f"{name}_bn2"))
    x = _normalize(_convolve(x, f"{name}_conv3", filters=4 * filters, kernel=1), f"{name}_bn3")
    return _add_shortcut(x, inputs, name=name, stride=stride)


def _add_shortcut(
    x: keras.KerasTensor, inputs: keras.KerasTensor, *, name: str, stride: int
) -> keras.KerasTensor:
    """Add the input of a block to its output; the input is projected if the shapes differ."""
    if x.shape[-1] != inputs.shape[-1] or stride != 1:
        inputs = _convolve(inputs, f"{name}_downsample_0", filters=x.shape[-1], kernel=1, stride=stride)
        inputs = _normalize(inputs, f"{name}_downsample_1")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, inputs]))


def _convolve(
    x: keras.KerasTensor, name: str, *, filters: int, kernel: int, stride: int = 1, groups: int = 1
) -> keras.KerasTensor:
    """Add a convolution without bias, padded on both sides by half of its kernel."""
    padding = "same"
    if kernel > 1 and stride > 1:
        x, padding = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"
    return layers.Conv2D(
        filters,
        kernel,
        stride,
        padding=padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=name,
    )(x)


def _normalize(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def compute_groups_natively(model: keras.Model) -> keras.Model:
    """Replace the computation of a network's grouped convolutions if the backend has a faster one.

    The layers are saved as Keras's `Conv2D`, so call this function again after loading a network.

    Args:
        model: any network, including nested networks.

    Returns:
        The same model.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            compute_groups_natively(layer)
        elif isinstance(layer, layers.Conv2D) and layer.groups > 1:
            layer.convolution_op = backend.grouped_convolution(layer) or layer.convolution_op
    return model


def _load(model: keras.Model, weights: str | None, *, published: str) -> keras.Model:
    if weights and weights.endswith((".h5", ".hdf5")):
        model.load_weights(weights)
    elif weights:
        assign(model, checkpoints.load(download(published) if weights == "imagenet" else weights))
    return model


def assign(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Copy the tensors of torchvision's network into a model, except those of the classification layer.

    Raises:
        ValueError: as `checkpoints.assign`.
    """
    sources = [(layer, layer.name.replace("_", ".")) for layer in model.layers if layer.weights]
    checkpoints.assign(sources, tensors, ignored=("fc.",))


def download(file: str) -> Path:
    """Return the path of a file of torchvision's weights in Keras's cache; download it if it is missing.

    Args:
        file: name of the file, which ends with the first 8 digits of its SHA-256.

    Raises:
        ValueError: if the download fails, or the downloaded file has another SHA-256 and is removed.
    """
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / file
    if not (path.is_file() and _has_hash(path, file)):
        files.write(path, lambda partial: _fetch(file, partial))
    return path


def _fetch(file: str, partial: Path) -> None:
    """Download a file of weights to a partial path; remove it if its SHA-256 differs."""
    folder = str(partial.parent.absolute())
    try:
        keras.utils.get_file(partial.name, ADDRESS + file, cache_subdir=folder, force_download=True)
    except Exception as error:
        raise ValueError(f"fetch failure: {error}") from None
    if not _has_hash(partial, file):
        partial.unlink()
        raise ValueError(f"fetch failure: the SHA-256 of {ADDRESS}{file} differs from its name")


def _has_hash(path: Path, file: str) -> bool:
    digits = file.removesuffix(".pth").rsplit("-", 1)[-1]
    return files.file_sha256(path).startswith(digits)
