"""Training: the best weights are kept, the same seed gives the same bits, and an interruption changes nothing."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import backbones, cache, dataset, device, manifest, models, progress, schema, training
from lib.device import keras, tf

SIZE = 32
NO_AUGMENT = {"flip": "none", "rotation": 0, "zoom": 0, "translation": 0, "contrast": 0, "brightness": 0}
DROPOUT_HEAD = {
    "pool": {"layer": "average_pooling"},
    "dropout": {"layer": "dropout", "rate": 0.5},
    "classes": {"layer": "dense"},
}
TWO_STAGES = {
    "head": {"trainable": "none", "epochs": 3, "learning_rate": 0.03},
    "fine_tune": {"trainable": "last 2 layers", "epochs": 2, "learning_rate": 0.01, "schedule": "cosine"},
}
# A rate so small that the accuracy on val never moves: the first epoch stays the best, and every counter counts.
STUCK = {
    "head": {"trainable": "none", "epochs": 8, "learning_rate": 1e-7},
    "fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 0.01},
}


def Tiny(include_top=False, weights=None, input_shape=None):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))


def Broken(include_top=False, weights=None, input_shape=None):
    inputs = keras.Input(input_shape)
    return keras.Model(
        inputs, keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(math.nan))(inputs)
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(backbones, "OWN", {"Tiny": Tiny, "Broken": Broken})
    monkeypatch.setitem(backbones.SCALINGS, Tiny.__module__.rsplit(".", 1)[-1], backbones.SIGNED)
    device.prepare(0)


@pytest.fixture
def eager():
    """Runs the steps of training without tracing them first, which takes seconds and changes nothing here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def make_photos(seed=0, count=24, classes=("left", "right")):
    """Noise, brighter on one side; 14 photos of 24 are in train, 6 in val, 4 in test."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    names = [classes[index % len(classes)] for index in range(count)]
    for image, name in zip(images, names, strict=True):
        half = image[:, : SIZE // 2] if name == classes[0] else image[:, SIZE // 2 :]
        half += 100
    splits = ["train"] * 14 + ["val"] * 6 + ["test"] * (count - 20)
    table = pd.DataFrame(
        {"path": [f"{index}.png" for index in range(count)], "label": names, "split": splits}
    )
    table["status"], table["sha1"] = "kept", [f"{seed}-{index}" for index in range(count)]
    return manifest.Photos(table, images, images.shape[1], sorted(classes))


def make_settings(stages=TWO_STAGES, *, model=None, augment=None, seed=5, **train):
    train = {"batch_size": 5, "early_stopping": None, "optimizer": {"weight_decay": 1.0e-2}, **train}
    return schema.Params.model_validate(
        {
            "name": "tiny",
            "seed": seed,
            "source": {"kind": "sample"},
            "model": {
                "backbone": "Tiny",
                "weights": None,
                "image_size": SIZE,
                "head": DROPOUT_HEAD,
                **(model or {}),
            },
            "augment": {"mixup": 0.3, **(augment or {})},
            "train": {"stages": stages, **train},
        }
    )


PLAIN = {
    "augment": NO_AUGMENT | {"mixup": 0},
    "model": {"head": {"pool": DROPOUT_HEAD["pool"], "classes": {"layer": "dense"}}},
}
ONE_EPOCH = {"head": {"trainable": "all", "epochs": 1, "learning_rate": 0.01}}
STUCK_OPTIONS = {
    "monitor": "val_accuracy",
    "early_stopping": {"patience": 4},
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
            done[name] = folder, training.fit(settings, photos, folder)
        return done[name]

    return get


def without_time(history):
    return history.drop(columns="seconds")


def kept_weights(folder, key):
    with np.load(folder / key / "best.npz") as stored:
        return [stored[name] for name in stored]


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


def test_history_has_one_row_per_epoch_over_all_stages(uninterrupted):
    _, trained = uninterrupted("two", make_settings(), make_photos())
    history = trained.history
    assert list(history.columns) == training.COLUMNS
    assert history.epoch.tolist() == [1, 2, 3, 4, 5]
    assert history.stage.tolist() == ["head"] * 3 + ["fine_tune"] * 2
    assert history.learning_rate[:3].tolist() == pytest.approx([0.03] * 3)
    # a cosine over 6 steps of 3 per epoch: at its start 0.01, in its middle half of it
    assert history.learning_rate[3:].tolist() == pytest.approx([0.01, 0.005], rel=1e-4)
    assert history[["loss", "accuracy", "val_loss", "val_accuracy"]].notna().all(axis=None)
    assert (history.seconds >= 0).all()


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", 1), ("val_accuracy", 2)])
def test_the_kept_weights_are_those_of_the_best_epoch(tmp_path, monitor, best):
    settings = make_settings(monitor=monitor)
    network = models.build(settings.model, classes=2, seed=0)
    network.compile(optimizer="sgd")
    trainer = training._Trainer(settings, make_photos(), network, tmp_path / "key")
    trainer.bar = progress.Bar(1, "")
    bias = network.get_layer(models.LOGITS).bias
    # least loss in the second epoch; highest accuracy in the third, and as high in the fourth
    for epoch, (loss, accuracy) in enumerate([(0.5, 0.6), (0.2, 0.7), (0.3, 0.9), (0.4, 0.9)]):
        bias.assign([epoch, epoch])
        logs = dict.fromkeys(training.COLUMNS[2:], 0.1) | {"val_loss": loss, "val_accuracy": accuracy}
        trainer.end_epoch("head", epoch + 1, logs, [])
    history = pd.DataFrame(trainer.meta["history"], columns=training.COLUMNS)
    assert training.best_epoch(history, monitor) == best
    np.testing.assert_array_equal(kept_weights(tmp_path, "key")[-1], [best, best])


def test_the_returned_network_gives_the_best_value_of_the_history(uninterrupted):
    photos = make_photos()
    _, trained = uninterrupted("two", make_settings(), photos)
    probabilities = trained.model(photos.images[photos.rows("val")].astype("float32"), training=False).numpy()
    smooth = np.eye(2)[photos.targets("val")] * 0.9 + 0.05  # label_smoothing is 0.1
    loss = -(smooth * np.log(probabilities)).sum(axis=1).mean()
    assert loss == pytest.approx(trained.history.val_loss.min(), abs=1e-5)


def test_the_first_of_equally_accurate_epochs_counts():
    history = pd.DataFrame({"val_loss": [0.5, 0.2, 0.3], "val_accuracy": [0.5, 0.9, 0.9]})
    assert training.best_epoch(history, "val_loss") == training.best_epoch(history, "val_accuracy") == 1


def test_the_trained_network_carries_no_optimizer(uninterrupted):
    trained = uninterrupted("two", make_settings(), make_photos())[1]
    assert getattr(trained.model, "optimizer", None) is None


# The same bits


def test_the_same_seed_gives_the_same_bits(uninterrupted, tmp_path):
    first = uninterrupted("two", make_settings(), make_photos())
    assert_same(first, (tmp_path, training.fit(make_settings(), make_photos(), tmp_path)))


class Interrupting(progress.Bar):
    """Raises KeyboardInterrupt, as Ctrl-C does, at a step of the network or right after an epoch was recorded."""

    at_step, after_epoch = None, None

    def step(self, count=1, note=""):
        super().step(count, note)
        if type(self).at_step is not None and count == 1:
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
            training.fit(settings, photos, folder)
    assert not list(folder.glob("*/finished.json"))


# 14 photos in batches of 5: 3 steps in each epoch
INTERRUPTIONS = {
    "before the first epoch ended": ({"at_step": 2}, 0),
    "in the middle of the first stage": ({"at_step": 8}, 2),
    "at the last epoch of a stage": ({"after_epoch": 3}, 3),
    "in the first epoch of the next stage": ({"at_step": 11}, 3),
}


def test_an_interrupted_training_ends_as_an_uninterrupted_one(uninterrupted, tmp_path, monkeypatch):
    settings, photos = make_settings(), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, at_step=8)
    assert_same(uninterrupted("two", settings, photos), (tmp_path, training.fit(settings, photos, tmp_path)))


@pytest.mark.parametrize("when", INTERRUPTIONS)
def test_it_does_not_matter_when_it_was_interrupted(uninterrupted, tmp_path, monkeypatch, eager, when):
    settings, photos = make_settings(), make_photos()
    options, epochs = INTERRUPTIONS[when]
    interrupt(settings, photos, tmp_path, monkeypatch, **options)
    states = list(tmp_path.glob("*/state.npz"))
    assert (len(training._meta(states[0])["history"]) if states else 0) == epochs
    resumed = training.fit(settings, photos, tmp_path)
    assert_same(uninterrupted("two", settings, photos), (tmp_path, resumed))


def test_an_epoch_is_not_run_twice(tmp_path, monkeypatch, uninterrupted, eager):
    settings, photos = make_settings(), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, at_step=14)  # in the last stage
    epochs = []
    original = keras.Model.fit

    def counting(self, *args, **kwargs):
        epochs.append((kwargs["initial_epoch"], kwargs["epochs"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", counting)
    assert_same(uninterrupted("two", settings, photos), (tmp_path, training.fit(settings, photos, tmp_path)))
    assert epochs == [(1, 2)]


def test_early_stopping_ends_a_stage_and_the_next_one_runs(uninterrupted, eager):
    _, trained = uninterrupted("stuck", make_settings(STUCK, **STUCK_OPTIONS), make_photos())
    assert trained.history.stage.tolist() == ["head"] * 5 + ["fine_tune"]
    assert trained.history.val_accuracy[:5].nunique() == 1  # the premise
    assert trained.history.learning_rate[:5].tolist() == pytest.approx([1e-7, 1e-7, 1e-7, 5e-8, 5e-8])
    assert trained.history.learning_rate[5] == pytest.approx(0.01)


@pytest.mark.parametrize("after_epoch", [2, 5])
def test_an_interruption_keeps_the_count_of_epochs_without_improvement(
    uninterrupted, tmp_path, monkeypatch, after_epoch, eager
):
    settings, photos = make_settings(STUCK, **STUCK_OPTIONS), make_photos()
    interrupt(settings, photos, tmp_path, monkeypatch, after_epoch=after_epoch)
    assert_same(
        uninterrupted("stuck", settings, photos), (tmp_path, training.fit(settings, photos, tmp_path))
    )


def test_a_finished_training_is_read_back(uninterrupted, monkeypatch):
    settings, photos = make_settings(), make_photos()
    folder, trained = uninterrupted("two", settings, photos)
    forbid_fit(monkeypatch)
    again = training.fit(settings, photos, folder)
    assert again.key == trained.key
    pd.testing.assert_frame_equal(again.history, trained.history)
    pixels = photos.images[:3].astype("float32")
    np.testing.assert_array_equal(again.model(pixels, training=False), trained.model(pixels, training=False))


def test_changed_parameters_get_a_folder_of_their_own(tmp_path, eager):
    photos = make_photos()
    first = training.fit(make_settings(ONE_EPOCH), photos, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / first.key).iterdir()}
    other = training.fit(make_settings(ONE_EPOCH, seed=6), photos, tmp_path)
    assert other.key != first.key
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / first.key).iterdir()} == before


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
    assert training._key(make_settings(**change), photos, None) != training._key(
        make_settings(), photos, None
    )


def test_the_key_holds_the_photos_that_train_and_choose():
    settings, photos = make_settings(), make_photos()
    key = training._key(settings, photos, None)
    for row, changes in ((0, True), (15, True), (23, False)):  # train, val, test
        table = photos.table.copy()
        table.loc[row, "sha1"] = "another photo"
        assert (
            training._key(settings, manifest.Photos(table, photos.images, photos.size, photos.classes), None) != key
        ) is changes


# On top of a finished training


def test_resume_stages_goes_on_from_the_finished_training(tmp_path, monkeypatch, eager):
    photos = make_photos()
    first = training.fit(make_settings(TWO_STAGES), photos, tmp_path)
    parent_files = {path: path.read_bytes() for path in (tmp_path / first.key).glob("*.npz")}
    more = TWO_STAGES | {"fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 1e-12}}
    settings = make_settings(more, resume_stages=["fine_tune"])
    resumed = training.fit(settings, photos, tmp_path, finished=first.key)
    assert resumed.key != first.key
    pd.testing.assert_frame_equal(resumed.history[:5], first.history)
    assert resumed.history.stage.tolist()[5:] == ["fine_tune"] and resumed.history.epoch.tolist()[5:] == [6]
    best = training.best_epoch(first.history, "val_loss")
    # hardly a step from the kept weights: val is as it was there, and the weights are the parent's or next to them
    assert resumed.history.val_loss[5] == pytest.approx(first.history.val_loss[best], abs=0.05)
    for mine, theirs in zip(
        kept_weights(tmp_path, resumed.key)[:2], kept_weights(tmp_path, first.key)[:2], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert {path: path.read_bytes() for path in (tmp_path / first.key).glob("*.npz")} == parent_files

    forbid_fit(monkeypatch)
    assert (
        training.fit(settings, photos, tmp_path, finished=resumed.key).key == resumed.key
    )  # not a second time on top
    plain = training.fit(make_settings(TWO_STAGES), photos, tmp_path, finished=resumed.key)
    assert plain.key == first.key and len(plain.history) == 5


def test_resuming_keeps_the_weights_of_the_parent_where_nothing_is_better(tmp_path, eager):
    photos = make_photos()
    first = training.fit(make_settings(ONE_EPOCH, **PLAIN), photos, tmp_path)
    worse = {"head": {"trainable": "all", "epochs": 1, "learning_rate": 10.0}}
    resumed = training.fit(
        make_settings(worse, resume_stages=["head"], **PLAIN), photos, tmp_path, finished=first.key
    )
    assert resumed.history.val_loss[1] > resumed.history.val_loss[0]  # the premise
    for mine, theirs in zip(
        kept_weights(tmp_path, resumed.key), kept_weights(tmp_path, first.key), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def finished_by_hand(folder, settings, photos, key="first"):
    record = {"parent": None, "network": training._network_key(settings, photos)}
    cache.write_json(folder / key / "finished.json", record)
    return key


@pytest.mark.parametrize("other", ["model", "photos"])
def test_resuming_another_model_or_other_photos_is_refused(tmp_path, other):
    key = finished_by_hand(tmp_path, make_settings(), make_photos())
    model, photos = ({"scaling": "unit"}, make_photos()) if other == "model" else ({}, make_photos(seed=1))
    with pytest.raises(
        ValueError, match="of another model or of other photos.*only with the same `model` and data"
    ):
        training.fit(make_settings(model=model, resume_stages=["head"]), photos, tmp_path, finished=key)


@pytest.mark.parametrize("finished", [None, "unknown"])
def test_resuming_without_a_finished_training_is_refused(tmp_path, finished):
    settings = make_settings(resume_stages=["head"])
    with pytest.raises(
        ValueError, match="no finished training to go on from.*without `train.resume_stages` first"
    ):
        training.fit(settings, make_photos(), tmp_path, finished=finished)


def test_of_run_reads_the_key_from_the_model_card(tmp_path):
    assert training.of_run(tmp_path) is None
    cache.write_json(tmp_path / "model.json", {"training": "abc"})
    assert training.of_run(tmp_path) == "abc"


# What goes wrong


def test_a_loss_that_is_not_a_number_names_the_stage(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model={"backbone": "Broken"})
    with pytest.raises(ValueError, match="the loss of epoch 1 is nan: lower the learning rate of stage head"):
        training.fit(settings, make_photos(), tmp_path)
    assert not list(tmp_path.glob("*/finished.json"))


# What learns


def statistics(network):
    layer = network.get_layer(models.BACKBONE).get_layer("norm")
    return [np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)]


def pretrained(tmp_path, mode):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    return {"weights": str(weights), "batch_normalization": mode}


def test_a_pretrained_backbone_keeps_its_statistics_in_every_stage(tmp_path, eager):
    settings, photos = make_settings(model=pretrained(tmp_path, "inference")), make_photos()
    seen = []
    original = training._Trainer.end_epoch

    def watch(self, *args):
        seen.append(statistics(self.network))
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Trainer, "end_epoch", watch)
        trained = training.fit(settings, photos, tmp_path / "training")
    assert len(seen) == 5
    for mean, variance in seen:
        assert (mean == 0).all() and (variance == 1).all()
    fresh = models.build(settings.model, classes=2, seed=settings.seed)
    assert training.frozen_layers_agree(
        trained.model, fresh, settings
    )  # the normalisation; the convolution learned


def test_statistics_move_where_the_parameters_say_so(tmp_path, eager):
    settings = make_settings(ONE_EPOCH, model=pretrained(tmp_path, "train"))
    trained = training.fit(settings, make_photos(), tmp_path / "training")
    mean, variance = statistics(trained.model)
    assert (mean != 0).all() and (variance != 1).all()


def test_a_frozen_weight_that_moved_is_found():
    stages = {"head": {"trainable": "last 1 layers", "epochs": 1, "learning_rate": 0.1}}
    settings = make_settings(stages)
    build = {"classes": 2, "seed": settings.seed}
    trained, fresh = (models.build(settings.model, **build) for _ in range(2))
    assert training.frozen_layers_agree(trained, fresh, settings)
    norm, conv = (trained.get_layer(models.BACKBONE).get_layer(name) for name in ("norm", "conv"))
    norm.gamma.assign(norm.gamma + 1)  # it may learn
    assert training.frozen_layers_agree(trained, fresh, settings)
    conv.bias.assign(conv.bias + 1e-6)  # it may not
    assert not training.frozen_layers_agree(trained, fresh, settings)


def test_a_stage_without_epochs_is_left_out(tmp_path, eager):
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}, "rest": ONE_EPOCH["head"]}
    trained = training.fit(make_settings(stages), make_photos(), tmp_path)
    assert trained.history.stage.tolist() == ["rest"]


def test_a_training_without_any_epoch_is_refused():
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}}
    with pytest.raises(ValueError, match="at least one stage with an epoch"):
        make_settings(stages)


def test_class_weights_reach_the_loss(tmp_path, monkeypatch):
    seen = []
    original = dataset.training
    monkeypatch.setattr(
        dataset,
        "training",
        lambda *args, **options: seen.append(options["class_weights"]) or original(*args, **options),
    )
    photos = make_photos()
    for class_weights in (True, False):
        settings = make_settings(class_weights=class_weights)
        network = models.build(settings.model, classes=2, seed=0)
        training._Trainer(settings, photos, network, tmp_path)._batches()
    np.testing.assert_allclose(seen[0], dataset.class_weights(photos.targets("train"), 2))
    assert seen[1].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "kind", "decay"),
    [
        ({"kind": "sgd", "momentum": 0.8, "weight_decay": 0.0}, keras.optimizers.SGD, None),
        ({"kind": "adam"}, keras.optimizers.Adam, None),
        ({"kind": "adamw", "weight_decay": 0.01}, keras.optimizers.AdamW, 0.01),
    ],
)
def test_the_optimizer_is_the_named_one(options, kind, decay):
    optimizer = training._optimizer(schema.Optimizer(**options), schema.Stage(**ONE_EPOCH["head"]), steps=3)
    assert type(optimizer) is kind and optimizer.weight_decay == decay
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    if kind is keras.optimizers.SGD:
        assert optimizer.momentum == 0.8


# Several devices


@pytest.mark.slow
def test_several_devices_train_one_epoch(tmp_path):
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import test_training
        from pathlib import Path
        from lib import backbones, device, training
        from lib.device import tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        device.strategy = lambda: mirrored
        backbones.OWN = {"Tiny": test_training.Tiny}
        backbones.SCALINGS["test_training"] = backbones.SIGNED
        stages = {name: {**test_training.ONE_EPOCH["head"], "trainable": "all"} for name in ("one", "two")}
        settings = test_training.make_settings(stages, batch_size=6)  # Keras wants first batches that the devices divide
        trained = training.fit(settings, test_training.make_photos(), Path(sys.argv[2]))
        print(mirrored.num_replicas_in_sync, trained.history.to_json())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    replicas, history = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert replicas == "2"
    assert list(json.loads(history)["stage"].values()) == ["one", "two"]
    assert np.isfinite(list(json.loads(history)["val_loss"].values())).all()
