"""Analyse mistakes: accuracy per class, confused pairs of classes, and their similarity."""

from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from lib.clean import embeddings, photoset
from lib.core import metrics, schema
from lib.evaluate import predictions

# Numbers of rows in the lists of `summary`.
CLASSES, PAIRS = 5, 10
PERMUTATIONS = 2000
# Number of embeddings in memory at a time.
BATCH_SIZE = 256
PAIR = ["label", "predicted"]
NO_MISTAKES = "No photo is misclassified."


class TruthInTop(TypedDict):
    """The result of `truth_in_top`."""

    mistakes: int
    hits: int
    fraction: float | None
    interval: list[float] | None
    by_chance: float | None
    sentence: str


class Similarity(TypedDict):
    """The result of `similarity`."""

    sentence: str
    confused: NotRequired[float]
    random: NotRequired[float]
    interval: NotRequired[list[float]]


class Summary(TypedDict):
    """The result of `summary`."""

    n: int
    truth_in_top_3: TruthInTop
    similarity: Similarity
    most_accurate: list[dict]
    least_accurate: list[dict]
    confused: list[dict]


def summary(rows: pd.DataFrame, report: metrics.Report, *, similarities: pd.DataFrame | None) -> Summary:
    """Summarise the mistakes of a split, for `metrics.json`.

    Args:
        rows: the result of `predictions.table`, for a single split.
        report: the result of `metrics.report` for this split.
        similarities: the result of `class_similarities`.

    Returns:
        `n`, the number of mistakes; `truth_in_top_3`, the result of `truth_in_top` for `k=3`; `similarity`
        and `confused`, the results of these functions; `most_accurate` and `least_accurate`, the classes with
        the highest recall, highest first, and with the lowest recall, lowest first, as rows of `classes`.
    """
    ranked = classes(report["classes"], len(report["classes"]))
    return {
        "n": int(rows.label.ne(rows.predicted).sum()),
        "truth_in_top_3": truth_in_top(rows, 3),
        "similarity": similarity(rows, similarities),
        "most_accurate": ranked.head(CLASSES).to_dict("records"),
        "least_accurate": ranked.iloc[::-1].head(CLASSES).to_dict("records"),
        "confused": confused(rows, PAIRS, similarities=similarities).to_dict("records"),
    }


def classes(report: dict[str, metrics.ClassReport], count: int) -> pd.DataFrame:
    """Rank the classes by recall.

    Args:
        report: `classes` of the result of `metrics.report`.
        count: the number of best and of worst classes to return.

    Returns:
        One row per class, best first, with the index `rank` from 1: `label`, `n` (photos), `recall`, and
        `low` and `high`, its 95 % interval (Wilson). Ties are broken by the midpoint of the interval. Classes
        without photos are ignored.
    """
    rows = []
    for label, values in report.items():
        if n := values["n"]:
            low, high = metrics.interval(round(values["recall"] * n), n)
            rows.append((label, n, values["recall"], low, high, low + high))
    table = pd.DataFrame(rows, columns=["label", "n", "recall", "low", "high", "middle"])
    table = table.sort_values(["recall", "middle"], ascending=False, kind="stable").drop(columns="middle")
    table.index = pd.RangeIndex(1, len(table) + 1, name="rank")
    return table[(table.index <= count) | (table.index > len(table) - count)]


def confused(rows: pd.DataFrame, count: int, *, similarities: pd.DataFrame | None) -> pd.DataFrame:
    """List the confused pairs of classes, the most frequent first.

    Args:
        rows: the result of `predictions.table`, for a single split.
        count: the largest number of pairs to return.
        similarities: the result of `class_similarities`.

    Returns:
        `label` (the true class), `predicted`, `photos` (a count), `fraction` (of the photos of the true
        class) and, unless `similarities` is `None`, the `similarity` of the two classes.
    """
    pairs = rows[rows.label.ne(rows.predicted)].groupby(PAIR).size().rename("photos").reset_index()
    pairs["fraction"] = pairs.photos / pairs.label.map(rows.label.value_counts())
    order = {"photos": False, "fraction": False, "label": True, "predicted": True}
    pairs = pairs.sort_values(list(order), ascending=list(order.values()), ignore_index=True).head(count)
    if similarities is not None:
        pairs["similarity"] = [float(similarities.loc[label, name]) for label, name in pairs[PAIR].to_numpy()]
    return pairs


def truth_in_top(rows: pd.DataFrame, k: int) -> TruthInTop:
    """Count the mistakes whose true class is among the `k` most probable classes.

    Args:
        rows: the result of `predictions.table`, for a single split.
        k: at least 2.

    Returns:
        `mistakes` and `hits`, counts; their ratio `fraction` with its 95 % `interval` (Wilson); `by_chance`,
        the expected fraction if all classes except the predicted class were in random order; and a
        `sentence` for the notebook. `fraction`, `interval` and `by_chance` are `None` if there are no
        mistakes or at most `k` classes.
    """
    names = predictions.classes(rows)
    wrong = rows[rows.label.ne(rows.predicted)]
    targets = pd.Categorical(wrong.label, names).codes
    hits = int(metrics.top_hits(targets, predictions.probabilities(wrong, names), k=k).sum())
    result: TruthInTop = {
        "mistakes": len(wrong),
        "hits": hits,
        "fraction": None,
        "interval": None,
        "by_chance": None,
        "sentence": f"With {len(names)} classes, the top {k} contains every class.",
    }
    if wrong.empty:
        result["sentence"] = NO_MISTAKES
    elif k < len(names):
        low, high = result["interval"] = metrics.interval(hits, len(wrong))
        fraction = result["fraction"] = hits / len(wrong)
        chance = result["by_chance"] = (k - 1) / (len(names) - 1)
        result["sentence"] = (
            f"In {hits} of {len(wrong)} mistakes ({_percent(fraction)}) the true class is in the top {k} "
            f"(95 % interval {_percent(low)} to {_percent(high)}, expected by chance {_percent(chance)})."
        )
    return result


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def class_similarities(photos: photoset.Photos, settings: schema.Params) -> pd.DataFrame | None:
    """Compute the similarities of the classes from the embeddings of their training photos.

    The pretrained network that computes the embeddings has not seen the labels.

    Args:
        photos: the run's photos; their embeddings are in the cache of 02_clean.
        settings: `clean.embeddings` enables the embeddings.

    Returns:
        The result of `centroid_similarities`; `None` if embeddings are disabled.
    """
    if not settings.clean.embeddings or photos.folder is None:
        return None
    content = photos.table.sha1.tolist()
    vectors = embeddings.of_photos(
        content, photos.full, fit=photos.fit, bit_depth=photos.bit_depth, folder=photos.folder
    )
    rows, targets = photos.rows("train"), photos.targets("train")
    return centroid_similarities(vectors, rows, targets=targets, classes=photos.classes)


def centroid_similarities(
    vectors: np.ndarray, rows: np.ndarray, *, targets: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Compute the cosine similarities of classes, between the means of their normalised embeddings.

    Args:
        vectors: embeddings, `float32` of shape `(photos, channels)`; a memory map is read in batches.
        rows: the photos to average, `int64` of shape `(n,)`.
        targets: their classes, `int64` of shape `(n,)`.
        classes: the class names; each class has at least one photo.

    Returns:
        `float64`, -1 to 1, with a row and a column per class.
    """
    sums = np.zeros((len(classes), vectors.shape[1]))
    for start in range(0, len(rows), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        np.add.at(sums, targets[part], normalize(vectors[rows[part]]))
    # The cosine does not depend on the lengths, and sums have the same directions as means.
    centroids = normalize(sums)
    return pd.DataFrame(centroids @ centroids.T, index=classes, columns=classes)


def similarity(rows: pd.DataFrame, similarities: pd.DataFrame | None) -> Similarity:
    """Test whether confused classes are more similar than random pairs of classes.

    The permutation test of Mantel (1967) permutes the classes at random. It preserves the number of mistakes
    per pair, so that ten mistakes of the same pair do not count as ten independent observations.

    Args:
        rows: the result of `predictions.table`, for a single split.
        similarities: the result of `class_similarities`.

    Returns:
        `confused`, the mean similarity of label and prediction over the mistakes; `random`, the mean over all
        pairs of classes; `interval`, which contains 95 % of the means under random permutations; and a
        `sentence` for the notebook. If there are no similarities or no mistakes, only the sentence.
    """
    if similarities is None:
        return {
            "sentence": "The similarity of the classes needs embeddings, which `clean.embeddings` disables."
        }
    wrong = rows[rows.label.ne(rows.predicted)]
    if wrong.empty:
        return {"sentence": NO_MISTAKES}
    values = similarities.to_numpy()
    pairs = ~np.eye(len(values), dtype=bool)
    labels, predicted = (pd.Categorical(wrong[end], similarities.index).codes for end in PAIR)
    # Round, so that means of the same numbers in another order are equal.
    mean = round(float(values[labels, predicted].mean()), 6)
    means = _permuted_means(values, labels, predicted=predicted).round(6)
    # Do not interpolate, so that at most 2.5 % of the means are below, and 2.5 % above, the interval.
    low = float(np.percentile(means, 2.5, method="lower"))
    high = float(np.percentile(means, 97.5, method="higher"))
    random = float(values[pairs].mean())
    largest = round(float(np.where(pairs, values, -1)[labels].max(axis=1).mean()), 6)
    verdict = _verdict(mean, low=low, high=high, largest=largest)
    figures = f"{mean:.2f} against {random:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    counts = f"mistakes: {len(wrong)}, classes: {len(values)}"
    return {
        "sentence": f"{verdict}: {figures} ({counts}).",
        "confused": mean,
        "random": random,
        "interval": [low, high],
    }


def _permuted_means(values: np.ndarray, labels: np.ndarray, *, predicted: np.ndarray) -> np.ndarray:
    """Return the mean similarity of the confused pairs for random permutations of the classes, `float64`."""
    pairs, counts = np.unique([labels, predicted], axis=1, return_counts=True)
    random = np.random.default_rng(0)
    orders = (random.permutation(len(values)) for _ in range(PERMUTATIONS))
    return np.array([values[order[pairs[0]], order[pairs[1]]] @ counts for order in orders]) / len(labels)


def _verdict(mean: float, *, low: float, high: float, largest: float) -> str:
    """Compare the mean similarity of confused classes with its 95 % interval under random permutations.

    `largest` is the mean if each of these photos were assigned to the class most similar to its label.
    """
    if mean > high:
        return "Confused classes are more similar than random pairs"
    if mean < low:
        return "Confused classes are less similar than random pairs"
    # If even the largest possible mean is inside the interval, the test has no power.
    if largest <= high:
        return "Too few mistakes or classes to test whether confused classes are similar"
    return "Confused classes are not significantly more similar than random pairs"
