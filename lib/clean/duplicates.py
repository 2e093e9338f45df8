"""Near-duplicates: photos of one shot, found without comparing all with all, and joined into clusters.

Three nets are cast: the same bytes (SHA-1), nearly the same perceptual hash, and neighbours by embedding.
No cosine tells a cropped copy from another butterfly of the species in the same pose, so neighbours are
only candidates: two of them are a pair where one can be laid over the other (`lib.clean.registration`).
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from lib.clean import embeddings, registration
from lib.core import cache, progress
from lib.photos import decoding

KINDS = ["exact", "perceptual", "embedding"]
COLUMNS = ["first", "second", "distance", "correlation"]
NEIGHBOURS = 5  # of each photo that are candidates; larger groups are joined through one another
DESCRIBED = 4000  # descriptions of photos that are kept in memory, 12 kB each
AT_ONCE = 2048  # candidates that are handed out at a time
PAIRS_AT_ONCE = 10**6  # of hashes that are compared
MANY_PAIRS = 200_000  # beyond it, only those stay that join the photos into the same clusters
PARTS, BITS = 4, 16  # of a perceptual hash: so many parts of so many bits


def find(
    table: pd.DataFrame,
    images: np.ndarray,
    vectors: np.ndarray | None,
    *,
    folder: Path,
    bits: int = 6,
    cosine: float = 0.5,
    correlation: float = 0.85,
) -> pd.DataFrame:
    """Find the pairs of near-duplicates, or read back what was found among the same photos.

    Args:
        table: the photos to compare: columns `sha1` and `phash` (16 hexadecimal digits). Its index holds
            their rows in `images` and `vectors`, in rising order.
        images: `uint8` of shape `(all, side, side, 3)`, RGB.
        vectors: `float32` of shape `(all, channels)`: what `embeddings.compute` gives by default; `None`
            leaves the third net out.
        folder: keeps the result.
        bits: photos whose hashes differ in at most so many bits are a pair.
        cosine: neighbours are candidates from this cosine up.
        correlation: candidates are a pair from this correlation up, as `registration.correlation`.

    Returns:
        One row per pair, sorted: `first` and `second` (rows, `first < second`), `kind` (the first that
        applies of `exact`, `perceptual` and `embedding`), `distance` (0, the number of bits, or 1 minus
        the cosine) and `correlation` (of `embedding` alone). Of many photos with the same bytes, or the
        same hash, each is paired with the first alone.
    """
    path = folder / f"duplicates-{_key(table, images, vectors, [bits, cosine])}.npz"
    found = cache.arrays(path, lambda: _cast(table, images, vectors, bits, cosine))
    parts = [
        pd.DataFrame(found[kind], columns=COLUMNS[: found[kind].shape[1]]).assign(kind=kind) for kind in KINDS
    ]
    pairs = pd.concat(parts, ignore_index=True).reindex(columns=[*COLUMNS, "kind"])
    pairs = pairs.query("kind != 'embedding' or correlation >= @correlation")
    pairs = pairs.drop_duplicates(["first", "second"]).sort_values(["first", "second"], ignore_index=True)
    pairs = pairs.astype({"first": np.int64, "second": np.int64})
    return pairs[["first", "second", "kind", "distance", "correlation"]]


def _cast(table, images, vectors, bits, cosine) -> dict[str, np.ndarray]:
    """Cast the three nets; each sees of what the one before joined only the first."""
    distinct = table[~table.sha1.duplicated()]
    different = distinct[~distinct.phash.duplicated()]
    near, distances = perceptual(list(different.phash), bits=bits)
    near = different.index.to_numpy(np.int64)[near]
    result = {
        "exact": _copies(table.sha1),
        "perceptual": np.concatenate([_copies(distinct.phash), np.column_stack([near, distances])]),
        "embedding": np.empty((0, len(COLUMNS))),
    }
    if vectors is not None:
        result["embedding"] = _registered(images, different.index.to_numpy(np.int64), vectors, cosine)
    return result


def clusters(pairs: pd.DataFrame, count: int) -> np.ndarray:
    """Join photos that are near-duplicates, directly or through others.

    Args:
        pairs: columns `first` and `second`, positions of photos.
        count: the number of photos.

    Returns:
        `int64` of shape `(count,)`: the number of each photo's cluster, from 0.
    """
    ends = (pairs["first"].to_numpy(np.int64), pairs["second"].to_numpy(np.int64))
    graph = coo_array((np.ones(len(pairs), dtype=bool), ends), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def perceptual(hashes: Sequence[str], *, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of hashes that differ in few bits.

    Two hashes that differ in at most `bits` differ in at most a quarter of that in one of their four parts, and
    such parts are looked up (multi-index hashing: Norouzi, Punjani and Fleet, 2012, https://arxiv.org/abs/1307.2982).
    Where that would take more look-ups than there are pairs, all are compared.

    Args:
        hashes: 64 bits as 16 hexadecimal digits.
        bits: the largest number of bits that differ.

    Returns:
        Positions, `int64` of shape `(pairs, 2)`, the smaller first, sorted; and the number of bits of each.
        Of far more than 200,000 pairs, such as those of a film's frames, only those that the clusters need.
    """
    codes = np.array([int(value, 16) for value in hashes], dtype=np.uint64)
    changes = [
        change for count in range(bits // PARTS + 1) for change in itertools.combinations(range(BITS), count)
    ]
    candidates = _by_parts(codes, changes) if PARTS * len(changes) < len(codes) / 2 else _all(len(codes))
    pairs, distances, found = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], 0
    for first, second in candidates:
        distance = np.bitwise_count(codes[first] ^ codes[second])
        near = (distance <= bits) & (first < second)
        pairs.append(np.column_stack([first[near], second[near]]))
        distances.append(distance[near].astype(np.int64))
        found += len(pairs[-1])
        if found > MANY_PAIRS:
            pairs, distances = ([part] for part in _forest(*_distinct(pairs, distances), len(codes)))
            found = 0
    return _distinct(pairs, distances)


def _distinct(pairs, distances) -> tuple[np.ndarray, np.ndarray]:
    pairs, unique = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return pairs, np.concatenate(distances)[unique]


def _forest(pairs, distances, count) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest pairs that join the photos into the same clusters: fewer than there are photos."""
    lengths = distances + 1.0  # one of 0 would be no edge
    graph = coo_array((lengths, tuple(pairs.T)), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    ends = np.sort(np.column_stack([tree.row, tree.col]).astype(np.int64), axis=1)
    return ends, tree.data.astype(np.int64) - 1


def _all(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each photo with all after it."""
    for first in range(count - 1):
        yield np.full(count - first - 1, first), np.arange(first + 1, count)


def _by_parts(codes, changes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs that have a part of their codes in common but for each of the changes."""
    for part in range(PARTS):
        values = (codes >> np.uint64(part * BITS)).astype(np.uint16)
        order = np.argsort(values, kind="stable")
        ends = np.searchsorted(values[order], np.arange(2**BITS + 1))
        for change in changes:
            wanted = values ^ np.uint16(sum(1 << bit for bit in change))
            starts, counts = ends[wanted], ends[wanted.astype(np.int64) + 1] - ends[wanted]
            portion = counts.cumsum() // PAIRS_AT_ONCE  # where many share a part, so that memory suffices
            for rows in np.split(np.arange(len(codes)), np.flatnonzero(np.diff(portion)) + 1):
                first = np.repeat(rows, counts[rows])
                within = np.arange(len(first)) - np.repeat(counts[rows].cumsum() - counts[rows], counts[rows])
                yield first, order[np.repeat(starts[rows], counts[rows]) + within]


def _key(table, images, vectors, settings) -> str:
    """Return what decides the pairs, as one fingerprint."""
    digest = hashlib.sha256()
    rows = table.index.to_numpy(np.int64) if vectors is not None else []
    for start in range(0, len(rows), AT_ONCE):
        digest.update(np.ascontiguousarray(vectors[rows[start : start + AT_ONCE]]))
    places = table.reset_index()[["index", "sha1", "phash"]].values.tolist()
    content = [images.shape, places, digest.hexdigest(), vectors is None, settings]
    return cache.fingerprint(content, cache.code(__name__))


def _copies(values: pd.Series) -> np.ndarray:
    """Pair each photo with the first of the same value: `(pairs, 3)`, their rows and 0."""
    rows = values.index.to_series()
    first = rows.groupby(values).transform("first")
    copy = first < rows
    return np.column_stack([first[copy], rows[copy], np.zeros(copy.sum())])


def _registered(images, rows, vectors, cosine) -> np.ndarray:
    """Lay neighbours over one another: `(pairs, 4)`, their rows, 1 - cosine and the correlation."""
    some = vectors if len(rows) == len(vectors) else vectors[rows]  # all are read from disk a part at a time
    near, cosines = embeddings.neighbours(some, NEIGHBOURS)
    first, place = np.nonzero((cosines >= cosine) & (near >= 0))
    pairs = np.sort(np.column_stack([first, near[first, place]]), axis=1)
    pairs, unique = np.unique(pairs, axis=0, return_index=True)
    distances = 1 - cosines[first, place][unique]

    @functools.lru_cache(DESCRIBED)
    def described(position, mirrored):
        return registration.describe(images[rows[position]], mirrored=mirrored)

    def compare(pair):
        one, two = pair
        return max(
            registration.correlation(described(one, mirrored), described(two, False))
            for mirrored in (False, True)
        )

    correlations = np.zeros(len(pairs))
    cv2.setNumThreads(1)  # the pool below already uses every core
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress.Bar(len(pairs), "near-duplicates") as bar:
        for start in range(0, len(pairs), AT_ONCE):
            part = pairs[start : start + AT_ONCE]
            correlations[start : start + AT_ONCE] = list(pool.map(compare, part.tolist()))
            decoding.release(images)
            bar.step(len(part))
    return np.column_stack([rows[pairs], distances, correlations])
