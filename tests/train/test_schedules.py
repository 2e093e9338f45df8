"""Schedules: the rate of each epoch, the named optimizer, and counters that outlive an interruption."""

import pytest

from lib.core import schema
from lib.networks.device import keras
from lib.train import schedules


def stage(schedule, **options):
    return schema.Stage(trainable="all", epochs=4, learning_rate=0.2, schedule=schedule, **options)


def test_an_exponential_rate_falls_once_per_epoch():
    rates = [
        schedules.learning_rate(stage("exponential", decay=0.5), epochs) for epochs in (0, 0.9, 1, 1.5, 3)
    ]
    assert rates == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.025])


def test_a_cosine_is_that_of_keras():
    theirs = keras.optimizers.schedules.CosineDecay(0.2, decay_steps=4 * 10)
    for step in (0, 1, 17, 20, 39, 40):
        ours = schedules.learning_rate(stage("cosine"), step / 10)
        assert ours == pytest.approx(float(theirs(step)), abs=1e-7)


@pytest.mark.parametrize(
    ("options", "kind", "decay"),
    [
        ({"kind": "sgd", "momentum": 0.8, "weight_decay": 0.0}, keras.optimizers.SGD, None),
        ({"kind": "adam"}, keras.optimizers.Adam, None),
        ({"kind": "adamw", "weight_decay": 0.01}, keras.optimizers.AdamW, 0.01),
    ],
)
def test_the_optimizer_is_the_named_one(options, kind, decay):
    optimizer = schedules.optimizer(schema.Optimizer(**options), 0.01)
    assert type(optimizer) is kind and optimizer.weight_decay == decay
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    if kind is keras.optimizers.SGD:
        assert optimizer.momentum == 0.8


@pytest.mark.parametrize(("schedule", "kinds"), [("constant", 2), ("cosine", 1)])
def test_only_a_constant_rate_is_reduced(schedule, kinds):
    train = schema.Train(
        reduce_learning_rate={"factor": 0.5}, early_stopping={"patience": 4}, monitor="val_accuracy"
    )
    chosen = schedules.callbacks(train, stage(schedule))
    assert len(chosen) == kinds and all(callback.monitor == "val_accuracy" for callback in chosen)
    assert isinstance(chosen[-1], keras.callbacks.EarlyStopping) and chosen[-1].patience == 4
    assert all(callback.mode == "max" for callback in chosen)
    assert not schedules.callbacks(schema.Train(early_stopping=None), stage(schedule))


def test_counters_are_restored():
    train = schema.Train(reduce_learning_rate={"patience": 2})
    chosen, fresh = (schedules.callbacks(train, stage("constant")) for _ in range(2))
    chosen[0].wait, chosen[0].best, chosen[1].wait = 1, 0.25, 3
    schedules.restore_counters(fresh, schedules.counters(chosen))
    assert (fresh[0].wait, fresh[0].best, fresh[1].wait) == (1, 0.25, 3)
