"""Label issues: flipped labels come first, copies are no evidence, and absent classes have no probability."""

import numpy as np
import pandas as pd
import pytest

from lib.clean import label_issues


def clusters(count=60, classes=4, channels=40, spread=0.6, seed=0):
    """Return vectors around one centre per class, none negative, and their labels."""
    random = np.random.default_rng(seed)
    centres = random.gamma(1.0, 1.0, (classes, channels))
    targets = np.repeat(np.arange(classes), count)
    vectors = np.maximum(centres[targets] + random.normal(0, spread, (len(targets), channels)), 0)
    return vectors.astype(np.float32), np.array([f"class {target}" for target in targets], dtype=object)


def flipped(labels, fraction=0.05, seed=0):
    """Return the labels with a fraction flipped, and the rows of the flips."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(fraction * len(labels)), replace=False)
    changed = labels.copy()
    for row in rows:
        changed[row] = random.choice(sorted(set(labels) - {labels[row]}))
    return changed, rows


def rank(vectors, labels, **options):
    return label_issues.rank(vectors, list(labels), **{"groups": np.arange(len(labels)), "seed": 0} | options)


# The ranking


def test_flips_come_first_with_their_true_label():
    vectors, labels = clusters()
    noisy, rows = flipped(labels)
    ranked = rank(vectors, noisy)
    first = ranked.head(len(rows))
    assert set(first.row) == set(rows)
    assert (first.suggested == labels[first.row]).all() and (first.label == noisy[first.row]).all()
    assert set(ranked.row[ranked.is_label_issue]) == set(rows)


def test_the_table_is_whole_sorted_and_in_range():
    vectors, labels = clusters(spread=1.5)
    noisy, _ = flipped(labels)
    ranked = rank(vectors, noisy)
    assert list(ranked.columns) == label_issues.COLUMNS and sorted(ranked.row) == list(range(len(labels)))
    assert ranked.score.is_monotonic_decreasing and ranked.score.between(0, 1).all()
    assert (ranked.label != ranked.suggested).all() and (ranked.label == noisy[ranked.row]).all()
    both = ranked.given_probability + ranked.suggested_probability
    assert both.between(0, 1 + 1e-9).all() and both.max() > 0.5
    np.testing.assert_allclose(ranked.score, ranked.suggested_probability / both)


def test_the_limits_of_a_label_issue(monkeypatch):
    # Of each photo: the probability of its label and of the suggested label, on both sides of each limit.
    pairs = np.array([(0.1, 0.5), (0.101, 0.5), (0.1, 0.499), (0.02, 0.8), (0.6, 0.2)])
    targets = np.array([0, 1, 2, 0, 1])
    rows = np.column_stack([pairs, 1 - pairs.sum(axis=1)])
    probabilities = np.stack([np.roll(row, target) for row, target in zip(rows, targets, strict=True)])
    monkeypatch.setattr(label_issues, "out_of_fold_probabilities", lambda *_, **__: probabilities)
    ranked = rank(np.ones((5, 3), np.float32), np.array(["a", "b", "c"], object)[targets]).sort_values("row")
    assert ranked.is_label_issue.tolist() == [True, False, False, True, False]
    np.testing.assert_array_equal(ranked[["given_probability", "suggested_probability"]], pairs)


def test_the_same_seed_gives_the_same_and_the_order_of_photos_decides_nothing_much():
    vectors, labels = clusters(spread=1.2)
    noisy, _ = flipped(labels)
    pd.testing.assert_frame_equal(rank(vectors, noisy), rank(vectors, noisy))
    order = np.random.default_rng(5).permutation(len(noisy))
    moved = rank(vectors[order], noisy[order])
    again = set(order[moved.row.head(12)])
    assert len(again & set(rank(vectors, noisy).row.head(12))) >= 10


def test_a_copy_with_the_same_wrong_label_is_no_evidence():
    vectors, labels = clusters(count=40)
    vectors, noisy = (
        np.concatenate([vectors, np.repeat(vectors[:1], 30, axis=0)]),
        list(labels) + ["class 1"] * 30,
    )
    groups = np.arange(len(noisy))
    alone = rank(vectors, noisy, groups=groups)
    groups[160:] = 0
    together = rank(vectors, noisy, groups=groups)
    copies = together[together.row.ge(160)]
    assert copies.is_label_issue.all() and (copies.suggested == "class 0").all()
    assert not alone[alone.row.ge(160)].is_label_issue.any()


def test_a_class_of_near_duplicates_is_last_and_no_label_issue():
    vectors, labels = clusters(count=30)
    labels[:3] = "rare"
    groups = np.arange(len(labels))
    groups[:3] = 0
    ranked = rank(vectors, labels, groups=groups)
    last = ranked.tail(3)
    assert set(last.row) == {0, 1, 2} and (last.suggested == "").all() and (last.score == 0).all()
    assert last.given_probability.isna().all() and not last.is_label_issue.any()
    assert ranked.given_probability.notna().sum() == len(ranked) - 3


def test_a_rare_class_is_not_all_label_issues():
    vectors, labels = clusters(count=100)
    keep = np.r_[0:6, 100:400]
    ranked = rank(vectors[keep], labels[keep])
    assert ranked[ranked.label.eq("class 0")].is_label_issue.sum() == 0


@pytest.mark.parametrize(
    ("count", "labels", "groups"),
    [(3, ["a", "b"], [0, 1, 2]), (3, ["a", "b", "a"], [0, 1]), (2, ["a", "a"], [0, 1])],
)
def test_what_is_expected(count, labels, groups):
    with pytest.raises(ValueError, match=rf"of at least two classes. Received: {count}, {len(labels)} and"):
        label_issues.rank(np.ones((count, 4), np.float32), labels, groups=groups, seed=0)


def test_two_photos_of_each_class_are_enough():
    vectors, labels = clusters(count=2)
    assert len(rank(vectors, labels)) == 8
    assert rank(np.zeros((4, 3), np.float32), ["a", "a", "b", "b"]).score.between(0, 1).all()
    assert rank(vectors, labels, groups=np.zeros(8, int)).score.eq(0).all()


def test_the_kept_photos_of_a_manifest():
    vectors, labels = clusters()
    noisy, rows = flipped(labels)
    table = pd.DataFrame(
        {"path": [f"{row}.jpg" for row in range(240)], "label": noisy, "cluster": range(240), "group": ""}
    )
    table.loc[::10, "cluster"] = -1
    rows = sorted(set(rows) - set(range(0, 240, 10)))
    ranked = label_issues.of_table(table, vectors, seed=0, settled=())
    assert len(ranked) == 216 and (ranked.path == table.path[ranked.row].to_numpy()).all()
    assert set(ranked.row.head(len(rows))) == set(rows) and ranked.is_label_issue[0]
    settled = label_issues.of_table(table, vectors, seed=0, settled=[ranked.path[0], "gone.jpg"])
    assert list(settled.is_label_issue) == [False, *ranked.is_label_issue[1:]]
    assert settled.drop(columns="is_label_issue").equals(ranked.drop(columns="is_label_issue"))


# Its parts


def test_folds_hold_groups_whole_and_classes_evenly():
    random = np.random.default_rng(0)
    targets, groups = random.integers(0, 7, 500), np.arange(500)
    groups[::9] = groups[1::9][: len(groups[::9])]
    folds = label_issues.folds(targets, groups, seed=3)
    table = pd.DataFrame({"target": targets, "group": groups, "fold": folds})
    assert table.groupby("group").fold.nunique().max() == 1 and set(folds) == set(range(5))
    shares = pd.crosstab(table.target, table.fold)
    assert (shares.max(axis=1) - shares.min(axis=1)).max() <= 12 and shares.to_numpy().min() > 3
    assert (folds == label_issues.folds(targets, groups, seed=3)).all()
    assert (folds != label_issues.folds(targets, groups, seed=4)).any()


def test_projected_vectors_keep_their_distances():
    vectors, _ = clusters(channels=30)
    values = np.sqrt(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    shown = label_issues.pca(vectors)
    ratio = np.linalg.norm(shown[1:] - shown[0], axis=1) / np.linalg.norm(values[1:] - values[0], axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    np.testing.assert_allclose(np.mean(shown**2) * shown.shape[1] / 30, 1, rtol=1e-3)


def test_at_most_512_components_are_kept():
    vectors = np.random.default_rng(0).uniform(0, 1, (8, 520)).astype(np.float32)
    assert label_issues.pca(vectors).shape == (8, 512) and label_issues.pca(vectors[:, :9]).shape == (8, 9)


def parts(seed=0):
    """Return training vectors of three classes, their classes, and test vectors of these and of a fourth."""
    vectors, labels = clusters(channels=12, spread=1.5, seed=seed)
    targets = pd.Categorical(labels).codes.astype(np.int64)
    train = targets < 3
    train[::6] = False
    return vectors[train], targets[train], vectors[~train]


def test_lda_by_the_formulas_of_the_book():
    train, targets, test = parts()
    means = np.stack([train[targets == number].mean(axis=0) for number in range(3)])
    within = train - means[targets]
    covariance = 0.7 * within.T @ within / len(train)
    covariance += 0.3 * np.mean(within**2) * np.eye(12)
    weights = np.linalg.solve(covariance, means.T)
    priors = np.log(np.bincount(targets) / len(targets))
    scores = np.exp(test @ weights - (means.T * weights).sum(axis=0) / 2 + priors)
    probabilities = label_issues.lda_log_probabilities(train, targets, test=test, classes=5)
    np.testing.assert_allclose(
        np.exp(probabilities[:, :3]), scores / scores.sum(axis=1, keepdims=True), atol=1e-4
    )
    assert (probabilities[:, 3:] == -np.inf).all()


def test_the_votes_of_80_neighbours_by_brute_force():
    train, targets, test = parts()
    units, others = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
    votes = np.full((len(test), 5), 0.001)
    for row, cosines in enumerate(others @ units.T):
        nearest = np.argsort(-cosines)[:80]
        weights = np.exp(cosines[nearest] / 0.1)
        np.add.at(votes[row], targets[nearest], weights / weights.sum())
    probabilities = label_issues.knn_probabilities(train, targets, test=test, classes=5)
    np.testing.assert_allclose(probabilities, votes / votes.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_fold_without_enough_photos_to_learn_from_is_not_judged(recwarn):
    values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    targets = np.array([0, 0, 0, 0, 1, 1])
    # The other folds of the first hold two photos of one class, those of the second one photo of each class.
    for fold_of in ([0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1]):
        fold_of = np.array(fold_of)
        probabilities = label_issues.out_of_fold_probabilities(values, targets, folds=fold_of, classes=2)
        assert np.isnan(probabilities[fold_of == 0]).all() and not np.isnan(probabilities[fold_of == 1]).any()
    assert not list(recwarn)


def test_rare_classes_have_fewer_folds_and_no_warning(recwarn):
    targets = np.repeat(np.arange(40), 4)
    targets[:3] = 99
    folds = label_issues.folds(targets, np.arange(160), seed=0)
    assert set(folds) == set(range(4)) and not list(recwarn)
    assert not label_issues.folds(np.arange(3), np.arange(3), seed=0).any()


def test_random_vectors_have_hardly_any_label_issues():
    random = np.random.default_rng(0)
    # Four photos of each class, without any similarity.
    vectors = random.uniform(0, 1, (160, 300)).astype(np.float32)
    table = rank(vectors, [f"class {row % 40}" for row in range(160)])
    assert table.is_label_issue.mean() < 0.02 and table.suggested_probability.max() < 0.5
