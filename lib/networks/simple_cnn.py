"""A small network for small questions: blocks of convolution, ReLU and max-pooling, trained from random weights."""

from lib.networks.device import keras

layers = keras.layers


def SimpleCNN(
    weights: str | None, input_shape: tuple, *, blocks: int = 4, filters: int = 32, kernel: int = 3
) -> keras.Model:
    """Build a small network without its classes.

    Args:
        weights: `None` for random weights (He et al., 2015, which keep the scale of what passes a ReLU), or
            the path of an `.h5` file that this network's `save_weights` wrote. Of a file from a network
            with more blocks it takes the first ones.
        input_shape: `(height, width, 3)`, each at least 2 to the power of `blocks`.
        blocks: number of blocks; each halves height and width, rounded down.
        filters: filters of each block's convolution.
        kernel: height and width of the filters, in pixels.

    Returns:
        A model from `float32` of shape `(n, height, width, 3)` to feature maps of shape
        `(n, height / 2**blocks, width / 2**blocks, filters)`.

    Raises:
        ValueError: nobody has published weights of it, the photos are too small, or the file does not fit.
    """
    if weights == "imagenet":
        raise ValueError(
            "SimpleCNN has no ImageNet weights: set `model.weights` to null, or to the path of a file of its weights"
        )
    side = min(input_shape[:2])
    if side < 2**blocks:
        raise ValueError(
            f"its {blocks} blocks halve a photo to nothing. Expected: `model.image_size` of at least {2**blocks}, "
            f"or `model.simple_cnn.blocks` of at most {side.bit_length() - 1}"
        )
    inputs = x = keras.Input(input_shape)
    for block in range(1, blocks + 1):
        convolution = layers.Conv2D(
            filters, kernel, padding="same", kernel_initializer="he_normal", name=f"block{block}_conv"
        )
        x = layers.ReLU(name=f"block{block}_relu")(convolution(x))
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    model = keras.Model(inputs, x, name="simple_cnn")
    if weights:
        model.load_weights(weights)
    return model
