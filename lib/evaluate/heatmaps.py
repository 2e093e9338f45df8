"""Grad-CAM: the places of a photo that speak for a class.

Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391: the gradient of the class's logit with
respect to the last feature map, averaged over the places, weighs the channels; the positive part of
their weighted sum is the heat.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from lib.networks import models
from lib.networks.backend import keras
from lib.photos import decoding

# Photos that are explained at a time.
AT_ONCE = 16
# A mask of more bytes than this is refused if it is packed into less than a hundredth of them.
LARGEST_PACKED, LARGEST_RATIO = 100_000_000, 100


def compute(network: keras.Model, images: np.ndarray, *, targets: np.ndarray) -> np.ndarray:
    """Compute the Grad-CAM heatmap of a class for each photo.

    Args:
        network: a model whose softmax follows a layer `logits`, as `models.build` makes it.
        images: `uint8` or `float32` of shape `(n, size, size, 3)`, RGB, 0 to 255.
        targets: the class to explain for each photo, `int64` of shape `(n,)`.

    Returns:
        `float32` of shape `(n, size, size)`, 0 to 1, the hottest place of each photo 1; all 0 if
        nothing speaks for the class.

    Raises:
        ValueError: the network keeps no feature map.
    """
    explainer = keras.Model(
        network.inputs[0], [feature_map(network), network.get_layer(models.LOGITS).output]
    )
    size = images.shape[1:3][::-1]
    result = []
    for start in range(0, len(images), AT_ONCE):
        batch = tf.convert_to_tensor(np.asarray(images[start : start + AT_ONCE]), tf.float32)
        coarse = _heat(explainer, batch, targets=tf.convert_to_tensor(targets[start : start + AT_ONCE]))
        result += [cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR) for heat in coarse.numpy()]
    heats = np.stack(result) if result else np.empty((0, *images.shape[1:3]), np.float32)
    return heats / np.maximum(heats.max(axis=(1, 2), keepdims=True), 1e-9)


def feature_map(network: keras.Model) -> keras.KerasTensor:
    """Return the last feature map of a network: the input of the first layer whose output is a vector.

    Raises:
        ValueError: no layer turns a feature map into a vector.
    """
    for layer in network.layers:
        shapes = [getattr(tensor, "shape", ()) for tensor in (layer.input, layer.output)]
        if [len(shape) for shape in shapes] == [4, 2]:
            return layer.input
    raise ValueError(
        "Grad-CAM needs a network in which a layer pools or flattens a feature map. This one has none"
    )


def _heat(explainer: keras.Model, batch: tf.Tensor, *, targets: tf.Tensor) -> tf.Tensor:
    """Return the heat at the size of the feature map, `float32` `(len(batch), height, width)`, 0 or more."""
    with tf.GradientTape() as tape:
        # A tape follows trainable weights, and all of the network may be frozen.
        tape.watch(batch)
        features, logits = explainer(batch, training=False)
        score = tf.gather(tf.cast(logits, tf.float32), targets, batch_dims=1)
    gradient = tf.cast(tape.gradient(score, features), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=-1))


def share_inside(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a photo's heat that lies on the object, from 0 to 1; NaN if there is no heat.

    Args:
        heat: `float` of shape `(size, size)`, 0 or more.
        mask: `bool` of the same shape.
    """
    total = heat.sum()
    return float(heat[mask].sum() / total) if total > 0 else float("nan")


def centre_prior(size: int) -> np.ndarray:
    """Return a centred Gaussian, `float64` of shape `(size, size)`; its deviation is a quarter of the side.

    Photographers put the object in the middle: a map explains something only if it beats this baseline.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 4)) ** 2)
    return np.outer(line, line)


def masks(path: Path, stems: list[str], *, size: int, fit: str) -> dict[str, np.ndarray]:
    """Read the masks of photos.

    Args:
        path: a folder or a zip file with one picture per photo, white inside the object.
        stems: the photos' file names without suffix.
        size, fit: how the photos were resized, as `decoding.resize`.

    Returns:
        For each photo that has a mask, `bool` of shape `(size, size)`, in the order of `stems`.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the file is no zip, or a mask cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"`gradcam.masks`: there is no {path.name}. Expected: a folder or a zip of masks, or null"
        )
    read = _of_zip if path.is_file() else _of_folder
    found = {}
    for stem, data in read(path, set(stems)):
        try:
            pixels, _ = decoding.decode(data)
        except ValueError as error:
            raise ValueError(f"`gradcam.masks`: the mask of {stem} cannot be read: {error}") from None
        found[stem] = decoding.resize(pixels, size=size, fit=fit)[..., 0] > 127
    return {stem: found[stem] for stem in stems if stem in found}


def _of_folder(folder: Path, stems: set[str]) -> Iterator[tuple[str, bytes]]:
    """Read the files of some stems, one at a time."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stem in stems:
            _check_size(file.name, file.stat().st_size, packed=file.stat().st_size)
            yield file.stem, file.read_bytes()


def _of_zip(path: Path, stems: set[str]) -> Iterator[tuple[str, bytes]]:
    """Read the members of some stems, one at a time; those in folders are no masks."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"`gradcam.masks`: {path.name} is no zip file. Expected: a folder or a zip of masks"
        ) from None
    with archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            file = PurePosixPath(member.filename)
            if not member.is_dir() and len(file.parts) == 1 and file.stem in stems:
                _check_size(file.name, member.file_size, packed=member.compress_size)
                yield file.stem, archive.read(member)


def _check_size(name: str, size: int, *, packed: int) -> None:
    """Check that a mask fits into memory, and that it is no small member that unpacks to a large one."""
    if size > decoding.LARGEST_BYTES or (size > LARGEST_PACKED and size > LARGEST_RATIO * packed):
        raise ValueError(
            f"`gradcam.masks`: {name} unpacks to {size:,} bytes from {packed:,}. "
            f"Expected: at most {decoding.LARGEST_BYTES:,}, and at most {LARGEST_RATIO} times as many"
        )
