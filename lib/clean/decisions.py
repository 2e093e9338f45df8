"""Decisions of a person on single photos: `exclusions.csv` and `relabels.csv` beside the source's record.

Both files may be edited by hand or by `lib.clean.review`; every run of the source applies them. A decision
names a photo by its path and holds the SHA-1 that its file had: if the file has changed since, the
decision is reported and not applied. The files of the source are never changed.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core import steps, tables

EXCLUSIONS, RELABELS = steps.DECISIONS
COLUMNS = {EXCLUSIONS: ["path", "sha1", "reason"], RELABELS: ["path", "sha1", "label", "from"]}
# Statuses that a decision can change: a damaged photo stays damaged.
OPEN = ("kept", "mislabelled")
# Paths that a note spells out.
NAMED = 3
# In `relabelled_from`, for a photo to which the source gives no label; no folder of a class is called so.
UNLABELLED = "(none)"


@dataclass(frozen=True)
class Decision:
    """The decision on one photo.

    Attributes:
        kind: `exclude`, `relabel`, or `keep`: a person looked and found the label right.
        sha1: of the file that the person saw; empty if that was not written down.
        label: the label that the photo gets or keeps; empty for an exclusion.
        note: the reason of an exclusion, else the label that the source gave.
    """

    kind: str
    sha1: str = ""
    label: str = ""
    note: str = ""


def exclude(folder: Path, path: str, *, sha1: str, reason: str = "") -> None:
    """Leave a photo out of every later run, whatever was decided on it before.

    Args:
        folder: the source's folder, `outputs/data/<source>/`.
        path: the photo, as the manifest names it.
        sha1: of its file, from the manifest.
        reason: for the reader of the manifest.

    Raises:
        ValueError: one of the files cannot be read (see `read`); nothing was written.
    """
    _decide(folder, path, file=EXCLUSIONS, row={"path": path, "sha1": sha1, "reason": reason})


def relabel(folder: Path, path: str, *, sha1: str, label: str, given: str) -> None:
    """Give a photo another label in every later run, or confirm its own, whatever was decided on it before.

    Args:
        folder, path, sha1: as `exclude`.
        label: the label; the given one says that a person looked and found it right.
        given: the label that the source gives.

    Raises:
        ValueError: the label is empty, or as `exclude`.
    """
    if not label:
        raise ValueError(f"expected the label that {path} gets. Received: {label!r}. `exclude` leaves it out")
    row = {"path": path, "sha1": sha1, "label": label, "from": given}
    _decide(folder, path, file=RELABELS, row=row)


def forget(folder: Path, path: str) -> None:
    """Take a photo out of both files, as if nobody had looked at it.

    Raises:
        ValueError: as `exclude`.
    """
    _decide(folder, path)


def of_each(folder: Path, sha1: Mapping[str, str]) -> dict[str, Decision]:
    """Return the decision on each photo, by path: the exclusion if it stands in both files.

    Args:
        folder: as `exclude`.
        sha1: of the file of each photo, by path, as the manifest has it. A decision on another file than the
            one that is there now, or on a photo that is not there, holds no longer and is left out.

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
    """Read one of the two files, whatever a spreadsheet or an editor made of it.

    Args:
        folder: as `exclude`.
        file: `EXCLUSIONS` or `RELABELS`.

    Returns:
        One row per photo, the last one if it has several, all as text; no row if there is no file.
        The columns are those of `COLUMNS`, of which a person may have left out `sha1`, `reason` and
        `from` (they are empty then), and after them whatever else a person added.

    Raises:
        ValueError: it lacks the column `path` or `label`, has rows of different lengths, a row without a
            label, or a path that leaves the source.
    """
    path = folder / file
    if not path.is_file() or not path.read_bytes().strip(b"\xef\xbb\xbf \t\r\n"):
        return pd.DataFrame(columns=COLUMNS[file], dtype=str)
    table = tables.read_csv(path)
    for column in {"path", "label"} & set(COLUMNS[file]) - set(table.columns):
        raise ValueError(
            f"{file} has no column {column!r}. Its columns: {', '.join(map(repr, table.columns))}"
        )
    table = table.reindex(columns=list(dict.fromkeys([*COLUMNS[file], *table.columns])), fill_value="")
    table = tables.plain(table)
    table["path"] = [_inside(path, file) for path in table.path]
    for column in COLUMNS[file][1:]:
        table[column] = table[column].str.strip()
    table["sha1"] = table.sha1.str.lower()
    if file == RELABELS and (empty := list(table.path[table.label.eq("")])):
        raise ValueError(
            f"{file} gives no label to {listed(empty)}. To leave photos out, put them into {EXCLUSIONS}"
        )
    return table.drop_duplicates("path", keep="last", ignore_index=True)


def apply(table: pd.DataFrame, folder: Path, *, partial: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Apply the decisions to the photos that were found, before copies and splits are looked at.

    Copies of one file with the same label share a decision, unless they have one of their own: else
    the copy of an excluded photo would take its place.

    Args:
        table: one row per photo, with the columns `path`, `label`, `split` (`predict`: a photo without a
            label), `status`, `detail`, `relabelled_from` and `sha1`. Rows that are `kept` or `mislabelled`
            can change.
        folder: as `exclude`.
        partial: the table holds only some of the source's photos and classes (`source.classes`).

    Returns:
        The table, in which photos are `excluded` with the reason in `detail`, or `kept` under another label
        with the earlier one in `relabelled_from` (`UNLABELLED` if there was none); and notes, a sentence
        each, on the decisions that were not applied.

    Raises:
        ValueError: as `read`, or a new label is that of no photo; the message names the nearest.
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
    """Return the columns of a photo that a decision changes; none if it confirms them."""
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
    """Return the decisions on photos that are there, unchanged and labelled, and notes on the others."""
    sha1_of = dict(zip(table.path, table.sha1, strict=True))
    path_of = dict(zip(table.sha1, table.path, strict=True))
    unlabelled = set(table.path[table.split.eq("predict")])
    applicable: dict[str, Decision] = {}
    gone, changed, to_predict = [], [], []
    for path, decision in decided.items():
        if path not in sha1_of:
            renamed = path_of.get(decision.sha1)
            gone.append(f"{path} (now {renamed})" if renamed else path)
        elif decision.sha1 not in ("", sha1_of[path]):
            changed.append(path)
        elif decision.kind != "exclude" and path in unlabelled:
            to_predict.append(path)
        else:
            applicable[path] = decision
    notes = [
        (changed, "changed since the decision, which is not applied: look at them again"),
        (to_predict, "without a label in the source, to be predicted: no label is given by hand"),
        ([] if partial else gone, "decided on, but not in the source: not applied"),
    ]
    return applicable, [f"{listed(paths)} {sentence}" for paths, sentence in notes if paths]


def _check_labels(decided: Mapping[str, Decision], classes: set[str]) -> None:
    """Refuse a new label that no photo has; the message names the nearest."""
    for path, decision in decided.items():
        if decision.kind != "exclude" and decision.label not in classes:
            near = difflib.get_close_matches(decision.label, classes) or sorted(classes)[:3]
            raise ValueError(
                f"{RELABELS} gives {path} the label {decision.label!r}, which is the label of no photo. "
                f"Expected one of the {len(classes)} labels, such as {', '.join(near)}"
            )


def _of_file(folder: Path, file: str) -> dict[str, Decision]:
    """Return the decisions of one of the files, by path."""
    table = read(folder, file)
    if file == EXCLUSIONS:
        rows = zip(table.path, table.sha1, table.reason, strict=True)
        return {path: Decision("exclude", sha1, note=reason) for path, sha1, reason in rows}
    relabelled = zip(table.path, table.sha1, table.label, table["from"], strict=True)
    return {
        path: Decision("keep" if label == given else "relabel", sha1, label, given)
        for path, sha1, label, given in relabelled
    }


def _decide(folder: Path, path: str, *, file: str = "", row: Mapping[str, str] | None = None) -> None:
    """Write a photo's row into a file and take its rows out of the other; other rows and columns stay."""
    before = {name: read(folder, name) for name in COLUMNS}
    # The new row is written before the old one goes.
    for name in sorted(COLUMNS, key=lambda name: name != file):
        table = before[name][before[name].path.ne(path)]
        if name == file:
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True).fillna("")
        if name == file or len(table) < len(before[name]):
            tables.write(table, folder / name)


def _inside(path: str, file: str) -> str:
    """Return a path that stays inside the source, without `.` and doubled slashes."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{file} names {path!r}. Expected: the path of a photo inside the source")
    return str(parts)


def listed(paths: Sequence[str]) -> str:
    """Name the first few of some photos and say how many there are."""
    names = f"{', '.join(paths[:NAMED])}{' ...' if len(paths) > NAMED else ''}"
    return f"{len(paths)} photo{'s' * (len(paths) > 1)} ({names})"
