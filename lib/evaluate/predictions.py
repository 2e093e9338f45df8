"""Tables of predictions: one row per photo, for people to read, to open in a spreadsheet and to hand in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import schema, tables
from lib.photos import labels

# Significant digits of a probability: enough to compute every metric again from the file.
DIGITS = 7
TEXTS = ["path", "split", "label", "predicted"]
# Of the predictions for a folder of photos.
PHOTO_COLUMNS = ["filename", "label", "confidence", "problem"]


def table(photos: photoset.Photos, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """List the predictions for the labelled photos.

    Args:
        photos: the run's photos.
        probabilities: for each split, `float` of shape `(photos of the split, classes)`.

    Returns:
        One row per photo: `path`, `split`, `label`, `predicted`, `confidence`, and one column per
        class, `p(<class>)`, with its probability.
    """
    parts = [
        named(photos.table.iloc[photos.rows(split)], values, classes=photos.classes)
        for split, values in probabilities.items()
    ]
    return pd.concat(parts, ignore_index=True)


def named(rows: pd.DataFrame, probabilities: np.ndarray, *, classes: list[str]) -> pd.DataFrame:
    """Put photos and the probabilities of their classes side by side, in the form of `table`.

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
        classes: the class names in the order wanted.
    """
    return rows[_columns(classes)].to_numpy()


def _columns(classes: Sequence[str]) -> list[str]:
    return [f"p({name})" for name in classes]


def require_replaceable(path: Path) -> None:
    """Check that a file does not exist, or holds predictions of a folder of photos.

    Raises:
        ValueError: it holds something else.
    """
    if not path.exists():
        return
    header = ""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline().strip()
    if header != ",".join(PHOTO_COLUMNS):
        raise ValueError(
            f"{path.name}: expected a new file, or one with the columns {', '.join(PHOTO_COLUMNS)}. "
            "Received: a file or folder that predict did not write, which is never overwritten"
        )


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV, in any of the forms of this module."""
    tables.write(rows, path, float_format=f"%.{DIGITS}g")


def read(path: Path) -> pd.DataFrame:
    """Read the result of `table` from a file of `write`; labels are text, even if they look like numbers.

    Raises:
        ValueError: a column is missing.
    """
    text = dict.fromkeys(TEXTS, str)
    rows = pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8")
    if missing := [column for column in TEXTS if column not in rows]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}: evaluate the run again")
    return tables.plain(rows)


def hardest(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the photos whose true class has the lowest probability, worst first.

    Args:
        rows: the result of `table`.
        count: how many.

    Returns:
        The columns `path`, `label`, `predicted`, `confidence` and `probability_of_label`.
    """
    names = classes(rows)
    targets = pd.Categorical(rows.label, names).codes
    own = probabilities(rows, names)[np.arange(len(rows)), targets]
    worst = rows.assign(probability_of_label=own).sort_values("probability_of_label", kind="stable")
    return worst.head(count)[["path", "label", "predicted", "confidence", "probability_of_label"]]


def unlabelled(
    photos: photoset.Photos, probabilities: np.ndarray, *, columns: schema.Predictions
) -> pd.DataFrame:
    """List the predictions for the photos without labels, with the columns that the parameters name.

    Photos are named by their file's name, or by their path if two of them have the same name.
    """
    paths = photos.table.path.iloc[photos.rows("predict")]
    names = paths.map(lambda path: Path(path).name)
    rows = pd.DataFrame({columns.filename: (paths if names.duplicated().any() else names).to_numpy()})
    rows[columns.label] = np.take(photos.classes, probabilities.argmax(axis=1)) if len(rows) else []
    if columns.confidence:
        rows[columns.confidence] = probabilities.max(axis=1).round(4)
    return rows.sort_values(columns.filename, key=lambda names: names.map(_natural), ignore_index=True)


def _natural(name: str) -> tuple[str, ...]:
    """Sort `Image_2.jpg` before `Image_10.jpg`."""
    return tuple(part.zfill(12) if part.isdecimal() else part for part in labels.NUMBER.split(name))
