"""Divide photos into train, val and test so that no cluster of near-duplicates is in two of them."""

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROWS_AT_ONCE = 1024  # bounds the memory of the comparison: this many rows against all


def clusters(hashes: list[str], *, bits: int) -> np.ndarray:
    """Join photos that look alike, directly or through others.

    Args:
        hashes: 64-bit perceptual hashes as 16 hexadecimal digits.
        bits: two photos are joined when their hashes differ in at most so many bits.

    Returns:
        `int64` of shape `(len(hashes),)`: the number of each photo's cluster, from 0.
    """
    codes = np.array([int(value, 16) for value in hashes], dtype=np.uint64)
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, len(codes), ROWS_AT_ONCE):
        distances = np.bitwise_count(codes[start : start + ROWS_AT_ONCE, None] ^ codes[None, start:])
        pairs.append(np.argwhere(distances <= bits).T + start)
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(codes), len(codes)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def assign(photos: pd.DataFrame, *, val: float, test: float, seed: int) -> pd.Series:
    """Give every labelled photo a split.

    Within a class, whole clusters go to test and then to val until the class's quota is filled, in
    an order drawn from the seed and the photos' content: it depends neither on file names nor on
    the order of the rows. A cluster that spans several classes goes where its largest class goes.

    Args:
        photos: columns `label`, `sha1`, `cluster` and `split` (the split that the source fixes, or empty).
        val, test: shares of each class. A split that the source fixes is not filled further.
        seed: draws the order.

    Returns:
        `train`, `val` or `test` for each row, on the same index. A class of fewer than three
        clusters may miss val or test; one with a single photo is in train.
    """
    fixed = set(photos.split) - {""}
    quotas = {name: share for name, share in (("test", test), ("val", val)) if name not in fixed and share}
    result = photos.split.where(photos.split.ne(""), "train")
    free = photos[result.eq("train")]
    home = free.groupby("cluster").label.agg(lambda labels: labels.mode().iloc[0])
    members = {cluster: group.index for cluster, group in free.groupby("cluster")}
    rank = (
        free.groupby("cluster")
        .sha1.min()
        .map(lambda sha1: hashlib.sha256(f"{seed}:{sha1}".encode()).hexdigest())
    )
    for _, names in home.groupby(home):
        order = sorted(names.index, key=rank.get)
        for split, taken in _fill(order, members, quotas).items():
            for cluster in taken:
                result[members[cluster]] = split
    return result


def _fill(order, members, quotas) -> dict[str, list]:
    """Hand a class's clusters, in order, to the splits that still want photos; the rest stays in train."""
    total = sum(len(members[cluster]) for cluster in order)
    taken = {}
    left = list(order)
    for split, share in quotas.items():
        room = max(1, round(total * share))
        taken[split] = []
        for cluster in list(left):
            size = len(members[cluster])
            if (
                size <= room and len(left) > len(quotas) - len(taken) + 1
            ):  # train and the splits to come keep one each
                taken[split].append(cluster)
                left.remove(cluster)
                room -= size
        if not taken[split] and len(order) > len(
            quotas
        ):  # every cluster is larger than the quota: the smallest is nearest to it
            smallest = min(left, key=lambda cluster: len(members[cluster]))
            taken[split].append(smallest)
            left.remove(smallest)
    return taken


def leaks(photos: pd.DataFrame) -> pd.Series:
    """Tell which photos of val and test have a near-duplicate in a split that comes before theirs.

    Args:
        photos: columns `cluster` and `split`.

    Returns:
        `bool` on the same index: a test photo with its cluster also in train or val, a val photo with it in train.
    """
    place = photos.split.map({"train": 0, "val": 1, "test": 2})
    return place > place.groupby(photos.cluster).transform("min")
