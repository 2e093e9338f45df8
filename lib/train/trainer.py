"""Run the stages of a training, epoch by epoch, so that an interruption changes nothing."""

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.clean import photoset
from lib.core import progress
from lib.core.schema import Params, Stage
from lib.networks import device, models
from lib.networks.device import keras, tf
from lib.train import batches, dataset, schedules, state

COLUMNS = ["epoch", "stage", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]


class Trainer:
    """Runs the stages of one training and keeps its state on disk.

    Args:
        settings: the run's parameters.
        photos: the run's photos.
        folder: holds the state of this training.
        build: builds the network; called again after memory ran out.
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
        watch: Callable[[dict, int], None] | None = None,
    ):
        self.settings, self.photos, self.folder = settings, photos, folder
        self.build, self.bar, self.watch = build, bar, watch
        self.stages = stages(settings)
        self.state = state.State()
        self.state.choose_batch_size(settings.train.batch_size)
        self.embeddings: np.ndarray | None = None
        self._build()

    def _build(self) -> None:
        with device.strategy().scope():
            self.network = self.learner = self.build()
        weights = {id(variable) for variable in self.network.weights}
        others = [variable for variable in self.network.variables if id(variable) not in weights]
        self.seeds = [(variable, variable.numpy()) for variable in others]

    def train(self, parent: Path | None) -> None:
        """Run the stages that are left, on top of the finished training in the folder `parent`, if any."""
        if state.exists(self.folder):
            self.state = state.State.load(self.folder)
        elif parent:
            self._inherit(parent)
        for row in self.state.history:
            self.bar.line(_sentence(row))
        self._show_progress()
        while self.state.stage < len(self.stages):
            if not self._run_stage(list(self.stages)[self.state.stage]):
                self._halve_batch_size()
        # If none of the stages to resume has an epoch, nothing has been saved yet.
        if not state.exists(self.folder):
            self._save(stage=0, epoch=0)

    def _show_progress(self) -> None:
        """Move the bar to the end of the last completed epoch."""
        done = len(self.state.history) - self.state.inherited
        self.bar.step(done * len(self.photos.rows("train")) - self.bar.done)

    def _inherit(self, parent: Path) -> None:
        """Start from the end of a finished training.

        Its best value is taken over only if it was measured as this training measures.
        """
        finished, record, train = state.State.load(parent), state.Finished.load(parent), self.settings.train
        same = record and record.monitor == train.monitor and record.label_smoothing == train.label_smoothing
        self.state = state.State(
            learned=finished.learned,
            history=finished.history,
            inherited=len(finished.history),
            best=finished.best if same else None,
            kept=finished.kept,
        )
        self.state.choose_batch_size(self.settings.train.batch_size)
        self.state.keep(self.folder, finished.best_weights(parent))

    def _run_stage(self, name: str) -> bool:
        """Run a stage, or what is left of it, to its end; return whether the memory sufficed."""
        try:
            self._prepare(self.stages[name])
            if not self.state.stopped:
                self._fit(name)
        except tf.errors.ResourceExhaustedError:
            return False
        self.state.stopped, self.state.callbacks = False, []
        self._save(stage=self.state.stage + 1, epoch=0)
        return True

    def _prepare(self, stage: Stage) -> None:
        """Bring the network to the point at which the stage begins or was interrupted."""
        self._start_from_best()
        self._compile(stage)
        if self.state.kept and self.state.best is None:
            self.state.best = self._measure()
        if stage.trainable not in self.state.learned:
            self.state.learned.append(stage.trainable)
        if self.state.epoch:
            self._restore()

    def _measure(self) -> float:
        """Return the monitored value of the network on val, such that less is better."""
        with self._validation() as validation:
            logs = self.learner.evaluate(validation, verbose=0, return_dict=True)
        return self._signed({f"val_{name}": value for name, value in logs.items()})

    def _fit(self, name: str) -> None:
        """Fit the network in the epochs of a stage that are left."""
        stage, batch_size = self.stages[name], self.state.batch_size
        steps = math.ceil(len(self.photos.rows("train")) / batch_size)
        chosen = schedules.callbacks(self.settings.train, stage)
        log = keras.callbacks.TensorBoard(self.folder / "tensorboard" / name, write_graph=False)
        training = batches.training(
            self.photos,
            self.settings,
            stage=stage,
            embeddings=self.embeddings,
            batch_size=batch_size,
            first_epoch=len(self.state.history),
        )
        # The recorder comes last: each epoch is recorded after the other callbacks have seen it. The photos
        # have been shuffled already.
        with training, self._validation() as validation:
            self.learner.fit(
                training,
                epochs=stage.epochs,
                initial_epoch=self.state.epoch,
                steps_per_epoch=steps,
                validation_data=validation,
                callbacks=[log, *chosen, schedules.Schedule(stage, steps), _Recorder(self, name, chosen)],
                shuffle=False,
                verbose=0,
            )

    def _validation(self) -> dataset.Batches:
        return batches.validation(self.photos, embeddings=self.embeddings, batch_size=self.state.batch_size)

    def _start_from_best(self) -> None:
        # Each stage starts with the same seeds of dropout, whether the training was interrupted or not.
        for variable, value in self.seeds:
            variable.assign(value)
        if self.state.kept:
            self.network.set_weights(self.state.best_weights(self.folder))

    def _compile(self, stage: Stage) -> None:
        """Compile the network for a stage, or its head if the stage trains nothing else."""
        train = self.settings.train
        models.unfreeze(self.network, stage.trainable, settings=self.settings.model)
        head = self._head_alone(stage)
        self.learner = head or self.network
        self.embeddings = self.photos.embed(self.settings.model) if head else None
        with device.strategy().scope():
            self.learner.compile(
                optimizer=schedules.optimizer(train.optimizer, stage.learning_rate),
                loss=keras.losses.CategoricalCrossentropy(label_smoothing=train.label_smoothing),
                metrics=[_Accuracy(name="accuracy")],
                jit_compile="auto" if device.GPUS else False,
            )
            self.learner.optimizer.build(self.learner.trainable_variables)

    def _head_alone(self, stage: Stage) -> keras.Model | None:
        """Return the head if it is all that a stage trains, on embeddings that are computed only once.

        Embeddings are those of pretrained weights, of unchanged photos, without measured scaling.
        """
        frozen = {stage.trainable, *self.state.learned} == {"none"} and not stage.augment
        model = self.settings.model
        known = model.weights is not None and model.scaling != "measured" and self.photos.folder
        return models.head(self.network, model) if frozen and known else None

    def _halve_batch_size(self) -> None:
        """Go back to the end of the last completed epoch, with half the batch size."""
        size = self.state.batch_size
        if size == 1:
            raise ValueError(
                "memory runs out with a batch size of 1: lower `model.image_size` or take a smaller "
                f"`model.backbone` than {self.settings.model.backbone}"
            )
        variables = []
        if state.exists(self.folder):
            self.state, variables = state.State.load(self.folder), state.variables(self.folder)
        self.bar.line(f"memory ran out with a batch size of {size}: continuing with {size // 2}")
        self._show_progress()
        self.state.choose_batch_size(size // 2)
        self.state.save(self.folder, variables)
        # Keras's networks hold themselves, and this one still fills the memory.
        self.network = self.learner = None
        gc.collect()
        self._build()

    def _variables(self) -> list[keras.Variable]:
        """Return all that an epoch changes: weights, statistics, dropout's seeds, the optimizer's moments."""
        return [*self.network.variables, *self.learner.optimizer.variables]

    def _restore(self) -> None:
        """Set all variables to their values at the end of the last completed epoch."""
        for variable, value in zip(self._variables(), state.variables(self.folder), strict=True):
            variable.assign(value)

    def _save(self, *, stage: int, epoch: int) -> None:
        self.state.stage, self.state.epoch = stage, epoch
        self.state.save(self.folder, [variable.numpy() for variable in self._variables()] if epoch else [])

    def end_epoch(
        self, name: str, logs: dict[str, float], *, epoch: int, callbacks: list[keras.callbacks.Callback]
    ) -> None:
        """Record an epoch, keep its weights if they are the best, and save the state.

        Args:
            name: the stage.
            logs: the values of `COLUMNS[2:]`.
            epoch: completed epochs of the stage.
            callbacks: those whose counters belong to the state.

        Raises:
            ValueError: the loss is not a number.
        """
        values = [float(logs[key]) for key in COLUMNS[2:]]
        row: list[int | str | float] = [len(self.state.history) + 1, name, *values]
        if not np.isfinite(logs["loss"]):
            raise ValueError(
                f"the loss of epoch {row[0]} is {row[2]}: lower the learning rate of stage {name}"
            )
        self.state.history.append(row)
        self._keep_if_best(self._signed(logs))
        self.state.callbacks = schedules.counters(callbacks)
        self.state.stopped = bool(self.learner.stop_training)
        self._save(stage=list(self.stages).index(name), epoch=epoch)
        self.bar.line(_sentence(row))
        if self.watch:
            self.watch(dict(zip(COLUMNS, row, strict=True)), self.state.batch_size)

    def _signed(self, logs: dict[str, float]) -> float:
        """Return the monitored value such that less is better; infinity if it is not a number."""
        value = float(logs[self.settings.train.monitor])
        if math.isnan(value):
            return math.inf
        return value if self.settings.train.monitor == "val_loss" else -value

    def _keep_if_best(self, value: float) -> None:
        if self.state.best is None or value < self.state.best:
            self.state.best, self.state.kept = value, len(self.state.history)
            self.state.keep(self.folder, self.network.get_weights())


class _Recorder(keras.callbacks.Callback):
    """Restores the counters of the other callbacks and hands each epoch to the trainer."""

    def __init__(self, trainer: Trainer, stage: str, callbacks: list[keras.callbacks.Callback]):
        super().__init__()
        self.trainer, self.stage, self.callbacks = trainer, stage, callbacks
        self.seen, self.rate, self.began = 0, 0.0, 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        schedules.restore_counters(self.callbacks, self.trainer.state.callbacks)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began, self.seen = time.monotonic(), 0
        self.rate = float(np.asarray(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        left = len(self.trainer.photos.rows("train")) - self.seen
        count = min(self.trainer.state.batch_size, left)
        self.seen += count
        self.trainer.bar.step(count)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        measured = {"learning_rate": self.rate, "seconds": round(time.monotonic() - self.began, 2)}
        self.trainer.end_epoch(
            self.stage, {**(logs or {}), **measured}, epoch=epoch + 1, callbacks=self.callbacks
        )


class _Accuracy(keras.metrics.CategoricalAccuracy):
    """The fraction of photos classified correctly; padding, which has no label, does not count."""

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        labelled = keras.ops.cast(keras.ops.any(y_true > 0, axis=-1), self.dtype)
        super().update_state(y_true, y_pred, sample_weight=labelled)


def stages(settings: Params) -> dict[str, Stage]:
    """Return the stages to run, by name in order: those with an epoch, or those of them to resume."""
    active = {name: stage for name, stage in settings.train.stages.items() if stage.epochs}
    if not settings.train.resume_stages:
        return active
    return {name: active[name] for name in settings.train.resume_stages if name in active}


def _sentence(row: list) -> str:
    values = dict(zip(COLUMNS, row, strict=True))
    return (
        f"epoch {values['epoch']:>3}  {values['stage']:<10}  "
        f"loss {values['loss']:.3f}  accuracy {values['accuracy']:.3f}  "
        f"val_loss {values['val_loss']:.3f}  val_accuracy {values['val_accuracy']:.3f}"
    )
