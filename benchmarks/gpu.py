"""Check the GPU with a mixed-precision training step of MobileNetV2, and measure the throughput.

Run by `make gpu-check`; the exit code is 1 if TensorFlow sees no GPU.
"""

import statistics
import sys
import time

import numpy as np

from lib.core import schema
from lib.networks import backend, models

BATCH, SIZE, CLASSES, STEPS, ROUNDS = 64, 224, 100, 20, 5


def main() -> int:
    """Print the measurements and return the exit code."""
    if not backend.GPUS:
        print("TensorFlow sees no GPU. Expected: an NVIDIA GPU and its driver (nvidia-smi -L lists it)")
        return 1
    print(backend.prepare(seed=0))
    settings = schema.Model(backbone="MobileNetV2", weights=None, image_size=SIZE)
    network = models.build(settings, classes=CLASSES, seed=0)
    network.compile("adam", "categorical_crossentropy")
    random = np.random.default_rng(0)
    photos = random.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, BATCH)]
    print(f"loss of one step: {float(network.train_on_batch(photos, labels)):.3f}")
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(STEPS):
            network.train_on_batch(photos, labels)
        rates.append(STEPS * BATCH / (time.perf_counter() - began))
    print(
        f"training: {statistics.median(rates):.0f} photos per second at {SIZE} pixels "
        f"(median of {ROUNDS} rounds)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
