"""Predict photos with a trained network: those of a run, and those of a folder."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, metrics, progress
from lib.networks import cards, models
from lib.networks.device import keras, tf
from lib.photos import decoding, labels
from lib.train import dataset

AT_ONCE = 32  # photos of a folder in memory
CLOSER = 0.9  # share of the side that the closer views keep
PLAIN = ((1.0, False),)  # the photo itself as the only view


def views(augmented: bool, *, flip: str) -> tuple[tuple[float, bool], ...]:
    """Return the views of a photo that its prediction averages.

    Several of them are test-time augmentation, as of Krizhevsky et al. (2012, section 4.1 of "ImageNet
    classification with deep convolutional neural networks"), who averaged crops and their mirror images.

    Args:
        augmented: whether there are others than the photo itself.
        flip: `augment.flip`. Only where the training mirrored photos are they mirrored here too: writing,
            or a left hand, is something else in the mirror.

    Returns:
        For each view the share of the side that is kept about the centre, and whether it is mirrored:
        the photo first, then 90 % of it, then both mirrored.
    """
    shares, mirrored = ((1.0, CLOSER), (False, True)) if augmented else ((1.0,), (False,))
    return tuple((share, turned) for turned in mirrored for share in shares if not turned or flip != "none")


def of_rows(
    network: keras.Model,
    run_photos: photoset.Photos,
    rows: np.ndarray,
    *,
    folder: Path,
    batch_size: int,
    views: Sequence[tuple[float, bool]] = PLAIN,
) -> np.ndarray:
    """Predict photos, or read back what the same network said of the same photos.

    Args:
        network: a model from `models.build`.
        run_photos: the run's photos.
        rows: rows of the manifest.
        folder: keeps the predictions.
        batch_size: photos at a time, halved where memory does not suffice; does not change the result but
            for rounding.
        views: as the function `views` gives them. Of several, the result is the mean of the probabilities,
            before any temperature: calibration belongs after the mean (Rahaman and Thiery, 2021,
            https://arxiv.org/abs/2007.08792). The run's temperature was found with one view, and a mean is
            more modest than what it averages: confidence then lies a little below accuracy. Which class is
            named does not depend on the temperature.

    Returns:
        Probabilities, `float32` of shape `(len(rows), classes)`, in the order of the rows.

    Raises:
        ValueError: memory does not suffice for one photo.
    """
    if len(rows) == 0:
        return np.empty((0, len(run_photos.classes)), np.float32)
    key = cache.fingerprint(
        [models.weights_sha256(network), _without_weights(network), views],
        [run_photos.full.shape[1:], run_photos.size, run_photos.fit],
        run_photos.table.sha1.iloc[rows].tolist(),
        cache.code(__name__),
    )
    return cache.arrays(
        folder / f"predictions-{key}.npz",
        lambda: {"probabilities": _say(network, run_photos.images, rows, batch_size, views)},
    )["probabilities"]


def _without_weights(network) -> list[dict]:
    """Return what the layers without weights do, such as the scaling, which the weights do not tell."""
    return [{**layer.get_config(), "name": ""} for layer in network.layers if not layer.weights]


def _say(network, images, rows, batch_size, views) -> np.ndarray:
    """Predict rows of photos, with half the batch from where memory did not suffice."""
    parts, done = [], 0
    while done < len(rows):
        try:
            for batch in dataset.evaluation(images, rows[done:], batch_size=batch_size):
                parts.append(_mean(network, batch, views))
                done += len(parts[-1])
        except tf.errors.ResourceExhaustedError:
            if batch_size == 1:
                raise ValueError(
                    f"memory does not suffice to predict one photo of {images.shape[-2]} pixels: close what else "
                    "uses it, such as other open notebooks, or take a smaller `model.image_size` or backbone"
                ) from None
            batch_size //= 2
    return np.concatenate(parts)


def _mean(network, batch, views) -> np.ndarray:
    said = [tf.convert_to_tensor(network(_view(batch, *view), training=False)) for view in views]
    return np.mean([part.numpy() for part in said], axis=0, dtype=np.float32)


def _view(batch, share, mirrored):
    """Return the middle of each photo, at the size of the whole, and its mirror image if asked for."""
    if share < 1:
        size = batch.shape[1]
        margin = round(size * (1 - share) / 2)
        batch = tf.image.resize(batch[:, margin : size - margin, margin : size - margin], (size, size))
    return batch[:, :, ::-1] if mirrored else batch


def of_folder(run: Path, folder: Path) -> pd.DataFrame:
    """Predict every photo under a folder with the model of a finished run, as its evaluation predicts.

    Args:
        run: the run's folder, with `model.keras`, `model.json` and `params.json`; the last says whether
            several views are averaged (`evaluate.test_time_augmentation`).
        folder: photos, at any depth. A few are in memory at a time, however many there are.

    Returns:
        One row per file that looks like a photo, in the order of the paths: `filename` (relative to the
        folder), `label`, `confidence`, and `problem` where it could not be read.

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
    card = cards.load(run / "model.json")
    network = models.load(run / "model.keras", card)
    averaged, parts = views_of(run), []
    with progress.Bar(len(paths), "predict") as bar:
        for squares, problems in _read(folder, paths, card):
            parts.append(_part(squares, problems, card, network, averaged))
            bar.step(len(problems))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "filename", [str(path) for path in paths])
    return rows


def views_of(run: Path) -> tuple[tuple[float, bool], ...]:
    """Return the views that a run's own evaluation averages, as its `params.json` says."""
    chosen = files.read_json(run / "params.json")
    return views(chosen["evaluate"].get("test_time_augmentation", False), flip=chosen["augment"]["flip"])


def _read(folder, paths, card) -> Iterator[tuple[list, list[str]]]:
    """Read files, a few at a time: the squares of those that are photos, and what is wrong with each file, if anything."""

    def read(path):
        try:
            pixels, _ = decoding.decode((folder / path).read_bytes(), side=card["resize"])
        except OSError as error:
            return None, f"the file cannot be opened: {error.strerror}"
        except ValueError as error:
            return None, " ".join(str(error).split())
        return decoding.prepare(pixels, card), ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            found = list(pool.map(read, paths[start : start + AT_ONCE]))
            yield [square for square, problem in found if not problem], [problem for _, problem in found]


def _part(squares, problems, card, network, views) -> pd.DataFrame:
    """Predict a few files, those that could not be read among them."""
    part = pd.DataFrame({"label": "", "confidence": 0.0, "problem": problems})
    if squares:
        said = _say(network, np.stack(squares), np.arange(len(squares)), AT_ONCE, views)
        said = metrics.apply_temperature(said, card["temperature"])
        read = part.problem.eq("")
        part.loc[read, "label"] = np.take(card["classes"], said.argmax(axis=1))
        part.loc[read, "confidence"] = said.max(axis=1).round(4)
    return part
