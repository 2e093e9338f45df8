"""Train a network in stages, keep its best weights, and continue an interrupted training.

Each training has a folder of its own under `training/`, named by a fingerprint of everything that decides
its result: a finished training is read back, an unfinished one continues, and none is ever overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import embeddings, photoset
from lib.core import cache, files, progress
from lib.core.schema import Params
from lib.networks import backbones, checkpoints, efficientnet_lite, models, resnets, simple_cnn
from lib.networks.device import keras
from lib.train import augmentation, batches, dataset, schedules, state, trainer

CODE = (
    augmentation,
    backbones,
    batches,
    checkpoints,
    dataset,
    efficientnet_lite,
    embeddings,
    models,
    resnets,
    schedules,
    simple_cnn,
    state,
    trainer,
)


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        key: what identifies it.
        history: one row per epoch: `epoch` (from 1, over all stages), `stage`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`, `learning_rate`, `seconds`.
        model: the network with its best weights.
        batch_size: photos per step at the end; fewer than the parameters say where memory ran out.
        learned: the parts of the backbone that learned, as the stages name them, those of the training
            that this one went on from included.
    """

    key: str
    history: pd.DataFrame
    model: keras.Model
    batch_size: int
    learned: tuple[str, ...]


def fit(
    settings: Params,
    photos: photoset.Photos,
    *,
    folder: Path,
    finished: str | None = None,
    watch: Callable[[int, dict], None] | None = None,
) -> Training:
    """Train as the parameters say, or read back or go on with what was already trained.

    Where the memory of the GPU runs out, the training goes on from the last whole epoch with half as
    many photos per step.

    Args:
        settings: the run's parameters.
        photos: the run's photos; train learns, val chooses.
        folder: holds one folder per training.
        finished: key of the training that `train.resume_stages` go on from, if there is one.
        watch: called after each epoch with its number (from 1, over all stages) and its row of the
            history. An error that it raises ends the training, which goes on there when called again.

    Returns:
        The training with its best weights: those of the epoch with the best monitored value.

    Raises:
        ValueError: there is nothing to train on or to choose by, the loss is no longer a number, memory
            runs out with a single photo, or the training to go on from was of another model.
    """
    if empty := [split for split in ("train", "val") if not len(photos.rows(split))]:
        raise ValueError(
            f"training needs photos in train and in val. Received: none in {' and '.join(empty)}. "
            "Look at the counts of 02_clean and at `split`"
        )
    parent = _parent(settings, photos, folder=folder, finished=finished)
    place = folder / key(settings, photos, parent=parent)
    if not (place / "finished.json").is_file():
        _train(settings, photos, folder=place, parent=folder / parent if parent else None, watch=watch)
    return _read_back(settings, photos, folder=place)


def _train(
    settings: Params,
    photos: photoset.Photos,
    *,
    folder: Path,
    parent: Path | None,
    watch: Callable[[int, dict], None] | None,
) -> None:
    """Run a training to its end and record that it is finished."""
    epochs = sum(stage.epochs for stage in trainer.stages(settings).values())
    with progress.Bar(epochs * len(photos.rows("train")), "training") as bar:
        work = trainer.Trainer(
            settings,
            photos,
            folder=folder,
            build=lambda: network(settings, photos),
            bar=bar,
            watch=watch,
        )
        work.train(parent)
    record = {
        "parent": parent and parent.name,
        "network": _network_key(settings, photos),
        "batch_sizes": work.state.batch_sizes,
    }
    files.write_json(folder / "finished.json", record)


def network(settings: Params, photos: photoset.Photos) -> keras.Model:
    """Build the network of a run as it is before any training: the same weights each time."""
    return models.build(
        settings.model,
        classes=len(photos.classes),
        seed=settings.seed,
        statistics=_statistics(settings, photos),
    )


def key(settings: Params, photos: photoset.Photos, *, parent: str | None = None) -> str:
    """Return the fingerprint of all that decides the result of a training.

    Args:
        settings: the run's parameters.
        photos: the run's photos.
        parent: key of the training that it resumes, if there is one.
    """
    return cache.fingerprint(
        _network_key(settings, photos),
        settings.seed,
        settings.augment.model_dump(),
        settings.train.model_dump(),
        parent,
        cache.code(*CODE, Path(__file__)),
    )


def _network_key(settings: Params, photos: photoset.Photos) -> str:
    identity = backbones.weights_identity(settings.model.weights)
    return cache.fingerprint(
        settings.model.model_dump() | {"weights": identity},
        photos.identity("train", "val"),
        _statistics(settings, photos),
    )


def _statistics(settings: Params, photos: photoset.Photos) -> tuple[list[float], list[float]] | None:
    return photos.statistics if settings.model.scaling == "measured" else None


def _read_back(settings: Params, photos: photoset.Photos, *, folder: Path) -> Training:
    """Read a finished training; its network is built anew and thus carries no optimizer."""
    finished, model = state.State.load(folder), network(settings, photos)
    model.set_weights(finished.best_weights(folder))
    return Training(
        key=folder.name,
        history=pd.DataFrame(finished.history, columns=trainer.COLUMNS),
        model=model,
        batch_size=finished.batch_size,
        learned=tuple(finished.learned),
    )


def _parent(settings: Params, photos: photoset.Photos, *, folder: Path, finished: str | None) -> str | None:
    """Return the training to resume: the run's last one, or that one's own parent if the last one is already
    the result of these parameters."""
    if not settings.train.resume_stages:
        return None
    record = folder / str(finished) / "finished.json"
    if not record.is_file():
        raise ValueError(
            "there is no finished training to go on from. "
            "Run the training without `train.resume_stages` first"
        )
    last = files.read_json(record)
    if last["network"] != _network_key(settings, photos):
        raise ValueError(
            "the finished training was of another model or of other photos: "
            "it can go on only with the same `model` and data"
        )
    if last["parent"] and key(settings, photos, parent=last["parent"]) == finished:
        return last["parent"]
    return finished


def of_run(folder: Path) -> str | None:
    """Return the key of the training that a run's `model.json` comes from; `None` without a model."""
    path = folder / "model.json"
    return files.read_json(path)["training"] if path.is_file() else None


def best_epoch(history: pd.DataFrame, monitor: str) -> int:
    """Return the index of the row with the kept weights: the least loss, or the highest accuracy, on val."""
    return int(history[monitor].idxmin() if monitor == "val_loss" else history[monitor].idxmax())


def frozen_layers_agree(trained: Training, fresh: keras.Model, *, settings: Params) -> bool:
    """Return whether the layers of the backbone that were never trained still have their first weights.

    Args:
        trained: the training.
        fresh: its network, just built.
        settings: the run's parameters.
    """
    layers = fresh.get_layer(models.BACKBONE).layers
    learned: set[int] = set()
    for part in trained.learned:
        models.unfreeze(fresh, part, settings.model)
        learned |= {index for index, layer in enumerate(layers) if layer.trainable}
    pairs = enumerate(zip(layers, trained.model.get_layer(models.BACKBONE).layers, strict=True))
    return all(
        np.array_equal(before, after)
        for index, (one, other) in pairs
        if index not in learned
        for before, after in zip(one.get_weights(), other.get_weights(), strict=True)
    )
