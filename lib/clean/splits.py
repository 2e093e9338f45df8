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
        val, test: shares of each class. A split that the source fixes is not filled further.
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
        before = before[before.isin(["train", *quotas])].sort_values()  # train wins a tie, then val
        clusters["split"] = _most_frequent(free.cluster[before.index], before, order=["train", "val", "test"])
        clusters["split"] = clusters["split"].fillna("")
    for _, group in clusters.sort_values("rank").groupby("label"):
        clusters.loc[group.index, "split"] = _fill(group["size"].to_dict(), group["split"].to_dict(), quotas)
    result[free.index] = free.cluster.map(clusters["split"])
    return result


def _most_frequent(clusters: pd.Series, values: pd.Series, order: list[str] | None = None) -> pd.Series:
    """Return each cluster's most frequent value; of several, the first in order."""
    table = pd.DataFrame({"cluster": clusters, "value": pd.Categorical(values, order or sorted(set(values)))})
    counts = table.groupby(["cluster", "value"], observed=True).size().rename("n").reset_index()
    counts = counts.sort_values(["cluster", "n", "value"], ascending=[True, False, True])
    return counts.drop_duplicates("cluster").set_index("cluster").value.astype(str)


def _fill(sizes: dict, held: dict, quotas: dict) -> dict:
    """Hand a class's clusters, in order, to the splits that still want photos; the rest is train.

    Args:
        sizes: the photos of each cluster.
        held: the split that a cluster keeps, or empty.
        quotas: share of the class's photos that each split wants.

    Returns:
        The split of each cluster.
    """
    total = sum(sizes.values())
    given = dict(held)
    left = [cluster for cluster, split in held.items() if not split]
    has_train = "train" in held.values()
    for number, (split, share) in enumerate(quotas.items(), start=1):
        has = [cluster for cluster, before in held.items() if before == split]
        room = max(1, round(total * share)) - sum(sizes[cluster] for cluster in has)
        waiting = [name for name in list(quotas)[number:] if name not in held.values()]
        spare = len(left) - len(waiting) - (not has_train)  # train and the splits to come keep one each
        taken = []
        for cluster in left:
            if sizes[cluster] <= room and len(taken) < spare:
                taken.append(cluster)
                room -= sizes[cluster]
        if not taken and not has and spare > 0 and len(sizes) > len(quotas):
            # Every cluster is larger than the quota: the smallest is nearest to it.
            taken = [min(left, key=sizes.get)]
        learned = [cluster for cluster, before in held.items() if before == "train"]
        if not taken and not has and len(learned) > 1 and len(sizes) > len(quotas):
            # All are held, as when a person has excluded the only photo that the split had.
            taken = [min(learned, key=sizes.get)]
            held = held | dict.fromkeys(taken, split)
        given |= dict.fromkeys(taken, split)
        left = [cluster for cluster in left if not given[cluster]]
    return given | dict.fromkeys(left, "train")


def leaks(photos: pd.DataFrame) -> pd.Series:
    """Tell which photos of val and test have a near-duplicate in a split that comes before theirs.

    Args:
        photos: columns `cluster` and `split`.

    Returns:
        `bool` on the same index: a test photo with its cluster also in train or val, a val photo with it in train.
    """
    place = photos.split.map({"train": 0, "val": 1, "test": 2})
    return place > place.groupby(photos.cluster).transform("min")
