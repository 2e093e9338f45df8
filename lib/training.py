"""Train a network in stages, keep its best weights, and go on where an interrupted training stopped.

Each training has a folder of its own under `training/`, named by everything that decides its
result: a finished one is read back, an unfinished one goes on, and none is ever overwritten.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib import augmentation, backbones, cache, dataset, device, efficientnet_lite, manifest, models, progress
from lib.device import keras
from lib.schema import Params, Stage

COLUMNS = ["epoch", "stage", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
CODE = (augmentation, backbones, dataset, efficientnet_lite, models)
CALLBACK_STATE = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        key: what identifies it.
        history: one row per epoch: `epoch` (from 1, over all stages), `stage`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`, `learning_rate`, `seconds`.
        model: the network with its best weights.
    """

    key: str
    history: pd.DataFrame
    model: keras.Model


def fit(
    settings: Params,
    photos: manifest.Photos,
    folder: Path,
    *,
    finished: str | None = None,
    watch: Callable[[int, dict], None] | None = None,
) -> Training:
    """Train as the parameters say, or read back or go on with what was already trained.

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
        ValueError: the loss is no longer a number, or the training to go on from was of another model.
    """
    parent = _parent(settings, photos, folder, finished)
    place = folder / _key(settings, photos, parent)
    if not (place / "finished.json").is_file():
        with device.strategy().scope():
            network = _build(settings, photos)
        _Trainer(settings, photos, network, place, watch).train(folder / parent if parent else None)
        cache.write_json(
            place / "finished.json", {"parent": parent, "network": _network_key(settings, photos)}
        )
    network = _build(settings, photos)  # anew, so that it carries no optimizer
    with np.load(place / "best.npz") as best:
        network.set_weights(list(best.values()))
    return Training(place.name, pd.DataFrame(_meta(place / "state.npz")["history"], columns=COLUMNS), network)


def _build(settings, photos):
    return models.build(settings.model, classes=len(photos.classes), seed=settings.seed)


def _network_key(settings, photos):
    identity = backbones.weights_identity(settings.model.weights)
    return cache.fingerprint(
        settings.model.model_dump() | {"weights": identity}, photos.identity("train", "val")
    )


def _key(settings, photos, parent):
    """Return the fingerprint of all that decides the result of a training."""
    parts = [
        _network_key(settings, photos),
        settings.seed,
        settings.augment.model_dump(),
        settings.train.model_dump(),
    ]
    return cache.fingerprint(*parts, parent, cache.code(*CODE, Path(__file__)))


def _parent(settings, photos, folder, finished) -> str | None:
    """Return the training that the resumed stages go on from: the run's last one, or that one's own
    parent where the last one is already the result of just this."""
    if not settings.train.resume_stages:
        return None
    record = folder / str(finished) / "finished.json"
    if not record.is_file():
        raise ValueError(
            "there is no finished training to go on from. Run the training without `train.resume_stages` first"
        )
    last = cache.read_json(record)
    if last["network"] != _network_key(settings, photos):
        raise ValueError(
            "the finished training was of another model or of other photos: it can go on only with the same `model` and data"
        )
    if last["parent"] and _key(settings, photos, last["parent"]) == finished:
        return last["parent"]
    return finished


class _Trainer:
    """Runs the stages of one training and keeps its state on disk."""

    def __init__(self, settings: Params, photos: manifest.Photos, network: keras.Model, place: Path, watch):
        self.settings, self.photos, self.network, self.place = settings, photos, network, place
        self.watch = watch
        self.state = place / "state.npz"
        self.meta = {"stage": 0, "epoch": 0, "best": None, "history": [], "callbacks": []}
        self.steps = math.ceil(len(photos.rows("train")) / settings.train.batch_size)
        self.sign = 1 if settings.train.monitor == "val_loss" else -1
        stages = {name: stage for name, stage in settings.train.stages.items() if stage and stage.epochs}
        if settings.train.resume_stages:
            stages = {name: stages[name] for name in settings.train.resume_stages if name in stages}
        self.stages = stages
        weights = {id(variable) for variable in network.weights}
        self.seeds = [
            (variable, np.asarray(variable)) for variable in network.variables if id(variable) not in weights
        ]

    def train(self, parent: Path | None) -> None:
        """Run the stages that are left."""
        if self.state.is_file():
            self.meta = _meta(self.state)
        elif parent:
            inherited = _meta(parent / "state.npz")
            self.meta |= {"history": inherited["history"], "best": inherited["best"]}
            with np.load(parent / "best.npz") as best:
                self._keep_best([best[name] for name in best])
        total = sum(stage.epochs for stage in self.stages.values()) * self.steps
        with progress.Bar(total, "training") as self.bar:
            for row in self.meta["history"]:
                self.bar.line(_sentence(row))
            self.bar.step(self.steps * len(self.meta["history"]) if not parent else 0)
            for index, (name, stage) in enumerate(self.stages.items()):
                if index >= self.meta["stage"]:
                    self._run_stage(index, name, stage)
        if not self.state.is_file():  # the stages to resume have no epoch
            self.save(stage=0, epoch=0)

    def _run_stage(self, index: int, name: str, stage: Stage) -> None:
        with device.strategy().scope():
            self._start_from_best()
            models.unfreeze(self.network, stage.trainable, self.settings.model)
            self.network.compile(
                optimizer=_optimizer(self.settings.train.optimizer, stage, self.steps),
                loss=keras.losses.CategoricalCrossentropy(
                    label_smoothing=self.settings.train.label_smoothing
                ),
                metrics=["accuracy"],
                jit_compile="auto" if device.GPUS else False,
            )
            self.network.optimizer.build(self.network.trainable_variables)
        callbacks = self._callbacks(name)
        done = self.meta["epoch"]
        if done:
            self._restore()
        if not self.meta.get("stopped"):
            keeper = _Keeper(self, name, callbacks)
            log = keras.callbacks.TensorBoard(self.place / "tensorboard" / name, write_graph=False)
            self.network.fit(
                self._batches(),
                epochs=stage.epochs,
                initial_epoch=done,
                steps_per_epoch=self.steps,
                validation_data=self._validation(),
                callbacks=[log, *callbacks, keeper],
                shuffle=False,  # the stream has shuffled
                verbose=0,
            )
        self.meta |= {"stopped": False, "callbacks": []}
        self.save(stage=index + 1, epoch=0)

    def _start_from_best(self):
        # A stage starts with the same seeds of dropout, whether the training was interrupted before it or not.
        for variable, value in self.seeds:
            variable.assign(value)
        if (self.place / "best.npz").is_file():
            with np.load(self.place / "best.npz") as best:
                self.network.set_weights([best[name] for name in best])

    def _callbacks(self, name):
        train = self.settings.train
        callbacks = []
        if train.reduce_learning_rate and self.settings.train.stages[name].schedule == "constant":
            options = train.reduce_learning_rate.model_dump()
            callbacks.append(keras.callbacks.ReduceLROnPlateau(train.monitor, **options))
        if train.early_stopping:
            callbacks.append(
                keras.callbacks.EarlyStopping(train.monitor, patience=train.early_stopping.patience)
            )
        return callbacks

    def _batches(self):
        targets = self.photos.targets("train")
        classes = len(self.photos.classes)
        weights = (
            dataset.class_weights(targets, classes) if self.settings.train.class_weights else np.ones(classes)
        )
        return dataset.training(
            self.photos.full,
            self.photos.rows("train"),
            targets,
            size=self.photos.size,
            class_weights=weights,
            settings=self.settings.augment,
            batch_size=self.settings.train.batch_size,
            seed=self.settings.seed,
            first_epoch=len(self.meta["history"]),
        )

    def _validation(self):
        rows, targets = self.photos.rows("val"), self.photos.targets("val")
        return dataset.evaluation(
            self.photos.images,
            rows,
            targets=targets,
            classes=len(self.photos.classes),
            batch_size=self.settings.train.batch_size,
        )

    def _variables(self):
        """Return all that an epoch changes: weights, statistics, dropout's seeds, the optimizer's moments."""
        return [*self.network.variables, *self.network.optimizer.variables]

    def _restore(self) -> None:
        """Put everything back to the end of the last whole epoch."""
        with np.load(self.state) as state:
            for index, variable in enumerate(self._variables()):
                variable.assign(state[f"v{index}"])

    def save(self, *, stage: int, epoch: int) -> None:
        """Write the state, whole or not at all."""
        self.meta |= {"stage": stage, "epoch": epoch}
        values = (
            {f"v{index}": np.asarray(value) for index, value in enumerate(self._variables())} if epoch else {}
        )
        cache.write(
            self.state, lambda partial: np.savez(partial, meta=np.array(json.dumps(self.meta)), **values)
        )

    def _keep_best(self, weights) -> None:
        cache.write(self.place / "best.npz", lambda partial: np.savez(partial, *weights))

    def end_epoch(self, stage: str, epoch: int, logs: dict, callbacks: list) -> None:
        """Record an epoch, keep its weights if they are the best, and write the state."""
        row = [len(self.meta["history"]) + 1, stage, *(float(logs[key]) for key in COLUMNS[2:])]
        if not np.isfinite(row[2]):
            raise ValueError(
                f"the loss of epoch {row[0]} is {row[2]}: lower the learning rate of stage {stage}"
            )
        self.meta["history"].append(row)
        value = self.sign * float(logs[self.settings.train.monitor])
        if self.meta["best"] is None or value < self.meta["best"]:
            self.meta["best"] = value
            self._keep_best(self.network.get_weights())
        self.meta["callbacks"] = [
            {
                name: float(getattr(callback, name))
                for name in CALLBACK_STATE
                if getattr(callback, name, None) is not None
            }
            for callback in callbacks
        ]
        self.meta["stopped"] = bool(self.network.stop_training)
        self.save(stage=list(self.stages).index(stage), epoch=epoch)
        self.bar.line(_sentence(row))
        if self.watch:
            self.watch(row[0], dict(zip(COLUMNS, row, strict=True)))


class _Keeper(keras.callbacks.Callback):
    """Runs last: gives the other callbacks their state back, and records each epoch after they have seen it."""

    def __init__(self, trainer: _Trainer, stage: str, callbacks: list):
        super().__init__()
        self.trainer, self.stage, self.callbacks = trainer, stage, callbacks

    def on_train_begin(self, logs=None):
        for callback, state in zip(self.callbacks, self.trainer.meta["callbacks"], strict=False):
            for name, value in state.items():
                setattr(callback, name, value)

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.rate = time.monotonic(), float(np.asarray(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        self.trainer.bar.step()

    def on_epoch_end(self, epoch, logs=None):
        logs = {**logs, "learning_rate": self.rate, "seconds": round(time.monotonic() - self.began, 2)}
        self.trainer.end_epoch(self.stage, epoch + 1, logs, self.callbacks)


def _optimizer(settings, stage: Stage, steps: int) -> keras.optimizers.Optimizer:
    rate = stage.learning_rate
    if stage.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(stage.learning_rate, decay_steps=stage.epochs * steps)
    if settings.kind == "sgd":
        return keras.optimizers.SGD(
            rate, momentum=settings.momentum, weight_decay=settings.weight_decay or None
        )
    if settings.kind == "adam":
        return keras.optimizers.Adam(rate)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    # Decay pulls towards 0, where kernels belong; the scale of a normalisation belongs at 1.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _sentence(row) -> str:
    values = dict(zip(COLUMNS, row, strict=True))
    return (
        f"epoch {values['epoch']:>3}  {values['stage']:<10}  loss {values['loss']:.3f}  accuracy {values['accuracy']:.3f}  "
        f"val_loss {values['val_loss']:.3f}  val_accuracy {values['val_accuracy']:.3f}"
    )


def _meta(state: Path) -> dict:
    with np.load(state, allow_pickle=False) as stored:
        return json.loads(str(stored["meta"]))


def of_run(folder: Path) -> str | None:
    """Return the key of the training that a run's `model.json` comes from; None where there is no model yet."""
    path = folder / "model.json"
    return cache.read_json(path)["training"] if path.is_file() else None


def best_epoch(history: pd.DataFrame, monitor: str) -> int:
    """Return the index of the row whose weights were kept: the least loss, or the highest accuracy, on val."""
    return int(history[monitor].idxmin() if monitor == "val_loss" else history[monitor].idxmax())


def frozen_layers_agree(trained: keras.Model, fresh: keras.Model, settings: Params) -> bool:
    """Tell whether the layers of the backbone that no stage let learn are as they were before training.

    Args:
        trained: the network after training.
        fresh: the same network, just built.
        settings: the run's parameters.
    """
    layers = fresh.get_layer(models.BACKBONE).layers
    learned = set()
    for stage in filter(None, settings.train.stages.values()):
        models.unfreeze(fresh, stage.trainable, settings.model)
        learned |= {index for index, layer in enumerate(layers) if layer.trainable}
    pairs = enumerate(zip(layers, trained.get_layer(models.BACKBONE).layers, strict=True))
    return all(
        np.array_equal(before, after)
        for index, (one, other) in pairs
        if index not in learned
        for before, after in zip(one.get_weights(), other.get_weights(), strict=True)
    )
