"""Grad-CAM heatmaps, the masks of objects, and the energy of a heatmap inside a mask.

Grad-CAM (Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391) weighs the channels of the last feature
map by the mean gradient of the class's logit, and keeps the positive part of their weighted sum.
"""

import contextlib
import functools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np

from lib.core import files, prefetch
from lib.networks import backend, models
from lib.networks.backend import keras
from lib.photos import decoding

BATCH_SIZE = 16
# A mask of more bytes, or masks of 10 times as many, are refused if a zip compresses them by more than this
# ratio.
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


class _Mask(NamedTuple):
    """A file of a mask: its name, its size unpacked and packed, in bytes, and a function that reads it."""

    name: str
    size: int
    packed: int
    read: Callable[[], bytes]


def masks(
    path: Path, stems: list[str], *, size: int, fit: str, limit: int | None = None
) -> dict[str, np.ndarray]:
    """Load the masks of photos.

    Args:
        path: a folder or a zip file with an image per photo, white inside the object.
        stems: the file names of the photos without suffix.
        size, fit: the arguments of `decoding.resize` with which the photos were resized.
        limit: maximum number of masks.

    Returns:
        For the first photos that have a mask, `bool` of shape `(size, size)`, in the order of `stems`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the file is not a zip, or a mask cannot be read or is too large.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"`gradcam.masks`: {path.name} does not exist. Expected: a folder or a zip of masks, or null"
        )
    with contextlib.ExitStack() as stack:
        available = _of_folder(path) if path.is_dir() else _of_zip(stack.enter_context(_open(path)))
        chosen = [stem for stem in stems if stem in available][:limit]
        _check_sizes([available[stem] for stem in chosen])
        return {stem: _load(stem, available[stem], size=size, fit=fit) for stem in chosen}


def _load(stem: str, mask: _Mask, *, size: int, fit: str) -> np.ndarray:
    try:
        pixels, _ = decoding.decode(mask.read(), side=size)
    # An encrypted or damaged member of a zip raises the other errors.
    except (ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"`gradcam.masks`: the mask of {stem} cannot be read: {error}") from None
    return decoding.resize(pixels, size=size, fit=fit)[..., 0] > 127


def _of_folder(folder: Path) -> dict[str, _Mask]:
    """Return the files in a folder by stem; of several files with the same stem, the first."""
    paths = [path for path in sorted(folder.iterdir(), reverse=True) if path.is_file()]
    sizes = [path.stat().st_size for path in paths]
    return {
        path.stem: _Mask(path.name, size, size, functools.partial(files.read_bytes, path))
        for path, size in zip(paths, sizes, strict=True)
    }


def _open(path: Path) -> zipfile.ZipFile:
    try:
        if path.is_file():
            return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        pass
    raise ValueError(
        f"`gradcam.masks`: expected a folder or a zip of masks. Received: {path.name}, which is not a zip"
    )


def _of_zip(archive: zipfile.ZipFile) -> dict[str, _Mask]:
    """Return the members of a zip by stem; members in folders are ignored."""
    members = sorted(archive.infolist(), key=lambda member: member.filename, reverse=True)
    return {
        PurePosixPath(member.filename).stem: _Mask(
            member.filename,
            member.file_size,
            member.compress_size,
            functools.partial(_unpack, archive, member),
        )
        for member in members
        if not member.is_dir() and len(PurePosixPath(member.filename).parts) == 1
    }


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a member, at most up to the size in its header, which need not be true."""
    with archive.open(member) as file:
        return file.read(member.file_size + 1)


def _check_sizes(chosen: list[_Mask]) -> None:
    """Check that each mask fits into memory, and that neither a mask nor all of them are a zip bomb."""
    for mask in chosen:
        _check_size(mask.name, mask.size, packed=mask.packed, largest=LARGEST_PACKED)
        if mask.size > decoding.LARGEST_BYTES:
            raise ValueError(
                f"`gradcam.masks`: {mask.name} has {mask.size:,} bytes. Expected: at most "
                f"{decoding.LARGEST_BYTES:,} bytes"
            )
    total, packed = sum(mask.size for mask in chosen), sum(mask.packed for mask in chosen)
    _check_size(f"{len(chosen)} masks", total, packed=packed, largest=10 * LARGEST_PACKED)


def _check_size(name: str, size: int, *, packed: int, largest: int) -> None:
    if size > largest and size > LARGEST_RATIO * packed:
        raise ValueError(
            f"`gradcam.masks`: {name} would unpack from {packed:,} to {size:,} bytes. Expected: at most "
            f"{LARGEST_RATIO} times the compressed size, or {largest:,} bytes"
        )
