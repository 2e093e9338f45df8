"""The trainer: the best weights are kept, a seed repeats every bit, and an interruption changes nothing.

Most tests run eagerly: tracing takes seconds and changes no result that they check.
"""

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import (
    DROPOUT_HEAD,
    ONE_EPOCH,
    SHORT_STAGES,
    kept_weights,
    make_photos,
    make_settings,
    pretrained,
)

from lib.clean import manifest, photoset
from lib.core import files, progress
from lib.networks import backbones, backend, models
from lib.networks.backend import keras
from lib.train import dataset, state, trainer, training

pytestmark = pytest.mark.usefixtures("tiny")

# A rate so small that the accuracy on val never moves: the first epoch stays the best, every counter counts.
STUCK = {
    "head": {"trainable": "none", "epochs": 6, "learning_rate": 1e-7},
    "fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 0.01},
}
PLAIN_HEAD = {"pool": DROPOUT_HEAD["pool"], "classes": {"layer": "dense"}}
ONE_STAGE = {"all": {"trainable": "all", "epochs": 3, "learning_rate": 0.01, "schedule": "cosine"}}
# Each epoch is better than the last.
STEADY = {
    "head": {"trainable": "none", "epochs": 2, "learning_rate": 1e-4},
    "more": {"trainable": "none", "epochs": 1, "learning_rate": 1e-4},
}
STEADY_HEAD = {"flat": {"layer": "flatten"}, "classes": {"layer": "dense"}}
STUCK_OPTIONS = {
    "monitor": "val_accuracy",
    "early_stopping": {"patience": 3},
    "reduce_learning_rate": {"factor": 0.5, "patience": 2},
}


def without_time(history):
    return history.drop(columns="seconds")


def assert_same(one, other):
    """Compare two pairs of folder and training bit by bit."""
    pd.testing.assert_frame_equal(
        without_time(one[1].history), without_time(other[1].history), check_exact=True
    )
    for mine, theirs in zip(
        kept_weights(one[0], one[1].key), kept_weights(other[0], other[1].key), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


# Epochs and the kept weights


def test_history_has_one_row_per_epoch_over_all_stages(uninterrupted, eager):
    _, trained = uninterrupted("two", make_settings(), make_photos())
    history = trained.history
    assert list(history.columns) == trainer.COLUMNS and not {"top_3", "val_top_3"} & set(history)
    assert history.epoch.tolist() == [1, 2, 3, 4]
    assert history.stage.tolist() == ["head"] * 2 + ["fine_tune"] * 2
    # a cosine over 2 epochs: 0.01 at its start, half of it in the middle
    assert history.learning_rate.tolist() == pytest.approx([0.03, 0.03, 0.01, 0.005], rel=1e-6)
    assert history[["loss", "accuracy", "val_loss", "val_accuracy"]].notna().all(axis=None)
    assert (history.seconds >= 0).all()


@pytest.mark.parametrize(("k", "hits"), [(1, [0, 1, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])])
def test_top_accuracy_counts_labels_among_the_most_probable_classes(k, hits):
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7], [0.3, 0.2, 0.4, 0.1]])
    labels = np.eye(4)[[1, 3, 1]]
    for rows in ([0], [1], [2], [0, 1, 2]):
        metric = trainer.TopAccuracy(k, "name")
        metric.update_state(labels[rows], probabilities[rows])
        assert float(metric.result()) == pytest.approx(np.take(hits, rows).mean())


def test_top_accuracy_ignores_padding_and_class_weights():
    metric = trainer.TopAccuracy(1, "name")
    labels = np.array([[0.0, 1.0], [0.9, 0.1], [0.0, 0.0], [0.0, 0.0]])
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [0.9, 0.1], [0.9, 0.1]])
    metric.update_state(labels, probabilities, sample_weight=np.array([9.0, 1.0, 0.0, 0.0]))
    assert float(metric.result()) == 0.5


MANY = [f"class {letter}" for letter in "abcdefghijk"]


def test_the_history_has_top_3_accuracy_if_there_are_more_than_ten_classes(tmp_path, eager):
    photos = make_photos(count=35, classes=MANY, train=22, val=11)
    trained = training.fit(make_settings(ONE_EPOCH), photos, folder=tmp_path)
    assert list(trained.history.columns) == [*trainer.COLUMNS, "top_3", "val_top_3"]
    assert list(trained.history.columns) == trainer.columns(11)
    probabilities = backend.outputs(trained.model, photos.images[photos.rows("val")])
    best = np.argsort(-probabilities, axis=1)[:, :3]
    expected = (best == photos.targets("val")[:, None]).any(axis=1).mean()
    assert trained.history.val_top_3[0] == pytest.approx(expected)
    assert 0 <= trained.history.accuracy[0] <= trained.history.top_3[0] <= 1


def test_ten_classes_have_no_top_3_accuracy():
    assert trainer.columns(10) == trainer.COLUMNS


def test_the_parent_of_an_earlier_version_has_no_top_3_accuracy(tmp_path, eager):
    photos = make_photos(count=35, classes=MANY, train=22, val=11)
    first = training.fit(make_settings(ONE_EPOCH), photos, folder=tmp_path)
    folder = tmp_path / first.key
    old = state.State.load(folder)
    old.history = [row[:8] for row in old.history]
    old.save(folder, state.variables(folder))
    settings = make_settings(ONE_EPOCH, resume_stages=["head"])
    resumed = training.fit(settings, photos, folder=tmp_path, finished=first.key)
    assert resumed.history.val_top_3.isna().tolist() == [True, False]
    pd.testing.assert_frame_equal(
        resumed.history.loc[:0, trainer.COLUMNS], first.history.loc[:0, trainer.COLUMNS]
    )


NAN = math.nan


@pytest.mark.parametrize(
    ("monitor", "losses", "best"),
    [
        ("val_loss", [0.5, 0.2, 0.3, 0.4], 1),
        ("val_accuracy", [0.5, 0.2, 0.3, 0.4], 2),  # equal in the fourth epoch
        ("val_loss", [NAN, 0.4, NAN, 0.5], 1),
    ],
)
def test_the_kept_weights_are_those_of_the_best_epoch(tmp_path, monitor, losses, best):
    settings, photos = make_settings(monitor=monitor), make_photos()
    loop = trainer.Trainer(
        settings,
        photos,
        folder=tmp_path / "key",
        build=lambda: training.network(settings, photos),
        bar=progress.Bar(1, ""),
        watch=None,
    )
    loop.network.compile(optimizer="sgd")
    bias = loop.network.get_layer(models.LOGITS).bias
    for epoch, (loss, accuracy) in enumerate(zip(losses, [0.6, 0.7, 0.9, 0.9], strict=True)):
        bias.assign([epoch, epoch])
        logs = dict.fromkeys(trainer.COLUMNS[2:], 0.1) | {"val_loss": loss, "val_accuracy": accuracy}
        loop.end_epoch("head", logs, epoch=epoch + 1, callbacks=[])
    assert loop.state.kept == best + 1
    np.testing.assert_array_equal(kept_weights(tmp_path, "key")[-1], [best, best])


def test_a_stage_without_epochs_is_left_out(tmp_path, eager):
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}, "rest": ONE_EPOCH["head"]}
    trained = training.fit(make_settings(stages), make_photos(), folder=tmp_path)
    assert trained.history.stage.tolist() == ["rest"]


# Determinism and interruptions


class Interrupting(progress.Bar):
    """Raise KeyboardInterrupt, as Ctrl-C does, at a batch or after an epoch was recorded."""

    at_step, after_epoch = None, None

    def step(self, count=1, note=""):
        super().step(count, note=note)
        if type(self).at_step is not None and 0 < count < 14:  # not the epochs of an earlier call
            type(self).at_step -= 1
            if type(self).at_step == 0:
                raise KeyboardInterrupt

    def line(self, text):
        super().line(text)
        if type(self).after_epoch is not None and text.startswith(f"epoch {type(self).after_epoch:>3}"):
            raise KeyboardInterrupt


def interrupt(settings, photos, folder, monkeypatch, **when):
    with monkeypatch.context() as patch:
        patch.setattr(progress, "Bar", type("Once", (Interrupting,), when))
        with pytest.raises(KeyboardInterrupt):
            training.fit(settings, photos, folder=folder)
    assert not list(folder.glob("*/finished.json"))


@pytest.mark.backend
def test_a_seed_determines_all_bits_interrupted_or_not(uninterrupted, tmp_path, monkeypatch):
    settings, photos = make_settings(ONE_STAGE, augment={"flip": "horizontal", "mixup": 0.3}), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, at_step=3)
    assert_same(
        uninterrupted("one", settings, photos), (tmp_path, training.fit(settings, photos, folder=tmp_path))
    )


# Moment, completed epochs, and for each remaining stage its first and its last epoch.
# 14 photos in batches of 8 make 2 steps in each epoch.
INTERRUPTIONS = {
    "before the first epoch ended": ({"at_step": 1}, 0, [(0, 2), (0, 2)]),
    "at the last epoch of a stage": ({"after_epoch": 2}, 2, [(2, 2), (0, 2)]),
    "in the first epoch of the next stage": ({"at_step": 5}, 2, [(0, 2)]),
    "in the last epoch": ({"at_step": 7}, 3, [(1, 2)]),
}


@pytest.mark.parametrize("when", INTERRUPTIONS)
def test_an_interruption_at_any_moment_changes_nothing(uninterrupted, tmp_path, monkeypatch, eager, when):
    settings, photos = make_settings(), make_photos()
    options, epochs, left = INTERRUPTIONS[when]
    whole = uninterrupted("two", settings, photos)
    interrupt(settings, photos, tmp_path, monkeypatch, **options)
    states = list(tmp_path.glob("*/state.npz"))
    assert (len(state.State.load(states[0].parent).history) if states else 0) == epochs
    run, original = [], keras.Model.fit

    def counting(self, *args, **kwargs):
        run.append((kwargs["initial_epoch"], kwargs["epochs"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", counting)
    assert_same(whole, (tmp_path, training.fit(settings, photos, folder=tmp_path)))
    assert run == left  # no epoch is run twice


def test_early_stopping_ends_a_stage_and_the_next_one_runs(uninterrupted, eager):
    _, trained = uninterrupted("stuck", make_settings(STUCK, **STUCK_OPTIONS), make_photos())
    assert trained.history.stage.tolist() == ["head"] * 4 + ["fine_tune"]
    assert trained.history.val_accuracy[:4].nunique() == 1  # the premise
    assert trained.history.learning_rate[:4].tolist() == pytest.approx([1e-7, 1e-7, 1e-7, 5e-8])
    assert trained.history.learning_rate[4] == pytest.approx(0.01)


@pytest.mark.parametrize("after_epoch", [2, 4])
def test_an_interruption_keeps_the_count_of_epochs_without_improvement(
    uninterrupted, tmp_path, monkeypatch, after_epoch, eager
):
    settings, photos = make_settings(STUCK, **STUCK_OPTIONS), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, after_epoch=after_epoch)
    assert_same(
        uninterrupted("stuck", settings, photos), (tmp_path, training.fit(settings, photos, folder=tmp_path))
    )


class Killed(BaseException):
    """Simulate the end of the process."""


@pytest.mark.parametrize(("write", "kept"), [(0, [1]), (3, [2, 3])])
def test_a_kill_between_the_best_weights_and_the_state_changes_nothing(
    uninterrupted, tmp_path, monkeypatch, eager, write, kept
):
    settings, photos = make_settings(STEADY, model={"head": STEADY_HEAD}), make_photos()
    writes, original = [], state.State.save

    def kill(self, folder, variables):
        writes.append(len(self.history))
        if len(writes) == write + 1:
            raise Killed
        original(self, folder, variables)

    with monkeypatch.context() as patch:
        patch.setattr(state.State, "save", kill)
        with pytest.raises(Killed):
            training.fit(settings, photos, folder=tmp_path)
    # the premise: the epoch was the best so far, and its weights are saved, but the state is not
    assert sorted(path.name for path in tmp_path.glob("*/best-*.npz")) == [
        f"best-{epoch}.npz" for epoch in kept
    ]
    resumed = training.fit(settings, photos, folder=tmp_path)
    assert_same(uninterrupted("steady", settings, photos), (tmp_path, resumed))


@pytest.fixture
def float16():
    """The precision of a GPU without `bfloat16`, in which Keras scales the loss."""
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy(policy)


@pytest.mark.backend
@pytest.mark.parametrize("scale", [2.0**15, 2.0**40], ids=["a usual scale", "a scale that is too large"])
def test_a_gpu_s_precision_survives_an_interruption(tmp_path, monkeypatch, eager, float16, scale):
    """The scale of the loss belongs to the state. Steps with infinite gradients are skipped."""
    scaled = partial(keras.optimizers.LossScaleOptimizer, initial_scale=scale)
    optimizer = trainer.schedules.optimizer
    monkeypatch.setattr(
        trainer.schedules, "optimizer", lambda *args, **options: scaled(optimizer(*args, **options))
    )
    settings, photos = make_settings(ONE_STAGE), make_photos()
    whole = tmp_path / "whole", training.fit(settings, photos, folder=tmp_path / "whole")
    interrupt(settings, photos, tmp_path / "part", monkeypatch, at_step=3)
    assert_same(whole, (tmp_path / "part", training.fit(settings, photos, folder=tmp_path / "part")))
    rates = whole[1].history.learning_rate
    # Skipped steps do not advance the schedule.
    assert rates[2] == pytest.approx(0.01 if scale > 2.0**15 else 0.0025)


def test_the_loss_is_scaled_in_float16(tmp_path, eager, float16):
    settings, photos = make_settings(ONE_EPOCH), make_photos()
    loop = trainer.Trainer(
        settings,
        photos,
        folder=tmp_path,
        build=lambda: training.network(settings, photos),
        bar=progress.Bar(None, ""),
        watch=None,
    )
    loop.train(None)
    assert isinstance(loop.compiled.optimizer, keras.optimizers.LossScaleOptimizer)


# Resuming a finished training


def test_resuming_keeps_the_weights_of_the_parent_if_no_epoch_is_better(tmp_path, eager):
    photos = make_photos()
    first = training.fit(make_settings(ONE_EPOCH, model={"head": PLAIN_HEAD}), photos, folder=tmp_path)
    worse = {"head": {"trainable": "all", "epochs": 1, "learning_rate": 10.0}}
    resumed = training.fit(
        make_settings(worse, resume_stages=["head"], model={"head": PLAIN_HEAD}),
        photos,
        folder=tmp_path,
        finished=first.key,
    )
    # The premise: the resumed epoch is worse.
    assert resumed.history.val_loss[1] > resumed.history.val_loss[0]
    assert resumed.kept_epoch == 1
    for mine, theirs in zip(
        kept_weights(tmp_path, resumed.key), kept_weights(tmp_path, first.key), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def measured(model, photos, train):
    """Compute the monitored value of a model on val by hand, negated if higher is better."""
    probabilities = keras.ops.convert_to_numpy(
        model(photos.images[photos.rows("val")].astype("float32"), training=False)
    )
    labels = np.eye(2)[photos.targets("val")]
    if train.monitor == "val_accuracy":
        return -(probabilities.argmax(axis=1) == labels.argmax(axis=1)).mean()
    smooth = labels * (1 - train.label_smoothing) + train.label_smoothing / 2
    return -(smooth * np.log(probabilities)).sum(axis=1).mean()


def last_value(trained, train):
    """Return the monitored value of the last epoch, negated if higher is better."""
    value = trained.history[train.monitor].iloc[-1]
    return value if train.monitor == "val_loss" else -value


# A better epoch is kept although its value is larger than the parent's under another monitor or smoothing; a
# worse epoch is not kept although its value is smaller. Weight decay shrinks the weights by 15 % per step.
SHRINK = {"kind": "sgd", "weight_decay": 0.15e6}
CHANGED_MEASURES = {
    "accuracy to loss": ({"monitor": "val_accuracy"}, {"monitor": "val_loss"}, 3e-4, True),
    "loss to accuracy": ({"monitor": "val_loss"}, {"monitor": "val_accuracy"}, 0.3, False),
    "more smoothing": ({"label_smoothing": 0.0}, {"label_smoothing": 0.8}, 3e-4, True),
    "less smoothing": (
        {"label_smoothing": 0.5},
        {"label_smoothing": 0.0, "optimizer": SHRINK},
        1e-6,
        False,
    ),
}


@pytest.mark.parametrize("case", CHANGED_MEASURES)
def test_values_are_compared_under_the_monitor_and_smoothing_of_the_resumed_training(tmp_path, eager, case):
    before, after, rate, better = CHANGED_MEASURES[case]
    photos, model = make_photos(), {"head": STEADY_HEAD}
    stage = {"trainable": "all", "epochs": 1, "learning_rate": 3e-4}
    settings = make_settings({"head": stage}, model=model, **before)
    first = training.fit(settings, photos, folder=tmp_path)
    more = {"head": stage | {"learning_rate": rate}}
    again = make_settings(more, resume_stages=["head"], model=model, **after)
    resumed = training.fit(again, photos, folder=tmp_path, finished=first.key)

    old, new = last_value(first, settings.train), last_value(resumed, again.train)
    parent = measured(first.model, photos, again.train)
    # The premise: comparing with the parent's own value would decide otherwise.
    assert (new < parent) == better != (new < old), (old, parent, new)
    assert resumed.kept_epoch == (2 if better else 1)
    assert measured(resumed.model, photos, again.train) == pytest.approx(min(parent, new), abs=1e-4)


@pytest.mark.parametrize(("wrong", "kept"), [(0.0, 2), (math.inf, 1)])
def test_a_parent_of_an_earlier_version_is_evaluated_again(tmp_path, eager, wrong, kept):
    photos, model = make_photos(), {"head": STEADY_HEAD}
    stage = {"trainable": "all", "epochs": 1, "learning_rate": 3e-4}
    first = training.fit(make_settings({"head": stage}, model=model), photos, folder=tmp_path)
    folder = tmp_path / first.key
    record = files.read_json(folder / "finished.json")
    files.write_json(folder / "finished.json", {name: record[name] for name in ("parent", "network")})
    old = state.State.load(folder)
    # A value that decides otherwise: no loss is below 0, every loss is below infinity.
    old.best = wrong
    old.save(folder, [])
    rate = 3e-4 if kept == 2 else 10.0
    again = make_settings({"head": stage | {"learning_rate": rate}}, resume_stages=["head"], model=model)
    resumed = training.fit(again, photos, folder=tmp_path, finished=first.key)
    # The premise: the resumed epoch is better or worse.
    assert (resumed.history.val_loss[1] < resumed.history.val_loss[0]) == (kept == 2)
    assert resumed.kept_epoch == kept


# Errors


def test_a_loss_that_is_not_a_number_names_the_stage(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model={"backbone": "Broken"})
    with pytest.raises(
        ValueError, match="the loss of epoch 1 is nan. Lower `train.stages.head.learning_rate`"
    ):
        training.fit(settings, make_photos(), folder=tmp_path)
    assert not list(tmp_path.glob("*/finished.json"))


# Memory


TRAIN_STEP = keras.Model.train_step


def limit_memory(patch, photos, after=0):
    """Make all steps with more photos than a limit fail, after a number of steps; list the steps."""
    steps = []

    def step(self, data):
        steps.append(len(data[0]))
        if len(steps) > after and steps[-1] > photos:
            raise MemoryError
        return TRAIN_STEP(self, data)

    patch.setattr(keras.Model, "train_step", step)
    return steps


@pytest.fixture
def memory(monkeypatch, eager):
    return partial(limit_memory, monkeypatch)


class Watched(progress.Bar):
    """Record the last bar."""

    last = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        type(self).last = self


def test_the_batch_size_is_halved_if_memory_runs_out(tmp_path, memory, monkeypatch, uninterrupted):
    photos = make_photos()
    memory(4)
    small = uninterrupted("small", make_settings(ONE_STAGE, batch_size=8), photos)
    steps = memory(4, after=1)  # the first step has already changed the weights
    monkeypatch.setattr(progress, "Bar", Watched)
    trained = training.fit(make_settings(ONE_STAGE, batch_size=9), photos, folder=tmp_path)
    assert steps[:3] == [9, 5, 4]
    assert_same(small, (tmp_path, trained))
    assert trained.batch_size == 4 and small[1].batch_size == 4
    record = files.read_json(tmp_path / trained.key / "finished.json")
    assert record["batch_sizes"] == [{"from_epoch": 1, "batch_size": 4}]
    assert Watched.last.lines[0] == "out of memory with a batch size of 9: continuing with 4"
    assert Watched.last.done == Watched.last.total == 3 * 14


def test_a_training_continues_after_the_last_completed_epoch_if_memory_runs_out(
    tmp_path, memory, monkeypatch, uninterrupted
):
    settings, photos = make_settings(ONE_STAGE), make_photos()
    _, roomy = uninterrupted("one", settings, photos)
    memory(4, after=3)  # in the second epoch
    whole = tmp_path / "whole", training.fit(settings, photos, folder=tmp_path / "whole")
    history = whole[1].history
    record = files.read_json(tmp_path / "whole" / whole[1].key / "finished.json")
    assert record["batch_sizes"] == [{"from_epoch": 1, "batch_size": 8}, {"from_epoch": 2, "batch_size": 4}]
    pd.testing.assert_frame_equal(without_time(history)[:1], without_time(roomy.history)[:1])
    assert history.epoch.tolist() == [1, 2, 3] and history.loss[1] != roomy.history.loss[1]
    assert history.learning_rate.tolist() == roomy.history.learning_rate.tolist()

    steps = memory(4, after=3)
    interrupt(settings, photos, tmp_path / "part", monkeypatch, at_step=4)
    before = len(steps)
    assert_same(whole, (tmp_path / "part", training.fit(settings, photos, folder=tmp_path / "part")))
    assert max(steps[before:]) == 4  # the larger batch size is not tried again


@pytest.mark.parametrize("moment", ["before the first batch", "when the optimizer is built"])
def test_the_batch_size_is_halved_if_memory_runs_out_before_the_first_batch(
    tmp_path, monkeypatch, uninterrupted, eager, moment
):
    photos = make_photos()
    with pytest.MonkeyPatch.context() as patch:
        limit_memory(patch, 4)
        small = uninterrupted("small", make_settings(ONE_STAGE, batch_size=8), photos)
    owner, name = {
        "before the first batch": (keras.Model, "fit"),
        "when the optimizer is built": (keras.optimizers.AdamW, "build"),
    }[moment]
    original, calls = getattr(owner, name), []

    def fail_once(self, *args, **options):
        calls.append(moment)
        if len(calls) == 1:
            raise MemoryError
        return original(self, *args, **options)

    monkeypatch.setattr(owner, name, fail_once)
    trained = training.fit(make_settings(ONE_STAGE, batch_size=9), photos, folder=tmp_path)
    assert_same(small, (tmp_path, trained))
    assert trained.batch_size == 4


def test_half_the_batch_size_has_the_result_of_the_whole_batch(tmp_path, memory):
    """Without dropout and batch statistics, a step is the mean over the same photos."""
    model = {**pretrained(tmp_path, "inference"), "head": PLAIN_HEAD}
    settings, photos = make_settings(ONE_STAGE, model=model, batch_size=8), make_photos(train=16, val=6)
    roomy = training.fit(settings, photos, folder=tmp_path / "roomy")
    steps = memory(4, after=3)  # in the second epoch
    narrow = training.fit(settings, photos, folder=tmp_path / "narrow")
    assert steps[:5] == [8, 8, 8, 8, 4] and narrow.batch_size == 4
    columns = ["loss", "val_loss", "learning_rate"]
    np.testing.assert_allclose(narrow.history[columns], roomy.history[columns], rtol=1e-5)


@pytest.mark.parametrize("train", [20, 13])
@pytest.mark.parametrize("embedding", [False, True])
def test_a_last_batch_that_is_divided_too_has_the_result_of_the_whole_batch(
    tmp_path, memory, embedded, train, embedding
):
    """Halves of the batches are an odd number of batches, or unequal."""
    _, photos, _ = embedded
    stages = {"head": {**ONE_STAGE["all"], "trainable": "none", "epochs": 4, "augment": not embedding}}
    model = {**pretrained(tmp_path, "inference"), "head": PLAIN_HEAD}
    settings = make_settings(stages if embedding else ONE_STAGE, model=model, optimizer={"kind": "adam"})
    photos = dataclasses.replace(make_photos(train=train, val=4, count=24), folder=photos.folder)
    roomy = training.fit(settings, photos, folder=tmp_path / "roomy")
    memory(7, after=math.ceil(train / 8) + 1)
    narrow = training.fit(settings, photos, folder=tmp_path / "narrow")
    assert narrow.batch_size == 4
    columns = ["val_loss", "learning_rate"]
    # The loss on train is the mean over batches: it differs if the parts of a step are unequal.
    columns += ["loss"] if train % 2 == 0 else []
    np.testing.assert_allclose(narrow.history[columns], roomy.history[columns], rtol=1e-5)


def test_batch_normalization_never_gets_a_single_photo(tmp_path, memory):
    head = {"pool": DROPOUT_HEAD["pool"], "norm": {"layer": "batch_normalization"}, **PLAIN_HEAD}
    settings = make_settings(ONE_STAGE, model={"head": head}, batch_size=4)
    steps = memory(99)
    training.fit(settings, make_photos(train=13), folder=tmp_path / "all")
    assert steps[:3] == [4, 4, 5]
    memory(1)
    with pytest.raises(ValueError, match="out of memory with a batch size of 2 and Tiny"):
        training.fit(settings, make_photos(), folder=tmp_path / "few")
    with pytest.raises(ValueError, match="`train.batch_size` must be at least 2 if `model.head` contains"):
        make_settings(ONE_STAGE, model={"head": head}, batch_size=1)
    assert make_settings(ONE_STAGE, batch_size=1).train.batch_size == 1


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_half_the_batch_size_has_the_rates_of_the_whole_batch_in_float16(tmp_path, memory, float16, kind):
    """The optimizer that counts the batches is within that which scales the loss."""
    model = {**pretrained(tmp_path, "inference"), "head": PLAIN_HEAD}
    settings = make_settings(ONE_STAGE, model=model, batch_size=8, optimizer={"kind": kind})
    photos = make_photos(train=16, val=6)
    roomy = training.fit(settings, photos, folder=tmp_path / "roomy")
    memory(4, after=3)  # in the second epoch
    narrow = training.fit(settings, photos, folder=tmp_path / "narrow")
    assert narrow.batch_size == 4
    np.testing.assert_allclose(narrow.history.learning_rate, roomy.history.learning_rate, rtol=1e-5)
    np.testing.assert_allclose(
        narrow.history[["loss", "val_loss"]], roomy.history[["loss", "val_loss"]], atol=0.02
    )


@pytest.mark.backend
def test_gradients_are_accumulated_in_float16(tmp_path, eager, float16):
    model = {**pretrained(tmp_path, "inference"), "head": PLAIN_HEAD}
    settings, photos = make_settings(ONE_STAGE, model=model, batch_size=8), make_photos(train=16, val=6)
    histories = []
    for size in (8, 4):
        loop = trainer.Trainer(
            settings,
            photos,
            folder=tmp_path / str(size),
            build=lambda: training.network(settings, photos),
            bar=progress.Bar(None, ""),
            watch=None,
        )
        loop.state.choose_batch_size(size)
        loop.train(None)
        histories.append(pd.DataFrame(loop.state.history, columns=trainer.COLUMNS))
    columns = ["loss", "val_loss", "learning_rate"]
    assert histories[0].loss.nunique() == 3
    np.testing.assert_allclose(histories[1][columns], histories[0][columns], atol=0.02)


def test_memory_for_less_than_one_photo_is_an_error(tmp_path, memory):
    steps = memory(0)
    with pytest.raises(
        ValueError, match="batch size of 1 and Tiny. Lower `model.image_size` or.*smaller `model.backbone`"
    ):
        training.fit(make_settings(ONE_STAGE, batch_size=4), make_photos(), folder=tmp_path)
    assert steps == [4, 2, 1]


def test_several_processes_do_not_halve_the_batch_size(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(backend, "PROCESSES", 2)
    monkeypatch.setattr(backend, "synchronize", lambda name: None)
    steps = memory(3)
    with pytest.raises(ValueError, match="batch size of 4 in 2 processes.*Lower `train.batch_size`"):
        training.fit(make_settings(ONE_STAGE, batch_size=4), make_photos(), folder=tmp_path)
    assert steps == [4]


LIMITED = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import builders
    from lib.networks import backbones, backend
    from lib.networks.backend import keras
    from lib.train import training

    def wide(weights, input_shape):
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(256, 3, padding="same")(inputs)
        return keras.Model(inputs, keras.layers.Conv2D(256, 3, padding="same")(x))

    backbones.REGISTRY["Tiny"] = backbones.Backbone(wide, backbones.SIGNED)
    backend.prepare(0)
    builders.SIZE = 96
    photos = builders.make_photos(train=64, val=6, count=74)

    def fit(batch_size, name):
        stages, model = builders.ONE_EPOCH, {"image_size": 96}
        settings = builders.make_settings(stages, batch_size=batch_size, model=model)
        return training.fit(settings, photos, folder=Path(sys.argv[2]) / name)

    # The libraries take their own memory before the limit.
    fit(4, "small")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_200_000_000,) * 2)
    trained = fit(64, "large")
    print(trained.batch_size, len(trained.history))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is that of Linux")
@pytest.mark.parametrize("name", [name for name in ("jax", "torch") if importlib.util.find_spec(name)])
def test_the_batch_size_is_halved_if_memory_runs_out_for_real(tmp_path, name):
    """On a CPU, TensorFlow ends the process if an allocation fails. Others raise an error, as on a GPU."""
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(Path(__file__).parent), str(tmp_path)]
    other = {**os.environ, "KERAS_BACKEND": name}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=other)
    assert done.returncode == 0, done.stderr[-3000:]
    batch_size, epochs = map(int, done.stdout.split()[-2:])
    assert batch_size in (8, 16, 32) and epochs == 1


# Learning rates


def test_the_optimizer_gets_the_rate_of_each_step(tmp_path, monkeypatch, eager):
    seen = []
    original = keras.Model.train_step

    def step(self, data):
        seen.append(float(self.optimizer.learning_rate))
        return original(self, data)

    monkeypatch.setattr(keras.Model, "train_step", step)
    options = {"trainable": "all", "epochs": 2, "learning_rate": 0.1}
    stages = {
        "fall": {**options, "schedule": "exponential", "decay": 0.5},
        "wave": {**options, "schedule": "cosine"},
    }
    # would reduce the rate after each epoch, but only a constant rate is reduced
    plateau = {"reduce_learning_rate": {"factor": 0.01, "patience": 1}, "monitor": "val_accuracy"}
    trained = training.fit(make_settings(stages, **plateau), make_photos(), folder=tmp_path)
    wave = [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.05, *wave])
    assert trained.history.learning_rate.tolist() == pytest.approx([0.1, 0.05, wave[0], wave[2]])


# Trainable layers


def statistics(network):
    layer = network.get_layer(models.BACKBONE).get_layer("norm")
    return [np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)]


def test_a_pretrained_backbone_keeps_its_statistics_in_every_stage(tmp_path, eager):
    settings, photos = make_settings(SHORT_STAGES, model=pretrained(tmp_path, "inference")), make_photos()
    seen = []
    original = trainer.Trainer.end_epoch

    def watch(self, *args, **options):
        seen.append(statistics(self.network))
        original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "end_epoch", watch)
        trained = training.fit(settings, photos, folder=tmp_path / "training")
    assert len(seen) == 2
    for mean, variance in seen:
        assert (mean == 0).all() and (variance == 1).all()
    assert trained.learned == ("none", "last 2 layers")
    # the normalization; the convolution was trained
    assert training.frozen_layers_agree(trained, training.network(settings, photos), settings=settings)


@pytest.mark.backend
def test_statistics_are_updated_if_batch_normalization_is_train(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model=pretrained(tmp_path, "train"))
    trained = training.fit(settings, make_photos(), folder=tmp_path / "training")
    mean, variance = statistics(trained.model)
    assert (mean != 0).all() and (variance != 1).all()


# Embeddings


PLAIN_STAGES = {
    "head": {"trainable": "none", "epochs": 3, "learning_rate": 0.03, "augment": False},
    "fine_tune": {"trainable": "last 2 layers", "epochs": 1, "learning_rate": 0.01},
}


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """Settings and photos of a pretrained network, and the number of photos of each call of its backbone."""
    calls = []
    fixed = keras.initializers.GlorotUniform(seed=1)  # constant, like weights from a file

    def Fixed(weights, input_shape):
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv", kernel_initializer=fixed)(inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))

    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Fixed, backbones.SIGNED))
    original = manifest.embeddings.compute

    def counting(images, **options):
        calls.append(len(images))
        return original(images, **options)

    monkeypatch.setattr(photoset.embeddings, "compute", counting)
    settings = make_settings(
        PLAIN_STAGES, model=pretrained(tmp_path, "inference"), augment={"flip": "horizontal"}
    )
    return settings, dataclasses.replace(make_photos(), folder=tmp_path / "cache"), calls


@pytest.mark.parametrize("pool", ["average_pooling", "max_pooling", "flatten"])
def test_training_a_head_on_embeddings_has_the_same_result_as_on_photos(embedded, tmp_path, eager, pool):
    settings, photos, calls = embedded
    head = {**DROPOUT_HEAD, "pool": {"layer": pool}}
    settings = make_settings(PLAIN_STAGES, model={**pretrained(tmp_path, "inference"), "head": head})
    fast = training.fit(settings, photos, folder=tmp_path / "fast")
    assert calls == [24]  # all photos, once
    slow = training.fit(settings, dataclasses.replace(photos, folder=None), folder=tmp_path / "slow")
    assert calls == [24] and fast.learned == slow.learned == ("none", "last 2 layers")
    columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    np.testing.assert_allclose(fast.history[columns], slow.history[columns], rtol=1e-4)
    assert training.frozen_layers_agree(fast, training.network(settings, photos), settings=settings)
    batches = dataset.evaluation(
        photos.images, photos.rows("val"), targets=photos.targets("val"), classes=2, batch_size=8
    )
    fast.model.compile(
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=settings.train.label_smoothing)
    )
    least = fast.history.val_loss.min()
    assert fast.model.evaluate(batches, verbose=0) == pytest.approx(least, rel=1e-4)


@pytest.mark.backend
def test_an_interrupted_training_on_embeddings_continues(embedded, tmp_path, monkeypatch, eager):
    settings, photos, _ = embedded
    whole = tmp_path / "whole", training.fit(settings, photos, folder=tmp_path / "whole")
    interrupt(settings, photos, tmp_path / "cut", monkeypatch, at_step=4)
    assert_same(whole, (tmp_path / "cut", training.fit(settings, photos, folder=tmp_path / "cut")))


@pytest.mark.parametrize(
    "why, change",
    {
        "the backbone is trained": {"stages": {"all": {**PLAIN_STAGES["head"], "trainable": "all"}}},
        "the photos are augmented": {"stages": {"head": {**PLAIN_STAGES["head"], "augment": True}}},
        "the backbone was trained": {
            "stages": {"all": ONE_EPOCH["head"], "head": {**PLAIN_STAGES["head"], "epochs": 1}}
        },
        "no weights": {"model": {"weights": None}},
        "measured scaling": {"model": {"scaling": "measured"}},
        "another head": {
            "model": {
                "head": {
                    "normalization": {"layer": "batch_normalization"},
                    "pool": {"layer": "max_pooling"},
                    "classes": {"layer": "dense"},
                }
            }
        },
    }.items(),
)
def test_no_embeddings_are_computed_if(why, change, embedded, tmp_path, eager):
    settings, photos, calls = embedded
    model = pretrained(tmp_path, "inference") | change.get("model", {})
    settings = make_settings(change.get("stages", {"head": PLAIN_STAGES["head"]}), model=model)
    trained = training.fit(settings, photos, folder=tmp_path / "training")
    assert not calls and len(trained.history), why


def test_no_embeddings_are_computed_if_they_are_far_larger_than_the_photos(
    embedded, tmp_path, eager, monkeypatch
):
    settings, photos, calls = embedded
    model = pretrained(tmp_path, "inference") | {"head": STEADY_HEAD}
    settings = make_settings({"head": PLAIN_STAGES["head"]}, model=model)
    # 16 * 16 * 4 numbers of 4 bytes, and photos of 3,072 bytes.
    monkeypatch.setattr(trainer, "LARGEST", 1.3)
    training.fit(settings, photos, folder=tmp_path / "large")
    assert not calls
    monkeypatch.setattr(trainer, "LARGEST", 1.4)
    training.fit(settings, photos, folder=tmp_path / "small")
    assert calls == [24]


# Several devices


TWO_DEVICES = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import test_trainer
    from builders import Tiny
    from pathlib import Path
    from lib.networks import backbones, backend
    from lib.train import training

    if backend.ENGINE == "tensorflow":
        tf = backend.native
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        backend.distribution, backend.device_count = mirrored.scope, lambda: 2
    backbones.REGISTRY["Tiny"] = backbones.Backbone(Tiny, backbones.SIGNED)
    backend.prepare(0)
    fits, fit = [], backend.keras.Model.fit
    def distributed_fit(self, *arguments, **options):
        fits.append(backend.ENGINE != "jax" or backend.keras.distribution.distribution() is not None)
        return fit(self, *arguments, **options)
    backend.keras.Model.fit = distributed_fit
    trained = training.fit(*test_trainer.uneven(Path(sys.argv[2])), folder=Path(sys.argv[2]) / "two")
    assert fits and all(fits), "the batches are not divided"
    print(backend.device_count(), trained.history.to_json())
"""


def uneven(folder):
    """Return settings and photos with batches of 5, 5 and 3, and of 5 and 2, for two devices."""
    stages = {
        "head": {"trainable": "none", "epochs": 1, "learning_rate": 0.03},
        "all": {"trainable": "all", "epochs": 1, "learning_rate": 0.01, "schedule": "cosine"},
    }
    # without dropout, which would draw another mask on each device, and without statistics of half a batch
    model = {**pretrained(folder, "inference"), "head": PLAIN_HEAD}
    return make_settings(stages, model=model, batch_size=5), make_photos(train=13, val=7)


@pytest.mark.backend
@pytest.mark.slow
@pytest.mark.skipif(backend.ENGINE == "torch", reason="PyTorch trains on one device")
def test_two_devices_have_the_result_of_one_for_any_number_of_photos(tmp_path):
    one = training.fit(*uneven(tmp_path), folder=tmp_path / "one").history
    command = [sys.executable, "-c", textwrap.dedent(TWO_DEVICES), str(Path(__file__).parent), str(tmp_path)]
    two_devices = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=two_devices)
    assert done.returncode == 0, done.stderr[-3000:]
    replicas, history = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert replicas == "2"
    two = pd.DataFrame(json.loads(history)).reset_index(drop=True)
    exact = [
        "accuracy",
        "val_loss",
        "val_accuracy",
    ]  # in the loss on train, the last batch has another weight
    np.testing.assert_allclose(two[exact], one[exact], rtol=1e-4)
    np.testing.assert_allclose(two.loss, one.loss, atol=0.03)
