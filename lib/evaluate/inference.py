"""Predict photos with a trained network: those of a run, and those of a folder."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, metrics, progress
from lib.networks import cards, models
from lib.networks.backend import keras
from lib.photos import decoding, labels
from lib.train import dataset

# Photos of a folder in memory.
AT_ONCE = 32
# Fraction of the side that the closer views keep.
CLOSER = 0.9
# The photo itself as the only view.
PLAIN = ((1.0, False),)


def views(augmented: bool, *, flip: str) -> tuple[tuple[float, bool], ...]:
    """Return the views of a photo that its prediction averages.

    Several of them are test-time augmentation, as in Krizhevsky et al. (2012, section 4.1 of "ImageNet
    classification with deep convolutional neural networks"), who averaged crops and their mirror images.

    Args:
        augmented: whether there are others than the photo itself.
        flip: `augment.flip`. Photos are mirrored only if the training mirrored them: writing, or a left
            hand, is something else in the mirror.

    Returns:
        For each view the fraction of the side that is kept about the centre, and whether it is mirrored:
        the photo first, then 90 % of it, then both mirrored.
    """
    fractions = (1.0, CLOSER) if augmented else (1.0,)
    mirrors = (False, True) if augmented and flip != "none" else (False,)
    return tuple((fraction, mirrored) for mirrored in mirrors for fraction in fractions)


def of_rows(
    network: keras.Model,
    photos: photoset.Photos,
    *,
    rows: np.ndarray,
    folder: Path,
    batch_size: int,
    views: Sequence[tuple[float, bool]] = PLAIN,
) -> np.ndarray:
    """Predict photos of a run, or read the earlier predictions of the same network for the same photos.

    Args:
        network: a model from `models.build`.
        photos: the run's photos.
        rows: rows of the manifest, `int64` of shape `(n,)`.
        folder: keeps the predictions.
        batch_size: photos at a time, halved if memory does not suffice; does not change the result but
            for rounding.
        views: the result of the function `views`. With several, the prediction is the mean of the
            probabilities, before any temperature: calibration belongs after the mean (Rahaman and Thiery,
            2021, https://arxiv.org/abs/2007.08792). The run's temperature was found with one view, and a
            mean is less confident than its members: confidence then lies a little below accuracy. The
            predicted class does not depend on the temperature.

    Returns:
        Probabilities, `float32` of shape `(n, classes)`, in the order of the rows.

    Raises:
        ValueError: memory does not suffice for one photo.
    """
    if len(rows) == 0:
        return np.empty((0, len(photos.classes)), np.float32)
    key = cache.fingerprint(
        [models.weights_sha256(network), _without_weights(network), views],
        [photos.full.shape[1:], photos.size, photos.fit],
        photos.table.sha1.iloc[rows].tolist(),
        cache.code(__name__),
    )

    def compute() -> dict[str, np.ndarray]:
        return {
            "probabilities": _predict(network, photos.images, rows=rows, batch_size=batch_size, views=views)
        }

    return cache.arrays(folder / f"predictions-{key}.npz", compute)["probabilities"]


def _without_weights(network: keras.Model) -> list[dict]:
    """Return the configuration of layers without weights, such as the scaling, which are in no weight."""
    return [{**layer.get_config(), "name": ""} for layer in network.layers if not layer.weights]


def _predict(
    network: keras.Model,
    images: np.ndarray,
    *,
    rows: np.ndarray,
    batch_size: int,
    views: Sequence[tuple[float, bool]],
) -> np.ndarray:
    """Predict rows of photos, with half the batch from the batch on that memory did not suffice for."""
    parts: list[np.ndarray] = []
    done = 0
    while done < len(rows):
        try:
            with dataset.evaluation(images, rows[done:], batch_size=batch_size) as batches:
                for batch in batches:
                    parts.append(_mean(network, batch, views=views))
                    done += len(parts[-1])
        except tf.errors.ResourceExhaustedError:
            if batch_size == 1:
                raise ValueError(
                    f"memory does not suffice to predict one photo of {images.shape[-2]} pixels: close what "
                    "else uses it, such as other open notebooks, or take a smaller `model.image_size` or "
                    "backbone"
                ) from None
            batch_size //= 2
    return np.concatenate(parts)


def _mean(network: keras.Model, batch: np.ndarray, *, views: Sequence[tuple[float, bool]]) -> np.ndarray:
    """Return the mean probabilities over the views, `float32` of shape `(len(batch), classes)`."""
    outputs = [
        network(_view(batch, fraction, mirrored=mirrored), training=False) for fraction, mirrored in views
    ]
    probabilities = [tf.convert_to_tensor(output).numpy() for output in outputs]
    return np.asarray(np.mean(probabilities, axis=0, dtype=np.float32))


def _view(batch: np.ndarray, fraction: float, *, mirrored: bool) -> np.ndarray | tf.Tensor:
    """Return the middle of each photo, at the size of the whole, and its mirror image if asked for."""
    if fraction < 1:
        size = batch.shape[1]
        margin = round(size * (1 - fraction) / 2)
        batch = tf.image.resize(batch[:, margin : size - margin, margin : size - margin], (size, size))
    return batch[:, :, ::-1] if mirrored else batch


def of_folder(run: Path, folder: Path, *, replaces: Path | None = None) -> pd.DataFrame:
    """Predict every photo under a folder with the model of a finished run, as its evaluation predicts.

    Args:
        run: the run's folder, with `model.keras`, `model.json` and `params.json`; the last says whether
            several views are averaged (`evaluate.test_time_augmentation`) and how small a usable photo is
            (`clean.minimum_side`).
        folder: photos, at any depth. A few are in memory at a time, however many there are.
        replaces: file of earlier predictions, which is removed once the arguments are checked, so that it is
            not taken for the result of a prediction that fails.

    Returns:
        One row per file that looks like a photo, in the order of the paths: `filename` (relative to the
        folder), `label`, `confidence`, and `problem`. A photo that cannot be read has no label; one that
        is smaller than the cleaning allows has one, and the problem beside it.

    Raises:
        FileNotFoundError: the run has no model, or there is no such folder.
        ValueError: the folder holds no photo.
    """
    if not (run / "model.json").is_file():
        raise FileNotFoundError(f"{run.name} has no model yet: run `make {run.name}` first")
    if not folder.is_dir():
        raise FileNotFoundError(f"PHOTOS must be a folder of photos. Received: {folder}")
    paths = labels.files(folder)
    if not paths:
        raise ValueError(f"{folder.name} holds no photo. Expected files such as .jpg or .png")
    names = [files.readable(str(path)) for path in paths]
    if replaces:
        replaces.unlink(missing_ok=True)
    card = cards.load(run / "model.json")
    network = models.load(run / "model.keras", card)
    views, parts = views_of(run), []
    minimum = files.read_json(run / "params.json").get("clean", {}).get("minimum_side", 1)
    with progress.Bar(len(paths), "predict") as bar:
        for photos in _read_parts([folder / path for path in paths], card, minimum=minimum):
            parts.append(_part(photos, card, network=network, views=views))
            bar.step(len(photos))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "filename", names)
    return rows


def views_of(run: Path) -> tuple[tuple[float, bool], ...]:
    """Return the views that a run's own evaluation averages, as its `params.json` says."""
    chosen = files.read_json(run / "params.json")
    return views(chosen["evaluate"].get("test_time_augmentation", False), flip=chosen["augment"]["flip"])


class _Photo(NamedTuple):
    """A file: its pixels, `uint8` `(size, size, 3)`, if it can be read, and its problem, if any."""

    pixels: np.ndarray | None
    problem: str


def _read_parts(paths: list[Path], card: cards.ModelCard, *, minimum: int) -> Iterator[list[_Photo]]:
    """Read files, a few at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            part = paths[start : start + AT_ONCE]
            yield list(pool.map(lambda path: _read(path, card, minimum=minimum), part))


def _read(path: Path, card: cards.ModelCard, *, minimum: int) -> _Photo:
    """Read a file; a photo smaller than `minimum` pixels on a side has a problem but can be predicted."""
    try:
        pixels, (width, height) = decoding.decode(path.read_bytes(), side=card["resize"])
    except OSError as error:
        return _Photo(None, f"the file cannot be opened: {error.strerror}")
    except ValueError as error:
        return _Photo(None, " ".join(str(error).split()))
    small = f"{width} x {height} pixels, smaller than {minimum}" if min(width, height) < minimum else ""
    return _Photo(decoding.prepare(pixels, card), small)


def _part(
    photos: list[_Photo], card: cards.ModelCard, *, network: keras.Model, views: Sequence[tuple[float, bool]]
) -> pd.DataFrame:
    """Predict a few files, among them those that could not be read."""
    part = pd.DataFrame({"label": "", "confidence": 0.0, "problem": [photo.problem for photo in photos]})
    read = [photo.pixels is not None for photo in photos]
    if any(read):
        images = np.stack([photo.pixels for photo in photos if photo.pixels is not None])
        rows = np.arange(len(images))
        probabilities = _predict(network, images, rows=rows, batch_size=AT_ONCE, views=views)
        probabilities = metrics.apply_temperature(probabilities, card["temperature"])
        part.loc[read, "label"] = np.take(card["classes"], probabilities.argmax(axis=1))
        part.loc[read, "confidence"] = probabilities.max(axis=1).round(4)
    return part
