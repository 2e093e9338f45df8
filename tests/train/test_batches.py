"""Batches: those of a stage follow from the parameters."""

import builders
import numpy as np
import pytest

from lib.core import schema
from lib.networks import backend
from lib.train import batches, dataset

STAGE = schema.Stage(trainable="all", epochs=1, learning_rate=0.1, augment=False)


def training(photos, settings, *, stage=STAGE, embeddings=None, batch_size=5, first_epoch=0):
    return batches.training(
        photos,
        settings,
        stage=stage,
        embeddings=embeddings,
        batch_size=batch_size,
        first_epoch=first_epoch,
    )


@pytest.mark.parametrize("class_weights", [True, False])
def test_class_weights_reach_the_loss(class_weights):
    photos = builders.make_photos(classes=("left", "right"), train=9)
    settings = builders.make_settings(class_weights=class_weights, batch_size=9, label_smoothing=0.0)
    _, labels, weights = training(photos, settings, batch_size=9)[0]
    expected = dataset.class_weights(photos.targets("train"), 2) if class_weights else np.ones(2)
    assert expected[0] != expected[1] or not class_weights
    np.testing.assert_allclose(weights, expected[np.argmax(labels, axis=1)], rtol=1e-6)


def test_embeddings_take_the_place_of_photos():
    photos, settings = builders.make_photos(), builders.make_settings()
    vectors = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    rows = np.sort(training(photos, settings, embeddings=vectors, batch_size=14)[0][0][:, 0] // 3)
    assert rows.tolist() == photos.rows("train").tolist()
    ((values, labels),) = batches.validation(photos, embeddings=vectors, batch_size=6)
    assert (values == vectors[photos.rows("val")]).all()
    assert np.argmax(labels, axis=1).tolist() == photos.targets("val").tolist()


@pytest.mark.parametrize("augment", [True, False])
def test_photos_are_changed_if_the_stage_augments_them(augment):
    photos = builders.make_photos()
    settings = builders.make_settings(augment={"brightness": 0.5})
    stage = STAGE.model_copy(update={"augment": augment})
    values = training(photos, settings, stage=stage, batch_size=14)[0][0]
    unchanged = [(photos.images == value).all(axis=(1, 2, 3)).any() for value in values]
    assert all(unchanged) != augment


def test_batches_begin_with_the_epoch_that_is_asked_for():
    photos, settings = builders.make_photos(), builders.make_settings()
    # 14 photos make 3 batches of 5.
    whole, later = training(photos, settings), training(photos, settings, first_epoch=2)
    np.testing.assert_array_equal(later[0][0], whole[6][0])
    assert (later[0][0] != whole[0][0]).any()


def test_several_devices_get_equal_parts(monkeypatch):
    monkeypatch.setattr(backend, "device_count", lambda: 2)
    photos, settings = builders.make_photos(train=13, val=7), builders.make_settings()
    stream = training(photos, settings)
    assert [len(part) for number in range(3) for part in stream[number]] == [6] * 9
    # Three batches of at most six photos hold 13 of them.
    assert sum(int(stream[number][1].sum()) for number in range(3)) == 13
    validation = list(batches.validation(photos, embeddings=None, batch_size=5))
    assert [len(part) for batch in validation for part in batch] == [6] * 6
    # The mean over all rows, padding included, counts each photo once.
    assert sum(weights.sum() for *_, weights in validation) / 12 == pytest.approx(1)
