"""Batches: what the parameters say reaches the stream of a stage."""

import builders
import numpy as np
import pytest

from lib.core import schema
from lib.train import batches, dataset


@pytest.mark.parametrize("class_weights", [True, False])
def test_class_weights_reach_the_loss(class_weights):
    photos = builders.make_photos(classes=("left", "right"), train=9)
    settings = builders.make_settings(class_weights=class_weights, batch_size=9, label_smoothing=0.0)
    stage = schema.Stage(trainable="all", epochs=1, learning_rate=0.1, augment=False)
    stream = batches.training(photos, settings, stage=stage, embeddings=None, batch_size=9, first_epoch=0)
    _, labels, weights = next(iter(stream))
    expected = dataset.class_weights(photos.targets("train"), 2) if class_weights else np.ones(2)
    assert expected[0] != expected[1] or not class_weights
    np.testing.assert_allclose(weights, expected[np.argmax(labels, axis=1)], rtol=1e-6)


def test_embeddings_take_the_place_of_photos():
    photos, settings = builders.make_photos(), builders.make_settings()
    vectors = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    stage = schema.Stage(trainable="none", epochs=1, learning_rate=0.1, augment=False)
    stream = batches.training(photos, settings, stage=stage, embeddings=vectors, batch_size=14, first_epoch=0)
    rows = np.sort(np.asarray(next(iter(stream))[0])[:, 0] // 3)
    assert rows.tolist() == photos.rows("train").tolist()
    (seen, labels), *rest = batches.validation(photos, embeddings=vectors, batch_size=6)
    assert not rest and (np.asarray(seen) == vectors[photos.rows("val")]).all()
    assert np.argmax(labels, axis=1).tolist() == photos.targets("val").tolist()
