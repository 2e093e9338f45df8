"""Build a small network: blocks of convolution, ReLU and max-pooling, with random weights."""

from lib.core import schema
from lib.networks.backend import keras

layers = keras.layers


def SimpleCNN(
    weights: str | None, input_shape: tuple[int, int, int], *, options: schema.SimpleCNN
) -> keras.Model:
    """Build a small network without the classification layer.

    Args:
        weights: `None` for random weights (He et al., 2015, https://arxiv.org/abs/1502.01852), or the path
            of an `.h5` file that `save_weights` of this network wrote. If the network in the file has more
            blocks, the weights of the first blocks are loaded.
        input_shape: `(height, width, 3)`, height and width at least `2**options.blocks`.
        options: number of blocks, each of which halves height and width, rounded down; filters and kernel
            size of each block's convolution.

    Returns:
        A model from `float32` of shape `(n, height, width, 3)` to feature maps of shape
        `(n, height / 2**blocks, width / 2**blocks, filters)`.

    Raises:
        ValueError: if `weights` is `"imagenet"`, the photos are too small, or the file does not match.
    """
    if weights == "imagenet":
        raise ValueError(
            "SimpleCNN has no ImageNet weights: set `model.weights` to null, "
            "or to the path of a file of its weights"
        )
    _require_size(min(input_shape[:2]), options.blocks)
    inputs = x = keras.Input(input_shape)
    for block in range(1, options.blocks + 1):
        x = _block(x, f"block{block}", options)
    model = keras.Model(inputs, x, name="simple_cnn")
    if weights:
        model.load_weights(weights)
    return model


def _require_size(side: int, blocks: int) -> None:
    if side < 2**blocks:
        raise ValueError(
            f"its {blocks} blocks halve the height and width to less than a pixel. "
            f"Expected: `model.image_size` of at least {2**blocks}, "
            f"or `model.simple_cnn.blocks` of at most {side.bit_length() - 1}"
        )


def _block(x: keras.KerasTensor, name: str, options: schema.SimpleCNN) -> keras.KerasTensor:
    x = layers.Conv2D(
        options.filters,
        options.kernel,
        padding="same",
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.MaxPooling2D(2, name=f"{name}_pool")(x)
