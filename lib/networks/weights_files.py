"""Find and check the file of a backbone's weights, without Keras."""

import os
from pathlib import Path

from lib.core import params, schema

# The first bytes of an HDF5 file, a zip archive and a pickle.
HDF5, ZIP, PICKLE = b"\x89HDF", b"PK", b"\x80"
# The suffixes that a backbone can load, with the first bytes of such files. Those of `keras.applications`
# and SimpleCNN load files of Keras.
Suffixes = dict[str, tuple[bytes, ...]]
KERAS: Suffixes = {".h5": (HDF5,), ".hdf5": (HDF5,), ".keras": (ZIP,)}
PYTORCH: Suffixes = {".pth": (ZIP, PICKLE), ".pt": (ZIP, PICKLE)}
SUFFIXES: dict[str, Suffixes] = {
    "EfficientNetLite0": PYTORCH,
    "ResNet18": PYTORCH | {".h5": (HDF5,), ".hdf5": (HDF5,)},
    "ResNeXt101_32x8d": PYTORCH | {".h5": (HDF5,), ".hdf5": (HDF5,)},
}


def find(weights: str) -> Path:
    """Return the path of the file of weights `model.weights`, with `~` expanded.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    path = params.find_file(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"`model.weights`: the file {weights} does not exist{_origin(weights)}. "
            "Expected: imagenet, null or the path of a file of weights"
        )
    return path


def require(settings: schema.Model) -> None:
    """Check that the weights exist and are of a kind that the backbone can load.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another suffix or content, or if SimpleCNN should have ImageNet weights.
    """
    backbone, weights = settings.backbone, settings.weights
    if (backbone, weights) == ("SimpleCNN", "imagenet"):
        raise ValueError(
            "`model.weights`: SimpleCNN has no ImageNet weights. Set it to null, or to a file of its weights"
        )
    if weights is None or weights == "imagenet":
        return
    path = find(weights)
    received, suffixes = f"{path.name}{_origin(weights)}", SUFFIXES.get(backbone, KERAS)
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"`model.weights`: expected a file for {backbone}, with the suffix {' or '.join(suffixes)}. "
            f"Received: {received}"
        )
    with path.open("rb") as file:
        beginning = file.read(8)
    if not beginning.startswith(suffixes[path.suffix.lower()]):
        raise ValueError(
            f"`model.weights`: expected a {path.suffix} file. Received: {received}, which begins with "
            f"{beginning!r}. Download it again"
        )


def _origin(weights: str) -> str:
    """Return a note for an error message if the weights are those of WEIGHTS."""
    return " (from WEIGHTS)" if weights == os.environ.get("CHRYSALIS_WEIGHTS") else ""
