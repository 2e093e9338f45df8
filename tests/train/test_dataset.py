"""Batches: each photo once per epoch, and any epoch the same from wherever the training starts."""

import math
import threading
import time

import cv2
import numpy as np
import pytest

from lib.core.schema import Augment
from lib.networks.backend import keras
from lib.train import augmentation, dataset
from lib.train.draws import Draws

SIZE = 8
COUNT = 13
BATCH = 5
STEPS = math.ceil(COUNT / BATCH)
NOTHING = Augment(flip="none", rotation=0, zoom=0, translation=0, contrast=0, brightness=0)
EVERYTHING = Augment(flip="both", crop=0.5, hue=0.1, saturation=0.2, erasing={}, mixup=0.4)
# The rows do not start at 0.
ALL_ROWS = np.arange(3, 3 + COUNT)
TARGETS = np.arange(COUNT) % 3


@pytest.fixture
def images():
    """Photos whose every pixel is their row."""
    return np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((SIZE, SIZE, 3), np.uint8)


def noise():
    return np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)


def training(
    images,
    *,
    settings=NOTHING,
    weights=(1, 1, 1),
    seed=7,
    rows=ALL_ROWS,
    targets=TARGETS,
    batch_size=BATCH,
    **options,
):
    return dataset.training(
        images,
        rows,
        targets=targets,
        size=images.shape[1],
        class_weights=weights,
        settings=settings,
        batch_size=batch_size,
        seed=seed,
        **options,
    )


def batches(images, *, epochs=1, rows=ALL_ROWS, batch_size=BATCH, **options):
    """Return the batches of some epochs."""
    with training(images, rows=rows, batch_size=batch_size, **options) as made:
        return [made[number] for number in range(epochs * math.ceil(len(rows) / batch_size))]


def joined(images, **options):
    """Return the photos, labels and weights of some epochs, each as one array."""
    return [np.concatenate(parts) for parts in zip(*batches(images, **options), strict=True)]


def rows_of(batch):
    return batch[0][:, 0, 0, 0].astype(int).tolist()


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


# Training


def test_every_photo_comes_once_per_epoch_with_its_label(images):
    found = batches(images, epochs=3)
    assert [len(batch[0]) for batch in found] == [5, 5, 3] * 3
    for epoch in range(3):
        rows = [row for batch in found[epoch * STEPS : (epoch + 1) * STEPS] for row in rows_of(batch)]
        assert sorted(rows) == ALL_ROWS.tolist()
        assert rows != sorted(rows)
    for photos, labels, weights in found:
        assert photos.dtype == labels.dtype == weights.dtype == np.float32
        assert photos.shape[1:] == (SIZE, SIZE, 3)
        assert labels.shape == (len(photos), 3) and weights.shape == (len(photos),)
        assert labels.argmax(axis=1).tolist() == [(row - 3) % 3 for row in photos[:, 0, 0, 0]]
        assert (labels.sum(axis=1) == 1).all()


def test_epochs_and_seeds_have_orders_of_their_own(images):
    found = [
        [row for batch in batches(images, first_epoch=epoch, seed=seed) for row in rows_of(batch)]
        for seed in (7, 8)
        for epoch in (0, 1, 2)
    ]
    assert len({tuple(order) for order in found}) == 6


def test_a_photo_comes_at_every_place_of_an_epoch(images):
    places = [
        [row for batch in batches(images, first_epoch=epoch) for row in rows_of(batch)].index(3)
        for epoch in range(100)
    ]
    assert set(places) == set(range(COUNT))


@pytest.mark.parametrize("settings", [None, EVERYTHING], ids=["plain", "augmented"])
def test_batches_from_a_later_epoch_are_those_that_began_at_the_first(settings):
    whole = batches(noise(), epochs=4, settings=settings)
    for epoch in (1, 3):
        part = batches(noise(), settings=settings, first_epoch=epoch)
        for one, other in zip(part, whole[epoch * STEPS : (epoch + 1) * STEPS], strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize(
    "settings", [EVERYTHING, EVERYTHING.model_copy(update={"mixup": 0})], ids=["mixup", ""]
)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 12, 13, 40])
def test_the_batch_size_does_not_change_the_photos_of_an_epoch(batch_size, settings):
    first = joined(noise(), settings=settings, epochs=2)
    assert_equal(joined(noise(), settings=settings, epochs=2, batch_size=batch_size), first)


def test_the_number_of_threads_does_not_change_the_batches():
    first = joined(noise(), settings=EVERYTHING, epochs=3, threads=1)
    assert_equal(joined(noise(), settings=EVERYTHING, epochs=3, threads=7), first)


def test_the_changes_of_a_photo_do_not_depend_on_the_other_photos():
    options = {"settings": Augment(), "weights": np.ones(COUNT)}
    photos, labels, _ = joined(noise(), targets=np.arange(COUNT), **options)
    fewer = joined(noise(), rows=ALL_ROWS[::3], targets=np.arange(COUNT)[::3], **options)
    for photo, label in zip(*fewer[:2], strict=True):
        np.testing.assert_array_equal(photo, photos[(labels == label).all(axis=1)][0])


def test_the_same_photo_is_changed_anew_in_each_epoch():
    options = {"rows": [4], "targets": [0], "batch_size": 1, "settings": Augment()}
    found = batches(noise(), epochs=2, **options)
    assert np.abs(found[0][0] - found[1][0]).max() > 10
    other = batches(noise(), seed=8, **options)
    assert np.abs(found[0][0] - other[0][0]).max() > 10


def test_photos_are_changed_as_augmentation_changes_them():
    settings = Augment(flip="both", rotation=90)
    order = np.argsort(Draws(7, 2, ALL_ROWS).uniform("order"))
    rows = ALL_ROWS[order]
    expected = augmentation.images(noise(), rows, settings=settings, draws=Draws(7, 2, rows))
    photos, labels, _ = joined(noise(), settings=settings, first_epoch=2)
    np.testing.assert_array_equal(photos, expected)
    np.testing.assert_array_equal(labels.argmax(axis=1), TARGETS[order])


def test_mixup_is_on_only_if_it_is_asked_for():
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
    assert_equal(joined(mapped, settings=EVERYTHING), joined(noise(), settings=EVERYTHING))
    with dataset.evaluation(mapped, [2, 0], batch_size=2) as made:
        np.testing.assert_array_equal(made[0], noise()[[2, 0]])


def test_embeddings_are_returned_as_they_are():
    vectors = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    found = batches(vectors, settings=None)
    order = np.concatenate(
        [np.flatnonzero((vectors == row).all(axis=1)) for batch in found for row in batch[0]]
    )
    assert sorted(order) == ALL_ROWS.tolist()


# Threads


def counting(numbers, *, delay=0.0):
    """Return a function that makes batches, notes their numbers and can take its time."""

    def make(number):
        numbers.append(number)
        time.sleep(delay)
        return np.full((2, 3), number, np.float32)

    return make


@pytest.mark.parametrize("used", [1, 3])
def test_a_bounded_number_of_batches_is_prepared(used):
    made = []
    with dataset.Batches(counting(made), threads=3) as found:
        for number in range(used):
            assert (found[number] == number).all()
        deadline = time.monotonic() + 5
        while len(made) < used + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(made) == list(range(used + 3))


def test_batches_can_be_read_in_any_order_without_keeping_more():
    made = []
    with dataset.Batches(counting(made), threads=2) as found:
        for number in (0, 50, 3, 3, 4, 20):
            assert (found[number] == number).all()
            assert len(found._prepared) <= 2


def test_a_loop_reads_a_finite_number_of_batches():
    with dataset.Batches(counting([]), count=5, threads=2) as found:
        for _ in range(2):
            assert [batch[0, 0] for batch in found] == [0, 1, 2, 3, 4]
        with pytest.raises(IndexError, match="there are 5 batches. Received: number 5"):
            found[5]


def test_the_threads_end_with_the_block_and_opencv_has_its_own_again():
    before = cv2.getNumThreads()
    with dataset.Batches(counting([], delay=0.05), threads=3) as found:
        found[0]
        assert 1 <= len(threads()) <= 3 and cv2.getNumThreads() == 1
    assert not threads() and cv2.getNumThreads() == before
    with pytest.raises(RuntimeError):
        found[9]


def test_batches_that_nobody_uses_leave_no_thread():
    found = dataset.Batches(counting([]), threads=2)
    found[0]
    del found
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def broken(number):
    if number == 3:
        raise OSError("row 17 of photos.npy cannot be read")
    return np.full((2, 4), number, np.float32), np.full((2, 1), number, np.float32)


@pytest.fixture
def model():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.001), "mse")
    return model


def test_an_error_in_a_thread_ends_a_loop_with_its_message():
    with pytest.raises(OSError, match="row 17"), dataset.Batches(broken) as found:
        for _ in found:
            pass
    assert not threads()


def test_an_error_in_a_thread_ends_fit_with_its_message(model):
    with pytest.raises(OSError, match="row 17"), dataset.Batches(broken) as found:
        model.fit(found, steps_per_epoch=10, shuffle=False, verbose=0)
    assert not threads()


def test_another_error_is_not_replaced():
    with pytest.raises(ZeroDivisionError), dataset.Batches(broken) as found:
        with pytest.raises(OSError, match="row 17"):
            found[3]
        1 / 0  # noqa: B018


class Stop(keras.callbacks.Callback):
    """Ends a training in its second batch, or fails there."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            if self.error:
                raise self.error
            self.model.stop_training = True


def pairs(number):
    return np.full((2, 4), number, np.float32), np.zeros((2, 1), np.float32)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("in a callback")], ids=str)
def test_a_fit_that_ends_early_leaves_no_thread(error, model):
    callback, steps = Stop(error), {"steps_per_epoch": 5, "epochs": 3, "shuffle": False, "verbose": 0}
    with dataset.Batches(pairs, threads=2) as found:
        if error is None:
            model.fit(found, callbacks=[callback], **steps)
        else:
            with pytest.raises(type(error)):
                model.fit(found, callbacks=[callback], **steps)
    assert not threads()


def test_fit_reads_epochs_without_a_gap_and_validation_anew_in_each(model):
    seen, validated = [], []
    model.train_step = lambda data: seen.append(int(data[0][0, 0])) or {"loss": 0.0}
    model.test_step = lambda data: validated.append(int(data[0][0, 0])) or {"loss": 0.0}
    model.compile(keras.optimizers.SGD(), "mse", run_eagerly=True)
    with dataset.Batches(pairs, threads=2) as found, dataset.Batches(pairs, count=3) as validation:
        model.fit(found, steps_per_epoch=4, epochs=2, validation_data=validation, shuffle=False, verbose=0)
    assert seen == list(range(8)) and validated == [0, 1, 2] * 2


# Evaluation and padding


def test_evaluation_keeps_the_order_and_the_pixels():
    rows, targets = [9, 2, 7, 7, 0], [2, 0, 1, 1, 0]
    found = list(dataset.evaluation(noise(), rows, batch_size=2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert all(batch.dtype == np.float32 for batch in found)
    np.testing.assert_array_equal(np.concatenate(found), noise()[rows])
    pairs = list(dataset.evaluation(noise(), rows, targets=targets, classes=4, batch_size=2))
    np.testing.assert_array_equal(np.concatenate([photos for photos, _ in pairs]), noise()[rows])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in pairs]), np.eye(4)[targets])


def test_evaluation_without_photos_has_no_batch():
    assert list(dataset.evaluation(noise(), [], batch_size=2)) == []


def test_filled_batches_are_of_one_size_and_keep_their_mean(images):
    stream = training(images, weights=(0.5, 1, 2))
    filled = dataset.filled(stream, 6)
    for number in range(STEPS):
        (photos, labels, weights), batch = stream[number], filled[number]
        count = len(photos)
        assert [part.shape[0] for part in batch] == [6, 6, 6]
        assert all(part.dtype == np.float32 for part in batch)
        np.testing.assert_array_equal(batch[0][:count], photos)
        np.testing.assert_array_equal(batch[1][:count], labels)
        # No photo from elsewhere.
        assert set(rows_of(batch)) == set(rows_of([photos]))
        assert not batch[1][count:].any() and not batch[2][count:].any()
        values = np.arange(6)
        assert (batch[2] * values).mean() == pytest.approx((weights * values[:count]).mean())


def test_filling_can_give_every_photo_of_a_pass_the_same_weight():
    pairs = dataset.evaluation(noise(), [9, 2, 7], targets=[2, 0, 1], classes=3, batch_size=2)
    weights = [weights.tolist() for _, _, weights in dataset.filled(pairs, 4, weight=8 / 3)]
    np.testing.assert_allclose(weights, [[8 / 3, 8 / 3, 0, 0], [8 / 3, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("settings", [NOTHING, EVERYTHING])
def test_each_process_makes_its_part_of_the_filled_batches(settings, monkeypatch):
    made, original = [], augmentation.images

    def counting(photos, rows, **options):
        made.append(len(rows))
        return original(photos, rows, **options)

    monkeypatch.setattr(augmentation, "images", counting)
    stream = training(noise(), settings=settings, weights=(0.5, 1, 2))
    for number in range(2 * STEPS):
        whole = dataset.filled(stream, 6).make(number)
        made.clear()
        parts = [dataset.filled(stream, 6, part=(process, 3)).make(number) for process in range(3)]
        assert_equal([np.concatenate(part) for part in zip(*parts, strict=True)], whole)
        # Two photos, and with MixUp the others of their pairs.
        assert max(made) <= (4 if settings.mixup else 2)


def test_each_process_reads_its_part_of_a_pass():
    pairs = dataset.evaluation(noise(), [9, 2, 7], targets=[2, 0, 1], classes=3, batch_size=2)
    whole = dataset.filled(pairs, 4, weight=1)
    for process in range(2):
        for batch, values in zip(dataset.filled(pairs, 4, weight=1, part=(process, 2)), whole, strict=True):
            for part, all_rows in zip(batch, values, strict=True):
                np.testing.assert_array_equal(part, all_rows[2 * process : 2 * process + 2])


def test_class_weights_solved_by_hand():
    # 4 photos of 3 classes: 4 / (3 * 2), 4 / (3 * 1), 4 / (3 * 1)
    weights = dataset.class_weights([0, 0, 1, 2], 3)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3, 4 / 3], rtol=1e-6)
    assert weights[[0, 0, 1, 2]].mean() == pytest.approx(1)
    assert dataset.class_weights([0, 1, 0, 1], 2).tolist() == [1, 1]


def test_a_class_without_photos_has_a_finite_weight():
    assert np.isfinite(dataset.class_weights([0, 0, 2], 3)).all()


# Batches of an epoch


@pytest.mark.parametrize(
    ("count", "batch_size", "parts", "sizes"),
    [
        (14, 8, 1, [8, 6]),
        (16, 8, 1, [8, 8]),
        (17, 8, 1, [8, 8, 1]),
        (1, 8, 1, [1]),
        (3, 1, 1, [1, 1, 1]),
        (20, 4, 2, [4, 4, 4, 4, 2, 2]),
        (13, 4, 2, [4, 4, 2, 3]),
        (10, 4, 2, [4, 4, 1, 1]),
        (9, 4, 2, [4, 4, 1, 1]),
        (1, 4, 2, [1, 1]),
    ],
)
def test_the_photos_of_an_epoch_are_divided_into_steps_of_equal_parts(count, batch_size, parts, sizes):
    bounds = dataset.bounds(count, batch_size, parts=parts)
    assert [end - start for start, end, _ in bounds] == sizes
    assert {photo for start, end, _ in bounds for photo in range(start, end)} == set(range(count))
    for first in range(0, len(bounds), parts):
        step = bounds[first : first + parts]
        assert sum(factor for *_, factor in step) == pytest.approx(parts)
        # The mean over the batches is the mean over the photos.
        means = [factor * np.arange(start, end).mean() for start, end, factor in step]
        photos = np.concatenate([np.arange(start, end) for start, end, _ in step])
        assert np.mean(means) == pytest.approx(photos.mean())


def test_a_single_photo_joins_the_step_before():
    def sizes(*arguments, **options):
        return [end - start for start, end, _ in dataset.bounds(*arguments, smallest=2, **options)]

    assert sizes(17, 8) == [8, 9] and sizes(18, 8) == [8, 8, 2] and sizes(1, 8) == [1]
    assert sizes(9, 4, parts=2) == [4, 5]


@pytest.mark.parametrize("count", range(16, 40))
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_batch_has_the_smallest_number_of_photos(count, parts):
    slices = dataset.bounds(count, 4, parts=parts, smallest=2)
    assert min(end - start for start, end, _ in slices) >= 2
    assert [start for start, _, _ in slices[1:]] == [end for _, end, _ in slices[:-1]]
