"""Mistakes of a network: in which classes, between which classes, and how alike the confused classes are."""

from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from lib.clean import embeddings, photoset
from lib.core import metrics, schema
from lib.evaluate import predictions

# Rows in the lists of `summary`.
CLASSES, PAIRS = 5, 10
PERMUTATIONS = 2000
# Photos whose embeddings are in memory at a time.
ROWS_AT_ONCE = 256
PAIR = ["label", "predicted"]


class TruthInTop(TypedDict):
    """How often the true class is among the most probable ones, as `truth_in_top` describes it."""

    mistakes: int
    hits: int
    share: float | None
    interval: list[float] | None
    by_chance: float | None
    sentence: str


class Similarity(TypedDict):
    """How alike confused classes are, as `similarity` describes it."""

    sentence: str
    confused: NotRequired[float]
    random: NotRequired[float]
    interval: NotRequired[list[float]]


class Summary(TypedDict):
    """The mistakes of a split, as `summary` describes them."""

    n: int
    truth_in_top_3: TruthInTop
    similarity: Similarity
    most_accurate: list[dict]
    least_accurate: list[dict]
    confused: list[dict]


def summary(rows: pd.DataFrame, report: metrics.Report, *, similarities: pd.DataFrame | None) -> Summary:
    """Summarise the mistakes of a split, for `metrics.json`.

    Args:
        rows: the result of `predictions.table`, of one split.
        report: the result of `metrics.report` for it.
        similarities: the result of `class_similarities`.

    Returns:
        `n` (mistakes); `truth_in_top_3` and `similarity`, the results of the functions of these names;
        `most_accurate` and `least_accurate`, rows of `classes` without its place, the extreme first; and
        `confused`, rows of `confused`.
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
        count: how many of the best and of the worst to keep.

    Returns:
        Best first, by `place`: `label`, `n` (photos), `recall`, and `low` and `high`, its 95 % interval
        (Wilson). Of classes with the same recall, the one whose interval lies higher comes first. Classes
        without a photo are left out.
    """
    rows = []
    for label, values in report.items():
        if n := values["n"]:
            low, high = metrics.interval(round(values["recall"] * n), n)
            rows.append((label, n, values["recall"], low, high, low + high))
    table = pd.DataFrame(rows, columns=["label", "n", "recall", "low", "high", "middle"])
    table = table.sort_values(["recall", "middle"], ascending=False, kind="stable").drop(columns="middle")
    table.index = pd.RangeIndex(1, len(table) + 1, name="place")
    return table[(table.index <= count) | (table.index > len(table) - count)]


def confused(rows: pd.DataFrame, count: int, *, similarities: pd.DataFrame | None) -> pd.DataFrame:
    """List the pairs of classes that are confused, the most frequent first.

    Args:
        rows: the result of `predictions.table`, of one split.
        count: how many pairs to keep.
        similarities: the result of `class_similarities`.

    Returns:
        `label` (the true class), `predicted`, `photos`, `share` (of the photos of the true class) and, if
        it is known, `similarity` (of the two classes).
    """
    pairs = rows[rows.label.ne(rows.predicted)].groupby(PAIR).size().rename("photos").reset_index()
    pairs["share"] = pairs.photos / pairs.label.map(rows.label.value_counts())
    order = {"photos": False, "share": False, "label": True, "predicted": True}
    pairs = pairs.sort_values(list(order), ascending=list(order.values()), ignore_index=True).head(count)
    if similarities is not None:
        pairs["similarity"] = [float(similarities.loc[label, name]) for label, name in pairs[PAIR].to_numpy()]
    return pairs


def truth_in_top(rows: pd.DataFrame, k: int) -> TruthInTop:
    """Count the mistakes whose true class is among the `k` most probable ones.

    Args:
        rows: the result of `predictions.table`, of one split.
        k: at least 2.

    Returns:
        `mistakes` and `hits`, counts; `share`, its 95 % `interval` (Wilson), and `by_chance`, the share if
        all classes but the predicted one were in random order; and a `sentence` that says all this.
        `share`, `interval` and `by_chance` are None if there is no mistake, or no class outside the top.
    """
    names = predictions.classes(rows)
    wrong = rows[rows.label.ne(rows.predicted)]
    targets = pd.Categorical(wrong.label, names).codes
    hits = int(metrics.top_hits(targets, predictions.probabilities(wrong, names), k=k).sum())
    result: TruthInTop = {
        "mistakes": len(wrong),
        "hits": hits,
        "share": None,
        "interval": None,
        "by_chance": None,
        "sentence": f"Of {len(names)} classes, all are in the top {k} of the {len(wrong)} mistakes.",
    }
    if wrong.empty:
        result["sentence"] = "There is no mistake."
    elif k < len(names):
        low, high = result["interval"] = metrics.interval(hits, len(wrong))
        share = result["share"] = hits / len(wrong)
        chance = result["by_chance"] = (k - 1) / (len(names) - 1)
        result["sentence"] = (
            f"In {hits} of {len(wrong)} mistakes ({_percent(share)}) the truth is in the top {k}; "
            f"95 % interval {_percent(low)} to {_percent(high)}, by chance {_percent(chance)}."
        )
    return result


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def class_similarities(photos: photoset.Photos, settings: schema.Params) -> pd.DataFrame | None:
    """Compute how alike the classes look to a pretrained network that has not seen their labels.

    Args:
        photos: the run's photos; the embeddings are those that the cleaning has in its cache.
        settings: `clean.embeddings` says whether there are any.

    Returns:
        `float64`, one row and one column per class: the result of `centroid_similarities`, over the
        training photos. `None` without embeddings.
    """
    if not settings.clean.embeddings or photos.folder is None:
        return None
    content = photos.table.sha1.tolist()
    vectors = embeddings.of_photos(content, photos.full, fit=photos.fit, folder=photos.folder)
    rows, targets = photos.rows("train"), photos.targets("train")
    return centroid_similarities(vectors, rows, targets=targets, classes=photos.classes)


def centroid_similarities(
    vectors: np.ndarray, rows: np.ndarray, *, targets: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Compute the cosine between the centroids of classes: the means of their photos' normalised embeddings.

    Args:
        vectors: embeddings, `float32` of shape `(photos, channels)`; a memory map is read a part at a time.
        rows: the photos to average, `int64` of shape `(n,)`.
        targets: their classes, `int64` of shape `(n,)`.
        classes: the class names; each has at least one photo.

    Returns:
        `float64`, one row and one column per class, -1 to 1.
    """
    sums = np.zeros((len(classes), vectors.shape[1]))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        np.add.at(sums, targets[part], normalize(vectors[rows[part]]))
    # The cosine does not depend on the length: the sums serve as well as the means.
    centroids = normalize(sums)
    return pd.DataFrame(centroids @ centroids.T, index=classes, columns=classes)


def similarity(rows: pd.DataFrame, similarities: pd.DataFrame | None) -> Similarity:
    """Tell whether confused classes are more alike than random pairs of classes.

    The baseline renames the classes at random, which keeps how many mistakes there are and how they
    cluster in a few pairs (the permutation test of Mantel, 1967, for two matrices of the same things):
    ten photos of one confused pair are one coincidence, not ten.

    Args:
        rows: the result of `predictions.table`, of one split.
        similarities: the result of `class_similarities`.

    Returns:
        A `sentence` that says the result, or why there is none; and if there is one: `confused`, the mean
        similarity of label and prediction over the mistakes; `random`, the mean over random pairs; and
        `interval`, in which 95 % of such means lie if classes are confused at random.
    """
    if similarities is None:
        return {
            "sentence": "Without embeddings (`clean.embeddings`), how alike the classes are is not known."
        }
    wrong = rows[rows.label.ne(rows.predicted)]
    if wrong.empty:
        return {"sentence": "There is no mistake."}
    values = similarities.to_numpy()
    others = ~np.eye(len(values), dtype=bool)
    labels, predicted = (pd.Categorical(wrong[end], similarities.index).codes for end in PAIR)
    # Rounded, so that means over the same numbers in another order are equal.
    mean = round(float(values[labels, predicted].mean()), 6)
    means = _permuted_means(values, labels, predicted=predicted).round(6)
    # The outer of two neighbours, so that at most 2.5 % of the means lie beyond either end.
    low = float(np.percentile(means, 2.5, method="lower"))
    high = float(np.percentile(means, 97.5, method="higher"))
    random = float(values[others].mean())
    most = round(float(np.where(others, values, -1)[labels].max(axis=1).mean()), 6)
    verdict = _verdict(mean, low=low, high=high, most=most)
    figures = f"{mean:.2f} against {random:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    counts = f"mistakes: {len(wrong)}, classes: {len(values)}"
    return {
        "sentence": f"{verdict}: {figures} ({counts}).",
        "confused": mean,
        "random": random,
        "interval": [low, high],
    }


def _permuted_means(values: np.ndarray, labels: np.ndarray, *, predicted: np.ndarray) -> np.ndarray:
    """Return the mean similarity of the confused pairs under random renamings of the classes, `float64`."""
    pairs, counts = np.unique([labels, predicted], axis=1, return_counts=True)
    random = np.random.default_rng(0)
    orders = (random.permutation(len(values)) for _ in range(PERMUTATIONS))
    return np.array([values[order[pairs[0]], order[pairs[1]]] @ counts for order in orders]) / len(labels)


def _verdict(mean: float, *, low: float, high: float, most: float) -> str:
    """Compare the mean similarity of confused classes with the interval of random pairs.

    Args:
        mean: of the confused classes.
        low, high: of random pairs.
        most: the mean if each mistake were in favour of the most similar class; inside the interval, no
            mean can be told from chance.
    """
    if mean > high:
        return "Confused classes are more alike than random pairs"
    if mean < low:
        return "Confused classes are less alike than random pairs"
    if most <= high:
        return "Too few mistakes or classes to tell whether confused classes are more alike than random pairs"
    return "Confused classes are not measurably more alike than random pairs"
