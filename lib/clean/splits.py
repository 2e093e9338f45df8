"""Divide photos into train, val and test so that no cluster of near-duplicates is in two of them."""

import hashlib

import pandas as pd


def assign(
    photos: pd.DataFrame, *, val: float, test: float, seed: int, earlier: pd.Series | None = None
) -> pd.Series:
    """Give every labelled photo a split.

    Within a class, whole clusters go to test and then to val until the class's quota is filled, in
    an order drawn from the seed and the photos' content: it depends neither on file names nor on
    the order of the rows. A cluster that spans several classes goes where its largest class goes.
    Photos that had a split before keep it, and new ones fill what the quotas still lack; a cluster
    that new photos have joined across splits goes where most of it was, with ties to train.

    Args:
        photos: columns `label`, `sha1`, `cluster` and `split` (the split that the source fixes, or empty).
        val, test: fractions of each class. A split that the source fixes is not filled further.
        seed: draws the order.
        earlier: the split that each photo had before, empty for new ones, on the same index.

    Returns:
        `train`, `val` or `test` for each row, on the same index. A class of fewer than three
        clusters may miss val or test; one with a single photo is in train.
    """
    fixed = set(photos.split) - {""}
    quotas = {name: share for name, share in (("test", test), ("val", val)) if name not in fixed and share}
    result = photos.split.where(photos.split.ne(""), "train")
    free = photos[result.eq("train")]
    clusters = free.sort_values("sha1").drop_duplicates("cluster").set_index("cluster")[["sha1"]].sort_index()
    clusters["size"] = free.groupby("cluster").size()
    clusters["label"] = _most_frequent(free.cluster, free.label)
    clusters["rank"] = [hashlib.sha256(f"{seed}:{sha1}".encode()).hexdigest() for sha1 in clusters.sha1]
    clusters["split"] = ""
    if earlier is not None:
        before = earlier[free.index]
        before = before[before.isin(["train", *quotas])].sort_values()
        # Train wins a tie, then val.
        clusters["split"] = _most_frequent(free.cluster[before.index], before, order=["train", "val", "test"])
        clusters["split"] = clusters["split"].fillna("")
    for _, group in clusters.sort_values("rank").groupby("label"):
        sizes = {int(cluster): int(size) for cluster, size in zip(group.index, group["size"], strict=True)}
        held = dict(zip(sizes, group["split"], strict=True))
        clusters.loc[list(sizes), "split"] = list(_fill(sizes, held, quotas).values())
    result[free.index] = free.cluster.map(clusters["split"])
    return result


def _most_frequent(clusters: pd.Series, values: pd.Series, order: list[str] | None = None) -> pd.Series:
    """Return each cluster's most frequent value; of several, the first in order."""
    table = pd.DataFrame({"cluster": clusters, "value": pd.Categorical(values, order or sorted(set(values)))})
    counts = table.groupby(["cluster", "value"], observed=True).size().rename("n").reset_index()
    counts = counts.sort_values(["cluster", "n", "value"], ascending=[True, False, True])
    return counts.drop_duplicates("cluster").set_index("cluster").value.astype(str)


def _fill(sizes: dict[int, int], held: dict[int, str], quotas: dict[str, float]) -> dict[int, str]:
    """Hand a class's clusters, in order, to the splits that still want photos; the rest is train.

    Args:
        sizes: the photos of each cluster.
        held: the split that a cluster keeps, or empty.
        quotas: fraction of the class's photos that each split wants.

    Returns:
        The split of each cluster.
    """
    total = sum(sizes.values())
    result = dict(held)
    left = [cluster for cluster, split in held.items() if not split]
    has_train = "train" in held.values()
    for number, (split, fraction) in enumerate(quotas.items(), start=1):
        has = [cluster for cluster, before in held.items() if before == split]
        room = max(1, round(total * fraction)) - sum(sizes[cluster] for cluster in has)
        waiting = [name for name in list(quotas)[number:] if name not in held.values()]
        # Train and the splits to come keep one cluster each.
        spare = len(left) - len(waiting) - (not has_train)
        taken: list[int] = []
        for cluster in left:
            if sizes[cluster] <= room and len(taken) < spare:
                taken.append(cluster)
                room -= sizes[cluster]
        if not taken and not has and spare > 0 and len(sizes) > len(quotas):
            # Every cluster is larger than the quota: the smallest is nearest to it.
            taken = [min(left, key=lambda cluster: sizes[cluster])]
        in_train = [cluster for cluster, before in held.items() if before == "train"]
        if not taken and not has and len(in_train) > 1 and len(sizes) > len(quotas):
            # All are held, as when a person has excluded the only photo that the split had.
            taken = [min(in_train, key=lambda cluster: sizes[cluster])]
            held = held | dict.fromkeys(taken, split)
        result |= dict.fromkeys(taken, split)
        left = [cluster for cluster in left if not result[cluster]]
    return result | dict.fromkeys(left, "train")


def leaks(photos: pd.DataFrame) -> pd.Series:
    """Return which photos of val and test have a near-duplicate in a split that comes before theirs.

    Args:
        photos: columns `cluster` and `split`.

    Returns:
        `bool` on the same index: a test photo with its cluster also in train or val, a val photo with it
        in train.
    """
    order = photos.split.map({"train": 0, "val": 1, "test": 2})
    return order > order.groupby(photos.cluster).transform("min")
