"""Tabulate, read and write predictions, with one row per photo, and list the hardest examples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import files, metrics, schema, tables
from lib.photos import labels

# Significant digits of a probability, which suffice to recompute every metric from the file.
DIGITS = 7
TEXTS = ["path", "split", "label", "predicted"]
# Columns of the predictions for a folder of photos.
PHOTO_COLUMNS = ["filename", "label", "confidence", "problem"]


def table(photos: photoset.Photos, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate the predictions for the labelled photos.

    Args:
        photos: the run's photos.
        probabilities: for each split, `float` of shape `(photos of the split, classes)`.

    Returns:
        One row per photo: `path`, `split`, `label`, `predicted`, `confidence` (0 to 1), and for each class a
        column `p(<class>)` with its probability.
    """
    parts = [
        join(photos.table.iloc[photos.rows(split)], values, classes=photos.classes)
        for split, values in probabilities.items()
    ]
    return pd.concat(parts, ignore_index=True)


def join(rows: pd.DataFrame, probabilities: np.ndarray, *, classes: list[str]) -> pd.DataFrame:
    """Join photos and their probabilities into a table with the columns of `table`.

    Args:
        rows: one row per photo, with the columns `path`, `split` and `label`.
        probabilities: `float` of shape `(len(rows), classes)`.
        classes: the class names, in order.
    """
    part = rows[["path", "split", "label"]].reset_index(drop=True)
    part["predicted"] = np.take(classes, probabilities.argmax(axis=1))
    part["confidence"] = probabilities.max(axis=1)
    return pd.concat([part, pd.DataFrame(probabilities, columns=_columns(classes))], axis=1)


def classes(rows: pd.DataFrame) -> list[str]:
    """Return the class names of a table of predictions, in the order of its columns."""
    return [column[2:-1] for column in rows.columns if column.startswith("p(") and column.endswith(")")]


def probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return the probabilities of a table of predictions, `float` of shape `(len(rows), len(classes))`.

    Args:
        rows: the result of `table`.
        classes: the class names, in the order of the result's columns.
    """
    return rows[_columns(classes)].to_numpy()


def _columns(classes: Sequence[str]) -> list[str]:
    return [f"p({name})" for name in classes]


def require_replaceable(path: Path) -> None:
    """Check that a file does not exist, or was written by `make predict-<name>`.

    Raises:
        ValueError: if it is any other file, or a folder.
    """
    if not path.exists():
        return
    header = ""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline().strip()
    if header != ",".join(PHOTO_COLUMNS):
        raise ValueError(
            f"{path.name}: expected a new file, or a file with the columns {', '.join(PHOTO_COLUMNS)}. "
            "Received: a file or folder that predict did not write and therefore does not replace"
        )


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions to a CSV file."""
    tables.write(rows, path, float_format=f"%.{DIGITS}g")


def read(path: Path) -> pd.DataFrame:
    """Read the result of `table` from a CSV file. Labels are read as strings, even if they are numbers.

    Raises:
        ValueError: if the file lacks a column.
    """
    text = dict.fromkeys(TEXTS, str)
    rows = tables.read(path, dtype=text)
    if missing := [column for column in TEXTS if column not in rows]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}: evaluate the run again")
    return rows


def hardest(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the photos with the largest loss, misclassified photos first.

    Args:
        rows: the result of `table`.
        count: the number of photos to return.

    Returns:
        The columns `path`, `label`, `predicted`, `correct`, `confidence` (0 to 1) and `loss` (cross-entropy).
    """
    names = classes(rows)
    targets = pd.Categorical(rows.label, names).codes
    losses = metrics.log_losses(targets, probabilities(rows, names))
    table = rows.assign(correct=rows.label.eq(rows.predicted), loss=losses)
    table = table.sort_values(["correct", "loss"], ascending=[True, False], kind="stable").head(count)
    return table[["path", "label", "predicted", "correct", "confidence", "loss"]]


def write_hardest(rows: pd.DataFrame, folder: Path, *, count: int) -> str:
    """Write the result of `hardest` to `hardest_examples_top<count>.json`, and return the name of the file.

    The file of an earlier run with another `count` is removed.
    """
    for path in folder.glob("hardest_examples_top*.json"):
        path.unlink()
    name = f"hardest_examples_top{count}.json"
    files.write_json(folder / name, rows.round(4).to_dict("records"))
    return name


def unlabelled(
    photos: photoset.Photos, probabilities: np.ndarray, *, columns: schema.Predictions
) -> pd.DataFrame:
    """Tabulate the predictions for the photos without labels, in natural order of the file names.

    Args:
        photos: the run's photos.
        probabilities: `float` of shape `(photos without labels, classes)`.
        columns: the names of the columns; the confidence is omitted if its name is `None`.

    Returns:
        One row per photo. If two photos have the same file name, the paths replace the names.
    """
    paths = photos.table.path.iloc[photos.rows("predict")]
    names = paths.map(lambda path: Path(path).name)
    rows = pd.DataFrame({columns.filename: (paths if names.duplicated().any() else names).to_numpy()})
    rows[columns.label] = np.take(photos.classes, probabilities.argmax(axis=1)) if len(rows) else []
    if columns.confidence:
        rows[columns.confidence] = probabilities.max(axis=1).round(4)
    return rows.sort_values(columns.filename, key=lambda names: names.map(_natural), ignore_index=True)


def _natural(name: str) -> tuple[str, ...]:
    """Return a key that sorts `Image_2.jpg` before `Image_10.jpg`."""
    return tuple(part.zfill(12) if part.isdecimal() else part for part in labels.NUMBER.split(name))
