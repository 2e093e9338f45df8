"""Metrics of predictions, with confidence intervals, from scikit-learn and SciPy."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn import metrics as sk

BINS = 15
RESAMPLES = 400
CONFIDENCE = 0.95
# Lower bound of probabilities, so that their logarithms are finite.
EPSILON = 1e-7
# Names of the splits in headlines and titles.
SPLITS = {"train": "train", "val": "validation, used for selection", "test": "test"}


class ClassReport(TypedDict):
    """Metrics of a class: its number of photos, and fractions from 0 to 1."""

    n: int
    precision: float
    recall: float
    f1: float


class Report(TypedDict):
    """Metrics of a split, see the function `report`."""

    n: int
    top_1: float
    top_3: float
    top_5: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    precision_weighted: float
    recall_weighted: float
    f1_weighted: float
    log_loss: float
    roc_auc: float | None
    mcc: float
    calibration_error: float
    intervals: dict[str, list[float]]
    classes: dict[str, ClassReport]


def report(
    targets: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], seed: int = 0
) -> Report:
    """Compute the metrics of predictions.

    Args:
        targets: the true classes, `int64` of shape `(n,)`.
        probabilities: `float` of shape `(n, classes)`, rows that sum to 1.
        classes: names of the classes.
        seed: seed of the bootstrap.

    Returns:
        `n`, the number of photos; `top_1`, `top_3` and `top_5` accuracy; `precision`, `recall` and `f1`, each
        `_macro` and `_weighted`; `log_loss`; `roc_auc` (one-vs-rest, macro average; None if a class has no
        photo); `mcc`, the Matthews correlation coefficient; `calibration_error`; `intervals`, the 95 %
        confidence intervals of `top_1`, `top_3` and `top_5` (Wilson), `f1_macro`, `mcc` and `log_loss`
        (percentile bootstrap); `classes`, the `n`, `precision`, `recall` and `f1` of each class by name.
        Fractions are from 0 to 1.
    """
    predicted = probabilities.argmax(axis=1)
    hits = {k: top_hits(targets, probabilities, k=k) for k in (1, 3, 5)}
    macro = _averaged(targets, predicted, average="macro")
    weighted = _averaged(targets, predicted, average="weighted")
    wilson = {f"top_{k}": interval(int(hit.sum()), len(hit)) for k, hit in hits.items()}
    return {
        "n": len(targets),
        "top_1": float(hits[1].mean()),
        "top_3": float(hits[3].mean()),
        "top_5": float(hits[5].mean()),
        "precision_macro": macro[0],
        "recall_macro": macro[1],
        "f1_macro": macro[2],
        "precision_weighted": weighted[0],
        "recall_weighted": weighted[1],
        "f1_weighted": weighted[2],
        "log_loss": float(log_losses(targets, probabilities).mean()),
        "roc_auc": _roc_auc(targets, probabilities),
        "mcc": float(sk.matthews_corrcoef(targets, predicted)),
        "calibration_error": calibration_error(targets, probabilities),
        "intervals": wilson | _bootstrap(targets, probabilities, seed=seed),
        "classes": _per_class(targets, predicted, classes=classes),
    }


def report_without(
    left_out: np.ndarray,
    targets: np.ndarray,
    *,
    probabilities: np.ndarray,
    classes: Sequence[str],
    seed: int = 0,
) -> Report | None:
    """Compute the metrics without some photos, such as leaks; None if no photo or every photo is left out.

    Args:
        left_out: photos to leave out, `bool` of shape `(n,)`.
        targets, probabilities, classes, seed: see `report`.
    """
    if not 0 < left_out.sum() < len(left_out):
        return None
    return report(targets[~left_out], probabilities[~left_out], classes=classes, seed=seed)


def headline(report: Report, split: str) -> str:
    """Return the top-1 accuracy of a network with its interval, as a line of text.

    Args:
        report: metrics of the split.
        split: `train`, `val` or `test`; for val, the text adds that it was used for selection.
    """
    low, high = report["intervals"]["top_1"]
    interval = f"95 % interval {low:.3f} to {high:.3f}"
    return f"top-1 on {SPLITS[split]}: {report['top_1']:.3f}, {interval}, {report['n']} photos"


def _averaged(targets: np.ndarray, predicted: np.ndarray, *, average: str) -> tuple[float, float, float]:
    """Return precision, recall and F1, averaged over the classes that occur as target or prediction."""
    present = np.unique(np.concatenate([targets, predicted]))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        targets, predicted, average=average, zero_division=0, labels=present
    )
    return float(precision), float(recall), float(f1)


def top_hits(targets: np.ndarray, probabilities: np.ndarray, *, k: int) -> np.ndarray:
    """Return whether each photo's class is among the `k` most probable classes, `bool` of shape `(n,)`."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return (best == np.asarray(targets)[:, None]).any(axis=1)


def interval(hits: int, n: int) -> list[float]:
    """Return the 95 % Wilson interval of a proportion, as `[low, high]`."""
    wilson = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return [float(wilson.low), float(wilson.high)]


def calibration_error(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, from 0 to 1.

    Each bin is weighted by its number of photos (Guo et al., 2017, https://arxiv.org/abs/1706.04599).
    """
    bins = calibration_bins(targets, probabilities)
    return float(((bins.accuracy - bins.confidence).abs() * bins.photos).sum() / len(targets))


def calibration_bins(targets: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Compute the mean confidence and the accuracy in 15 confidence bins of equal width.

    Returns:
        One row per non-empty bin, in order: `confidence`, `accuracy` (0 to 1) and `photos` (a count).
    """
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    table = pd.DataFrame({"confidence": confidence, "accuracy": probabilities.argmax(axis=1) == targets})
    by_bin = table.astype(float).groupby(bins)
    return by_bin.mean().assign(photos=by_bin.size())


def temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Fit the temperature that calibrates the probabilities of a network (Guo et al., 2017).

    It minimizes the log loss with smoothed targets (Platt, 1999): `1 - 1 / (n + 2)` for the true class, and
    the rest divided evenly among the other classes. Without smoothing, the temperature would approach 0 if
    all photos are classified correctly.

    Args:
        targets: `int64` of shape `(n,)`, the true classes of photos that were not used for training.
        probabilities: `float` of shape `(n, classes)`.

    Returns:
        A number from 0.05 to 20: below 1 if the network is underconfident, above 1 if it is overconfident.
    """
    return temperature_of_logits(targets, np.log(np.maximum(probabilities, EPSILON)), maximum=20)


def temperature_of_logits(targets: np.ndarray, logits: np.ndarray, *, maximum: float = 1e4) -> float:
    """Fit the temperature as in `temperature`, but for logits of any range.

    Args:
        targets: see `temperature`.
        logits: `float` of shape `(n, classes)`, finite.
        maximum: maximum of the temperature; the minimum is 0.05.
    """
    smoothing = 1 / (len(targets) + 2)
    soft = np.full(logits.shape, smoothing / (logits.shape[1] - 1))
    soft[np.arange(len(targets)), targets] = 1 - smoothing

    def loss(logarithm: float) -> float:
        return -(soft * special.log_softmax(logits / np.exp(logarithm), axis=1)).sum(axis=1).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=np.log([0.05, maximum]), method="bounded").x))


def apply_temperature(probabilities: np.ndarray, value: float) -> np.ndarray:
    """Apply a temperature to probabilities: values below 1 sharpen them, values above 1 soften them.

    Args:
        probabilities: `float` of shape `(n, classes)`.
        value: the temperature.

    Returns:
        Softmax of the logits divided by the temperature, `float64` of the same shape; rows sum to 1. The
        order of the classes does not change.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), EPSILON))
    return special.softmax(logits / value, axis=1)


def log_losses(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of the true class of each photo, `float64` of shape `(n,)`."""
    own = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return -np.log(np.maximum(own, EPSILON))


def _roc_auc(targets: np.ndarray, probabilities: np.ndarray) -> float | None:
    if len(np.unique(targets)) < probabilities.shape[1]:
        return None
    if probabilities.shape[1] == 2:
        return float(sk.roc_auc_score(targets, probabilities[:, 1]))
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(sk.roc_auc_score(targets, normalized, multi_class="ovr"))


def _bootstrap(targets: np.ndarray, probabilities: np.ndarray, *, seed: int) -> dict[str, list[float]]:
    """Return percentile intervals of metrics over photos resampled with replacement.

    F1 and MCC are computed from multinomial draws of the confusion matrix, whose cost does not depend on the
    number of photos.
    """
    random = np.random.default_rng(seed)
    n, k = len(targets), probabilities.shape[1]
    cells = np.bincount(targets * k + probabilities.argmax(axis=1), minlength=k * k)
    draws = random.multinomial(n, cells / n, size=RESAMPLES).reshape(-1, k, k)
    losses = log_losses(targets, probabilities)
    values = {
        "f1_macro": [macro_f1(matrix) for matrix in draws],
        "mcc": [matthews(matrix) for matrix in draws],
        "log_loss": [losses[random.integers(0, n, n)].mean() for _ in range(RESAMPLES)],
    }
    tail = 50 * (1 - CONFIDENCE)
    return {name: np.percentile(value, [tail, 100 - tail]).tolist() for name, value in values.items()}


def macro_f1(matrix: np.ndarray) -> float:
    """Return the mean F1 over the classes that occur as target or prediction in a confusion matrix.

    Args:
        matrix: counts of shape `(classes, classes)`, true classes in rows.
    """
    sums = matrix.sum(axis=0) + matrix.sum(axis=1)
    present = sums > 0
    return float((2 * np.diag(matrix)[present] / sums[present]).mean())


def matthews(matrix: np.ndarray) -> float:
    """Return the multiclass Matthews correlation coefficient of a confusion matrix, as in scikit-learn.

    Args:
        matrix: counts of shape `(classes, classes)`, true classes in rows.

    Returns:
        A number from -1 to 1; 0 if all targets or all predictions are of the same class.
    """
    true, predicted = matrix.sum(axis=1).astype(float), matrix.sum(axis=0).astype(float)
    n = float(matrix.sum())
    variances = (n**2 - true @ true) * (n**2 - predicted @ predicted)
    return float((np.trace(matrix) * n - true @ predicted) / np.sqrt(variances)) if variances else 0.0


def _per_class(
    targets: np.ndarray, predicted: np.ndarray, *, classes: Sequence[str]
) -> dict[str, ClassReport]:
    values = sk.precision_recall_fscore_support(
        targets, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        name: {"n": int(n), "precision": float(precision), "recall": float(recall), "f1": float(f1)}
        for name, precision, recall, f1, n in zip(classes, *values, strict=True)
    }
