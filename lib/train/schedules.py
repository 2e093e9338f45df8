"""The optimizer of a stage, its learning rate schedule, and the callbacks that monitor its progress."""

import math
from collections.abc import Sequence

from lib.core import schema
from lib.networks.device import keras, tf

COUNTERS = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Schedule(keras.callbacks.Callback):
    """Set the learning rate of each batch by the schedule of a stage.

    Args:
        stage: the stage.
        batches: batches per epoch.
    """

    def __init__(self, stage: schema.Stage, batches: int):
        super().__init__()
        self.stage, self.batches, self.epoch = stage, batches, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the learning rate at the start of an epoch."""
        self.epoch = epoch
        self._set_rate(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Set the learning rate of a batch."""
        self._set_rate(self.epoch + batch / self.batches)

    def _set_rate(self, epochs: float) -> None:
        # ReduceLROnPlateau may change a constant rate.
        if self.stage.schedule != "constant":
            self.model.optimizer.learning_rate = learning_rate(self.stage, epochs)


def learning_rate(stage: schema.Stage, epochs: float) -> float:
    """Compute the learning rate of a stage's schedule.

    It depends only on the completed epochs. Neither an interruption nor another batch size changes it.

    Args:
        stage: the stage. A cosine schedule follows half a cosine to 0 at the end of the last epoch
            (Loshchilov and Hutter, 2016, https://arxiv.org/abs/1608.03983); an exponential schedule
            multiplies the rate by `decay` after each epoch.
        epochs: completed epochs of the stage, including the fraction of the current epoch.
    """
    if stage.schedule == "cosine":
        return stage.learning_rate * (1 + math.cos(math.pi * epochs / stage.epochs)) / 2
    if stage.decay is not None:
        return stage.learning_rate * stage.decay ** math.floor(epochs)
    return stage.learning_rate


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is an L2 term of the gradient, as in PyTorch.

    Keras's own `weight_decay` is decoupled: it bypasses the momentum. Here, `gradient + l2 * weight` replaces
    the gradient of every trainable weight, including biases and normalizations
    (https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html). The momentum is that of Keras: past
    gradients keep the learning rate of their time, while PyTorch multiplies them by the current rate.
    """

    def __init__(self, learning_rate: float, *, momentum: float, l2: float):
        super().__init__(learning_rate, momentum=momentum)
        self.l2 = l2

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        super().update_step(gradient + self.l2 * variable, variable, learning_rate)


def optimizer(settings: schema.Optimizer, rate: float) -> keras.optimizers.Optimizer:
    """Build the optimizer that the parameters name.

    The weight decay of `sgd` is described in `SGD`. That of `adamw` is decoupled: as in PyTorch, each step
    first subtracts `rate * weight_decay * weight`. PyTorch does so for all weights; here, biases and the
    scales and offsets of normalizations are excluded.
    """
    if settings.kind == "sgd":
        return SGD(rate, momentum=settings.momentum, l2=settings.weight_decay)
    if settings.kind == "adam":
        return keras.optimizers.Adam(rate)
    adamw = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    # Decay pulls weights towards 0, but the scale of a normalization should stay near 1.
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adamw


def callbacks(settings: schema.Train, stage: schema.Stage) -> list[keras.callbacks.Callback]:
    """Build the callbacks that reduce the learning rate or stop the stage early, if they are enabled."""
    mode = "min" if settings.monitor == "val_loss" else "max"
    enabled: list[keras.callbacks.Callback] = []
    if settings.reduce_learning_rate and stage.schedule == "constant":
        reduce = settings.reduce_learning_rate
        enabled.append(
            keras.callbacks.ReduceLROnPlateau(
                settings.monitor, factor=reduce.factor, patience=reduce.patience, mode=mode
            )
        )
    if settings.early_stopping:
        patience = settings.early_stopping.patience
        enabled.append(keras.callbacks.EarlyStopping(settings.monitor, mode=mode, patience=patience))
    return enabled


def counters(callbacks: Sequence[keras.callbacks.Callback]) -> list[dict[str, float]]:
    """Return the counters of callbacks, which an interruption must not reset."""
    return [
        {
            name: float(getattr(callback, name))
            for name in COUNTERS
            if getattr(callback, name, None) is not None
        }
        for callback in callbacks
    ]


def restore_counters(callbacks: Sequence[keras.callbacks.Callback], values: list[dict[str, float]]) -> None:
    """Set the counters of callbacks. Without values they keep their initial ones."""
    for callback, counts in zip(callbacks, values, strict=False):
        for name, value in counts.items():
            setattr(callback, name, value)
