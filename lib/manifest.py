"""The manifest: one row per photo found, kept or not, with its label, split and the reason."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib import cache, labels, photos, runs, splits
from lib.schema import Params

COLUMNS = ["path", "label", "split", "status", "reason", "sha1", "phash", "width", "height", "cluster"]
ORDER = ["train", "val", "test", "predict"]
CHUNK = 32  # photos that are measured at a time
MOVED = "moved here from "
LEAKS = "leak: a near-duplicate of it is in an earlier split"


def build(
    data: Path, settings: Params, content: str, *, earlier: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Find, read, clean and divide the photos of a source.

    Args:
        data: the source's folder, with `raw/`; the resized photos are kept in its `cache/`.
        settings: the run's parameters.
        content: SHA-256 of the source's content, from its `source.json`.
        earlier: the manifest that the run had before; photos that were divided then stay where they are.

    Returns:
        The manifest, one row per photo found, in the order of the paths, with the columns `path`,
        `label`, `split` (train, val, test or predict; empty where not kept), `status` (`kept`, or
        `corrupt`, `small`, `mislabelled`, `conflict`, `duplicate`, `leak`, `untrained`), `reason` (of a
        kept photo: why it is in another split than before, or that it leaks and the parameters keep it), `sha1`, `phash`, `width`, `height` (pixels) and `cluster` (near-duplicates share a number;
        -1 where not kept or not labelled); and the photos as `uint8` `(rows, size, size, 3)`.

    Raises:
        ValueError: the labels cannot be used, or fewer than two classes are left to train on.
    """
    found = labels.find(data / "raw", settings.source)
    scanned, images = resized(data, settings, content, list(found.path))
    table = found.join(scanned.drop(columns=["path", "problem"])).assign(status="kept", reason="", cluster=-1)
    _exclude(table, scanned.problem.ne(""), "corrupt", scanned.problem)
    smallest = table[["width", "height"]].min(axis=1)
    _exclude(
        table,
        smallest < settings.clean.minimum_side,
        "small",
        smallest.map("the shorter side has {} pixels".format),
    )
    _exclude(table, found.problem.ne(""), "mislabelled", found.problem)
    _exclude_copies(table, settings.split.on_leak)
    _split(table, settings, earlier)
    if table.query("split == 'train'").label.nunique() < 2:
        raise ValueError(
            f"after cleaning, fewer than two classes are left to train on. Counts: {table.status.value_counts().to_dict()}"
        )
    return table[COLUMNS], images


def resized(data: Path, settings: Params, content: str, paths: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return what `photos.scan` says of the source's files, from its cache where it was read before."""
    form = {"size": settings.model.resize or settings.model.image_size, "fit": settings.model.fit}
    return photos.scan(
        data / "raw", paths, folder=data / "cache" / photos.cache_key(content, paths, **form), **form
    )


def earlier(run: runs.Run) -> pd.DataFrame | None:
    """Return the manifest that a run already has, if it was divided by the same shares and seed."""
    record, path = run.path("cleaning.json"), run.path("manifest.csv")
    if not (record.is_file() and path.is_file()):
        return None
    return read(path) if cache.read_json(record).get("division") == division(run.settings) else None


def division(settings: Params) -> dict:
    """Return what decides how photos are divided: `seed`, `val` and `test`."""
    return {"seed": settings.seed, "val": settings.split.val, "test": settings.split.test}


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest as CSV."""
    # so that a "\r" in a name is quoted
    cache.write(path, lambda partial: table.to_csv(partial, index=False, lineterminator="\r\n"))


def read(path: Path) -> pd.DataFrame:
    """Read a manifest; every column but the sizes and the cluster is text, and empty cells are empty text."""
    text = dict.fromkeys(COLUMNS, str) | dict.fromkeys(["width", "height", "cluster"], int)
    return pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8")


@dataclass(frozen=True)
class Photos:
    """The photos of a run as the network takes them.

    Attributes:
        table: the manifest.
        full: `uint8` memory map `(rows of the manifest, side, side, 3)`, RGB, what random crops are cut from.
        size: side of the network's input, in pixels.
        classes: the class names in order; a target is an index into them.
        fit: how the photos became squares, as `photos.resize`.
    """

    table: pd.DataFrame
    full: np.ndarray
    size: int
    classes: list[str]
    fit: str = "crop"

    @property
    def images(self) -> np.ndarray:
        """The centre of each photo as the network takes it, a view of shape `(rows, size, size, 3)`."""
        return photos.centre(self.full, self.size)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of the manifest in a split, `int64`."""
        return np.flatnonzero(self.table.split.eq(split))

    def targets(self, split: str) -> np.ndarray:
        """Return the class of each photo of a split, `int64`, in the order of `rows`."""
        return pd.Categorical(self.table.label.iloc[self.rows(split)], self.classes).codes.astype(np.int64)

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation per channel, R, G, B, over all pixels of the training photos, from 0 to 1.

        The deviation is that of the whole population, as torchvision's projects measure it. The sums are
        of whole numbers and thus exact: any machine gives the same bits.
        """
        rows, images = self.rows("train"), self.images
        sums = np.zeros((2, 3), np.int64)
        for start in range(0, len(rows), CHUNK):
            pixels = images[rows[start : start + CHUNK]].astype(np.uint16)  # their squares fit
            sums += [values.sum(axis=(0, 1, 2), dtype=np.int64) for values in (pixels, pixels**2)]
        mean, square = sums / (len(rows) * self.size**2)
        return (mean / 255).tolist(), (np.sqrt(np.maximum(square - mean**2, 0)) / 255).tolist()

    def identity(self, *names: str) -> str:
        """Return a fingerprint of what is in some splits: the photos' content and labels."""
        chosen = self.table[self.table.split.isin(names)]
        return cache.fingerprint(
            self.full.shape[1:], self.size, self.classes, chosen[["sha1", "label", "split"]].values.tolist()
        )


def load(run: runs.Run) -> Photos:
    """Open the photos of a run by its manifest, resizing them again only where the cache is gone."""
    table = read(run.need("manifest.csv"))
    content = cache.read_json(run.need("source.json"))["content_sha256"]
    _, full = resized(run.data, run.settings, content, list(table.path))
    classes = labels.classes(table.label[table.split.eq("train")])
    return Photos(table, full, run.settings.model.image_size, classes, run.settings.model.fit)


def clusters(table: pd.DataFrame) -> list[list[int]]:
    """Return the rows of each cluster of near-duplicates, the largest cluster first."""
    groups = table[table.cluster.ge(0)].groupby("cluster").indices.values()
    kept = np.flatnonzero(table.cluster.ge(0))
    return sorted(
        (kept[group].tolist() for group in groups if len(group) > 1), key=lambda rows: (-len(rows), rows)
    )


def summary(table: pd.DataFrame) -> dict:
    """Count photos by status, by split and by class.

    Returns:
        `photos`, `status` (a count for each), `split` (likewise), `near_duplicate_clusters`, `leaks` (photos whose
        near-duplicate the source put into an earlier split), `moved` (photos in another split than before), `classes` (for each class: found,
        kept and the photos in each split) and `notes` (sentences on what a reader should know).
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
        "near_duplicate_clusters": len(clusters(table)),
        "leaks": int((table.status.eq("leak") | table.reason.eq(LEAKS)).sum()),
        "moved": int(table.reason.str.startswith(MOVED).sum()),
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


def _exclude_copies(table, on_leak) -> None:
    """Exclude copies of one file: all of them where their labels differ, all but the first where they agree."""
    kept = table[table.status.eq("kept") & table.label.ne("")]
    by_file = kept.groupby("sha1")
    labels_of = by_file.label.transform("nunique")
    conflict = pd.Series(False, table.index)
    conflict[kept.index] = labels_of > 1
    names = by_file.path.agg(", ".join)
    _exclude(
        table, conflict, "conflict", table.sha1.map(names).map("one photo under several labels: {}".format)
    )
    kept = kept[~conflict[kept.index]].sort_values(
        "split", key=lambda s: s.map({"train": 0, "": 0, "val": 1, "test": 2}), kind="stable"
    )
    same = ["sha1", "split"] if on_leak == "keep" else ["sha1"]
    copy = pd.Series(False, table.index)
    copy[kept.index[kept.duplicated(same)]] = True
    first = kept.groupby("sha1").path.first()
    _exclude(table, copy, "duplicate", table.sha1.map(first).map("the same file as {}".format))


def _split(table, settings, earlier) -> None:
    kept = table[table.status.eq("kept") & table.label.ne("")]
    table.loc[kept.index, "cluster"] = splits.clusters(
        list(kept.phash), bits=settings.clean.near_duplicate_bits
    )
    kept = table.loc[kept.index]
    before = _splits_before(kept, earlier)
    shares = {"val": settings.split.val, "test": settings.split.test}
    table.loc[kept.index, "split"] = splits.assign(kept, **shares, seed=settings.seed, earlier=before)
    moved = before.ne("") & before.ne(table.split[kept.index]) & kept.split.eq("")
    table.loc[moved.index[moved], "reason"] = MOVED + before[moved] + " with its near-duplicates"
    leak = splits.leaks(table.loc[kept.index]).reindex(table.index, fill_value=False)
    if settings.split.on_leak == "drop":
        _exclude(table, leak, "leak", "a near-duplicate of it is in an earlier split")
    else:
        table.loc[leak, "reason"] = LEAKS
    trained = set(table.label[table.split.eq("train") & table.status.eq("kept")])
    _exclude(
        table,
        table.label.ne("") & ~table.label.isin(trained),
        "untrained",
        "no photo of its class is in train",
    )
    table.loc[table.status.ne("kept"), "split"] = ""
    table.loc[table.status.ne("kept"), "cluster"] = -1


def _splits_before(kept, earlier) -> pd.Series:
    """Return the split that each photo had in an earlier manifest, by content; empty for new ones."""
    if earlier is None:
        return pd.Series("", kept.index)
    known = earlier[earlier.split.isin(ORDER[:3])].drop_duplicates("sha1").set_index("sha1").split
    return kept.sha1.map(known).fillna("")
