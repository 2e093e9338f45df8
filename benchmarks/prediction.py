"""Measure prediction, embedding and Grad-CAM beside the plain forward pass, on TensorFlow and on JAX.

The plain forward pass is Keras's `predict_on_batch` of each batch of `float32` photos in memory. Predictions
and embeddings include the preparation of the batches and the writing of their cache. The last batch is small.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import measuring
import numpy as np
import pandas as pd

ENGINES = ("tensorflow", "jax")
SIDE, SIZE, BATCH, CLASSES = 184, 160, 32, 10
# Number of photos by backend; the last batch is padded with a few photos that count as none.
COUNTS = {"tensorflow": 500, "jax": 124}
QUICK_COUNTS = {"tensorflow": 125, "jax": 40}
# Targets: photos per second over those of the plain forward pass.
LEAST_PREDICTION, LEAST_GRADCAM = 0.9, 1 / 3


def measure(data: Path | None, weights: Path | None, *, quick: bool = False) -> dict[str, Any]:
    """Return the photos per second on each backend that is installed, each in a process of its own."""
    rows: dict[str, Any] = {}
    for backend in ENGINES:
        if importlib.util.find_spec(backend) is None:
            continue
        count, rounds = (QUICK_COUNTS[backend], 1) if quick else (COUNTS[backend], 5)
        done = subprocess.run(
            [sys.executable, __file__, str(count), str(rounds)],
            env=os.environ | {"KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
        )
        measuring.check(done.returncode == 0, f"{backend}: {done.stdout}")
        rows[backend] = json.loads(done.stdout.splitlines()[-1])
    return rows


def main() -> int:
    """Measure the backend of this process, print the rows as JSON, and return the exit code."""
    count, rounds = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        try:
            print(json.dumps(compare(Path(scratch), count, rounds)))
        except measuring.WrongResult as error:
            print(error)
            return 1
    return 0


def compare(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Return the rows of the backend of this process."""
    from lib.clean import embeddings, photoset
    from lib.core import schema
    from lib.evaluate import heatmaps, inference
    from lib.networks import backend, models
    from lib.photos import decoding

    backend.prepare(0)
    network = models.build(
        schema.Model(backbone="MobileNetV2", weights=None, image_size=SIZE), classes=CLASSES, seed=0
    )
    full = photos(count)
    np.save(folder / "photos.npy", full)
    mapped = np.load(folder / "photos.npy", mmap_mode="r")
    table = pd.DataFrame({"sha1": [str(number) for number in range(count)], "split": "test"})
    names, numbers = [str(number) for number in range(CLASSES)], itertools.count()
    in_memory = photoset.Photos(table, full, SIZE, names)
    from_cache = photoset.Photos(table, mapped, SIZE, names)
    targets = np.arange(count) % CLASSES

    def predict(source: photoset.Photos) -> np.ndarray:
        cache = folder / str(next(numbers))
        return inference.of_rows(network, source, rows=np.arange(count), folder=cache, batch_size=BATCH)

    def embed() -> np.ndarray:
        return embeddings.of_photos(
            table.sha1, mapped, fit="crop", folder=folder / str(next(numbers)), size=SIZE
        )

    def forward(model: Any, images: np.ndarray) -> np.ndarray:
        batches = (images[start : start + BATCH] for start in range(0, count, BATCH))
        return np.concatenate([backend.outputs(model, batch) for batch in batches])

    plain = np.ascontiguousarray(in_memory.images, np.float32)
    embedder = embeddings.network(embeddings.BACKBONE)
    resize = (decoding.resize(image, size=embeddings.SIDE, fit="stretch") for image in in_memory.images)
    small = np.stack(list(resize)).astype(np.float32)
    for name, ours, expected in (
        ("predictions", predict(from_cache), forward(network, plain)),
        ("embeddings", embed(), forward(embedder, small)),
    ):
        difference = float(np.abs(ours - expected).max())
        measuring.check(difference < 1e-5, f"{name} differ by {difference:.1e} from the plain forward pass")
    programs = {
        "plain": lambda: forward(network, plain),
        "memory": lambda: predict(in_memory),
        "cache": lambda: predict(from_cache),
        "gradcam": lambda: heatmaps.compute(network, in_memory.images, targets=targets),
        "plain embedding": lambda: forward(embedder, small),
        "embedding": embed,
    }
    # A quick run checks results only.
    seconds = measuring.in_turn(programs, rounds=rounds, warm_up=rounds > 1)
    rates = {name: measuring.rates(count, values) for name, values in seconds.items()}

    def over(name: str, base: str, least: float) -> dict[str, Any]:
        return measuring.row(measuring.ratios(rates[name], rates[base]), at_least=round(least, 3))

    return {
        f"forward pass of MobileNetV2, {SIZE} pixels": measuring.row(rates["plain"], "photos/s"),
        "prediction over it, photos in memory": over("memory", "plain", LEAST_PREDICTION),
        "prediction over it, photos of the cache": over("cache", "plain", LEAST_PREDICTION),
        "Grad-CAM over it": over("gradcam", "plain", LEAST_GRADCAM),
        f"forward pass of EfficientNetLite0, {embeddings.SIDE} pixels": measuring.row(
            rates["plain embedding"], "photos/s"
        ),
        "embedding over it, photos of the cache": over("embedding", "plain embedding", LEAST_PREDICTION),
    }


def photos(count: int) -> np.ndarray:
    """Draw smooth noise, `uint8` of shape `(count, SIDE, SIDE, 3)`."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)
    return np.stack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in coarse])


if __name__ == "__main__":
    sys.exit(main())
