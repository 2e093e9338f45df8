"""ResNet-18 and ResNeXt-101 in Keras as torchvision has them, with the weights that it publishes.

Deep residual networks (He et al., 2015, https://arxiv.org/abs/1512.03385), the second with grouped
convolutions (Xie et al., 2016, https://arxiv.org/abs/1611.05431). As in torchvision, a bottleneck
strides in its 3 x 3 convolution, and zeros are added on both sides of what is convolved: where it
strides, Keras's `same` would add them below and on the right only. Layers are named as
torchvision's tensors, with `_` for `.`.
"""

import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lib.core import files
from lib.networks import checkpoints
from lib.networks.device import keras, tf

layers = keras.layers

ADDRESS = "https://download.pytorch.org/models/"


def ResNet18(
    include_top: bool = True, weights: str | None = "imagenet", input_shape: tuple | None = None
) -> keras.Model:
    """Build ResNet-18.

    Args:
        include_top: whether to end in the 1,000 ImageNet classes (logits, no softmax) instead of in
            the last feature map.
        weights: `"imagenet"` for torchvision's `IMAGENET1K_V1`, the path of a PyTorch file with the same
            tensors or of an `.h5` file that this network's `save_weights` wrote, or `None` for random weights.
        input_shape: `(height, width, 3)`. `None` accepts all sizes.

    Returns:
        A model from `float32` of shape `(n, height, width, 3)`, RGB scaled to ImageNet's mean 0 and
        deviation 1, to feature maps of shape `(n, height / 32, width / 32, 512)`, rounded up, or to logits
        of shape `(n, 1000)`.

    Raises:
        ValueError: the weights could not be downloaded, the file is not one of weights, or lacks a
            tensor, or holds one of another shape or more than this network has.
    """
    model = network(basic, (2, 2, 2, 2), include_top=include_top, input_shape=input_shape, name="resnet18")
    return _load(model, weights, published="resnet18-f37072fd.pth")


def ResNeXt101_32x8d(
    include_top: bool = True, weights: str | None = "imagenet", input_shape: tuple | None = None
) -> keras.Model:
    """Build ResNeXt-101 with 32 groups of width 8.

    Args:
        include_top, weights, input_shape: as `ResNet18`.

    Returns:
        A model as `ResNet18`; the feature maps have 2,048 channels.

    Raises:
        ValueError: as `ResNet18`.
    """
    block = partial(bottleneck, groups=32, group_width=8)
    model = network(
        block, (3, 4, 23, 3), include_top=include_top, input_shape=input_shape, name="resnext101_32x8d"
    )
    return _load(model, weights, published="resnext101_32x8d-8ba56ff5.pth")


def network(
    block: Callable, repeats: tuple[int, ...], *, include_top: bool, input_shape: tuple | None, name: str
) -> keras.Model:
    """Build a residual network with random weights (normal, of variance 2 / fan-out, as He et al. have it).

    Args:
        block: adds a block to a tensor: `block(x, name, filters, stride)`.
        repeats: number of blocks in each layer; the first has 64 filters, each further one twice as many
            on half the height and width.
        include_top, input_shape: as `ResNet18`.
        name: name of the model.
    """
    inputs = keras.Input(input_shape or (None, None, 3))
    x = layers.ReLU(name="relu")(_normalise(_convolve(inputs, "conv1", 64, 7, stride=2), "bn1"))
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # after a ReLU as good as PyTorch's minus infinity
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for index, count in enumerate(repeats):
        for repeat in range(count):
            stride = 2 if index > 0 and repeat == 0 else 1
            x = block(x, f"layer{index + 1}_{repeat}", 64 * 2**index, stride)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avgpool")(x)
        x = layers.Dense(1000, name="fc")(x)
    return compute_groups_natively(keras.Model(inputs, x, name=name))


def basic(inputs, name: str, filters: int, stride: int):
    """Add a block of two 3 x 3 convolutions, and its input."""
    x = _convolve(inputs, f"{name}_conv1", filters, 3, stride=stride)
    x = layers.ReLU(name=f"{name}_relu1")(_normalise(x, f"{name}_bn1"))
    x = _normalise(_convolve(x, f"{name}_conv2", filters, 3), f"{name}_bn2")
    return _join(x, inputs, name, stride)


def bottleneck(inputs, name: str, filters: int, stride: int, *, groups: int, group_width: int):
    """Add a block that narrows with 1 x 1, filters in groups with 3 x 3 and widens with 1 x 1, and its input.

    Args:
        filters: a quarter of the channels that it gives.
        groups: number of groups of channels, each convolved by itself.
        group_width: channels in each group where `filters` is 64; they grow with it.
    """
    width = filters * group_width // 64 * groups
    x = _normalise(_convolve(inputs, f"{name}_conv1", width, 1), f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _normalise(_convolve(x, f"{name}_conv2", width, 3, stride=stride, groups=groups), f"{name}_bn2")
    x = layers.ReLU(name=f"{name}_relu2")(x)
    x = _normalise(_convolve(x, f"{name}_conv3", 4 * filters, 1), f"{name}_bn3")
    return _join(x, inputs, name, stride)


def _join(x, inputs, name, stride):
    """Add a block's input to what it made of it; projected, where the shapes differ."""
    if x.shape[-1] != inputs.shape[-1] or stride != 1:
        inputs = _convolve(inputs, f"{name}_downsample_0", x.shape[-1], 1, stride=stride)
        inputs = _normalise(inputs, f"{name}_downsample_1")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, inputs]))


def _convolve(x, name, filters, kernel, *, stride=1, groups=1):
    padding = "same"
    if kernel > 1 and stride > 1:
        x, padding = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"
    start = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    return layers.Conv2D(
        filters,
        kernel,
        stride,
        padding=padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=start,
        name=name,
    )(x)


def _normalise(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def compute_groups_natively(model: keras.Model) -> keras.Model:
    """Let TensorFlow compute a network's grouped convolutions itself, where it can.

    Keras has XLA compile each of them, for CPUs on which TensorFlow knows no gradient of them: again at
    each call outside of a graph, and on 2 CPU cores into a gradient that took 400 times as long.
    The layers stay Keras's `Conv2D`, and are saved as such: a network that was loaded needs this again.

    Args:
        model: any network; those inside it count too.

    Returns:
        The same model.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            compute_groups_natively(layer)
        elif isinstance(layer, layers.Conv2D) and layer.groups > 1 and _has_native_groups():
            layer.convolution_op = partial(
                tf.nn.convolution,
                strides=layer.strides,
                padding=layer.padding.upper(),
                dilations=layer.dilation_rate,
            )
    return model


@functools.cache
def _has_native_groups() -> bool:
    """Try TensorFlow's grouped convolution, and what its graphs fuse with it, against one group after the other."""

    def gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch((photos, kernel))
            x = tf.nn.relu(tf.nn.bias_add(convolve(photos, kernel), tf.ones(6)))
            score = tf.reduce_sum(x**2)
        return [x, *tape.gradient(score, (photos, kernel))]

    def one_after_the_other(photos, kernel):
        pairs = zip(tf.split(photos, 2, axis=-1), tf.split(kernel, 2, axis=-1), strict=True)
        return tf.concat([tf.nn.conv2d(*pair, 2, "VALID") for pair in pairs], axis=-1)

    draw = np.random.default_rng(0)
    photos = tf.constant(draw.normal(size=(2, 7, 7, 8)), tf.float32)
    kernel = tf.constant(draw.normal(size=(3, 3, 4, 6)), tf.float32)
    try:
        found = tf.function(gradients)(lambda photos, kernel: tf.nn.convolution(photos, kernel, 2, "VALID"))
    except tf.errors.OpError:
        return False
    expected = gradients(one_after_the_other)
    return all(
        np.abs(one - other).max() < 0.01 * np.abs(other).max()
        for one, other in zip(found, expected, strict=True)
    )


def _load(model, weights, *, published):
    if weights and str(weights).endswith((".h5", ".hdf5")):
        model.load_weights(weights)
    elif weights:
        tensors = checkpoints.load(download(published) if weights == "imagenet" else weights)
        assign(model, tensors)
    return model


def assign(model: keras.Model, tensors: dict) -> None:
    """Copy the tensors of torchvision's network into this one; those of the classes are left out where it has none.

    Raises:
        ValueError: as `checkpoints.assign`.
    """
    sources = [(layer, layer.name.replace("_", ".")) for layer in model.layers if layer.weights]
    checkpoints.assign(sources, tensors, ignored=("fc.",))


def download(file: str) -> Path:
    """Return the path of a file of weights that torchvision publishes, from Keras's cache or from its address.

    Args:
        file: its name, which ends in the first 8 digits of its SHA-256.

    Raises:
        ValueError: nothing arrived, or another file; it is not kept.
    """
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / file
    if not (path.is_file() and _is_whole(path, file)):
        files.write(path, lambda partial: _fetch(file, partial))
    return path


def _fetch(file, partial):
    folder = str(partial.parent.absolute())
    try:
        keras.utils.get_file(partial.name, ADDRESS + file, cache_subdir=folder, force_download=True)
    except Exception as error:
        raise ValueError(f"fetch failure: {error}") from None
    if not _is_whole(partial, file):
        partial.unlink()
        raise ValueError(f"fetch failure: {ADDRESS}{file} has another SHA-256 than its name says")


def _is_whole(path, file):
    digits = file.removesuffix(".pth").rsplit("-", 1)[-1]
    return files.file_sha256(path).startswith(digits)
