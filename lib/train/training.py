"""Train a network in stages, keep its best weights, and go on where an interrupted training stopped.

Each training has a folder of its own under `training/`, named by everything that decides its
result: a finished one is read back, an unfinished one goes on, and none is ever overwritten.
"""

import gc
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, progress
from lib.core.schema import Params, Stage
from lib.networks import backbones, device, models
from lib.networks.device import keras, tf
from lib.train import dataset

COLUMNS = ["epoch", "stage", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
CALLBACK_STATE = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


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
    folder: Path,
    *,
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
    parent = _parent(settings, photos, folder, finished)
    place = folder / _key(settings, photos, parent)
    if not (place / "finished.json").is_file():
        trainer = _Trainer(settings, photos, place, watch)
        trainer.train(folder / parent if parent else None)
        record = {"parent": parent, "network": _network_key(settings, photos)}
        files.write_json(place / "finished.json", record | {"batch_sizes": trainer.meta["batch_sizes"]})
        del trainer  # its network and optimizer make room for the next
    return _read_back(settings, photos, place)


def network(settings: Params, photos: photoset.Photos) -> keras.Model:
    """Build the network of a run as it is before any training: the same weights each time."""
    return models.build(
        settings.model,
        classes=len(photos.classes),
        seed=settings.seed,
        statistics=_statistics(settings, photos),
    )


def _statistics(settings, photos):
    return photos.statistics if settings.model.scaling == "measured" else None


def _read_back(settings, photos, place) -> Training:
    meta, model = _meta(place / "state.npz"), network(settings, photos)  # built anew: it carries no optimizer
    model.set_weights(_arrays(_best(place, meta)))
    history = pd.DataFrame(meta["history"], columns=COLUMNS)
    return Training(place.name, history, model, meta["batch_sizes"][-1]["batch_size"], tuple(meta["learned"]))


def _network_key(settings, photos):
    identity = backbones.weights_identity(settings.model.weights)
    return cache.fingerprint(
        settings.model.model_dump() | {"weights": identity},
        photos.identity("train", "val"),
        _statistics(settings, photos),
    )


def _key(settings, photos, parent):
    """Return the fingerprint of all that decides the result of a training."""
    parts = [
        _network_key(settings, photos),
        settings.seed,
        settings.augment.model_dump(),
        settings.train.model_dump(),
    ]
    return cache.fingerprint(*parts, parent, cache.code(__name__))


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
    last = files.read_json(record)
    if last["network"] != _network_key(settings, photos):
        raise ValueError(
            "the finished training was of another model or of other photos: it can go on only with the same `model` and data"
        )
    if last["parent"] and _key(settings, photos, last["parent"]) == finished:
        return last["parent"]
    return finished


class _Trainer:
    """Runs the stages of one training and keeps its state on disk.

    `state.npz` holds all that the next epoch needs, and names the file of the best weights: a kill
    between the writing of the two leaves the state with the weights that it was written with.
    """

    def __init__(self, settings: Params, photos: photoset.Photos, place: Path, watch=None):
        self.settings, self.photos, self.place, self.watch = settings, photos, place, watch
        self.state = place / "state.npz"
        self.sign = 1 if settings.train.monitor == "val_loss" else -1
        stages = {name: stage for name, stage in settings.train.stages.items() if stage and stage.epochs}
        if settings.train.resume_stages:
            stages = {name: stages[name] for name in settings.train.resume_stages if name in stages}
        self.stages = stages
        self.meta = {"stage": 0, "epoch": 0, "stopped": False, "callbacks": [], "learned": []}
        self.meta |= {"history": [], "inherited": 0, "best": None, "kept": None, "batch_sizes": []}
        self._choose_batch_size(settings.train.batch_size)
        self.vectors = None
        self._build()

    def _build(self):
        with device.strategy().scope():
            self.network = self.learner = network(self.settings, self.photos)
        weights = {id(variable) for variable in self.network.weights}
        others = [variable for variable in self.network.variables if id(variable) not in weights]
        self.seeds = [(variable, variable.numpy()) for variable in others]

    @property
    def batch_size(self) -> int:
        """Photos per step."""
        return self.meta["batch_sizes"][-1]["batch_size"]

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return math.ceil(len(self.photos.rows("train")) / self.batch_size)

    def train(self, parent: Path | None) -> None:
        """Run the stages that are left."""
        if self.state.is_file():
            self.meta = _meta(self.state)
        elif parent:
            self._inherit(parent)
        count, done = len(self.photos.rows("train")), len(self.meta["history"]) - self.meta["inherited"]
        total = sum(stage.epochs for stage in self.stages.values())
        with progress.Bar(count * total, "training") as self.bar:
            for row in self.meta["history"]:
                self.bar.line(_sentence(row))
            self.bar.step(count * done)
            while self.meta["stage"] < len(self.stages):
                if not self._run_stage(*list(self.stages.items())[self.meta["stage"]]):
                    self._halve_batch_size()
        if not self.state.is_file():  # the stages to resume have no epoch
            self.save(stage=0, epoch=0)

    def _inherit(self, parent):
        """Start with what a finished training has."""
        inherited = _meta(parent / "state.npz")
        self.meta |= {name: inherited[name] for name in ("history", "best", "kept", "learned")}
        self.meta |= {"inherited": len(inherited["history"]), "batch_sizes": []}
        self._choose_batch_size(self.settings.train.batch_size)
        self._keep_best(self.meta["kept"], _arrays(_best(parent, inherited)))

    def _run_stage(self, name: str, stage: Stage) -> bool:
        """Run a stage, or what is left of it, to its end; return False where memory ran out before."""
        self._start_from_best()
        self._compile(stage)
        if stage.trainable not in self.meta["learned"]:
            self.meta["learned"].append(stage.trainable)
        callbacks = self._callbacks(stage)
        done = self.meta["epoch"]
        if done:
            self._restore()
        if not self.meta["stopped"]:
            log = keras.callbacks.TensorBoard(self.place / "tensorboard" / name, write_graph=False)
            try:
                self.learner.fit(
                    self._batches(stage),
                    epochs=stage.epochs,
                    initial_epoch=done,
                    steps_per_epoch=self.steps,
                    validation_data=self._validation(),
                    callbacks=[log, *callbacks, _Keeper(self, name, callbacks)],
                    shuffle=False,  # the stream has shuffled
                    verbose=0,
                )
            except tf.errors.ResourceExhaustedError:
                return False
        self.meta |= {"stopped": False, "callbacks": []}
        self.save(stage=self.meta["stage"] + 1, epoch=0)
        return True

    def _start_from_best(self):
        # A stage starts with the same seeds of dropout, whether the training was interrupted before it or not.
        for variable, value in self.seeds:
            variable.assign(value)
        if self.meta["kept"] is not None:
            self.network.set_weights(_arrays(_best(self.place, self.meta)))

    def _compile(self, stage):
        train = self.settings.train
        models.unfreeze(self.network, stage.trainable, self.settings.model)
        head = self._head_alone(stage)
        self.learner = head or self.network
        self.vectors = self.photos.embed(self.settings.model) if head else None
        with device.strategy().scope():
            self.learner.compile(
                optimizer=_optimizer(train.optimizer, stage.learning_rate),
                loss=keras.losses.CategoricalCrossentropy(label_smoothing=train.label_smoothing),
                metrics=[_Accuracy(name="accuracy")],
                jit_compile="auto" if device.GPUS else False,
            )
            self.learner.optimizer.build(self.learner.trainable_variables)

    def _head_alone(self, stage) -> keras.Model | None:
        """Return the head where it is all that a stage changes, on embeddings that need to be computed only once.

        Embeddings are those of pretrained weights, on photos as they are, without the scaling that is measured.
        """
        frozen = {stage.trainable, *self.meta["learned"]} == {"none"} and not stage.augment
        model = self.settings.model
        known = model.weights is not None and model.scaling != "measured" and self.photos.folder
        return models.head(self.network, model) if frozen and known else None

    def _callbacks(self, stage):
        train = self.settings.train
        mode = "min" if self.sign > 0 else "max"
        callbacks = []
        if train.reduce_learning_rate and stage.schedule == "constant":
            options = train.reduce_learning_rate.model_dump()
            callbacks.append(keras.callbacks.ReduceLROnPlateau(train.monitor, mode=mode, **options))
        if train.early_stopping:
            patience = train.early_stopping.patience
            callbacks.append(keras.callbacks.EarlyStopping(train.monitor, mode=mode, patience=patience))
        return callbacks

    def _batches(self, stage):
        targets = self.photos.targets("train")
        classes = len(self.photos.classes)
        weights = (
            dataset.class_weights(targets, classes) if self.settings.train.class_weights else np.ones(classes)
        )
        photos = self.photos.full if stage.augment else self.photos.images
        stream = dataset.training(
            photos if self.vectors is None else self.vectors,
            self.photos.rows("train"),
            targets,
            size=self.photos.size,
            class_weights=weights,
            settings=self.settings.augment if stage.augment else None,
            batch_size=self.batch_size,
            seed=self.settings.seed,
            first_epoch=len(self.meta["history"]),
        )
        size = self._shared_size(len(targets))
        return dataset.filled(stream, size) if size else stream

    def _validation(self):
        rows, targets = self.photos.rows("val"), self.photos.targets("val")
        size = self._shared_size(len(rows))
        stream = dataset.evaluation(
            self.photos.images if self.vectors is None else self.vectors,
            rows,
            targets=targets,
            classes=len(self.photos.classes),
            batch_size=size or self.batch_size,
        )
        # Keras averages over what is in the batches: over all of them together, each photo then counts once.
        whole = math.ceil(len(rows) / size) * size if size else None
        return dataset.filled(stream, size, weight=whole / len(rows)) if size else stream

    def _shared_size(self, count):
        """Return the size that every batch needs so that several devices get equal parts; None for one device."""
        devices = device.strategy().num_replicas_in_sync
        return math.ceil(min(self.batch_size, count) / devices) * devices if devices > 1 else None

    def _choose_batch_size(self, size):
        """Record the photos per step from the next epoch on."""
        epoch = len(self.meta["history"]) + 1
        earlier = [part for part in self.meta["batch_sizes"] if part["from_epoch"] < epoch]
        self.meta["batch_sizes"] = [*earlier, {"from_epoch": epoch, "batch_size": size}]

    def _halve_batch_size(self):
        """Go back to the end of the last whole epoch, with half as many photos per step."""
        if self.batch_size == 1:
            raise ValueError(
                "memory runs out with a single photo per step: lower `model.image_size` or take a smaller "
                f"`model.backbone` than {self.settings.model.backbone}"
            )
        values = {}
        if self.state.is_file():
            self.meta = _meta(self.state)
            values = _arrays(self.state)[1:]
        half = self.batch_size // 2
        self.bar.line(f"memory ran out with {self.batch_size} photos per step: going on with {half}")
        self.bar.step(-self.seen)
        self._choose_batch_size(half)
        self._write(values)
        self.network = self.learner = None
        gc.collect()  # Keras's networks hold themselves, and this one still fills the memory
        self._build()

    def _variables(self):
        """Return all that an epoch changes: weights, statistics, dropout's seeds, the optimizer's moments."""
        return [*self.network.variables, *self.learner.optimizer.variables]

    def _restore(self) -> None:
        """Put everything back to the end of the last whole epoch."""
        for variable, value in zip(self._variables(), _arrays(self.state)[1:], strict=True):
            variable.assign(value)

    def save(self, *, stage: int, epoch: int) -> None:
        """Write the state, whole or not at all, and remove the best weights that it no longer names."""
        self.meta |= {"stage": stage, "epoch": epoch}
        self._write([variable.numpy() for variable in self._variables()] if epoch else [])
        for path in self.place.glob("best-*.npz"):
            if path != _best(self.place, self.meta):
                path.unlink()

    def _write(self, values):
        meta = np.array(json.dumps(self.meta))
        files.write(self.state, lambda partial: np.savez(partial, meta, *values))

    def _keep_best(self, epoch, weights):
        self.meta["kept"] = epoch
        files.write(_best(self.place, self.meta), lambda partial: np.savez(partial, *weights))

    def end_epoch(self, stage: str, epoch: int, logs: dict, callbacks: list) -> None:
        """Record an epoch, keep its weights if they are the best, and write the state."""
        row = [len(self.meta["history"]) + 1, stage, *(float(logs[key]) for key in COLUMNS[2:])]
        if not np.isfinite(row[2]):
            raise ValueError(
                f"the loss of epoch {row[0]} is {row[2]}: lower the learning rate of stage {stage}"
            )
        self.meta["history"].append(row)
        value = self.sign * float(logs[self.settings.train.monitor])
        value = math.inf if math.isnan(value) else value  # nothing is less than what is not a number
        if self.meta["best"] is None or value < self.meta["best"]:
            self.meta["best"] = value
            self._keep_best(row[0], self.network.get_weights())
        self.meta["callbacks"] = [
            {
                name: float(getattr(callback, name))
                for name in CALLBACK_STATE
                if getattr(callback, name, None) is not None
            }
            for callback in callbacks
        ]
        self.meta["stopped"] = bool(self.learner.stop_training)
        self.save(stage=list(self.stages).index(stage), epoch=epoch)
        self.bar.line(_sentence(row))
        if self.watch:
            self.watch(row[0], dict(zip(COLUMNS, row, strict=True)))


class _Keeper(keras.callbacks.Callback):
    """Runs last: gives the other callbacks their state back, sets the rate that a schedule asks for, and
    records each epoch after the others have seen it."""

    def __init__(self, trainer: _Trainer, stage: str, callbacks: list):
        super().__init__()
        self.trainer, self.stage, self.callbacks = trainer, stage, callbacks
        self.steps, self.photos = trainer.steps, len(trainer.photos.rows("train"))

    def on_train_begin(self, logs=None):
        for callback, state in zip(self.callbacks, self.trainer.meta["callbacks"], strict=False):
            for name, value in state.items():
                setattr(callback, name, value)

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.epoch, self.trainer.seen = time.monotonic(), epoch, 0
        self._set_rate(epoch)
        self.rate = float(np.asarray(self.model.optimizer.learning_rate))

    def on_train_batch_begin(self, batch, logs=None):
        self._set_rate(self.epoch + batch / self.steps)

    def _set_rate(self, epochs):
        stage = self.trainer.stages[self.stage]
        if stage.schedule != "constant":  # a constant one is left to ReduceLROnPlateau
            self.model.optimizer.learning_rate = learning_rate(stage, epochs)

    def on_train_batch_end(self, batch, logs=None):
        count = min(self.trainer.batch_size, self.photos - self.trainer.seen)
        self.trainer.seen += count
        self.trainer.bar.step(count)

    def on_epoch_end(self, epoch, logs=None):
        logs = {**logs, "learning_rate": self.rate, "seconds": round(time.monotonic() - self.began, 2)}
        self.trainer.end_epoch(self.stage, epoch + 1, logs, self.callbacks)


class _Accuracy(keras.metrics.CategoricalAccuracy):
    """The share of photos that are named right; those that only fill a batch, without a label, do not count."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        labelled = keras.ops.cast(keras.ops.any(y_true > 0, axis=-1), self.dtype)
        return super().update_state(y_true, y_pred, sample_weight=labelled)


def learning_rate(stage: Stage, epochs: float) -> float:
    """Return the rate that a stage's schedule asks for.

    It depends on the epochs done and on nothing else, so that neither an interruption nor another
    batch size changes its course.

    Args:
        stage: the stage. Half a cosine falls to 0 at its last epoch's end (Loshchilov and Hutter, 2016,
            https://arxiv.org/abs/1608.03983); an exponential schedule multiplies the rate by `decay`
            after each epoch.
        epochs: epochs of the stage that are done, with the fraction of the one that runs.
    """
    if stage.schedule == "cosine":
        return stage.learning_rate * (1 + math.cos(math.pi * epochs / stage.epochs)) / 2
    if stage.schedule == "exponential":
        return stage.learning_rate * stage.decay ** math.floor(epochs)
    return stage.learning_rate


def _optimizer(settings, rate: float) -> keras.optimizers.Optimizer:
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


def _arrays(path: Path) -> list[np.ndarray]:
    """Read the arrays of a file in the order in which they were written."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def _meta(state: Path) -> dict:
    with np.load(state, allow_pickle=False) as stored:
        return json.loads(str(stored["arr_0"]))


def _best(place: Path, meta: dict) -> Path:
    """Return the file of the best weights that a state names."""
    return place / f"best-{meta['kept']}.npz"


def of_run(folder: Path) -> str | None:
    """Return the key of the training that a run's `model.json` comes from; None where there is no model yet."""
    path = folder / "model.json"
    return files.read_json(path)["training"] if path.is_file() else None


def best_epoch(history: pd.DataFrame, monitor: str) -> int:
    """Return the index of the row whose weights were kept: the least loss, or the highest accuracy, on val."""
    return int(history[monitor].idxmin() if monitor == "val_loss" else history[monitor].idxmax())


def frozen_layers_agree(trained: Training, fresh: keras.Model, settings: Params) -> bool:
    """Tell whether the layers of the backbone that never learned are as they were before training.

    Args:
        trained: the training.
        fresh: its network, just built.
        settings: the run's parameters.
    """
    layers = fresh.get_layer(models.BACKBONE).layers
    learned = set()
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
