"""Build, read and summarize the manifest: one row per photo of the source, kept or not, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import pandas as pd

from lib.clean import decisions, divisions, duplicates, embeddings, splits
from lib.core import files, locks, schema, tables
from lib.core.schema import Params
from lib.photos import decoding, labels, listing, quality

COLUMNS = [
    "path",
    "label",
    "split",
    "status",
    "reason",
    "sha1",
    "phash",
    "width",
    "height",
    "cluster",
    "group",
    "flags",
    "quality",
    "moved_from",
    "leak",
    "relabelled_from",
    "given_split",
]
SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
ORDER = [*SPLITS, "predict"]
# Statuses of photos that can count as leaks.
LEAKING = ("kept", "leak")


@dataclass(frozen=True)
class Cleaned:
    """The result of the cleaning.

    Attributes:
        table: the manifest, one row per photo of the source, sorted by path, with the columns `path`,
            `label`, `split` (train, val, test or predict; empty if not kept), `status` (`kept`, or
            `corrupt`, `small`, `mislabelled`, `excluded`, `flagged`, `conflict`, `duplicate`, `leak`,
            `untrained`), `reason` (a text: why the photo is not kept, or the changes to a kept photo),
            `sha1`, `phash`, `width`, `height` (pixels), `cluster` (the same number for near-duplicates; -1 if
            not kept or without a label), `group` (see `split.group`; empty for none), `flags` (kinds of
            image-quality issues, separated by commas), `quality` (the flags with the measured values, see
            `quality.flags`), `moved_from` (the previous split of a kept photo if it has changed), `leak`
            (`bool`: a near-duplicate or a photo of the group is in an earlier split; only for kept photos and
            photos of status `leak`), `relabelled_from` (the label before the user's decision, `(none)` if it
            was empty; empty if the label has not changed) and `given_split` (the split that the source
            defines, also of photos that are not kept).
        images: the resized photos, `uint8` `(rows, side, side, 3)`, RGB.
        vectors: their embeddings, `float32` `(rows, channels)`; `None` if `clean.embeddings` is false.
        pairs: near-duplicates, the result of `duplicates.find`, including excluded photos.
        notes: sentences on the labels, on how photos were decoded, on photos without a group, and on
            decisions that were not applied.
        layout: how the labels and splits were read, as a sentence.
        bit_depth: bit depth of the photos with more than 8 bits, which were scaled to 8; `None` if there are
            no such photos.
    """

    table: pd.DataFrame
    images: np.ndarray
    vectors: np.ndarray | None
    pairs: pd.DataFrame
    notes: list[str]
    layout: str = ""
    bit_depth: int | None = None


class ClassCounts(TypedDict):
    """Numbers of photos of a class: found, kept, and in each split."""

    found: int
    kept: int
    train: int
    val: int
    test: int


class GroupCounts(TypedDict):
    """Groups of the kept photos: their number, the largest with its number of photos, photos without one."""

    groups: int
    largest: str
    photos_in_largest: int
    photos_without: int


class Summary(TypedDict):
    """Numbers of photos, as stored in `cleaning.json`.

    Attributes:
        photos: number of rows of the manifest.
        status, split: number of photos with each status and in each split.
        flags: number of kept photos with each kind of image-quality issue.
        near_duplicate_clusters: number of clusters with at least two kept photos.
        groups: numbers of groups and of photos in them; see `split.group`.
        given: for each split that the source defines, number of photos with each status.
        leaks: number of photos with a near-duplicate or their group in an earlier split, kept or of status
            `leak`.
        moved: number of photos whose split has changed.
        relabelled: number of kept photos whose label a user has changed.
        classes: numbers of photos of each class.
        notes: sentences on classes without a photo in a split or with a large unit (near-duplicates or a
            group), and on photos that are left out of the splits that the source defines.
    """

    photos: int
    status: dict[str, int]
    split: dict[str, int]
    flags: dict[str, int]
    near_duplicate_clusters: int
    groups: GroupCounts
    given: dict[str, dict[str, int]]
    leaks: int
    moved: int
    relabelled: int
    classes: dict[str, ClassCounts]
    notes: list[str]


def build(data: Path, settings: Params, *, content: str) -> Cleaned:
    """List, decode, clean and split the photos of a source.

    Photos keep the split of earlier runs of the source with the same `divisions.parameters`.

    Args:
        data: the source's folder, with `raw/` and the files of decisions; its `cache/` is the cache.
        settings: the run's parameters.
        content: SHA-256 of the source's content, from its `source.json`.

    Raises:
        ValueError: if the labels, groups or decisions are invalid, or train has fewer than two classes.
    """
    listed = labels.find(listing.Folder(data / "raw"), settings.source, group=settings.split.group)
    ungrouped = _ungrouped(listed, settings.split.group)
    scanned, images = resized(data, settings, content=content, paths=list(listed.path))
    bit_depth = depth(scanned, settings)
    table = listed.join(scanned.drop(columns=["path", "problem", "maximum", "note"]))
    table = table.assign(status="kept", detail="", cluster=-1, moved_from="", leak="", relabelled_from="")
    table["given_split"] = table.split.where(table.split.isin(SPLITS), "")
    _exclude(table, scanned.problem.ne(""), status="corrupt", details=scanned.problem)
    smallest = table[["width", "height"]].min(axis=1)
    details = smallest.map("the shorter side is {} px".format)
    _exclude(table, smallest < settings.clean.minimum_side, status="small", details=details)
    _exclude(table, listed.problem.ne(""), status="mislabelled", details=listed.problem)
    table, unapplied = decisions.apply(table, data, partial=bool(settings.source.classes))
    vectors = None
    if settings.clean.embeddings:
        vectors = embeddings.of_photos(
            table.sha1, images, fit=settings.model.fit, bit_depth=bit_depth, folder=data / "cache"
        )
    _flag(table, vectors, excluded=settings.clean.exclude)
    _exclude_copies(table)
    pairs = _near_duplicates(table, images, vectors=vectors, folder=data / "cache", clean=settings.clean)
    table["cluster"] = duplicates.clusters(pairs, len(table))
    with locks.source(data):
        _split(table, settings, earlier=divisions.load(data, settings))
        if table.query("split == 'train'").label.nunique() < 2:
            counts = table.status.value_counts().to_dict()
            raise ValueError(
                f"expected at least two classes in train after the cleaning. Received photos: {counts}. "
                "Add photos, or check their labels, the decisions and the parameters under `clean`"
            )
        divisions.store(data, settings, table)
    table["reason"] = _reasons(table)
    table["leak"] = table.leak.ne("")
    notes = [*listed.attrs["notes"], *ungrouped, *_remarks_on(scanned, bit_depth), *unapplied]
    return Cleaned(table[COLUMNS], images, vectors, pairs, notes, listed.attrs["layout"], bit_depth)


def depth(scanned: pd.DataFrame, settings: Params) -> int | None:
    """Return the bit depth of the photos of a scan with more than 8 bits; `None` if there are none."""
    common = decoding.common_bit_depth(scanned)
    return common and (settings.model.bit_depth or common)


def _remarks_on(scanned: pd.DataFrame, bit_depth: int | None) -> list[str]:
    """Return sentences on how photos were decoded: their bit depth, and what was ignored or clipped."""
    counts = scanned.note[scanned.note.ne("")].value_counts()
    result = [f"{note} ({count} photo{'s' * (count > 1)})" for note, count in counts.items()]
    if bit_depth:
        wide = int(scanned.maximum.gt(0).sum())
        result.append(f"{bit_depth} bits scaled to 8 ({wide} photo{'s' * (wide > 1)} with more than 8 bits)")
    return result


def _ungrouped(listed: pd.DataFrame, group: str | None) -> list[str]:
    """Return a note if some labelled photos have no group, although the source has groups.

    Raises:
        ValueError: if each class without a split has a single group.
    """
    if not group:
        return []
    labelled = listed[listed.label.ne("")]
    without = labelled.path[labelled.group.eq("")]
    undivided = labelled[labelled.split.eq("")]
    if len(undivided) and without.empty and undivided.groupby("label").group.nunique().max() == 1:
        raise ValueError(
            "expected several groups per class, so that some can be in val. `split.group`, "
            f"{group!r}, puts all photos of each class into one group, such as {undivided.group.iloc[0]!r}"
        )
    if without.empty:
        return []
    return [
        f"`split.group` finds no group for {decisions.listed(list(without))} of {len(labelled)}: "
        "each of them is a group of its own"
    ]


def resized(
    data: Path, settings: Params, *, content: str, paths: list[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Decode and resize a source's files for a run; return the table and photos of `decoding.scan`."""
    return decoding.scan(
        data / "raw",
        paths,
        content=content,
        folder=data / "cache",
        size=settings.model.resize or settings.model.image_size,
        fit=settings.model.fit,
        bit_depth=settings.model.bit_depth,
    )


def read(path: Path) -> pd.DataFrame:
    """Read a manifest; `width`, `height` and `cluster` are integers, `leak` is `bool`, the others are text.

    Raises:
        ValueError: if it was written by an earlier version and lacks a column.
    """
    table = tables.read(path)
    if not set(COLUMNS) <= set(table.columns):
        raise ValueError(f"{path.name} was written by an earlier version: run 02_clean again")
    table["leak"] = table.leak.str.lower().eq("true")
    return table.astype(dict.fromkeys(["width", "height", "cluster"], int))


def near_duplicates(cleaned: Cleaned) -> pd.DataFrame:
    """Return the pairs of near-duplicates with the paths, labels and splits of the photos, by kind.

    Returns:
        A table with the index of `cleaned.pairs`, sorted by `kind` (`exact`, `perceptual`, `embedding`), and
        the columns `first`, `second` (paths), `labels` and `splits` (of both photos; the status instead of
        the split if a photo is not kept), `distance` and `correlation`.
    """
    table, pairs = cleaned.table, cleaned.pairs
    split = table.split.where(table.split.ne(""), table.status).to_numpy()
    path, label = table.path.to_numpy(), table.label.to_numpy()
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    result = pd.DataFrame(
        {
            "kind": pairs.kind,
            "first": path[first],
            "second": path[second],
            "labels": label[first] + " / " + label[second],
            "splits": split[first] + " / " + split[second],
            "distance": pairs.distance.astype(float).round(4),
            "correlation": pairs.correlation.astype(float).round(4),
        }
    )
    order = result.kind.map({kind: number for number, kind in enumerate(duplicates.KINDS)})
    return result.loc[order.sort_values(kind="stable").index]


def clusters(table: pd.DataFrame) -> list[list[int]]:
    """Return the rows of each cluster of near-duplicates, the largest cluster first."""
    groups = table[table.cluster.ge(0)].groupby("cluster").indices.values()
    kept = np.flatnonzero(table.cluster.ge(0))
    several = (kept[group].tolist() for group in groups if len(group) > 1)
    return sorted(several, key=lambda rows: (-len(rows), rows))


def flagged(table: pd.DataFrame, kind: str) -> pd.Series:
    """Return a mask of the photos with a flag, one of `quality.KINDS`, on the index of the manifest."""
    return table["flags"].map(lambda flags: kind in flags.split(",")).astype(bool)


def conflicts(table: pd.DataFrame) -> list[list[int]]:
    """Return the rows of each group of identical files with different labels."""
    rows = np.flatnonzero(table.status.eq("conflict"))
    groups = table.iloc[rows].groupby("sha1", sort=False).indices.values()
    return [rows[group].tolist() for group in groups]


def summary(table: pd.DataFrame) -> Summary:
    """Count photos by status, by split and by class."""
    kept = table.status.eq("kept")
    classes = _class_counts(table)
    given = {
        str(split): {str(status): int(count) for status, count in photos.status.value_counts().items()}
        for split, photos in table[table.given_split.ne("")].groupby("given_split")
    }
    return {
        "photos": len(table),
        "status": {str(name): int(count) for name, count in table.status.value_counts().items()},
        "split": {name: int(table.split.eq(name).sum()) for name in ORDER},
        "flags": {kind: int((flagged(table, kind) & kept).sum()) for kind in quality.KINDS},
        "near_duplicate_clusters": len(clusters(table)),
        "groups": _group_counts(table),
        "given": given,
        "leaks": int(table.leak.sum()),
        "moved": int(table.moved_from.ne("").sum()),
        "relabelled": int((table.relabelled_from.ne("") & kept).sum()),
        "classes": classes,
        "notes": [*_left_out(given), *_large_units(table), *_notes(classes)],
    }


def _group_counts(table: pd.DataFrame) -> GroupCounts:
    """Count the groups of the kept, labelled photos."""
    kept = table.group[table.cluster.ge(0)]
    sizes = kept[kept.ne("")].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {
        "groups": len(sizes),
        "largest": str(sizes.index[0]) if len(sizes) else "",
        "photos_in_largest": int(sizes.max()) if len(sizes) else 0,
        "photos_without": int(kept.eq("").sum()),
    }


def _class_counts(table: pd.DataFrame) -> dict[str, ClassCounts]:
    """Count the photos of each class: found, kept and in each split."""
    counts = table.groupby(["label", "split"]).size().to_dict()
    result: dict[str, ClassCounts] = {}
    for name in labels.classes(table.label):
        train, val, test, excluded = (int(counts.get((name, split), 0)) for split in (*SPLITS, ""))
        kept = train + val + test
        result[name] = {"found": kept + excluded, "kept": kept, "train": train, "val": val, "test": test}
    return result


def _notes(classes: dict[str, ClassCounts]) -> list[str]:
    """Return a note for each class and each split without a photo of the class."""
    used = [split for split in SPLITS if any(counts[split] for counts in classes.values())]
    return [
        f"{files.printable(name)}: {counts['kept']} photo{'s' * (counts['kept'] != 1)} kept, 0 in {split}"
        for name, counts in classes.items()
        for split in used
        if not counts[split]
    ]


def describe_groups(counts: GroupCounts) -> str:
    """Return a sentence on the number of groups and the largest of them."""
    if not counts["groups"]:
        return "`split.group` is not set: only near-duplicates are kept together."
    return (
        f"{counts['groups']} groups; the largest, {files.printable(counts['largest'])}, has "
        f"{counts['photos_in_largest']} photos. {counts['photos_without']} photos have no group."
    )


def _large_units(table: pd.DataFrame) -> list[str]:
    """Return a note for each class in which near-duplicates of each other, or a group, are many photos."""
    kept = table[table.cluster.ge(0)]
    kept = kept.assign(unit=splits.units(kept))
    notes = []
    for label, photos in kept.groupby("label"):
        sizes = photos.groupby("unit").path.transform("size")
        first = photos.iloc[sizes.argmax()]
        if sizes.max() >= splits.LARGE and sizes.max() > splits.MANY * len(photos):
            name = f"the group {first.group}" if first.group else f"near-duplicates ({first.path} ...)"
            name = files.printable(name)
            notes.append(
                f"{files.printable(str(label))}: {sizes.max()} of {len(photos)} photos are {name}, all in "
                f"{first.split}; the class has {photos.unit.nunique()} independent units"
            )
    return notes


def _left_out(given: dict[str, dict[str, int]]) -> list[str]:
    """Return a note for val and test with the fraction of the source's photos that are left out."""
    notes = []
    for split, counts in given.items():
        total = sum(counts.values())
        reasons = [f"{count} {status}" for status, count in counts.items() if status != "kept"]
        if reasons and split != "train":
            percent = 100 - 100 * counts.get("kept", 0) / total
            notes.append(
                f"{split}: {percent:.1f} % of the source's {total} photos are left out: {', '.join(reasons)}"
            )
    return notes


def _exclude(table: pd.DataFrame, rows: pd.Series, *, status: str, details: pd.Series | str) -> None:
    """Set the status of the rows that are still kept, and the detail, from which `reason` is derived."""
    rows = rows & table.status.eq("kept")
    table.loc[rows, "status"] = status
    table.loc[rows, "detail"] = details[rows] if isinstance(details, pd.Series) else details


def _exclude_copies(table: pd.DataFrame) -> None:
    """Exclude copies of a file: all of them if their labels differ, else all but the first."""
    kept = table[table.status.eq("kept") & table.label.ne("")]
    several = kept.groupby("sha1").label.transform("nunique").gt(1)
    conflict = several.reindex(table.index, fill_value=False)
    paths = kept[several].groupby("sha1").path.agg(list).map(decisions.listed)
    details = table.sha1.map(paths).map("the same file with several labels: {}".format)
    _exclude(table, conflict, status="conflict", details=details)
    order = {"train": 0, "": 0, "val": 1, "test": 2}
    kept = kept[~several].sort_values("split", key=lambda split: split.map(order), kind="stable")
    # Copies in different splits that the source defines are leaks, not duplicates.
    repeated = kept[["sha1"]].assign(split=kept.split.replace("", "train")).duplicated()
    copy = repeated.reindex(table.index, fill_value=False)
    details = table.sha1.map(kept.groupby("sha1").path.first()).map("the same file as {}".format)
    _exclude(table, copy, status="duplicate", details=details)


def _flag(table: pd.DataFrame, vectors: np.ndarray | None, *, excluded: Sequence[str]) -> None:
    """Flag image-quality issues and outliers, and exclude photos with a flag of `clean.exclude`."""
    measured = table
    if vectors is not None:
        labelled = table.label.where(table.status.eq("kept"), "")
        measured = table.assign(outlier=quality.outliers(vectors, list(labelled)).round(2))
    table[["flags", "quality"]] = quality.flags(measured)
    for kind in excluded:
        rows = flagged(table, kind) & table.split.ne("predict")
        _exclude(table, rows, status="flagged", details=table.quality)


def _near_duplicates(
    table: pd.DataFrame, images: np.ndarray, *, vectors: np.ndarray | None, folder: Path, clean: schema.Clean
) -> pd.DataFrame:
    """Find the near-duplicates among the labelled photos that were decoded."""
    compared = table.loc[table.phash.ne("") & table.label.ne(""), ["sha1", "phash"]]
    return duplicates.find(
        compared,
        images,
        vectors=vectors,
        folder=folder,
        bits=clean.near_duplicate_bits,
        cosine=clean.near_duplicate_cosine,
        correlation=clean.near_duplicate_correlation,
    )


def _split(table: pd.DataFrame, settings: Params, *, earlier: pd.Series) -> None:
    """Split the kept photos; mark photos that have moved, are leaks, or whose class is not in train.

    Args:
        table: the manifest so far. The reason of a leak is added to `leak`.
        settings: the run's parameters.
        earlier: the split of each photo in earlier runs, by SHA-1.
    """
    kept = table[table.status.eq("kept") & table.label.ne("")]
    split_of = earlier.to_dict()
    before = pd.Series([split_of.get(sha1, "") for sha1 in kept.sha1], kept.index, dtype=str)
    photos = kept.assign(unit=splits.units(kept))
    table.loc[kept.index, "split"] = splits.assign(
        photos, val=settings.split.val, test=settings.split.test, seed=settings.seed, earlier=before
    )
    # Not defined by the source, or train, from which val can be taken.
    free = ~kept.split.isin(["val", "test"])
    moved = before.ne("") & before.ne(table.split[kept.index]) & free
    table.loc[kept.index[moved], "moved_from"] = before[moved]
    near, grouped = splits.leaks(table.loc[kept.index])
    details = kept.group.map("photos of its group, {}, are in an earlier split".format)
    details = details.where(grouped, "").mask(near, "a near-duplicate of it is in an earlier split")
    table["leak"] = details.reindex(table.index, fill_value="")
    if settings.split.on_leak == "drop":
        _exclude(table, table.leak.ne(""), status="leak", details=table.leak)
    trained = set(table.label[table.split.eq("train") & table.status.eq("kept")])
    untrained = table.label.ne("") & ~table.label.isin(trained)
    _exclude(table, untrained, status="untrained", details="no photo of its class is in train")
    excluded = table.status.ne("kept")
    table.loc[excluded, ["split", "moved_from"]] = ""
    table.loc[excluded | table.label.eq(""), "cluster"] = -1
    table.loc[~table.status.isin(LEAKING), "leak"] = ""


def _reasons(table: pd.DataFrame) -> list[str]:
    """Return the reason of each photo, a text for the reader that is derived from the other columns."""
    columns = table[["status", "detail", "relabelled_from", "moved_from", "leak"]]
    return [
        detail if status != "kept" else _remarks(relabelled_from, moved_from, leak)
        for status, detail, relabelled_from, moved_from, leak in columns.itertuples(index=False)
    ]


def _remarks(relabelled_from: str, moved_from: str, leak: str) -> str:
    """Return the changes to a kept photo as text; empty if nothing has changed."""
    remarks = [f"relabelled by hand from {relabelled_from}"] if relabelled_from else []
    if moved_from:
        remarks.append(f"moved to this split from {moved_from}")
    if leak:
        remarks.append(f"leak: {leak}")
    return "; ".join(remarks)
