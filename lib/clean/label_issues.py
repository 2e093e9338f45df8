"""Label issues: labels that models which never saw the photo find unlikely, the most doubtful first.

Linear discriminant analysis and a vote of the nearest neighbours, combined, ranked flipped labels better
than a logistic regression, at a tenth of its time, and better than either of the two alone; dropping or
down-weighting the label issues and fitting again made it worse. `benchmarks/label_errors.py` measures it.
"""

import warnings
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import sklearn
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from lib.core import metrics
from lib.photos import labels

FOLDS = 5
# Principal components of the embeddings that are kept.
COMPONENTS = 512
# Of the covariance within classes, towards equal variances.
SHRINKAGE = 0.3
NEIGHBOURS = 80
# Of cosines: a neighbour whose cosine is 0.1 lower has a vote of 1 / e.
TEMPERATURE = 0.1
# Added to the votes of each class, so that they are never quite unanimous.
FLOOR = 1e-3
# Photos that are projected at a time, which bounds the memory.
ROWS_AT_ONCE = 256
# MiB of the matrix of distances between photos that is in memory at a time.
DISTANCES_IN_MEMORY = 256
# Probabilities: a photo is a label issue if its own label has at most the first, and another label at
# least the second. After 5 % of the labels were flipped, these limits find about 80 % of the flips on
# flowers, 92 % on butterflies and 81 % on birds against butterflies, and about 75, 96 and 99 % of what they
# flag are flips. Of 100 kinds of birds with four photos each, whose labels such models cannot judge, they
# flag 1 %.
LABEL_AT_MOST, SUGGESTED_AT_LEAST = 0.1, 0.5
COLUMNS = [
    "row",
    "label",
    "suggested",
    "score",
    "given_probability",
    "suggested_probability",
    "is_label_issue",
]


def rank(
    vectors: np.ndarray, given_labels: Sequence[str], *, groups: Sequence[int] | np.ndarray, seed: int
) -> pd.DataFrame:
    """Rank photos by how doubtful their labels are.

    Each fifth of the photos is classified by two models of the other four: linear discriminant analysis,
    and a vote of the nearest neighbours. Their probabilities are combined by the geometric mean and
    calibrated on all the photos. Near-duplicates are in one fifth: a copy with the same wrong label is no
    evidence.

    Args:
        vectors: `float32` of shape `(n, channels)`, none negative, the result of `embeddings.compute`.
        given_labels: the label of each photo.
        groups: near-duplicates share a number.
        seed: draws the fifths; a whole number from 0 up.

    Returns:
        A table of n rows, the most doubtful first: `row` (index into the arguments), `label`, `suggested`
        (the most likely other label), `score` (0 to 1: the probability of the suggested label were it one of
        the two), `given_probability`, `suggested_probability` and `is_label_issue` (`bool`). A photo is not
        judged, has score 0 and no suggestion, if all photos of its class are near-duplicates of it.

    Raises:
        ValueError: there are fewer than two labels, or not as many labels and groups as vectors.
    """
    classes = labels.classes(given_labels)
    if len(classes) < 2 or not len(vectors) == len(given_labels) == len(groups):
        raise ValueError(
            "expected embeddings, labels and groups of the same photos, of two classes or more. Received: "
            f"{len(vectors)}, {len(given_labels)} and {len(groups)}, of {len(classes)} classes"
        )
    targets = labels.targets(given_labels, classes)
    fold_of = folds(targets, np.asarray(groups), seed=seed)
    probabilities = out_of_fold_probabilities(pca(vectors), targets, folds=fold_of, classes=len(classes))
    table = _ranked(probabilities, targets, names=np.array([*classes, ""], dtype=object))
    unlikely = table.given_probability.le(LABEL_AT_MOST)
    table["is_label_issue"] = unlikely & table.suggested_probability.ge(SUGGESTED_AT_LEAST)
    return table[COLUMNS]


def of_table(
    table: pd.DataFrame, vectors: np.ndarray | None, *, seed: int, settled: Collection[str] = ()
) -> pd.DataFrame:
    """Rank the kept, labelled photos of a manifest.

    Args:
        table: the manifest.
        vectors: `float32` of shape `(rows of the manifest, channels)`; `None`: no photo is judged.
        seed: as `rank`.
        settled: paths of photos on which a person has decided: they are no label issues any more.

    Returns:
        The table of `rank`, `row` being the row of the manifest, and the photo's `path`.
    """
    if vectors is None:
        return pd.DataFrame(columns=[COLUMNS[0], "path", *COLUMNS[1:]]).astype({"is_label_issue": bool})
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    # If all photos are kept, the vectors are read from disk a part at a time.
    some = vectors if len(rows) == len(table) else vectors[rows]
    ranked = rank(some, list(kept.label), groups=kept.cluster.to_numpy(), seed=seed)
    ranked["row"] = rows[ranked.row]
    ranked.insert(1, "path", table.path.to_numpy()[ranked.row])
    ranked["is_label_issue"] &= ~ranked.path.isin(list(settled))
    return ranked


def _ranked(probabilities: np.ndarray, targets: np.ndarray, *, names: np.ndarray) -> pd.DataFrame:
    """Return the columns of `rank` but the last, sorted; the last of the names stands for no suggestion."""
    rows = np.arange(len(targets))
    given = probabilities[rows, targets]
    others = probabilities.copy()
    others[rows, targets] = -1
    best = np.where(np.isnan(given), -1, others.argmax(axis=1))
    suggested = np.where(np.isnan(given), np.nan, others[rows, best])
    table = pd.DataFrame({"row": rows, "label": names[targets], "suggested": names[best]})
    table["score"] = np.nan_to_num(suggested / (suggested + given))
    table["given_probability"], table["suggested_probability"] = given, suggested
    # Sorted by the odds: the score has no room beyond 1 - 1e-16.
    odds = np.nan_to_num(np.log(given) - np.log(suggested), nan=np.inf)
    return table.iloc[np.argsort(odds, kind="stable")].reset_index(drop=True)


def folds(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Divide photos into folds: each class evenly, each group into one.

    Args:
        targets: `int64` of shape `(n,)`, the class of each photo.
        groups: `int64` of shape `(n,)`.
        seed: draws the folds.

    Returns:
        `int64` of shape `(n,)`, the fold of each photo, from 0 to 4; fewer folds if there are not five
        groups, or not five photos of any class.
    """
    result = np.zeros(len(targets), np.int64)
    count = min(FOLDS, int(np.bincount(targets).max()), len(np.unique(groups)))
    if count < 2:
        return result
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class of fewer photos than folds is missing in some of them, as it must.
        warnings.filterwarnings("ignore", "The least populated class")
        for number, (_, test) in enumerate(splitter.split(targets, targets, groups)):
            result[test] = number
    return result


def pca(vectors: np.ndarray) -> np.ndarray:
    """Project embeddings onto the principal components of their square roots.

    The square root of a vector of length 1 tames channels that a few photos fire strongly; principal
    components need no labels, so that all photos may be used.

    Args:
        vectors: `float32` of shape `(n, channels)`; negative values count as 0.

    Returns:
        `float32` of shape `(n, at most 512)`, centred, with a mean square of about 1 a channel before the
        cut.
    """
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(vectors), ROWS_AT_ONCE)]

    def roots(part: slice) -> np.ndarray:
        return np.sqrt(np.maximum(normalize(vectors[part]), 0))

    mean = sum(roots(part).sum(axis=0, dtype=np.float64) for part in parts) / len(vectors)
    mean = mean.astype(np.float32)
    covariance = sum((roots(part) - mean).T @ (roots(part) - mean) for part in parts) / len(vectors)
    scale = np.sqrt(np.trace(covariance) / len(mean)) or 1
    components = np.linalg.eigh(covariance)[1][:, ::-1][:, :COMPONENTS] / scale
    return np.concatenate([(roots(part) - mean) @ components for part in parts])


def out_of_fold_probabilities(
    values: np.ndarray, targets: np.ndarray, *, folds: np.ndarray, classes: int
) -> np.ndarray:
    """Predict the classes of each photo by models that saw neither it nor its near-duplicates.

    Args:
        values: `float32` of shape `(n, d)`.
        targets: `int64` of shape `(n,)`, the class of each photo.
        folds: `int64` of shape `(n,)`, the fold of each photo.
        classes: number of classes.

    Returns:
        `float64` of shape `(n, classes)`, each row of sum 1, calibrated; NaN in the rows of photos whose
        class has no photo in another fold, and if the other folds hold a single class or one photo of each.
    """
    result = np.full((len(values), classes), np.nan)
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        if not 2 <= len(np.unique(targets[train])) < train.sum():
            continue
        known, known_targets, unknown = values[train], targets[train], values[test]
        logits = lda_log_probabilities(known, known_targets, test=unknown, classes=classes)
        votes = knn_probabilities(known, known_targets, test=unknown, classes=classes)
        logits = (logits + np.log(votes)) / 2
        logits[~np.isin(targets[test], targets[train])] = np.nan
        result[test] = logits
    judged = ~np.isnan(result[:, 0])
    if judged.any():
        result[judged] = _calibrated(targets[judged], result[judged])
    return result


def _calibrated(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits at the temperature that suits them best."""
    # Minus infinity stands for a class without a training photo.
    logits = np.maximum(logits, logits[np.isfinite(logits)].min())
    temperature = metrics.temperature_of_logits(targets, logits)
    return softmax(logits / temperature, axis=1)


def lda_log_probabilities(
    train: np.ndarray, targets: np.ndarray, *, test: np.ndarray, classes: int
) -> np.ndarray:
    """Predict by linear discriminant analysis with a shrunk covariance.

    Args:
        train: `float32` of shape `(n, d)`: more photos than classes, of two classes or more.
        targets: `int64` of shape `(n,)`, the class of each.
        test: `float32` of shape `(m, d)`.
        classes: number of classes.

    Returns:
        Logarithms of the probabilities, `float64` of shape `(m, classes)`; minus infinity for a class
        without photos. Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.3.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    with warnings.catch_warnings():
        # A class of one photo adds nothing to the covariance within classes, as it must.
        warnings.filterwarnings("ignore", "Only one sample available")
        model.fit(train, targets)
    result = np.full((len(test), classes), -np.inf)
    result[:, model.classes_] = model.predict_log_proba(test)
    return result


def knn_probabilities(
    train: np.ndarray, targets: np.ndarray, *, test: np.ndarray, classes: int
) -> np.ndarray:
    """Predict by the votes of the nearest neighbours, weighted by their cosines.

    Args:
        train, targets, test, classes: as `lda_log_probabilities`.

    Returns:
        `float64` of shape `(m, classes)`, each row of sum 1, none zero.
    """
    count = min(NEIGHBOURS, len(train))
    model = KNeighborsClassifier(count, weights=_weights, metric="cosine").fit(train, targets)
    result = np.full((len(test), classes), FLOOR)
    with sklearn.config_context(working_memory=DISTANCES_IN_MEMORY):
        result[:, model.classes_] += model.predict_proba(test)
    return result / result.sum(axis=1, keepdims=True)


def _weights(distances: np.ndarray) -> np.ndarray:
    """Return the weights of a photo's neighbours, by one minus their cosines."""
    return softmax(-distances / TEMPERATURE, axis=1)
