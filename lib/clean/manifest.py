"""The manifest: one row per photo found, kept or not, with its label, split and the reason."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import decisions, duplicates, embeddings, splits
from lib.core import files, steps, tables
from lib.core.schema import Params
from lib.photos import decoding, labels, quality

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
    "quality",
]


ORDER = ["train", "val", "test", "predict"]


MOVED = "moved here from "


LEAK = "leak: a near-duplicate of it is in an earlier split"


@dataclass(frozen=True)
class Cleaned:
    """What is known of the photos of a source, and what became of them.

    Attributes:
        table: the manifest, one row per photo found, in the order of the paths, with the columns `path`,
            `label`, `split` (train, val, test or predict; empty where not kept), `status` (`kept`, or
            `corrupt`, `small`, `mislabelled`, `excluded`, `flagged`, `conflict`, `duplicate`, `leak`,
            `untrained`), `reason` (of a kept photo: which label it had, why it is in another split than
            before, or that it leaks and the parameters keep it), `sha1`, `phash`, `width`, `height`
            (pixels), `cluster` (near-duplicates share a number; -1 where not kept or not labelled) and
            `quality` (its flags, see `quality.flags`).
        images: the photos as `uint8` `(rows, side, side, 3)`.
        vectors: their embeddings, `float32` `(rows, channels)`; `None` without `clean.embeddings`.
        pairs: near-duplicates, as `duplicates.find` gives them, excluded photos included.
        notes: sentences on decisions of a person that could not be applied.
    """

    table: pd.DataFrame
    images: np.ndarray
    vectors: np.ndarray | None
    pairs: pd.DataFrame
    notes: list[str]


def build(data: Path, settings: Params, content: str, *, earlier: pd.DataFrame | None = None) -> Cleaned:
    """Find, read, clean and divide the photos of a source.

    Args:
        data: the source's folder, with `raw/` and the files of decisions; what is costly is kept in its `cache/`.
        settings: the run's parameters.
        content: SHA-256 of the source's content, from its `source.json`.
        earlier: the manifest that the run had before; photos that were divided then stay where they are.

    Raises:
        ValueError: the labels or the decisions cannot be used, or fewer than two classes are left to train on.
    """
    found = labels.find(data / "raw", settings.source)
    scanned, images = resized(data, settings, content, list(found.path))
    table = found.join(scanned.drop(columns=["path", "problem"]))
    table = table.assign(status="kept", reason="", quality="", cluster=-1)
    _exclude(table, scanned.problem.ne(""), "corrupt", scanned.problem)
    smallest = table[["width", "height"]].min(axis=1)
    reasons = smallest.map("the shorter side has {} pixels".format)
    _exclude(table, smallest < settings.clean.minimum_side, "small", reasons)
    _exclude(table, found.problem.ne(""), "mislabelled", found.problem)
    table, notes = decisions.apply(table, data, partial=bool(settings.source.classes))
    vectors = None
    if settings.clean.embeddings:
        vectors = embeddings.of_photos(table.sha1, images, fit=settings.model.fit, folder=data / "cache")
    _flag(table, vectors, settings.clean.exclude)
    _exclude_copies(table)
    pairs = _near_duplicates(table, images, vectors, data, settings.clean)
    table["cluster"] = duplicates.clusters(pairs, len(table))
    _split(table, settings, earlier)
    if table.query("split == 'train'").label.nunique() < 2:
        raise ValueError(
            f"after cleaning, fewer than two classes are left to train on. Counts: {table.status.value_counts().to_dict()}"
        )
    return Cleaned(table[COLUMNS], images, vectors, pairs, notes)


def resized(data: Path, settings: Params, content: str, paths: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return what `decoding.scan` says of the source's files, from its cache where it was read before."""
    form = {"size": settings.model.resize or settings.model.image_size, "fit": settings.model.fit}
    return decoding.scan(
        data / "raw", paths, folder=data / "cache" / decoding.cache_key(content, paths, **form), **form
    )


def earlier(run: steps.Run) -> pd.DataFrame | None:
    """Return the manifest that a run already has, if it was divided by the same shares and seed."""
    record, path = run.path("cleaning.json"), run.path("manifest.csv")
    if not (record.is_file() and path.is_file()):
        return None
    return read(path) if files.read_json(record).get("division") == division(run.settings) else None


def division(settings: Params) -> dict:
    """Return what decides how photos are divided: `seed`, `val` and `test`."""
    return {"seed": settings.seed, "val": settings.split.val, "test": settings.split.test}


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest as CSV."""
    tables.write(table, path)


def read(path: Path) -> pd.DataFrame:
    """Read a manifest; every column but the sizes and the cluster is text, and empty cells are empty text."""
    text = dict.fromkeys(COLUMNS, str) | dict.fromkeys(["width", "height", "cluster"], int)
    return tables.plain(pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8"))


def near_duplicates(cleaned: Cleaned) -> pd.DataFrame:
    """Return the pairs of near-duplicates with the photos' paths and what became of them, the surest first.

    Returns:
        The columns `kind` (`exact`, `perceptual`, `embedding`), `first`, `second` (paths), `labels` and
        `splits` (of both, where not kept the status), `distance` and `correlation`, indexed as `cleaned.pairs`.
    """
    table, pairs = cleaned.table, cleaned.pairs
    place = table.split.where(table.split.ne(""), table.status).to_numpy()
    ends = [pairs[end].to_numpy() for end in ("first", "second")]
    path, label = table.path.to_numpy(), table.label.to_numpy()
    shown = pd.DataFrame(
        {
            "kind": pairs.kind,
            "first": path[ends[0]],
            "second": path[ends[1]],
            "labels": label[ends[0]] + " / " + label[ends[1]],
            "splits": place[ends[0]] + " / " + place[ends[1]],
            "distance": pairs.distance.astype(float).round(4),
            "correlation": pairs.correlation.astype(float).round(4),
        }
    )
    order = shown.kind.map({kind: number for number, kind in enumerate(duplicates.KINDS)})
    return shown.loc[order.sort_values(kind="stable").index]


def clusters(table: pd.DataFrame) -> list[list[int]]:
    """Return the rows of each cluster of near-duplicates, the largest cluster first."""
    groups = table[table.cluster.ge(0)].groupby("cluster").indices.values()
    kept = np.flatnonzero(table.cluster.ge(0))
    return sorted(
        (kept[group].tolist() for group in groups if len(group) > 1), key=lambda rows: (-len(rows), rows)
    )


def flagged(table: pd.DataFrame, kind: str) -> pd.Series:
    """Tell which photos have a flag, one of `quality.KINDS`: `bool` on the index of the manifest."""
    return table.quality.str.contains(f"{kind} (", regex=False)


def leaking(table: pd.DataFrame) -> pd.Series:
    """Tell which kept photos are known to leak: `bool` on the index of the manifest."""
    return table.reason.str.contains(LEAK, regex=False) & table.status.eq("kept")


def conflicts(table: pd.DataFrame) -> list[list[int]]:
    """Return the rows of each photo that stands under several labels."""
    rows = table[table.status.eq("conflict")].groupby("sha1", sort=False).indices.values()
    place = np.flatnonzero(table.status.eq("conflict"))
    return [place[group].tolist() for group in rows]


def summary(table: pd.DataFrame) -> dict:
    """Count photos by status, by split and by class.

    Returns:
        `photos`, `status` (a count for each), `split` (likewise), `flags` (likewise, of kept photos),
        `near_duplicate_clusters`, `leaks` (photos whose near-duplicate the source put into an earlier split),
        `moved` (photos in another split than before), `relabelled` (by hand), `classes` (for each class:
        found, kept and the photos in each split) and `notes` (sentences on what a reader should know).
    """
    labelled = table[table.label.ne("")]
    per_class = pd.crosstab(labelled.label, labelled.split.replace("", "excluded"))
    rows = {}
    for name in labels.classes(labelled.label):
        counts = per_class.loc[name]
        rows[name] = {"found": int(counts.sum()), "kept": int(counts.sum() - counts.get("excluded", 0))}
        rows[name] |= {split: int(counts.get(split, 0)) for split in ORDER[:3]}
    return {
        "photos": len(table),
        "status": {name: int(count) for name, count in table.status.value_counts().items()},
        "split": {name: int(table.split.eq(name).sum()) for name in ORDER},
        "flags": {
            kind: int((flagged(table, kind) & table.status.eq("kept")).sum()) for kind in quality.KINDS
        },
        "near_duplicate_clusters": len(clusters(table)),
        "leaks": int((table.status.eq("leak") | leaking(table)).sum()),
        "moved": int(table.reason.str.contains(MOVED, regex=False).sum()),
        "relabelled": int(
            (table.reason.str.contains(decisions.RELABELLED, regex=False) & table.status.eq("kept")).sum()
        ),
        "classes": rows,
        "notes": _notes(rows),
    }


def _notes(rows) -> list[str]:
    splits_used = [split for split in ORDER[:3] if any(row[split] for row in rows.values())]
    return [
        f"{name} has {row['kept']} photos, none of them in {split}"
        for name, row in rows.items()
        for split in splits_used
        if not row[split]
    ]


def _exclude(table, rows, status, reasons) -> None:
    """Mark the rows that are still kept with a status and a reason."""
    rows = rows & table.status.eq("kept")
    table.loc[rows, "status"] = status
    table.loc[rows, "reason"] = reasons[rows] if isinstance(reasons, pd.Series) else reasons


def _exclude_copies(table) -> None:
    """Exclude copies of one file: all of them where their labels differ, all but the first where they agree."""
    kept = table[table.status.eq("kept") & table.label.ne("")]
    by_file = kept.groupby("sha1")
    labels_of = by_file.label.transform("nunique")
    conflict = pd.Series(False, table.index)
    conflict[kept.index] = labels_of > 1
    names = kept[conflict[kept.index]].groupby("sha1").path.agg(list).map(decisions.listed)
    _exclude(
        table, conflict, "conflict", table.sha1.map(names).map("one photo under several labels: {}".format)
    )
    kept = kept[~conflict[kept.index]].sort_values(
        "split", key=lambda s: s.map({"train": 0, "": 0, "val": 1, "test": 2}), kind="stable"
    )
    # across splits that the source has fixed, a copy is a leak
    again = pd.DataFrame({"sha1": kept.sha1, "split": kept.split.replace("", "train")}).duplicated()
    copy = pd.Series(False, table.index)
    copy[again.index[again]] = True
    first = kept.groupby("sha1").path.first()
    _exclude(table, copy, "duplicate", table.sha1.map(first).map("the same file as {}".format))


def _remark(table, rows, texts) -> None:
    """Add to what is said of rows that are kept."""
    said = table.reason[rows]
    table.loc[rows, "reason"] = said + said.map(lambda text: "; " if text else "") + texts


def _flag(table, vectors, excluded) -> None:
    """Say what is odd about each photo, and leave out those with a flag that the parameters name."""
    measured = table
    if vectors is not None:
        labelled = table.label.where(table.status.eq("kept"), "")
        measured = table.assign(outlier=quality.outliers(vectors, labelled).round(2))
    table["quality"] = quality.flags(measured)
    for kind in excluded:
        _exclude(table, flagged(table, kind) & table.split.ne("predict"), "flagged", table.quality)


def _near_duplicates(table, images, vectors, data, clean) -> pd.DataFrame:
    compared = table.loc[table.phash.ne("") & table.label.ne(""), ["sha1", "phash"]]
    return duplicates.find(
        compared,
        images,
        vectors,
        folder=data / "cache",
        bits=clean.near_duplicate_bits,
        cosine=clean.near_duplicate_cosine,
        correlation=clean.near_duplicate_correlation,
    )


def _split(table, settings, earlier) -> None:
    kept = table[table.status.eq("kept") & table.label.ne("")]
    before = _splits_before(kept, earlier)
    shares = {"val": settings.split.val, "test": settings.split.test}
    table.loc[kept.index, "split"] = splits.assign(kept, **shares, seed=settings.seed, earlier=before)
    free = ~kept.split.isin(
        ["val", "test"]
    )  # the source has not fixed it, or says train, of which val may be a part
    moved = before[before.ne("") & before.ne(table.split[kept.index]) & free]
    _remark(table, moved.index, MOVED + moved)
    leak = splits.leaks(table.loc[kept.index]).reindex(table.index, fill_value=False)
    if settings.split.on_leak == "drop":
        _exclude(table, leak, "leak", LEAK.removeprefix("leak: "))
    else:
        _remark(table, leak.index[leak], LEAK)
    trained = set(table.label[table.split.eq("train") & table.status.eq("kept")])
    _exclude(
        table,
        table.label.ne("") & ~table.label.isin(trained),
        "untrained",
        "no photo of its class is in train",
    )
    table.loc[table.status.ne("kept"), "split"] = ""
    table.loc[table.status.ne("kept") | table.label.eq(""), "cluster"] = -1


def _splits_before(kept, earlier) -> pd.Series:
    """Return the split that each photo had in an earlier manifest, by content; empty for new ones."""
    if earlier is None:
        return pd.Series("", kept.index)
    known = earlier[earlier.split.isin(ORDER[:3])].drop_duplicates("sha1").set_index("sha1").split
    return kept.sha1.map(known).fillna("")
