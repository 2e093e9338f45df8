"""Train a network in stages, keep its best weights, and continue an interrupted training.

Each training has its own folder under `training/`, named by a fingerprint of everything that determines its
result. A finished training is loaded, an unfinished one is continued, and neither is overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, progress
from lib.core.schema import Params
from lib.networks import backbones, backend, models
from lib.networks.backend import keras
from lib.train import state, trainer


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        key: fingerprint of the training, as the result of `key`.
        history: one row per epoch: `epoch` (from 1, over all stages), `stage`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`, `learning_rate`, `seconds`; `top_3` and `val_top_3` (top-3 accuracy)
            if there are more than 10 classes, missing in epochs of a training of an earlier version.
        model: the network with its best weights.
        kept_epoch: the epoch of these weights, from 1.
        batch_size: the batch size at the end; smaller than `train.batch_size` if memory ran out.
        learned: the trained parts of the backbone, as in `train.stages`, including those of the resumed
            training.
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
    """Train a network, continue an interrupted training, or load a finished one.

    If memory runs out, the training continues from the last completed epoch with half the batch size.

    Args:
        settings: the run's parameters.
        photos: the run's photos. The network is fitted on train; the epoch to keep is selected on val.
        folder: the folder of all trainings.
        finished: key of the training that `train.resume_stages` resumes, if any. If its `monitor` or
            `label_smoothing` differs, its weights are evaluated on val again, so that the values of all
            epochs are comparable.
        watch: called after each epoch with its row of the history and its batch size. If it raises an
            error, the training stops, and the next call continues it.

    Returns:
        The training with the weights of the epoch with the best monitored value. If no epoch is better than
        the resumed training, these are the weights of that training.

    Raises:
        ValueError: if train or val is empty, the loss is not a number, memory runs out with a batch size of
            1 or in one of several processes, the processes have other parameters, photos or versions of lib,
            or the training to resume has another model or other photos.
    """
    if empty := [split for split in ("train", "val") if not len(photos.rows(split))]:
        raise ValueError(
            f"training needs photos in train and val. Received: no photos in {' and '.join(empty)}. "
            "Check the counts of 02_clean and the parameters of `split`"
        )
    with backend.first_process_first():
        if finished:
            state.remove_damaged(folder / finished)
        parent = _parent(settings, photos, folder=folder, finished=finished)
        own = folder / key(settings, photos, parent=parent)
        state.remove_damaged(own)
    backend.synchronize(f"training {own.name}")
    if state.Finished.load(own) is None:
        _train(settings, photos, folder=own, parent=folder / parent if parent else None, watch=watch)
    backend.synchronize("end")
    return _load(settings, photos, folder=own)


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
        loop = trainer.Trainer(
            settings,
            photos,
            folder=folder,
            build=lambda: network(settings, photos),
            bar=bar,
            watch=watch,
        )
        loop.train(parent)
    state.Finished(
        parent=parent.name if parent else None,
        network=_network_key(settings, photos),
        batch_sizes=loop.state.batch_sizes,
        monitor=settings.train.monitor,
        label_smoothing=settings.train.label_smoothing,
    ).save(folder)


def network(settings: Params, photos: photoset.Photos) -> keras.Model:
    """Build the network of a run with its initial weights, which depend only on the arguments."""
    return models.build(
        settings.model,
        classes=len(photos.classes),
        seed=settings.seed,
        statistics=_statistics(settings, photos),
    )


def key(settings: Params, photos: photoset.Photos, *, parent: str | None = None) -> str:
    """Return the fingerprint of everything that determines the result of a training.

    Args:
        settings: the run's parameters.
        photos: the run's photos.
        parent: key of the training that this training resumes, if any.
    """
    return cache.fingerprint(
        _network_key(settings, photos),
        backend.ENGINE,
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


def _load(settings: Params, photos: photoset.Photos, *, folder: Path) -> Training:
    """Load a finished training. Its network is built again and has no optimizer."""
    finished, model = state.State.load(folder), network(settings, photos)
    model.set_weights(finished.best_weights(folder))
    return Training(
        key=folder.name,
        history=pd.DataFrame(finished.history, columns=trainer.columns(len(photos.classes))),
        model=model,
        kept_epoch=finished.kept,
        batch_size=finished.batch_size,
        learned=tuple(finished.learned),
    )


def _parent(settings: Params, photos: photoset.Photos, *, folder: Path, finished: str | None) -> str | None:
    """Return the key of the training to resume: `finished` or, if that is this training, its parent."""
    if not settings.train.resume_stages:
        return None
    last = state.Finished.load(folder / str(finished))
    if last is None:
        raise ValueError(
            "`train.resume_stages` needs a finished training. "
            "Run the training without `train.resume_stages` first"
        )
    if last.network != _network_key(settings, photos):
        raise ValueError(
            "`train.resume_stages` needs the model and the photos of the finished training. "
            "Received: another `model` or other photos. Train without `train.resume_stages` instead"
        )
    if last.parent and key(settings, photos, parent=last.parent) == finished:
        return last.parent
    return finished


def of_run(folder: Path) -> str | None:
    """Return the key of the training of a run's model; `None` if the run has no `model.json`."""
    path = folder / "model.json"
    return files.read_json(path)["training"] if path.is_file() else None


def frozen_layers_agree(trained: Training, fresh: keras.Model, *, settings: Params) -> bool:
    """Return whether the frozen layers of the backbone still have their initial weights.

    Args:
        trained: the training.
        fresh: the result of `network`. Afterwards, its layers are frozen as in the last trained stage.
        settings: the run's parameters.
    """
    layers = fresh.get_layer(models.BACKBONE).layers
    trainable: set[int] = set()
    for part in trained.learned:
        models.unfreeze(fresh, part, settings=settings.model)
        trainable |= {index for index, layer in enumerate(layers) if layer.trainable}
    pairs = enumerate(zip(layers, trained.model.get_layer(models.BACKBONE).layers, strict=True))
    return all(
        np.array_equal(before, after)
        for index, (initial, final) in pairs
        if index not in trainable
        for before, after in zip(initial.get_weights(), final.get_weights(), strict=True)
    )
