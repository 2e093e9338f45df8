"""Batches: each photo once per epoch, and any epoch the same from wherever the stream starts."""

import math

import numpy as np
import pytest

from lib.core.schema import Augment
from lib.networks.device import tf
from lib.train import augmentation, dataset

SIZE = 8
COUNT = 13
BATCH = 5
STEPS = math.ceil(COUNT / BATCH)
NOTHING = Augment(flip="none", rotation=0, zoom=0, translation=0, contrast=0, brightness=0)
ALL_ROWS = np.arange(3, 3 + COUNT)  # the rows do not start at 0
TARGETS = np.arange(COUNT) % 3


@pytest.fixture
def images():
    """Photos whose every pixel is their row."""
    return np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((SIZE, SIZE, 3), np.uint8)


def noise():
    return np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)


def batches(
    images,
    *,
    epochs=1,
    settings=NOTHING,
    weights=(1, 1, 1),
    seed=7,
    first_epoch=0,
    rows=ALL_ROWS,
    targets=TARGETS,
    batch_size=BATCH,
):
    """Returns the batches of some epochs as lists of arrays."""
    stream = dataset.training(
        images,
        rows,
        targets=targets,
        size=images.shape[1],
        class_weights=weights,
        settings=settings,
        batch_size=batch_size,
        seed=seed,
        first_epoch=first_epoch,
    )
    return [
        [part.numpy() for part in batch] for batch in stream.take(epochs * math.ceil(len(rows) / batch_size))
    ]


def rows_of(batch):
    return batch[0][:, 0, 0, 0].astype(int).tolist()


def test_every_photo_comes_once_per_epoch_with_its_label(images):
    found = batches(images, epochs=3)
    assert [len(batch[0]) for batch in found] == [5, 5, 3] * 3
    for epoch in range(3):
        rows = [row for batch in found[epoch * STEPS : (epoch + 1) * STEPS] for row in rows_of(batch)]
        assert sorted(rows) == ALL_ROWS.tolist()
        assert rows != sorted(rows)
    for photos, labels, weights in found:
        assert photos.dtype == labels.dtype == weights.dtype == np.float32
        assert (
            photos.shape[1:] == (SIZE, SIZE, 3)
            and labels.shape == (len(photos), 3)
            and weights.shape == (len(photos),)
        )
        assert labels.argmax(axis=1).tolist() == [(row - 3) % 3 for row in photos[:, 0, 0, 0]]
        assert (labels.sum(axis=1) == 1).all()


def test_epochs_and_seeds_differ(images):
    found = [
        [row for batch in batches(images, first_epoch=epoch, seed=seed) for row in rows_of(batch)]
        for seed in (7, 8)
        for epoch in (0, 1, 2)
    ]
    assert len({tuple(order) for order in found}) == 6


@pytest.mark.parametrize("settings", [NOTHING, Augment(mixup=0.4)], ids=["plain", "augmented"])
def test_a_stream_from_a_later_epoch_gives_what_the_stream_from_the_first_gives_there(settings):
    whole = batches(noise(), epochs=4, settings=settings)
    for epoch in (1, 3):
        part = batches(noise(), settings=settings, first_epoch=epoch)
        for one, other in zip(part, whole[epoch * STEPS :], strict=False):
            for mine, theirs in zip(one, other, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_the_same_photo_is_changed_anew_in_each_epoch():
    found = batches(noise(), epochs=2, settings=Augment(), rows=[4], targets=[0], batch_size=1)
    assert np.abs(found[0][0] - found[1][0]).max() > 10


def test_a_batch_is_augmented_as_augmentation_says_eagerly():
    """An operation may do other things inside tf.data than outside it."""
    settings = Augment(flip="both", rotation=90)
    images = noise()
    (photos, labels, _), *_ = batches(images, settings=settings)
    seed, epoch, index = 7, 0, 0
    order = tf.random.experimental.stateless_shuffle(
        tf.range(COUNT), tf.constant([seed, epoch], tf.int64)
    ).numpy()[:BATCH]
    seeds = tf.random.split(
        tf.random.fold_in(tf.constant([seed, epoch], tf.int64), tf.constant(index, tf.int64)), 2
    )
    expected = augmentation.images(tf.constant(images[ALL_ROWS[order]]), settings, seed=seeds[0])
    np.testing.assert_allclose(photos, expected, atol=1e-3)
    np.testing.assert_array_equal(labels.argmax(axis=1), TARGETS[order])


def test_mixup_is_on_only_where_it_is_asked_for():
    plain, mixed = (
        batches(noise(), settings=settings)[0][1]
        for settings in (NOTHING, NOTHING.model_copy(update={"mixup": 0.4}))
    )
    assert set(np.unique(plain)) == {0, 1}
    assert ((mixed > 0.01) & (mixed < 0.99)).any()
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)


def test_weights_are_those_of_the_classes(images):
    for _, labels, weights in batches(images, weights=(0.5, 1, 2)):
        np.testing.assert_array_equal(weights, np.array([0.5, 1, 2])[labels.argmax(axis=1)])


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "photos.npy", noise())
    mapped = np.load(tmp_path / "photos.npy", mmap_mode="r")
    for one, other in zip(batches(mapped), batches(noise()), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    (batch,) = dataset.evaluation(mapped, [2, 0], batch_size=2)
    np.testing.assert_array_equal(batch, noise()[[2, 0]])


def test_evaluation_keeps_the_order_and_the_pixels():
    rows, targets = [9, 2, 7, 7, 0], [2, 0, 1, 1, 0]
    found = list(dataset.evaluation(noise(), rows, batch_size=2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert all(batch.dtype == tf.float32 for batch in found)
    np.testing.assert_array_equal(np.concatenate(found), noise()[rows])
    pairs = list(dataset.evaluation(noise(), rows, targets=targets, classes=4, batch_size=2))
    np.testing.assert_array_equal(np.concatenate([photos for photos, _ in pairs]), noise()[rows])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in pairs]), np.eye(4)[targets])


def test_filled_batches_are_of_one_size_and_keep_their_mean(images):
    stream = dataset.training(
        images,
        ALL_ROWS,
        targets=TARGETS,
        size=SIZE,
        class_weights=(0.5, 1, 2),
        settings=NOTHING,
        batch_size=BATCH,
        seed=7,
    )
    plain = [[part.numpy() for part in batch] for batch in stream.take(STEPS)]
    filled = list(dataset.filled(stream, 6).take(STEPS))
    for (photos, labels, weights), batch in zip(plain, filled, strict=True):
        count = len(photos)
        assert [part.shape[0] for part in batch] == [6, 6, 6]
        np.testing.assert_array_equal(batch[0][:count], photos)
        np.testing.assert_array_equal(batch[1][:count], labels)
        assert set(rows_of([batch[0].numpy()])) == set(rows_of([photos]))  # no photo from elsewhere
        assert not batch[1][count:].numpy().any() and not batch[2][count:].numpy().any()
        values = np.arange(6)
        assert (batch[2] * values).numpy().mean() == pytest.approx((weights * values[:count]).mean())
    assert dataset.filled(stream, 6).element_spec[0].shape == (6, SIZE, SIZE, 3)


def test_filling_can_give_every_photo_of_a_pass_the_same_weight():
    pairs = dataset.evaluation(noise(), [9, 2, 7], targets=[2, 0, 1], classes=3, batch_size=2)
    weights = [weights.numpy().tolist() for _, _, weights in dataset.filled(pairs, 4, weight=8 / 3)]
    np.testing.assert_allclose(weights, [[8 / 3, 8 / 3, 0, 0], [8 / 3, 0, 0, 0]], rtol=1e-6)


def test_class_weights_solved_by_hand():
    # 4 photos of 3 classes: 4 / (3 * 2), 4 / (3 * 1), 4 / (3 * 1)
    weights = dataset.class_weights([0, 0, 1, 2], 3)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3, 4 / 3], rtol=1e-6)
    assert weights[[0, 0, 1, 2]].mean() == pytest.approx(1)
    assert dataset.class_weights([0, 1, 0, 1], 2).tolist() == [1, 1]


def test_a_class_without_photos_has_a_finite_weight():
    assert np.isfinite(dataset.class_weights([0, 0, 2], 3)).all()
