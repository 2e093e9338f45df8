"""Find the files of a source and what its author says of them: the label, and the split if it is fixed."""

import csv
import io
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from lib import photos
from lib.schema import Source, Table

SPLITS = ("train", "val", "test")
SPLIT_FOLDER = re.compile(r"(train|val|valid|validation|test)(\.X\d*)?", re.IGNORECASE)
NUMBER = re.compile(r"(\d+)")
SPLIT_NAMES = {"valid": "val", "validation": "val"}
COLUMNS = ["path", "label", "split", "problem"]


def find(raw: Path, source: Source) -> pd.DataFrame:
    """List the photos of a source with their labels.

    Args:
        raw: the folder with the files as they came.
        source: says which CSV files hold the labels; without any, folders are the labels:
            `<class>/`, or `train|val|test/<class>/`, which fixes the split.

    Returns:
        A table with one row per file, sorted by path: `path` (relative to `raw`, with `/`), `label`
        (empty: a photo to predict), `split` (`train`, `val`, `test` where the source fixes it,
        `predict` for photos without a label, else empty) and `problem` (why the label is unusable).

    Raises:
        ValueError: a CSV file lacks a column or names a file that is missing or lies outside the
            source, or there are fewer than two classes.
        FileNotFoundError: a CSV file is missing.
    """
    tables = {name: table for name, table in source.tables.items() if table}
    rows = _from_tables(raw, tables) if tables else _from_folders(raw)
    found = pd.DataFrame(rows, columns=COLUMNS).sort_values("path", ignore_index=True)
    labels = sorted(set(found.loc[found.problem.eq(""), "label"]) - {""})
    if len(labels) < 2:
        raise ValueError(
            f"a classifier needs photos of at least two classes. Received: {', '.join(labels) or 'none'} "
            f"in {len(found)} files. Expected folders <class>/ or train|val|test/<class>/, or `source.tables`"
        )
    return found


def classes(labels) -> list[str]:
    """Return the distinct labels in order: numbers by value, other names by letter."""
    names = {str(label) for label in labels} - {""}
    numeric = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numeric else name)


def files(folder: Path) -> list[PurePosixPath]:
    """List the files under a folder that could be photos, hidden ones and links left out, relative and sorted."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    relative = (path.relative_to(folder) for path in found)
    return sorted(
        PurePosixPath(path.as_posix())
        for path in relative
        if path.suffix.lower() in photos.SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
    )


def _from_folders(raw: Path) -> list[tuple]:
    found = files(raw)
    depth = _shared_depth(found)
    fixed = any(SPLIT_FOLDER.fullmatch(path.parts[depth]) for path in found if len(path.parts) > depth + 1)
    return [_row_of_folder(path, path.parts[depth:], fixed) for path in found]


def _shared_depth(found) -> int:
    """Count the folders that all files share, such as the one folder that many archives wrap around the rest."""
    depth = 0
    while (
        found
        and all(len(path.parts) > depth + 1 for path in found)
        and len({path.parts[depth] for path in found}) == 1
    ):
        if SPLIT_FOLDER.fullmatch(found[0].parts[depth]):
            break
        depth += 1
    return depth


def _row_of_folder(path, parts, fixed):
    match = SPLIT_FOLDER.fullmatch(parts[0]) if fixed and len(parts) > 1 else None
    split = SPLIT_NAMES.get(match[1].lower(), match[1].lower()) if match else ""
    folders = parts[1:-1] if match else parts[:-1]
    if not folders:
        return str(path), "", "predict", ""
    if fixed and not match:
        return str(path), folders[0], "", "it lies outside the folders train, val and test"
    return str(path), folders[0], split, ""


def _from_tables(raw: Path, tables: dict[str, Table]) -> list[tuple]:
    rows, given = {}, {}
    for table in tables.values():
        for filename, label in _read_table(raw, table):
            path = str(PurePosixPath(table.photos) / filename)
            split = "predict" if table.label is None else table.split or ""
            problem = "" if table.label is None or label else f"{table.file} gives no label"
            several = given.setdefault(path, {})
            several[label] = None
            if len(several) > 1:
                problem = f"{table.file} gives two labels: {', '.join(several)}"
            rows[path] = (path, label, split, problem)
    folders = tuple({table.photos.strip("/") for table in tables.values()})
    for path in map(str, files(raw)):
        if path not in rows and any(not folder or path.startswith(f"{folder}/") for folder in folders):
            rows[path] = (path, "", "", "no table lists it")
    return list(rows.values())


def _read_table(raw: Path, table: Table) -> list[tuple[str, str]]:
    for key, value in (("file", table.file), ("photos", table.photos)):
        if not _stays_inside(value):
            raise ValueError(f"`{key}` of a table must be a path inside the source. Received: {value!r}")
    file = raw / table.file
    if not file.is_file():
        there = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.csv"))
        raise FileNotFoundError(
            f"the source has no {table.file}. CSV files in it: {', '.join(there) or 'none'}"
        )
    data = _read_csv(file)
    for column in filter(None, (table.filename, table.label)):
        if column not in data.columns:
            raise ValueError(
                f"{table.file} has no column {column!r}. Its columns: {', '.join(map(repr, data.columns))}"
            )
    names = [name.strip() for name in data[table.filename]]
    labels = [label.strip() for label in data[table.label]] if table.label else [""] * len(names)
    _check_files(raw, table, names)
    return list(zip(names, labels, strict=True))


def _read_csv(file: Path) -> pd.DataFrame:
    """Read a CSV file as text, whatever its separator, line ends and encoding."""
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if not text.strip():
        raise ValueError(
            f"{file.name} is empty. Expected: a line with the column names, then one line per photo"
        )
    separator = max(",;\t", key=text.lstrip().splitlines()[0].count)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    header = [name.strip() for name in rows[0]]
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]:
        raise ValueError(
            f"{file.name}, row {wrong[0]}: expected {len(header)} columns. Received: {len(rows[wrong[0] - 1])}"
        )
    return pd.DataFrame(rows[1:], columns=header, dtype=str)


def _check_files(raw: Path, table: Table, names: list[str]) -> None:
    folder = raw / table.photos
    for name in names:
        if not name or not _stays_inside(name) or "\\" in name or "\0" in name:
            raise ValueError(
                f"{table.file} names {name!r}. Expected: the path of a file inside {table.photos or 'the source'}"
            )
    missing = [name for name in names if not (folder / name).is_file() or (folder / name).is_symlink()]
    if missing:
        raise ValueError(
            f"{table.file} names {len(missing)} of {len(names)} files that are not in "
            f"{table.photos or 'the source'}/: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        )


def _stays_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
