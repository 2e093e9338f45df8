"""Builders that tests of several packages share: photos, files and model cards."""

import importlib.util
import io

import cv2
import numpy as np
from PIL import Image

# The backends that tests can start: PyTorch is installed by those who want it.
ENGINES = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]


def scene(seed: int, width: int = 80, height: int = 60) -> np.ndarray:
    """Draw smooth random shapes, as photos have them; two seeds look nothing alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def model_card(**changes) -> dict:
    """Return a complete model card of a network of three classes."""
    card = {
        "backbone": "Tiny",
        "parameter_count": 1234,
        "size": 32,
        "resize": 32,
        "fit": "crop",
        "interpolation": "area",
        "input": "pixels",
        "scaling": "pixels / 255",
        "classes": ["a", "b", "c"],
        "class_names": ["a", "b", "c"],
        "temperature": 1.0,
        "training": "key",
        "batch_size": 32,
        "parameters": {"seed": 1},
        "weights_sha256": "0" * 64,
    }
    return card | changes


class Drawing:
    """A folder to put files into."""

    def __init__(self, folder):
        self.folder = folder

    def put(self, path: str, content: bytes = b"x"):
        """Write a file and the folders above it."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def photo(self, path: str, seed: int, **options):
        """Write the photo that a seed draws."""
        return self.put(path, encoded(scene(seed, **options)))
