"""Measure the input of a training: its photos per second beside those of two ways of Keras.

    python benchmarks/input.py [result.json]

Each way changes the same 640 photos of 160 pixels in memory by the `augment` section of params/flowers.yaml,
in batches of 32, in turn in one process. The figure is photos per second of processor time, which other work
hardly changes. Photos per second by the number of threads follow, and a training of all layers of MobileNetV2
beside the same steps on a constant batch. DATA names a folder with flowers.zip; without it the photos are
drawn. Exit code 1 if a target is missed.
"""

import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lib.core import params
from lib.core.schema import Augment
from lib.download import archives
from lib.networks.backend import keras
from lib.networks.backend import native as tf
from lib.photos import decoding, labels
from lib.train import dataset

COUNT, SIZE, BATCH, CLASSES, ROUNDS = 640, 160, 32, 5, 7
STEPS, STEPS_OF_TRAINING, ROUNDS_OF_TRAINING = COUNT // BATCH, 8, 6
# Targets: photos per second of processor time over those of Keras, photos per second with two threads, and
# the fraction of a step's time that is lost.
LEAST_RATIO, LEAST_RATE, MOST_LOSS = 10, 3000, 0.05
FLOWERS = params.load("flowers").augment
MORE = Augment.model_validate(
    FLOWERS.model_dump() | {"hue": 0.05, "saturation": 0.3, "erasing": {"probability": 0.5}, "mixup": 0.2}
)
TARGETS = np.arange(COUNT) % CLASSES
LABELS = np.eye(CLASSES, dtype=np.float32)[TARGETS]


def main() -> int:
    """Print the figures, write them to the file of the argument, and return the exit code."""
    photos = read(Path(os.environ["DATA"]) / "flowers.zip") if os.environ.get("DATA") else draw()
    figures = {
        "photos per processor second": compare_inputs(photos),
        "photos per second by threads": compare_threads(photos),
        "seconds per step": compare_training(photos),
    }
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if reached(figures) else 1


def reached(figures: dict[str, dict]) -> bool:
    """Print the targets, and return whether all are reached."""
    rates, threads, steps = figures.values()
    ours = rates["chrysalis"]["median"]
    loss = steps["chrysalis"]["median"] / steps["constant batch"]["median"] - 1
    checks = {
        f"photos/s over those of {name}, expected: at least {LEAST_RATIO}": (
            ours / rates[name]["median"],
            ours / rates[name]["median"] >= LEAST_RATIO,
        )
        for name in ("ImageDataGenerator", "Keras layers")
    }
    rate = threads["2 threads"]["median"]
    checks[f"photos/s with 2 threads, expected: at least {LEAST_RATE}"] = rate, rate >= LEAST_RATE
    checks[f"of a step's time lost, expected: at most {MOST_LOSS}"] = loss, loss <= MOST_LOSS
    for text, (value, met) in checks.items():
        print(f"{value:10,.3f} {text}{'' if met else ' (missed)'}", flush=True)
    return all(met for _, met in checks.values())


def compare_inputs(photos: np.ndarray) -> dict[str, dict]:
    """Return the photos per second of processor time of each way."""
    generator, changed = image_data_generator(photos), keras_layers(photos)
    works = {
        "chrysalis": lambda: read_ours(photos, FLOWERS),
        "chrysalis with hue, saturation, erasing, MixUp": lambda: read_ours(photos, MORE),
        "ImageDataGenerator": lambda: read_all(itertools.islice(generator, STEPS)),
        "Keras layers": lambda: read_all(changed.take(STEPS)),
    }
    return measure("photos per second of processor time", works, clock=time.process_time)


def compare_threads(photos: np.ndarray) -> dict[str, dict]:
    """Return the photos per second with some numbers of threads."""
    works = {
        f"{threads} threads": functools.partial(read_ours, photos, FLOWERS, threads=threads)
        for threads in (1, 2, 4, 8)
    }
    return measure("photos per second", works, clock=time.perf_counter)


def measure(
    title: str, works: dict[str, Callable[[], int]], *, clock: Callable[[], float]
) -> dict[str, dict]:
    """Return the photos per second of some works in turn; the first round warms up and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS + 1):
        for name, work in works.items():
            began = clock()
            rates[name].append(work() / (clock() - began))
    return table(title, {name: values[1:] for name, values in rates.items()})


def read_ours(photos: np.ndarray, settings: Augment, *, threads: int = 2) -> int:
    """Read five epochs of our batches, so that those made in vain at the end hardly count."""
    with training(photos, settings, threads=threads) as batches:
        return read_all(batches[number] for number in range(5 * STEPS))


def read_all(batches: Iterable[tuple[Any, ...]]) -> int:
    """Read batches to their end and return the number of photos."""
    return sum(len(batch[0]) for batch in batches)


def compare_training(photos: np.ndarray) -> dict[str, dict]:
    """Return the seconds of a step of training on our batches and on a constant batch, and those of processor
    time."""
    network = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None, classes=CLASSES)
    network.compile("adam", "categorical_crossentropy")
    watch = Watch()
    seconds: dict[str, list[float]] = {"chrysalis": [], "constant batch": []}
    busy: dict[str, list[float]] = {f"{name}, processor time": [] for name in seconds}
    with training(photos, FLOWERS) as batches:
        constant = tf.data.Dataset.from_tensors(batches[0]).repeat()
        for turn in range(ROUNDS_OF_TRAINING + 1):
            for data, *results in zip((batches, constant), seconds.values(), busy.values(), strict=True):
                network.fit(
                    data, steps_per_epoch=STEPS_OF_TRAINING, shuffle=False, verbose=0, callbacks=[watch]
                )
                # The first round compiles, and the first step of each fit waits for its first batch.
                steps = np.diff(watch.times, axis=0) if turn else []
                for result, values in zip(results, zip(*steps, strict=True), strict=False):
                    result += values
    return table("seconds per step of MobileNetV2", seconds | busy, digits=3)


class Watch(keras.callbacks.Callback):
    """Keeps the time and the processor time at the end of each step of the last fit."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.times.append((time.perf_counter(), time.process_time()))


def training(photos: np.ndarray, settings: Augment, *, threads: int = 2) -> dataset.Batches:
    return dataset.training(
        photos,
        np.arange(COUNT),
        targets=TARGETS,
        size=SIZE,
        class_weights=np.ones(CLASSES),
        settings=settings,
        batch_size=BATCH,
        seed=0,
        threads=threads,
    )


def image_data_generator(photos: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Change photos by the generator of older Keras code; it draws another zoom for each axis."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        horizontal_flip=True,
        rotation_range=FLOWERS.rotation,
        zoom_range=FLOWERS.zoom,
        width_shift_range=FLOWERS.translation,
        height_shift_range=FLOWERS.translation,
        brightness_range=(1 - FLOWERS.brightness, 1 + FLOWERS.brightness),
        fill_mode="reflect",
    )
    return generator.flow(photos, LABELS, batch_size=BATCH, seed=0)


def keras_layers(photos: np.ndarray) -> tf.data.Dataset:
    """Change photos by layers in tf.data; that of brightness adds."""
    layers = keras.layers
    change = keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(FLOWERS.rotation / 360),
            layers.RandomZoom(FLOWERS.zoom),
            layers.RandomTranslation(FLOWERS.translation, FLOWERS.translation),
            layers.RandomBrightness(FLOWERS.brightness),
        ]
    )
    batches = tf.data.Dataset.from_tensor_slices((photos, LABELS)).shuffle(COUNT).repeat().batch(BATCH)
    changed = batches.map(
        lambda batch, targets: (change(tf.cast(batch, tf.float32), training=True), targets),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return changed.prefetch(tf.data.AUTOTUNE)


def table(title: str, results: dict[str, list[float]], *, digits: int = 0) -> dict[str, dict]:
    """Print and return the median, the least and the most of some results."""
    figures = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in results.items()
    }
    print(f"{title}: median (least to most)")
    for name, row in figures.items():
        median, least, most = (f"{value:,.{digits}f}" for value in row.values())
        print(f"{median:>10} ({least} to {most}) {name}", flush=True)
    return figures


def draw() -> np.ndarray:
    """Draw smooth noise, `uint8` of shape `(640, 160, 160, 3)`."""
    coarse = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
    return np.stack([cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for each in coarse])


def read(archive: Path) -> np.ndarray:
    """Read photos of an archive, spread over its classes, as squares."""
    with tempfile.TemporaryDirectory() as folder:
        archives.extract(archive, Path(folder) / "raw")
        paths = [Path(folder) / "raw" / path for path in labels.files(Path(folder) / "raw")]
        paths = paths[:: len(paths) // COUNT][:COUNT]
        photos = [decoding.decode(path.read_bytes())[0] for path in paths]
    return np.stack([decoding.resize(photo, size=SIZE, fit="squash") for photo in photos])


if __name__ == "__main__":
    sys.exit(main())
