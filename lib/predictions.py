"""What the network says of each photo, in the forms that people read and hand in."""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import cache, dataset, labels, manifest, metrics, models, photos, schema
from lib.device import keras, tf

DIGITS = 7  # of a probability: enough to compute every metric again from the file


def of_rows(
    network: keras.Model, run_photos: manifest.Photos, rows: np.ndarray, *, folder: Path, batch_size: int
) -> np.ndarray:
    """Predict photos, or read back what the same weights said of the same photos.

    Args:
        network: a model from `models.build`.
        run_photos: the run's photos.
        rows: rows of the manifest.
        folder: keeps the predictions.
        batch_size: photos at a time; does not change the result but for rounding.

    Returns:
        Probabilities, `float32` of shape `(len(rows), classes)`, in the order of the rows.
    """
    content = run_photos.table.sha1.iloc[rows].tolist()
    key = cache.fingerprint(
        models.weights_sha256(network), run_photos.images.shape, content, cache.code(dataset, Path(__file__))
    )

    def compute():
        stream = dataset.evaluation(run_photos.images, rows, batch_size=batch_size)
        return {
            "probabilities": np.concatenate(
                [tf.convert_to_tensor(network(batch, training=False)).numpy() for batch in stream]
            )
        }

    if len(rows) == 0:
        return np.empty((0, len(run_photos.classes)), np.float32)
    return cache.arrays(folder / f"predictions-{key}.npz", compute)["probabilities"]


def table(run_photos: manifest.Photos, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """List the predictions for the labelled photos.

    Args:
        run_photos: the run's photos.
        probabilities: for each split, `float` of shape `(photos of the split, classes)`.

    Returns:
        One row per photo: `path`, `split`, `label`, `predicted`, `confidence`, and one column per
        class, `p(<class>)`, with its probability.
    """
    parts = []
    for split, values in probabilities.items():
        part = run_photos.table.iloc[run_photos.rows(split)][["path", "split", "label"]].reset_index(
            drop=True
        )
        part["predicted"] = np.take(run_photos.classes, values.argmax(axis=1))
        part["confidence"] = values.max(axis=1)
        parts.append(pd.concat([part, pd.DataFrame(values, columns=columns(run_photos.classes))], axis=1))
    return pd.concat(parts, ignore_index=True)


def columns(classes: list[str]) -> list[str]:
    """Return the names of the columns with the classes' probabilities."""
    return [f"p({name})" for name in classes]


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV."""
    cache.write(path, lambda partial: rows.to_csv(partial, index=False, float_format=f"%.{DIGITS}g"))


def read(path: Path) -> pd.DataFrame:
    """Read what `table` gave and `write` wrote; labels are text, whatever they look like."""
    return pd.read_csv(
        path, dtype=dict.fromkeys(["path", "split", "label", "predicted"], str), keep_default_na=False
    )


def hardest(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the photos whose true class got the least probability, worst first.

    Args:
        rows: what `table` gives.
        count: how many.

    Returns:
        The columns `path`, `label`, `predicted`, `confidence` and `probability_of_label`.
    """
    own = np.array([row[f"p({row['label']})"] for row in rows.to_dict("records")])
    worst = (
        rows.assign(probability_of_label=own).sort_values("probability_of_label", kind="stable").head(count)
    )
    return worst[["path", "label", "predicted", "confidence", "probability_of_label"]]


def unlabelled(
    run_photos: manifest.Photos, probabilities: np.ndarray, form: schema.Predictions
) -> pd.DataFrame:
    """List the predictions for the photos without labels, in the form that the parameters name.

    Photos are named by their file's name, or by their path where two have one name.
    """
    paths = run_photos.table.path.iloc[run_photos.rows("predict")]
    names = paths.map(lambda path: Path(path).name)
    rows = pd.DataFrame({form.filename: (paths if names.duplicated().any() else names).to_numpy()})
    rows[form.label] = np.take(run_photos.classes, probabilities.argmax(axis=1)) if len(rows) else []
    if form.confidence:
        rows[form.confidence] = probabilities.max(axis=1).round(4)
    return rows.sort_values(form.filename, key=lambda names: names.map(_natural), ignore_index=True)


def _natural(name: str):
    """Sort `Image_2.jpg` before `Image_10.jpg`."""
    return tuple(part.zfill(12) if part.isdecimal() else part for part in labels.NUMBER.split(name))


def of_folder(run: Path, folder: Path) -> pd.DataFrame:
    """Predict every photo under a folder with the model of a finished run.

    Args:
        run: the run's folder, with `model.keras` and `model.json`.
        folder: photos, at any depth.

    Returns:
        One row per file that looks like a photo: `filename` (relative to the folder), `label`,
        `confidence`, and `problem` where it could not be read.

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
    card, network = cache.read_json(run / "model.json"), models.load(run / "model.keras")
    return pd.DataFrame(
        [_predict_file(folder / path, str(path), card, network) for path in tqdm(paths, disable=None)]
    )


def _predict_file(file: Path, name: str, card: dict, network) -> dict:
    try:
        pixels, _ = photos.decode(file.read_bytes())
    except ValueError as error:
        return {"filename": name, "label": "", "confidence": 0.0, "problem": str(error)}
    square = photos.prepare(pixels, card)
    probabilities = metrics.apply_temperature(
        network(square[None].astype(np.float32), training=False).numpy(), card["temperature"]
    )[0]
    best = int(probabilities.argmax())
    return {
        "filename": name,
        "label": card["classes"][best],
        "confidence": round(float(probabilities[best]), 4),
        "problem": "",
    }
