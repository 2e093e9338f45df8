"""Grad-CAM heatmaps, the masks of objects, and the energy of a heatmap inside a mask.

Grad-CAM (Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391) weighs the channels of the last feature
map by the mean gradient of the class's logit, and keeps the positive part of their weighted sum.
"""

import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from lib.core import prefetch
from lib.networks import backend, models
from lib.networks.backend import keras
from lib.photos import decoding

BATCH_SIZE = 16
# A mask of more bytes is refused if a zip compresses it by more than this ratio.
LARGEST_PACKED, LARGEST_RATIO = 100_000_000, 100


def compute(network: keras.Model, images: np.ndarray, *, targets: np.ndarray) -> np.ndarray:
    """Compute the Grad-CAM heatmap of a class for each photo.

    Args:
        network: a model from `models.build`, whose softmax follows a layer `logits`.
        images: `uint8` or `float32` of shape `(n, size, size, 3)`, RGB, 0 to 255.
        targets: the class to explain for each photo, `int64` of shape `(n,)`.

    Returns:
        `float32` of shape `(n, size, size)`, 0 to 1. The maximum of each heatmap is 1; a heatmap is 0
        everywhere if the feature map holds no evidence for the class.

    Raises:
        ValueError: the network has no feature map.
    """
    below, above = _parts(network)
    size = images.shape[1:3][::-1]
    batch_size, result = min(BATCH_SIZE, len(images)), []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        classes = prefetch.padded(targets[start : start + BATCH_SIZE], batch_size)
        features = backend.outputs(below, prefetch.padded(batch, batch_size))
        coarse = _coarse(features, above, targets=classes)[: len(batch)]
        result += [cv2.resize(heatmap, size, interpolation=cv2.INTER_LINEAR) for heatmap in coarse]
    maps = np.stack(result) if result else np.empty((0, *images.shape[1:3]), np.float32)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-9)


@functools.lru_cache(maxsize=1)
def _parts(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the network below and above its last feature map, which are compiled only once."""
    features, logits = feature_map(network), network.get_layer(models.LOGITS).output
    return keras.Model(network.inputs[0], features), keras.Model(features, logits)


def feature_map(network: keras.Model) -> keras.KerasTensor:
    """Return the last feature map of a network: the input of the first layer that pools or flattens.

    Raises:
        ValueError: there is no such layer.
    """
    for layer in network.layers:
        shapes = [getattr(tensor, "shape", ()) for tensor in (layer.input, layer.output)]
        if [len(shape) for shape in shapes] == [4, 2]:
            return layer.input
    raise ValueError(
        "Grad-CAM needs a network in which a layer pools or flattens a feature map. "
        "Received: a network without such a layer"
    )


def _coarse(features: np.ndarray, above: keras.Model, *, targets: np.ndarray) -> np.ndarray:
    """Return heatmaps at the size of the feature map.

    Args:
        features: `float32` of shape `(n, height, width, channels)`, the feature map.
        above: the layers from the feature map to the logits.
        targets: `int64` of shape `(n,)`.

    Returns:
        `float32` of shape `(n, height, width)`, 0 or more.
    """

    def score(inputs: Any) -> Any:
        logits = keras.ops.cast(above(inputs, training=False), "float32")
        return keras.ops.take_along_axis(logits, targets[:, None], axis=1)

    weights = backend.gradient(score, features).mean(axis=(1, 2), keepdims=True)
    return np.maximum((weights * features).sum(axis=-1), 0)


def energy_inside(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Return the fraction of a heatmap's energy inside a mask, from 0 to 1; NaN if the heatmap is all 0.

    This is the energy-based pointing game of Wang et al. (2020, https://arxiv.org/abs/1910.01279).

    Args:
        heatmap: `float` of shape `(size, size)`, 0 or more.
        mask: `bool` of the same shape, true inside the object.
    """
    total = heatmap.sum()
    return float(heatmap[mask].sum() / total) if total > 0 else float("nan")


def centred_gaussian(size: int) -> np.ndarray:
    """Return the baseline of the heatmaps, a centred Gaussian, `float64` of shape `(size, size)`, 0 to 1.

    Its standard deviation is a quarter of the side. Most photos show the object in the middle: a heatmap is
    informative only if it has more energy inside the mask than this baseline.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 4)) ** 2)
    return np.outer(line, line)


def masks(path: Path, stems: list[str], *, size: int, fit: str) -> dict[str, np.ndarray]:
    """Load the masks of photos.

    Args:
        path: a folder or a zip file with an image per photo, white inside the object.
        stems: the file names of the photos without suffix.
        size, fit: the arguments of `decoding.resize` with which the photos were resized.

    Returns:
        For each photo that has a mask, `bool` of shape `(size, size)`, in the order of `stems`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the file is not a zip, or a mask cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"`gradcam.masks`: {path.name} does not exist. Expected: a folder or a zip of masks, or null"
        )
    read = _of_zip if path.is_file() else _of_folder
    loaded = {}
    for stem, data in read(path, set(stems)):
        try:
            pixels, _ = decoding.decode(data)
        except ValueError as error:
            raise ValueError(f"`gradcam.masks`: the mask of {stem} cannot be read: {error}") from None
        loaded[stem] = decoding.resize(pixels, size=size, fit=fit)[..., 0] > 127
    return {stem: loaded[stem] for stem in stems if stem in loaded}


def _of_folder(folder: Path, stems: set[str]) -> Iterator[tuple[str, bytes]]:
    """Read the files with the given stems."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stem in stems:
            _check_size(file.name, file.stat().st_size, packed=file.stat().st_size)
            yield file.stem, file.read_bytes()


def _of_zip(path: Path, stems: set[str]) -> Iterator[tuple[str, bytes]]:
    """Read the members with the given stems; members in folders are ignored."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"`gradcam.masks`: expected a folder or a zip of masks. Received: {path.name}, which is not a zip"
        ) from None
    with archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            file = PurePosixPath(member.filename)
            if not member.is_dir() and len(file.parts) == 1 and file.stem in stems:
                _check_size(file.name, member.file_size, packed=member.compress_size)
                yield file.stem, archive.read(member)


def _check_size(name: str, size: int, *, packed: int) -> None:
    """Check that a mask fits into memory and is not compressed as strongly as a zip bomb."""
    if size > decoding.LARGEST_BYTES or (size > LARGEST_PACKED and size > LARGEST_RATIO * packed):
        raise ValueError(
            f"`gradcam.masks`: {name} unpacks from {packed:,} to {size:,} bytes. Expected: at most "
            f"{decoding.LARGEST_BYTES:,} bytes, and at most {LARGEST_RATIO} times the compressed size"
        )
