"""Divide photos into train, val and test so that no cluster of near-duplicates is in two of them."""

import hashlib
from collections.abc import Hashable

import pandas as pd


def assign(photos: pd.DataFrame, *, val: float, test: float, seed: int, earlier: pd.Series) -> pd.Series:
    """Assign each labelled photo to a split.

    Within a class, whole clusters are assigned to test and then to val until the class's quota is filled,
    in an order drawn from the seed and the photos' content: it depends neither on file names nor on the
    order of the rows. A cluster with several classes is assigned as its most frequent class. Photos keep
    their previous split, and new photos fill the quotas. If new photos connect clusters of different splits,
    the merged cluster gets the split that most of its photos had; in a tie, train, then val.

    Args:
        photos: columns `label`, `sha1`, `cluster` and `split` (the split that the source defines, or empty).
        val, test: fractions of each class. No photos are added to a split that the source defines.
        seed: seed of the random order.
        earlier: the previous split of each photo, empty for new photos, on the same index.

    Returns:
        `train`, `val` or `test` for each row, on the same index. A class with fewer than three clusters may
        be missing in val or test; a class with a single photo is in train.
    """
    fixed = set(photos.split) - {""}
    fractions = {"test": test, "val": val}
    quotas = {split: fraction for split, fraction in fractions.items() if split not in fixed and fraction}
    result = photos.split.where(photos.split.ne(""), "train")
    free = photos[result.eq("train")]
    clusters = free.groupby("cluster").agg(sha1=("sha1", "min"), size=("sha1", "size"))
    clusters["label"] = _most_frequent(free.cluster, free.label, order=sorted(set(free.label)))
    clusters["rank"] = [hashlib.sha256(f"{seed}:{sha1}".encode()).hexdigest() for sha1 in clusters.sha1]
    before = earlier[free.index]
    before = before[before.isin(["train", *quotas])]
    kept = _most_frequent(free.cluster[before.index], before, order=["train", "val", "test"])
    clusters["split"] = kept.reindex(clusters.index, fill_value="")
    for _, group in clusters.sort_values("rank").groupby("label"):
        clusters.loc[group.index, "split"] = group.index.map(_fill(group, quotas))
    result[free.index] = free.cluster.map(clusters["split"])
    return result


def _most_frequent(clusters: pd.Series, values: pd.Series, *, order: list[str]) -> pd.Series:
    """Return the most frequent value of each cluster; in a tie, the first in order."""
    table = pd.DataFrame({"cluster": clusters, "value": pd.Categorical(values, order)})
    counts = table.groupby(["cluster", "value"], observed=True).size().rename("n").reset_index()
    counts = counts.sort_values(["cluster", "n", "value"], ascending=[True, False, True])
    return counts.drop_duplicates("cluster").set_index("cluster").value.astype(str)


def _fill(clusters: pd.DataFrame, quotas: dict[str, float]) -> dict[Hashable, str]:
    """Assign the clusters of a class, in order, to the splits below their quota, and the rest to train.

    Args:
        clusters: columns `size` (photos) and `split` (the split that a cluster keeps, or empty).
        quotas: fraction of the class's photos for each split.

    Returns:
        The split of each cluster, by the index of `clusters`.
    """
    sizes, kept = clusters["size"].to_dict(), clusters["split"].to_dict()
    total = sum(sizes.values())
    result = dict(kept)
    remaining = [cluster for cluster, split in kept.items() if not split]
    has_train = "train" in kept.values()
    for number, (split, fraction) in enumerate(quotas.items(), start=1):
        members = [cluster for cluster, before in kept.items() if before == split]
        missing = max(1, round(total * fraction)) - sum(sizes[cluster] for cluster in members)
        empty = [name for name in list(quotas)[number:] if name not in kept.values()]
        # One cluster is reserved for train and for each later split.
        available = len(remaining) - len(empty) - (not has_train)
        chosen: list[Hashable] = []
        for cluster in remaining:
            if sizes[cluster] <= missing and len(chosen) < available:
                chosen.append(cluster)
                missing -= sizes[cluster]
        if not chosen and not members and available > 0 and len(sizes) > len(quotas):
            # Every cluster is larger than the quota: the smallest is closest to it.
            chosen = [min(remaining, key=lambda cluster: sizes[cluster])]
        in_train = [cluster for cluster, before in kept.items() if before == "train"]
        if not chosen and not members and len(in_train) > 1 and len(sizes) > len(quotas):
            # All clusters are assigned, for example after a user has excluded the only photo of the split.
            chosen = [min(in_train, key=lambda cluster: sizes[cluster])]
            kept = kept | dict.fromkeys(chosen, split)
        result |= dict.fromkeys(chosen, split)
        remaining = [cluster for cluster in remaining if not result[cluster]]
    return result | dict.fromkeys(remaining, "train")


def leaks(photos: pd.DataFrame) -> pd.Series:
    """Return a mask of the val and test photos that have a near-duplicate in an earlier split.

    Args:
        photos: columns `cluster` and `split`.

    Returns:
        `bool` on the same index: True for test photos whose cluster is also in train or val, and for val
        photos whose cluster is also in train.
    """
    order = photos.split.map({"train": 0, "val": 1, "test": 2})
    return order > order.groupby(photos.cluster).transform("min")
