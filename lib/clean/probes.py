"""Compare backbones before training, by how well simple models of their embeddings classify the photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import embeddings, label_issues
from lib.core import metrics
from lib.core.schema import Model, Params
from lib.photos import labels

COLUMNS = ["backbone", "image_size", "channels", "top_1", "low", "high", "log_loss"]


def compare(table: pd.DataFrame, images: np.ndarray, *, settings: Params, folder: Path) -> pd.DataFrame:
    """Compare backbones by how well frozen embeddings tell the classes apart.

    The probe is `label_issues.out_of_fold_probabilities`: each photo is classified by models of four fifths
    of the photos, never by its near-duplicates. It is no bound for a training, in which the backbone learns
    too.

    Args:
        table: the manifest; its kept, labelled photos count.
        images: `uint8` of shape `(rows of the manifest, side, side, 3)`, RGB.
        settings: the run's parameters. Compared are the backbone of the cleaning and those of
            `clean.compare`: the recipe's own with its weights and size, others with their ImageNet weights.
        folder: keeps the embeddings.

    Returns:
        One row per backbone, the best first: `backbone`, `image_size` (pixels), `channels`, `top_1` with its
        95 % interval `low` to `high`, and `log_loss`; no row without `clean.embeddings`.

    Raises:
        ValueError, FileNotFoundError: as `embeddings.compute`.
    """
    if not settings.clean.embeddings:
        return pd.DataFrame(columns=COLUMNS)
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    classes = labels.classes(kept.label)
    targets = labels.targets(kept.label, classes)
    folds = label_issues.folds(targets, kept.cluster.to_numpy(), seed=settings.seed)
    results = []
    for model, size in _models(settings):
        vectors = embeddings.of_photos(
            table.sha1, images, fit=settings.model.fit, folder=folder, settings=model, size=size
        )
        probabilities = label_issues.out_of_fold_probabilities(
            label_issues.pca(vectors[rows]), targets, folds=folds, classes=len(classes)
        )
        judged = ~np.isnan(probabilities[:, 0])
        if not judged.any():
            continue
        report = metrics.report(targets[judged], probabilities[judged], classes=classes, seed=settings.seed)
        values = [model.backbone, model.image_size, vectors.shape[1], report["top_1"]]
        results.append([*values, *report["intervals"]["top_1"], report["log_loss"]])
    return pd.DataFrame(results, columns=COLUMNS).sort_values("log_loss", ignore_index=True)


def _models(settings: Params) -> list[tuple[Model, int | None]]:
    """Return the backbones to compare, none twice, with the side of the centre that each looks at."""
    own = settings.model
    models: list[tuple[Model, int | None]] = [(embeddings.BACKBONE, None)]
    for name in dict.fromkeys(settings.clean.compare):
        if name == own.backbone and own.weights and own.scaling != "measured":
            models.append((own, own.image_size))
        elif (name, own.image_size) != (embeddings.BACKBONE.backbone, embeddings.SIDE):
            models.append((Model(backbone=name, image_size=own.image_size), own.image_size))
    return models
