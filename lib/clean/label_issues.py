"""Find label issues: labels that are unlikely by out-of-fold predictions, ranked by how doubtful they are.

The combination of linear discriminant analysis and nearest neighbours ranked flipped labels better than
logistic regression, in a tenth of the time, and better than either of the two (`benchmarks/label_errors.py`).
Refitting without the label issues, or with lower weights for them, made the ranking worse.
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

from lib.clean import splits
from lib.core import metrics
from lib.photos import labels

FOLDS = 5
# Maximum number of principal components of the embeddings.
COMPONENTS = 512
# Shrinkage of the within-class covariance, 0 to 1.
SHRINKAGE = 0.3
NEIGHBOURS = 80
# Temperature of the cosine similarities, which are divided by it before the softmax.
TEMPERATURE = 0.1
# Constant that is added to the probability of each class, so that all are positive.
FLOOR = 1e-3
# Number of photos that are projected at a time, to limit the memory.
ROWS_AT_ONCE = 256
# Maximum memory for distances between photos, in MiB.
DISTANCES_IN_MEMORY = 256
# Thresholds of a label issue: maximum probability of the label and minimum of the suggested label. With
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
    geometric mean and calibrated on all photos. Near-duplicates are in the same fold, because a copy with the
    same wrong label would confirm it.

    Args:
        vectors: `float32` of shape `(n, channels)`, 0 or larger, the result of `embeddings.compute`.
        given_labels: the label of each photo.
        groups: the group of each photo; near-duplicates are in the same group.
        seed: seed of the random folds, 0 or larger.

    Returns:
        A table of n rows, the most doubtful label first: `row` (index into the arguments), `label`,
        `suggested` (the most probable other label), `score` (0 to 1: the probability of the suggested label,
        divided by the sum for both labels), `given_probability`, `suggested_probability` and `is_label_issue`
        (`bool`). If all photos of a class are near-duplicates, they have no prediction: the score is 0, the
        suggestion is empty, and both probabilities are NaN.

    Raises:
        ValueError: if there are fewer than two labels, or the numbers of vectors, labels and groups differ.
    """
    classes = labels.classes(given_labels)
    if len(classes) < 2 or not len(vectors) == len(given_labels) == len(groups):
        raise ValueError(
            "expected embeddings, labels and groups of the same photos, of at least two classes. Received: "
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
        seed: see `rank`.
        settled: paths of the photos that a user has reviewed; they are not label issues.

    Returns:
        The table of `rank`, in which `row` is the row of the manifest, and the column `path` is added.
    """
    if vectors is None:
        return pd.DataFrame(columns=[COLUMNS[0], "path", *COLUMNS[1:]]).astype({"is_label_issue": bool})
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    # If all photos are kept, the vectors are read from disk a part at a time.
    kept_vectors = vectors if len(rows) == len(table) else vectors[rows]
    ranked = rank(kept_vectors, list(kept.label), groups=splits.units(kept).to_numpy(), seed=seed)
    ranked["row"] = rows[ranked.row]
    ranked.insert(1, "path", table.path.to_numpy()[ranked.row])
    ranked["is_label_issue"] &= ~ranked.path.isin(list(settled))
    return ranked


def _ranked(probabilities: np.ndarray, targets: np.ndarray, *, names: np.ndarray) -> pd.DataFrame:
    """Return the sorted table of `rank` without `is_label_issue`; the last name is for no suggestion."""
    rows = np.arange(len(targets))
    own = probabilities[rows, targets]
    others = probabilities.copy()
    others[rows, targets] = -1
    best = np.where(np.isnan(own), -1, others.argmax(axis=1))
    suggested = np.where(np.isnan(own), np.nan, others[rows, best])
    table = pd.DataFrame({"row": rows, "label": names[targets], "suggested": names[best]})
    table["score"] = np.nan_to_num(suggested / (suggested + own))
    table["given_probability"], table["suggested_probability"] = own, suggested
    # Sorted by the odds, which differ even if the scores are rounded to 1.
    odds = np.nan_to_num(np.log(own) - np.log(suggested), nan=np.inf)
    return table.iloc[np.argsort(odds, kind="stable")].reset_index(drop=True)


def folds(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Divide photos into folds that are stratified by class. Each group is in a single fold.

    Args:
        targets: `int64` of shape `(n,)`, the class of each photo.
        groups: `int64` of shape `(n,)`, the group of each photo.
        seed: seed of the shuffling, 0 or larger.

    Returns:
        `int64` of shape `(n,)`, the fold of each photo, from 0 to 4. There are fewer folds if there are fewer
        than five groups, or fewer than five photos in every class.
    """
    result = np.zeros(len(targets), np.int64)
    count = min(FOLDS, int(np.bincount(targets).max()), len(np.unique(groups)))
    if count < 2:
        return result
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # It is expected that a class with fewer photos than folds is missing in some folds.
        warnings.filterwarnings("ignore", "The least populated class")
        for number, (_, test) in enumerate(splitter.split(targets, targets, groups)):
            result[test] = number
    return result


def pca(vectors: np.ndarray) -> np.ndarray:
    """Project embeddings onto the principal components of their square roots.

    The square root of a normalized vector reduces the weight of channels with large values in few photos.
    Principal components are unsupervised, so they can be fitted to all photos.

    Args:
        vectors: `float32` of shape `(n, channels)`; negative values count as 0.

    Returns:
        `float32` of shape `(n, min(512, channels))`, centred and scaled: the mean square of all components,
        before the last ones are dropped, is 1.
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
        `float64` of shape `(n, classes)`, calibrated; rows sum to 1. A row is NaN if the class of the photo
        does not occur in another fold, or if the other folds contain a single class or a single photo of each
        class.
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
        train: `float32` of shape `(n, d)`, with at least two classes and more photos than classes.
        targets: `int64` of shape `(n,)`, the class of each training photo.
        test: `float32` of shape `(m, d)`.
        classes: number of classes.

    Returns:
        `float64` of shape `(m, classes)`; minus infinity for a class without photos. Source: Hastie,
        Tibshirani and Friedman, The Elements of Statistical Learning, 4.3.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    with warnings.catch_warnings():
        # It is expected that a class with one photo does not contribute to the within-class covariance.
        warnings.filterwarnings("ignore", "Only one sample available")
        model.fit(train, targets)
    result = np.full((len(test), classes), -np.inf)
    result[:, model.classes_] = model.predict_log_proba(test)
    return result


def knn_probabilities(
    train: np.ndarray, targets: np.ndarray, *, test: np.ndarray, classes: int
) -> np.ndarray:
    """Predict probabilities with the nearest neighbours, weighted by cosine similarity.

    Args:
        train, targets, test, classes: see `lda_log_probabilities`.

    Returns:
        `float64` of shape `(m, classes)`, positive; rows sum to 1.
    """
    count = min(NEIGHBOURS, len(train))
    model = KNeighborsClassifier(count, weights=_weights, metric="cosine").fit(train, targets)
    result = np.full((len(test), classes), FLOOR)
    with sklearn.config_context(working_memory=DISTANCES_IN_MEMORY):
        result[:, model.classes_] += model.predict_proba(test)
    return result / result.sum(axis=1, keepdims=True)


def _weights(distances: np.ndarray) -> np.ndarray:
    """Return the weights of neighbours from their cosine distances, one row per photo; rows sum to 1."""
    return softmax(-distances / TEMPERATURE, axis=1)
