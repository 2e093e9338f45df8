"""Find the files of a source with their labels, and with their splits if the source defines them."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lib.core.schema import Source
from lib.photos import class_names, decoding, label_tables
from lib.photos.listing import FolderListing

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
        `attrs["left_out"]` is their number. `attrs["missing"]` and `attrs["notes"]` are those of
        `label_tables.rows`.

    Raises:
        ValueError: if a CSV file cannot be used (see `label_tables.rows`), if `source.classes` contains an
            unknown label, or if there are fewer than two classes.
        FileNotFoundError: if a CSV file is missing.
    """
    if source.tables:
        table = label_tables.rows(FolderListing(raw), source.tables)[COLUMNS]
    else:
        table = pd.DataFrame(_from_folders(raw), columns=COLUMNS).sort_values("path", ignore_index=True)
        table["label"] = [unicodedata.normalize("NFC", label) for label in table.label]
        names = classes(table.label)
        table.attrs["notes"] = class_names.look_alikes(names) + class_names.combinations(names)
        table.attrs["missing"] = []
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
    result.attrs = table.attrs | {"left_out": int((~kept).sum())}
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
