"""Mistakes, counted by hand, and metrics recomputed from the files of a run."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from lib.clean import embeddings, photoset
from lib.core import files, metrics, schema
from lib.evaluate import inference, mistakes, predictions
from lib.networks.backend import keras


def table(classes, *rankings):
    """Make a table of predictions; in "ab" the label is a, and b is the most probable class."""
    rows = []
    for index, (label, *order) in enumerate(rankings):
        left = [name for name in classes if name not in order]
        probability = {name: 0.5 / 2**place for place, name in enumerate([*order, *left])}
        rows.append(
            {
                "path": f"{index}.jpg",
                "split": "test",
                "label": label,
                "predicted": order[0],
                "confidence": 0.5,
            }
            | {f"p({name})": probability[name] for name in classes}
        )
    return pd.DataFrame(rows)


LETTERS = list("abcde")
ROWS = table(LETTERS, "ab", "ab", "aa", "aa", "ba", "bb", "cba", "cbdc", "cbade", "dd", "ee")


def measured(rows):
    names = predictions.classes(rows)
    probabilities = predictions.probabilities(rows, names)
    targets = rows.label.map(names.index).to_numpy()
    return metrics.report(targets, probabilities / probabilities.sum(axis=1, keepdims=True), classes=names)


# Classes


def classes(**counts):
    return {name: {"n": n, "recall": right / n if n else 0.0} for name, (right, n) in counts.items()}


def test_classes_are_ranked_by_recall_and_then_by_evidence():
    report = classes(a=(1, 2), b=(4, 4), c=(2, 2), d=(0, 9), e=(0, 0), f=(0, 1), g=(9, 10))
    ranked = mistakes.classes(report, 99)
    assert ranked.label.tolist() == ["b", "c", "g", "a", "f", "d"]
    assert ranked.index.tolist() == [1, 2, 3, 4, 5, 6] and ranked.index.name == "rank"
    row = ranked.loc[3]
    assert (row.n, row.recall) == (10, 0.9) and [row.low, row.high] == metrics.interval(9, 10)
    few = mistakes.classes(report, 2)
    assert few.label.tolist() == ["b", "c", "f", "d"] and few.index.tolist() == [1, 2, 5, 6]
    assert len(mistakes.classes(report, 3)) == len(mistakes.classes(report, 4)) == 6


# Confused pairs


def test_confused_pairs_by_hand():
    result = mistakes.confused(ROWS, 99, similarities=None)
    assert result.to_dict("list") == {
        "label": ["c", "a", "b"],
        "predicted": ["b", "b", "a"],
        "photos": [3, 2, 1],
        "fraction": [1.0, 0.5, 0.5],
    }
    assert mistakes.confused(ROWS, 1, similarities=None).label.tolist() == ["c"]
    assert mistakes.confused(ROWS[ROWS.label.eq("d")], 9, similarities=None).empty


def test_equally_frequent_pairs_are_ordered_by_their_fraction():
    rows = table(LETTERS, "aa", "aa", "ab", "ba", "cc", "ca")
    assert mistakes.confused(rows, 9, similarities=None).label.tolist() == ["b", "c", "a"]


# The true class in the top


def test_truth_in_top_by_hand():
    # the truth comes second, fourth, second, third, and fourth
    rows = table(LETTERS, "aba", "acdba", "bab", "cbac", "dabcd", "ee")
    result = mistakes.truth_in_top(rows, 3)
    assert (result["mistakes"], result["hits"], result["fraction"]) == (5, 3, 0.6)
    assert result["interval"] == metrics.interval(3, 5)
    # two of the four classes that are left
    assert result["by_chance"] == 0.5
    assert result["sentence"] == (
        "In 3 of 5 mistakes (60 %) the true class is in the top 3 "
        "(95 % interval 23 % to 88 %, expected by chance 50 %)."
    )
    assert mistakes.truth_in_top(rows, 2)["hits"] == 2
    assert mistakes.truth_in_top(rows, 4)["hits"] == 5


def test_correct_predictions_do_not_count():
    rows = table(LETTERS, "aa", "bb", "ce", "dd")
    assert mistakes.truth_in_top(rows, 3)["mistakes"] == 1


def test_with_few_classes_the_top_holds_them_all():
    result = mistakes.truth_in_top(table(list("ab"), "ab", "bb"), 3)
    assert (result["mistakes"], result["fraction"], result["interval"]) == (1, None, None)
    assert result["sentence"] == "With 2 classes, the top 3 contains every class."
    none = mistakes.truth_in_top(table(LETTERS, "aa", "bb"), 3)
    assert (none["mistakes"], none["fraction"], none["sentence"]) == (0, None, mistakes.NO_MISTAKES)


# Similarity of confused classes


def test_centroids_solved_by_hand():
    # directions are averaged, whatever the lengths: a points to (1, 0), b to (1, 1)
    vectors = np.array([[9, 9], [2, 0], [0, 3], [5, 0], [-1, 0], [0, 0.1]], np.float32)
    rows, targets = np.array([1, 2, 3, 5]), np.array([0, 1, 1, 2])
    result = mistakes.centroid_similarities(vectors, rows, targets=targets, classes=["a", "b", "c"])
    half = np.sqrt(0.5)
    assert result.index.tolist() == result.columns.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(result, [[1, half, 0], [half, 1, half], [0, half, 1]], atol=1e-7)


def test_centroids_are_the_same_a_part_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    vectors, targets = random.normal(size=(50, 6)).astype(np.float32), np.arange(50) % 3
    photos = {"rows": np.arange(50), "targets": targets, "classes": ["a", "b", "c"]}
    whole = mistakes.centroid_similarities(vectors, **photos)
    monkeypatch.setattr(mistakes, "BATCH_SIZE", 7)
    pd.testing.assert_frame_equal(mistakes.centroid_similarities(vectors, **photos), whole)


def drawn(tmp_path, **clean):
    """Photos of three classes in train, one of each in test that looks like another class, and settings."""
    table = pd.DataFrame(
        {"label": list("abc") * 3, "split": ["train"] * 6 + ["test"] * 3, "sha1": list("123456789")}
    )
    full = np.zeros((9, 8, 8, 3), np.uint8)
    photos = photoset.Photos(table, full, 4, list("abc"), "stretch", tmp_path)
    values = {"name": "x", "source": {"kind": "sample", "name": "x"}, "clean": clean}
    return photos, schema.Params.model_validate(values)


def test_similarities_are_those_of_the_training_photos_in_the_cache_of_the_cleaning(tmp_path, monkeypatch):
    photos, settings = drawn(tmp_path)
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 1, 1, 2, 2, 2]]
    calls = []
    monkeypatch.setattr(
        embeddings, "compute", lambda images, **options: calls.append((images, options)) or vectors
    )
    result = mistakes.class_similarities(photos, settings)
    np.testing.assert_array_equal(result, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    embeddings.of_photos(photos.table.sha1, photos.full, fit="stretch", folder=tmp_path)
    # the arguments that decide the name of the file are those of the cleaning
    assert calls[0][0] is calls[1][0] and calls[0][1] == calls[1][1]


def test_without_embeddings_similarity_is_not_known(tmp_path):
    assert mistakes.class_similarities(*drawn(tmp_path, embeddings=False)) is None
    result = mistakes.similarity(ROWS, None)
    sentence = "The similarity of the classes needs embeddings, which `clean.embeddings` disables."
    assert result == {"sentence": sentence}
    assert "similarity" not in mistakes.confused(ROWS, 9, similarities=None)


def similarities_of(count, *pairs):
    """Return the similarities of `count` letters: 0.9 for `pairs`, 0.1 for the other pairs."""
    names = list("abcdefghijkl"[:count])
    values = np.full((count, count), 0.1) + 0.9 * np.eye(count)
    for first, second in pairs:
        cell = names.index(first), names.index(second)
        values[cell] = values[cell[::-1]] = 0.9
    return pd.DataFrame(values, names, names)


TWINS = similarities_of(12, "ab", "cd", "ef")


def mistaken(*rankings):
    return table(list(TWINS.index), *rankings, "aa", "bb")


def test_similarity_solved_by_hand():
    result = mistakes.similarity(mistaken("ab", "ba", "cd", "fe", "gh"), TWINS)
    # four of five mistakes between twins; of the 66 pairs of classes three are twins
    assert result["confused"] == pytest.approx((4 * 0.9 + 0.1) / 5)
    assert result["random"] == pytest.approx((3 * 0.9 + 63 * 0.1) / 66)
    assert result["sentence"] == (
        "Confused classes are more similar than random pairs: 0.74 against 0.14, "
        "95 % interval 0.10 to {:.2f} (mistakes: 5, classes: 12).".format(result["interval"][1])
    )


def test_the_interval_is_that_of_all_renamings(monkeypatch):
    """Of five classes there are 120 renamings: the interval is compared with the exact one."""
    monkeypatch.setattr(mistakes, "PERMUTATIONS", 20_000)
    names, random = list("abcde"), np.random.default_rng(1)
    values = random.random((5, 5))
    similarities = pd.DataFrame((values + values.T) / 2, names, names)
    result = mistakes.similarity(table(names, *["ab"] * 9, "cd", "ea"), similarities)
    values = similarities.to_numpy()
    pairs = [(0, 1)] * 9 + [(2, 3), (4, 0)]
    means = sorted(
        np.mean([values[order[label], order[predicted]] for label, predicted in pairs])
        for order in itertools.permutations(range(5))
    )
    # 3 of the 120 may lie beyond each end
    assert result["interval"] == pytest.approx([means[3], means[-4]], abs=0.02)


def test_many_mistakes_between_two_classes_are_one_coincidence():
    """Fifty photos of the same confused pair prove no more than a single photo."""
    random = np.random.default_rng(0)
    values = random.random((6, 6))
    similarities = pd.DataFrame((values + values.T) / 2, list("abcdef"), list("abcdef"))
    others = similarities.where(~np.eye(6, dtype=bool), -1)
    label, predicted = others.stack().idxmax()
    one, fifty = (
        mistakes.similarity(table(list("abcdef"), *[label + predicted] * count), similarities)
        for count in (1, 50)
    )
    assert one["interval"] == fifty["interval"]
    # the most similar of 15 pairs is drawn with a probability of 1/15
    assert one["sentence"].startswith("Too few mistakes or classes to test whether")
    assert fifty["sentence"].startswith("Too few mistakes or classes to test whether")


def test_random_confusions_are_rarely_called_similar():
    """The upper 2.5 % of the interval allow 3 of 120 cases on average, however few the mistakes."""
    random = np.random.default_rng(0)
    names = list("abcdefgh")
    for count in (2, 12):
        verdicts = []
        for _ in range(120):
            values = random.random((8, 8))
            similarities = pd.DataFrame((values + values.T) / 2, names, names)
            pairs = ["".join(random.choice(names, 2, replace=False)) for _ in range(count)]
            verdicts.append(mistakes.similarity(table(names, *pairs), similarities)["sentence"])
        assert sum("are more similar" in verdict for verdict in verdicts) <= 9


@pytest.mark.parametrize(
    ("rankings", "verdict"),
    [
        (["ab", "cd", "ef"], "Confused classes are more similar than random pairs: 0.90 against"),
        (
            ["ab", "gh", "ai", "bk", "cl", "dk", "eg", "fh"],
            "Confused classes are not significantly more similar",
        ),
        (
            ["ab"],
            "Too few mistakes or classes to test whether confused classes are similar",
        ),
        (["aa"], mistakes.NO_MISTAKES),
    ],
)
def test_the_sentence_follows_the_interval(rankings, verdict):
    assert mistakes.similarity(mistaken(*rankings), TWINS)["sentence"].startswith(verdict)


def test_confused_classes_can_be_less_similar():
    # nearly all pairs are similar, but the confused pairs are not
    names = list(TWINS.index)
    values = np.where(np.eye(12, dtype=bool), 1.0, np.where(TWINS == 0.9, 0.1, 0.9))
    result = mistakes.similarity(mistaken("ab", "cd", "ef"), pd.DataFrame(values, names, names))
    assert result["sentence"].startswith(
        "Confused classes are less similar than random pairs: 0.10 against 0.86"
    )


def test_two_classes_have_one_pair():
    similarities = pd.DataFrame([[1, 0.3], [0.3, 1]], list("ab"), list("ab"))
    result = mistakes.similarity(table(list("ab"), "ab", "ab", "ba"), similarities)
    assert result["interval"] == [0.3, 0.3] and result["sentence"].startswith("Too few mistakes or classes")


def test_confused_pairs_have_their_similarity():
    pairs = mistakes.confused(mistaken("ba", "gh", "gh"), 9, similarities=TWINS)
    assert pairs.similarity.tolist() == [0.1, 0.9] and pairs.label.tolist() == ["g", "b"]


# The summary


@pytest.mark.parametrize("similarities", [None, similarities_of(5, "ab")])
@pytest.mark.parametrize("rows", [ROWS, table(LETTERS, *zip("abcde", "abcde", strict=True))])
def test_the_summary_is_plain_json(rows, similarities, tmp_path):
    result = mistakes.summary(rows, measured(rows), similarities=similarities)
    files.write_json(tmp_path / "metrics.json", result)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert list(result) == [
        "n",
        "truth_in_top_3",
        "similarity",
        "most_accurate",
        "least_accurate",
        "confused",
    ]
    assert result["n"] == (rows.label != rows.predicted).sum() == result["truth_in_top_3"]["mistakes"]


def test_the_summary_lists_the_extremes_first():
    rows = table(
        list("abcdefg"), *["aa"] * 3, *["bb"] * 2, "ba", *["cc", "cd"], *["da"] * 3, "ee", "ff", "gg"
    )
    result = mistakes.summary(rows, measured(rows), similarities=None)
    assert [row["label"] for row in result["most_accurate"]] == ["a", "e", "f", "g", "b"]
    assert [row["label"] for row in result["least_accurate"]] == ["d", "c", "b", "g", "f"]
    assert result["confused"][0] == {"label": "d", "predicted": "a", "photos": 3, "fraction": 1.0}
    assert set(result["most_accurate"][0]) == {"label", "n", "recall", "low", "high"}


# From the photos to the figures


def test_each_prediction_is_that_of_its_own_photo(tmp_path):
    """The colour of each photo is its class, and the network predicts colours: another order would fail."""
    random = np.random.default_rng(0)
    shown = random.integers(0, 3, 60)
    splits = random.permutation(np.repeat(["train", "val", "test", ""], 15))
    rows = pd.DataFrame(
        {"path": [f"{index:02}.png" for index in range(60)], "label": np.take(LETTERS, shown)}
    )
    rows = rows.assign(split=splits, sha1=rows.path)
    images = np.zeros((60, 4, 4, 3), np.uint8)
    images[np.arange(60), :, :, shown] = 200
    photos = photoset.Photos(rows, images, 4, LETTERS[:3])
    inputs = keras.Input((4, 4, 3))
    colours = keras.layers.GlobalAveragePooling2D()(inputs)
    network = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Rescaling(10 / 255)(colours)))
    probabilities = {
        split: inference.of_rows(network, photos, rows=photos.rows(split), folder=tmp_path, batch_size=4)
        for split in ("train", "val", "test")
    }
    listed = predictions.table(photos, probabilities)
    assert len(listed) == 45 and (listed.label == listed.predicted).all()
    assert (
        dict(zip(listed.path, listed.label, strict=True))
        == rows[splits != ""].set_index("path").label.to_dict()
    )
    for split, values in probabilities.items():
        assert metrics.report(photos.targets(split), values, classes=photos.classes)["top_1"] == 1


@pytest.mark.parametrize("classes", [2, 6])
def test_the_metrics_can_be_recomputed_from_the_files(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    names = LETTERS[:2] if classes == 2 else list("abcdef")
    random = np.random.default_rng(classes)
    targets = random.choice(classes, 400, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = random.normal(size=(400, classes)) + 1.2 * np.eye(classes)[targets]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    rows = pd.DataFrame({"path": [f"{index}.png" for index in range(400)], "label": np.take(names, targets)})
    photos = photoset.Photos(rows.assign(split="test"), np.zeros((400, 1, 1, 3), np.uint8), 1, names)
    listed = predictions.table(photos, {"test": probabilities})
    report = metrics.report(photos.targets("test"), probabilities, classes=names)
    predictions.write(listed, tmp_path / "predictions.csv")
    files.write_json(
        tmp_path / "metrics.json", report | {"mistakes": mistakes.summary(listed, report, similarities=None)}
    )

    figures = json.loads((tmp_path / "metrics.json").read_text())
    file = pd.read_csv(tmp_path / "predictions.csv")
    values = file[[f"p({name})" for name in names]].to_numpy()
    values = values / values.sum(axis=1, keepdims=True)
    top = sk.top_k_accuracy_score(file.label, values, k=3, labels=names) if classes > 3 else 1.0
    auc = (
        sk.roc_auc_score(file.label, values[:, 1])
        if classes == 2
        else sk.roc_auc_score(file.label, values, multi_class="ovr")
    )
    options = {"y_true": file.label, "y_pred": file.predicted, "average": "weighted"}
    expected = {
        "n": 400,
        "top_1": sk.accuracy_score(file.label, file.predicted),
        "top_3": top,
        "precision_weighted": sk.precision_score(**options),
        "recall_weighted": sk.recall_score(**options),
        "f1_weighted": sk.f1_score(**options),
        "log_loss": sk.log_loss(file.label, values),
        "roc_auc": auc,
        "mcc": sk.matthews_corrcoef(file.label, file.predicted),
    }
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert 0.4 < figures["top_1"] < 0.95
    matrix = sk.confusion_matrix(file.label, file.predicted, labels=names)
    assert figures["mistakes"]["n"] == matrix.sum() - np.trace(matrix)
    if classes > 3:
        result = figures["mistakes"]["truth_in_top_3"]
        assert result["hits"] == round(400 * (expected["top_3"] - expected["top_1"]))
        np.fill_diagonal(matrix, 0)
        assert figures["mistakes"]["confused"][0]["photos"] == matrix.max()
