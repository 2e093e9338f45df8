"""Views: the examples of the first epochs, embedded once, in another order in each epoch."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from builders import DROPOUT_HEAD, kept_weights, make_photos, make_settings, pretrained

from lib.clean import embeddings
from lib.core import params, progress
from lib.networks import backbones, backend
from lib.networks.backend import keras
from lib.train import dataset, training, views

pytestmark = pytest.mark.usefixtures("tiny")

AUGMENT = {"flip": "horizontal", "erasing": {"probability": 0.5}, "mixup": 0.3, "contrast": 0.3}
STAGES = {"head": {"trainable": "none", "epochs": 4, "learning_rate": 0.03}}
TWO_STAGES = STAGES | {"fine_tune": {"trainable": "last 2 layers", "epochs": 1, "learning_rate": 0.01}}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return a function of changed parameters of a training on views, with a network of constant weights."""
    fixed = keras.initializers.GlorotUniform(seed=1)

    def Fixed(weights, input_shape):
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv", kernel_initializer=fixed)(inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))

    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Fixed, backbones.SIGNED))
    model = pretrained(tmp_path, "inference")
    return lambda stages=STAGES, *, augment=AUGMENT, seed=5, head=DROPOUT_HEAD, **train: make_settings(
        stages, augment=augment, seed=seed, model={**model, "head": head}, **{"views": 2, **train}
    )


@pytest.fixture
def photos(tmp_path):
    return dataclasses.replace(make_photos(train=13, val=7), folder=tmp_path / "cache")


@pytest.fixture
def embedded(monkeypatch):
    """The numbers of the views that are embedded, `None` for val."""
    numbers, write = [], views._write

    def counting(*arguments, view, **options):
        numbers.append(view)
        write(*arguments, view=view, **options)

    monkeypatch.setattr(views, "_write", counting)
    return numbers


def assert_same(one, other):
    columns = [column for column in one.history if column != "seconds"]
    pd.testing.assert_frame_equal(one.history[columns], other.history[columns], check_exact=True)


@pytest.mark.backend
@pytest.mark.parametrize("mixup", [0, 0.3])
def test_the_views_are_the_examples_of_the_first_epochs(settings, photos, eager, mixup):
    given = settings(augment=AUGMENT | {"mixup": mixup})
    rows, targets = photos.rows("train"), photos.targets("train")
    embedded = views.embed(photos, given, epochs=range(4))
    options = {"targets": targets, "class_weights": np.array([1.0, 2.0]), "batch_size": 5}
    made = views.training(embedded.training, rows, settings=given, first_epoch=0, **options)
    examples = dataset.training(
        photos.full, rows, size=photos.size, settings=given.augment, seed=given.seed, **options
    )
    network = embeddings.network(given.model)
    with made, examples:
        by_epoch = [[made[epoch * 3 + batch] for batch in range(3)] for epoch in range(4)]
        for number in range(6):
            vectors, labels, weights = by_epoch[number // 3][number % 3]
            seen, own_labels, own_weights = examples[number]
            np.testing.assert_allclose(vectors, backend.outputs(network, seen), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(labels, own_labels)
            np.testing.assert_array_equal(weights, own_weights)
    joined = [[np.concatenate(parts) for parts in zip(*batches, strict=True)] for batches in by_epoch]
    for epoch in (2, 3):
        order = dataset.order(given.seed, rows, epoch)
        earlier = np.argsort(dataset.order(given.seed, rows, epoch - 2))
        for now, before in zip(joined[epoch], joined[epoch - 2], strict=True):
            np.testing.assert_array_equal(now, before[earlier[order]])
        assert (order != dataset.order(given.seed, rows, epoch - 2)).any()
    first, second = (joined[epoch][0][np.argsort(dataset.order(given.seed, rows, epoch))] for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_the_batches_begin_at_any_epoch(settings, photos, eager):
    given, rows = settings(), photos.rows("train")
    embedded = views.embed(photos, given, epochs=range(4))
    options = {"targets": photos.targets("train"), "class_weights": np.ones(2), "batch_size": 5}
    whole, late = (
        views.training(embedded.training, rows, settings=given, first_epoch=epoch, **options)
        for epoch in (0, 3)
    )
    with whole, late:
        for one, other in zip(whole[10], late[1], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.backend
@pytest.mark.parametrize("head", ["average_pooling", "max_pooling", "flatten"])
def test_as_many_views_as_epochs_have_the_result_of_training_on_photos(
    settings, photos, tmp_path, eager, head
):
    given = settings(TWO_STAGES, views=4, head={**DROPOUT_HEAD, "pool": {"layer": head}})
    fast = training.fit(given, photos, folder=tmp_path / "fast")
    slow = training.fit(given, dataclasses.replace(photos, folder=None), folder=tmp_path / "slow")
    columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    np.testing.assert_allclose(fast.history[columns], slow.history[columns], rtol=1e-3)
    assert training.frozen_layers_agree(fast, training.network(given, photos), settings=given)


def test_each_view_is_embedded_once(settings, photos, tmp_path, embedded, eager):
    training.fit(settings(TWO_STAGES), photos, folder=tmp_path / "training")
    assert embedded == [0, 1, None]
    # Neither the training of the head nor the number of views is part of the key.
    more = settings({"head": STAGES["head"] | {"learning_rate": 0.1}}, views=3)
    training.fit(more, photos, folder=tmp_path / "more")
    assert embedded == [0, 1, None, 2]
    for change in ({"seed": 6}, {"augment": {"flip": "both"}}):
        embedded.clear()
        training.fit(settings(**change), photos, folder=tmp_path / "other")
        assert embedded == [0, 1], change


def test_only_views_that_are_used_are_embedded(settings, photos, embedded, eager):
    assert list(views.embed(photos, settings(views=100), epochs=range(101, 103)).training) == [1, 2]
    assert embedded == [1, 2, None]


@pytest.mark.backend
@pytest.mark.parametrize("moment", ["embed view 1", "training"])
def test_an_interruption_costs_a_part_of_a_view_and_changes_nothing(
    settings, photos, tmp_path, monkeypatch, embedded, eager, moment
):
    given = settings()
    whole = training.fit(given, photos, folder=tmp_path / "whole")
    other = dataclasses.replace(photos, folder=tmp_path / "another cache")

    class Interrupting(progress.Bar):
        def step(self, count=1, *, note=""):
            super().step(count, note=note)
            # In the second epoch, or in the view.
            if self.title == moment and (moment != "training" or self.done > 13):
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress, "Bar", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            training.fit(given, other, folder=tmp_path / "part")
    embedded.clear()
    resumed = training.fit(given, other, folder=tmp_path / "part")
    assert embedded == ([1, None] if moment == "embed view 1" else [])
    assert_same(whole, resumed)
    for mine, theirs in zip(
        kept_weights(tmp_path / "whole", whole.key), kept_weights(tmp_path / "part", resumed.key), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_damaged_view_is_embedded_again(settings, photos, embedded, eager, capsys):
    first = views.embed(photos, settings(), epochs=range(2))
    expected = {number: np.array(view) for number, view in first.training.items()}
    embedded.clear()
    damaged = next(
        path
        for path in photos.folder.glob("view-*/*.npy")
        if np.array_equal(np.load(path), first.training[0])
    )
    damaged.write_bytes(damaged.read_bytes()[:-4])
    again = views.embed(photos, settings(), epochs=range(2))
    assert embedded == [0] and "is damaged" in capsys.readouterr().out
    for number, view in again.training.items():
        np.testing.assert_array_equal(view, expected[number])


@pytest.mark.parametrize(
    "change",
    [
        "train.stages.head.trainable=all",
        "model.weights=null",
        "model.scaling=measured",
        "model.head.norm.layer=batch_normalization model.head.pool=null model.head.classes=null "
        "model.head.last.layer=dense",
    ],
)
def test_views_without_a_frozen_pretrained_backbone_are_refused(monkeypatch, change):
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)
    assert params.load("demo", params.parse_assignments("train.views=3")).train.views == 3
    with pytest.raises(
        ValueError, match="`train.views` needs a first stage with `trainable: none`, pretrained"
    ):
        params.load("demo", params.parse_assignments(f"train.views=3 {change}"))
