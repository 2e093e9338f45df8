"""Training: it is loaded if it is finished, resumed on request, and its key covers all that determines it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from builders import ONE_EPOCH, SHORT_STAGES, kept_weights, make_photos, make_settings

from lib.clean import photoset
from lib.core import files
from lib.networks import backbones, backend, models
from lib.networks.backend import keras
from lib.train import training

pytestmark = pytest.mark.usefixtures("tiny")


def forbid_fit(monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("it trains again")

    monkeypatch.setattr(keras.Model, "fit", fit)


# The result of a training


def test_the_returned_network_has_the_best_value_of_the_history(uninterrupted, eager):
    photos = make_photos()
    _, trained = uninterrupted("two", make_settings(), photos)
    probabilities = backend.outputs(trained.model, photos.images[photos.rows("val")])
    smooth = np.eye(2)[photos.targets("val")] * 0.9 + 0.05  # label_smoothing is 0.1
    loss = -(smooth * np.log(probabilities)).sum(axis=1).mean()
    assert loss == pytest.approx(trained.history.val_loss.min(), abs=1e-5)
    assert trained.kept_epoch == trained.history.epoch[trained.history.val_loss.idxmin()]


def test_the_trained_network_has_no_optimizer(uninterrupted, eager):
    trained = uninterrupted("two", make_settings(), make_photos())[1]
    assert getattr(trained.model, "optimizer", None) is None


# Folders and keys


def test_a_finished_training_is_loaded(uninterrupted, monkeypatch, eager):
    settings, photos = make_settings(), make_photos()
    folder, trained = uninterrupted("two", settings, photos)
    forbid_fit(monkeypatch)
    again = training.fit(settings, photos, folder=folder)
    assert again.key == trained.key
    pd.testing.assert_frame_equal(again.history, trained.history)
    pixels = photos.images[:3].astype("float32")
    np.testing.assert_array_equal(again.model(pixels, training=False), trained.model(pixels, training=False))


def test_changed_parameters_have_their_own_folder(uninterrupted, eager):
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
def test_the_key_covers_all_parameters_that_determine_the_result(change):
    photos = make_photos()
    assert training.key(make_settings(**change), photos) != training.key(make_settings(), photos)


def test_measured_scaling_is_that_of_the_training_photos_and_belongs_to_the_key():
    photos = make_photos()
    brighter = dataclasses.replace(photos, full=photos.full // 2 + 100)
    settings, plain = make_settings(model={"scaling": "measured"}), make_settings()
    assert training.key(settings, brighter) != training.key(settings, photos)
    assert training.key(plain, brighter) == training.key(plain, photos)
    layer = training.network(settings, photos).get_layer(backbones.SCALING)
    pixels = photos.full[photos.rows("train")].astype("float32")
    scaled = np.asarray(layer(pixels), float)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_the_key_covers_the_photos_of_train_and_val():
    settings, photos = make_settings(), make_photos()
    key = training.key(settings, photos)
    for row, changes in ((0, True), (15, True), (23, False)):  # train, val, test
        table = photos.table.copy()
        table.loc[row, "sha1"] = "another photo"
        assert (
            training.key(settings, photoset.Photos(table, photos.images, photos.size, photos.classes)) != key
        ) is changes


# Resuming a finished training


def test_resume_stages_continues_the_finished_training(tmp_path, monkeypatch, eager):
    photos = make_photos()
    first = training.fit(make_settings(SHORT_STAGES), photos, folder=tmp_path)
    parent_files = {path: path.read_bytes() for path in (tmp_path / first.key).glob("*.npz")}
    more = SHORT_STAGES | {"fine_tune": {"trainable": "all", "epochs": 1, "learning_rate": 1e-12}}
    settings = make_settings(more, resume_stages=["fine_tune"])
    resumed = training.fit(settings, photos, folder=tmp_path, finished=first.key)
    assert resumed.key != first.key
    pd.testing.assert_frame_equal(resumed.history[:2], first.history)
    assert resumed.history.stage.tolist()[2:] == ["fine_tune"] and resumed.history.epoch.tolist()[2:] == [3]
    # A tiny step from the kept weights: val loss and weights are nearly those of the parent.
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


@pytest.mark.parametrize("other", ["model", "photos"])
def test_resuming_another_model_or_other_photos_is_refused(uninterrupted, eager, other):
    folder, trained = uninterrupted("two", make_settings(), make_photos())
    model, photos = ({"scaling": "unit"}, make_photos()) if other == "model" else ({}, make_photos(seed=1))
    with pytest.raises(
        ValueError, match="needs the model and the photos of the finished training.*another `model` or other"
    ):
        training.fit(
            make_settings(model=model, resume_stages=["head"]), photos, folder=folder, finished=trained.key
        )


@pytest.mark.parametrize("finished", [None, "unknown"])
def test_resuming_without_a_finished_training_is_refused(tmp_path, finished):
    settings = make_settings(resume_stages=["head"])
    with pytest.raises(
        ValueError,
        match="`train.resume_stages` needs a finished training.*without `train.resume_stages` first",
    ):
        training.fit(settings, make_photos(), folder=tmp_path, finished=finished)


def test_of_run_reads_the_key_from_the_model_card(tmp_path):
    assert training.of_run(tmp_path) is None
    files.write_json(tmp_path / "model.json", {"training": "abc"})
    assert training.of_run(tmp_path) == "abc"


# Errors


@pytest.mark.parametrize(
    ("counts", "missing"),
    [({"val": 0}, "no photos in val"), ({"train": 0, "val": 0}, "no photos in train and val")],
)
def test_photos_in_train_and_val_are_required(tmp_path, counts, missing):
    with pytest.raises(ValueError, match=f"photos in train and val. Received: {missing}.*02_clean"):
        training.fit(make_settings(), make_photos(**counts), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_changed_frozen_weight_is_detected():
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
    norm.gamma.assign(norm.gamma + 1)  # trainable
    assert training.frozen_layers_agree(trained, fresh, settings=settings)
    conv.bias.assign(conv.bias + 1e-6)  # frozen
    assert not training.frozen_layers_agree(trained, fresh, settings=settings)


def test_a_training_without_any_epoch_is_refused():
    stages = {"head": {"trainable": "none", "epochs": 0, "learning_rate": 0.1}}
    with pytest.raises(ValueError, match="at least one stage with an epoch"):
        make_settings(stages)
