"""Find near-duplicates (photos of the same shot) without comparing all pairs, and group them into clusters.

Pairs come from three tests: identical bytes (SHA-1), similar perceptual hashes, and nearest neighbours in
embedding space. The embedding of a cropped copy can be as similar as that of another butterfly of the same
species in the same pose. Neighbours are therefore only candidates: they are a pair if the photos correlate
after alignment (`lib.clean.registration`).
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from lib.clean import embeddings, registration
from lib.core import cache, progress
from lib.photos import decoding

KINDS = ["exact", "perceptual", "embedding"]
COLUMNS = ["first", "second", "distance", "correlation"]
# Number of neighbours of each photo that are candidates. Larger groups are connected indirectly.
NEIGHBOURS = 5
# Number of photos whose features are cached in memory, 12 kB each.
FEATURES_IN_MEMORY = 4000
# Number of candidates that the threads verify at a time.
AT_ONCE = 2048
# Number of pairs of hashes that are compared at a time.
PAIRS_AT_ONCE = 10**6
# Number of pairs above which they are reduced to a spanning forest, which has the same clusters.
MANY_PAIRS = 200_000
# Number of parts of a perceptual hash, and number of bits of each part.
PARTS, BITS = 4, 16


def find(
    table: pd.DataFrame,
    images: np.ndarray,
    *,
    vectors: np.ndarray | None,
    folder: Path,
    bits: int,
    cosine: float,
    correlation: float,
) -> pd.DataFrame:
    """Find the pairs of near-duplicates, or load the stored pairs of the same photos.

    Args:
        table: the photos to compare, with the columns `sha1` and `phash` (16 hexadecimal digits). Its index
            contains their rows in `images` and `vectors`, in ascending order.
        images: `uint8` of shape `(all, side, side, 3)`, RGB.
        vectors: `float32` of shape `(all, channels)`, the result of `embeddings.compute`; if `None`, the
            third test is skipped.
        folder: folder of the cache.
        bits: maximum Hamming distance between the hashes of a pair, 0 to 64.
        cosine: minimum cosine similarity of candidates.
        correlation: minimum correlation of candidates to be a pair, see `registration.correlation`.

    Returns:
        A sorted table with one row per pair: `first` and `second` (rows, `first < second`), `kind` (`exact`,
        `perceptual` or `embedding`, the first that applies), `distance` (0, the Hamming distance, or 1 minus
        the cosine similarity) and `correlation` (NaN unless `kind` is `embedding`). In a group of photos with
        the same bytes or the same hash, each photo is paired only with the first.
    """
    path = folder / f"duplicates-{_key(table, images, vectors=vectors, settings=[bits, cosine])}.npz"
    by_kind = cache.arrays(path, lambda: _search(table, images, vectors=vectors, bits=bits, cosine=cosine))
    parts = [
        pd.DataFrame(by_kind[kind], columns=COLUMNS[: by_kind[kind].shape[1]]).assign(kind=kind)
        for kind in KINDS
    ]
    pairs = pd.concat(parts, ignore_index=True).reindex(columns=[*COLUMNS, "kind"])
    pairs = pairs.query("kind != 'embedding' or correlation >= @correlation")
    pairs = pairs.drop_duplicates(["first", "second"]).sort_values(["first", "second"], ignore_index=True)
    pairs = pairs.astype({"first": np.int64, "second": np.int64})
    return pairs[["first", "second", "kind", "distance", "correlation"]]


def _search(
    table: pd.DataFrame, images: np.ndarray, *, vectors: np.ndarray | None, bits: int, cosine: float
) -> dict[str, np.ndarray]:
    """Return the pairs of each test, `(pairs, 3)` or `(pairs, 4)`; the next test omits exact copies."""
    distinct = table[~table.sha1.duplicated()]
    different = distinct[~distinct.phash.duplicated()]
    rows = different.index.to_numpy(np.int64)
    # (pairs, 2): positions in `rows`, then the rows.
    close, distances = perceptual(list(different.phash), bits=bits)
    close = rows[close]
    result = {
        "exact": _copies(table.sha1),
        "perceptual": np.concatenate([_copies(distinct.phash), np.column_stack([close, distances])]),
        "embedding": np.empty((0, len(COLUMNS))),
    }
    if vectors is not None:
        # If all photos are compared, the vectors are read from disk a part at a time.
        compared = vectors if len(rows) == len(vectors) else vectors[rows]
        candidates, distances = _candidates(compared, cosine=cosine)
        correlations = _verify(images, rows[candidates])
        result["embedding"] = np.column_stack([rows[candidates], distances, correlations])
    return result


def clusters(pairs: pd.DataFrame, count: int) -> np.ndarray:
    """Group photos into clusters: the connected components of the graph of near-duplicates.

    Args:
        pairs: columns `first` and `second`, positions of photos from 0 to `count - 1`.
        count: number of photos.

    Returns:
        `int64` of shape `(count,)`: the index of each photo's cluster, from 0.
    """
    ends = (pairs["first"].to_numpy(np.int64), pairs["second"].to_numpy(np.int64))
    graph = coo_array((np.ones(len(pairs), dtype=bool), ends), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def perceptual(hashes: Sequence[str], *, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of hashes that differ in few bits.

    If two hashes differ in at most `bits` bits, at least one of their four parts differs in at most
    `bits // 4` bits. Candidates with such a part are found by look-up (multi-index hashing: Norouzi, Punjani
    and Fleet, 2012, https://arxiv.org/abs/1307.2982). All pairs are compared if that takes fewer operations.

    Args:
        hashes: 64 bits as 16 hexadecimal digits.
        bits: maximum Hamming distance.

    Returns:
        The sorted pairs of positions, `int64` of shape `(pairs, 2)`, the smaller position first; and their
        Hamming distances, `int64` of shape `(pairs,)`. If there are far more than 200,000 pairs, as among the
        frames of a video, only a subset with the same clusters is returned.
    """
    codes = np.array([int(value, 16) for value in hashes], dtype=np.uint64)
    changes = [
        change for count in range(bits // PARTS + 1) for change in itertools.combinations(range(BITS), count)
    ]
    by_parts = PARTS * len(changes) < len(codes) / 2
    candidates = _candidates_by_parts(codes, changes) if by_parts else _all_pairs(len(codes))
    pairs, distances, count = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], 0
    for first, second in candidates:
        # (candidates,): the Hamming distances.
        distance = np.bitwise_count(codes[first] ^ codes[second])
        near = (distance <= bits) & (first < second)
        pairs.append(np.column_stack([first[near], second[near]]))
        distances.append(distance[near].astype(np.int64))
        count += len(pairs[-1])
        if count > MANY_PAIRS:
            joined, lengths = _forest(*_distinct(pairs, distances), len(codes))
            pairs, distances, count = [joined], [lengths], 0
    return _distinct(pairs, distances)


def _distinct(pairs: list[np.ndarray], distances: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair once, sorted, with its distance."""
    unique, positions = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return unique, np.concatenate(distances)[positions]


def _forest(pairs: np.ndarray, distances: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a minimum spanning forest of the pairs, which has the same clusters."""
    # In a sparse graph, an edge of length 0 does not exist.
    lengths = distances + 1.0
    graph = coo_array((lengths, tuple(pairs.T)), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    ends = np.sort(np.column_stack([tree.row, tree.col]).astype(np.int64), axis=1)
    return ends, tree.data.astype(np.int64) - 1


def _all_pairs(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of each photo with all photos after it."""
    for first in range(count - 1):
        yield np.full(count - first - 1, first), np.arange(first + 1, count)


def _candidates_by_parts(
    codes: np.ndarray, changes: Sequence[tuple[int, ...]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of codes with a part that is equal after one of the changes.

    Args:
        codes: `uint64` of shape `(n,)`.
        changes: numbers of the bits to flip in a part before the look-up.
    """
    for part in range(PARTS):
        # (n,): the value of this part in each code.
        values = (codes >> np.uint64(part * BITS)).astype(np.uint16)
        # (n,): the positions sorted by this value; (65537,): the start of each value, and the end.
        order = np.argsort(values, kind="stable")
        starts_of = np.searchsorted(values[order], np.arange(2**BITS + 1))
        for change in changes:
            # (n,): the value to look up; the start of its codes in this order, and their number.
            keys = (values ^ np.uint16(sum(1 << bit for bit in change))).astype(np.int64)
            starts = starts_of[keys]
            counts = starts_of[keys + 1] - starts
            # (n,): numbers of batches of about a million candidates, to limit the memory.
            batch = counts.cumsum() // PAIRS_AT_ONCE
            for rows in np.split(np.arange(len(codes)), np.flatnonzero(np.diff(batch)) + 1):
                # (candidates,): the positions of the two codes of each candidate pair.
                first = np.repeat(rows, counts[rows])
                before = np.repeat(counts[rows].cumsum() - counts[rows], counts[rows])
                within = np.arange(len(first)) - before
                yield first, order[starts[first] + within]


def _key(
    table: pd.DataFrame, images: np.ndarray, *, vectors: np.ndarray | None, settings: list[float]
) -> str:
    """Return a fingerprint of everything that the pairs depend on."""
    digest = hashlib.sha256()
    if vectors is not None:
        rows = table.index.to_numpy(np.int64)
        for start in range(0, len(rows), AT_ONCE):
            digest.update(vectors[rows[start : start + AT_ONCE]].tobytes())
    photos = table.reset_index()[["index", "sha1", "phash"]].values.tolist()
    content = [images.shape, photos, digest.hexdigest(), vectors is None, settings]
    return cache.fingerprint(content, cache.code(__name__))


def _copies(values: pd.Series) -> np.ndarray:
    """Pair each photo with the first of the same value: `(pairs, 3)`, both rows and a distance of 0."""
    rows = values.index.to_series()
    first = rows.groupby(values).transform("first")
    copy = first < rows
    return np.column_stack([first[copy], rows[copy], np.zeros(copy.sum())])


def _candidates(vectors: np.ndarray, *, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of similar neighbours: positions `(pairs, 2)` and cosine distances `(pairs,)`."""
    # (n, neighbours)
    nearest, cosines = embeddings.neighbours(vectors, NEIGHBOURS)
    # (candidates,): the photo, and the column of its neighbour.
    first, column = np.nonzero((cosines >= cosine) & (nearest >= 0))
    # (candidates, 2): a pair occurs twice if each photo is a neighbour of the other.
    pairs = np.sort(np.column_stack([first, nearest[first, column]]), axis=1)
    return _distinct([pairs], [1 - cosines[first, column]])


def _verify(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair after alignment, also mirrored, `float64` of shape `(pairs,)`.

    Args:
        images: `uint8` of shape `(all, side, side, 3)`, RGB.
        pairs: `int64` of shape `(pairs, 2)`, rows in `images`.
    """

    @functools.lru_cache(FEATURES_IN_MEMORY)
    def features(row: int, mirrored: bool) -> registration.Features:
        return registration.describe(images[row], mirrored=mirrored)

    def compare(pair: tuple[int, int]) -> float:
        first, second = pair
        return max(
            registration.correlation(features(first, mirrored), features(second, False))
            for mirrored in (False, True)
        )

    correlations = np.zeros(len(pairs))
    pool = ThreadPoolExecutor(os.cpu_count())
    with decoding.single_thread(), pool, progress.Bar(len(pairs), "near-duplicates") as bar:
        for start in range(0, len(pairs), AT_ONCE):
            part = pairs[start : start + AT_ONCE]
            correlations[start : start + AT_ONCE] = list(pool.map(compare, part.tolist()))
            decoding.release(images)
            bar.step(len(part))
    return correlations
