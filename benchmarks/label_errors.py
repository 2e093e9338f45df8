"""Measure the ranking of label issues: 5 % of the labels of the flower photos are flipped, with five seeds.

Run by `python benchmarks/label_errors.py [folder]`: the folder with `flowers.zip`, by default the environment
variable `DATA`. The photos and their embeddings are stored in `outputs/bench/`. Print the recall in the top
10 % of the ranking and the precision in the top 5 %, for `lib.clean.label_issues` and for logistic
regression; the exit code is 1 if `lib.clean.label_issues` misses a target.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def main() -> int:
    """Print the measurements and return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=Path, nargs="?", help="folder with flowers.zip; by default DATA")
    flowers = archive(arguments.parse_args().folder, "flowers.zip")
    vectors, true_labels, groups = embed(flowers, steps.outputs() / "bench" / flowers.stem)
    print(
        f"{len(true_labels)} photos, {FLIPPED:.0%} of the labels flipped, {len(SEEDS)} seeds: medians (range)"
    )
    print(f"{'':22} {'recall in the top 10 %':>24} {'precision in the top 5 %':>24} {'seconds':>8}")
    results = {}
    for name, ranker in (("logistic regression", by_logistic), ("lib.clean.label_issues", by_label_issues)):
        start = time.perf_counter()
        scores = [score(ranker, vectors, true_labels, groups=groups, seed=seed) for seed in SEEDS]
        seconds = (time.perf_counter() - start) / len(SEEDS)
        results[name] = np.array(scores)
        print(f"{name:22} {''.join(map(median_and_range, results[name].T))} {seconds:8.1f}")
    recall, precision = np.median(results["lib.clean.label_issues"], axis=0)
    return 0 if recall >= RECALL and precision >= PRECISION else 1


def embed(flowers: Path, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the embeddings, labels and near-duplicate clusters of the photos in an archive."""
    if not (folder / "raw").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archives.extract(flowers, folder / "raw")
    listed = labels.find(listing.Folder(folder / "raw"), schema.Sample(kind="sample"))
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


def median_and_range(values: np.ndarray) -> str:
    """Return the median and the range of some values as text."""
    return f"{np.median(values):10.3f} ({values.min():.3f} to {values.max():.3f})"


if __name__ == "__main__":
    sys.exit(main())
