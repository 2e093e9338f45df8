"""The batches of a training, of photos or embeddings, in equal parts for several devices and processes."""

import math

import numpy as np

from lib.clean import photoset
from lib.core.schema import Params, Stage
from lib.networks import backend
from lib.train import dataset, views

PART = (backend.PROCESS, backend.PROCESSES)


def training(
    photos: photoset.Photos,
    settings: Params,
    *,
    stage: Stage,
    embeddings: np.ndarray | views.Views | None,
    batch_size: int,
    parts: int = 1,
    first_epoch: int,
) -> dataset.Batches:
    """Return the endless training batches of a stage.

    Args:
        photos: the run's photos.
        settings: the run's parameters.
        stage: the stage.
        embeddings: views, or `float32` of shape `(rows of the manifest, channels)`, to train on instead of
            photos; `None` for photos.
        batch_size, parts: as `dataset.bounds`; its `smallest` follows from the settings.
        first_epoch: the epoch of the first batch, from 0 over all stages.

    Returns:
        Batches as those of `dataset.training`, padded to one size if several devices divide them. Each of
        several processes makes and returns only its part of a batch.
    """
    targets, classes = photos.targets("train"), len(photos.classes)
    images = photos.full if stage.augment else photos.images
    weights = dataset.class_weights(targets, classes) if settings.train.class_weights else np.ones(classes)
    if isinstance(embeddings, views.Views):
        made = views.training(
            embeddings.training,
            photos.rows("train"),
            targets=targets,
            class_weights=weights,
            settings=settings,
            batch_size=batch_size,
            parts=parts,
            smallest=settings.smallest_batch,
            first_epoch=first_epoch,
        )
    else:
        made = dataset.training(
            images if embeddings is None else embeddings,
            photos.rows("train"),
            targets=targets,
            size=photos.size,
            class_weights=weights,
            settings=settings.augment if stage.augment else None,
            batch_size=batch_size,
            parts=parts,
            smallest=settings.smallest_batch,
            seed=settings.seed,
            first_epoch=first_epoch,
        )
    size = _shared_size(len(targets), max(made.sizes))
    return dataset.filled(made, size, part=PART) if size else made


def validation(
    photos: photoset.Photos, *, embeddings: np.ndarray | views.Views | None, batch_size: int
) -> dataset.Batches:
    """Return the batches of one pass over the photos of val, with arguments as `training`."""
    rows = photos.rows("val")
    if isinstance(embeddings, views.Views):
        rows, embeddings = np.arange(len(rows)), embeddings.validation
    size = _shared_size(len(rows), batch_size)
    made = dataset.evaluation(
        photos.images if embeddings is None else embeddings,
        rows,
        targets=photos.targets("val"),
        classes=len(photos.classes),
        batch_size=size or batch_size,
    )
    if not size:
        return made
    # Keras averages over all rows of the batches, padding included: this weight makes each photo count once.
    padded = math.ceil(len(rows) / size) * size
    return dataset.filled(made, size, weight=padded / len(rows), part=PART)


def _shared_size(count: int, batch_size: int) -> int | None:
    """Return the size of every batch that gives several devices equal parts; `None` for a single device."""
    devices = backend.device_count()
    return math.ceil(min(batch_size, count) / devices) * devices if devices > 1 else None
