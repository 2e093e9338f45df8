"""Grad-CAM: where in a photo the network found the class that it names.

Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391: the gradient of the class's logit with
respect to the last feature map, averaged over the places, weighs the channels; what is positive
of their sum is the heat.
"""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from lib.networks import models
from lib.networks.device import keras, tf
from lib.photos import decoding


def compute(
    network: keras.Model, images: np.ndarray, targets: np.ndarray, *, batch_size: int = 16
) -> np.ndarray:
    """Compute where a network sees a class in photos.

    Args:
        network: a model whose softmax follows a layer `logits`, as `models.build` makes it; the feature map is found.
        images: `uint8` or `float32` of shape `(n, size, size, 3)`, RGB, 0 to 255.
        targets: the class to explain for each photo, `int64` of shape `(n,)`.
        batch_size: photos at a time.

    Returns:
        `float32` of shape `(n, size, size)`, 0 to 1, the hottest place of each photo 1; all 0 where
        nothing speaks for the class.

    Raises:
        ValueError: the network keeps no feature map.
    """
    explainer = keras.Model(
        network.inputs[0], [feature_map(network), network.get_layer(models.LOGITS).output]
    )
    size = images.shape[1:3][::-1]
    result = []
    for start in range(0, len(images), batch_size):
        batch = tf.convert_to_tensor(np.asarray(images[start : start + batch_size]), tf.float32)
        coarse = _heat(explainer, batch, tf.convert_to_tensor(targets[start : start + batch_size]))
        result += [cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR) for heat in coarse.numpy()]
    heats = np.stack(result) if result else np.empty((0, *images.shape[1:3]), np.float32)
    return heats / np.maximum(heats.max(axis=(1, 2), keepdims=True), 1e-9)


def feature_map(network: keras.Model) -> keras.KerasTensor:
    """Return the last feature map of a network: what the first layer without height and width takes.

    Raises:
        ValueError: no layer takes a feature map and gives a vector.
    """
    for layer in network.layers:
        shapes = [getattr(tensor, "shape", ()) for tensor in (layer.input, layer.output)]
        if [len(shape) for shape in shapes] == [4, 2]:
            return layer.input
    raise ValueError(
        "Grad-CAM needs a network in which a layer pools or flattens a feature map. This one has none"
    )


def _heat(explainer, batch, targets):
    with tf.GradientTape() as tape:
        tape.watch(batch)  # a tape follows what learns, and all of the network may be frozen
        features, logits = explainer(batch, training=False)
        score = tf.gather(tf.cast(logits, tf.float32), targets, batch_dims=1)
    gradient = tf.cast(tape.gradient(score, features), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=-1))


def share_inside(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a photo's heat that lies on the object, from 0 to 1; not a number where there is no heat.

    Args:
        heat: `float` of shape `(size, size)`, 0 or more.
        mask: `bool` of the same shape.
    """
    total = heat.sum()
    return float(heat[mask].sum() / total) if total > 0 else float("nan")


def centre_prior(size: int) -> np.ndarray:
    """Return a blob of heat in the middle, `float64` of shape `(size, size)`: a Gaussian whose deviation is a quarter of the side.

    Photographers put the object in the middle: a map explains something only where it beats this.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 4)) ** 2)
    return np.outer(line, line)


def masks(place: Path, stems: list[str], *, size: int, fit: str) -> dict[str, np.ndarray]:
    """Read the masks of photos.

    Args:
        place: a folder or a zip file with one picture per photo, white where the object is.
        stems: the photos' file names without suffix.
        size, fit: how the photos were resized, as `decoding.resize`.

    Returns:
        For each photo that has a mask, `bool` of shape `(size, size)`.

    Raises:
        FileNotFoundError: there is no such folder or file.
    """
    if not place.exists():
        raise FileNotFoundError(
            f"`gradcam.masks`: there is no {place.name}. Expected: a folder or a zip of masks, or null"
        )
    root = zipfile.Path(place) if place.is_file() else place
    files = {Path(file.name).stem: file for file in sorted(root.iterdir(), key=str) if file.is_file()}
    result = {}
    for stem in stems:
        if stem in files:
            pixels, _ = decoding.decode(files[stem].read_bytes())
            result[stem] = decoding.resize(pixels, size=size, fit=fit)[..., 0] > 127
    return result
