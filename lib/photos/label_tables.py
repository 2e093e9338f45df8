"""Read the labels of photos, and their splits and groups, from CSV files of a source."""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.core import files
from lib.core.schema import Table
from lib.core.tables import MAX_BYTES, parse
from lib.photos import class_names, matching, split_columns
from lib.photos.listing import Listing

COLUMNS = ["path", "label", "split", "problem", "group"]
_ZERO_ONE = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "false": 0, "true": 1}
_WHOLE_NUMBER = re.compile(r"\d+(\.0+)?")
# Maximum number of names in a message.
LISTED = 3


class Row(NamedTuple):
    """A row of the result of `rows`."""

    path: str
    label: str
    split: str
    problem: str
    group: str


def rows(listing: Listing, tables: dict[str, Table], *, group: str | None = None) -> pd.DataFrame:
    """List the photos in the tables of a source, and the other photos in the folders of the tables.

    Args:
        listing: the files of the source.
        tables: the parameters `source.tables`.
        group: name of the column with the groups, such as patients; tables without this column have none.

    Returns:
        A table with one row per file, sorted by path: `path`, `label` (empty for a photo to predict), `split`
        (`train`, `val`, `test`, `predict` or empty), `problem` (the reason that the label is unusable, else
        empty) and `group`. `attrs["notes"]` are sentences on assumptions and on files that do not exist,
        whose rows have a problem, and `attrs["columns"]` the columns of all tables.

    Raises:
        FileNotFoundError: if a CSV file is missing.
        ValueError: if a CSV file cannot be read or lacks a column, if it has columns with 0 and 1 for each
            class that `labels` does not name, if a name in it can mean several files, if at least half of its
            files are missing, or if a value of the split column is not known.
    """
    notes: list[str] = []
    columns: set[str] = set()
    found: dict[str, list[Row]] = defaultdict(list)
    is_labelled = any(table.label or table.labels for table in tables.values())
    for table in tables.values():
        data = _read(listing, table)
        columns.update(map(str, data.columns))
        _check_columns(data, table, is_labelled=is_labelled)
        for row in _of_table(data, listing, table, group=group, notes=notes):
            found[row.path].append(row)
    whole = _whole_numbers(row.label for same in found.values() for row in same)
    if whole:
        notes.append("the labels are numbers such as 1.0, which were read as whole numbers such as 1")
        found = {
            path: [row._replace(label=row.label.partition(".")[0]) for row in same]
            for path, same in found.items()
        }
    merged = [_merged(same) for same in found.values()]
    index = matching.Index((), [folder for table in tables.values() for folder in table.photos or [""]])
    for path in filter(matching.is_photo, listing.paths):
        if path not in found and index.contains(path):
            merged.append(Row(path, "", "", "no table lists it", ""))
    classes = {row.label for row in merged if not row.problem} - {""}
    notes += class_names.look_alikes(classes) + class_names.combinations(classes)
    result = pd.DataFrame(sorted(merged), columns=COLUMNS, dtype=str)
    result.attrs = {"notes": list(dict.fromkeys(notes)), "columns": sorted(columns)}
    return result


def _of_table(
    data: pd.DataFrame,
    listing: Listing,
    table: Table,
    *,
    group: str | None,
    notes: list[str],
) -> list[Row]:
    """Return the rows of a table; notes are appended to the list."""
    notes += data.attrs["notes"]
    labels, problems = _labels(data, table)
    splits = split_columns.of_rows(data, table, notes=notes)
    paths, exists = _paths(listing, table, list(data[table.filename]), notes=notes)
    groups = data[group].str.strip() if group in data.columns else [""] * len(data)
    absent = f"{table.file} lists it, but there is no such file"
    return [
        Row(path, label, split, problem if there else absent, group)
        for path, label, split, problem, group, there in zip(
            paths, labels, splits, problems, groups, exists, strict=True
        )
    ]


def _merged(same: list[Row]) -> Row:
    """Return the row of a photo that tables list once or several times."""
    for field in ("label", "split", "group"):
        # A table without the column of the groups has an empty group.
        values = sorted({getattr(row, field) for row in same} - ({""} if field == "group" else set()))
        if len(values) > 1:
            shown = ", ".join(files.printable(value) or "(none)" for value in values)
            return same[-1]._replace(problem=f"the tables have two {field}s for it: {shown}")
    return same[-1]._replace(group=max(row.group for row in same))


def _read(listing: Listing, table: Table) -> pd.DataFrame:
    """Read a CSV file of the source."""
    for key, values in (("file", [table.file]), ("photos", table.photos)):
        for value in values:
            if not files.stays_inside(value):
                raise ValueError(f"`{key}` of a table must be a path inside the source. Received: {value!r}")
    by_name = {unicodedata.normalize("NFC", path): path for path in listing.paths}
    path = by_name.get(unicodedata.normalize("NFC", str(PurePosixPath(table.file))))
    if path is None:
        others = [path for path in listing.paths if path.lower().endswith((".csv", ".tsv", ".txt"))]
        raise FileNotFoundError(
            f"the source has no {table.file}. CSV files in it: {_listed(others, len(others)) or 'none'}"
        )
    content = listing.read(path, MAX_BYTES + 1)
    return parse(content, table.file, encoding=table.encoding, delimiter=table.delimiter)


def _check_columns(data: pd.DataFrame, table: Table, *, is_labelled: bool) -> None:
    """Raise a ValueError if a column is missing, or if columns with 0 and 1 are not in the parameters."""
    columns = one_hot(data)
    hint = ""
    if columns:
        shown = ", ".join(map(files.printable, columns[:20])) + (", ..." if len(columns) > 20 else "")
        hint = (
            f"The columns {shown} contain 0 and 1, with a single 1 in each row: if they are the classes, "
            f"replace `label` by `labels: [{shown}]`"
        )
    wanted = [table.filename, table.label, *table.labels, table.split_column]
    for column in filter(None, wanted):
        if column not in data.columns:
            available = ", ".join(map(repr, data.columns[:50]))
            raise ValueError(
                f"{table.file} has no column {column!r}. Its columns: {available}. "
                f"{hint or 'Set `filename` and `label` of the table to its columns, or its `delimiter`'}"
            )
    if columns and not table.labels and (table.label in columns or not is_labelled):
        received = f"the column {table.label}" if table.label else "no column"
        raise ValueError(f"{table.file}: expected a column with the labels. Received: {received}. {hint}")


def one_hot(data: pd.DataFrame) -> list[str]:
    """Return neighbouring columns with a single 1 in each row, and else 0; empty if there are none."""
    flags = np.array(
        [data.iloc[:, number].isin(["0", "0.0", "1", "1.0"]).all() for number in range(data.shape[1])]
    )
    edges = np.flatnonzero(np.diff(np.r_[0, flags & (len(data) > 1), 0]))
    for start, end in edges.reshape(-1, 2):
        ones = data.iloc[:, start:end].isin(["1", "1.0"]).to_numpy()
        # Another column with 0 and 1, such as a split, may be on either side.
        for left, right in sorted(itertools.product(range(4), repeat=2), key=sum):
            part = ones[:, left : ones.shape[1] - right]
            if part.shape[1] > 1 and (part.sum(axis=1) == 1).all() and part.any(axis=0).sum() > 1:
                return [str(column) for column in data.columns[start + left : end - right]]
    return []


def _labels(data: pd.DataFrame, table: Table) -> tuple[list[str], list[str]]:
    """Return the label of each row, and the reason why it is unusable or an empty text."""
    if table.labels:
        return _one_hot_labels(data[table.labels], table)
    if table.label is None:
        return [""] * len(data), [""] * len(data)
    labels = [unicodedata.normalize("NFC", label.strip()) for label in data[table.label]]
    return labels, ["" if label else f"{table.file} has no label for it" for label in labels]


def _one_hot_labels(data: pd.DataFrame, table: Table) -> tuple[list[str], list[str]]:
    """Return the name of the only column with 1 in each row, or a problem."""
    values = data.apply(lambda column: column.str.strip().str.lower().map(_ZERO_ONE))
    invalid = values.isna()
    labels, problems = [], []
    for ones, wrong, cells in zip(values.eq(1).to_numpy(), invalid.to_numpy(), data.to_numpy(), strict=True):
        chosen = [name for name, one in zip(table.labels, ones, strict=True) if one]
        problem = ""
        if wrong.any():
            first = int(wrong.argmax())
            column = table.labels[first]
            problem = f"{table.file} has {cells[first]!r:.40} in the column {column!r} instead of 0 or 1"
        elif not chosen:
            problem = f"{table.file} has no label for it: no 1 in the columns of the classes"
        elif len(chosen) > 1:
            problem = f"{table.file} has several labels for it: {', '.join(map(files.printable, chosen))}"
        labels.append("" if problem else unicodedata.normalize("NFC", chosen[0]))
        problems.append(problem)
    return labels, problems


def _whole_numbers(labels: Iterable[str]) -> bool:
    """Return whether all labels are whole numbers, and some are written like 1.0."""
    texts = set(labels) - {""}
    return any("." in text for text in texts) and all(map(_WHOLE_NUMBER.fullmatch, texts))


def _paths(
    listing: Listing, table: Table, names: list[str], *, notes: list[str]
) -> tuple[list[str], list[bool]]:
    """Return the path of the file of each name, and whether the file exists."""
    index = matching.Index(listing.paths, table.photos)
    matches = {name: index.find(name) for name in dict.fromkeys(names)}
    folders = ", ".join(f"{folder.strip('/')}/" for folder in table.photos if folder) or "the source"
    _refuse_ambiguous(table, matches)
    unmatched = [name for name, match in matches.items() if not match.paths]
    parsed = {name: matching.parse(name) for name in unmatched}
    is_wrong = 2 * len(unmatched) >= len(matches) > 0
    for name, parts in parsed.items():
        if not parts.parts or (parts.is_foreign and not _any_foreign(matches)):
            raise ValueError(
                f"{table.file} lists {name!r}. Expected: the path of a file inside {folders.rstrip('/')}"
            )
    if unmatched:
        message = (
            f"{table.file} lists {len(unmatched)} of {len(matches)} files that are not in {folders}: "
            f"{_listed(unmatched, len(unmatched))}"
        )
        if is_wrong:
            raise ValueError(f"{message}. Check `file`, `photos` and `filename` of the table")
        notes.append(message)
    if respelled := [name for name, match in matches.items() if match.paths and not match.is_exact]:
        example = respelled[0]
        notes.append(
            f"{len(respelled)} of {len(matches)} names in {table.file} differ from the paths of the files, "
            f"such as {files.printable(example)} for {files.printable(matches[example].paths[0])}"
        )
    absent = {name: str(PurePosixPath(index.folders[0], *parts.parts)) for name, parts in parsed.items()}
    return [absent.get(name) or matches[name].paths[0] for name in names], [
        name not in absent for name in names
    ]


def _any_foreign(matches: dict[str, matching.Match]) -> bool:
    return any(match.paths and matching.parse(name).is_foreign for name, match in matches.items())


def _refuse_ambiguous(table: Table, matches: dict[str, matching.Match]) -> None:
    """Raise a ValueError if a name can mean several files, or several names only the same file."""
    several = [(name, match.paths) for name, match in matches.items() if len(match.paths) > 1]
    if several:
        name, paths = several[0]
        others = f" ({len(several)} names in all are ambiguous)" if len(several) > 1 else ""
        raise ValueError(
            f"{table.file} lists {name!r}, which can mean {len(paths)} files: {_listed(paths, len(paths))}"
            f"{others}. Write the paths of the files into the table, or set `photos` of the table to their "
            "folder"
        )
    longer: dict[str, str] = {}
    for name, match in matches.items():
        if match.is_longer:
            other = longer.setdefault(match.paths[0], name)
            if matching.parse(other) != matching.parse(name):
                raise ValueError(
                    f"{table.file} lists {other!r} and {name!r}, which can both mean only "
                    f"{match.paths[0]!r}. Set `photos` of the table to the folder that the names start in"
                )


def _listed(names: list[str], count: int) -> str:
    shown = ", ".join(map(files.printable, names[:LISTED]))
    return f"{shown} ..." if count > LISTED else shown
