"""Find the files of a source with their labels, and with their splits if the source defines them."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lib.core import tables
from lib.core.schema import Source, Table
from lib.photos import decoding

SPLIT_FOLDER = re.compile(r"(train|val|valid|validation|test)(\.X\d*)?", re.IGNORECASE)
NUMBER = re.compile(r"(\d+)")
SPLIT_NAMES = {"valid": "val", "validation": "val"}
COLUMNS = ["path", "label", "split", "problem"]
# A row of the table of `find`, in the order of COLUMNS.
Row = tuple[str, str, str, str]


def find(raw: Path, source: Source) -> pd.DataFrame:
    """List the photos of a source with their labels.

    Args:
        raw: the folder of the original files.
        source: its `tables` are the CSV files with the labels. Without tables, the labels are the names of
            folders: `<class>/`, or `train|val|test/<class>/`, which defines the split. Its `classes` are the
            labels to use; if empty, all labels.

    Returns:
        A table with one row per file, sorted by path: `path` (relative to `raw`, with `/`), `label`
        (empty for a photo to predict), `split` (`train`, `val` or `test` if the source defines it,
        `predict` for photos without a label, else empty) and `problem` (the reason that the label is
        unusable, else empty). Photos of classes that are not in `source.classes` are left out;
        `attrs["left_out"]` is their number.

    Raises:
        ValueError: if a CSV file lacks a column or lists a file that is missing or outside the source, if
            `source.classes` contains an unknown label, or if there are fewer than two classes.
        FileNotFoundError: if a CSV file is missing.
    """
    rows = _from_tables(raw, source.tables) if source.tables else _from_folders(raw)
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("path", ignore_index=True)
    table["label"] = [unicodedata.normalize("NFC", label) for label in table.label]
    table = _choose(table, source.classes)
    labels = sorted(set(table.loc[table.problem.eq(""), "label"]) - {""})
    if len(labels) < 2:
        raise ValueError(
            f"a classifier needs photos of at least two classes. Received: {', '.join(labels) or 'none'} "
            f"in {len(table)} files. Expected folders <class>/ or train|val|test/<class>/, or `source.tables`"
        )
    return table


def _choose(table: pd.DataFrame, chosen: list[str]) -> pd.DataFrame:
    """Return the rows of the chosen classes and those without a label; all rows if no class is chosen."""
    available = classes(table.label)
    if unknown := sorted(set(chosen) - set(available)):
        similar = difflib.get_close_matches(unknown[0], available) or available[:3]
        raise ValueError(
            f"`source.classes` contains {unknown[0]!r}, but no photo has this label. "
            f"Expected some of the {len(available)} labels, such as {', '.join(similar) or 'none'}"
        )
    kept = table.label.isin([*chosen, ""]) | (not chosen)
    result = table[kept].reset_index(drop=True)
    result.attrs["left_out"] = int((~kept).sum())
    return result


def classes(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels, sorted numerically if all are numbers, else alphabetically."""
    names = {str(label) for label in labels} - {""}
    numeric = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numeric else name)


def targets(labels: Iterable[str], classes: list[str]) -> np.ndarray:
    """Return the index of each label among the classes, `int64` of shape `(labels,)`."""
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[label] for label in labels], np.int64)


def files(folder: Path) -> list[PurePosixPath]:
    """List the photo files under a folder, sorted, as relative paths; hidden files and links are skipped."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    relative = (path.relative_to(folder) for path in paths)
    return sorted(
        PurePosixPath(path.as_posix()) for path in relative if _is_photo(path) and not _hidden(path)
    )


def others(raw: Path, table: pd.DataFrame) -> dict[str, int]:
    """Count the files that `find` does not list, so that every file is accounted for.

    Args:
        raw: the folder of the original files.
        table: the result of `find`.

    Returns:
        `{kind: number}`, the most frequent kind first. The kinds are the suffixes of files other than photos,
        `<suffix> not in the table` for photos of other classes or outside the folders of the tables,
        `no suffix`, `hidden`, `link`, `device` and `empty folder`.
    """
    listed = set(table.path)
    counts: Counter[str] = Counter()
    for path in raw.rglob("*"):
        relative = path.relative_to(raw)
        if relative.as_posix() not in listed and (kind := _kind(path, relative)):
            counts[kind] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _kind(path: Path, relative: Path) -> str:
    """Return the kind of a path for `others`; empty for a folder that is not empty."""
    if path.is_symlink():
        return "link"
    if path.is_dir():
        return "" if any(path.iterdir()) else "empty folder"
    if not path.is_file():
        return "device"
    if _hidden(relative):
        return "hidden"
    suffix = path.suffix.lower() or "no suffix"
    return f"{suffix} not in the table" if _is_photo(path) else suffix


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in decoding.SUFFIXES | decoding.NOT_READ


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in relative.parts)


def _from_folders(raw: Path) -> list[Row]:
    """Return the rows of photos whose folders are their labels."""
    paths = files(raw)
    depth = _shared_depth(paths)
    fixed = any(SPLIT_FOLDER.fullmatch(path.parts[depth]) for path in paths)
    return [_row_of_folder(path, path.parts[depth:], fixed=fixed) for path in paths]


def _shared_depth(paths: list[PurePosixPath]) -> int:
    """Return the number of leading folders that all files have in common, up to a folder of a split."""
    depth = 0
    while (
        paths
        and all(len(path.parts) > depth + 1 for path in paths)
        and len({path.parts[depth] for path in paths}) == 1
    ):
        if SPLIT_FOLDER.fullmatch(paths[0].parts[depth]):
            break
        depth += 1
    return depth


def _row_of_folder(path: PurePosixPath, parts: tuple[str, ...], *, fixed: bool) -> Row:
    """Return the row of a photo.

    Args:
        path: path of the photo relative to the source.
        parts: the parts of the path below the folders that all photos have in common.
        fixed: whether folders define the split.
    """
    match = SPLIT_FOLDER.fullmatch(parts[0]) if fixed and len(parts) > 1 else None
    split = SPLIT_NAMES.get(match[1].lower(), match[1].lower()) if match else ""
    folders = parts[1:-1] if match else parts[:-1]
    if not folders:
        return str(path), "", "predict", ""
    if fixed and not match:
        return str(path), folders[0], "", "it is outside the folders train, val and test"
    return str(path), folders[0], split, ""


def _from_tables(raw: Path, tables: dict[str, Table]) -> list[Row]:
    """Return the rows of the photos in the tables, and of further photos in the folders of the tables."""
    rows: dict[str, Row] = {}
    labels_of: dict[str, set[str]] = {}
    for table in tables.values():
        for filename, label in _read_table(raw, table):
            path = str(PurePosixPath(table.photos) / filename)
            split = "predict" if table.label is None else table.split or ""
            problem = "" if table.label is None or label else f"{table.file} has no label for it"
            distinct = labels_of.setdefault(path, set())
            distinct.add(label)
            if len(distinct) > 1:
                problem = f"{table.file} has two labels for it: {', '.join(sorted(distinct))}"
            rows[path] = (path, label, split, problem)
    folders = tuple({table.photos.strip("/") for table in tables.values()})
    for path in map(str, files(raw)):
        if path not in rows and any(not folder or path.startswith(f"{folder}/") for folder in folders):
            rows[path] = (path, "", "", "no table lists it")
    return list(rows.values())


def _read_table(raw: Path, table: Table) -> list[tuple[str, str]]:
    """Return the file names and labels of a table; the labels are empty if it has no such column."""
    for key, value in (("file", table.file), ("photos", table.photos)):
        if not stays_inside(value):
            raise ValueError(f"`{key}` of a table must be a path inside the source. Received: {value!r}")
    file = raw / table.file
    if not file.is_file():
        files = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.csv"))
        raise FileNotFoundError(
            f"the source has no {table.file}. CSV files in it: {', '.join(files) or 'none'}"
        )
    data = tables.read_csv(file)
    for column in filter(None, (table.filename, table.label)):
        if column not in data.columns:
            raise ValueError(
                f"{table.file} has no column {column!r}. Its columns: {', '.join(map(repr, data.columns))}"
            )
    names = [_as_stored(raw / table.photos, name.strip()) for name in data[table.filename]]
    labels = [label.strip() for label in data[table.label]] if table.label else [""] * len(names)
    _check_files(raw, table, names)
    return list(zip(names, labels, strict=True))


def _as_stored(folder: Path, name: str) -> str:
    """Return a name in the Unicode form on the disk; macOS writes accented letters decomposed."""
    names = [name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    return next((variant for variant in names if _is_file(folder / variant)), name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    # The name is too long for the disk.
    except OSError:
        return False


def _check_files(raw: Path, table: Table, names: list[str]) -> None:
    """Raise a ValueError if a name is a path outside the folder of the table, or the file is missing."""
    folder = raw / table.photos
    for name in names:
        if not name or not stays_inside(name) or "\\" in name or "\0" in name:
            folder_name = table.photos or "the source"
            raise ValueError(
                f"{table.file} lists {name!r}. Expected: the path of a file inside {folder_name}"
            )
    missing = [name for name in names if not _is_file(folder / name)]
    if missing:
        raise ValueError(
            f"{table.file} lists {len(missing)} of {len(names)} files that are not in "
            f"{table.photos or 'the source'}/: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        )


def stays_inside(path: str) -> bool:
    """Return whether a path is relative and without `..`."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
