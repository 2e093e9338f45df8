"""Read, write and apply a user's decisions on individual photos: `exclusions.csv` and `relabels.csv`.

Both files are in the folder of the source. They can be edited by hand or with `lib.clean.review`, and every
run of the source applies them. A decision contains the path of a photo and the SHA-1 of its file: if the file
has changed since then, the decision is reported and not applied. The photos are never changed.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core import files, steps, tables

EXCLUSIONS, RELABELS = steps.DECISIONS
COLUMNS = {EXCLUSIONS: ["path", "sha1", "reason"], RELABELS: ["path", "sha1", "label", "from"]}
# Statuses that a decision can change. For example, it cannot change that a photo is damaged.
OPEN = ("kept", "mislabelled")
# Number of paths that a note lists.
LISTED = 3
# Value of `relabelled_from` for a photo without a label in the source. No class has this name.
UNLABELLED = "(none)"


@dataclass(frozen=True)
class Decision:
    """The decision on a photo.

    Attributes:
        kind: `exclude`, `relabel`, or `keep` if the user confirmed the label.
        sha1: SHA-1 of the file that the user reviewed; empty if it is unknown.
        label: the new or confirmed label; empty for an exclusion.
        note: the reason for an exclusion, else the label in the source.
    """

    kind: str
    sha1: str = ""
    label: str = ""
    note: str = ""


def exclude(folder: Path, path: str, *, sha1: str, reason: str) -> None:
    """Exclude a photo from all later runs. An earlier decision on it is replaced.

    Args:
        folder: the source's folder, `outputs/data/<source>/`.
        path: the path of the photo in the manifest.
        sha1: SHA-1 of the file, from the manifest.
        reason: reason for the manifest; can be empty.

    Raises:
        ValueError: if one of the files cannot be read (see `read`). In this case, nothing is written.
    """
    _decide(folder, path, file=EXCLUSIONS, row={"path": path, "sha1": sha1, "reason": reason})


def relabel(folder: Path, path: str, *, sha1: str, label: str, source_label: str) -> None:
    """Relabel a photo in all later runs, or confirm its label. An earlier decision on it is replaced.

    Args:
        folder, path, sha1: see `exclude`.
        label: the new label; or, to confirm the label in the source, the same label.
        source_label: the label in the source.

    Raises:
        ValueError: if the label is empty; also see `exclude`.
    """
    if not label:
        raise ValueError(
            f"expected the new label of {path}. Received: {label!r}. Use `exclude` to leave the photo out"
        )
    row = {"path": path, "sha1": sha1, "label": label, "from": source_label}
    _decide(folder, path, file=RELABELS, row=row)


def forget(folder: Path, path: str) -> None:
    """Remove the decision on a photo from both files.

    Raises:
        ValueError: see `exclude`.
    """
    _decide(folder, path)


def of_each(folder: Path, sha1: Mapping[str, str]) -> dict[str, Decision]:
    """Return the decisions by path; if a path is in both files, the exclusion.

    Args:
        folder: see `exclude`.
        sha1: SHA-1 of the file of each photo by path, from the manifest. Decisions on files that have changed
            since then, and on photos that are not in the manifest, are left out.

    Raises:
        ValueError: see `read`.
    """
    decided = _of_file(folder, RELABELS) | _of_file(folder, EXCLUSIONS)
    return {
        path: decision
        for path, decision in decided.items()
        if path in sha1 and decision.sha1 in ("", sha1[path])
    }


def read(folder: Path, file: str) -> pd.DataFrame:
    """Read one of the two files, in any CSV format that `tables.read_csv` detects.

    Args:
        folder: see `exclude`.
        file: `EXCLUSIONS` or `RELABELS`.

    Returns:
        A table of strings with one row per photo, the last in the file; empty if the file does not exist. The
        columns are those of `COLUMNS`, then other columns. Missing `sha1`, `reason` and `from` are empty.

    Raises:
        ValueError: if the file lacks the column `path` or `label`, or has rows of different lengths, a row
            without a label, or a path outside the source.
    """
    path = folder / file
    if not path.is_file() or not path.read_bytes().strip(b"\xef\xbb\xbf \t\r\n"):
        return pd.DataFrame(columns=COLUMNS[file], dtype=str)
    table = tables.read_csv(path)
    for column in {"path", "label"} & set(COLUMNS[file]) - set(table.columns):
        raise ValueError(
            f"{file} has no column {column!r}. Received: {', '.join(map(repr, table.columns))}. "
            f"Expected: {', '.join(COLUMNS[file])}"
        )
    table = table.reindex(columns=list(dict.fromkeys([*COLUMNS[file], *table.columns])), fill_value="")
    table = tables.plain(table)
    table["path"] = [_inside(path, file) for path in table.path]
    for column in COLUMNS[file][1:]:
        table[column] = table[column].str.strip()
    table["sha1"] = table.sha1.str.lower()
    if file == RELABELS and (empty := list(table.path[table.label.eq("")])):
        raise ValueError(f"{file} has no label for {listed(empty)}. Add it, or move the rows to {EXCLUSIONS}")
    return table.drop_duplicates("path", keep="last", ignore_index=True)


def apply(table: pd.DataFrame, folder: Path, *, partial: bool) -> tuple[pd.DataFrame, list[str]]:
    """Apply the decisions to the photos of a source, before copies are excluded and splits are assigned.

    A decision also applies to copies of the file with the same label if there is no decision on the copy
    itself. Otherwise, the copy of an excluded photo would be kept in its place.

    Args:
        table: one row per photo, with the columns `path`, `label`, `split` (`predict` for a photo without a
            label), `status`, `detail`, `relabelled_from` and `sha1`. Rows that are `kept` or `mislabelled`
            can change.
        folder: see `exclude`.
        partial: whether the table contains only some of the source's photos and classes (`source.classes`).

    Returns:
        The table, in which photos are `excluded` with the reason in `detail`, or `kept` under another label
        with the earlier label in `relabelled_from` (`UNLABELLED` if it was empty); and notes, one sentence
        each, on the decisions that were not applied.

    Raises:
        ValueError: see `read`; also if no photo has the new label. The message names the most similar label.
    """
    excluded, relabelled = (_of_file(folder, file) for file in (EXCLUSIONS, RELABELS))
    both = sorted(excluded.keys() & relabelled.keys())
    notes = [f"{listed(both)} in {EXCLUSIONS} and in {RELABELS}: excluded"] if both else []
    decided, more = _applicable(table, relabelled | excluded, partial=partial)
    classes = set(table.label) - {""}
    if not partial:
        _check_labels(decided, classes)
    photos = table.set_index("path")[["sha1", "label"]]
    of_copies = {tuple(photos.loc[path]): decision for path, decision in decided.items()}
    result = table.copy()
    candidates = table.loc[table.status.isin(OPEN), ["path", "sha1", "label", "status"]]
    for index, path, sha1, label, status in candidates.itertuples():
        decision = decided.get(path) or of_copies.get((sha1, label))
        if decision and (changed := _changed(decision, label=label, status=status, classes=classes)):
            result.loc[index, list(changed)] = list(changed.values())
    return result, notes + more


def _changed(decision: Decision, *, label: str, status: str, classes: set[str]) -> dict[str, str]:
    """Return the new values of the columns that a decision changes; empty if it changes no column."""
    if decision.kind == "exclude":
        detail = ": ".join(filter(None, ["excluded by hand", decision.note]))
        return {"status": "excluded", "detail": detail}
    if decision.label not in classes:
        detail = f"relabelled by hand to {decision.label}, which `source.classes` leaves out"
        return {"status": "excluded", "detail": detail}
    if decision.label == label and status == "kept":
        return {}
    return {"label": decision.label, "status": "kept", "detail": "", "relabelled_from": label or UNLABELLED}


def _applicable(
    table: pd.DataFrame, decided: dict[str, Decision], *, partial: bool
) -> tuple[dict[str, Decision], list[str]]:
    """Return the decisions that can be applied to the table, and notes on the other decisions."""
    sha1_of = dict(zip(table.path, table.sha1, strict=True))
    path_of = dict(zip(table.sha1, table.path, strict=True))
    unlabelled = set(table.path[table.split.eq("predict")])
    applicable: dict[str, Decision] = {}
    missing, changed, to_predict = [], [], []
    for path, decision in decided.items():
        if path not in sha1_of:
            renamed = path_of.get(decision.sha1)
            missing.append(f"{path} (now {renamed})" if renamed else path)
        elif decision.sha1 not in ("", sha1_of[path]):
            changed.append(path)
        elif decision.kind != "exclude" and path in unlabelled:
            to_predict.append(path)
        else:
            applicable[path] = decision
    notes = [
        (changed, "changed since the decision, which is not applied: review again"),
        (to_predict, "without a label in the source, to be predicted: relabelling is not applied"),
        ([] if partial else missing, "in the decisions but not in the source: not applied"),
    ]
    return applicable, [f"{listed(paths)} {sentence}" for paths, sentence in notes if paths]


def _check_labels(decided: Mapping[str, Decision], classes: set[str]) -> None:
    """Raise a ValueError if a new label is the label of no photo."""
    for path, decision in decided.items():
        if decision.kind != "exclude" and decision.label not in classes:
            nearest = difflib.get_close_matches(decision.label, classes) or sorted(classes)[:LISTED]
            raise ValueError(
                f"{RELABELS}: expected one of the {len(classes)} labels of the source for {path}, such as "
                f"{', '.join(nearest)}. Received: {decision.label!r}"
            )


def _of_file(folder: Path, file: str) -> dict[str, Decision]:
    """Return the decisions of one of the files, by path."""
    table = read(folder, file)
    if file == EXCLUSIONS:
        rows = zip(table.path, table.sha1, table.reason, strict=True)
        return {path: Decision("exclude", sha1, note=reason) for path, sha1, reason in rows}
    relabelled = zip(table.path, table.sha1, table.label, table["from"], strict=True)
    return {
        path: Decision("keep" if label == source_label else "relabel", sha1, label, source_label)
        for path, sha1, label, source_label in relabelled
    }


def _decide(folder: Path, path: str, *, file: str = "", row: Mapping[str, str] | None = None) -> None:
    """Write a photo's row to a file and remove its rows from the other; other rows and columns are kept."""
    before = {name: read(folder, name) for name in COLUMNS}
    # The new row is written before the old row is removed.
    for name in sorted(COLUMNS, key=lambda name: name != file):
        table = before[name][before[name].path.ne(path)]
        if name == file:
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True).fillna("")
        if name == file or len(table) < len(before[name]):
            tables.write(table, folder / name)


def _inside(path: str, file: str) -> str:
    """Return a path without `.` and doubled slashes; raise an error if it is outside the source."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{file}: expected paths of photos inside the source. Received: {path!r}")
    return str(parts)


def listed(paths: Sequence[str]) -> str:
    """Format the number of photos and the paths of the first few as text."""
    names = f"{', '.join(map(files.printable, paths[:LISTED]))}{' ...' if len(paths) > LISTED else ''}"
    return f"{len(paths)} photo{'s' * (len(paths) > 1)} ({names})"
