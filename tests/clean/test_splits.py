"""Splits: near-duplicates stay together, quotas are met, and neither names nor order decide."""

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
    return pd.DataFrame(rows, columns=["label", "sha1", "cluster"]).assign(split="")


def test_assign_keeps_its_promises_on_random_tables():
    for seed in range(10):
        random = np.random.default_rng(seed)
        photos = table(random)
        assigned = assign(photos, val=0.2, test=0.1, seed=seed)
        assert assigned.index.equals(photos.index) and set(assigned) <= {"train", "val", "test"}
        assert assigned.groupby(photos.cluster).nunique().max() == 1, "a cluster is in two splits"
        home = photos.groupby("cluster").label.agg(lambda labels: labels.mode().iloc[0])
        for label, names in home.groupby(home):
            mine = assigned[photos.cluster.isin(names.index)]
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
            {"label": "a", "sha1": [f"{i:040x}" for i in range(size)], "cluster": range(size), "split": ""}
        )
        counts = assign(photos, val=0.15, test=0.15, seed=1).value_counts()
        assert counts["val"] == counts["test"] == max(1, round(size * 0.15)) and counts.sum() == size


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3, 3), (1, 2, 3), (5, 4, 4), (2, 2, 2, 2)])
def test_a_class_of_three_large_clusters_still_has_val_and_test(sizes):
    clusters = [number for number, size in enumerate(sizes) for _ in range(size)]
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(len(clusters))], "cluster": clusters, "split": ""}
    )
    for seed in range(10):
        assert set(assign(photos, val=0.15, test=0.15, seed=seed)) == {"train", "val", "test"}, seed


def test_assign_of_very_small_classes():
    photos = pd.DataFrame(
        {"label": ["a", "b", "b"], "sha1": ["1", "2", "3"], "cluster": [0, 1, 2], "split": ""}
    )
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
    renumbered = photos.assign(cluster=photos.cluster.max() - photos.cluster)
    assert (assign(renumbered, val=0.2, test=0.2, seed=7) == assigned).all()


def test_assign_depends_on_the_seed_alone():
    photos = table(np.random.default_rng(6))
    first = assign(photos, val=0.2, test=0.2, seed=1)
    assert (assign(photos, val=0.2, test=0.2, seed=1) == first).all()
    assert (assign(photos, val=0.2, test=0.2, seed=2) != first).any()


def test_one_more_class_changes_nothing_for_the_others():
    photos = table(np.random.default_rng(8), classes=3)
    more = pd.DataFrame(
        {"label": "new", "sha1": [f"{i:040x}" for i in range(9)], "cluster": range(1000, 1009), "split": ""}
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
    assert assigned[free.index].groupby(free.cluster).nunique().max() == 1


def test_a_cluster_of_two_classes_goes_where_its_largest_class_goes():
    photos = pd.DataFrame(
        {"label": ["a", "a", "b"], "sha1": ["1", "2", "3"], "cluster": [0, 0, 0], "split": ""}
    )
    assert set(assign(photos, val=0.2, test=0.2, seed=1)) == {"train"}


# Photos that are added later


def test_photos_keep_their_split_when_others_are_added():
    for seed in range(5):
        random = np.random.default_rng(20 + seed)
        photos = table(random)
        first = assign(photos, val=0.2, test=0.1, seed=seed)
        more = table(random)
        more["cluster"] += photos.cluster.max() + 1
        both = pd.concat([photos, more], ignore_index=True)
        earlier = first.reindex(both.index, fill_value="")
        second = assign(both, val=0.2, test=0.1, seed=seed, earlier=earlier)
        assert (second[: len(photos)] == first).all()
        home = both.groupby("cluster").label.agg(lambda labels: labels.mode().iloc[0])
        for label, names in home.groupby(home):
            mine = second[both.cluster.isin(names.index)]
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
        {"label": "a", "sha1": [f"{i:040x}" for i in range(len(rows))], "cluster": [c for _, c, _ in rows]}
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
    leaks = splits.leaks(photos)
    assert leaks.index.equals(photos.index) and leaks.tolist() == [leak for _, _, leak in rows]


def test_a_split_that_lost_its_only_photo_gets_another():
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(6)], "cluster": range(6)}
    ).assign(split="")
    # A person has excluded the photo of val.
    earlier = pd.Series(["train"] * 5 + ["test"])
    assigned = assign(photos, val=0.15, test=0.15, seed=0, earlier=earlier)
    assert assigned.value_counts().to_dict() == {"train": 4, "val": 1, "test": 1} and assigned[5] == "test"
    two = assign(photos[:2], val=0.15, test=0.15, seed=0, earlier=earlier[:2])
    # Too few photos for three splits.
    assert two.tolist() == ["train", "train"]


def test_train_never_loses_its_only_cluster_to_an_empty_split():
    photos = pd.DataFrame(
        {"label": "a", "sha1": [f"{i:040x}" for i in range(3)], "cluster": range(3), "split": ""}
    )
    earlier = pd.Series(["train", "test", "test"])
    assert assign(photos, val=0.15, test=0.15, seed=0, earlier=earlier).tolist() == ["train", "test", "test"]
