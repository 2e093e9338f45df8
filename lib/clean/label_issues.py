"""Labels that look wrong: what models that never saw a photo say of its label, the most doubtful first.

Linear discriminant analysis and the votes of neighbours, joined, ranked flipped labels better than a
logistic regression, at a tenth of its time, and than each of the two; dropping or down-weighing the
suspects and fitting again made it worse. `benchmarks/label_errors.py` measures it.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from lib.core import metrics
from lib.photos import labels

FOLDS = 5
COMPONENTS = 512  # of the embeddings' principal components
SHRINKAGE = 0.3  # of the covariance within classes, towards equal variances
NEIGHBOURS = 80
TEMPERATURE = 0.1  # of cosines: a neighbour whose cosine is 0.1 lower has a vote of 1 / e
FLOOR = 1e-3  # what each class has of the votes, so that they are never quite unanimous
ROWS_AT_ONCE = 256  # bounds the memory of the comparison: this many photos against all
COLUMNS = ["row", "label", "suggested", "score", "given_probability", "suggested_probability", "suspect"]


def rank(
    embeddings: np.ndarray,
    given_labels: Sequence[str],
    *,
    groups: Sequence[int],
    seed: int,
    given_at_most: float = 0.1,
    suggested_at_least: float = 0.5,
) -> pd.DataFrame:
    """Rank photos by how doubtful their labels are.

    Each fifth of the photos is judged by two models of the other four: linear discriminant analysis,
    and the votes of the nearest neighbours. Their probabilities are joined by the geometric mean and
    calibrated on all the photos. Near-duplicates are in one fifth: a copy with the same wrong label
    is no witness.

    Args:
        embeddings: `float32` of shape `(n, channels)`, none negative, as `embeddings.compute` gives.
        given_labels: the given label of each photo.
        groups: near-duplicates share a number.
        seed: draws the fifths; a whole number from 0 up.
        given_at_most, suggested_at_least: a photo is suspect where the given label has at most, and
            another at least, such a probability. After 5 % of the labels were flipped, these defaults find
            80 % of the flips on flowers, 92 % on butterflies and 81 % on birds against butterflies, and 76, 96
            and 99 % of what they flag are flips. Of 100 kinds of birds with four photos each, whose labels
            such models cannot judge, they flag 1 %.

    Returns:
        A table of n rows, the most doubtful first: `row` (index into the arguments), `label`,
        `suggested` (the most likely other label), `score` (0 to 1: the probability of the suggested
        label were it one of the two), `given_probability`, `suggested_probability` and `suspect`
        (`bool`). A photo is not judged, has score 0 and no suggestion, where all photos of its class
        are near-duplicates of it.

    Raises:
        ValueError: there are fewer than two labels, or not as many labels and groups as embeddings.
    """
    classes = labels.classes(given_labels)
    if len(classes) < 2 or not len(embeddings) == len(given_labels) == len(groups):
        raise ValueError(
            "expected embeddings, labels and groups of the same photos, of two classes or more. Received: "
            f"{len(embeddings)}, {len(given_labels)} and {len(groups)}, of {len(classes)} classes"
        )
    targets = pd.Categorical(given_labels, classes).codes.astype(np.int64)
    folds = divide(targets, np.asarray(groups), seed=seed)
    probabilities = probable(project(embeddings), targets, folds, classes=len(classes))
    table = _ranked(probabilities, targets, np.array([*classes, ""], dtype=object))
    table["suspect"] = table.given_probability.le(given_at_most) & table.suggested_probability.ge(
        suggested_at_least
    )
    return table[COLUMNS]


def of_table(
    table: pd.DataFrame, embeddings: np.ndarray | None, *, seed: int, settled: Collection[str] = ()
) -> pd.DataFrame:
    """Rank the kept, labelled photos of a manifest.

    Args:
        table: the manifest.
        embeddings: `float32` of shape `(rows of the manifest, channels)`; `None`: no photo is judged.
        seed: as `rank`.
        settled: paths of photos on which a person has decided: they are no suspects any more.

    Returns:
        What `rank` gives, `row` being the row of the manifest, and the photo's `path`.
    """
    if embeddings is None:
        return pd.DataFrame(columns=[COLUMNS[0], "path", *COLUMNS[1:]]).astype({"suspect": bool})
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    some = (
        embeddings if len(rows) == len(table) else embeddings[rows]
    )  # all are read from disk a part at a time
    found = rank(some, list(kept.label), groups=kept.cluster.to_numpy(), seed=seed)
    found["row"] = rows[found.row]
    found.insert(1, "path", table.path.to_numpy()[found.row])
    found["suspect"] &= ~found.path.isin(settled)
    return found


def _ranked(probabilities, targets, names_of) -> pd.DataFrame:
    rows = np.arange(len(targets))
    given = probabilities[rows, targets]
    others = probabilities.copy()
    others[rows, targets] = -1
    best = np.where(np.isnan(given), -1, others.argmax(axis=1))
    suggested = np.where(np.isnan(given), np.nan, others[rows, best])
    table = pd.DataFrame({"row": rows, "label": names_of[targets], "suggested": names_of[best]})
    table["score"] = np.nan_to_num(suggested / (suggested + given))
    table["given_probability"], table["suggested_probability"] = given, suggested
    odds = np.nan_to_num(
        np.log(given) - np.log(suggested), nan=np.inf
    )  # the score has no room beyond 1 - 1e-16
    return table.iloc[np.argsort(odds, kind="stable")].reset_index(drop=True)


def divide(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Deal photos into folds: each class evenly, each group into one.

    Args:
        targets: `int64` of shape `(n,)`, the class of each photo.
        groups: `int64` of shape `(n,)`.
        seed: draws the order.

    Returns:
        `int64` of shape `(n,)`, the fold of each photo, from 0 to 4.
    """
    first, of_group = np.unique(groups, return_index=True, return_inverse=True)[1:]
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), targets[first]))
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % FOLDS
    return folds[of_group]


def project(embeddings: np.ndarray) -> np.ndarray:
    """Bring embeddings to what the models work on.

    The square root of a vector of length 1 tames channels that a few photos fire strongly; the principal
    components need no labels, so that they may be found on all photos.

    Args:
        embeddings: `float32` of shape `(n, channels)`; what is negative counts as 0.

    Returns:
        `float32` of shape `(n, at most 512)`, centred, with a mean square of about 1 a channel before the cut.
    """
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(embeddings), ROWS_AT_ONCE)]

    def roots(part):
        return np.sqrt(np.maximum(_of_length_1(embeddings[part]), 0))

    mean = sum(roots(part).sum(axis=0, dtype=np.float64) for part in parts) / len(embeddings)
    mean = mean.astype(np.float32)
    covariance = sum((roots(part) - mean).T @ (roots(part) - mean) for part in parts) / len(embeddings)
    scale = np.sqrt(np.trace(covariance) / len(mean)) or 1
    directions = np.linalg.eigh(covariance)[1][:, ::-1][:, :COMPONENTS] / scale
    return np.concatenate([(roots(part) - mean) @ directions for part in parts])


def probable(values: np.ndarray, targets: np.ndarray, folds: np.ndarray, *, classes: int) -> np.ndarray:
    """Return the probability of each class for each photo, by models that saw neither it nor its near-duplicates.

    Args:
        values: `float32` of shape `(n, d)`.
        targets, folds: as `divide`.
        classes: number of classes.

    Returns:
        `float64` of shape `(n, classes)`, each row of sum 1, calibrated; NaN in the rows of photos
        of whose class none is in another fold.
    """
    result = np.full((len(values), classes), np.nan)
    for fold in np.unique(folds):
        asked, known = folds == fold, folds != fold
        if not known.any():  # one cluster of near-duplicates
            continue
        part = values[known], targets[known], values[asked]
        joined = (discriminant(*part, classes=classes) + np.log(votes(*part, classes=classes))) / 2
        joined[~np.isin(targets[asked], targets[known])] = np.nan
        result[asked] = joined
    judged = ~np.isnan(result[:, 0])
    if judged.any():
        logits = result[judged]  # minus infinity where a class has no photo to learn from
        logits = np.maximum(logits, logits[np.isfinite(logits)].min())
        heat = metrics.temperature_of_logits(targets[judged], logits)
        result[judged] = softmax(result[judged] / heat, axis=1)
    return result


def discriminant(known: np.ndarray, targets: np.ndarray, asked: np.ndarray, *, classes: int) -> np.ndarray:
    """Return what linear discriminant analysis with a shrunk covariance says.

    Args:
        known: `float32` of shape `(n, d)`, with their `targets`, `int64` of shape `(n,)`.
        asked: `float32` of shape `(m, d)`.
        classes: number of classes.

    Returns:
        Logarithms of the probabilities, `float64` of shape `(m, classes)`; minus infinity for a class
        without photos. Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.3.
    """
    counts = np.bincount(targets, minlength=classes)
    means = np.zeros((classes, known.shape[1]))
    np.add.at(means, targets, known)
    means /= np.maximum(counts, 1)[:, None]
    within = known - means.astype(np.float32)[targets]
    covariance = (1 - SHRINKAGE) * (within.T @ within / len(known)).astype(np.float64)
    covariance[np.diag_indices_from(covariance)] += SHRINKAGE * np.mean(within**2) + FLOOR**2
    weights = np.linalg.solve(covariance, means.T)
    with np.errstate(divide="ignore"):
        priors = np.log(counts / counts.sum())
    return log_softmax(asked @ weights - 0.5 * (means.T * weights).sum(axis=0) + priors, axis=1)


def votes(known: np.ndarray, targets: np.ndarray, asked: np.ndarray, *, classes: int) -> np.ndarray:
    """Return probabilities by the votes of the nearest neighbours, weighted by their cosines.

    Args:
        known, targets, asked, classes: as `discriminant`.

    Returns:
        `float64` of shape `(m, classes)`, each row of sum 1, none zero.
    """
    known, asked = _of_length_1(known), _of_length_1(asked)
    count = min(NEIGHBOURS, len(known))
    result = np.full((len(asked), classes), FLOOR)
    for start in range(0, len(asked), ROWS_AT_ONCE):
        cosines = asked[start : start + ROWS_AT_ONCE] @ known.T
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        cosines = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE)
        weights /= weights.sum(axis=1, keepdims=True)
        rows = np.repeat(np.arange(start, start + len(weights)), count)
        np.add.at(result, (rows, targets[nearest].ravel()), weights.ravel())
    return result / result.sum(axis=1, keepdims=True)


def _of_length_1(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
