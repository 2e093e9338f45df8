"""Read, write and apply a person's decisions on single photos: `exclusions.csv` and `relabels.csv`.

Both files are beside the source's record and may be edited by hand or by `lib.clean.review`; every run of
the source applies them. A decision holds the path of a photo and the SHA-1 of its file: if the file has
changed since, the decision is reported and not applied. The files of the source are never changed.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core import steps, tables

EXCLUSIONS, RELABELS = steps.DECISIONS
COLUMNS = {EXCLUSIONS: ["path", "sha1", "reason"], RELABELS: ["path", "sha1", "label", "from"]}
# Statuses that a decision can change: a damaged photo remains damaged.
OPEN = ("kept", "mislabelled")
# Number of paths that a note lists.
LISTED = 3
# In `relabelled_from`, for a photo without a label in the source; no folder of a class has this name.
UNLABELLED = "(none)"


@dataclass(frozen=True)
class Decision:
    """The decision on one photo.

    Attributes:
        kind: `exclude`, `relabel`, or `keep` if the person confirmed the label.
        sha1: of the file that the person saw; empty if unknown.
        label: the new or the confirmed label; empty for an exclusion.
        note: the reason of an exclusion, else the label in the source.
    """

    kind: str
    sha1: str = ""
    label: str = ""
    note: str = ""


def exclude(folder: Path, path: str, *, sha1: str, reason: str) -> None:
    """Exclude a photo from all later runs; an earlier decision on it is replaced.

    Args:
        folder: the source's folder, `outputs/data/<source>/`.
        path: the path of the photo in the manifest.
        sha1: of its file, from the manifest.
        reason: for the reader of the manifest; may be empty.

    Raises:
        ValueError: one of the files cannot be read (see `read`); nothing was written.
    """
    _decide(folder, path, file=EXCLUSIONS, row={"path": path, "sha1": sha1, "reason": reason})


def relabel(folder: Path, path: str, *, sha1: str, label: str, source_label: str) -> None:
    """Relabel a photo in all later runs, or confirm its label; an earlier decision on it is replaced.

    Args:
        folder, path, sha1: as `exclude`.
        label: the new label, or the label in the source to confirm it.
        source_label: the label in the source.

    Raises:
        ValueError: the label is empty, or as `exclude`.
    """
    if not label:
        raise ValueError(f"expected the new label of {path}. Received: {label!r}. `exclude` leaves it out")
    row = {"path": path, "sha1": sha1, "label": label, "from": source_label}
    _decide(folder, path, file=RELABELS, row=row)


def forget(folder: Path, path: str) -> None:
    """Remove the decision on a photo from both files.

    Raises:
        ValueError: as `exclude`.
    """
    _decide(folder, path)


def of_each(folder: Path, sha1: Mapping[str, str]) -> dict[str, Decision]:
    """Return the decision on each photo, by path: the exclusion if the path is in both files.

    Args:
        folder: as `exclude`.
        sha1: of the file of each photo, by path, from the manifest. Decisions on files that have changed
            since or on photos that are not in the manifest are left out.

    Raises:
        ValueError: as `read`.
    """
    decided = _of_file(folder, RELABELS) | _of_file(folder, EXCLUSIONS)
    return {
        path: decision
        for path, decision in decided.items()
        if path in sha1 and decision.sha1 in ("", sha1[path])
    }


def read(folder: Path, file: str) -> pd.DataFrame:
    """Read one of the two files, as any spreadsheet or editor saves it.

    Args:
        folder: as `exclude`.
        file: `EXCLUSIONS` or `RELABELS`.

    Returns:
        One row per photo, its last row if it has several, all as text; no row if the file does not exist.
        The columns are those of `COLUMNS`, then all others of the file. `sha1`, `reason` and `from` are
        empty if the file does not have them.

    Raises:
        ValueError: it lacks the column `path` or `label`, has rows of different lengths, a row without a
            label, or a path outside the source.
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
    itself: else the copy of an excluded photo would replace it.

    Args:
        table: one row per photo, with the columns `path`, `label`, `split` (`predict` for a photo without a
            label), `status`, `detail`, `relabelled_from` and `sha1`. Rows that are `kept` or `mislabelled`
            can change.
        folder: as `exclude`.
        partial: whether the table has only some of the source's photos and classes (`source.classes`).

    Returns:
        The table, in which photos are `excluded` with the reason in `detail`, or `kept` under another label
        with the earlier label in `relabelled_from` (`UNLABELLED` if it was empty); and notes, a sentence
        each, on the decisions that were not applied.

    Raises:
        ValueError: as `read`, or no photo has the new label; the message names the nearest label.
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
    """Return the columns of a photo that a decision changes; empty if it confirms them."""
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
    """Return the decisions on unchanged, labelled photos of the table, and notes on the other decisions."""
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
    """Raise an error if no photo has a new label; the message names the nearest label."""
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
    """Return the number of some photos and the paths of the first few, as text."""
    names = f"{', '.join(paths[:LISTED])}{' ...' if len(paths) > LISTED else ''}"
    return f"{len(paths)} photo{'s' * (len(paths) > 1)} ({names})"
