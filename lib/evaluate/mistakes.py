"""Where the network errs: in which classes, what it takes for what, and how near the truth is, in rank and in meaning."""

import numpy as np
import pandas as pd

from lib.core import metrics
from lib.evaluate import wordnet

MEASURES = {
    "wu_palmer": wordnet.wu_palmer,
    "path_similarity": wordnet.path_similarity,
    "height": wordnet.height,
}
CLASSES, PAIRS, EXAMPLES = 5, 10, 5  # in the lists of `summary` and `nearness`
RESAMPLES = 1000
PAIR = ["label", "predicted"]


def summary(rows: pd.DataFrame, measured: dict) -> dict:
    """Sum up the mistakes of a split, for `metrics.json`.

    Args:
        rows: what `predictions.table` gives, of one split.
        measured: what `metrics.report` gives for it.

    Returns:
        `n` (mistakes); `truth_in_top_3` and `nearness`, as the functions of these names have them;
        `most_accurate` and `least_accurate`, rows of `classes` without its place, the extreme first; and
        `confused`, rows of `confused`.
    """
    ranked = classes(measured["classes"], len(measured["classes"]))
    return {
        "n": int(rows.label.ne(rows.predicted).sum()),
        "truth_in_top_3": truth_in_top(rows, 3),
        "nearness": nearness(rows),
        "most_accurate": ranked.head(CLASSES).to_dict("records"),
        "least_accurate": ranked.iloc[::-1].head(CLASSES).to_dict("records"),
        "confused": confused(rows, PAIRS).to_dict("records"),
    }


def classes(measured: dict, count: int) -> pd.DataFrame:
    """Rank the classes by the share of their photos that is recognised.

    Args:
        measured: what `metrics.report` gives under `classes`.
        count: how many of the best and of the worst to keep.

    Returns:
        Best first, by `place`: `label`, `n` (photos), `recall`, and `low` and `high`, its 95 % interval
        (Wilson). Of equals, the one whose interval lies higher comes first. Classes without a photo
        are left out.
    """
    rows = []
    for label, values in measured.items():
        if n := values["n"]:
            low, high = metrics.interval(round(values["recall"] * n), n)
            rows.append((label, n, values["recall"], low, high, low + high))
    table = pd.DataFrame(rows, columns=["label", "n", "recall", "low", "high", "middle"])
    table = table.sort_values(["recall", "middle"], ascending=False, kind="stable").drop(columns="middle")
    table.index = pd.RangeIndex(1, len(table) + 1, name="place")
    return table[(table.index <= count) | (table.index > len(table) - count)]


def confused(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """List what is taken for what, the most frequent first.

    Args:
        rows: what `predictions.table` gives, of one split.
        count: how many pairs to keep.

    Returns:
        `label` (the true class), `predicted`, `photos` and `share` (of the photos of the true class).
    """
    pairs = rows[rows.label.ne(rows.predicted)].groupby(PAIR).size().rename("photos").reset_index()
    pairs["share"] = pairs.photos / pairs.label.map(rows.label.value_counts())
    order = {"photos": False, "share": False, "label": True, "predicted": True}
    return pairs.sort_values(list(order), ascending=list(order.values()), ignore_index=True).head(count)


def truth_in_top(rows: pd.DataFrame, k: int) -> dict:
    """Tell how often the truth is among the `k` most probable classes of a mistake.

    Args:
        rows: what `predictions.table` gives, of one split.
        k: at least 2.

    Returns:
        `mistakes` and `hits`, counts; `share`, its 95 % `interval` (Wilson), and `by_chance`, the share if
        all classes but the one that was named were in random order; and a `sentence` that says all this.
        The last three numbers are None where there is no mistake, or no class outside the top.
    """
    names = _classes(rows)
    wrong = rows[rows.label.ne(rows.predicted)]
    targets = pd.Categorical(wrong.label, names).codes
    hits = int(metrics.top_hits(targets, wrong[[f"p({name})" for name in names]].to_numpy(), k).sum())
    found = {"mistakes": len(wrong), "hits": hits, "share": None, "interval": None, "by_chance": None}
    if wrong.empty:
        return found | {"sentence": "There is no mistake."}
    if k >= len(names):
        return found | {
            "sentence": f"Of {len(names)} classes, all are in the top {k} of the {len(wrong)} mistakes."
        }
    low, high = metrics.interval(hits, len(wrong))
    chance = (k - 1) / (len(names) - 1)
    sentence = (
        f"In {hits} of {len(wrong)} mistakes ({_percent(hits / len(wrong))}) the truth is in the top {k}; "
        f"95 % interval {_percent(low)} to {_percent(high)}, by chance {_percent(chance)}."
    )
    return found | {
        "share": hits / len(wrong),
        "interval": [low, high],
        "by_chance": chance,
        "sentence": sentence,
    }


def nearness(rows: pd.DataFrame) -> dict:
    """Tell how near mistakes are in meaning, against wrong classes drawn at random for the same photos.

    Args:
        rows: what `predictions.table` gives, of one split; measured where all classes are WordNet ids.

    Returns:
        A `sentence` that says what was found, or why nothing can be; and where it can, `measures`, for
        each of `wu_palmer`, `path_similarity` (larger is nearer) and `height` (smaller is nearer), as
        in `lib.evaluate.wordnet`: the mean over the `mistakes`; `by_chance`, the mean over all other classes than
        the true one; their `difference` and its 95 % `interval` (percentile bootstrap over the
        mistakes); and `nearest` and `farthest`, a few of the pairs: `label`, `predicted`, `photos`, `wu_palmer`.
    """
    names, pairs = _classes(rows), confused(rows, len(rows))
    if unknown := [name for name in names if not wordnet.known(name)]:
        return {
            "sentence": f"Labels such as {unknown[0]!r} are no WordNet ids: nearness in meaning is not measured."
        }
    if pairs.empty or len(names) < 3:
        return {"sentence": "Nearness in meaning wants a mistake, and a choice of wrong classes."}
    measures = {name: _measure(pairs, names, measure) for name, measure in MEASURES.items()}
    pairs["wu_palmer"] = [wordnet.wu_palmer(*pair) for pair in pairs[PAIR].to_numpy()]
    pairs = pairs.drop(columns="share").sort_values("wu_palmer", ascending=False, kind="stable")
    return {
        "sentence": _tell(measures),
        "measures": measures,
        "nearest": pairs.head(EXAMPLES).to_dict("records"),
        "farthest": pairs.sort_values("wu_palmer", kind="stable").head(EXAMPLES).to_dict("records"),
    }


def examples(near: dict) -> pd.DataFrame:
    """Return the pairs of what `nearness` gives as one table, the nearest first; empty where nothing was measured."""
    rows = near.get("nearest", []) + near.get("farthest", [])[::-1]
    return pd.DataFrame(rows, columns=[*PAIR, "photos", "wu_palmer"]).drop_duplicates(PAIR, ignore_index=True)


def _classes(rows: pd.DataFrame) -> list[str]:
    return [column[2:-1] for column in rows.columns if column.startswith("p(")]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _measure(pairs: pd.DataFrame, names: list[str], measure) -> dict:
    near = np.array([measure(*pair) for pair in pairs[PAIR].to_numpy()])
    means = {
        label: np.mean([measure(label, name) for name in names if name != label])
        for label in set(pairs.label)
    }
    chance = pairs.label.map(means).to_numpy()
    photos = pairs.photos.to_numpy()
    # Mistakes drawn again with replacement are a multinomial draw of the pairs' counts.
    draws = np.random.default_rng(0).multinomial(photos.sum(), photos / photos.sum(), size=RESAMPLES)
    tail = 50 * (1 - metrics.CONFIDENCE)
    return {
        "mistakes": float(np.average(near, weights=photos)),
        "by_chance": float(np.average(chance, weights=photos)),
        "difference": float(np.average(near - chance, weights=photos)),
        "interval": np.percentile(draws @ (near - chance) / photos.sum(), [tail, 100 - tail]).tolist(),
    }


def _tell(measures: dict) -> str:
    low, high = measures["wu_palmer"]["interval"]
    verdict = "nearer" if low > 0 else "farther" if high < 0 else "not measurably nearer"
    lines = [
        f"{name}: {found['mistakes']:.2f}, by chance {found['by_chance']:.2f}; difference "
        f"{found['difference']:.3f}, 95 % interval {found['interval'][0]:.3f} to {found['interval'][1]:.3f}"
        for name, found in measures.items()
    ]
    return "\n".join([f"Mistakes are {verdict} in meaning than wrong classes drawn at random.", *lines])
