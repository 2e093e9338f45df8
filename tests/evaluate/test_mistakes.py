"""Mistakes, counted by hand, and figures computed again from the file that a run leaves."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from lib.clean import photoset
from lib.core import files, metrics
from lib.evaluate import inference, mistakes, predictions, wordnet
from lib.networks.device import keras

TABBY, COUGAR, TEAPOT, WOK = "n02123045", "n02125311", "n04398044", "n04596742"


def table(classes, *said):
    """Make a table of predictions from labels and what was said of them, the most probable class first, as in "ab"."""
    rows = []
    for index, (label, *order) in enumerate(said):
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
    classes = mistakes._classes(rows)
    probabilities = rows[predictions.columns(classes)].to_numpy()
    return metrics.report(
        rows.label.map(classes.index).to_numpy(),
        probabilities / probabilities.sum(axis=1, keepdims=True),
        classes,
    )


# Classes


def classes(**counts):
    return {name: {"n": n, "recall": right / n if n else 0.0} for name, (right, n) in counts.items()}


def test_classes_are_ranked_by_recall_and_then_by_evidence():
    given = classes(a=(1, 2), b=(4, 4), c=(2, 2), d=(0, 9), e=(0, 0), f=(0, 1), g=(9, 10))
    ranked = mistakes.classes(given, 99)
    assert ranked.label.tolist() == ["b", "c", "g", "a", "f", "d"]
    assert ranked.index.tolist() == [1, 2, 3, 4, 5, 6] and ranked.index.name == "place"
    row = ranked.loc[3]
    assert (row.n, row.recall) == (10, 0.9) and [row.low, row.high] == metrics.interval(9, 10)
    few = mistakes.classes(given, 2)
    assert few.label.tolist() == ["b", "c", "f", "d"] and few.index.tolist() == [1, 2, 5, 6]
    assert len(mistakes.classes(given, 3)) == len(mistakes.classes(given, 4)) == 6


# What is taken for what


def test_confused_pairs_by_hand():
    found = mistakes.confused(ROWS, 99)
    assert found.to_dict("list") == {
        "label": ["c", "a", "b"],
        "predicted": ["b", "b", "a"],
        "photos": [3, 2, 1],
        "share": [1.0, 0.5, 0.5],
    }
    assert mistakes.confused(ROWS, 1).label.tolist() == ["c"]
    assert mistakes.confused(ROWS[ROWS.label.eq("d")], 9).empty


def test_of_equally_many_the_larger_share_comes_first():
    rows = table(LETTERS, "aa", "aa", "ab", "ba", "cc", "ca")
    assert mistakes.confused(rows, 9).label.tolist() == ["b", "c", "a"]


# The truth in the top


def test_truth_in_top_by_hand():
    # the truth comes second, fourth, second, third, and fourth
    rows = table(LETTERS, "aba", "acdba", "bab", "cbac", "dabcd", "ee")
    found = mistakes.truth_in_top(rows, 3)
    assert (found["mistakes"], found["hits"], found["share"]) == (5, 3, 0.6)
    assert found["interval"] == metrics.interval(3, 5)
    assert found["by_chance"] == 0.5  # two of the four classes that are left
    assert found["sentence"] == (
        "In 3 of 5 mistakes (60 %) the truth is in the top 3; 95 % interval 23 % to 88 %, by chance 50 %."
    )
    assert mistakes.truth_in_top(rows, 2)["hits"] == 2
    assert mistakes.truth_in_top(rows, 4)["hits"] == 5


def test_right_predictions_do_not_count():
    rows = table(LETTERS, "aa", "bb", "ce", "dd")
    assert mistakes.truth_in_top(rows, 3)["mistakes"] == 1


def test_the_top_of_few_classes_says_nothing():
    found = mistakes.truth_in_top(table(list("ab"), "ab", "bb"), 3)
    assert (found["mistakes"], found["share"], found["interval"]) == (1, None, None)
    assert found["sentence"] == "Of 2 classes, all are in the top 3 of the 1 mistakes."
    none = mistakes.truth_in_top(table(LETTERS, "aa", "bb"), 3)
    assert (none["mistakes"], none["share"], none["sentence"]) == (0, None, "There is no mistake.")


# Nearness


CATS = [TABBY, COUGAR, TEAPOT, WOK]


def near_and_far(near, far):
    """Take tabbies for cougars, and for teapots."""
    return table(
        CATS,
        *[(TABBY, COUGAR)] * near,
        *[(TABBY, TEAPOT)] * far,
        (TABBY, TABBY),
        (WOK, WOK),
        (COUGAR, COUGAR),
    )


def test_nearness_is_compared_with_the_other_classes():
    found = mistakes.nearness(near_and_far(3, 1))
    for name, measure in mistakes.MEASURES.items():
        others = [measure(TABBY, other) for other in CATS[1:]]
        mean = (3 * others[0] + others[1]) / 4
        values = found["measures"][name]
        assert values["mistakes"] == pytest.approx(mean) and values["by_chance"] == pytest.approx(
            np.mean(others)
        )
        assert values["difference"] == pytest.approx(mean - np.mean(others))
        assert values["interval"][0] <= values["difference"] <= values["interval"][1]
    near = wordnet.wu_palmer(TABBY, COUGAR)
    assert found["nearest"][0] == {"label": TABBY, "predicted": COUGAR, "photos": 3, "wu_palmer": near}
    assert [row["predicted"] for row in found["farthest"]] == [TEAPOT, COUGAR]
    assert mistakes.examples(found).predicted.tolist() == [COUGAR, TEAPOT]


def test_the_interval_is_that_of_a_mean():
    values = mistakes.nearness(near_and_far(150, 50))["measures"]["wu_palmer"]
    spread = wordnet.wu_palmer(TABBY, COUGAR) - wordnet.wu_palmer(TABBY, TEAPOT)
    error = spread * np.sqrt(0.75 * 0.25 / 200)
    assert np.diff(values["interval"]).item() == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [(30, 0, "are nearer in"), (0, 30, "are farther in"), (1, 2, "are not measurably nearer in")],
)
def test_the_sentence_follows_the_interval(near, far, verdict):
    sentence = mistakes.nearness(near_and_far(near, far))["sentence"]
    assert verdict in sentence
    if not far:
        assert "wu_palmer: 0.88, by chance 0.55; difference 0.329, 95 % interval 0.329 to 0.329" in sentence


def test_examples_come_nearest_first_and_once():
    classes = [
        "n02123045",
        "n02125311",
        "n04398044",
        "n04596742",
        "n02085620",
        "n02094433",
        "n07749582",
        "n07753592",
    ]
    rows = table(classes, *[(one, other) for one in classes for other in classes])
    found = mistakes.nearness(rows)
    assert len(found["nearest"]) == len(found["farthest"]) == 5
    table_of_both = mistakes.examples(found)
    assert len(table_of_both) == 10 and table_of_both.wu_palmer.is_monotonic_decreasing
    every = [wordnet.wu_palmer(one, other) for one in classes for other in classes if one != other]
    assert table_of_both.wu_palmer.iloc[0] == max(every) and table_of_both.wu_palmer.iloc[-1] == min(every)


def test_where_nothing_can_be_measured_a_sentence_says_why():
    found = mistakes.nearness(ROWS)
    assert found == {
        "sentence": "Labels such as 'a' are no WordNet ids: nearness in meaning is not measured."
    }
    assert mistakes.examples(found).empty
    mixed = table([TABBY, COUGAR, "n00000001"], (TABBY, COUGAR))
    assert "'n00000001'" in mistakes.nearness(mixed)["sentence"]
    for rows in (table(CATS, (TABBY, TABBY)), table([TABBY, WOK], (TABBY, WOK), (WOK, WOK))):
        assert list(mistakes.nearness(rows)) == ["sentence"]


# The summary


@pytest.mark.parametrize(
    "rows", [ROWS, near_and_far(3, 1), table(LETTERS, *zip("abcde", "abcde", strict=True))]
)
def test_the_summary_is_plain_json(rows, tmp_path):
    found = mistakes.summary(rows, measured(rows))
    files.write_json(tmp_path / "metrics.json", found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert list(found) == ["n", "truth_in_top_3", "nearness", "most_accurate", "least_accurate", "confused"]
    assert found["n"] == (rows.label != rows.predicted).sum() == found["truth_in_top_3"]["mistakes"]


def test_the_summary_lists_the_extremes_first():
    rows = table(
        list("abcdefg"), *["aa"] * 3, *["bb"] * 2, "ba", *["cc", "cd"], *["da"] * 3, "ee", "ff", "gg"
    )
    found = mistakes.summary(rows, measured(rows))
    assert [row["label"] for row in found["most_accurate"]] == ["a", "e", "f", "g", "b"]
    assert [row["label"] for row in found["least_accurate"]] == ["d", "c", "b", "g", "f"]
    assert found["confused"][0] == {"label": "d", "predicted": "a", "photos": 3, "share": 1.0}
    assert set(found["most_accurate"][0]) == {"label", "n", "recall", "low", "high"}


# From the photos to the figures


def test_predictions_stand_beside_the_labels_of_their_own_photos(tmp_path):
    """Each photo shows its class as its colour, and the network names colours: any other order would show."""
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
    said = {
        split: inference.of_rows(network, photos, photos.rows(split), folder=tmp_path, batch_size=4)
        for split in ("train", "val", "test")
    }
    told = predictions.table(photos, said)
    assert len(told) == 45 and (told.label == told.predicted).all()
    assert (
        dict(zip(told.path, told.label, strict=True)) == rows[splits != ""].set_index("path").label.to_dict()
    )
    for split, values in said.items():
        assert metrics.report(photos.targets(split), values, photos.classes)["top_1"] == 1


@pytest.mark.parametrize("classes", [2, 6])
def test_the_figures_can_be_computed_again_from_the_files(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    names = LETTERS[:2] if classes == 2 else list("abcdef")
    random = np.random.default_rng(classes)
    targets = random.choice(classes, 400, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = random.normal(size=(400, classes)) + 1.2 * np.eye(classes)[targets]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    rows = pd.DataFrame({"path": [f"{index}.png" for index in range(400)], "label": np.take(names, targets)})
    photos = photoset.Photos(rows.assign(split="test"), np.zeros((400, 1, 1, 3), np.uint8), 1, names)
    told = predictions.table(photos, {"test": probabilities})
    report = metrics.report(photos.targets("test"), probabilities, names)
    predictions.write(told, tmp_path / "predictions.csv")
    files.write_json(tmp_path / "metrics.json", report | {"mistakes": mistakes.summary(told, report)})

    figures = json.loads((tmp_path / "metrics.json").read_text())
    file = pd.read_csv(tmp_path / "predictions.csv")
    said = file[[f"p({name})" for name in names]].to_numpy()
    said = said / said.sum(axis=1, keepdims=True)
    top = sk.top_k_accuracy_score(file.label, said, k=3, labels=names) if classes > 3 else 1.0
    auc = (
        sk.roc_auc_score(file.label, said[:, 1])
        if classes == 2
        else sk.roc_auc_score(file.label, said, multi_class="ovr")
    )
    options = {"y_true": file.label, "y_pred": file.predicted, "average": "weighted"}
    expected = {
        "n": 400,
        "top_1": sk.accuracy_score(file.label, file.predicted),
        "top_3": top,
        "precision_weighted": sk.precision_score(**options),
        "recall_weighted": sk.recall_score(**options),
        "f1_weighted": sk.f1_score(**options),
        "log_loss": sk.log_loss(file.label, said),
        "roc_auc": auc,
        "mcc": sk.matthews_corrcoef(file.label, file.predicted),
    }
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert 0.4 < figures["top_1"] < 0.95
    matrix = sk.confusion_matrix(file.label, file.predicted, labels=names)
    assert figures["mistakes"]["n"] == matrix.sum() - np.trace(matrix)
    if classes > 3:
        found = figures["mistakes"]["truth_in_top_3"]
        assert found["hits"] == round(400 * (expected["top_3"] - expected["top_1"]))
        np.fill_diagonal(matrix, 0)
        assert figures["mistakes"]["confused"][0]["photos"] == matrix.max()
