"""Predict the photos of a run, or of a folder, with a trained network."""

import contextlib
import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, metrics, prefetch, progress
from lib.networks import backend, cards, models
from lib.networks.backend import keras
from lib.photos import decoding, labels

# Photos of a folder that are in memory at a time.
BATCH_SIZE = 32
# Fraction of the side that the central crop of a view keeps.
CROP = 0.9
# The photo itself as the only view.
PLAIN = ((1.0, False),)


def views(augmented: bool, *, flip: str) -> tuple[tuple[float, bool], ...]:
    """Return the views of a photo over which its prediction is averaged.

    Test-time augmentation follows Krizhevsky et al. (2012, section 4.1 of "ImageNet classification with deep
    convolutional neural networks"), who averaged the predictions of crops and their mirror images.

    Args:
        augmented: whether to use test-time augmentation.
        flip: `augment.flip`. Photos are mirrored only if the training mirrored them: the mirror image of a
            text, or of a left hand, may be of another class.

    Returns:
        For each view the fraction of the side that its central crop keeps, and whether it is mirrored: the
        photo itself, the crop of 90 %, then both mirrored.
    """
    fractions = (1.0, CROP) if augmented else (1.0,)
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
    """Predict photos of a run, or load the predictions of the same network for the same photos.

    Args:
        network: a model from `models.build`.
        photos: the run's photos.
        rows: rows of the manifest, `int64` of shape `(n,)`.
        folder: the folder that caches the predictions.
        batch_size: photos in a batch, halved if memory is exhausted; changes the result by rounding errors
            only.
        views: the result of the function `views`. Probabilities are averaged over the views before the
            temperature is applied (Rahaman and Thiery, 2021, https://arxiv.org/abs/2007.08792). The
            temperature of the run was fitted to a single view, and a mean is less confident than its
            members, so predictions from several views are slightly underconfident. The temperature does not
            change the predicted class.

    Returns:
        Probabilities, `float32` of shape `(n, classes)`, in the order of the rows.

    Raises:
        ValueError: memory does not suffice for a batch of a single photo.
    """
    if len(rows) == 0:
        return np.empty((0, len(photos.classes)), np.float32)
    key = cache.fingerprint(
        [models.weights_sha256(network), _without_weights(network), views],
        [photos.full.shape[1:], photos.size, photos.fit, photos.bit_depth],
        photos.table.sha1.iloc[rows].tolist(),
        cache.code(__name__),
    )

    def compute() -> dict[str, np.ndarray]:
        size = min(batch_size, len(rows))
        return {"probabilities": _predict(network, photos.images, rows=rows, batch_size=size, views=views)}

    return cache.arrays(folder / f"predictions-{key}.npz", compute)["probabilities"]


def _without_weights(network: keras.Model) -> list[dict]:
    """Return the configuration of the layers without weights, which no hash of the weights covers."""
    return [{**layer.get_config(), "name": ""} for layer in network.layers if not layer.weights]


def _predict(
    network: keras.Model,
    images: np.ndarray,
    *,
    rows: np.ndarray,
    batch_size: int,
    views: Sequence[tuple[float, bool]],
) -> np.ndarray:
    """Predict rows of photos; halve the batch size when memory is exhausted, and continue with that batch.

    Threads prepare the views of the next batches while the network computes.
    """
    # A plain view: the rows of a memory map are slow to make.
    images, parts = np.asarray(images), list[np.ndarray]()
    done = 0
    while done < len(rows):
        batches = [rows[start : start + batch_size] for start in range(done, len(rows), batch_size)]
        make = functools.partial(_views_of_batch, images, size=batch_size, views=views)
        try:
            with (
                decoding.single_thread(),
                contextlib.closing(prefetch.in_order(make, batches)) as prepared,
            ):
                for batch, viewed in zip(batches, prepared, strict=True):
                    parts.append(_mean(network, viewed)[: len(batch)])
                    done += len(batch)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise ValueError(
                    f"memory does not suffice to predict a single photo of {images.shape[-2]} pixels. Close "
                    "other programs and notebooks, or choose a smaller `model.image_size` or backbone"
                ) from None
            batch_size //= 2
    return np.concatenate(parts)


def _views_of_batch(
    images: np.ndarray, rows: np.ndarray, *, size: int, views: Sequence[tuple[float, bool]]
) -> list[np.ndarray]:
    """Return the views of rows of photos, `float32` each of shape `(size, side, side, 3)`."""
    batch = prefetch.padded(images[rows].astype(np.float32, copy=False), size)
    return [np.ascontiguousarray(_view(batch, fraction, mirrored=mirrored)) for fraction, mirrored in views]


def _mean(network: keras.Model, views: list[np.ndarray]) -> np.ndarray:
    """Return the mean probabilities over the views of a batch, `float32` of shape `(size, classes)`."""
    probabilities = [backend.outputs(network, view) for view in views]
    return np.asarray(np.mean(probabilities, axis=0, dtype=np.float32))


def _view(batch: np.ndarray, fraction: float, *, mirrored: bool) -> np.ndarray:
    """Return the central crop of each photo, resized to the size of the photo and mirrored if asked for."""
    if fraction < 1:
        size = batch.shape[1]
        margin = round(size * (1 - fraction) / 2)
        crops = batch[:, margin : size - margin, margin : size - margin]
        batch = np.stack([cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR) for crop in crops])
    return batch[:, :, ::-1] if mirrored else batch


def of_folder(run: Path, folder: Path, *, replaces: Path | None = None) -> pd.DataFrame:
    """Predict every photo in a folder with the model of a finished run, as its evaluation does.

    Args:
        run: the run's folder, with `model.keras`, `model.json` and `params.json`, whose
            `evaluate.test_time_augmentation` and `clean.minimum_side` apply.
        folder: the photos, at any depth; only a batch of them is in memory at a time.
        replaces: file of earlier predictions, which is removed when the arguments have been checked, so that
            it is not mistaken for the result if the prediction fails.

    Returns:
        A row per file with the suffix of a photo, in the order of the paths: `filename` (relative to the
        folder), `label`, `confidence` (0 to 1) and `problem`. `label` is empty if the photo cannot be read;
        a photo smaller than `clean.minimum_side` has both a label and a problem.

    Raises:
        FileNotFoundError: the run has no model, or the folder does not exist.
        ValueError: the folder contains no photo.
    """
    if not (run / "model.json").is_file():
        raise FileNotFoundError(f"{run.name} has no model yet: run `make {run.name}` first")
    if not folder.is_dir():
        raise FileNotFoundError(f"PHOTOS must be a folder of photos. Received: {folder}")
    paths = labels.files(folder)
    if not paths:
        raise ValueError(f"{folder.name} contains no photo. Expected: files such as .jpg or .png")
    names = [files.readable(str(path)) for path in paths]
    if replaces:
        replaces.unlink(missing_ok=True)
    card = cards.load(run / "model.json")
    network = models.load(run / "model.keras", card)
    views, parts = views_of(run), []
    minimum = files.read_json(run / "params.json").get("clean", {}).get("minimum_side", 1)
    size = min(BATCH_SIZE, len(paths))
    read = functools.partial(_read, card=card, minimum=minimum)
    reading = prefetch.in_order(
        read, [folder / path for path in paths], threads=os.cpu_count() or 1, ahead=2 * size
    )
    with progress.Bar(len(paths), "predict") as bar, contextlib.closing(reading), decoding.single_thread():
        while photos := list(itertools.islice(reading, size)):
            parts.append(_part(photos, card, network=network, views=views, size=size))
            bar.step(len(photos))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "filename", names)
    return rows


def views_of(run: Path) -> tuple[tuple[float, bool], ...]:
    """Return the views that the evaluation of a run averaged, according to its `params.json`."""
    chosen = files.read_json(run / "params.json")
    return views(chosen["evaluate"].get("test_time_augmentation", False), flip=chosen["augment"]["flip"])


class _Photo(NamedTuple):
    """The pixels of a file, `uint8` `(size, size, 3)`, `None` if it cannot be read, and its problem or ""."""

    pixels: np.ndarray | None
    problem: str


def _read(path: Path, card: cards.ModelCard, *, minimum: int) -> _Photo:
    """Read a file; a photo with a side below `minimum` pixels has a problem but is predicted nevertheless."""
    try:
        photo = decoding.read(files.read_bytes(path), side=card["resize"], bit_depth=card.get("bit_depth"))
    except OSError as error:
        return _Photo(None, f"the file cannot be opened: {error.strerror}")
    except ValueError as error:
        return _Photo(None, " ".join(str(error).split()))
    return _Photo(decoding.prepare(photo.pixels, card), _remarks(photo, card, minimum=minimum))


def _remarks(photo: decoding.Decoded, card: cards.ModelCard, *, minimum: int) -> str:
    """Return what makes the prediction of a photo doubtful, as text."""
    width, height = photo.size
    remarks = [photo.note]
    if min(width, height) < minimum:
        remarks.append(f"{width} x {height} pixels, smaller than {minimum}")
    if photo.maximum and "bit_depth" not in card:
        remarks.append("more than 8 bits, unlike the photos of the training")
    return "; ".join(filter(None, remarks))


def _part(
    photos: list[_Photo],
    card: cards.ModelCard,
    *,
    network: keras.Model,
    views: Sequence[tuple[float, bool]],
    size: int,
) -> pd.DataFrame:
    """Return the rows of a batch of files, with empty labels for those that could not be read."""
    part = pd.DataFrame({"label": "", "confidence": 0.0, "problem": [photo.problem for photo in photos]})
    read = [photo.pixels is not None for photo in photos]
    if any(read):
        images = np.stack([photo.pixels for photo in photos if photo.pixels is not None])
        rows = np.arange(len(images))
        probabilities = _predict(network, images, rows=rows, batch_size=size, views=views)
        probabilities = metrics.apply_temperature(probabilities, card["temperature"])
        part.loc[read, "label"] = np.take(card["classes"], probabilities.argmax(axis=1))
        part.loc[read, "confidence"] = probabilities.max(axis=1).round(4)
    return part
