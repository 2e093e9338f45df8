"""Find classes that are mirror images of each other, such as left and right arrows, before training.

Random flips of the training photos make such classes indistinguishable. A pair needs two signs. First, the
classes look alike if the orientation is ignored: models of the mean embedding of a photo and its mirror image
confuse them. Second, they differ from their mirror images in opposite directions: the difference between the
embeddings of a photo and of its mirror image has the opposite sign of the mean difference of the other class.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom
from sklearn.preprocessing import normalize

from lib.clean import embeddings, label_issues, splits
from lib.core import files
from lib.core.schema import Params
from lib.photos import decoding, labels

# Flips of the photos for each value of `augment.flip`: steps along height and width.
FLIPS: dict[str, dict[str, tuple[int, int]]] = {
    "none": {},
    "horizontal": {"horizontal": (1, -1)},
    "both": {"horizontal": (1, -1), "vertical": (-1, 1), "horizontal and vertical": (-1, -1)},
}
# Maximum number of photos that are flipped, of a class and of all classes.
OF_CLASS, OF_ALL = 100, 2000
# Shrinkage of the covariance of the differences, 0 to 1.
SHRINKAGE = 0.3
# Thresholds of a pair of classes: maximum accuracy without the orientation, minimum fraction of photos in the
# opposite direction, and maximum p-value. Arrows have 0.59, 0.78 and 1e-7; left and right halves of
# butterflies 0.55, 0.66 and 3e-9. Of the pairs of butterfly, flowers, mammals, biology and imagenet100, the
# smallest p-value is 0.007, at an accuracy of 1; if the accuracy is at most 0.8, it is 0.02.
ALIKE_AT_MOST, OPPOSITE_AT_LEAST, P_AT_MOST = 0.8, 0.6, 0.001
COLUMNS = ["first", "second", "flip", "evidence", "accuracy", "opposite"]
# Words whose parts may be in names, such as "turnleft", and words that are compared as a whole.
PARTS = {
    "horizontal": (
        *[("left", "right"), ("links", "rechts"), ("gauche", "droite"), ("izquierd", "derech")],
        *[("sinistra", "destra"), ("esquerd", "direit"), ("anticlockwise", "clockwise")],
        ("counterclockwise", "clockwise"),
    ),
    "vertical": (("anticlockwise", "clockwise"), ("counterclockwise", "clockwise")),
    "horizontal and vertical": (),
}
TOKENS = {
    "horizontal": (
        *[("east", "west"), ("ost", "west"), ("est", "ouest"), ("este", "oeste"), ("est", "ovest")],
        *[("l", "r"), ("lhs", "rhs"), ("e", "w"), ("cw", "ccw"), ("gauche", "droit")],
    ),
    "vertical": (
        *[("up", "down"), ("upward", "downward"), ("upwards", "downwards"), ("top", "bottom")],
        *[("north", "south"), ("oben", "unten"), ("haut", "bas"), ("arriba", "abajo"), ("n", "s")],
        ("cw", "ccw"),
    ),
    "horizontal and vertical": (),
}
# Characters that are classes of an alphabet: at least this number of classes are single characters.
ALPHABET = 10
CHARACTERS = {
    "horizontal": (("b", "d"), ("p", "q")),
    "vertical": (("b", "p"), ("d", "q"), ("n", "u"), ("M", "W")),
    "horizontal and vertical": (("6", "9"), ("b", "q"), ("d", "p"), ("n", "u"), ("M", "W")),
}


def find(
    table: pd.DataFrame,
    images: np.ndarray,
    *,
    vectors: np.ndarray | None,
    settings: Params,
    folder: Path,
    bit_depth: int | None = None,
) -> pd.DataFrame:
    """Find the pairs of classes that the random flips of `augment.flip` make indistinguishable.

    Up to 100 photos of each class, and 2,000 of all, are flipped and embedded.

    Args:
        table: the manifest; its kept, labelled photos are used.
        images: `uint8` of shape `(rows of the manifest, side, side, 3)`, RGB.
        vectors: the embeddings of all photos, see `embeddings.of_photos`; if `None`, only names are compared.
        settings: the run's parameters.
        folder: folder of the cache.
        bit_depth: bit depth from which photos with more than 8 bits were scaled, if any.

    Returns:
        A table with one row per pair and flip: `first` and `second` (labels), `flip` (see `FLIPS`),
        `evidence` (embeddings or names), and `accuracy` and `opposite` (see `score`; NaN for names).
    """
    classes = labels.classes(table.label[table.cluster.ge(0)])
    sample = _sample(table, classes)
    identity = [f"{bit_depth} bits"] * (bit_depth is not None) + [settings.model.fit]
    rows: list[list] = []
    for flip, steps in FLIPS[settings.augment.flip].items():
        by_names = {pair: [*pair, flip, "names", np.nan, np.nan] for pair in opposite_names(classes, flip)}
        if vectors is not None:
            flipped = _flipped(sample, images, steps, identity=identity, folder=folder)
            targets = labels.targets(sample.label, classes)
            units = splits.units(sample).to_numpy()
            scored = score(vectors[sample.index], flipped, targets=targets, units=units)
            alike = scored.accuracy.le(ALIKE_AT_MOST) & scored.opposite.ge(OPPOSITE_AT_LEAST)
            pairs = scored[alike & scored.p.le(P_AT_MOST)].to_dict("records")
            for pair in pairs:
                names = classes[int(pair["first"])], classes[int(pair["second"])]
                by_names[names] = [*names, flip, "embeddings", pair["accuracy"], pair["opposite"]]
        rows += by_names.values()
    return pd.DataFrame(rows, columns=COLUMNS)


def records(pairs: pd.DataFrame) -> list[dict]:
    """Return the rows of `find` for `cleaning.json`, in which a missing number is null."""
    rounded = pairs.round(3).astype(object)
    return rounded.where(pairs.notna(), None).to_dict("records")


def notes(pairs: pd.DataFrame) -> list[str]:
    """Return a sentence on each pair of `find`, with the advice to change `augment.flip`."""
    advice = "none" if pairs.flip.eq("horizontal").any() else "horizontal"
    return [
        f"{files.printable(str(row.first))} and {files.printable(str(row.second))} are mirror images of each "
        f"other ({row.flip} flip), by their {row.evidence}: random flips make them indistinguishable. "
        f"Set `augment.flip: {advice}`"
        for row in pairs.itertuples()
    ]


def _sample(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the photos to flip, in order: of each class, one photo of each cluster."""
    kept = table[table.cluster.ge(0)].drop_duplicates(["label", "cluster"])
    count = max(2, min(OF_CLASS, OF_ALL // max(1, len(classes))))
    # Ordered by content, so that the sample does not depend on names.
    return kept.sort_values("sha1").groupby("label").head(count).sort_index()


def _flipped(
    sample: pd.DataFrame, images: np.ndarray, steps: tuple[int, int], *, identity: list[str], folder: Path
) -> np.ndarray:
    """Return the embeddings of the flipped photos, or load them if they are stored."""
    size, (height, width) = embeddings.SIDE, steps
    photos = [decoding.resize(images[row], size=size, fit="stretch") for row in sample.index]
    flipped = np.stack([photo[::height, ::width] for photo in photos])
    content = [*sample.sha1, *identity, str(images.shape[1]), f"flip {height} {width}"]
    return embeddings.compute(flipped, content=content, folder=folder, settings=embeddings.BACKBONE)


def score(
    vectors: np.ndarray, flipped: np.ndarray, *, targets: np.ndarray, units: np.ndarray
) -> pd.DataFrame:
    """Score each pair of classes by the embeddings of photos and of their mirror images.

    Args:
        vectors, flipped: `float32` of shape `(n, channels)`, 0 or larger, of the photos and mirror images.
        targets: `int64` of shape `(n,)`, the class of each photo, from 0.
        units: `int64` of shape `(n,)`; photos of a unit are in the same fold.

    Returns:
        A table with one row per pair: `first` and `second` (classes), `accuracy` (balanced, of the two
        classes without the orientation; NaN if a class has a single unit), `opposite` (fraction of units
        whose difference from the mirror image has the opposite direction of the mean of the other class, the
        smaller of both classes) and `p` (probability of such fractions by chance, multiplied by the number of
        pairs).
    """
    count = int(targets.max()) + 1
    folds = label_issues.folds(targets, units, seed=0)
    symmetric = label_issues.pca(normalize(vectors) + normalize(flipped))
    probabilities = label_issues.out_of_fold_probabilities(symmetric, targets, folds=folds, classes=count)
    differences = np.sqrt(np.maximum(normalize(vectors), 0)) - np.sqrt(np.maximum(normalize(flipped), 0))
    means = np.stack([differences[targets == label].mean(axis=0) for label in range(count)])
    # It does not depend on the signs of the differences.
    covariance = differences.T @ differences / len(differences)
    scale = np.trace(covariance) / len(covariance) or 1
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(len(covariance))
    # (n, classes): whether the difference of a photo has the opposite direction of the mean of a class.
    opposite = differences @ np.linalg.solve(covariance, means.T) < 0
    accuracy, opposites = np.zeros((count, count)), np.zeros((count, count))
    totals = np.zeros((count, 1))
    for label in range(count):
        mine = targets == label
        own = probabilities[mine]
        accuracy[label] = np.where(np.isnan(own), np.nan, own[:, [label]] > own).mean(axis=0)
        # Photos of a unit are not independent: they count once.
        by_unit = pd.DataFrame(opposite[mine]).groupby(units[mine]).mean().gt(0.5)
        opposites[label], totals[label] = by_unit.sum(), len(by_unit)
    first, second = np.triu_indices(count, 1)
    fractions = np.minimum(opposites / totals, (opposites / totals).T)
    p = binom.sf((opposites + opposites.T)[first, second] - 1, (totals + totals.T)[first, second], 0.5)
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "accuracy": ((accuracy + accuracy.T) / 2)[first, second],
            "opposite": fractions[first, second],
            "p": np.minimum(1, p * len(first)),
        }
    )


def opposite_names(classes: Sequence[str], flip: str) -> list[tuple[str, str]]:
    """Return the pairs of class names that differ only by opposite words, such as left and right.

    Args:
        classes: the class names.
        flip: a flip of `FLIPS`, which decides which words are opposites. Letters such as b and d are only
            compared if the classes are the characters of an alphabet.
    """
    is_alphabet = sum(len(name) == 1 for name in classes) >= ALPHABET
    pairs = {pair for pair in CHARACTERS[flip] if is_alphabet and set(pair) <= set(classes)}
    patterns = [(word, opposite, f"{word}|{opposite}") for word, opposite in PARTS[flip]]
    patterns += [
        (word, opposite, rf"(?<![^\W_])(?:{word}|{opposite})(?![^\W_])") for word, opposite in TOKENS[flip]
    ]
    spellings = {_words(name): name for name in classes}
    for word, opposite, pattern in patterns:
        swap = {word: opposite, opposite: word}
        for spelling, name in spellings.items():
            swapped = re.sub(pattern, lambda match: swap[match[0]], spelling)  # noqa: B023
            if swapped != spelling and swapped in spellings:
                first, second = sorted((name, spellings[swapped]), key=classes.index)
                pairs.add((first, second))
    return sorted(pairs)


def _words(name: str) -> str:
    """Return a name in lower case, with spaces before capital letters within it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
