"""Tabulate, read and write predictions, with one row per photo, and list the hardest examples."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import files, metrics, schema, tables
from lib.photos import labels, matching

# Significant digits of a probability, which suffice to recompute every metric from the file.
DIGITS = 7
_NUMBER = re.compile(r"(\d+)")
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
    photos: photoset.Photos,
    probabilities: np.ndarray,
    *,
    columns: schema.Predictions,
    raw: Path | None = None,
) -> pd.DataFrame:
    """Tabulate the predictions for the photos without labels, in natural order of the file names.

    Args:
        photos: the run's photos.
        probabilities: `float` of shape `(photos without labels, classes)`.
        columns: the names of the columns; the confidence is omitted if its name is `None`.
        raw: the folder of the original files; required if `columns` has a `template`.

    Returns:
        One row per photo. If two photos have the same file name, the paths replace the names. With a
        template, its rows and columns (see `fill`).

    Raises:
        FileNotFoundError, ValueError: see `fill`.
    """
    if columns.template:
        template = read_template(Path(raw or "."), columns)
        return fill(template, photos, probabilities=probabilities, columns=columns)
    paths = photos.table.path.iloc[photos.rows("predict")]
    names = paths.map(lambda path: Path(path).name)
    rows = pd.DataFrame({columns.filename: (paths if names.duplicated().any() else names).to_numpy()})
    rows[columns.label] = np.take(photos.classes, probabilities.argmax(axis=1)) if len(rows) else []
    if columns.confidence:
        rows[columns.confidence] = probabilities.max(axis=1).round(4)
    return rows.sort_values(columns.filename, key=lambda names: names.map(_natural), ignore_index=True)


def read_template(raw: Path, columns: schema.Predictions) -> pd.DataFrame:
    """Read the template of the predictions, `evaluate.predictions.template`.

    Raises:
        FileNotFoundError: if the source has no such file.
        ValueError: if its path is outside the source, or it is not a CSV file.
    """
    key, name = "`evaluate.predictions.template`", str(columns.template)
    path = raw / name
    if not files.stays_inside(name) or not path.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"{key} must be a path inside the source. Received: {name!r}")
    if not path.is_file():
        others = sorted(other.relative_to(raw).as_posix() for other in raw.rglob("*.csv"))
        raise FileNotFoundError(
            f"{key}: the source has no {name}. CSV files in it: {', '.join(others[:9]) or 'none'}"
        )
    return tables.read_csv(path)


def fill(
    template: pd.DataFrame,
    photos: photoset.Photos,
    *,
    probabilities: np.ndarray,
    columns: schema.Predictions,
) -> pd.DataFrame:
    """Fill a template with the predictions for the photos without labels.

    Args:
        template: the result of `read_template`: a column with file names, with or without suffixes, which is
            the column `columns.filename` or else the first column; and a column for the label, columns named
            like `columns.label` and `columns.confidence`, or a column for the probability of each class.
        photos: the run's photos.
        probabilities: `float` of shape `(photos without labels, classes)`.
        columns: see `unlabelled`.

    Returns:
        The columns and rows of the template, in its order and with its file names. Rows of photos that could
        not be read or were excluded have empty cells. `attrs["notes"]` lists sentences on these photos and on
        photos that are not in the template.

    Raises:
        ValueError: if the columns cannot be assigned, or a row is not the name of a photo without a label.
    """
    filename, source, paths = _assigned(template, photos.table, classes=photos.classes, columns=columns)
    others = list(source)
    predicted = photos.table.path.iloc[photos.rows("predict")].tolist()
    row_of = {path: row for row, path in enumerate(predicted)}
    values = pd.DataFrame(probabilities, columns=_columns(photos.classes)).round(DIGITS)
    values["label"] = np.take(photos.classes, probabilities.argmax(axis=1)) if len(predicted) else []
    values["confidence"] = probabilities.max(axis=1).round(4) if len(predicted) else []
    filled = values.reindex([row_of.get(path, -1) for path in paths])[[source[name] for name in others]]
    result = pd.DataFrame({name: filled.iloc[:, number].to_numpy() for number, name in enumerate(others)})
    result.insert(0, filename, template[filename].to_numpy())
    result = result[list(template.columns)]
    result.attrs["notes"] = [
        f"{len(each)} photos {text}: {', '.join(map(files.printable, each[:3]))}"
        for each, text in (
            ([path for path in paths if path not in row_of], "of the template have no prediction"),
            (sorted(set(predicted) - set(paths)), "without labels are not in the template"),
        )
        if each
    ]
    return result


def check_template(raw: Path, table: pd.DataFrame, columns: schema.Predictions) -> None:
    """Check that the template of the predictions, if there is one, can be filled after the training.

    Args:
        raw: the folder of the original files.
        table: the manifest.
        columns: the parameters `evaluate.predictions`.

    Raises:
        FileNotFoundError, ValueError: see `read_template` and `fill`.
    """
    if columns.template:
        names = labels.classes(table.label[table.split.eq("train")])
        _assigned(read_template(raw, columns), table, classes=names, columns=columns)


def _assigned(
    template: pd.DataFrame, table: pd.DataFrame, *, classes: list[str], columns: schema.Predictions
) -> tuple[str, dict[str, str], list[str]]:
    """Return the column of file names, the column of predictions for each other column, and the photos."""
    filename = columns.filename if columns.filename in template.columns else str(template.columns[0])
    others = [column for column in template.columns if column != filename]
    source = _columns_of(others, classes, columns=columns)
    return filename, source, _photos_of(list(template[filename]), table, columns=columns)


def _columns_of(others: list[str], classes: list[str], *, columns: schema.Predictions) -> dict[str, str]:
    """Return the column of predictions for each column of a template, except that of the file names."""
    if others and set(others) <= set(classes) and (len(others) == 1 or len(others) == len(classes)):
        return {name: f"p({name})" for name in others}
    known = {columns.label: "label", columns.confidence: "confidence"}
    if others and set(others) <= set(known):
        return {name: known[name] for name in others}
    if len(others) == 1:
        return {others[0]: "label"}
    missing = [name for name in classes if name not in others]
    surplus = [name for name in others if name not in classes]
    raise ValueError(
        f"{columns.template}: expected a column with the file names, and then a column for the label or a "
        f"column for each of the {len(classes)} classes. Received: "
        f"{len(surplus)} columns of no class ({', '.join(map(files.printable, surplus[:3]))}), "
        f"{len(missing)} classes without a column ({', '.join(map(files.printable, missing[:3]))})"
    )


def _photos_of(names: list[str], table: pd.DataFrame, *, columns: schema.Predictions) -> list[str]:
    """Return the path of the photo without a label for each name of a template."""
    index = matching.Index(table.path[table.label.eq("")], [])
    matches = {name: index.find(name).paths for name in dict.fromkeys(names)}
    for name, paths in matches.items():
        if len(paths) != 1:
            count = sum(len(paths) != 1 for paths in matches.values())
            received = f"several: {', '.join(map(files.printable, paths[:3]))}" if paths else "none"
            raise ValueError(
                f"{columns.template}: expected a photo without a label for each of its {len(matches)} rows. "
                f"Received for {name!r}: {received} ({count} such rows)"
            )
    return [matches[name][0] for name in names]


def _natural(name: str) -> tuple[str, ...]:
    """Return a key that sorts `Image_2.jpg` before `Image_10.jpg`."""
    return tuple(part.zfill(12) if part.isdecimal() else part for part in _NUMBER.split(name))
