"""Find the files of a source with their labels, and with their splits if the source defines them."""

import difflib
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lib.core import tables
from lib.core.files import printable
from lib.core.schema import Source, Table
from lib.photos import companions, layouts, listing

NUMBER = re.compile(r"(\d+)")
COLUMNS = ["path", "label", "split", "problem"]
# A row of the table of `find`, in the order of COLUMNS.
Row = tuple[str, str, str, str]


def find(contents: listing.Listing, source: Source) -> pd.DataFrame:
    """List the photos of a source with their labels.

    Args:
        contents: the files of the source.
        source: its `tables` are the CSV files with the labels. Without tables, the labels are the names of
            folders: `layout`, `splits` and `unlabelled` define their meaning; if they are not set, it is
            decided from all paths together. Files that match `ignore` are left out. `classes` are the labels
            to use; if empty, all labels.

    Returns:
        A table with one row per photo, sorted by path: `path` (relative to the source, with `/`), `label`
        (empty for a photo to predict), `split` (`train`, `val` or `test` if the source defines it,
        `predict` for photos without a label, else empty) and `problem` (the reason that the label is
        unusable, else empty). Photos of classes that are not in `source.classes` are left out. Its `attrs`
        are `left_out`, their number; `ignore`, the patterns; `layout`, the decision as a sentence; and
        `notes`, sentences with warnings and assumptions.

    Raises:
        ValueError: if the folders can be read in several ways, if a CSV file lacks a column or lists a file
            that is missing or outside the source, if `source.classes` contains an unknown label, or if there
            are fewer than two classes.
        FileNotFoundError: if a CSV file is missing.
    """
    is_ignored = listing.matcher(source.ignore)
    paths = listing.photos(contents, (path for path in contents.paths if not is_ignored(path)))
    if source.tables:
        table = _from_tables(contents, source.tables)
        table = table[~table.path.map(is_ignored).astype(bool)]
        notes, layout = table.attrs.get("notes", []), _sentence(table, source.tables)
    else:
        rows, layout, notes = layouts.read(paths, source)
        table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.sort_values("path", ignore_index=True)
    table = _choose(table, source.classes)
    notes = [*notes, *layouts.unused(source.ignore, contents.paths, key="ignore"), *companions.notes(paths)]
    table.attrs |= {
        "layout": printable(layout),
        "notes": list(map(printable, notes)),
        "ignore": source.ignore,
    }
    labels = sorted(set(table.loc[table.problem.eq(""), "label"]) - {""})
    if len(labels) < 2:
        raise ValueError(
            f"a classifier needs photos of at least two classes. Received: {', '.join(labels) or 'none'} "
            f"in {len(table)} files ({layout}). Expected folders <class>/ or train|val|test/<class>/, "
            "`source.layout`, or `source.tables`"
        )
    return table


def _sentence(table: pd.DataFrame, tables: dict[str, Table]) -> str:
    """Return the decision for labels from tables as a sentence."""
    names = " and ".join(f"`{table.file}`" for table in tables.values() if table.label) or "no column"
    splits = [split for split in ("train", "val", "test") if table.split.eq(split).any()]
    text = f"{len(set(table.label) - {''})} classes from {names}, "
    text += f"splits from the tables ({', '.join(splits)})" if splits else "no splits"
    predicted = int((table.label.eq("") & table.problem.eq("")).sum())
    return text + (f", {predicted} photos without labels" if predicted else "")


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
    contents = listing.Folder(folder)
    paths = (contents.path(path).relative_to(folder) for path in listing.photos(contents))
    return sorted(PurePosixPath(path.as_posix()) for path in paths)


def others(contents: listing.Listing, table: pd.DataFrame) -> dict[str, int]:
    """Count the files that `find` does not list, so that every file is accounted for.

    Args:
        contents: the files of the source.
        table: the result of `find`.

    Returns:
        `{kind: number}`, the most frequent kind first. The kinds are the suffixes of files other than photos,
        `ignored` for those of `source.ignore`, `<suffix> not in the table` for photos of other classes or
        outside the folders of the tables, `no suffix`, `hidden`, and the kinds of `Listing.others`.
    """
    listed, is_ignored = set(table.path), listing.matcher(table.attrs["ignore"])
    counts = Counter(contents.others)
    counts.update(_kind(path, is_ignored(path)) for path in contents.paths if path not in listed)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _kind(path: str, is_ignored: bool) -> str:
    """Return the kind of a file for `others`."""
    if listing.is_hidden(path) or is_ignored:
        return "hidden" if listing.is_hidden(path) else "ignored"
    suffix = listing.suffix(path)
    return f"{suffix} not in the table" if suffix in listing.SUFFIXES else suffix or "no suffix"


def _from_tables(contents: listing.Listing, tables: dict[str, Table]) -> pd.DataFrame:
    """Return the rows of the photos in the tables, and of further photos in the folders of the tables."""
    rows: dict[str, Row] = {}
    labels_of: dict[str, set[str]] = {}
    paths = set(contents.paths)
    for table in tables.values():
        for filename, label in _read_table(contents, table, paths=paths):
            path = str(PurePosixPath(table.photos) / filename)
            split = "predict" if table.label is None else table.split or ""
            problem = "" if table.label is None or label else f"{table.file} has no label for it"
            distinct = labels_of.setdefault(path, set())
            distinct.add(label)
            if len(distinct) > 1:
                problem = f"{table.file} has two labels for it: {', '.join(sorted(distinct))}"
            rows[path] = (path, unicodedata.normalize("NFC", label), split, problem)
    folders = tuple({table.photos.strip("/") for table in tables.values()})
    for path in listing.photos(contents):
        if path not in rows and any(not folder or path.startswith(f"{folder}/") for folder in folders):
            rows[path] = (path, "", "", "no table lists it")
    return pd.DataFrame(rows.values(), columns=COLUMNS)


def _read_table(contents: listing.Listing, table: Table, *, paths: set[str]) -> list[tuple[str, str]]:
    """Return the file names and labels of a table; the labels are empty if it has no such column."""
    for key, value in (("file", table.file), ("photos", table.photos)):
        if not stays_inside(value):
            raise ValueError(f"`{key}` of a table must be a path inside the source. Received: {value!r}")
    file = str(PurePosixPath(table.file))
    if file not in paths:
        existing = [path for path in contents.paths if path.lower().endswith(".csv")]
        raise FileNotFoundError(
            f"the source has no {table.file}. CSV files in it: {', '.join(existing) or 'none'}"
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PurePosixPath(file).name
        copy.write_bytes(contents.read(file))
        data = tables.read_csv(copy)
    for column in filter(None, (table.filename, table.label)):
        if column not in data.columns:
            raise ValueError(
                f"{table.file} has no column {column!r}. Its columns: {', '.join(map(repr, data.columns))}"
            )
    names = [_as_stored(table.photos, name.strip(), paths) for name in data[table.filename]]
    labels = [label.strip() for label in data[table.label]] if table.label else [""] * len(names)
    _check_files(table, names, paths)
    return list(zip(names, labels, strict=True))


def _as_stored(folder: str, name: str, paths: set[str]) -> str:
    """Return a name in the Unicode form in the source; macOS writes accented letters decomposed."""
    names = [name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    return next((variant for variant in names if str(PurePosixPath(folder) / variant) in paths), name)


def _check_files(table: Table, names: list[str], paths: set[str]) -> None:
    """Raise a ValueError if a name is a path outside the folder of the table, or the file is missing."""
    for name in names:
        if not name or not stays_inside(name) or "\\" in name or "\0" in name:
            folder_name = table.photos or "the source"
            raise ValueError(
                f"{table.file} lists {name!r}. Expected: the path of a file inside {folder_name}"
            )
    missing = [name for name in names if str(PurePosixPath(table.photos) / name) not in paths]
    if missing:
        raise ValueError(
            f"{table.file} lists {len(missing)} of {len(names)} files that are not in "
            f"{table.photos or 'the source'}/: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        )


def stays_inside(path: str) -> bool:
    """Return whether a path is relative and without `..`."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
