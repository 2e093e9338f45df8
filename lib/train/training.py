"""Train a network in stages, keep its best weights, and continue an interrupted training.

Each training has a folder of its own under `training/`, named by a fingerprint of everything that decides
its result: a finished training is read back, an unfinished one continues, and none is ever overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, progress
from lib.core.schema import Params
from lib.networks import backbones, models
from lib.networks.device import keras
from lib.train import state, trainer


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        key: what identifies it.
        history: one row per epoch: `epoch` (from 1, over all stages), `stage`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`, `learning_rate`, `seconds`.
        model: the network with its best weights.
        kept_epoch: the epoch, from 1, whose weights the network has.
        batch_size: the batch size at the end; smaller than the parameters say if memory ran out.
        learned: the trained parts of the backbone, as the stages name them, including those of the
            training that this one resumed.
    """

    key: str
    history: pd.DataFrame
    model: keras.Model
    kept_epoch: int
    batch_size: int
    learned: tuple[str, ...]


def fit(
    settings: Params,
    photos: photoset.Photos,
    *,
    folder: Path,
    finished: str | None = None,
    watch: Callable[[dict, int], None] | None = None,
) -> Training:
    """Train as the parameters say, continue an interrupted training, or read back a finished one.

    If the memory of the GPU runs out, the training continues from the last completed epoch with half the
    batch size.

    Args:
        settings: the run's parameters.
        photos: the run's photos; train learns, val chooses.
        folder: holds one folder per training.
        finished: key of the training that `train.resume_stages` resume, if there is one. If it had another
            `monitor` or `label_smoothing`, its weights are measured again on val, so that values that are
            compared were measured in the same way.
        watch: called after each epoch with its row of the history and its batch size. An error that it
            raises ends the training, which continues there when called again.

    Returns:
        The training with its best weights: those of the epoch with the best monitored value, or those of
        the resumed training if no epoch since was better.

    Raises:
        ValueError: train or val is empty, the loss is no longer a number, memory runs out with a single
            photo, or the training to resume was of another model.
    """
    if empty := [split for split in ("train", "val") if not len(photos.rows(split))]:
        raise ValueError(
            f"training needs photos in train and in val. Received: none in {' and '.join(empty)}. "
            "Look at the counts of 02_clean and at `split`"
        )
    if finished:
        state.remove_damaged(folder / finished)
    parent = _parent(settings, photos, folder=folder, finished=finished)
    place = folder / key(settings, photos, parent=parent)
    state.remove_damaged(place)
    if state.Finished.load(place) is None:
        _train(settings, photos, folder=place, parent=folder / parent if parent else None, watch=watch)
    return _read_back(settings, photos, folder=place)


def _train(
    settings: Params,
    photos: photoset.Photos,
    *,
    folder: Path,
    parent: Path | None,
    watch: Callable[[dict, int], None] | None,
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
    state.Finished(
        parent=parent.name if parent else None,
        network=_network_key(settings, photos),
        batch_sizes=work.state.batch_sizes,
        monitor=settings.train.monitor,
        label_smoothing=settings.train.label_smoothing,
    ).save(folder)


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
        cache.code(__name__),
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
        kept_epoch=finished.kept,
        batch_size=finished.batch_size,
        learned=tuple(finished.learned),
    )


def _parent(settings: Params, photos: photoset.Photos, *, folder: Path, finished: str | None) -> str | None:
    """Return the training to resume: the run's last one, or that one's own parent if the last one is already
    the result of these parameters."""
    if not settings.train.resume_stages:
        return None
    last = state.Finished.load(folder / str(finished))
    if last is None:
        raise ValueError(
            "there is no finished training to go on from. "
            "Run the training without `train.resume_stages` first"
        )
    if last.network != _network_key(settings, photos):
        raise ValueError(
            "the finished training was of another model or of other photos: "
            "it can go on only with the same `model` and data"
        )
    if last.parent and key(settings, photos, parent=last.parent) == finished:
        return last.parent
    return finished


def of_run(folder: Path) -> str | None:
    """Return the key of the training that a run's `model.json` comes from; `None` without a model."""
    path = folder / "model.json"
    return files.read_json(path)["training"] if path.is_file() else None


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
        models.unfreeze(fresh, part, settings=settings.model)
        learned |= {index for index, layer in enumerate(layers) if layer.trainable}
    pairs = enumerate(zip(layers, trained.model.get_layer(models.BACKBONE).layers, strict=True))
    return all(
        np.array_equal(before, after)
        for index, (one, other) in pairs
        if index not in learned
        for before, after in zip(one.get_weights(), other.get_weights(), strict=True)
    )
