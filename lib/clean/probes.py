"""Compare backbones before training, by the accuracy of simple classifiers on their embeddings."""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import embeddings, label_issues, splits
from lib.core import metrics
from lib.core.schema import Model, Params
from lib.photos import labels

COLUMNS = ["backbone", "image_size", "channels", "top_1", "low", "high", "log_loss"]


def compare(
    table: pd.DataFrame, images: np.ndarray, *, settings: Params, folder: Path, bit_depth: int | None = None
) -> pd.DataFrame:
    """Compare backbones by the accuracy of probes on their frozen embeddings.

    The probe is `label_issues.out_of_fold_probabilities`: each photo is predicted by models that are fitted
    to the other folds, without its near-duplicates and its group. The accuracy is not an upper bound for
    fine-tuning.

    Args:
        table: the manifest; its kept, labelled photos are used.
        images: `uint8` of shape `(rows of the manifest, side, side, 3)`, RGB.
        settings: the run's parameters. The backbone of the cleaning is compared with those in
            `clean.compare`: the run's own backbone with its weights, others with ImageNet weights.
        folder: folder of the cache, for the embeddings.

    Returns:
        A table with one row per backbone, sorted by log loss: `backbone`, `image_size` (pixels), `channels`,
        `top_1` with its 95 % interval `low` to `high`, and `log_loss`; empty if `clean.embeddings` is false.

    Raises:
        ValueError, FileNotFoundError: see `embeddings.compute`.
    """
    if not settings.clean.embeddings:
        return pd.DataFrame(columns=COLUMNS)
    rows = np.flatnonzero(table.cluster.ge(0))
    kept = table.iloc[rows]
    classes = labels.classes(kept.label)
    targets = labels.targets(kept.label, classes)
    folds = label_issues.folds(targets, splits.units(kept).to_numpy(), seed=settings.seed)
    results = []
    for model, size in _models(settings):
        vectors = embeddings.of_photos(
            table.sha1,
            images,
            fit=settings.model.fit,
            bit_depth=bit_depth,
            folder=folder,
            settings=model,
            size=size,
        )
        probabilities = label_issues.out_of_fold_probabilities(
            label_issues.pca(vectors[rows]), targets, folds=folds, classes=len(classes)
        )
        valid = ~np.isnan(probabilities[:, 0])
        if not valid.any():
            continue
        report = metrics.report(targets[valid], probabilities[valid], classes=classes, seed=settings.seed)
        values = [model.backbone, model.image_size, vectors.shape[1], report["top_1"]]
        results.append([*values, *report["intervals"]["top_1"], report["log_loss"]])
    return pd.DataFrame(results, columns=COLUMNS).sort_values("log_loss", ignore_index=True)


def _models(settings: Params) -> list[tuple[Model, int | None]]:
    """Return the distinct backbones to compare, each with the side of the centre crop to embed."""
    own = settings.model
    models: list[tuple[Model, int | None]] = [(embeddings.BACKBONE, None)]
    for name in dict.fromkeys(settings.clean.compare):
        if name == own.backbone and own.weights and own.scaling != "measured":
            models.append((own, own.image_size))
        elif (name, own.image_size) != (embeddings.BACKBONE.backbone, embeddings.SIDE):
            models.append((Model(backbone=name, image_size=own.image_size), own.image_size))
    return models
