"""Find label issues: labels that are unlikely by out-of-fold predictions, ranked by how doubtful they are.

The combination of linear discriminant analysis and nearest neighbours ranked flipped labels better than
logistic regression, in a tenth of the time, and better than either of the two (`benchmarks/label_errors.py`).
Fitting again without the label issues, or with lower weights for them, made the ranking worse.
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
# Of cosines: the weight of a neighbour falls by a factor of e when its cosine is 0.1 lower.
TEMPERATURE = 0.1
# Added to the probability of each class, so that none is 0.
FLOOR = 1e-3
# Photos that are projected at a time, to limit the memory.
ROWS_AT_ONCE = 256
# MiB of the matrix of distances between photos that is in memory at a time.
DISTANCES_IN_MEMORY = 256
# Limits of a label issue: the largest probability of the label and the smallest of the suggested label. With
# 5 % of the labels flipped, they have a recall of about 0.80 on flowers, 0.92 on butterflies and 0.81 on
# birds against butterflies, and a precision of 0.75, 0.96 and 0.99. Of 100 species of birds with four photos
# each, too few for these models, they flag 1 %.
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

    The photos are divided into five folds. Each fold is predicted by two models that are fitted to the other
    four: linear discriminant analysis and nearest neighbours. Their probabilities are combined by the
    geometric mean and calibrated on all photos. Near-duplicates are in the same fold: a copy with the same
    wrong label is no evidence.

    Args:
        vectors: `float32` of shape `(n, channels)`, 0 or larger, the result of `embeddings.compute`.
        given_labels: the label of each photo.
        groups: the group of each photo, the same number for near-duplicates.
        seed: draws the folds; an integer of at least 0.

    Returns:
        A table of n rows, the most doubtful label first: `row` (index into the arguments), `label`,
        `suggested` (the most likely other label), `score` (0 to 1: the probability of the suggested label,
        divided by the sum for both labels), `given_probability`, `suggested_probability` and `is_label_issue`
        (`bool`). If all photos of a class are near-duplicates, they are not predicted: the score is 0, the
        suggestion empty and both probabilities NaN.

    Raises:
        ValueError: there are fewer than two labels, or the numbers of vectors, labels and groups differ.
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
    table: pd.DataFrame, vectors: np.ndarray | None, *, seed: int, settled: Collection[str]
) -> pd.DataFrame:
    """Rank the kept, labelled photos of a manifest.

    Args:
        table: the manifest.
        vectors: `float32` of shape `(rows of the manifest, channels)`; if `None`, the result is empty.
        seed: as `rank`.
        settled: paths of the photos on which a person has decided: they are not label issues.

    Returns:
        The table of `rank` with the row of the manifest as `row`, and the photo's `path`.
    """
    if vectors is None:
        return pd.DataFrame(columns=[COLUMNS[0], "path", *COLUMNS[1:]]).astype({"is_label_issue": bool})
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    # If all photos are kept, the vectors are read from disk a part at a time.
    kept_vectors = vectors if len(rows) == len(table) else vectors[rows]
    ranked = rank(kept_vectors, list(kept.label), groups=kept.cluster.to_numpy(), seed=seed)
    ranked["row"] = rows[ranked.row]
    ranked.insert(1, "path", table.path.to_numpy()[ranked.row])
    ranked["is_label_issue"] &= ~ranked.path.isin(list(settled))
    return ranked


def _ranked(probabilities: np.ndarray, targets: np.ndarray, *, names: np.ndarray) -> pd.DataFrame:
    """Return the columns of `rank` but `is_label_issue`, sorted; the last name means no suggestion."""
    rows = np.arange(len(targets))
    own = probabilities[rows, targets]
    others = probabilities.copy()
    others[rows, targets] = -1
    best = np.where(np.isnan(own), -1, others.argmax(axis=1))
    suggested = np.where(np.isnan(own), np.nan, others[rows, best])
    table = pd.DataFrame({"row": rows, "label": names[targets], "suggested": names[best]})
    table["score"] = np.nan_to_num(suggested / (suggested + own))
    table["given_probability"], table["suggested_probability"] = own, suggested
    # Sorted by the odds: scores that are rounded to 1 have different odds.
    odds = np.nan_to_num(np.log(own) - np.log(suggested), nan=np.inf)
    return table.iloc[np.argsort(odds, kind="stable")].reset_index(drop=True)


def folds(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Divide photos into folds that are stratified by class; each group is in a single fold.

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
        # A class of fewer photos than folds is missing in some of them, which is expected.
        warnings.filterwarnings("ignore", "The least populated class")
        for number, (_, test) in enumerate(splitter.split(targets, targets, groups)):
            result[test] = number
    return result


def pca(vectors: np.ndarray) -> np.ndarray:
    """Project embeddings onto the principal components of their square roots.

    The square root of a normalised vector reduces the weight of channels with large values in few photos.
    Principal components need no labels, so that they are fitted to all photos.

    Args:
        vectors: `float32` of shape `(n, channels)`; negative values count as 0.

    Returns:
        `float32` of shape `(n, min(512, channels))`, centred. The mean square of all components before the
        cut is 1.
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
    """Predict the class probabilities of each photo by models that are fitted to the other folds.

    Args:
        values: `float32` of shape `(n, d)`.
        targets: `int64` of shape `(n,)`, the class of each photo.
        folds: `int64` of shape `(n,)`, the fold of each photo.
        classes: number of classes.

    Returns:
        `float64` of shape `(n, classes)`, calibrated, with a sum of 1 in each row. NaN in the rows of photos
        whose class has no photo in another fold, and in a whole fold if the others have a single class or a
        single photo of each class.
    """
    result = np.full((len(values), classes), np.nan)
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        if not 2 <= len(np.unique(targets[train])) < train.sum():
            continue
        lda = lda_log_probabilities(values[train], targets[train], test=values[test], classes=classes)
        knn = knn_probabilities(values[train], targets[train], test=values[test], classes=classes)
        logits = (lda + np.log(knn)) / 2
        logits[~np.isin(targets[test], targets[train])] = np.nan
        result[test] = logits
    predicted = ~np.isnan(result[:, 0])
    if predicted.any():
        result[predicted] = _calibrated(targets[predicted], result[predicted])
    return result


def _calibrated(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits after temperature scaling."""
    # The logit of a class without a training photo is minus infinity.
    logits = np.maximum(logits, logits[np.isfinite(logits)].min())
    temperature = metrics.temperature_of_logits(targets, logits)
    return softmax(logits / temperature, axis=1)


def lda_log_probabilities(
    train: np.ndarray, targets: np.ndarray, *, test: np.ndarray, classes: int
) -> np.ndarray:
    """Predict log probabilities by linear discriminant analysis with a shrunk covariance.

    Args:
        train: `float32` of shape `(n, d)`: more photos than classes, of two classes or more.
        targets: `int64` of shape `(n,)`, the class of each.
        test: `float32` of shape `(m, d)`.
        classes: number of classes.

    Returns:
        `float64` of shape `(m, classes)`; minus infinity for a class without photos. Source: Hastie,
        Tibshirani and Friedman, The Elements of Statistical Learning, 4.3.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    with warnings.catch_warnings():
        # A class of one photo adds nothing to the covariance within classes, which is expected.
        warnings.filterwarnings("ignore", "Only one sample available")
        model.fit(train, targets)
    result = np.full((len(test), classes), -np.inf)
    result[:, model.classes_] = model.predict_log_proba(test)
    return result


def knn_probabilities(
    train: np.ndarray, targets: np.ndarray, *, test: np.ndarray, classes: int
) -> np.ndarray:
    """Predict probabilities by the nearest neighbours, weighted by their cosines.

    Args:
        train, targets, test, classes: as `lda_log_probabilities`.

    Returns:
        `float64` of shape `(m, classes)`, positive, with a sum of 1 in each row.
    """
    count = min(NEIGHBOURS, len(train))
    model = KNeighborsClassifier(count, weights=_weights, metric="cosine").fit(train, targets)
    result = np.full((len(test), classes), FLOOR)
    with sklearn.config_context(working_memory=DISTANCES_IN_MEMORY):
        result[:, model.classes_] += model.predict_proba(test)
    return result / result.sum(axis=1, keepdims=True)


def _weights(distances: np.ndarray) -> np.ndarray:
    """Return the weights of neighbours by their cosine distances, one row per photo, with a sum of 1."""
    return softmax(-distances / TEMPERATURE, axis=1)
