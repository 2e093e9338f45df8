"""Measure the ranking of label issues: 5 % of the labels of the flower photos are flipped, with five seeds.

Reads `flowers.zip`; photos and embeddings are stored in `outputs/bench/`. The results are the recall
in the top 10 % of the ranking and the precision in the top 5 %, for `lib.clean.label_issues` and for logistic
regression.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from data import archive
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.clean import duplicates, embeddings, label_issues
from lib.core import schema, steps
from lib.download import archives
from lib.photos import decoding, labels, listing

SIZE, FLIPPED, SEEDS = 160, 0.05, range(5)
# Targets for the medians over the seeds.
RECALL, PRECISION = 0.92, 0.78
# Inverse regularization strength of the logistic regression, the best of 1e-4, 1e-3 and 1e-2.
C = 1.0e-3
# A function from embeddings, labels, groups and seed to the rows, the least probable label first.
Ranker = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def measure(data: Path | None, weights: Path | None, *, quick: bool = False) -> dict[str, Any]:
    """Return recall, precision and seconds of both rankings; `quick` uses a quarter of the photos."""
    flowers = archive(data, "flowers.zip")
    vectors, true_labels, groups = embed(
        flowers, steps.outputs() / "bench" / flowers.stem, every=4 if quick else 1
    )
    rankers: dict[str, Ranker] = {
        "lib.clean.label_issues": by_label_issues,
        "logistic regression": by_logistic,
    }
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in rankers}
    seconds: dict[str, list[float]] = {name: [] for name in rankers}
    for seed in SEEDS[:2] if quick else SEEDS:
        for name, ranker in rankers.items():
            start = time.perf_counter()
            scores[name].append(score(ranker, vectors, true_labels, groups=groups, seed=seed))
            seconds[name].append(time.perf_counter() - start)
    recall, precision = zip(*scores["lib.clean.label_issues"], strict=True)
    # By chance: 0.1 and 0.05.
    measuring.check(min(recall) > 0.7 and min(precision) > 0.5, f"recall {recall}, precision {precision}")
    baseline = dict(
        zip(("recall", "precision"), zip(*scores["logistic regression"], strict=True), strict=True)
    )
    return {
        f"recall in the top 10 %, {len(true_labels):,} photos": measuring.row(recall, at_least=RECALL),
        "recall of logistic regression": measuring.row(baseline["recall"]),
        "precision in the top 5 %": measuring.row(precision, at_least=PRECISION),
        "precision of logistic regression": measuring.row(baseline["precision"]),
        "seconds of logistic regression over ours": measuring.row(
            measuring.ratios(seconds["logistic regression"], seconds["lib.clean.label_issues"])
        ),
    }


def embed(flowers: Path, folder: Path, *, every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the embeddings, labels and near-duplicate clusters of every n-th photo in an archive."""
    if not (folder / "raw").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archives.extract(flowers, folder / "raw")
    found = labels.find(listing.Folder(folder / "raw"), schema.Sample(kind="sample"))
    listed = found[::every].reset_index(drop=True)
    scanned, images = decoding.scan(
        folder / "raw", list(listed.path), content=flowers.name, folder=folder, size=SIZE, fit="crop"
    )
    vectors = embeddings.of_photos(scanned.sha1, images, fit="crop", folder=folder)
    clean = schema.Clean()
    pairs = duplicates.find(
        scanned[["sha1", "phash"]],
        images,
        vectors=vectors,
        folder=folder,
        bits=clean.near_duplicate_bits,
        cosine=clean.near_duplicate_cosine,
        correlation=clean.near_duplicate_correlation,
    )
    return vectors, listed.label.to_numpy(object), duplicates.clusters(pairs, len(listed))


def score(
    ranker: Ranker, vectors: np.ndarray, true_labels: np.ndarray, *, groups: np.ndarray, seed: int
) -> tuple[float, float]:
    """Flip labels, rank them, and return the recall in the top 10 % and the precision in the top 5 %."""
    random, classes = np.random.default_rng(seed), labels.classes(true_labels)
    flips = random.choice(len(true_labels), round(FLIPPED * len(true_labels)), replace=False)
    flipped = true_labels.copy()
    for row in flips:
        flipped[row] = random.choice([name for name in classes if name != true_labels[row]])
    hits = np.isin(ranker(vectors, flipped, groups, seed), flips)
    return hits[: len(hits) // 10].sum() / len(flips), hits[: len(flips)].mean()


def by_label_issues(vectors: np.ndarray, flipped: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Rank by `lib.clean.label_issues`."""
    return label_issues.rank(vectors, flipped, groups=groups, seed=seed).row.to_numpy()


def by_logistic(vectors: np.ndarray, flipped: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Rank by the out-of-fold probability of the label in a logistic regression, with the same folds."""
    targets = np.unique(flipped, return_inverse=True)[1]
    folds = label_issues.folds(targets, groups, seed=seed)
    probabilities = np.empty(len(flipped))
    for fold in np.unique(folds):
        test = folds == fold
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=C)).fit(vectors[~test], targets[~test])
        probabilities[test] = probe.predict_proba(vectors[test])[np.arange(test.sum()), targets[test]]
    return np.argsort(probabilities, kind="stable")
