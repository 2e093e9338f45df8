"""Find the files of a source with their labels, and with their splits if the source defines them."""

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lib.core.files import printable
from lib.core.schema import Source, Table
from lib.photos import class_names, companions, groups, label_tables, layouts, listing

COLUMNS = label_tables.COLUMNS


def find(contents: listing.Listing, source: Source, *, group: str | None = None) -> pd.DataFrame:
    """List the photos of a source with their labels.

    Args:
        contents: the files of the source.
        source: its `tables` are the CSV files with the labels. Without tables, the labels are the names of
            folders: `layout`, `splits` and `unlabelled` define their meaning; if they are not set, it is
            decided from all paths together. Files that match `ignore` are left out. `classes` are the labels
            to use; if empty, all labels.
        group: the parameter `split.group`.

    Returns:
        A table with one row per photo, sorted by path: `path` (relative to the source, with `/`), `label`
        (empty for a photo to predict), `split` (`train`, `val` or `test` if the source defines it,
        `predict` for photos without a label, else empty), `problem` (the reason that the label is unusable,
        else empty) and `group` (see `groups.of_photos`; empty without a group). Photos of classes that are
        not in `source.classes` are left out. Its `attrs` are `left_out`, their number; `ignore`, the
        patterns; `layout`, the decision as a sentence; and `notes`, sentences with warnings and assumptions.

    Raises:
        ValueError: if the folders can be read in several ways, if a CSV file cannot be used (see
            `label_tables.rows`), if `source.classes` contains an unknown label, or if there are fewer than
            two classes.
        FileNotFoundError: if a CSV file is missing.
    """
    is_ignored = listing.matcher(source.ignore)
    paths = listing.photos(contents, (path for path in contents.paths if not is_ignored(path)))
    if source.tables:
        table = label_tables.rows(contents, source.tables, group=group)
        notes, columns = table.attrs["notes"], table.attrs["columns"]
        table = table[~table.path.map(is_ignored).astype(bool)][COLUMNS]
        layout = _sentence(table, source.tables)
    else:
        rows, layout, notes = layouts.read(paths, source)
        table, columns = pd.DataFrame(rows, columns=COLUMNS[:-1]).assign(group=""), []
        names = classes(table.label)
        notes = [*notes, *class_names.look_alikes(names), *class_names.combinations(names)]
    table = _choose(table.sort_values("path", ignore_index=True), source.classes)
    table.attrs["columns"] = columns
    if group:
        table["group"] = groups.of_photos(table, group)
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
    names = (
        " and ".join(f"`{table.file}`" for table in tables.values() if table.label or table.labels)
        or "no column"
    )
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
