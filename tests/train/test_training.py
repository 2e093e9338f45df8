"""Training: the best weights are kept, a seed repeats every bit, and an interruption changes nothing.

Most tests run eagerly: tracing the steps of a training takes seconds and changes nothing that they look at.
"""

import dataclasses
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import DROPOUT_HEAD, TWO_STAGES, make_photos, make_settings

from lib.clean import manifest, photoset
from lib.core import files, progress
from lib.networks import backbones, device, models
from lib.networks.device import keras, tf
from lib.train import dataset, state, trainer, training

# A rate so small that the accuracy on val never moves: the first epoch stays the best, every counter counts.
STUCK = {
    "head": {"trainable": "none", "epochs": 6, "learning_rate": 1e-7},
    "fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 0.01},
}


def Tiny(weights, input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))


def Broken(weights, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(
        inputs, keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(math.nan))(inputs)
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for constructor in (Tiny, Broken):
        entry = backbones.Backbone(constructor, backbones.SIGNED)
        monkeypatch.setitem(backbones.REGISTRY, constructor.__name__, entry)
    device.prepare(0)


@pytest.fixture
def eager():
    """Runs the steps of training without tracing them first, which takes seconds and changes nothing here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


PLAIN_HEAD = {"pool": DROPOUT_HEAD["pool"], "classes": {"layer": "dense"}}
SHORT_STAGES = {name: {**stage, "epochs": 1} for name, stage in TWO_STAGES.items()}
ONE_STAGE = {"all": {"trainable": "all", "epochs": 3, "learning_rate": 0.01, "schedule": "cosine"}}
STEADY = {
    "head": {"trainable": "none", "epochs": 2, "learning_rate": 1e-4},
    "more": {"trainable": "none", "epochs": 1, "learning_rate": 1e-4},
}
STEADY_HEAD = {
    "flat": {"layer": "flatten"},
    "classes": {"layer": "dense"},
}  # each epoch is better than the last
ONE_EPOCH = {"head": {"trainable": "all", "epochs": 1, "learning_rate": 0.01}}
STUCK_OPTIONS = {
    "monitor": "val_accuracy",
    "early_stopping": {"patience": 3},
    "reduce_learning_rate": {"factor": 0.5, "patience": 2},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns what an uninterrupted training of some settings and photos leaves, training each only once."""
    done = {}

    def get(name, settings, photos):
        name = f"{name}-{'eager' if tf.config.functions_run_eagerly() else 'graph'}"
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, training.fit(settings, photos, folder=folder)
        return done[name]

    return get


def without_time(history):
    return history.drop(columns="seconds")


def kept_weights(folder, key):
    # The weights of earlier epochs are removed.
    (path,) = (folder / key).glob("best-*.npz")
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def assert_same(one, other):
    """Compares (folder, training) pairs bit by bit."""
    pd.testing.assert_frame_equal(
        without_time(one[1].history), without_time(other[1].history), check_exact=True
    )
    for mine, theirs in zip(
        kept_weights(one[0], one[1].key), kept_weights(other[0], other[1].key), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def forbid_fit(monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("it trains again")

    monkeypatch.setattr(keras.Model, "fit", fit)


# What a training gives


def test_history_has_one_row_per_epoch_over_all_stages(uninterrupted, eager):
    _, trained = uninterrupted("two", make_settings(), make_photos())
    history = trained.history
    assert list(history.columns) == trainer.COLUMNS
    assert history.epoch.tolist() == [1, 2, 3, 4]
    assert history.stage.tolist() == ["head"] * 2 + ["fine_tune"] * 2
    # a cosine over 2 epochs: at its start 0.01, in its middle half of it
    assert history.learning_rate.tolist() == pytest.approx([0.03, 0.03, 0.01, 0.005], rel=1e-6)
    assert history[["loss", "accuracy", "val_loss", "val_accuracy"]].notna().all(axis=None)
    assert (history.seconds >= 0).all()


NAN = math.nan


@pytest.mark.parametrize(
    ("monitor", "losses", "best"),
    [
        ("val_loss", [0.5, 0.2, 0.3, 0.4], 1),
        ("val_accuracy", [0.5, 0.2, 0.3, 0.4], 2),  # as high in the fourth
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
    )
    loop.network.compile(optimizer="sgd")
    bias = loop.network.get_layer(models.LOGITS).bias
    for epoch, (loss, accuracy) in enumerate(zip(losses, [0.6, 0.7, 0.9, 0.9], strict=True)):
        bias.assign([epoch, epoch])
        logs = dict.fromkeys(trainer.COLUMNS[2:], 0.1) | {"val_loss": loss, "val_accuracy": accuracy}
        loop.end_epoch("head", logs, epoch=epoch + 1, callbacks=[])
    assert loop.state.kept == best + 1
    np.testing.assert_array_equal(kept_weights(tmp_path, "key")[-1], [best, best])


def test_the_returned_network_gives_the_best_value_of_the_history(uninterrupted, eager):
    photos = make_photos()
    _, trained = uninterrupted("two", make_settings(), photos)
    probabilities = trained.model(photos.images[photos.rows("val")].astype("float32"), training=False).numpy()
    smooth = np.eye(2)[photos.targets("val")] * 0.9 + 0.05  # label_smoothing is 0.1
    loss = -(smooth * np.log(probabilities)).sum(axis=1).mean()
    assert loss == pytest.approx(trained.history.val_loss.min(), abs=1e-5)
    assert trained.kept_epoch == trained.history.epoch[trained.history.val_loss.idxmin()]


def test_the_trained_network_carries_no_optimizer(uninterrupted, eager):
    trained = uninterrupted("two", make_settings(), make_photos())[1]
    assert getattr(trained.model, "optimizer", None) is None


# The same bits


class Interrupting(progress.Bar):
    """Raises KeyboardInterrupt, as Ctrl-C does, at a step of the network or after an epoch was recorded."""

    at_step, after_epoch = None, None

    def step(self, count=1, note=""):
        super().step(count, note=note)
        if type(self).at_step is not None and 0 < count < 14:  # not the whole epochs of an earlier call
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


def test_the_same_seed_gives_the_same_bits_interrupted_or_not(uninterrupted, tmp_path, monkeypatch):
    settings, photos = make_settings(ONE_STAGE, augment={"flip": "horizontal", "mixup": 0.3}), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, at_step=3)
    assert_same(
        uninterrupted("one", settings, photos), (tmp_path, training.fit(settings, photos, folder=tmp_path))
    )


# When, how many epochs were done, and what is left: for each stage its first and its last epoch.
# 14 photos in batches of 8 make 2 steps in each epoch.
INTERRUPTIONS = {
    "before the first epoch ended": ({"at_step": 1}, 0, [(0, 2), (0, 2)]),
    "at the last epoch of a stage": ({"after_epoch": 2}, 2, [(2, 2), (0, 2)]),
    "in the first epoch of the next stage": ({"at_step": 5}, 2, [(0, 2)]),
    "in the last epoch": ({"at_step": 7}, 3, [(1, 2)]),
}


@pytest.mark.parametrize("when", INTERRUPTIONS)
def test_it_does_not_matter_when_it_was_interrupted(uninterrupted, tmp_path, monkeypatch, eager, when):
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
    """Stands for the end of the process."""


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
    # the premise: the epoch was the best so far, and its weights are on disk, but no state knows of them
    assert sorted(path.name for path in tmp_path.glob("*/best-*.npz")) == [
        f"best-{epoch}.npz" for epoch in kept
    ]
    resumed = training.fit(settings, photos, folder=tmp_path)
    assert_same(uninterrupted("steady", settings, photos), (tmp_path, resumed))


def test_a_gpu_s_precision_survives_an_interruption(tmp_path, monkeypatch, eager):
    """16-bit floats bring a scale of the loss, which belongs to the state."""
    settings, photos = make_settings(ONE_STAGE), make_photos()
    policy = keras.mixed_precision.global_policy()
    try:
        keras.mixed_precision.set_global_policy("mixed_float16")
        whole = tmp_path / "whole", training.fit(settings, photos, folder=tmp_path / "whole")
        interrupt(settings, photos, tmp_path / "part", monkeypatch, at_step=3)
        assert_same(whole, (tmp_path / "part", training.fit(settings, photos, folder=tmp_path / "part")))
    finally:
        keras.mixed_precision.set_global_policy(policy)


def test_a_finished_training_is_read_back(uninterrupted, monkeypatch, eager):
    settings, photos = make_settings(), make_photos()
    folder, trained = uninterrupted("two", settings, photos)
    forbid_fit(monkeypatch)
    again = training.fit(settings, photos, folder=folder)
    assert again.key == trained.key
    pd.testing.assert_frame_equal(again.history, trained.history)
    pixels = photos.images[:3].astype("float32")
    np.testing.assert_array_equal(again.model(pixels, training=False), trained.model(pixels, training=False))


def test_changed_parameters_get_a_folder_of_their_own(uninterrupted, eager):
    photos = make_photos()
    folder, first = uninterrupted("two", make_settings(), photos)
    before = {path: path.stat().st_mtime_ns for path in (folder / first.key).iterdir()}
    other = training.fit(make_settings(ONE_EPOCH), photos, folder=folder)
    assert other.key != first.key
    assert {path: path.stat().st_mtime_ns for path in (folder / first.key).iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"augment": {"zoom": 0.5}},
        {"batch_size": 6},
        {"model": {"scaling": "unit"}},
        {"label_smoothing": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_holds_all_parameters_that_decide(change):
    photos = make_photos()
    assert training.key(make_settings(**change), photos) != training.key(make_settings(), photos)


def test_measured_scaling_is_that_of_the_training_photos_and_belongs_to_the_key():
    photos = make_photos()
    brighter = dataclasses.replace(photos, full=photos.full // 2 + 100)
    settings, plain = make_settings(model={"scaling": "measured"}), make_settings()
    assert training.key(settings, brighter) != training.key(settings, photos)
    assert training.key(plain, brighter) == training.key(plain, photos)
    layer = training.network(settings, photos).get_layer(models.SCALING)
    pixels = photos.full[photos.rows("train")].astype("float32")
    scaled = np.asarray(layer(pixels), float)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_the_key_holds_the_photos_that_train_and_choose():
    settings, photos = make_settings(), make_photos()
    key = training.key(settings, photos)
    for row, changes in ((0, True), (15, True), (23, False)):  # train, val, test
        table = photos.table.copy()
        table.loc[row, "sha1"] = "another photo"
        assert (
            training.key(settings, photoset.Photos(table, photos.images, photos.size, photos.classes)) != key
        ) is changes


# On top of a finished training


def test_resume_stages_goes_on_from_the_finished_training(tmp_path, monkeypatch, eager):
    photos = make_photos()
    first = training.fit(make_settings(SHORT_STAGES), photos, folder=tmp_path)
    parent_files = {path: path.read_bytes() for path in (tmp_path / first.key).glob("*.npz")}
    more = SHORT_STAGES | {"fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 1e-12}}
    settings = make_settings(more, resume_stages=["fine_tune"])
    resumed = training.fit(settings, photos, folder=tmp_path, finished=first.key)
    assert resumed.key != first.key
    pd.testing.assert_frame_equal(resumed.history[:2], first.history)
    assert resumed.history.stage.tolist()[2:] == ["fine_tune"] and resumed.history.epoch.tolist()[2:] == [3]
    # Hardly a step from the kept weights: val is as it was there, the weights are nearly the parent's.
    assert resumed.history.val_loss[2] == pytest.approx(first.history.val_loss.min(), abs=0.05)
    for mine, theirs in zip(
        kept_weights(tmp_path, resumed.key)[:2], kept_weights(tmp_path, first.key)[:2], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert {path: path.read_bytes() for path in (tmp_path / first.key).glob("*.npz")} == parent_files
    assert resumed.learned == ("none", "last 2 layers", "all")

    forbid_fit(monkeypatch)
    assert (
        training.fit(settings, photos, folder=tmp_path, finished=resumed.key).key == resumed.key
    )  # not a second time on top
    plain = training.fit(make_settings(SHORT_STAGES), photos, folder=tmp_path, finished=resumed.key)
    assert plain.key == first.key and len(plain.history) == 2


def test_resuming_keeps_the_weights_of_the_parent_where_nothing_is_better(tmp_path, eager):
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


def finished_by_hand(folder, settings, photos, key="first"):
    record = {"parent": None, "network": training._network_key(settings, photos)}
    files.write_json(folder / key / "finished.json", record)
    state.State().save(folder / key, [])
    return key


def measured(model, photos, train):
    """Return the monitored value of a model on val by hand, such that less is better."""
    probabilities = model(photos.images[photos.rows("val")].astype("float32"), training=False).numpy()
    labels = np.eye(2)[photos.targets("val")]
    if train.monitor == "val_accuracy":
        return -(probabilities.argmax(axis=1) == labels.argmax(axis=1)).mean()
    smooth = labels * (1 - train.label_smoothing) + train.label_smoothing / 2
    return -(smooth * np.log(probabilities)).sum(axis=1).mean()


def last_value(trained, train):
    """Return the monitored value of the last epoch, such that less is better."""
    value = trained.history[train.monitor].iloc[-1]
    return value if train.monitor == "val_loss" else -value


# A better epoch is kept although its value, measured in another way, is larger than the parent's was; a worse
# one is not kept although its value is smaller. Decay alone shrinks the weights by 15 % a step.
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
def test_values_are_compared_as_the_resumed_training_measures_them(tmp_path, eager, case):
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


def test_the_parent_of_an_earlier_version_is_measured_anew(tmp_path, monkeypatch, eager):
    settings, photos = make_settings(ONE_EPOCH), make_photos()
    first = training.fit(settings, photos, folder=tmp_path)
    record = tmp_path / first.key / "finished.json"
    old = {name: value for name, value in files.read_json(record).items() if name in ("parent", "network")}
    files.write_json(record, old)
    seen, original = [], trainer.Trainer._measure
    monkeypatch.setattr(trainer.Trainer, "_measure", lambda self: seen.append(original(self)) or seen[-1])
    again = make_settings(ONE_EPOCH, resume_stages=["head"])
    training.fit(again, photos, folder=tmp_path, finished=first.key)
    assert seen == pytest.approx([first.history.val_loss[0]])


@pytest.mark.parametrize("other", ["model", "photos"])
def test_resuming_another_model_or_other_photos_is_refused(tmp_path, other):
    key = finished_by_hand(tmp_path, make_settings(), make_photos())
    model, photos = ({"scaling": "unit"}, make_photos()) if other == "model" else ({}, make_photos(seed=1))
    with pytest.raises(
        ValueError, match="of another model or of other photos.*only with the same `model` and data"
    ):
        training.fit(
            make_settings(model=model, resume_stages=["head"]), photos, folder=tmp_path, finished=key
        )


@pytest.mark.parametrize("finished", [None, "unknown"])
def test_resuming_without_a_finished_training_is_refused(tmp_path, finished):
    settings = make_settings(resume_stages=["head"])
    with pytest.raises(
        ValueError, match="no finished training to go on from.*without `train.resume_stages` first"
    ):
        training.fit(settings, make_photos(), folder=tmp_path, finished=finished)


def test_of_run_reads_the_key_from_the_model_card(tmp_path):
    assert training.of_run(tmp_path) is None
    files.write_json(tmp_path / "model.json", {"training": "abc"})
    assert training.of_run(tmp_path) == "abc"


# What goes wrong


def test_a_loss_that_is_not_a_number_names_the_stage(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model={"backbone": "Broken"})
    with pytest.raises(ValueError, match="the loss of epoch 1 is nan: lower the learning rate of stage head"):
        training.fit(settings, make_photos(), folder=tmp_path)
    assert not list(tmp_path.glob("*/finished.json"))


@pytest.mark.parametrize(
    ("counts", "missing"), [({"val": 0}, "none in val"), ({"train": 0, "val": 0}, "none in train and val")]
)
def test_photos_to_train_on_and_to_choose_by_are_needed(tmp_path, counts, missing):
    with pytest.raises(ValueError, match=f"in train and in val. Received: {missing}.*02_clean"):
        training.fit(make_settings(), make_photos(**counts), folder=tmp_path)
    assert not list(tmp_path.iterdir())


# Memory


@pytest.fixture
def memory(monkeypatch, eager):
    """Returns a function that makes every step fail that takes more photos than so many, after some steps."""
    original = keras.Model.train_step

    def limit(photos, after=0):
        steps = []

        def step(self, data):
            steps.append(len(data[0]))
            if len(steps) > after and steps[-1] > photos:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return original(self, data)

        monkeypatch.setattr(keras.Model, "train_step", step)
        return steps

    return limit


class Watched(progress.Bar):
    """Keeps the last bar."""

    last = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        type(self).last = self


def test_where_memory_runs_out_the_batch_is_halved(tmp_path, memory, monkeypatch, uninterrupted):
    photos = make_photos()
    small = uninterrupted("small", make_settings(ONE_STAGE, batch_size=4), photos)
    steps = memory(4, after=1)  # the first step has already changed the weights
    monkeypatch.setattr(progress, "Bar", Watched)
    trained = training.fit(make_settings(ONE_STAGE, batch_size=9), photos, folder=tmp_path)
    assert steps[:3] == [9, 5, 4]
    assert_same(small, (tmp_path, trained))
    assert trained.batch_size == 4 and small[1].batch_size == 4
    record = files.read_json(tmp_path / trained.key / "finished.json")
    assert record["batch_sizes"] == [{"from_epoch": 1, "batch_size": 4}]
    assert Watched.last.lines[0] == "memory ran out with a batch size of 9: continuing with 4"
    assert Watched.last.done == Watched.last.total == 3 * 14


def test_a_training_goes_on_from_the_last_whole_epoch_where_memory_runs_out(
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
    assert max(steps[before:]) == 4  # it is not tried again


@pytest.mark.parametrize("moment", ["before the first batch", "when the optimizer is built"])
def test_memory_that_runs_out_before_the_first_batch(tmp_path, monkeypatch, uninterrupted, eager, moment):
    photos = make_photos()
    small = uninterrupted("small", make_settings(ONE_STAGE, batch_size=4), photos)
    owner, name = {
        "before the first batch": (keras.Model, "fit"),
        "when the optimizer is built": (keras.optimizers.AdamW, "build"),
    }[moment]
    original, calls = getattr(owner, name), []

    def fail_once(self, *args, **options):
        calls.append(moment)
        if len(calls) == 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return original(self, *args, **options)

    monkeypatch.setattr(owner, name, fail_once)
    trained = training.fit(make_settings(ONE_STAGE, batch_size=9), photos, folder=tmp_path)
    assert_same(small, (tmp_path, trained))
    assert trained.batch_size == 4


def test_memory_that_cannot_hold_one_photo_is_an_error(tmp_path, memory):
    steps = memory(0)
    with pytest.raises(
        ValueError, match="batch size of 1: lower `model.image_size`.*`model.backbone` than Tiny"
    ):
        training.fit(make_settings(ONE_STAGE, batch_size=4), make_photos(), folder=tmp_path)
    assert steps == [4, 2, 1]


# Rates


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
    # a reduction of the rate after each epoch, if it were heard
    plateau = {"reduce_learning_rate": {"factor": 0.01, "patience": 1}, "monitor": "val_accuracy"}
    trained = training.fit(make_settings(stages, **plateau), make_photos(), folder=tmp_path)
    wave = [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.05, *wave])
    assert trained.history.learning_rate.tolist() == pytest.approx([0.1, 0.05, wave[0], wave[2]])


# What learns


def statistics(network):
    layer = network.get_layer(models.BACKBONE).get_layer("norm")
    return [np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)]


def pretrained(tmp_path, mode):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    return {"weights": str(weights), "batch_normalization": mode}


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
    # the normalisation; the convolution learned
    assert training.frozen_layers_agree(trained, training.network(settings, photos), settings=settings)


# A head on embeddings


PLAIN_STAGES = {
    "head": {"trainable": "none", "epochs": 3, "learning_rate": 0.03, "augment": False},
    "fine_tune": {"trainable": "last 2 layers", "epochs": 1, "learning_rate": 0.01},
}


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """Settings and photos of a pretrained network, and how many photos its backbone is asked for."""
    asked = []
    fixed = keras.initializers.GlorotUniform(seed=1)  # as weights from a file are

    def Fixed(weights, input_shape):
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv", kernel_initializer=fixed)(inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))

    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Fixed, backbones.SIGNED))
    original = manifest.embeddings.compute

    def counting(images, **options):
        asked.append(len(images))
        return original(images, **options)

    monkeypatch.setattr(photoset.embeddings, "compute", counting)
    settings = make_settings(
        PLAIN_STAGES, model=pretrained(tmp_path, "inference"), augment={"flip": "horizontal"}
    )
    return settings, dataclasses.replace(make_photos(), folder=tmp_path / "cache"), asked


def test_a_head_without_augmentation_learns_from_embeddings_as_it_does_from_photos(embedded, tmp_path, eager):
    settings, photos, asked = embedded
    fast = training.fit(settings, photos, folder=tmp_path / "fast")
    assert asked == [24]  # once, all photos
    slow = training.fit(settings, dataclasses.replace(photos, folder=None), folder=tmp_path / "slow")
    assert asked == [24] and fast.learned == slow.learned == ("none", "last 2 layers")
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


def test_a_head_on_embeddings_that_was_interrupted_goes_on(embedded, tmp_path, monkeypatch, eager):
    settings, photos, _ = embedded
    whole = tmp_path / "whole", training.fit(settings, photos, folder=tmp_path / "whole")
    interrupt(settings, photos, tmp_path / "cut", monkeypatch, at_step=4)
    assert_same(whole, (tmp_path / "cut", training.fit(settings, photos, folder=tmp_path / "cut")))


@pytest.mark.parametrize(
    "why, change",
    {
        "the backbone learns": {"stages": {"all": {**PLAIN_STAGES["head"], "trainable": "all"}}},
        "the photos are changed": {"stages": {"head": {**PLAIN_STAGES["head"], "augment": True}}},
        "the backbone has learned": {
            "stages": {"all": ONE_EPOCH["head"], "head": {**PLAIN_STAGES["head"], "epochs": 1}}
        },
        "no weights": {"model": {"weights": None}},
        "measured scaling": {"model": {"scaling": "measured"}},
        "another head": {
            "model": {"head": {"pool": {"layer": "max_pooling"}, "classes": {"layer": "dense"}}}
        },
    }.items(),
)
def test_no_embeddings_where(why, change, embedded, tmp_path, eager):
    settings, photos, asked = embedded
    model = pretrained(tmp_path, "inference") | change.get("model", {})
    settings = make_settings(change.get("stages", {"head": PLAIN_STAGES["head"]}), model=model)
    trained = training.fit(settings, photos, folder=tmp_path / "training")
    assert not asked and len(trained.history), why


def test_statistics_move_where_the_parameters_say_so(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model=pretrained(tmp_path, "train"))
    trained = training.fit(settings, make_photos(), folder=tmp_path / "training")
    mean, variance = statistics(trained.model)
    assert (mean != 0).all() and (variance != 1).all()


def test_a_frozen_weight_that_moved_is_found():
    settings, photos = make_settings(), make_photos()
    model, fresh = (training.network(settings, photos) for _ in range(2))
    trained = training.Training(
        key="key",
        history=pd.DataFrame(),
        model=model,
        kept_epoch=1,
        batch_size=5,
        learned=("none", "last 1 layers"),
    )
    assert training.frozen_layers_agree(trained, fresh, settings=settings)
    norm, conv = (model.get_layer(models.BACKBONE).get_layer(name) for name in ("norm", "conv"))
    norm.gamma.assign(norm.gamma + 1)  # it may learn
    assert training.frozen_layers_agree(trained, fresh, settings=settings)
    conv.bias.assign(conv.bias + 1e-6)  # it may not
    assert not training.frozen_layers_agree(trained, fresh, settings=settings)


def test_a_stage_without_epochs_is_left_out(tmp_path, eager):
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}, "rest": ONE_EPOCH["head"]}
    trained = training.fit(make_settings(stages), make_photos(), folder=tmp_path)
    assert trained.history.stage.tolist() == ["rest"]


def test_a_training_without_any_epoch_is_refused():
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}}
    with pytest.raises(ValueError, match="at least one stage with an epoch"):
        make_settings(stages)


# Several devices

TWO_DEVICES = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import test_training
    from pathlib import Path
    from lib.networks import backbones, device
    from lib.train import training
    from lib.networks.device import tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    device.strategy = lambda: mirrored
    backbones.REGISTRY["Tiny"] = backbones.Backbone(test_training.Tiny, backbones.SIGNED)
    device.prepare(0)
    trained = training.fit(*test_training.uneven(Path(sys.argv[2])), folder=Path(sys.argv[2]) / "two")
    print(mirrored.num_replicas_in_sync, trained.history.to_json())
"""


def uneven(folder):
    """Returns settings and photos whose batches of 5, 5 and 3, and of 5 and 2, two devices cannot halve."""
    stages = {
        "head": {"trainable": "none", "epochs": 1, "learning_rate": 0.03},
        "all": {"trainable": "all", "epochs": 1, "learning_rate": 0.01, "schedule": "cosine"},
    }
    # without dropout, which would draw another mask on each device, and without statistics of half a batch
    model = {**pretrained(folder, "inference"), "head": PLAIN_HEAD}
    return make_settings(stages, model=model, batch_size=5), make_photos(train=13, val=7)


@pytest.mark.slow
def test_two_devices_train_as_one_does_whatever_the_number_of_photos(tmp_path):
    one = training.fit(*uneven(tmp_path), folder=tmp_path / "one").history
    command = [sys.executable, "-c", textwrap.dedent(TWO_DEVICES), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    replicas, history = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert replicas == "2"
    two = pd.DataFrame(json.loads(history)).reset_index(drop=True)
    exact = ["accuracy", "val_loss", "val_accuracy"]  # the loss on train gives the last batch another weight
    np.testing.assert_allclose(two[exact], one[exact], rtol=1e-4)
    np.testing.assert_allclose(two.loss, one.loss, atol=0.03)
