"""Run the stages of a training, epoch by epoch. An interruption does not change the result."""

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lib.clean import photoset
from lib.core import progress
from lib.core.schema import Params, Stage
from lib.networks import backend, models
from lib.networks.backend import keras
from lib.train import batches, dataset, schedules, state, views

COLUMNS = ["epoch", "stage", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
# Columns of the history if there are more than `MANY` classes.
TOP_3 = ["top_3", "val_top_3"]
MANY = 10
# Maximum size of an embedding, as a multiple of the size of its photo.
LARGEST = 4
METRICS = {1: "accuracy", 3: "top_3"}


class Trainer:
    """The training loop, which keeps its state on disk.

    Args:
        settings: the run's parameters.
        photos: the run's photos.
        folder: the folder of the training's state.
        build: builds the network; called again after an out-of-memory error.
        bar: shows the progress, in photos of all epochs.
        watch: called after each epoch with its row of the history and its batch size.
    """

    def __init__(
        self,
        settings: Params,
        photos: photoset.Photos,
        *,
        folder: Path,
        build: Callable[[], keras.Model],
        bar: progress.Bar,
        watch: Callable[[dict, int], None] | None,
    ):
        self.settings, self.photos, self.folder = settings, photos, folder
        self.build, self.bar, self.watch = build, bar, watch
        self.stages, self.columns = stages(settings), columns(len(photos.classes))
        self.state = state.State()
        self.state.choose_batch_size(settings.train.batch_size)
        self.embeddings: np.ndarray | views.Views | None = None
        self._build()

    def _build(self) -> None:
        with backend.distribution():
            self.network = self.compiled = self.build()
        weights = {id(variable) for variable in self.network.weights}
        seeds = [variable for variable in self.network.variables if id(variable) not in weights]
        self.seeds = [(variable, variable.numpy()) for variable in seeds]

    def train(self, parent: Path | None) -> None:
        """Run the remaining stages, after those of the finished training in the folder `parent`, if any."""
        if state.exists(self.folder):
            self.state = state.State.load(self.folder)
        elif parent:
            self._inherit(parent)
        for row in self.state.history:
            self.bar.line(sentence(self._named(row)))
        self._show_progress()
        while self.state.stage < len(self.stages):
            if not self._run_stage(list(self.stages)[self.state.stage]):
                self._halve_batch_size()
        # If no stage to resume has an epoch, nothing has been saved yet.
        if not state.exists(self.folder):
            self._save(stage=0, epoch=0)

    def _show_progress(self) -> None:
        """Set the bar to the end of the last completed epoch."""
        epochs = len(self.state.history) - self.state.inherited
        self.bar.step(epochs * len(self.photos.rows("train")) - self.bar.done)

    def _inherit(self, parent: Path) -> None:
        """Start from the end of a finished training.

        Its best value is kept only if `monitor` and `label_smoothing` are the same.
        """
        finished, record, train = state.State.load(parent), state.Finished.load(parent), self.settings.train
        comparable = record and (record.monitor, record.label_smoothing) == (
            train.monitor,
            train.label_smoothing,
        )
        # Trainings of earlier versions have no top-3 accuracy.
        unknown: list[int | str | float] = [math.nan] * len(self.columns)
        self.state = state.State(
            learned=finished.learned,
            history=[row + unknown[len(row) :] for row in finished.history],
            inherited=len(finished.history),
            best=finished.best if comparable else None,
            kept=finished.kept,
        )
        self.state.choose_batch_size(self.settings.train.batch_size)
        self.state.keep(self.folder, finished.best_weights(parent))

    def _run_stage(self, name: str) -> bool:
        """Run the remaining epochs of a stage. Return `False` if memory ran out."""
        try:
            self._prepare(self.stages[name])
            if not self.state.stopped:
                self._fit(name)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            if backend.PROCESSES > 1:
                # The other processes wait for this batch: they cannot agree on another.
                raise ValueError(
                    f"out of memory with a batch size of {self.state.batch_size} in {backend.PROCESSES} "
                    "processes, which do not halve it. Lower `train.batch_size`, or start more processes"
                ) from error
            return False
        self.state.stopped, self.state.callbacks = False, []
        self._save(stage=self.state.stage + 1, epoch=0)
        return True

    def _prepare(self, stage: Stage) -> None:
        """Compile the network, with the weights at the start of the stage or at its interruption."""
        self._start_from_best()
        self._compile(stage)
        if self.state.kept and self.state.best is None:
            self.state.best = self._measure()
        if stage.trainable not in self.state.learned:
            self.state.learned.append(stage.trainable)
        if self.state.epoch:
            self._restore()

    def _measure(self) -> float:
        """Return the monitored value on val, negated if higher is better."""
        with backend.distribution(), self._validation() as validation:
            logs = self.compiled.evaluate(validation, verbose=0, return_dict=True)
        return self._signed({f"val_{name}": value for name, value in logs.items()})

    def _fit(self, name: str) -> None:
        """Fit the network for the remaining epochs of a stage."""
        stage, batch_size = self.stages[name], self.state.batch_size
        callbacks = schedules.callbacks(self.settings.train, stage)
        training = batches.training(
            self.photos,
            self.settings,
            stage=stage,
            embeddings=self.embeddings,
            batch_size=batch_size,
            parts=self._accumulate(),
            first_epoch=len(self.state.history),
        )
        # The recorder is the last callback: it saves the counters that the others have updated. The photos
        # are shuffled already.
        with backend.distribution(), training, self._validation() as validation:
            self.compiled.fit(
                training,
                epochs=stage.epochs,
                initial_epoch=self.state.epoch,
                steps_per_epoch=self._batches_per_epoch(),
                validation_data=validation,
                callbacks=[
                    *self._logs(name),
                    *callbacks,
                    _Recorder(self, name, callbacks),
                ],
                shuffle=False,
                verbose=0,
            )

    def _logs(self, name: str) -> list[keras.callbacks.Callback]:
        """Return the callback that writes logs for TensorBoard, which Keras does with TensorFlow only."""
        if backend.ENGINE != "tensorflow":
            return []
        return [keras.callbacks.TensorBoard(self.folder / "tensorboard" / name, write_graph=False)]

    def _validation(self) -> dataset.Batches:
        return batches.validation(self.photos, embeddings=self.embeddings, batch_size=self.state.batch_size)

    def _start_from_best(self) -> None:
        # Each stage starts with the same seeds of dropout, interrupted or not.
        for variable, value in self.seeds:
            variable.assign(value)
        if self.state.kept:
            backend.synchronize(f"epoch {self.state.kept}")
            self.network.set_weights(self.state.best_weights(self.folder))

    def _compile(self, stage: Stage) -> None:
        """Compile the network for a stage, or only its head if the stage can be trained on embeddings."""
        train = self.settings.train
        models.unfreeze(self.network, stage.trainable, settings=self.settings.model)
        head = self._head_only(stage)
        self.compiled = head or self.network
        with backend.first_process_first():
            self.embeddings = self._embed(stage) if head else None
        with backend.distribution():
            self.compiled.compile(
                optimizer=schedules.optimizer(
                    train.optimizer,
                    stage,
                    batches=self._batches_per_epoch(),
                    accumulate=self._accumulate(),
                ),
                loss=keras.losses.CategoricalCrossentropy(label_smoothing=train.label_smoothing),
                metrics=[TopAccuracy(k, metric) for k, metric in METRICS.items() if metric in self.columns],
                jit_compile=backend.JIT_COMPILE,
            )
            self.compiled.optimizer.build(self.compiled.trainable_variables)

    def _batches_per_epoch(self) -> int:
        return len(self.batch_sizes())

    def batch_sizes(self) -> list[int]:
        """Return the number of photos in each batch of an epoch."""
        slices = dataset.bounds(
            len(self.photos.rows("train")),
            self.state.batch_size,
            parts=self._accumulate(),
            smallest=self.settings.smallest_batch,
        )
        return [end - start for start, end, _ in slices]

    def _accumulate(self) -> int:
        """Return the number of batches whose mean gradient makes a step, more than one if memory ran out."""
        return self.settings.train.batch_size // self.state.batch_size

    def _head_only(self, stage: Stage) -> keras.Model | None:
        """Return the head if the stage can be trained on embeddings, otherwise `None`.

        Embeddings are computed by a backbone with pretrained weights that was not trained: once per photo
        without augmentation, or once per view of a photo. Measured scaling changes them with the data set.
        """
        model, train = self.settings.model, self.settings.train
        repeated = not stage.augment or train.views
        frozen = {stage.trainable, *self.state.learned} == {"none"} and repeated
        pretrained = model.weights is not None and model.scaling != "measured"
        head = models.head(self.network, model) if frozen and pretrained and self.photos.folder else None
        # The vectors of a flattened feature map can be far larger than the photos.
        fits = head and 4 * math.prod(head.input_shape[1:]) <= LARGEST * 3 * model.image_size**2
        return head if fits else None

    def _embed(self, stage: Stage) -> np.ndarray | views.Views:
        """Return the embeddings that the remaining epochs of a stage train on."""
        if not stage.augment:
            return self.photos.embed(self.settings.model)
        first = len(self.state.history)
        epochs = range(first, first + stage.epochs - self.state.epoch)
        return views.embed(self.photos, self.settings, epochs=epochs)

    def _halve_batch_size(self) -> None:
        """Return to the end of the last completed epoch, with half the batch size.

        Gradients are accumulated from then on, so that each step of the optimizer is still the mean over
        `train.batch_size` photos.
        """
        size = self.state.batch_size
        if size // 2 < self.settings.smallest_batch:
            raise ValueError(
                f"out of memory with a batch size of {size} and {self.settings.model.backbone}. "
                "Lower `model.image_size` or choose a smaller `model.backbone`"
            )
        variables = []
        if state.exists(self.folder):
            self.state, variables = state.State.load(self.folder), state.variables(self.folder)
        self.bar.line(f"out of memory with a batch size of {size}: continuing with {size // 2}")
        self._show_progress()
        self.state.choose_batch_size(size // 2)
        self.state.save(self.folder, variables)
        # A Keras network is part of a reference cycle: only the garbage collector frees its memory.
        self.network = self.compiled = None
        gc.collect()
        self._build()

    def _variables(self) -> list[keras.Variable]:
        """Return the variables that an epoch changes: weights, statistics, seeds, and the optimizer's."""
        return [*self.network.variables, *self.compiled.optimizer.variables]

    def _restore(self) -> None:
        """Set all variables to their values at the end of the last completed epoch."""
        variables, values = self._variables(), state.variables(self.folder)
        if len(variables) > len(values):
            # The batch size was halved since: no gradients have been accumulated yet.
            variables = [variable for variable in variables if "gradient_accumulator" not in variable.path]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        if self.state.batch_sizes[-1]["from_epoch"] == len(self.state.history) + 1:
            # The optimizer counts batches, of which an epoch has more since then. No step contains batches of
            # two epochs, so that the gradients of all earlier batches have been applied. With 16-bit floats,
            # the inner optimizer counts, and it skips batches with infinite gradients.
            optimizer = getattr(self.compiled.optimizer, "inner_optimizer", self.compiled.optimizer)
            optimizer._iterations.assign(self.state.epoch * self._batches_per_epoch())

    def _save(self, *, stage: int, epoch: int) -> None:
        self.state.stage, self.state.epoch = stage, epoch
        self.state.save(self.folder, [variable.numpy() for variable in self._variables()] if epoch else [])

    def end_epoch(
        self, name: str, logs: dict[str, float], *, epoch: int, callbacks: list[keras.callbacks.Callback]
    ) -> None:
        """Record an epoch, keep its weights if they are the best, and save the state.

        Args:
            name: the stage.
            logs: the values of `columns[2:]`.
            epoch: completed epochs of the stage.
            callbacks: the callbacks whose counters belong to the state.

        Raises:
            ValueError: the loss is not a number.
        """
        values = [float(logs[key]) for key in self.columns[2:]]
        row: list[int | str | float] = [len(self.state.history) + 1, name, *values]
        if not np.isfinite(logs["loss"]):
            raise ValueError(
                f"the loss of epoch {row[0]} is {row[2]}. Lower `train.stages.{name}.learning_rate`"
            )
        self.state.history.append(row)
        self._keep_if_best(self._signed(logs))
        self.state.callbacks = schedules.counters(callbacks)
        self.state.stopped = bool(self.compiled.stop_training)
        self._save(stage=list(self.stages).index(name), epoch=epoch)
        self.bar.line(sentence(self._named(row)))
        if self.watch:
            self.watch(self._named(row), self.state.batch_size)

    def _named(self, row: list[int | str | float]) -> dict[str, int | str | float]:
        return dict(zip(self.columns, row, strict=True))

    def _signed(self, logs: dict[str, float]) -> float:
        """Return the monitored value, negated if higher is better; infinity if it is not a number."""
        value = float(logs[self.settings.train.monitor])
        if math.isnan(value):
            return math.inf
        return value if self.settings.train.monitor == "val_loss" else -value

    def _keep_if_best(self, value: float) -> None:
        if self.state.best is None or value < self.state.best:
            self.state.best, self.state.kept = value, len(self.state.history)
            self.state.keep(self.folder, self.network.get_weights())


class _Recorder(keras.callbacks.Callback):
    """Restore the counters of the other callbacks and record each epoch in the trainer."""

    def __init__(self, trainer: Trainer, stage: str, callbacks: list[keras.callbacks.Callback]):
        super().__init__()
        self.trainer, self.stage, self.callbacks = trainer, stage, callbacks
        self.seen, self.rate, self.began, self.sizes = 0, 0.0, 0.0, [0]

    def on_train_begin(self, logs: dict | None = None) -> None:
        schedules.restore_counters(self.callbacks, self.trainer.state.callbacks)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began, self.seen, self.sizes = time.monotonic(), 0, self.trainer.batch_sizes()
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        remaining = len(self.trainer.photos.rows("train")) - self.seen
        count = min(self.sizes[batch], remaining)
        self.seen += count
        self.trainer.bar.step(count)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        measured = {"learning_rate": self.rate, "seconds": round(time.monotonic() - self.began, 2)}
        self.trainer.end_epoch(
            self.stage, {**(logs or {}), **measured}, epoch=epoch + 1, callbacks=self.callbacks
        )


class TopAccuracy(keras.metrics.Mean):
    """The fraction of photos with the label among the `k` most probable classes.

    Rows without a label are padding and do not count. Class weights are ignored.
    """

    def __init__(self, k: int, name: str):
        super().__init__(name)
        self.k = k

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        labels = keras.ops.argmax(y_true, axis=-1, keepdims=True)
        correct = keras.ops.any(keras.ops.top_k(y_pred, self.k)[1] == labels, axis=-1)
        super().update_state(correct, sample_weight=keras.ops.any(y_true > 0, axis=-1))


def columns(classes: int) -> list[str]:
    """Return the columns of the history of a training with so many classes."""
    return COLUMNS + TOP_3 if classes > MANY else COLUMNS


def stages(settings: Params) -> dict[str, Stage]:
    """Return the stages to run by name: all with an epoch, or those of `train.resume_stages` if it is set."""
    active = {name: stage for name, stage in settings.train.stages.items() if stage.epochs}
    if not settings.train.resume_stages:
        return active
    return {name: active[name] for name in settings.train.resume_stages if name in active}


def sentence(row: dict) -> str:
    """Return a row of the history as a line of text."""
    measured = [f"{name} {row[name]:.3f}" for name in [*COLUMNS[2:6], *TOP_3] if name in row]
    return "  ".join([f"epoch {row['epoch']:>3}", f"{row['stage']:<10}", *measured])
