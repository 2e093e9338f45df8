"""Divide photos into train, val and test so that no unit (near-duplicates, or a group) is in two of them."""

import hashlib
from collections.abc import Hashable

import numpy as np
import pandas as pd

# Number of photos from which a unit is large.
LARGE = 10
# Fraction of the photos in large units, or in units of several classes, above which they are balanced.
MANY = 0.25
# Maximum size of a large unit in val or test, relative to the quota.
OVERSIZE = 1.5
# Number of units of a class that are enough for three splits.
ENOUGH = 3
# Maximum number of rounds in which units of several classes are moved.
ROUNDS = 20
# Cost of a class that is missing in a split; the other costs of a class are at most 4.
MISSING = 10
# Minimum improvement of a move, above the rounding errors of the costs.
TOLERANCE = 1e-9


def units(photos: pd.DataFrame) -> pd.Series:
    """Join clusters of near-duplicates and groups: photos that are connected by either are one unit.

    Args:
        photos: columns `cluster` and `group` (empty for a photo without a group).

    Returns:
        The number of each photo's unit, `int64` on the same index.
    """
    # Imported here because `check` needs none of it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cluster = pd.factorize(photos.cluster)[0]
    named = photos.group.ne("").to_numpy()
    group, names = pd.factorize(photos.group[named])
    count = int(cluster.max(initial=-1)) + 1
    ends = (cluster[named], count + group)
    shape = (count + len(names), count + len(names))
    graph = coo_array((np.ones(len(group), dtype=bool), ends), shape=shape)
    components = connected_components(graph, directed=False)[1].astype(np.int64)
    return pd.Series(components[cluster], photos.index)


def assign(photos: pd.DataFrame, *, val: float, test: float, seed: int, earlier: pd.Series) -> pd.Series:
    """Assign each labelled photo to a split.

    Within a class, whole units are assigned to test and then to val until the class's quota is filled,
    in an order drawn from the seed and the photos' content: it depends neither on file names nor on the
    order of the rows. If large units, such as the frames of a film, hold many photos of the class, the
    fractions of photos and of units are balanced, and units that are much larger than the quota are in train.
    A unit with several classes is assigned as its most frequent class; if there are many such units, they are
    then moved as long as the fractions of the classes improve.

    Photos keep their previous split, and new photos fill the quotas. If new photos connect units of different
    splits, the merged unit gets the split that most of its photos had; in a tie, train, then val.

    Args:
        photos: columns `label`, `sha1`, `unit` and `split` (the split that the source defines, or empty).
        val, test: fractions of each class. No photos are added to a split that the source defines.
        seed: seed of the random order.
        earlier: the previous split of each photo, empty for new photos, on the same index.

    Returns:
        `train`, `val` or `test` for each row, on the same index. A class with fewer than three units may
        be missing in val or test; a class with a single photo is in train.
    """
    fixed = set(photos.split) - {""}
    fractions = {"test": test, "val": val}
    quotas = {split: fraction for split, fraction in fractions.items() if split not in fixed and fraction}
    result = photos.split.where(photos.split.ne(""), "train")
    free = photos[result.eq("train")]
    table = free.groupby("unit").agg(sha1=("sha1", "min"), size=("sha1", "size"))
    table["label"] = _most_frequent(free.unit, free.label, order=sorted(set(free.label)))
    table["rank"] = [hashlib.sha256(f"{seed}:{sha1}".encode()).hexdigest() for sha1 in table.sha1]
    table = table.sort_values("rank")
    before = earlier[free.index]
    before = before[before.isin(["train", *quotas])]
    kept = _most_frequent(free.unit[before.index], before, order=["train", "val", "test"])
    table["kept"] = table["split"] = kept.reindex(table.index, fill_value="")
    counts = free.groupby(["unit", "label"]).size().rename("photos").reset_index()
    present = counts.unit.map(table.kept).groupby(counts.label).agg(set)
    for label, group in table.groupby("label"):
        table.loc[group.index, "split"] = group.index.map(_fill(group, quotas, present=present[label]))
    if quotas and len(counts):
        table["split"] = _balance(table, counts, quotas=quotas)
    result[free.index] = free.unit.map(table["split"])
    return result


def _most_frequent(units: pd.Series, values: pd.Series, *, order: list[str]) -> pd.Series:
    """Return the most frequent value of each unit; in a tie, the first in order."""
    table = pd.DataFrame({"unit": units, "value": pd.Categorical(values, order)})
    counts = table.groupby(["unit", "value"], observed=True).size().rename("n").reset_index()
    counts = counts.sort_values(["unit", "n", "value"], ascending=[True, False, True])
    return counts.drop_duplicates("unit").set_index("unit").value.astype(str)


def _fill(units: pd.DataFrame, quotas: dict[str, float], *, present: set[str]) -> dict[Hashable, str]:
    """Assign the units of a class, in order, to the splits below their quota, and the rest to train.

    Args:
        units: columns `size` (photos) and `kept` (the split that a unit keeps, or empty).
        quotas: fraction of the class's photos for each split.
        present: splits that keep a photo of the class, also in units of another most frequent class.

    Returns:
        The split of each unit, by the index of `units`.
    """
    sizes, kept = units["size"].to_dict(), units["kept"].to_dict()
    result = dict(kept)
    remaining = [unit for unit, split in kept.items() if not split]
    has_train = "train" in kept.values()
    for number, (split, fraction) in enumerate(quotas.items(), start=1):
        members = [unit for unit, before in kept.items() if before == split]
        empty = [name for name in list(quotas)[number:] if name not in kept.values()]
        # One unit is reserved for train and for each later split.
        available = len(remaining) - len(empty) - (not has_train)
        chosen = _chosen(sizes, remaining, members=members, fraction=fraction)[: max(available, 0)]
        if not chosen and not members and available > 0 and len(sizes) > len(quotas):
            # Every unit is larger than the quota: the smallest is closest to it.
            chosen = [min(remaining, key=lambda unit: sizes[unit])]
        in_train = [unit for unit, before in kept.items() if before == "train"]
        if not chosen and split not in present and len(in_train) > 1 and len(sizes) > len(quotas):
            # All units are assigned, for example after a user has excluded the only photo of the split.
            chosen = [min(in_train, key=lambda unit: sizes[unit])]
            kept = kept | dict.fromkeys(chosen, split)
        result |= dict.fromkeys(chosen, split)
        remaining = [unit for unit in remaining if not result[unit]]
    return result | dict.fromkeys(remaining, "train")


def _chosen(
    sizes: dict[Hashable, int], remaining: list[Hashable], *, members: list[Hashable], fraction: float
) -> list[Hashable]:
    """Return the units, in order, that a split with some members takes of those that remain.

    A unit is taken if it fits into the quota of photos. If large units hold many of the photos, a unit is
    taken if the fractions of photos and of units, together, are then closer to that of the split.
    """
    total = sum(sizes.values())
    quota = max(1, round(total * fraction))
    balanced = sum(size for size in sizes.values() if size >= LARGE) > MANY * total

    def distance(photos: int, units: int) -> float:
        return (photos / total - fraction) ** 2 + (units / len(sizes) - fraction) ** 2

    chosen: list[Hashable] = []
    photos, units = sum(sizes[unit] for unit in members), len(members)
    for unit in remaining:
        after = photos + sizes[unit]
        closer = sizes[unit] <= OVERSIZE * quota and distance(after, units + 1) < distance(photos, units)
        if closer if balanced else after <= quota:
            chosen.append(unit)
            photos, units = after, units + 1
    return chosen


def _balance(units: pd.DataFrame, counts: pd.DataFrame, *, quotas: dict[str, float]) -> pd.Series:
    """Move new units of several classes between splits while the fractions of their classes improve.

    Nothing is moved if there are few such units, unless a class of three or more units is missing in a split.

    Args:
        units: columns `split` and `kept` (the split that a unit keeps, or empty), in the order of the moves.
        counts: columns `unit`, `label` and `photos`, one row per class of a unit.
        quotas: fraction of each class's photos for each split.

    Returns:
        The split of each unit, on the index of `units`.
    """
    names = ["train", *quotas]
    fractions = np.array([[1 - sum(quotas.values())], *[[fraction] for fraction in quotas.values()]])
    split = {unit: names.index(name) for unit, name in units["split"].items()}
    label = pd.factorize(counts.label)[0]
    # (rows, 2), (classes, splits, 2): numbers of photos and of units.
    sizes = np.column_stack([counts.photos, np.ones(len(counts), np.int64)])
    held = np.zeros((label.max() + 1, len(names), 2), np.int64)
    np.add.at(held, (label, counts.unit.map(split)), sizes)
    totals = held.sum(axis=1, keepdims=True)

    def cost(classes: np.ndarray, values: np.ndarray) -> float:
        missing = (values[..., 0] == 0) & (totals[classes, :, 1] >= ENOUGH)
        return ((values / totals[classes] - fractions) ** 2).sum() + MISSING * missing.sum()

    several = counts.unit.duplicated(keep=False).to_numpy()
    lacking = (held[..., 0] == 0).any(axis=1) & (totals[:, 0, 1] >= ENOUGH)
    if counts.photos[several].sum() <= MANY * counts.photos.sum() and not lacking.any():
        return units["split"]
    movable = np.isin(label, label[several]) & counts.unit.map(units.kept).eq("").to_numpy()
    rows_of = pd.Series(np.flatnonzero(movable)).groupby(counts.unit.to_numpy()[movable]).agg(np.array)
    for _ in range(ROUNDS):
        before = dict(split)
        for unit in units.index[units.index.isin(rows_of.index)]:
            classes, values = label[rows_of[unit]], sizes[rows_of[unit]]
            without = held[classes]
            without[:, split[unit]] -= values
            trials = np.repeat(without[None], len(names), axis=0)
            trials[np.arange(len(names)), :, np.arange(len(names))] += values
            costs = [cost(classes, trial) for trial in trials]
            best = int(np.argmin(costs))
            if costs[best] < costs[split[unit]] - TOLERANCE:
                split[unit] = best
                held[classes] = trials[best]
        if split == before:
            break
    return units.index.to_series().map(split).map(dict(enumerate(names)))


def leaks(photos: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return masks of the val and test photos with a near-duplicate, or their group, in an earlier split.

    Args:
        photos: columns `cluster`, `group` (empty for a photo without a group) and `split`.

    Returns:
        Two `bool` masks on the same index. The first is True for test photos whose cluster is also in train
        or val, and for val photos whose cluster is also in train; the second for groups instead of clusters.
    """
    order = photos.split.map({"train": 0, "val": 1, "test": 2})
    near = order > order.groupby(photos.cluster).transform("min")
    grouped = order > order.groupby(photos.group).transform("min")
    return near, grouped & photos.group.ne("")
