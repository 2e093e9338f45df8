"""The optimizer of a stage, its learning rate schedule, and the callbacks that monitor its progress."""

import math
from collections.abc import Sequence
from typing import Any

from lib.core import schema
from lib.networks.backend import keras

COUNTERS = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each batch of a stage.

    A cosine schedule follows half a cosine to 0 at the end of the last epoch (Loshchilov and Hutter, 2016,
    https://arxiv.org/abs/1608.03983). An exponential schedule multiplies the rate by `decay` after each
    epoch.

    Args:
        stage: the stage; its schedule is not constant.
        batches: batches per epoch.
        accumulate: number of batches whose mean gradient makes a step; the first of them has the rate.
    """

    def __init__(self, stage: schema.Stage, *, batches: int, accumulate: int = 1):
        self.stage, self.batches, self.accumulate = stage, batches, accumulate

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a batch, counted from 0, as a tensor without dimensions."""
        first = step // self.accumulate * self.accumulate
        epochs = keras.ops.cast(first, "float32") / self.batches
        if self.stage.schedule == "cosine":
            return self.stage.learning_rate * (1 + keras.ops.cos(math.pi * epochs / self.stage.epochs)) / 2
        return self.stage.learning_rate * self.stage.decay ** keras.ops.floor(epochs)


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is an L2 term of the gradient, as in PyTorch.

    Keras's own `weight_decay` is decoupled: it bypasses the momentum. Here, `gradient + l2 * weight` replaces
    the gradient of every trainable weight, including biases and normalizations
    (https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html). The momentum is that of Keras: past
    gradients keep the learning rate of their time, while PyTorch multiplies them by the current rate.
    """

    def __init__(self, learning_rate: Any, *, momentum: float, l2: float, accumulate: int | None):
        super().__init__(learning_rate, momentum=momentum, gradient_accumulation_steps=accumulate)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        super().update_step(gradient + self.l2 * variable, variable, learning_rate)


def optimizer(
    settings: schema.Optimizer, stage: schema.Stage, *, batches: int, accumulate: int = 1
) -> keras.optimizers.Optimizer:
    """Build the optimizer that the parameters name, with the learning rate of a stage.

    The weight decay of `sgd` is described in `SGD`. That of `adamw` is decoupled: as in PyTorch, each step
    first subtracts `rate * weight_decay * weight`. PyTorch does so for all weights; here, biases and the
    scales and offsets of normalizations are excluded.

    Args:
        settings: the optimizer.
        stage: the stage. If its schedule is constant, the rate can be changed between epochs.
        batches: batches per epoch.
        accumulate: number of batches whose mean gradient makes a step.
    """
    rate = (
        stage.learning_rate
        if stage.schedule == "constant"
        else Schedule(stage, batches=batches, accumulate=accumulate)
    )
    # Keras takes `None` for a step per batch.
    several = accumulate if accumulate > 1 else None
    if settings.kind == "sgd":
        return SGD(rate, momentum=settings.momentum, l2=settings.weight_decay, accumulate=several)
    if settings.kind == "adam":
        return keras.optimizers.Adam(rate, gradient_accumulation_steps=several)
    adamw = keras.optimizers.AdamW(
        rate, weight_decay=settings.weight_decay, gradient_accumulation_steps=several
    )
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
