"""Schedules: the learning rate of each epoch, the optimizers, and counters that survive an interruption."""

import math

import pytest

from lib.core import schema
from lib.networks.backend import keras
from lib.train import schedules


def stage(schedule, **options):
    return schema.Stage(trainable="all", epochs=4, learning_rate=0.2, schedule=schedule, **options)


def test_an_exponential_rate_falls_once_per_epoch():
    rates = [
        schedules.learning_rate(stage("exponential", decay=0.5), epochs) for epochs in (0, 0.9, 1, 1.5, 3)
    ]
    assert rates == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.025])


def test_a_cosine_schedule_equals_that_of_keras():
    reference = keras.optimizers.schedules.CosineDecay(0.2, decay_steps=4 * 10)
    for step in (0, 1, 17, 20, 39, 40):
        rate = schedules.learning_rate(stage("cosine"), step / 10)
        assert rate == pytest.approx(float(reference(step)), abs=1e-7)


def updated(options, gradients, *, rate=0.1):
    """Return the values of four weights, 1.0 each, by name after each of the updates."""
    weights = [keras.Variable([1.0], name=name) for name in ("kernel", "bias", "gamma", "beta")]
    optimizer = schedules.optimizer(schema.Optimizer(**options), rate)
    optimizer.build(weights)
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.array([gradient])] * len(weights))
        values.append({weight.name: float(weight.numpy()[0]) for weight in weights})
    return values


def test_sgd_adds_the_weight_decay_to_the_gradient_before_the_momentum():
    # velocity = momentum * velocity + (gradient + weight_decay * weight); weight -= rate * velocity:
    # 1.5; 0.5 * 1.5 + 0.2 + 0.5 * 0.85; 0.5 * 1.375 + 0 + 0.5 * 0.7125
    options = {"kind": "sgd", "momentum": 0.5, "weight_decay": 0.5}
    values = updated(options, [1.0, 0.2, 0.0])
    for weight in ("kernel", "bias", "gamma", "beta"):
        assert [value[weight] for value in values] == pytest.approx([0.85, 0.7125, 0.608125])


def test_adamw_subtracts_the_decay_from_kernels_only():
    options = {"kind": "adamw", "weight_decay": 0.5}
    # as in PyTorch, weight *= 1 - rate * weight_decay
    idle = updated(options, [0.0, 0.0])[-1]
    assert idle == pytest.approx({"kernel": 0.95**2, "bias": 1, "gamma": 1, "beta": 1})
    # the decay comes first; then the first step of Adam is as large as the rate
    assert updated(options, [3.0])[0] == pytest.approx(
        {"kernel": 0.85, "bias": 0.9, "gamma": 0.9, "beta": 0.9}
    )


def test_adam_does_not_decay():
    assert updated({"kind": "adam"}, [0.0])[0]["kernel"] == 1
    assert updated({"kind": "adam"}, [3.0], rate=0.01)[0]["kernel"] == pytest.approx(0.99)


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


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [9.0, 9.0]), ("cosine", [0.2 * math.cos(math.pi / 8) ** 2, 0.1])]
)
def test_a_constant_rate_is_left_to_the_other_callbacks(schedule, rates):
    model = keras.Sequential([keras.Input((1,))])
    model.compile(keras.optimizers.SGD(9.0))
    callback = schedules.Schedule(stage(schedule), batches=2)
    callback.set_model(model)
    callback.on_epoch_begin(1)
    callback.on_train_batch_begin(0)
    first = float(model.optimizer.learning_rate)
    callback.on_epoch_begin(2)
    assert [first, float(model.optimizer.learning_rate)] == pytest.approx(rates)


def test_counters_are_restored():
    train = schema.Train(reduce_learning_rate={"patience": 2})
    chosen, fresh = (schedules.callbacks(train, stage("constant")) for _ in range(2))
    chosen[0].wait, chosen[0].best, chosen[1].wait = 1, 0.25, 3
    schedules.restore_counters(fresh, schedules.counters(chosen))
    assert (fresh[0].wait, fresh[0].best, fresh[1].wait) == (1, 0.25, 3)
