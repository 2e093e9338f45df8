"""Schedules: the learning rate of each epoch, the optimizers, and counters that survive an interruption."""

import pytest

from lib.core import schema
from lib.networks.backend import keras
from lib.train import schedules

pytestmark = pytest.mark.backend


def stage(schedule, **options):
    return schema.Stage(trainable="all", epochs=4, learning_rate=0.2, schedule=schedule, **options)


def rates(stage, steps, *, batches):
    """Return the learning rates that the optimizer of a stage has at some steps."""
    optimizer = schedules.optimizer(schema.Optimizer(), stage, batches=batches)
    optimizer.build([keras.Variable([1.0])])
    values = []
    for step in steps:
        optimizer.iterations.assign(step)
        values.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    return values


def test_an_exponential_rate_falls_once_per_epoch():
    computed = rates(stage("exponential", decay=0.5), (0, 9, 10, 15, 30), batches=10)
    assert computed == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.025])


def test_a_cosine_schedule_equals_that_of_keras():
    steps = (0, 1, 17, 20, 39, 40)
    reference = keras.optimizers.schedules.CosineDecay(0.2, decay_steps=4 * 10)
    expected = [float(keras.ops.convert_to_numpy(reference(step))) for step in steps]
    assert rates(stage("cosine"), steps, batches=10) == pytest.approx(expected, abs=1e-7)


def test_a_constant_rate_can_be_changed():
    optimizer = schedules.optimizer(schema.Optimizer(), stage("constant"), batches=10)
    optimizer.learning_rate = 0.05
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.05)


def updated(options, gradients, *, rate=0.1, accumulate=1):
    """Return the values of four weights, 1.0 each, by name after each of the updates."""
    weights = [keras.Variable([1.0], name=name) for name in ("kernel", "bias", "gamma", "beta")]
    constant = stage("constant").model_copy(update={"learning_rate": rate})
    optimizer = schedules.optimizer(schema.Optimizer(**options), constant, batches=1, accumulate=accumulate)
    optimizer.build(weights)
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.array([gradient])] * len(weights))
        values.append({weight.name: float(keras.ops.convert_to_numpy(weight)[0]) for weight in weights})
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


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_the_mean_of_accumulated_gradients_makes_a_step(kind):
    single = updated({"kind": kind}, [0.5, 2.0])
    several = updated({"kind": kind}, [0.25, 0.75, 3.0, 1.0], accumulate=2)
    for ours, theirs in zip(several[1::2], single, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_counters_are_restored():
    train = schema.Train(reduce_learning_rate={"patience": 2})
    chosen, fresh = (schedules.callbacks(train, stage("constant")) for _ in range(2))
    chosen[0].wait, chosen[0].best, chosen[1].wait = 1, 0.25, 3
    schedules.restore_counters(fresh, schedules.counters(chosen))
    assert (fresh[0].wait, fresh[0].best, fresh[1].wait) == (1, 0.25, 3)
