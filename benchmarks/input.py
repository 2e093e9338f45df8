"""Measure the input of a training: its photos per second beside those of two ways of Keras.

Each way changes the same 640 photos of 160 pixels in memory by the `augment` section of params/flowers.yaml,
in batches of 32, in turn in one process. The figure is photos per second of processor time, which other work
hardly changes. Photos per second by the number of threads follow, and a training of all layers of MobileNetV2
beside the same steps on a constant batch. Reads `flowers.zip`. The two ways of Keras need TensorFlow as the
backend.
"""

import functools
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from data import archive

from lib.core import engine, params
from lib.core.schema import Augment
from lib.download import archives
from lib.photos import decoding, labels
from lib.train import dataset

if engine.name() != "tensorflow":
    raise measuring.Skipped("ImageDataGenerator and tf.data need KERAS_BACKEND=tensorflow")
from lib.networks.backend import keras
from lib.networks.backend import native as tf

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


def measure(data: Path | None, weights: Path | None, *, quick: bool = False) -> dict[str, Any]:
    """Return the photos per second of each way, by threads, and the time of a step that the input costs."""
    photos, rounds = read(archive(data, "flowers.zip")), 1 if quick else ROUNDS
    check(photos)
    rows = compare_inputs(photos, rounds)
    return rows if quick else rows | compare_threads(photos, rounds) | compare_training(photos)


def check(photos: np.ndarray) -> None:
    """Check that a batch has the photos of its labels, and that another run makes the same batch."""
    with training(photos, FLOWERS) as one, training(photos, FLOWERS, threads=1) as other:
        images, targets, _ = one[3]
        again = other[3]
    measuring.check(images.shape == (BATCH, SIZE, SIZE, 3) and images.dtype == np.float32, f"{images.shape}")
    measuring.check(
        all(np.array_equal(*pair) for pair in zip((images, targets), again, strict=False)), "another batch"
    )
    originals = photos.reshape(COUNT, -1, 3).mean(axis=1)
    nearest = np.abs(originals[None] - images.mean(axis=(1, 2))[:, None]).sum(axis=2).argsort(axis=1)[:, :64]
    own = [targets[row].argmax() in TARGETS[candidates] for row, candidates in enumerate(nearest)]
    measuring.check(np.mean(own) > 0.9, "photos and labels of a batch do not belong together")


def compare_inputs(photos: np.ndarray, rounds: int) -> dict[str, Any]:
    """Return the photos per second of processor time of each way."""
    generator, changed = image_data_generator(photos), keras_layers(photos)
    programs = {
        "chrysalis": lambda: read_ours(photos, FLOWERS),
        "chrysalis with hue, saturation, erasing, MixUp": lambda: read_ours(photos, MORE),
        "ImageDataGenerator": lambda: read_all(itertools.islice(generator, STEPS)),
        "Keras layers": lambda: read_all(changed.take(STEPS)),
    }
    seconds = measuring.in_turn(programs, rounds=rounds, clock=time.process_time)
    # Five epochs of ours, so that the batches that are prepared in vain at the end hardly count.
    rates = {
        name: measuring.rates(COUNT * (5 if name.startswith("chrysalis") else 1), values)
        for name, values in seconds.items()
    }
    unit = "photos per second of processor time"
    rows = {name: measuring.row(values, unit) for name, values in rates.items()}
    for name in ("ImageDataGenerator", "Keras layers"):
        ratios = measuring.ratios(rates["chrysalis"], rates[name])
        rows[f"chrysalis over {name}"] = measuring.row(ratios, at_least=LEAST_RATIO)
    return rows


def compare_threads(photos: np.ndarray, rounds: int) -> dict[str, Any]:
    """Return the photos per second with some numbers of threads."""
    programs = {
        threads: functools.partial(read_ours, photos, FLOWERS, threads=threads) for threads in (1, 2, 4, 8)
    }
    seconds = measuring.in_turn({str(threads): read for threads, read in programs.items()}, rounds=rounds)
    rates = {threads: measuring.rates(5 * COUNT, values) for threads, values in seconds.items()}
    return {
        f"{threads} threads": measuring.row(
            values, "photos/s", at_least=LEAST_RATE if threads == "2" else None
        )
        for threads, values in rates.items()
    }


def read_ours(photos: np.ndarray, settings: Augment, *, threads: int = 2) -> int:
    """Read five epochs of our batches."""
    with training(photos, settings, threads=threads) as batches:
        return read_all(batches[number] for number in range(5 * STEPS))


def read_all(batches: Iterable[tuple[Any, ...]]) -> int:
    """Read batches to their end and return the number of photos."""
    return sum(len(batch[0]) for batch in batches)


def compare_training(photos: np.ndarray) -> dict[str, Any]:
    """Return the seconds of a step of training on our batches and on a constant batch."""
    network = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None, classes=CLASSES)
    network.compile("adam", "categorical_crossentropy")
    watch = Watch()
    ours: list[float] = []
    constant: list[float] = []
    with training(photos, FLOWERS) as batches:
        repeated = tf.data.Dataset.from_tensors(batches[0]).repeat()
        for number in range(ROUNDS_OF_TRAINING + 1):
            for data, seconds in ((batches, ours), (repeated, constant)):
                network.fit(
                    data, steps_per_epoch=STEPS_OF_TRAINING, shuffle=False, verbose=0, callbacks=[watch]
                )
                # The first round compiles, and the first step of each fit waits for its first batch.
                if number:
                    seconds.append(float(np.median(np.diff(watch.times))))
    return {
        "a step of MobileNetV2, all layers": measuring.row(ours, "s"),
        "a step on a constant batch": measuring.row(constant, "s"),
        "a step over a step on a constant batch": measuring.row(
            measuring.ratios(ours, constant), at_most=1 + MOST_LOSS
        ),
    }


class Watch(keras.callbacks.Callback):
    """Keeps the time at the end of each step of the last fit."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.times.append(time.perf_counter())


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


def read(path: Path) -> np.ndarray:
    """Read photos of an archive, spread over its classes, as squares."""
    with tempfile.TemporaryDirectory() as folder:
        archives.extract(path, Path(folder) / "raw")
        paths = [Path(folder) / "raw" / path for path in labels.files(Path(folder) / "raw")]
        paths = paths[:: len(paths) // COUNT][:COUNT]
        photos = [decoding.decode(path.read_bytes())[0] for path in paths]
    return np.stack([decoding.resize(photo, size=SIZE, fit="stretch") for photo in photos])
