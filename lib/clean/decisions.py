"""What a person decided of single photos: `exclusions.csv` and `relabels.csv` beside the source's record.

Both files may be edited by hand or by `lib.clean.review`; every run of the source applies them. A decision
names a photo by its path and holds the SHA-1 that its file had: where the file is another one since,
the decision is reported and not applied. What the author of the source delivered is never changed.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core import steps, tables

EXCLUSIONS, RELABELS = steps.DECISIONS
COLUMNS = {EXCLUSIONS: ["path", "sha1", "reason"], RELABELS: ["path", "sha1", "label", "from"]}
OPEN = ("kept", "mislabelled")  # statuses that a decision can change: a damaged photo stays damaged
NAMED = 3  # paths that a note spells out
RELABELLED = "relabelled by hand from "


@dataclass(frozen=True)
class Decision:
    """What holds for one photo.

    Attributes:
        kind: `exclude`, `relabel`, or `keep`: a person looked and found the label right.
        sha1: of the file that the person saw; empty where that was not written down.
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
    _decide(folder, path, EXCLUSIONS, {"path": path, "sha1": sha1, "reason": reason})


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
    _decide(folder, path, RELABELS, {"path": path, "sha1": sha1, "label": label, "from": given})


def forget(folder: Path, path: str) -> None:
    """Take a photo out of both files, as if nobody had looked at it.

    Raises:
        ValueError: as `exclude`.
    """
    _decide(folder, path)


def of_each(folder: Path, sha1: Mapping[str, str]) -> dict[str, Decision]:
    """Return what holds for each photo that was decided on, by path: the exclusion where it stands in both files.

    Args:
        folder: as `exclude`.
        sha1: of the file of each photo, by path, as the manifest has it. A decision on another file than the
            one that is there now, or on a photo that is not there, holds no longer and is left out.

    Raises:
        ValueError: as `read`.
    """
    found = _of_file(folder, RELABELS) | _of_file(folder, EXCLUSIONS)
    return {
        path: decision
        for path, decision in found.items()
        if path in sha1 and decision.sha1 in ("", sha1[path])
    }


def read(folder: Path, file: str) -> pd.DataFrame:
    """Read one of the two files, whatever a spreadsheet or an editor made of it.

    Args:
        folder: as `exclude`.
        file: `EXCLUSIONS` or `RELABELS`.

    Returns:
        One row per photo, the last one where it has several, all as text; no row where there is no file.
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
            label), `status`, `reason` and `sha1`. Rows that are `kept` or `mislabelled` can change.
        folder: as `exclude`.
        partial: the table holds only some of the source's photos and classes (`source.classes`).

    Returns:
        The table, in which photos are `excluded` with a reason, or `kept` under another label with the
        earlier one as their reason; and notes, a sentence each, on the decisions that were not applied.

    Raises:
        ValueError: as `read`, or a new label is that of no photo; the message names the nearest.
    """
    excluded, relabelled = (_of_file(folder, file) for file in (EXCLUSIONS, RELABELS))
    both = sorted(excluded.keys() & relabelled.keys())
    notes = [f"{listed(both)} in {EXCLUSIONS} and in {RELABELS}: excluded"] if both else []
    decided, more = _applicable(table, relabelled | excluded, partial)
    classes = set(table.label) - {""}
    if not partial:
        _check_labels(decided, classes)
    seen = table.set_index("path")[["sha1", "label"]]
    of_copies = {tuple(seen.loc[path]): decision for path, decision in decided.items()}
    result = table.copy()
    for row in table[table.status.isin(OPEN)].itertuples():
        decision = decided.get(row.path) or of_copies.get((row.sha1, row.label))
        if decision and (change := _change(row, decision, classes)):
            result.loc[row.Index, ["label", "status", "reason"]] = change
    return result, notes + more


def _change(row, decision, classes) -> tuple[str, str, str] | None:
    """Return the label, status and reason that a decision gives to a photo; None where it confirms what is so."""
    if decision.kind == "exclude":
        return row.label, "excluded", ": ".join(filter(None, ["excluded by hand", decision.note]))
    if decision.label not in classes:
        reason = f"relabelled by hand to {decision.label}, which `source.classes` leaves out"
        return row.label, "excluded", reason
    if decision.label == row.label and row.status == "kept":
        return None
    return decision.label, "kept", f"{RELABELLED}{row.label or 'none'}"


def _applicable(table, decided, partial) -> tuple[dict[str, Decision], list[str]]:
    """Return the decisions on photos that are there, unchanged and labelled, and notes on the others."""
    rows = {row.path: row for row in table.itertuples()}
    names = dict(zip(table.sha1, table.path, strict=True))
    gone, changed, asked = [], [], []
    for path, decision in decided.items():
        if path not in rows:
            now = names.get(decision.sha1)
            gone.append(f"{path} (now {now})" if now else path)
        elif decision.sha1 not in ("", rows[path].sha1):
            changed.append(path)
        elif decision.kind != "exclude" and rows[path].split == "predict":
            asked.append(path)
    notes = [
        (changed, "changed since the decision, which is not applied: look at them again"),
        (asked, "without a label in the source, to be predicted: no label is given by hand"),
        ([] if partial else gone, "decided on, but not in the source: not applied"),
    ]
    passed_over = {*changed, *asked}
    applicable = {p: decision for p, decision in decided.items() if p in rows and p not in passed_over}
    return applicable, [f"{listed(paths)} {what}" for paths, what in notes if paths]


def _check_labels(decided, classes) -> None:
    for path, decision in decided.items():
        if decision.kind != "exclude" and decision.label not in classes:
            near = difflib.get_close_matches(decision.label, classes) or sorted(classes)[:3]
            raise ValueError(
                f"{RELABELS} gives {path} the label {decision.label!r}, which is the label of no photo. "
                f"Expected one of the {len(classes)} labels, such as {', '.join(near)}"
            )


def _of_file(folder, file) -> dict[str, Decision]:
    def decision(row):
        if file == EXCLUSIONS:
            return Decision("exclude", row["sha1"], note=row["reason"])
        kind = "keep" if row["label"] == row["from"] else "relabel"
        return Decision(kind, row["sha1"], row["label"], row["from"])

    return {row["path"]: decision(row) for row in read(folder, file).to_dict("records")}


def _decide(folder, path, file=None, row=None) -> None:
    """Write a photo's new row into its file and take its rows out of both; a hand's other rows and columns stay."""
    before = {name: read(folder, name) for name in COLUMNS}
    for name in sorted(COLUMNS, key=lambda name: name != file):  # written anew before the old row goes
        table = before[name][before[name].path.ne(path)]
        if name == file:
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True).fillna("")
        if name == file or len(table) < len(before[name]):
            tables.write(table, folder / name)


def _inside(path, file) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{file} names {path!r}. Expected: the path of a photo inside the source")
    return str(parts)


def listed(paths: Sequence[str]) -> str:
    """Name the first few of some photos and say how many there are."""
    names = f"{', '.join(paths[:NAMED])}{' ...' if len(paths) > NAMED else ''}"
    return f"{len(paths)} photo{'s' * (len(paths) > 1)} ({names})"
