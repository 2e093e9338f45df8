"""Splits: near-duplicates stay together, quotas are met, and neither names nor order decide."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from lib.clean import splits

# Assignment


def assign(photos, earlier=None, **options):
    """Assign splits to photos that had none before, or to those that had."""
    before = pd.Series("", photos.index) if earlier is None else earlier
    return splits.assign(photos, earlier=before, **options)


def table(random, classes=5, *, largest=40):
    """Draw labelled photos in clusters of one to three; now and then a cluster spans two classes."""
    rows, cluster = [], 0
    for label in range(classes):
        for _ in range(int(random.integers(1, largest))):
            for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
                stray = random.random() < 0.02
                rows.append(
                    (f"c{(label + 1) % classes if stray else label}", random.bytes(20).hex(), cluster)
                )
            cluster += 1
    return pd.DataFrame(rows, columns=["label", "sha1", "unit"]).assign(split="")


def test_assign_keeps_its_promises_on_random_tables():
    for seed in range(10):
        random = np.random.default_rng(seed)
        photos = table(random)
        assigned = assign(photos, val=0.2, test=0.1, seed=seed)
        assert assigned.index.equals(photos.index) and set(assigned) <= {"train", "val", "test"}
        assert assigned.groupby(photos.unit).nunique().max() == 1, "a cluster is in two splits"
        home = photos.groupby("unit").label.agg(lambda labels: labels.mode().iloc[0])
        for label, names in home.groupby(home):
            mine = assigned[photos.unit.isin(names.index)]
            n, counts = len(mine), mine.value_counts()
            assert counts.get("train", 0) >= 1, (seed, label)
            for split, fraction in (("val", 0.2), ("test", 0.1)):
                if len(names) >= 3:
                    assert counts.get(split, 0) >= 1, (seed, label, split)
                assert counts.get(split, 0) <= max(3, round(n * fraction)), (
                    "more than its quota, or one cluster of three"
                )
                if len(names) >= 20:
                    assert abs(counts.get(split, 0) - n * fraction) <= 2.5, (seed, label, split)


def test_assign_gives_each_class_of_three_clusters_val_and_test():
    for size in range(3, 30):
        photos = pd.DataFrame(
            {"label": "a", "sha1": [f"{i:040x}" for i in range(size)], "unit": range(size), "split": ""}
        )
        counts = assign(photos, val=0.15, test=0.15, seed=1).value_counts()
        assert counts["val"] == counts["test"] == max(1, round(size * 0.15)) and counts.sum() == size


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3, 3), (1, 2, 3), (5, 4, 4), (2, 2, 2, 2)])
def test_a_class_of_three_large_clusters_still_has_val_and_test(sizes):
    clusters = [number for number, size in enumerate(sizes) for _ in range(size)]
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(len(clusters))], "unit": clusters, "split": ""}
    )
    for seed in range(10):
        assert set(assign(photos, val=0.15, test=0.15, seed=seed)) == {"train", "val", "test"}, seed


def test_assign_of_very_small_classes():
    photos = pd.DataFrame({"label": ["a", "b", "b"], "sha1": ["1", "2", "3"], "unit": [0, 1, 2], "split": ""})
    assigned = assign(photos, val=0.4, test=0.4, seed=0)
    assert assigned[0] == "train" and "train" in set(assigned[1:])


def test_assign_without_a_test_split():
    photos = table(np.random.default_rng(3))
    assert set(assign(photos, val=0.2, test=0, seed=0)) == {"train", "val"}


def test_assign_depends_on_neither_order_nor_index():
    photos = table(np.random.default_rng(4))
    assigned = assign(photos, val=0.2, test=0.2, seed=7)
    order = np.random.default_rng(5).permutation(len(photos))
    shuffled = photos.iloc[order].reset_index(drop=True)
    again = assign(shuffled, val=0.2, test=0.2, seed=7)
    assert (again.to_numpy() == assigned.to_numpy()[order]).all()
    renumbered = photos.assign(unit=photos.unit.max() - photos.unit)
    assert (assign(renumbered, val=0.2, test=0.2, seed=7) == assigned).all()


def test_assign_depends_on_the_seed_alone():
    photos = table(np.random.default_rng(6))
    first = assign(photos, val=0.2, test=0.2, seed=1)
    assert (assign(photos, val=0.2, test=0.2, seed=1) == first).all()
    assert (assign(photos, val=0.2, test=0.2, seed=2) != first).any()


def test_one_more_class_changes_nothing_for_the_others():
    photos = table(np.random.default_rng(8), classes=3)
    more = pd.DataFrame(
        {"label": "new", "sha1": [f"{i:040x}" for i in range(9)], "unit": range(1000, 1009), "split": ""}
    )
    both = assign(pd.concat([photos, more], ignore_index=True), val=0.2, test=0.2, seed=1)
    assert (both[: len(photos)] == assign(photos, val=0.2, test=0.2, seed=1)).all()


def test_splits_that_the_source_fixes_stay():
    photos = table(np.random.default_rng(9))
    photos.loc[:9, "split"] = "test"
    assigned = assign(photos, val=0.2, test=0.2, seed=1)
    assert (assigned[:10] == "test").all() and set(assigned[10:]) == {"train", "val"}
    photos["split"] = np.resize(["train", "val", "test"], len(photos))
    assert (assign(photos, val=0.2, test=0.2, seed=1) == photos.split).all()


def test_val_is_taken_from_a_train_that_the_source_fixes():
    photos = table(np.random.default_rng(10)).assign(split="train")
    photos.loc[photos.index[::7], "split"] = "test"
    assigned = assign(photos, val=0.2, test=0.2, seed=1)
    assert (assigned[photos.split.eq("test")] == "test").all()
    assert set(assigned[photos.split.eq("train")]) == {"train", "val"}
    free = photos[photos.split.eq("train")]
    assert assigned[free.index].groupby(free.unit).nunique().max() == 1


def test_a_cluster_of_two_classes_goes_where_its_largest_class_goes():
    photos = pd.DataFrame({"label": ["a", "a", "b"], "sha1": ["1", "2", "3"], "unit": [0, 0, 0], "split": ""})
    assert set(assign(photos, val=0.2, test=0.2, seed=1)) == {"train"}


# Photos that are added later


def test_photos_keep_their_split_when_others_are_added():
    for seed in range(5):
        random = np.random.default_rng(20 + seed)
        photos = table(random)
        first = assign(photos, val=0.2, test=0.1, seed=seed)
        more = table(random)
        more["unit"] += photos.unit.max() + 1
        both = pd.concat([photos, more], ignore_index=True)
        earlier = first.reindex(both.index, fill_value="")
        second = assign(both, val=0.2, test=0.1, seed=seed, earlier=earlier)
        assert (second[: len(photos)] == first).all()
        home = both.groupby("unit").label.agg(lambda labels: labels.mode().iloc[0])
        for label, names in home.groupby(home):
            mine = second[both.unit.isin(names.index)]
            if len(names) >= 40:
                for split, fraction in (("val", 0.2), ("test", 0.1)):
                    assert abs(mine.eq(split).sum() - len(mine) * fraction) <= 2.5, (seed, label, split)


def test_a_cluster_that_new_photos_join_across_splits_goes_where_most_of_it_was():
    rows = [
        ("train", 0, "train"), ("", 0, "train"), ("test", 0, "train"), ("train", 0, "train"),
        ("val", 1, "val"), ("test", 1, "val"), ("val", 1, "val"),
        ("test", 2, "train"), ("train", 2, "train"),
        ("test", 3, "test"), ("test", 3, "test"), ("", 3, "test"),
        ("train", 4, "train"), ("train", 5, "train"), ("train", 6, "train"), ("train", 7, "train"),
    ]  # fmt: skip
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(len(rows))], "unit": [c for _, c, _ in rows]}
    ).assign(split="")
    earlier = pd.Series([before for before, _, _ in rows])
    assigned = assign(photos, val=0.2, test=0.2, seed=0, earlier=earlier)
    assert assigned.tolist() == [after for _, _, after in rows]


def test_a_split_that_is_no_longer_wanted_is_not_kept():
    photos = table(np.random.default_rng(30))
    first = assign(photos, val=0.2, test=0.2, seed=1)
    second = assign(photos, val=0.2, test=0, seed=1, earlier=first)
    assert set(second) == {"train", "val"} and (second[first.eq("val")] == "val").all()


def test_leaks_by_hand():
    rows = [
        (0, "train", False), (0, "val", True), (0, "test", True),
        (1, "val", False), (1, "test", True), (1, "test", True),
        (2, "test", False), (2, "test", False),
        (3, "train", False), (3, "train", False),
        (4, "val", False),
    ]  # fmt: skip
    photos = pd.DataFrame(
        [row[:2] for row in rows], columns=["cluster", "split"], index=range(50, 50 + len(rows))
    )
    expected = [leak for _, _, leak in rows]
    near, grouped = splits.leaks(photos.assign(group=""))
    assert near.index.equals(photos.index) and near.tolist() == expected and not grouped.any()
    names = photos.assign(cluster=range(len(rows)), group=photos.cluster.map("patient {}".format))
    near, grouped = splits.leaks(names)
    assert grouped.index.equals(photos.index) and grouped.tolist() == expected and not near.any()


def test_a_split_that_lost_its_only_photo_gets_another():
    photos = pd.DataFrame({"label": "a", "sha1": [f"{i:040x}" for i in range(6)], "unit": range(6)}).assign(
        split=""
    )
    # A person has excluded the photo of val.
    earlier = pd.Series(["train"] * 5 + ["test"])
    assigned = assign(photos, val=0.15, test=0.15, seed=0, earlier=earlier)
    assert assigned.value_counts().to_dict() == {"train": 4, "val": 1, "test": 1} and assigned[5] == "test"
    two = assign(photos[:2], val=0.15, test=0.15, seed=0, earlier=earlier[:2])
    # Too few photos for three splits.
    assert two.tolist() == ["train", "train"]


def test_train_never_loses_its_only_cluster_to_an_empty_split():
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(3)], "unit": range(3), "split": ""}
    )
    earlier = pd.Series(["train", "test", "test"])
    assert assign(photos, val=0.15, test=0.15, seed=0, earlier=earlier).tolist() == ["train", "test", "test"]


# Units: near-duplicates and groups


def photos_of(*sizes, label="a"):
    """Return the photos of a class, in units of these sizes."""
    units = [number for number, size in enumerate(sizes) for _ in range(size)]
    sha1 = [f"{label}{number}".encode().hex().rjust(40, "0") for number in range(len(units))]
    return pd.DataFrame({"label": label, "sha1": sha1, "unit": units, "split": ""})


def cameras(random, count):
    """Draw photos of eight animals by cameras: each sees some of them, the last animals rarely."""
    rows = [
        (f"animal {animal}", camera)
        for camera in range(count)
        for animal in range(8)
        if random.random() < 0.9 - animal / 10
        for _ in range(int(random.integers(1, 30)))
    ]
    photos = pd.DataFrame(rows, columns=["label", "unit"]).assign(split="")
    return photos.assign(sha1=[random.bytes(20).hex() for _ in rows])


def test_units_connect_clusters_and_groups():
    photos = pd.DataFrame(
        {
            "cluster": [0, 0, 1, 2, 3, 4, 5, 6],
            "group": ["", "p", "p", "q", "q", "", "", "r"],
        },
        index=range(10, 18),
    )
    units = splits.units(photos)
    assert units.index.equals(photos.index)
    assert pd.factorize(units)[0].tolist() == [0, 0, 0, 1, 1, 2, 3, 4]


def test_without_groups_the_units_are_the_clusters():
    photos = table(np.random.default_rng(50)).rename(columns={"unit": "cluster"}).assign(group="")
    assert photos.groupby(splits.units(photos)).cluster.nunique().eq(1).all()
    assert splits.units(photos).nunique() == photos.cluster.nunique()


def test_photos_without_large_units_have_the_splits_of_version_0_1():
    digest = hashlib.sha256()
    for seed in range(24):
        random = np.random.default_rng(seed)
        photos = table(random, largest=int(random.integers(3, 60)))
        if seed % 4 == 1:
            photos.loc[photos.index[::7], "split"] = "test"
        val, test = [(0.15, 0.15), (0.2, 0.1), (0.2, 0), (0.3, 0.2)][seed // 4 % 4]
        assigned = assign(photos, val=val, test=test, seed=seed)
        kept = assigned.where(random.random(len(photos)) < 0.6, "")
        digest.update("".join(assigned).encode())
        digest.update("".join(assign(photos, val=val, test=test, seed=seed, earlier=kept)).encode())
    assert digest.hexdigest()[:16] == "a008cea3b74f5557"


@pytest.mark.parametrize("large", [(240,), (500,), (120, 120), (80, 80, 80), (60,), (40,), (12,), (240, 20)])
def test_a_film_is_in_train_and_leaves_enough_of_the_other_photos_there(large):
    photos = photos_of(*large, *[1] * 30)
    for seed in range(5):
        assigned = assign(photos, val=0.15, test=0.15, seed=seed)
        others = assigned[photos.unit >= len(large)].value_counts()
        assert others["train"] >= 18 and others["val"] >= 4 and others["test"] >= 4
        assert (assigned[photos.unit.eq(0)] == "train").all()


def test_large_units_of_similar_size_are_divided_too():
    for sizes in ([54] * 5 + [1] * 6, [30] * 12, [10, 20, 30, 40, 50, 60] * 3):
        for seed in range(5):
            assigned = assign(photos_of(*sizes), val=0.15, test=0.15, seed=seed)
            fractions = assigned.value_counts(normalize=True)
            assert 0.08 <= fractions["val"] <= 0.25 and 0.08 <= fractions["test"] <= 0.25, (sizes, seed)


def test_units_of_many_classes_are_balanced_in_each_class():
    for seed in range(4):
        random = np.random.default_rng(60 + seed)
        photos = cameras(random, 30)
        assigned = assign(photos, val=0.15, test=0.15, seed=seed)
        assert assigned.groupby(photos.unit).nunique().max() == 1
        for label, mine in assigned.groupby(photos.label):
            fractions = mine.value_counts(normalize=True)
            units = photos.unit[mine.index].nunique()
            assert units < 3 or set(mine) == {"train", "val", "test"}, (seed, label)
            if units >= 12:
                assert 0.05 <= fractions["val"] <= 0.3 and 0.05 <= fractions["test"] <= 0.3, (seed, label)
        order = random.permutation(len(photos))
        shuffled = photos.iloc[order].assign(unit=100 - photos.unit).reset_index(drop=True)
        again = assign(shuffled, val=0.15, test=0.15, seed=seed)
        assert (again.to_numpy() == assigned.to_numpy()[order]).all()


def test_added_units_of_many_classes_move_no_earlier_unit():
    photos = cameras(np.random.default_rng(70), 30)
    old = photos.unit < 20
    first = assign(photos[old], val=0.15, test=0.15, seed=1)
    earlier = first.reindex(photos.index, fill_value="")
    second = assign(photos, val=0.15, test=0.15, seed=1, earlier=earlier)
    assert (second[old] == first).all() and set(second[~old]) == {"train", "val", "test"}


def test_a_rare_class_within_large_groups_is_in_every_split():
    common = photos_of(*[8] * 20)
    rare = photos_of(*[1] * 3, label="b").assign(unit=[4, 9, 14])
    for seed in range(5):
        assigned = assign(pd.concat([common, rare], ignore_index=True), val=0.15, test=0.15, seed=seed)
        assert set(assigned[len(common) :]) == {"train", "val", "test"}, seed


def test_units_of_any_size_are_never_divided_and_are_in_every_split():
    for seed in range(30):
        random = np.random.default_rng(80 + seed)
        parts = []
        for label in "abc":
            sizes = np.minimum(1 + random.pareto(0.7, int(random.integers(3, 40))), 300).astype(int)
            part = photos_of(*sizes, label=label)
            parts.append(part.assign(unit=part.unit + 1000 * ord(label)))
        photos = pd.concat(parts, ignore_index=True)
        val, test = ((0.15, 0.15), (0.1, 0.3), (0.4, 0.4))[seed % 3]
        assigned = assign(photos, val=val, test=test, seed=seed)
        assert assigned.groupby(photos.unit).nunique().eq(1).all()
        assert assigned.groupby(photos.label).nunique().eq(3).all(), seed
        old = photos.unit % 3 > 0
        earlier = assigned.where(old, "")
        assert (assign(photos, val=val, test=test, seed=seed, earlier=earlier)[old] == assigned[old]).all()
