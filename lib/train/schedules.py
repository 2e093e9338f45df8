"""The optimizer of a stage, the schedule of its learning rate, and the callbacks that watch a value."""

import math
from collections.abc import Sequence

from lib.core import schema
from lib.networks.device import keras, tf

COUNTERS = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Schedule(keras.callbacks.Callback):
    """Set the learning rate at each batch as the schedule of a stage says.

    Args:
        stage: the stage.
        batches: batches per epoch.
    """

    def __init__(self, stage: schema.Stage, batches: int):
        super().__init__()
        self.stage, self.batches, self.epoch = stage, batches, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the rate of the epoch's start."""
        self.epoch = epoch
        self._set_rate(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Set the rate of the batch."""
        self._set_rate(self.epoch + batch / self.batches)

    def _set_rate(self, epochs: float) -> None:
        # A constant rate is left to ReduceLROnPlateau.
        if self.stage.schedule != "constant":
            self.model.optimizer.learning_rate = learning_rate(self.stage, epochs)


def learning_rate(stage: schema.Stage, epochs: float) -> float:
    """Compute the learning rate of a stage's schedule.

    It depends only on the completed epochs, so that neither an interruption nor another batch size
    changes its course.

    Args:
        stage: the stage. Half a cosine falls to 0 at its last epoch's end (Loshchilov and Hutter, 2016,
            https://arxiv.org/abs/1608.03983); an exponential schedule multiplies the rate by `decay`
            after each epoch.
        epochs: completed epochs of the stage, with the fraction of the current one.
    """
    if stage.schedule == "cosine":
        return stage.learning_rate * (1 + math.cos(math.pi * epochs / stage.epochs)) / 2
    if stage.decay is not None:
        return stage.learning_rate * stage.decay ** math.floor(epochs)
    return stage.learning_rate


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is an L2 term of the gradient, as in PyTorch.

    Keras's own `weight_decay` is decoupled: it bypasses the momentum. Here, `gradient + weight_decay * weight`
    replaces the gradient of every trainable weight, biases and normalizations included
    (https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html). The momentum is Keras's: it contains
    the learning rate, so that a changed rate affects the past gradients less than in PyTorch.

    Args:
        learning_rate: the initial learning rate.
        momentum: from 0 to below 1.
        l2: the weight decay.
    """

    def __init__(self, learning_rate: float, *, momentum: float, l2: float):
        super().__init__(learning_rate, momentum=momentum)
        self.l2 = l2

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update a variable by its gradient."""
        super().update_step(gradient + self.l2 * variable, variable, learning_rate)


def optimizer(settings: schema.Optimizer, rate: float) -> keras.optimizers.Optimizer:
    """Build the optimizer that the parameters name.

    The weight decay of `sgd` is that of PyTorch, see `SGD`. That of `adamw` is decoupled in Keras as in PyTorch:
    each step first subtracts `rate * weight_decay * weight`. But while PyTorch decays all weights, biases and
    the scales and offsets of normalizations are excluded here.

    Args:
        settings: the algorithm, its weight decay and momentum.
        rate: the initial learning rate.
    """
    if settings.kind == "sgd":
        return SGD(rate, momentum=settings.momentum, l2=settings.weight_decay)
    if settings.kind == "adam":
        return keras.optimizers.Adam(rate)
    adamw = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    # Decay pulls towards 0, which suits kernels; the scale of a normalization should stay near 1.
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adamw


def callbacks(settings: schema.Train, stage: schema.Stage) -> list[keras.callbacks.Callback]:
    """Build the callbacks that reduce the learning rate of a stage or end it, those that are switched on."""
    mode = "min" if settings.monitor == "val_loss" else "max"
    chosen: list[keras.callbacks.Callback] = []
    if settings.reduce_learning_rate and stage.schedule == "constant":
        reduce = settings.reduce_learning_rate
        chosen.append(
            keras.callbacks.ReduceLROnPlateau(
                settings.monitor, factor=reduce.factor, patience=reduce.patience, mode=mode
            )
        )
    if settings.early_stopping:
        patience = settings.early_stopping.patience
        chosen.append(keras.callbacks.EarlyStopping(settings.monitor, mode=mode, patience=patience))
    return chosen


def counters(chosen: Sequence[keras.callbacks.Callback]) -> list[dict[str, float]]:
    """Return the counters of callbacks, which an interruption must not set back."""
    return [
        {
            name: float(getattr(callback, name))
            for name in COUNTERS
            if getattr(callback, name, None) is not None
        }
        for callback in chosen
    ]


def restore_counters(chosen: Sequence[keras.callbacks.Callback], values: Sequence[dict[str, float]]) -> None:
    """Set the counters of callbacks; without values they stay as they are."""
    for callback, counts in zip(chosen, values, strict=False):
        for name, value in counts.items():
            setattr(callback, name, value)
