"""Metrics against scikit-learn, formulas and cases solved by hand."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

from lib.core import metrics

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


@pytest.fixture(autouse=True)
def resamples(monkeypatch):
    """Draw few resamples, for speed."""
    monkeypatch.setattr(metrics, "RESAMPLES", 25)


def example(seed=0, n=300, classes=7):
    """Draw targets, and probabilities that depend on them."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), targets] += 1.5
    return targets, special.softmax(logits, axis=1)


@pytest.mark.parametrize(("seed", "classes"), [(0, 7), (1, 3), (2, 2)])
def test_report_agrees_with_scikit_learn(seed, classes):
    targets, probabilities = example(seed, classes=classes)
    predicted = probabilities.argmax(axis=1)
    result = metrics.report(targets, probabilities, classes=NAMES[:classes])
    expected = {
        "n": 300,
        "top_1": sk.accuracy_score(targets, predicted),
        "precision_macro": sk.precision_score(targets, predicted, average="macro"),
        "recall_macro": sk.recall_score(targets, predicted, average="macro"),
        "f1_macro": sk.f1_score(targets, predicted, average="macro"),
        "precision_weighted": sk.precision_score(targets, predicted, average="weighted"),
        "recall_weighted": sk.recall_score(targets, predicted, average="weighted"),
        "f1_weighted": sk.f1_score(targets, predicted, average="weighted"),
        "log_loss": sk.log_loss(targets, probabilities),
        "mcc": sk.matthews_corrcoef(targets, predicted),
        "top_3": sk.top_k_accuracy_score(targets, probabilities, k=3) if classes > 3 else 1.0,
        "top_5": sk.top_k_accuracy_score(targets, probabilities, k=5) if classes > 5 else 1.0,
    }
    one_against_rest = [
        sk.roc_auc_score(targets == index, probabilities[:, index]) for index in range(classes)
    ]
    expected["roc_auc"] = np.mean(one_against_rest)
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    table = sk.classification_report(targets, predicted, target_names=NAMES[:classes], output_dict=True)
    for name in NAMES[:classes]:
        row = table[name]
        expected = {
            "n": row["support"],
            "precision": row["precision"],
            "recall": row["recall"],
            "f1": row["f1-score"],
        }
        assert result["classes"][name] == pytest.approx(expected)


def test_report_takes_float32_whose_rows_do_not_quite_sum_to_one():
    targets, probabilities = example()
    result = metrics.report(targets, probabilities.astype(np.float32), classes=NAMES)
    exact = metrics.report(targets, probabilities, classes=NAMES)
    assert (result["roc_auc"], result["log_loss"]) == pytest.approx(
        (exact["roc_auc"], exact["log_loss"]), abs=1e-5
    )


def test_report_without_any_photo_of_a_class():
    targets, probabilities = example(classes=4)
    keep = targets != 2
    result = metrics.report(targets[keep], probabilities[keep], classes=NAMES[:4])
    assert result["roc_auc"] is None
    assert result["classes"]["c"]["n"] == 0 and result["classes"]["c"]["recall"] == 0
    assert list(result["classes"]) == NAMES[:4]


def test_report_if_only_one_class_is_predicted():
    targets = np.array([0, 0, 0, 1])
    result = metrics.report(targets, np.array([[0.9, 0.1]] * 4), classes=NAMES[:2])
    assert (result["top_1"], result["mcc"], result["recall_macro"], result["precision_macro"]) == (
        0.75,
        0,
        0.5,
        0.375,
    )
    assert result["roc_auc"] == 0.5
    assert result["classes"]["b"] == {"n": 1, "precision": 0, "recall": 0, "f1": 0}


def test_report_without_some_photos():
    targets, probabilities = example(n=40)
    left_out = np.arange(40) < 10
    result = metrics.report_without(left_out, targets, probabilities=probabilities, classes=NAMES)
    assert result == metrics.report(targets[10:], probabilities[10:], classes=NAMES) and result["n"] == 30
    for every in (left_out & False, left_out | True):
        assert metrics.report_without(every, targets, probabilities=probabilities, classes=NAMES) is None


def test_the_headline_marks_val_as_used_for_selection():
    result = metrics.report(
        np.array([0, 1, 1, 1]), np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]), classes=NAMES[:2]
    )
    assert metrics.headline(result, "test") == "top-1 on test: 0.750, 95 % interval 0.301 to 0.954, 4 photos"
    assert metrics.headline(result, "val").startswith("top-1 on validation, used for selection: 0.750,")


def test_report_is_plain_numbers():
    targets, probabilities = example(n=20)

    def plain(value):
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        return (
            all(map(plain, value))
            if isinstance(value, list)
            else value is None or type(value) in (int, float)
        )

    assert plain(metrics.report(targets, probabilities, classes=NAMES))


def test_a_wrong_prediction_of_probability_zero_has_a_finite_loss():
    result = metrics.report(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), classes=NAMES[:2])
    assert result["log_loss"] == pytest.approx(-np.log(1e-7) / 2)


def test_top_hits_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]])
    targets = np.array([1, 0, 2])
    assert metrics.top_hits(targets, probabilities, k=1).tolist() == [False, False, False]
    # Of equal probabilities, the first class counts.
    assert metrics.top_hits(targets, probabilities, k=2).tolist() == [True, False, False]
    for k in (3, 5):
        assert metrics.top_hits(targets, probabilities, k=k).all()


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (81, 263), (1, 2), (950, 1000)])
def test_interval_is_wilsons(hits, n):
    z, proportion = 1.959963984540054, hits / n
    centre = (proportion + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert metrics.interval(hits, n) == pytest.approx(
        [max(0, centre - half), min(1, centre + half)], abs=1e-9
    )


def test_interval_as_in_the_literature():
    # Newcombe (1998), table I.
    assert metrics.interval(81, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)


def test_intervals_hold_the_values_and_are_repeatable():
    targets, probabilities = example(n=80)
    result = metrics.report(targets, probabilities, classes=NAMES, seed=3)
    assert set(result["intervals"]) == {"top_1", "top_3", "top_5", "f1_macro", "mcc", "log_loss"}
    for key, (low, high) in result["intervals"].items():
        assert low < result[key] < high, key
    assert metrics.report(targets, probabilities, classes=NAMES, seed=3) == result
    assert (
        metrics.report(targets, probabilities, classes=NAMES, seed=4)["intervals"]["mcc"]
        != result["intervals"]["mcc"]
    )


def test_the_bootstrap_of_the_log_loss_is_about_its_standard_error(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    targets, probabilities = example(n=400)
    losses = -np.log(probabilities[np.arange(400), targets])
    low, high = metrics.report(targets, probabilities, classes=NAMES)["intervals"]["log_loss"]
    assert (high - low) / 2 == pytest.approx(1.96 * losses.std() / 20, rel=0.25)


def test_calibration_error_by_hand():
    # Ten photos at 0.9, eight classified correctly: a gap of 0.1.
    first = np.array([[0.9, 0.1]] * 10)
    assert metrics.calibration_error(np.array([0] * 8 + [1] * 2), first) == pytest.approx(0.1)
    # Ten photos at 0.55, one classified correctly: a gap of 0.45.
    both = np.vstack([first, [[0.55, 0.45]] * 10])
    targets = np.array([0] * 8 + [1] * 2 + [0] + [1] * 9)
    assert metrics.calibration_error(targets, both) == pytest.approx(0.5 * 0.1 + 0.5 * 0.45)
    assert metrics.calibration_error(np.array([0, 1]), np.eye(2)) == 0
    assert metrics.calibration_error(np.array([1, 0]), np.eye(2)) == 1


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        # Opposite gaps in one bin, from 9/15 to 10/15, cancel.
        ((0.61, 0.66), 0.135),
        # The edge belongs to the lower bin.
        ((0.62, 0.65), 0.135),
        # Two bins, which meet at 10/15.
        ((0.66, 0.67), 0.505),
    ],
)
def test_calibration_error_has_fifteen_bins(confidences, expected):
    # The first photo of each pair is classified correctly, the second is not.
    probabilities = np.array([[confidence, 1 - confidence] for confidence in confidences])
    assert metrics.calibration_error(np.array([0, 1]), probabilities) == pytest.approx(expected)


def test_calibration_error_weighs_its_bins():
    targets, probabilities = example(n=500)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.calibration_error(targets, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_temperature_recovers_a_known_one(known):
    random = np.random.default_rng(0)
    logits = random.normal(scale=2, size=(20_000, 5))
    # Targets are drawn from softmax(logits).
    targets = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    result = metrics.temperature(targets, special.softmax(logits * known, axis=1))
    assert result == pytest.approx(known, rel=0.05)


def test_temperature_lowers_the_log_loss():
    targets, probabilities = example(n=500)
    sharp = metrics.apply_temperature(probabilities, 0.3)
    better = metrics.apply_temperature(sharp, metrics.temperature(targets, sharp))
    assert sk.log_loss(targets, better) < sk.log_loss(targets, sharp)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_of_correct_predictions_is_that_of_the_smoothed_targets(classes):
    # All photos have the logit 3 for the true class and 0 for the others: the best temperature makes the
    # probability of the true class that of its smoothed target.
    targets = np.arange(10) % classes
    smoothing = 1 / 12
    expected = 3 / np.log((1 - smoothing) * (classes - 1) / smoothing)
    assert metrics.temperature_of_logits(targets, 3 * np.eye(classes)[targets]) == pytest.approx(
        expected, rel=1e-3
    )


def test_temperature_is_from_0_05_to_20():
    targets = np.array([0, 1] * 2000)
    nearly_equal = np.where(np.eye(2)[targets] > 0, 0.5001, 0.4999)
    assert metrics.temperature(targets, nearly_equal) == pytest.approx(0.05, rel=1e-3)
    assert metrics.temperature(1 - targets, nearly_equal) == pytest.approx(20, rel=1e-3)
    assert metrics.temperature_of_logits(1 - targets, np.log(nearly_equal)) == pytest.approx(1e4, rel=1e-3)


def test_apply_temperature_is_softmax_of_divided_logits():
    logits = np.random.default_rng(1).normal(size=(50, 6))
    for value in (0.2, 1.0, 3.0):
        result = metrics.apply_temperature(special.softmax(logits, axis=1), value)
        np.testing.assert_allclose(result, special.softmax(logits / value, axis=1), atol=1e-12)
        assert result.dtype == np.float64 and (result.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_apply_temperature_of_certainty_and_of_nothing():
    result = metrics.apply_temperature(np.array([[1.0, 0.0, 0.0]], np.float32), 0.05)
    assert np.isfinite(result).all() and result.sum() == pytest.approx(1) and result[0, 0] > 0.999
    assert metrics.apply_temperature(np.zeros((0, 3)), 2.0).shape == (0, 3)


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_the_values_of_a_confusion_matrix_are_those_of_scikit_learn(classes):
    random = np.random.default_rng(classes)
    targets = random.integers(0, classes, 60)
    predicted = np.where(random.random(60) < 0.7, targets, random.integers(0, classes, 60))
    matrix = sk.confusion_matrix(targets, predicted, labels=range(classes))
    assert metrics.macro_f1(matrix) == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert metrics.matthews(matrix) == pytest.approx(sk.matthews_corrcoef(targets, predicted))


def test_the_temperature_of_logits_that_are_far_apart():
    random = np.random.default_rng(0)
    targets = random.integers(0, 5, 400)
    logits = random.normal(0, 1, (400, 5))
    logits[np.arange(400), targets] += 2
    plain = metrics.temperature_of_logits(targets, logits)
    assert metrics.temperature_of_logits(targets, 300 * logits) == pytest.approx(300 * plain, rel=1e-2)
    assert metrics.temperature(targets, special.softmax(logits, axis=1)) == pytest.approx(plain, rel=1e-2)
    # The minimum of the log loss by brute force; the targets are hardly smoothed.
    grid = np.linspace(0.5, 2, 400)
    losses = [-special.log_softmax(logits / value, axis=1)[np.arange(400), targets].mean() for value in grid]
    assert plain == pytest.approx(grid[np.argmin(losses)], rel=0.05)
