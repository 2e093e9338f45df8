"""What the network says of each photo, in the forms that people read and hand in."""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import files, schema
from lib.photos import labels

DIGITS = 7  # of a probability: enough to compute every metric again from the file


def table(run_photos: photoset.Photos, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """List the predictions for the labelled photos.

    Args:
        run_photos: the run's photos.
        probabilities: for each split, `float` of shape `(photos of the split, classes)`.

    Returns:
        One row per photo: `path`, `split`, `label`, `predicted`, `confidence`, and one column per
        class, `p(<class>)`, with its probability.
    """
    chosen = {split: run_photos.table.iloc[run_photos.rows(split)] for split in probabilities}
    parts = [named(chosen[split], values, run_photos.classes) for split, values in probabilities.items()]
    return pd.concat(parts, ignore_index=True)


def named(rows: pd.DataFrame, probabilities: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Put photos and the probabilities of their classes side by side, in the form of `table`.

    Args:
        rows: one row per photo, with the columns `path`, `split` and `label`.
        probabilities: `float` of shape `(len(rows), classes)`.
        classes: the class names, in order.
    """
    part = rows[["path", "split", "label"]].reset_index(drop=True)
    part["predicted"] = np.take(classes, probabilities.argmax(axis=1))
    part["confidence"] = probabilities.max(axis=1)
    return pd.concat([part, pd.DataFrame(probabilities, columns=columns(classes))], axis=1)


def columns(classes: list[str]) -> list[str]:
    """Return the names of the columns with the classes' probabilities."""
    return [f"p({name})" for name in classes]


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV."""
    files.write(path, lambda partial: rows.to_csv(partial, index=False, float_format=f"%.{DIGITS}g"))


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
    run_photos: photoset.Photos, probabilities: np.ndarray, form: schema.Predictions
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
