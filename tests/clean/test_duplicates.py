"""Near-duplicates: the three tests, the pairs that a search of all pairs finds, and clusters of them."""

import itertools
import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest

from lib.clean import duplicates, registration
from lib.photos import decoding


def drawn(seed, side=160):
    """Draw a photo with corners and edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def table_of(images, sha1=None):
    """Describe photos as `decoding.scan` does."""
    hashes = [decoding.perceptual_hash(image) for image in images]
    return pd.DataFrame({"sha1": sha1 or [f"{row:040x}" for row in range(len(images))], "phash": hashes})


@pytest.fixture
def shots():
    """Nine photos: 0 to 3 unrelated, of 0 its file, a resized copy, its mirror image, a crop; a black one."""
    first = drawn(0)
    small = cv2.resize(cv2.resize(first, (80, 80), interpolation=cv2.INTER_AREA), (160, 160))
    crop = cv2.resize(first[:130, 30:], (160, 160))
    images = np.stack(
        [first, drawn(1), drawn(2), drawn(3), first, small, first[:, ::-1], crop, np.zeros_like(first)]
    )
    table = table_of(images, ["a", "b", "c", "d", "a", "e", "f", "g", "h"])
    # All cosines are high.
    vectors = np.random.default_rng(0).uniform(0, 1, (9, 8)).astype(np.float32)
    return table, images, vectors


def find(shots, folder, *, bits=6, cosine=0.5, correlation=0.85):
    table, images, vectors = shots
    return duplicates.find(
        table, images, vectors=vectors, folder=folder, bits=bits, cosine=cosine, correlation=correlation
    )


def kinds(pairs):
    return {(pair.first, pair.second): pair.kind for pair in pairs.itertuples()}


def test_the_first_test_that_a_pair_passes(shots, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)
    pairs = find(shots, tmp_path, cosine=0)
    kind_of = kinds(pairs)
    assert kind_of[0, 4] == "exact" and kind_of[0, 5] == "perceptual"
    # Of the photos of one hash only the first is compared.
    copies = {(0, 4), (0, 5), *itertools.combinations([0, 6, 7], 2)}
    assert set(kind_of) == copies
    assert {kind_of[pair] for pair in copies - {(0, 4), (0, 5)}} == {"embedding"}
    assert list(pairs.columns) == ["first", "second", "kind", "distance", "correlation"]
    assert pairs[["first", "second"]].values.tolist() == sorted(map(list, copies))
    assert pairs.correlation.notna().tolist() == pairs.kind.eq("embedding").tolist()


def test_distances(shots, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)
    table, images, vectors = shots
    pairs = find(shots, tmp_path, cosine=0).set_index(["first", "second"])
    assert pairs.distance[0, 4] == 0
    assert pairs.distance[0, 5] == (int(table.phash[0], 16) ^ int(table.phash[5], 16)).bit_count()
    cosine = vectors[0] @ vectors[6] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[6])
    assert pairs.distance[0, 6] == pytest.approx(1 - cosine, abs=1e-6)
    expected = registration.correlation(
        registration.describe(images[0], mirrored=True), registration.describe(images[6], mirrored=False)
    )
    assert pairs.correlation[0, 6] == expected > 0.99


def test_rows_are_those_of_the_index(shots, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)
    table, images, vectors = shots
    some = table.iloc[[2, 4, 5, 7, 8]]
    assert kinds(find((some, images, vectors), tmp_path, cosine=0)) == {
        (4, 5): "perceptual",
        (4, 7): "embedding",
    }


def test_every_candidate_is_verified_in_batches_of_any_size(shots, tmp_path, monkeypatch):
    table, images, vectors = shots
    assert kinds(find((table.iloc[[0, 7]], images, vectors), tmp_path / "two")) == {(0, 7): "embedding"}
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)
    expected = find(shots, tmp_path / "whole", cosine=0)
    monkeypatch.setattr(duplicates, "AT_ONCE", 2)
    pd.testing.assert_frame_equal(find(shots, tmp_path / "parts", cosine=0), expected)


def test_thresholds(shots, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)

    def search(**thresholds):
        pairs = find(shots, tmp_path, **({"cosine": 0} | thresholds))
        return {kind: set(pairs[pairs.kind.eq(kind)].index) for kind in duplicates.KINDS}

    usual = search()
    assert not search(cosine=1.01)["embedding"] and not search(correlation=1.01)["embedding"]
    assert search(correlation=1.01)["perceptual"] and search(bits=0)["exact"] == usual["exact"]
    assert len(search(correlation=-1)["embedding"]) == 7 * 6 // 2
    assert len(search(bits=64)["perceptual"]) == 7 * 6 // 2 + 1


def test_a_second_search_is_read_back(shots, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 8)
    table, images, vectors = shots
    first = find(shots, tmp_path, cosine=0)

    def called(*_, **__):
        raise AssertionError("searched again")

    monkeypatch.setattr(duplicates, "_verify", called)
    pd.testing.assert_frame_equal(find(shots, tmp_path, cosine=0), first)
    for changed in (
        (table.assign(sha1="x"), images, vectors),
        (table, images, vectors + 1),
        (table[1:], images, vectors),
    ):
        with pytest.raises(AssertionError, match="searched again"):
            find(changed, tmp_path, cosine=0)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count, tmp_path):
    images = np.stack([drawn(0)])[:count]
    table = table_of(images) if count else pd.DataFrame({"sha1": [], "phash": []}, dtype=str)
    vectors = np.ones((count, 4), np.float32)
    pairs = find((table, images.reshape(count, 160, 160, 3), vectors), tmp_path)
    assert pairs.empty and duplicates.clusters(pairs, count).tolist() == [0] * count


def test_many_copies_of_one_file_are_paired_with_the_first(tmp_path):
    images = np.stack([drawn(seed) for seed in range(6)])
    table = table_of(images, ["b", "a", "b", "c", "a", "b"])
    pairs = find((table, images, np.eye(6, dtype=np.float32)), tmp_path)
    assert kinds(pairs) == dict.fromkeys([(0, 2), (0, 5), (1, 4)], "exact")


def test_without_vectors_there_are_no_pairs_by_embedding(shots, tmp_path):
    table, images, _ = shots
    pairs = find((table, images, None), tmp_path)
    assert kinds(pairs) == {(0, 4): "exact", (0, 5): "perceptual"}


def test_photos_that_all_look_alike_do_not_fill_the_memory(tmp_path):
    count = 4000
    hashes = [f"{number % 8:016x}" for number in range(count)]
    table = pd.DataFrame({"sha1": [f"{row:040x}" for row in range(count)], "phash": hashes})
    tracemalloc.start()
    pairs = find((table, np.zeros((count, 1, 1, 3), np.uint8), None), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not duplicates.clusters(pairs, count).any()
    # All pairs take 256 MB.
    assert peak < 60e6


# Perceptual hashes


def random_hashes(random, count, *, families, flips):
    """Draw hashes around a few centres, each with some bits flipped."""
    centres = random.integers(0, 2**63, families, dtype=np.uint64)
    hashes = []
    for _ in range(count):
        value = int(random.choice(centres))
        for bit in random.choice(64, random.integers(0, flips + 1), replace=False):
            value ^= 1 << int(bit)
        hashes.append(f"{value:016x}")
    return hashes


@pytest.mark.parametrize("bits", [0, 3, 4, 6, 7, 8, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 40, 300])
def test_perceptual_pairs_are_those_of_a_brute_force_search(bits, count):
    hashes = random_hashes(np.random.default_rng(bits + count), count, families=max(1, count // 8), flips=6)
    expected = {}
    for one, two in itertools.combinations(range(count), 2):
        distance = (int(hashes[one], 16) ^ int(hashes[two], 16)).bit_count()
        if distance <= bits:
            expected[one, two] = distance
    pairs, distances = duplicates.perceptual(hashes, bits=bits)
    assert list(map(tuple, pairs.tolist())) == sorted(expected)
    assert distances.tolist() == [expected[pair] for pair in sorted(expected)]
    assert pairs.dtype == distances.dtype == np.int64


def test_a_part_that_all_have_in_common_is_looked_up_in_portions(monkeypatch):
    hashes = [f"{number:04x}{number:04x}{number:04x}0000" for number in range(100)]
    expected = duplicates.perceptual(hashes, bits=3)
    sizes = []

    def counted(codes, changes, by_parts=duplicates._candidates_by_parts):
        for first, second in by_parts(codes, changes):
            sizes.append(len(first))
            yield first, second

    monkeypatch.setattr(duplicates, "_candidates_by_parts", counted)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 500)
    pairs, distances = duplicates.perceptual(hashes, bits=3)
    assert max(sizes) <= 600 and sum(sizes) >= 100 * 100
    assert np.array_equal(pairs, expected[0]) and np.array_equal(distances, expected[1])


def test_parts_are_looked_up_if_that_is_less_work(monkeypatch):
    hashes = random_hashes(np.random.default_rng(0), 300, families=30, flips=6)
    # With 20 bits this would take 4 x 6,885 look-ups, with 6 bits it takes 4 x 17.
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_candidates_by_parts", None)
        all_pairs, _ = duplicates.perceptual(hashes, bits=20)
    monkeypatch.setattr(duplicates, "_all_pairs", None)
    pairs, _ = duplicates.perceptual(hashes, bits=6)
    assert 0 < len(pairs) < len(all_pairs)


def test_a_look_up_of_parts_has_few_candidates():
    codes = np.random.default_rng(0).integers(0, 2**63, 300, dtype=np.uint64)
    candidates = [first for first, _ in duplicates._candidates_by_parts(codes, [()])]
    # Each of the 300 codes has each of its four parts in common with itself and with hardly any other.
    assert 4 * 300 <= sum(map(len, candidates)) < 4 * 310


@pytest.mark.parametrize("count", [60, 200])
def test_of_too_many_pairs_those_stay_that_the_clusters_need(count, monkeypatch):
    hashes = random_hashes(np.random.default_rng(count), count, families=4, flips=3)
    every = pd.DataFrame(duplicates.perceptual(hashes, bits=6)[0], columns=["first", "second"])
    monkeypatch.setattr(duplicates, "MANY_PAIRS", 20)
    pairs, distances = duplicates.perceptual(hashes, bits=6)
    few = pd.DataFrame(pairs, columns=["first", "second"])
    assert len(few) < count + 21 * count // 20 < len(every)
    assert duplicates.clusters(few, count).tolist() == duplicates.clusters(every, count).tolist()
    for (first, second), distance in zip(pairs, distances, strict=True):
        assert first < second and distance == (int(hashes[first], 16) ^ int(hashes[second], 16)).bit_count()


def test_frames_of_a_film_do_not_fill_the_memory():
    random = np.random.default_rng(0)
    hashes = {
        f"{sum(1 << int(bit) for bit in random.choice(64, 3, replace=False)):016x}" for _ in range(3000)
    }
    tracemalloc.start()
    pairs, _ = duplicates.perceptual(sorted(hashes), bits=6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All pairs take 900 MB.
    assert peak < 250e6
    assert not duplicates.clusters(pd.DataFrame(pairs, columns=["first", "second"]), len(hashes)).any()


# Clusters


def test_clusters_join_what_is_joined_through_others():
    pairs = pd.DataFrame({"first": [0, 2, 4], "second": [2, 5, 6]})
    numbers = duplicates.clusters(pairs, 7)
    assert numbers.dtype == np.int64 and set(numbers.tolist()) == {0, 1, 2, 3}
    groups = {frozenset(np.flatnonzero(numbers == number).tolist()) for number in set(numbers.tolist())}
    assert groups == {frozenset({0, 2, 5}), frozenset({4, 6}), frozenset({1}), frozenset({3})}
